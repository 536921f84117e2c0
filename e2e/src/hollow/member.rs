//! A member of a KVCluster that stores nothing: it answers what the operator asks of one, who belongs to the group and how it is. For
//! beds with so many pods that no machine could run a process for each.

use std::future::ready;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};
use wire::etcd::etcdserverpb::cluster_server::{Cluster, ClusterServer};
use wire::etcd::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use wire::etcd::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, Member as Listed, MemberAddRequest,
    MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest, MemberPromoteResponse,
    MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse, MoveLeaderRequest,
    MoveLeaderResponse, ResponseHeader, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};

/// Port that clients reach a member at.
const PORT: u16 = 2379;

/// One member of a group that was founded together, whose first leads.
#[derive(Clone, Debug)]
pub(super) struct Member {
    own: u64,
    /// Name and peer address of each.
    group: Vec<(String, String)>,
}

impl Member {
    /// The member `name` of a group as `TINYKV_PEERS` tells it: a JSON list of `name=url`.
    pub(super) fn new(name: &str, peers: &str) -> Result<Self> {
        let peers: Vec<String> = serde_json::from_str(peers).context("read TINYKV_PEERS")?;
        let pair = |peer: &String| {
            let (name, url) = peer.split_once('=').unwrap_or((peer, ""));
            (name.to_owned(), url.to_owned())
        };
        let group: Vec<_> = peers.iter().map(pair).collect();
        let place = group.iter().position(|(other, _)| other == name).context("a member of its own group")?;
        Ok(Self { own: place as u64 + 1, group })
    }

    /// Answers at an address of loopback for as long as it is polled.
    pub(super) async fn serve(self, address: &str) -> Result<()> {
        let address: SocketAddr = format!("{address}:{PORT}").parse()?;
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let server = Server::builder()
            .add_service(ClusterServer::new(self.clone()))
            .add_service(MaintenanceServer::new(self));
        server.serve_with_incoming(TcpIncoming::from(listener)).await.context("answer as a member")
    }

    fn header(&self) -> ResponseHeader {
        ResponseHeader { cluster_id: 1, member_id: self.own, revision: 1, raft_term: 1 }
    }
}

/// Calls that nobody makes of a stand-in.
macro_rules! refused {
    ($($call:ident($request:ty) -> $answer:ty;)*) => {
        // As `async_trait` would have it, which does not look into macros.
        $(fn $call<'life0, 'async_trait>(
            &'life0 self,
            _: Request<$request>,
        ) -> BoxFuture<'async_trait, Result<Response<$answer>, Status>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(ready(Err(Status::unimplemented("it stands in for a member, and stores nothing"))))
        })*
    };
}

#[async_trait]
impl Cluster for Member {
    async fn member_list(
        &self,
        _: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let member = |(place, (name, url)): (usize, &(String, String))| Listed {
            id: place as u64 + 1,
            name: name.clone(),
            peer_ur_ls: vec![url.clone()],
            client_ur_ls: Vec::new(),
            is_learner: false,
        };
        let members = self.group.iter().enumerate().map(member).collect();
        Ok(Response::new(MemberListResponse { header: Some(self.header()), members }))
    }

    refused! {
        member_add(MemberAddRequest) -> MemberAddResponse;
        member_remove(MemberRemoveRequest) -> MemberRemoveResponse;
        member_update(MemberUpdateRequest) -> MemberUpdateResponse;
        member_promote(MemberPromoteRequest) -> MemberPromoteResponse;
    }
}

#[async_trait]
impl Maintenance for Member {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse {
            header: Some(self.header()),
            version: "3.7.0".to_owned(),
            leader: 1,
            raft_index: 1,
            raft_applied_index: 1,
            raft_term: 1,
            ..StatusResponse::default()
        }))
    }

    type SnapshotStream = futures::stream::Empty<Result<SnapshotResponse, Status>>;

    refused! {
        alarm(AlarmRequest) -> AlarmResponse;
        defragment(DefragmentRequest) -> DefragmentResponse;
        hash(HashRequest) -> HashResponse;
        hash_kv(HashKvRequest) -> HashKvResponse;
        snapshot(SnapshotRequest) -> Self::SnapshotStream;
        move_leader(MoveLeaderRequest) -> MoveLeaderResponse;
        downgrade(DowngradeRequest) -> DowngradeResponse;
    }
}
