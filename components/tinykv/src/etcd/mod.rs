//! The etcd door: API v3.7 over gRPC, and the few paths that etcd answers over plain HTTP.
//!
//! Wire types are known here only. What this version does not serve answers UNIMPLEMENTED with
//! a sentence.

mod auth;
mod caller;
mod cluster;
mod downgrade;
mod election;
mod error;
mod figures;
mod gate;
mod gateway;
mod http;
mod inbox;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod oversize;
mod queue;
mod request;
mod response;
mod rpcs;
pub mod snapshot;
mod visitors;
mod watch;

pub use caller::Credentials;

use crate::mvcc::Origin;
use crate::node::{Node, NodeError};
use aistack_chassis::serve::{Ahead, Call, CallBody};
use aistack_chassis::{Metrics, Shutdown};
use axum::Router;
use std::sync::Arc;
use std::time::Duration;
use tonic::codegen::Service;
use tonic::{Request, Status};
use wire::etcd::etcdserverpb::ResponseHeader;
use wire::etcd::etcdserverpb::auth_server::AuthServer;
use wire::etcd::etcdserverpb::cluster_server::ClusterServer;
use wire::etcd::etcdserverpb::kv_server::KvServer;
use wire::etcd::etcdserverpb::lease_server::LeaseServer;
use wire::etcd::etcdserverpb::maintenance_server::MaintenanceServer;
use wire::etcd::etcdserverpb::watch_server::WatchServer;
use wire::etcd::v3electionpb::election_server::ElectionServer;
use wire::etcd::v3lockpb::lock_server::LockServer;

/// The version of etcd whose API this is; clients read features from it.
pub const ETCD_VERSION: &str = "3.7.3";
/// What etcd allows a message to be larger than the request it carries.
const MESSAGE_OVERHEAD: usize = 512 << 10;

/// What [`Door::ahead`] takes.
const AHEAD: [&str; 4] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/DeleteRange",
];

/// An extension of every request that came by TLS.
#[derive(Debug, Clone, Copy)]
pub struct Encrypted;

/// One door for all services of etcd.
#[derive(Clone)]
pub struct Door {
    node: Arc<Node>,
    shutdown: Shutdown,
    rpcs: Arc<rpcs::Rpcs>,
}

impl Door {
    /// A door to `node`; its streams end with `shutdown`.
    pub fn new(node: Arc<Node>, shutdown: Shutdown) -> Self {
        let slow = Duration::from_micros(node.config.slow_request_us);
        Self { node, shutdown, rpcs: Arc::new(rpcs::Rpcs::new(slow)) }
    }

    /// etcd's gRPC services.
    pub fn services(&self) -> Router {
        let limit = self.node.config.request_limits.max_request_bytes + MESSAGE_OVERHEAD;
        let door = || self.clone();
        let gate = gate::Gate { node: Arc::clone(&self.node), rpcs: Arc::clone(&self.rpcs) };
        tonic::service::Routes::new(KvServer::new(door()).max_decoding_message_size(limit))
            .add_service(WatchServer::new(door()).max_decoding_message_size(limit))
            .add_service(LeaseServer::new(door()).max_decoding_message_size(limit))
            .add_service(MaintenanceServer::new(door()).max_decoding_message_size(limit))
            .add_service(ClusterServer::new(door()).max_decoding_message_size(limit))
            .add_service(AuthServer::new(door()).max_decoding_message_size(limit))
            .add_service(LockServer::new(door()).max_decoding_message_size(limit))
            .add_service(ElectionServer::new(door()).max_decoding_message_size(limit))
            .into_axum_router()
            .layer(axum::middleware::from_fn_with_state(gate, gate::gate))
    }

    /// What etcd answers over plain HTTP: a few paths, and the JSON gateway unless it is turned off.
    pub fn routes(&self, metrics: Metrics) -> Router {
        figures::follow(&metrics, &self.node, &self.rpcs);
        let mut routes = http::routes(Arc::clone(&self.node), metrics);
        if self.node.config.http.json_gateway {
            routes = routes.merge(gateway::gateway(self));
        }
        routes.layer(axum::middleware::from_fn_with_state(Arc::clone(&self.node), visitors::visitors))
    }

    /// What listeners for metrics alone answer.
    pub fn metrics_routes(&self, metrics: Metrics) -> Router {
        http::for_watchers(Arc::clone(&self.node), metrics)
    }

    /// The calls of the KV service that are many and small, taken ahead of the router; what [`gate::gate`] may refuse goes by it.
    pub fn ahead(&self) -> Ahead {
        let node = Arc::clone(&self.node);
        let limit = node.config.request_limits.max_request_bytes + MESSAGE_OVERHEAD;
        let server = KvServer::new(self.clone()).max_decoding_message_size(limit);
        let rpcs = Arc::clone(&self.rpcs);
        let takes = move |request: &::http::Request<_>| {
            let is_small = AHEAD.contains(&request.uri().path());
            is_small && !request.headers().contains_key("hasleader") && !node.is_learner()
        };
        let call = move |request: ::http::Request<CallBody>| -> Call {
            let call = rpcs.begin(request.uri().path());
            let answering = Service::call(&mut server.clone(), request);
            let Some(call) = call else { return answering };
            Box::pin(async move {
                let answer = oversize::in_words_of_go(answering.await?);
                call.ended(answer.headers());
                Ok(answer)
            })
        };
        Ahead { takes: Arc::new(takes), call: Arc::new(call) }
    }

    /// What came with a request to prove who makes it.
    fn credentials<T>(&self, request: &Request<T>) -> Credentials {
        // Nothing is looked at while nobody asks for it.
        if self.node.shared.guarded() {
            Credentials::of(request.metadata(), request.extensions())
        } else {
            Credentials::default()
        }
    }

    /// On whose behalf a request is made.
    async fn by(&self, credentials: &Credentials) -> Result<Origin, Status> {
        Ok(credentials.caller(&self.node).await?)
    }

    /// The same for a read. A member that is behind catches up before it says how new the proof is.
    async fn reader(&self, credentials: &Credentials, serializable: bool) -> Result<Origin, Status> {
        if self.node.shared.guarded() && !serializable {
            self.node.barrier().await?;
        }
        self.by(credentials).await
    }

    /// On whose behalf a request is made.
    async fn caller<T>(&self, request: &Request<T>) -> Result<Origin, Status> {
        self.by(&self.credentials(request)).await
    }

    /// Waits for others, but not for longer than the member serves.
    async fn patiently<T>(&self, work: impl Future<Output = Result<T, NodeError>>) -> Result<T, Status> {
        tokio::select! {
            done = work => Ok(done?),
            () = self.shutdown.cancelled() => Err(Status::unavailable("etcdserver: server stopped")),
        }
    }

    /// Refuses whoever is not in charge of the cluster.
    async fn admin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let by = self.caller(request).await?;
        Ok(self.node.permit(|auth| auth.check_admin(&by))?)
    }

    fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.node.identity.cluster_id,
            member_id: self.node.identity.member_id,
            revision,
            raft_term: self.node.term(),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "a header is optional on the wire")]
    fn header_now(&self) -> Option<ResponseHeader> {
        Some(self.header(self.node.revision()))
    }
}

/// The end of a watch that wants to start before the last compaction.
pub fn absent_revision(compacted: i64) -> Status {
    Status::out_of_range(format!("required revision has been compacted; the oldest one left is {compacted}"))
}

/// The answer to what this version does not serve.
fn absent(what: &str) -> Status {
    Status::unimplemented(format!("etcdserver: tinykv does not serve {what} in this version"))
}
