//! The process: load the model, open both doors, drain.

use std::sync::Arc;

use aistack_api::tinyinfer::TinyinferConfig;
use aistack_chassis::Ctx;
use aistack_chassis::serve::{ServeError, admin_routes, bind, serve, serve_with};
use tokio::net::TcpListener;

use crate::served::{Model, Served, StartError};
use crate::{grpc, openai};

/// Why the process stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The model.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The process ended while the model was loading.
    #[error("loading the model was interrupted")]
    Interrupted,
    /// A listener.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Opens the configured ports and serves the configured model on them until shutdown.
pub async fn run(config: TinyinferConfig, ctx: Ctx) -> Result<(), RunError> {
    // The ports first: a taken one is told before the seconds that loading takes.
    let http = bind(config.listen_http).await?;
    let grpc = bind(config.listen_grpc).await?;
    run_on(http, grpc, config, ctx).await
}

/// Loads the configured model and serves it until shutdown; running requests finish within the grace period.
pub async fn run_on(
    http: TcpListener,
    grpc: TcpListener,
    config: TinyinferConfig,
    ctx: Ctx,
) -> Result<(), RunError> {
    ctx.health.set_ready("model", false);
    let served = Arc::new(load(&config, &ctx).await?);
    ctx.health.set_ready("model", true);

    let door = openai::Door { served: served.clone(), max_body_bytes: ctx.server.limits.max_body_bytes };
    let http_app = openai::router(door).merge(admin_routes(ctx.health.clone(), ctx.metrics.clone()));
    let grpc_app = tonic::service::Routes::new(grpc::service(served)).into_axum_router();
    tracing::info!(http = %config.listen_http, grpc = %config.listen_grpc, "serving");
    let (http, grpc) =
        tokio::join!(serve_with(http, http_app, &ctx, openai::chassis_error), serve(grpc, grpc_app, &ctx),);
    http?;
    grpc?;
    Ok(())
}

async fn load(config: &TinyinferConfig, ctx: &Ctx) -> Result<Served, RunError> {
    let started = std::time::Instant::now();
    let (config, health) = (config.clone(), ctx.health.clone());
    let loading = tokio::task::spawn_blocking(move || {
        let on_death = move || health.set_ready("model", false);
        Served::start(&config, on_death)
    });
    let served = loading.await.map_err(|_| RunError::Interrupted)??;
    ctx.metrics.registry(|registry| served.register_metrics(registry));
    let seconds = started.elapsed().as_secs_f64();
    match &served.model {
        Model::Generator(generator) => {
            let model = generator.engine.model();
            tracing::info!(
                model = served.name(),
                weights = model.weight_type,
                parameters = model.parameters,
                context = generator.max_context,
                kv_blocks = model.n_blocks,
                threads = model.threads,
                isa = model.isa,
                seconds,
                "generator loaded"
            );
        }
        Model::Embedder(embedder) => {
            let dimension = embedder.queue.model().dimension();
            tracing::info!(
                model = served.name(),
                dimension,
                max_tokens = embedder.max_tokens,
                seconds,
                "embedder loaded"
            );
        }
    }
    Ok(served)
}
