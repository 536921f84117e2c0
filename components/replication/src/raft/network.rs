//! The network of a group that has one voter: there is nobody to call.
//!
//! openraft asks for a network even so. Groups of several voters come with a real one.

use super::snapshots::SnapshotFiles;
use super::types::{NodeId, Types};
use openraft::BasicNode;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use std::future::Future;
use std::io;

/// A network without peers.
pub struct NoPeers;

fn unreachable<R: Send + Sync + 'static>() -> Unreachable<Types<R>> {
    Unreachable::new(&io::Error::other("this group has one voter and no peers"))
}

impl<R: Send + Sync + 'static> RaftNetworkFactory<Types<R>> for NoPeers {
    type Network = Self;

    async fn new_client(&mut self, _target: NodeId, _node: &BasicNode) -> Self {
        Self
    }
}

impl<R: Send + Sync + 'static> RaftNetworkV2<Types<R>> for NoPeers {
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        Err(RPCError::Unreachable(unreachable()))
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        Err(RPCError::Unreachable(unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<Types<R>>,
        _snapshot: SnapshotOf<Types<R>, SnapshotFiles>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        Err(StreamingError::Unreachable(unreachable()))
    }
}
