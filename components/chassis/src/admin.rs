//! The admin port: `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::{Ctx, Health, Metrics};

/// The admin port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("admin port {address}: {source}\n  set server.admin_listen to a free address")]
pub struct AdminError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Opens the admin port and serves it until the task is aborted, so that probes answer while the process drains.
pub async fn start(ctx: &Ctx) -> Result<JoinHandle<()>, AdminError> {
    let address = ctx.server.admin_listen;
    let listener = TcpListener::bind(address).await.map_err(|source| AdminError { address, source })?;
    let app = router(ctx.health.clone(), ctx.metrics.clone());
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the admin port failed");
        }
    }))
}

/// The routes of the admin port, for components whose peer serves them on the main port too.
pub fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(text).with_state(metrics))
}

async fn ready(State(health): State<Health>) -> Response {
    let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, health.report()).into_response()
}

async fn text(State(metrics): State<Metrics>, headers: HeaderMap) -> Response {
    Metrics::answer(&headers, metrics.encode())
}
