//! Puts the parts together and serves them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aistack_api::modelhub::{ModelhubConfig, ModelhubConfigError};
use aistack_chassis::Ctx;
use aistack_chassis::tls::Watched;
use axum::Router;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::error::ApiError;
use crate::gateway::{
    self, EngineError, Engines, Front, Gateway, GatewayMetrics, Keys, Traffic, TrafficMetrics,
};
use crate::grpc::{self, ReflectionError};
use crate::kv::{Kv, KvError};
use crate::rag::{self, Rag, VectorError, Vectors};
use crate::registry::{self, ArtefactError, Artefacts, Registry};
use crate::renewal;

/// Shortest administrator's key.
const MIN_ADMIN_KEY: usize = 32;

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration.
    #[error("configuration: {0}")]
    Config(#[from] ModelhubConfigError),
    /// The key-value store.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The vector store.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// An engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The artefacts.
    #[error(transparent)]
    Artefacts(#[from] ArtefactError),
    /// The administrator's key.
    #[error("keys.admin_key_file {path}: {reason}")]
    AdminKey {
        /// Path of the file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The gRPC door.
    #[error(transparent)]
    Grpc(#[from] ReflectionError),
    /// The listener.
    #[error(transparent)]
    Serve(#[from] aistack_chassis::serve::ServeError),
}

/// Everything the routes need.
#[derive(Debug, Clone)]
pub struct Hub {
    gateway: Arc<Gateway>,
    keys: Arc<Keys>,
    traffic: Arc<Traffic>,
    registry: Registry,
    rag: Option<Rag>,
}

impl Hub {
    /// Connects the parts; no store or engine need be up yet.
    pub async fn new(
        config: &ModelhubConfig,
        metrics: &aistack_chassis::Metrics,
    ) -> Result<Self, ServerError> {
        config.validate()?;
        let gateway_metrics = metrics.registry(GatewayMetrics::register);
        let engines = Arc::new(Engines::new(&config.engines, &config.limits, gateway_metrics.clone())?);
        let traffic_metrics = metrics.registry(TrafficMetrics::register);
        let gateway = Arc::new(Gateway::new(
            engines.clone(),
            config.limits.clone(),
            gateway_metrics,
            traffic_metrics.clone(),
        ));
        let kv = Kv::connect(&config.kv).await?;
        let connect = Duration::from_millis(config.limits.connect_timeout_ms);
        let instance = config.server.telemetry.instance.clone();
        let instance = instance.unwrap_or_else(|| format!("at-{}", config.listen));
        let traffic = Arc::new(Traffic::new(kv.clone(), engines, traffic_metrics, connect, instance));
        let keys = keys(config, &kv)?;
        let artefacts = Artefacts::open(&config.artefacts, config.limits.max_artefact_bytes)?;
        let registry = Registry::new(kv.clone(), artefacts);
        let rag = match &config.vector {
            Some(vector) => {
                Some(Rag::new(kv, Vectors::connect(vector)?, gateway.clone(), config.rag.clone()))
            }
            None => None,
        };
        Ok(Self { gateway, keys, traffic, registry, rag })
    }

    /// What stands before the engines.
    fn front(&self) -> Front {
        Front { gateway: self.gateway.clone(), keys: self.keys.clone() }
    }

    /// All routes of the HTTP door.
    pub fn router(&self) -> Router {
        let router =
            gateway::router(self.front()).merge(registry::router(self.registry.clone(), self.keys.clone()));
        let router = router.merge(gateway::traffic_router(self.traffic.clone(), self.keys.clone()));
        let router = match &self.rag {
            Some(rag) => router.merge(rag::router(rag.clone(), self.keys.clone())),
            None => router
                .route("/api/v1/rag/{*rest}", axum::routing::any(no_rag))
                .route("/api/v1/rag", axum::routing::any(no_rag)),
        };
        router.fallback(no_route)
    }
}

async fn no_rag() -> ApiError {
    let message = "this server has no vector store: set  vector.endpoint  in its configuration (VectorForge or Qdrant, gRPC port)";
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "no_vector_store", message)
}

async fn no_route(request: axum::extract::Request) -> ApiError {
    let message = format!(
        "{} {} is not served here; there are /v1/… (OpenAI), /api/v1/models, /api/v1/traffic, /api/v1/keys and /api/v1/rag",
        request.method(),
        request.uri().path()
    );
    ApiError::not_found("unknown_route", message)
}

/// The chassis' refusals in OpenAI's form.
fn refusal(status: StatusCode, sentence: &str) -> Response {
    let code = match status.as_u16() {
        401 => "missing_api_key",
        413 => "request_too_large",
        429 | 503 => "overloaded",
        _ => "server_error",
    };
    ApiError::new(status, code, sentence).into_response()
}

/// Serves until shutdown.
pub async fn serve(config: ModelhubConfig, mut ctx: Ctx) -> Result<(), ServerError> {
    let hub = Box::pin(Hub::new(&config, &ctx.metrics)).await?;
    // Artefacts are larger and slower than anything else; inference bodies have their own limit behind this one.
    let limits = &mut ctx.server.limits;
    limits.max_body_bytes =
        usize::try_from(config.limits.max_artefact_bytes).unwrap_or(usize::MAX).max(limits.max_body_bytes);
    let listener = aistack_chassis::serve::bind(config.listen).await?;
    let grpc = match config.listen_grpc {
        Some(address) => {
            Some((aistack_chassis::serve::bind(address).await?, grpc::router(hub.front(), &ctx).await?))
        }
        None => None,
    };
    let engines = hub.gateway.engines.clone();
    engines.check_all().await;
    tokio::spawn(engines.watch_health());
    // Whoever does not know them yet would turn away what others let in.
    for known in ["keys", "routes"] {
        ctx.health.set_ready(known, false);
    }
    let told = |known: &'static str| {
        let health = ctx.health.clone();
        move || health.set_ready(known, true)
    };
    tokio::spawn(hub.keys.clone().follow(told("keys")));
    tokio::spawn(hub.keys.clone().save_usage_regularly());
    tokio::spawn(hub.traffic.clone().follow(told("routes")));
    tokio::spawn(hub.traffic.clone().judge_regularly());
    tokio::spawn(hub.traffic.clone().hurry());
    tokio::spawn(hub.traffic.clone().tell_regularly());
    ctx.health.set_ready("listener", true);
    tracing::info!(http = %config.listen, grpc = ?config.listen_grpc, "serving");
    let http = Box::pin(aistack_chassis::serve::serve_with(listener, hub.router(), &ctx, refusal));
    match grpc {
        Some((listener, services)) => {
            let grpc = Box::pin(aistack_chassis::serve::serve_with(listener, services, &ctx, refusal));
            tokio::try_join!(http, grpc)?;
        }
        None => http.await?,
    }
    // The last requests' tokens are counted before the process ends; a store that is down must not hold it up.
    let saved = tokio::time::timeout(Duration::from_secs(2), hub.keys.save_usage()).await;
    if !matches!(saved, Ok(Ok(()))) {
        tracing::warn!("usage of the last seconds could not be saved");
    }
    Ok(())
}

/// The keys; the administrator's is read again when its file changes.
fn keys(config: &ModelhubConfig, kv: &Kv) -> Result<Arc<Keys>, ServerError> {
    let new = |admin: Option<&str>| Arc::new(Keys::new(kv.clone(), config.keys.required, admin));
    let Some(path) = config.keys.admin_key_file.clone() else { return Ok(new(None)) };
    let files = Watched::new(vec![path.clone()]);
    let keys = new(Some(&admin_key(&path)?));
    let followed = keys.clone();
    renewal::follow(files, move || {
        let renewed = admin_key(&path);
        match &renewed {
            Ok(key) => {
                followed.set_admin(key);
                tracing::info!("the administrator's key was read again");
            }
            Err(error) => tracing::warn!(%error, "the one from before stays in use"),
        }
        std::future::ready(renewed.is_ok())
    });
    Ok(keys)
}

fn admin_key(path: &Path) -> Result<String, ServerError> {
    let wrong = |reason: String| ServerError::AdminKey { path: path.display().to_string(), reason };
    let key = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?.trim().to_owned();
    if key.len() < MIN_ADMIN_KEY {
        let reason = format!(
            "{} characters are too few, {MIN_ADMIN_KEY} are needed; make one with  openssl rand -hex 32",
            key.len()
        );
        return Err(wrong(reason));
    }
    Ok(key)
}
