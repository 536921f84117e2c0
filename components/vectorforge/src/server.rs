//! The process: engine, listeners, metrics, and the order in which they start and stop.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aistack_api::vectorforge::{VectorforgeConfig, VectorforgeEngineConfig, VectorforgeGraphBuilder};
use aistack_chassis::Ctx;
use aistack_chassis::serve::{self, ServeError};
use axum::Router;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::engine::{BuilderKind, Engine, EngineError, EngineOptions, HnswParams, OptimizerParams};
use crate::qdrant::{Defaults, Door};
use crate::{platform, qdrant};

/// Why a node could not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory could not be opened.
    #[error("open {dir}: {source}")]
    Open {
        /// The directory.
        dir: String,
        /// What the engine found.
        source: EngineError,
    },
    /// A listener.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The last checkpoint failed; the log still has every acknowledged write.
    #[error("close the data directory: {0}")]
    Close(#[source] EngineError),
    /// A task of the server ended without a result.
    #[error("a task of the server was lost: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A node with its data open and its listeners bound, ready to [`run`](Self::run).
pub struct Server {
    ctx: Ctx,
    door: Arc<Door>,
    http: TcpListener,
    grpc: TcpListener,
}

/// An address for the log.
fn shown(address: std::io::Result<SocketAddr>) -> String {
    address.map_or_else(|error| error.to_string(), |address| address.to_string())
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("http", &self.http).field("grpc", &self.grpc).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the listeners, opens the data directory and replays its logs.
    pub async fn bind(config: VectorforgeConfig, ctx: Ctx) -> Result<Self, ServerError> {
        ctx.health.set_ready("engine", false);
        let http = serve::bind(config.listen_http).await?;
        let grpc = serve::bind(config.listen_grpc).await?;
        let options = engine_options(&config.engine);
        let dir = config.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || Engine::open(&dir, options)).await?;
        let engine = opened
            .map_err(|source| ServerError::Open { dir: config.data_dir.display().to_string(), source })?;
        let defaults = Defaults {
            hnsw: hnsw_params(&config.engine),
            optimizer: optimizer_params(&config.engine),
            max_dimension: config.request_limits.max_dimension,
        };
        let door = Arc::new(Door::new(Arc::new(engine), config.request_limits, defaults));
        let figures = Figures { door: door.clone() };
        ctx.metrics.registry(|registry| registry.register_collector(Box::new(figures)));
        Ok(Self { ctx, door, http, grpc })
    }

    /// Addresses of the REST and the gRPC listener.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.http.local_addr()?, self.grpc.local_addr()?))
    }

    /// Serves until shutdown, then takes a checkpoint and releases the data directory.
    pub async fn run(self) -> Result<(), ServerError> {
        let Self { ctx, door, http, grpc } = self;
        let rest =
            qdrant::router(door.clone()).merge(serve::admin_routes(ctx.health.clone(), ctx.metrics.clone()));
        let services = grpc_router(&ctx, &door).await;
        ctx.health.set_ready("engine", true);
        tracing::info!(
            http = %shown(http.local_addr()),
            grpc = %shown(grpc.local_addr()),
            collections = door.engine.collections().len(),
            "serving"
        );
        let served = tokio::try_join!(
            serve::serve_with(http, rest, &ctx, qdrant::refusal),
            serve::serve_with(grpc, services, &ctx, qdrant::refusal),
        );
        // A listener that failed must not leave the other one's requests running into a closed engine.
        ctx.shutdown.trigger();
        ctx.health.set_ready("engine", false);
        let engine = door.engine.clone();
        tokio::task::spawn_blocking(move || engine.close()).await?.map_err(ServerError::Close)?;
        served?;
        Ok(())
    }
}

async fn grpc_router(ctx: &Ctx, door: &Arc<Door>) -> Router {
    let limit = ctx.server.limits.max_body_bytes;
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in ["", "qdrant.Qdrant", "qdrant.Points", "qdrant.Collections", "platform.v1.VectorService"] {
        reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let routes = qdrant::add_services(Routes::new(health), door, limit);
    platform::add_services(routes, door, limit).into_axum_router()
}

fn engine_options(config: &VectorforgeEngineConfig) -> EngineOptions {
    let default = EngineOptions::default();
    EngineOptions {
        build_threads: if config.build_threads == 0 { default.build_threads } else { config.build_threads },
        checkpoint_interval: Duration::from_secs(config.checkpoint_interval_s),
        checkpoint_wal_bytes: config.checkpoint_wal_bytes,
        builder: match config.builder {
            VectorforgeGraphBuilder::Native => BuilderKind::Native,
            VectorforgeGraphBuilder::HnswRs => BuilderKind::HnswRs,
        },
        preload: config.preload,
    }
}

fn hnsw_params(config: &VectorforgeEngineConfig) -> HnswParams {
    HnswParams {
        m: config.hnsw_m,
        ef_construct: config.hnsw_ef_construct,
        ef_search: config.hnsw_ef,
        full_scan_points: config.full_scan_points,
    }
}

fn optimizer_params(config: &VectorforgeEngineConfig) -> OptimizerParams {
    OptimizerParams {
        seal_points: config.seal_points,
        max_segments: config.max_segments,
        vacuum_fraction: config.vacuum_fraction,
        enabled: true,
    }
}

/// Figures of the collections, read when they are asked for.
struct Figures {
    door: Arc<Door>,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CollectionLabel {
    id: String,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let names = self.door.engine.collections();
        let count = ConstGauge::new(names.len() as u64);
        let total =
            encoder.encode_descriptor("collections_total", "Collections", None, count.metric_type())?;
        count.encode(total)?;
        let infos: Vec<_> = names
            .into_iter()
            .filter_map(|name| Some((self.door.engine.collection(&name).ok()?.info(), name)))
            .collect();
        type Read = fn(&crate::engine::CollectionInfo) -> usize;
        let figures: [(&str, &str, Read); 3] = [
            ("collection_points", "Points in a collection", |info| info.points),
            ("collection_indexed_vectors", "Vectors reachable through a graph", |info| info.indexed_vectors),
            ("collection_segments", "Segments of a collection", |info| info.segments),
        ];
        for (name, help, read) in figures {
            let kind = prometheus_client::metrics::MetricType::Gauge;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (info, id) in &infos {
                let label = CollectionLabel { id: id.clone() };
                ConstGauge::new(read(info) as u64).encode(family.encode_family(&label)?)?;
            }
        }
        Ok(())
    }
}
