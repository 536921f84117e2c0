//! Putting a member behind its listener.

use crate::etcd::{self, Door};
use crate::node::Node;
use crate::platform::PlatformDoor;
use aistack_chassis::{Ctx, serve};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Why serving ended before it should.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener.
    #[error(transparent)]
    Listener(#[from] serve::ServeError),
    /// The member can do no more.
    #[error("tinykv has stopped: {0}")]
    Stopped(String),
}

/// All doors of a member.
pub fn app(node: &Arc<Node>, ctx: &Ctx) -> axum::Router {
    Door::new(Arc::clone(node), ctx.shutdown.clone())
        .services()
        .reset_fallback()
        .merge(PlatformDoor::new(Arc::clone(node), ctx.shutdown.clone()).service().reset_fallback())
        .merge(etcd::routes(Arc::clone(node), ctx.metrics.clone()))
}

/// Serves until shutdown, or until the member fails; then stops the member in good order.
pub async fn serve_node(node: Arc<Node>, listener: TcpListener, ctx: &Ctx) -> Result<(), ServeError> {
    ctx.metrics.registry(|registry| node.shared.figures.register(registry));
    ctx.health.set_ready("engine", true);
    let served = serve::serve(listener, app(&node, ctx), ctx);
    let failure = {
        let failed = node.failed();
        tokio::pin!(served, failed);
        tokio::select! {
            outcome = &mut served => {
                outcome?;
                None
            }
            reason = &mut failed => {
                ctx.health.set_ready("engine", false);
                // Clients get their errors, then the process goes.
                ctx.shutdown.trigger();
                served.await?;
                Some(reason)
            }
        }
    };
    node.stop().await;
    failure.map_or(Ok(()), |reason| Err(ServeError::Stopped(reason)))
}
