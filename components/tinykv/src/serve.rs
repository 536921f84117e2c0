//! Putting a member behind its listener.

use crate::etcd::{self, Door};
use crate::node::Node;
use crate::platform::PlatformDoor;
use aistack_chassis::{Ctx, Health, serve};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic_health::ServingStatus;

/// Why serving ended before it should.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener.
    #[error(transparent)]
    Listener(#[from] serve::ServeError),
    /// gRPC reflection.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The member can do no more.
    #[error("tinykv has stopped: {0}")]
    Stopped(String),
}

/// All doors of a member.
pub fn app(node: &Arc<Node>, ctx: &Ctx) -> Result<axum::Router, ServeError> {
    let door = Door::new(Arc::clone(node), ctx.shutdown.clone());
    Ok(door
        .services()
        .reset_fallback()
        .merge(about(ctx)?.reset_fallback())
        .merge(etcd::gateway(&door))
        .merge(PlatformDoor::new(Arc::clone(node), ctx.shutdown.clone()).service().reset_fallback())
        .merge(etcd::routes(Arc::clone(node), ctx.metrics.clone())))
}

/// gRPC health, which says `NOT_SERVING` once the process is asked to stop, and reflection.
fn about(ctx: &Ctx) -> Result<axum::Router, ServeError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let shutdown = ctx.shutdown.clone();
    tokio::spawn(async move {
        reporter.set_service_status("", ServingStatus::Serving).await;
        shutdown.cancelled().await;
        reporter.set_service_status("", ServingStatus::NotServing).await;
    });
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::etcd::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(wire::platform::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(tonic::service::Routes::new(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .into_axum_router())
}

/// Keeps the check `leader`: without one a member answers next to nothing. A change of leaders alone is no reason to send
/// clients away.
async fn tell_of_leader(node: Weak<Node>, mut deserted: watch::Receiver<bool>, health: Health) {
    const PAUSE: Duration = Duration::from_millis(20);
    while node.upgrade().is_some_and(|node| !node.has_leader()) {
        tokio::time::sleep(PAUSE).await;
    }
    health.set_ready("leader", true);
    // The member is gone when its channel is.
    while deserted.changed().await.is_ok() {
        let is_deserted = *deserted.borrow_and_update();
        health.set_ready("leader", !is_deserted);
    }
}

/// Serves until shutdown, or until the member fails; then stops the member in good order.
pub async fn serve_node(node: Arc<Node>, listener: TcpListener, ctx: &Ctx) -> Result<(), ServeError> {
    ctx.metrics.registry(|registry| node.shared.figures.register(registry));
    ctx.health.set_ready("engine", true);
    tokio::spawn(tell_of_leader(Arc::downgrade(&node), node.deserted.subscribe(), ctx.health.clone()));
    let served = serve::serve(listener, app(&node, ctx)?, ctx);
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
    if node.removed() {
        tracing::warn!("the member has been permanently removed from the cluster");
        return Ok(());
    }
    failure.map_or(Ok(()), |reason| Err(ServeError::Stopped(reason)))
}
