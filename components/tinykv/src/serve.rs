//! Putting a member behind its listener.

use crate::etcd::{Door, Encrypted};
use crate::metrics::PeerFigures;
use crate::node::Node;
use crate::platform::PlatformDoor;
use aistack_api::tinykv::TinykvConfig;
use aistack_chassis::{Ctx, Health, serve};
use futures::FutureExt as _;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic_health::ServingStatus;

/// Time for another member to take the leadership over from one that stops.
const HAND_OVER: Duration = Duration::from_secs(1);

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
fn app(node: &Arc<Node>, door: &Door, ctx: &Ctx) -> Result<axum::Router, ServeError> {
    Ok(door
        .services()
        .reset_fallback()
        .merge(about(ctx)?.reset_fallback())
        .merge(PlatformDoor::new(Arc::clone(node), ctx.shutdown.clone()).service().reset_fallback())
        .merge(door.routes(ctx.metrics.clone())))
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

/// Addresses that are bound; and which of them do without TLS.
pub struct Listeners {
    /// For clients.
    pub clients: Vec<(TcpListener, bool)>,
    /// For metrics and health alone.
    pub metrics: Vec<(TcpListener, bool)>,
}

/// Opens every address that clients may call.
pub async fn bind(config: &TinykvConfig) -> Result<Listeners, ServeError> {
    let bind = |address| serve::bind_with(address, config.reuse_port);
    let mut clients = vec![(bind(config.listen_client).await?, false)];
    for more in &config.more_listeners {
        clients.push((bind(more.address).await?, more.in_the_clear));
    }
    let mut metrics = Vec::new();
    for more in &config.metrics_listeners {
        metrics.push((bind(more.address).await?, more.in_the_clear));
    }
    Ok(Listeners { clients, metrics })
}

/// How often it is looked whether a member has become what it is to be.
const PAUSE: Duration = Duration::from_millis(20);

/// Keeps the check `non_learner` until this member has its vote: before that it refuses most of what clients ask, so that no Service
/// is to lead them here. Nobody loses a vote but by leaving.
async fn tell_of_vote(is_voter: impl Future<Output = bool>, health: Health) {
    health.set_ready("non_learner", false);
    if is_voter.await {
        health.set_ready("non_learner", true);
    }
}

/// Says that clients can be served, by etcd's words: what starts etcd waits for them, and goes on as if there were a leader and
/// the others knew of this member, which until then does not count as started when members are removed. Then
/// keeps the check `leader`: without one a member answers next to nothing. A change of leaders alone is no reason to send
/// clients away.
async fn tell_of_leader(node: Weak<Node>, mut deserted: watch::Receiver<bool>, health: Health) {
    loop {
        let Some(node) = node.upgrade() else { return };
        let (led, published) = (node.has_leader(), node.is_published());
        health.set_ready("leader", led);
        health.set_ready("published", published);
        if led && published {
            announce(&node);
            break;
        }
        drop(node);
        tokio::time::sleep(PAUSE).await;
    }
    // The member is gone when its channel is.
    while deserted.changed().await.is_ok() {
        let is_deserted = *deserted.borrow_and_update();
        health.set_ready("leader", !is_deserted);
    }
}

fn announce(node: &Node) {
    tracing::info!(
        listen = %node.config.listen_client,
        data_dir = %node.config.data_dir.display(),
        revision = node.revision(),
        cluster_id = format_args!("{:x}", node.identity.cluster_id),
        member_id = format_args!("{:x}", node.identity.member_id),
        "ready to serve client requests"
    );
    let config = &node.config;
    let own = (config.listen_client, false);
    for (address, in_the_clear) in
        std::iter::once(own).chain(config.more_listeners.iter().map(|more| (more.address, more.in_the_clear)))
    {
        // In etcd's words.
        if config.server.tls.is_none() || in_the_clear {
            tracing::info!(%address, "serving client traffic insecurely");
        } else {
            tracing::info!(%address, "serving client traffic securely");
        }
    }
}

/// Says by what settings the member runs, as far as somebody who looks into its trouble asks for them first.
pub fn tell_of_settings(config: &TinykvConfig) {
    let (raft, limits) = (&config.raft, &config.request_limits);
    tracing::info!(
        name = config.name,
        data_dir = %config.data_dir.display(),
        listen_client = %config.listen_client,
        listen_peer = %config.listen_peer,
        initial_cluster = config.peers.join(","),
        heartbeat_interval_ms = raft.heartbeat_ms,
        election_timeout_ms = raft.election_ms,
        snapshot_count = raft.snapshot_entries,
        snapshot_catchup_entries = raft.catchup_entries,
        quota_backend_bytes = config.quota_bytes,
        max_request_bytes = limits.max_request_bytes,
        max_txn_ops = limits.max_txn_ops,
        slow_request_us = config.slow_request_us,
        auto_compaction = format_args!("{:?} {}", config.auto_compaction.mode, config.auto_compaction.retention),
        client_tls = config.server.tls.is_some(),
        peer_tls = config.peer_tls.is_some(),
        "starting a member"
    );
}

/// Serves until shutdown, or until the member fails; then stops the member in good order.
pub async fn serve_node(node: Arc<Node>, listeners: Listeners, ctx: &Ctx) -> Result<(), ServeError> {
    ctx.metrics.registry(|registry| {
        node.shared.figures.register(registry);
        registry.register_collector(Box::new(PeerFigures(Arc::downgrade(&node))));
    });
    tokio::select! {
        () = node.caught_up() => {}
        // What follows sees to either.
        _ = node.failed() => {}
        () = ctx.shutdown.cancelled() => {}
    }
    ctx.health.set_ready("engine", true);
    tokio::spawn(tell_of_vote(node.until_voter(), ctx.health.clone()));
    tokio::spawn(tell_of_leader(Arc::downgrade(&node), node.deserted.subscribe(), ctx.health.clone()));
    // At once, while clients are still being served.
    let handed_over = tokio::spawn({
        let (node, shutdown) = (Arc::clone(&node), ctx.shutdown.clone());
        async move {
            shutdown.cancelled().await;
            tokio::time::timeout(HAND_OVER, node.hand_over()).await
        }
    });
    let door = Door::new(Arc::clone(&node), ctx.shutdown.clone());
    let (app, ahead) = (app(&node, &door, ctx)?, door.ahead());
    let own = |in_the_clear: bool, app: &axum::Router| {
        let (mut app, mut ctx) = (app.clone(), ctx.clone());
        if in_the_clear {
            ctx.server.tls = None;
        }
        if ctx.server.tls.is_some() {
            app = app.layer(axum::Extension(Encrypted));
        }
        (app, ctx)
    };
    let clients = listeners.clients.into_iter().map(|(listener, in_the_clear)| {
        let ((app, ctx), ahead) = (own(in_the_clear, &app), ahead.clone());
        async move { serve::serve_ahead(listener, app, ahead, &ctx).await }.boxed()
    });
    let watched = door.metrics_routes(ctx.metrics.clone());
    let metrics = listeners.metrics.into_iter().map(|(listener, in_the_clear)| {
        let (app, ctx) = own(in_the_clear, &watched);
        async move { serve::serve(listener, app, &ctx).await }.boxed()
    });
    let served = futures::future::try_join_all(clients.chain(metrics));
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
    if ctx.shutdown.is_cancelled() {
        // An heir that does not answer in time is no reason to stay.
        let _ = handed_over.await;
    }
    node.stop().await;
    if node.removed() {
        tracing::warn!("the member has been permanently removed from the cluster");
        return Ok(());
    }
    failure.map_or(Ok(()), |reason| Err(ServeError::Stopped(reason)))
}
