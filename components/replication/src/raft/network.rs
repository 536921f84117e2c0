//! Calls to other members, as openraft makes them.

use super::codec::{self, Piece};
use super::snapshots::SnapshotFiles;
use super::types::{NodeId, Position, StoredMembers, Types};
use crate::traffic::{Link, Traffic};
use crate::transport::{Answering, Kind, Peer, Request, Transport};
use bytes::{BufMut as _, Bytes};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AsyncRuntime, BasicNode};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Appends on their way to a member.
const PIPELINE: usize = 64;
/// Pieces of a snapshot on their way.
const PIECES: usize = 4;
/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// How long a piece of a snapshot may take.
const PIECE_LIMIT: Duration = Duration::from_secs(10);
/// How long a member may take to install a snapshot that it has received.
const INSTALL_LIMIT: Duration = Duration::from_mins(10);

/// Makes [`Network`]s.
#[derive(Clone)]
pub struct Networks {
    pub transport: Arc<dyn Transport>,
    pub traffic: Traffic,
    pub group: u32,
    pub node: NodeId,
    /// The members, as of the last change applied.
    pub members: watch::Receiver<StoredMembers>,
}

/// The way to one member.
#[derive(Clone)]
pub struct Network {
    transport: Arc<dyn Transport>,
    link: Arc<Link>,
    group: u32,
    node: NodeId,
    /// Where it listened when the way to it was made.
    peer: Peer,
    members: watch::Receiver<StoredMembers>,
}

/// Where a member listens; what stands behind the address is the application's.
pub fn address_of(node: &BasicNode) -> &str {
    node.addr.split('\n').next().unwrap_or_default()
}

impl<R: Send + Sync + 'static, A: AsyncRuntime> RaftNetworkFactory<Types<R, A>> for Networks {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Network {
        let peer = Peer { node: target, address: address_of(node).to_owned() };
        let (transport, members) = (Arc::clone(&self.transport), self.members.clone());
        let link = self.traffic.with(target);
        Network { transport, link, group: self.group, node: self.node, peer, members }
    }
}

/// When an append went, if the peer has nothing to write before it answers.
struct Sent(Option<Instant>);

impl Sent {
    fn now<T>(entries: &[T]) -> Self {
        Self(entries.is_empty().then(Instant::now))
    }

    fn counted<T, E>(self, answer: Result<T, E>, link: &Link) -> Result<T, E> {
        if let (Some(sent), Ok(_)) = (self.0, &answer) {
            link.took(sent.elapsed());
        }
        answer
    }
}

enum CallError {
    Late(Duration),
    Failed(io::Error),
}

impl Network {
    fn call(&self, kind: Kind, body: Vec<u8>) -> Answering {
        let request = Request { group: self.group, kind, body: body.into() };
        let moved = {
            let members = self.members.borrow();
            let known = members.membership().get_node(&self.peer.node).map(address_of);
            known.filter(|address| *address != self.peer.address).map(str::to_owned)
        };
        match moved {
            None => self.transport.call(&self.peer, request),
            Some(address) => self.transport.call(&Peer { node: self.peer.node, address }, request),
        }
    }

    async fn call_within<A: AsyncRuntime>(
        &self,
        limit: Duration,
        kind: Kind,
        body: Vec<u8>,
    ) -> Result<Bytes, CallError> {
        match A::timeout(limit, self.call(kind, body)).await {
            Ok(answer) => answer.map_err(CallError::Failed),
            Err(_) => Err(CallError::Late(limit)),
        }
    }

    fn rpc_error<R: Send + Sync + 'static, A: AsyncRuntime>(
        &self,
        action: RPCTypes,
        error: CallError,
    ) -> RPCError<Types<R, A>> {
        match error {
            CallError::Late(timeout) => {
                RPCError::Timeout(Timeout { action, id: self.node, target: self.peer.node, timeout })
            }
            CallError::Failed(error) => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }

    async fn elect<R: Send + Sync + 'static, A: AsyncRuntime>(
        &self,
        kind: Kind,
        request: VoteRequest<Types<R, A>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R, A>>, RPCError<Types<R, A>>> {
        // All the time there is: a voter that is slow to sync its vote is not asked again before the next term.
        let answer = self.call_within::<A>(option.hard_ttl(), kind, codec::vote(&request)).await;
        let answer = answer.map_err(|error| self.rpc_error(RPCTypes::Vote, error))?;
        codec::read_voted(answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    /// Sends the files of a snapshot; answers the member's vote after it has installed them.
    async fn send_snapshot<R: Send + Sync + 'static, A: AsyncRuntime>(
        &self,
        vote: &VoteOf<Types<R, A>>,
        position: Position,
        files: SnapshotFiles,
    ) -> Result<SnapshotResponse<Types<R, A>>, CallError> {
        let opened = files.open().map_err(CallError::Failed)?;
        let names: Vec<_> = opened.iter().map(|(name, _, size)| (name.clone(), *size)).collect();
        let begin = codec::snapshot(vote, &position, &names);
        let mut answer = self.call_within::<A>(PIECE_LIMIT, Kind::SnapshotBegin, begin).await?;
        let transfer = codec::number(&mut answer).map_err(CallError::Failed)?;
        let opened = Arc::new(opened);
        let plan: Vec<(u32, u64)> = opened
            .iter()
            .zip(0..)
            .flat_map(|((_, _, size), file)| {
                (0..size.div_ceil(PIECE as u64)).map(move |nth| (file, nth * PIECE as u64))
            })
            .collect();
        let pieces = plan.into_iter().map(|(file, offset)| {
            let (network, opened) = (self.clone(), Arc::clone(&opened));
            async move {
                let (_, handle, size) = &opened[file as usize];
                let bytes = read(handle, offset, *size).map_err(CallError::Failed)?;
                let piece = codec::piece(&Piece { transfer, file, offset, bytes });
                network.call_within::<A>(PIECE_LIMIT, Kind::SnapshotPiece, piece).await
            }
            .boxed()
        });
        let mut sent = futures::stream::iter(pieces).buffered(PIECES);
        while let Some(answer) = sent.next().await {
            answer?;
        }
        let mut end = Vec::with_capacity(8);
        end.put_u64_le(transfer);
        let mut answer = self.call_within::<A>(INSTALL_LIMIT, Kind::SnapshotEnd, end).await?;
        let vote = codec::get_vote(&mut answer)
            .ok_or_else(|| CallError::Failed(io::Error::other("a malformed answer to a snapshot")))?;
        Ok(SnapshotResponse::new(vote))
    }
}

fn read(file: &File, offset: u64, size: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; (size - offset).min(PIECE as u64) as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

impl<R: Send + Sync + 'static, A: AsyncRuntime> RaftNetworkV2<Types<R, A>> for Network {
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types<R, A>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R, A>>, RPCError<Types<R, A>>> {
        let sent = Sent::now(&request.entries);
        let answer = self.call_within::<A>(option.soft_ttl(), Kind::Append, codec::append(request)).await;
        let answer = sent
            .counted(answer, &self.link)
            .map_err(|error| self.rpc_error(RPCTypes::AppendEntries, error))?;
        codec::read_appended(answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    /// Appends follow one another without waiting for answers; those come back in order.
    fn stream_append<S>(
        &mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        '_,
        Result<
            BoxStream<'_, Result<StreamAppendResult<Types<R, A>>, RPCError<Types<R, A>>>>,
            RPCError<Types<R, A>>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types<R, A>>> + Send + Unpin + 'static,
    {
        let network = self.clone();
        let answers = input
            .map(move |request| {
                let prev = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id).or(prev);
                let sent = Sent::now(&request.entries);
                // Sent here, in order; the future only waits.
                let answer = network.call(Kind::Append, codec::append(request));
                let network = network.clone();
                async move {
                    let answer = sent.counted(answer.await, &network.link).map_err(|error| {
                        network.rpc_error(RPCTypes::AppendEntries, CallError::Failed(error))
                    })?;
                    let response: AppendEntriesResponse<Types<R, A>> = codec::read_appended(answer)
                        .map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
                    if matches!(response, AppendEntriesResponse::Conflict) && prev.is_none() {
                        let error = io::Error::other("a conflict before the first entry");
                        return Err(RPCError::Network(NetworkError::new(&error)));
                    }
                    Ok(response.into_stream_result(prev, last))
                }
            })
            .buffered(PIPELINE);
        Box::pin(std::future::ready(Ok(until_failure(answers).boxed())))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types<R, A>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R, A>>, RPCError<Types<R, A>>> {
        self.elect(Kind::Vote, request, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types<R, A>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R, A>>, RPCError<Types<R, A>>> {
        self.elect(Kind::PreVote, request, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types<R, A>>,
        snapshot: SnapshotOf<Types<R, A>, SnapshotFiles>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R, A>>, StreamingError<Types<R, A>>> {
        let position =
            Position { applied: snapshot.meta.last_log_id, members: snapshot.meta.last_membership };
        let sent = self.send_snapshot::<R, A>(&vote, position, snapshot.snapshot);
        match futures::future::select(std::pin::pin!(sent), std::pin::pin!(cancel)).await {
            futures::future::Either::Left((Ok(response), _)) => Ok(response),
            futures::future::Either::Left((Err(CallError::Late(timeout)), _)) => {
                let (action, target) = (RPCTypes::InstallSnapshot, self.peer.node);
                Err(StreamingError::Timeout(Timeout { action, id: self.node, target, timeout }))
            }
            futures::future::Either::Left((Err(CallError::Failed(error)), _)) => {
                tracing::warn!(to = format_args!("{:x}", self.peer.node), %error, "a snapshot was not sent");
                Err(StreamingError::Unreachable(Unreachable::new(&error)))
            }
            futures::future::Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<R, A>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R, A>>, RPCError<Types<R, A>>> {
        let answer =
            self.call_within::<A>(option.soft_ttl(), Kind::Transfer, codec::transfer(&request)).await;
        answer.map_err(|error| self.rpc_error(RPCTypes::TransferLeader, error))?;
        Ok(Ok(()))
    }
}

/// Ends a stream of answers after the first that is no success, as openraft asks for.
fn until_failure<T: Send, E: Send, F: Send>(
    answers: impl Stream<Item = Result<Result<T, E>, F>> + Send,
) -> impl Stream<Item = Result<Result<T, E>, F>> + Send {
    answers.scan(false, |failed, answer| {
        if *failed {
            return std::future::ready(None);
        }
        *failed = !matches!(answer, Ok(Ok(_)));
        std::future::ready(Some(answer))
    })
}
