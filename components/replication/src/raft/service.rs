//! Answers to what other members ask of a group.

use super::codec;
use super::machine::{Machine, StateMachine};
use super::read_index::ReadIndex;
use super::snapshots::{SnapshotFiles, Snapshots, write_position};
use super::types::{NodeId, Origin, Payload, Position, StoredMembers, Types, Vote, encode_members, take};
use crate::reads::ReadGate;
use crate::transport::{Answering, Kind, Service};
use bytes::{Buf as _, BufMut as _, Bytes};
use futures::future::BoxFuture;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::AppendEntriesResponse;
use openraft::storage::{Snapshot, SnapshotMeta};
use openraft::{AsyncRuntime, Instant as _, Raft};
use parking_lot::{Mutex, RwLock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

type Answer<S> = Option<<S as StateMachine>::Response>;
pub type RaftOf<S, A> = Raft<Types<Answer<S>, A>, Machine<S>>;

/// What the application answers when a follower asks its leader.
pub type Answerer = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync>;

/// How a leader answers what only a leader can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Led {
    /// Done; where it asked for a number, the number.
    Done(Bytes),
    /// This member does not lead, and has done nothing; whom it follows.
    NotLeader(Option<NodeId>),
    /// It led when it was asked, and does not know what came of it.
    Unknown(String),
}

impl Led {
    fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Done(bytes) => {
                out.put_u8(0);
                out.put_slice(bytes);
            }
            Self::NotLeader(leader) => {
                out.put_u8(1);
                out.put_u64_le(leader.unwrap_or(0));
            }
            Self::Unknown(reason) => {
                out.put_u8(2);
                out.put_slice(reason.as_bytes());
            }
        }
        out.into()
    }

    pub fn decode(mut bytes: Bytes) -> io::Result<Self> {
        let wrong = || io::Error::other("a leader's answer is malformed");
        Ok(match take(&mut bytes, 1).ok_or_else(wrong)?.get_u8() {
            0 => Self::Done(bytes),
            1 => {
                let leader = codec::number(&mut bytes)?;
                Self::NotLeader((leader != 0).then_some(leader))
            }
            2 => Self::Unknown(String::from_utf8_lossy(&bytes).into_owned()),
            _ => return Err(wrong()),
        })
    }
}

/// A snapshot that is being received.
struct Receiving {
    transfer: u64,
    dir: PathBuf,
    vote: Vote,
    position: Position,
    files: Vec<(File, u64, u64)>,
}

/// The service of a group.
pub struct GroupService<S: StateMachine, A: AsyncRuntime> {
    inner: Arc<Inner<S, A>>,
}

struct Inner<S: StateMachine, A: AsyncRuntime> {
    parts: ServiceParts<S, A>,
    receiving: Mutex<(u64, Option<Receiving>)>,
}

/// What a service answers from.
pub struct ServiceParts<S: StateMachine, A: AsyncRuntime> {
    pub raft: RaftOf<S, A>,
    pub snapshots: Snapshots,
    pub answerer: Arc<RwLock<Option<Answerer>>>,
    /// The members, as of the last change applied.
    pub members: watch::Receiver<StoredMembers>,
    pub reads: ReadGate,
    pub read_index: ReadIndex,
    pub heard: Heard<A>,
    /// Has this member ask whether it still is one.
    pub doubt: Arc<Notify>,
    /// Whether it is none any more.
    pub removed: watch::Receiver<bool>,
    /// How long who says farewell waits for that.
    pub patience: Duration,
}

/// When a leader was last heard of.
pub struct Heard<A: AsyncRuntime>(Arc<Mutex<Option<A::Instant>>>);

impl<A: AsyncRuntime> Clone for Heard<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: AsyncRuntime> Default for Heard<A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<A: AsyncRuntime> Heard<A> {
    fn now(&self) {
        *self.0.lock() = Some(A::Instant::now());
    }

    /// Whether it is no longer ago than `limit`.
    pub fn within(&self, limit: Duration) -> bool {
        self.0.lock().is_some_and(|heard| heard.elapsed() < limit)
    }
}

impl<S: StateMachine, A: AsyncRuntime> GroupService<S, A> {
    pub fn new(parts: ServiceParts<S, A>) -> Self {
        Self { inner: Arc::new(Inner { parts, receiving: Mutex::new((0, None)) }) }
    }
}

impl<S: StateMachine, A: AsyncRuntime> Service for GroupService<S, A> {
    fn answer(&self, from: NodeId, kind: Kind, body: Bytes) -> Answering {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match kind {
                Kind::Append => inner.append(body).await,
                Kind::Vote | Kind::PreVote => inner.vote(kind, body).await,
                Kind::SnapshotBegin => inner.snapshot_begin(body),
                Kind::SnapshotPiece => inner.snapshot_piece(body),
                Kind::SnapshotEnd => inner.snapshot_end(body).await,
                Kind::Transfer => inner.transfer(body).await,
                Kind::Propose => Ok(inner.propose(body).await?.encode()),
                Kind::ReadIndex => Ok(inner.parts.read_index.ask().await.encode()),
                Kind::Ask => inner.ask(body).await,
                Kind::Standing => inner.standing(from).await,
                Kind::Farewell => inner.farewell().await,
                Kind::Introduce => Ok(encode_members(inner.parts.members.borrow().membership()).into()),
            }
        })
    }
}

impl<S: StateMachine, A: AsyncRuntime> Inner<S, A> {
    async fn append(&self, body: Bytes) -> io::Result<Bytes> {
        let request = codec::read_append(body)?;
        let response = self.parts.raft.append_entries(request).await.map_err(io::Error::other)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.parts.heard.now();
        }
        Ok(codec::appended(&response).into())
    }

    async fn vote(&self, kind: Kind, body: Bytes) -> io::Result<Bytes> {
        let request = codec::read_vote(body)?;
        let response = if kind == Kind::Vote {
            self.parts.raft.vote(request).await
        } else {
            self.parts.raft.pre_vote(request).await
        };
        Ok(codec::voted(&response.map_err(io::Error::other)?).into())
    }

    async fn transfer(&self, body: Bytes) -> io::Result<Bytes> {
        let request = codec::read_transfer(body)?;
        let response = self.parts.raft.handle_transfer_leader(request).await.map_err(io::Error::other)?;
        response.map_err(io::Error::other)?;
        Ok(Bytes::new())
    }

    async fn propose(&self, mut body: Bytes) -> io::Result<Led> {
        let origin = Origin { node: codec::number(&mut body)?, request: codec::number(&mut body)? };
        if !self.parts.raft.is_leader() {
            return Ok(Led::NotLeader(self.parts.raft.current_leader().await));
        }
        let payload = Payload { command: body, origin: Some(origin) };
        Ok(match self.parts.raft.client_write(payload).await {
            Ok(_) => Led::Done(Bytes::new()),
            // Refused before it was appended.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Led::NotLeader(forward.leader_id)
            }
            Err(error) => Led::Unknown(error.to_string()),
        })
    }

    async fn ask(&self, body: Bytes) -> io::Result<Bytes> {
        if !self.parts.raft.is_leader() {
            return Ok(Led::NotLeader(self.parts.raft.current_leader().await).encode());
        }
        let answerer = self.parts.answerer.read().clone();
        Ok(match answerer {
            Some(answerer) => Led::Done(answerer(body).await).encode(),
            None => Led::Unknown("it has just started".to_owned()).encode(),
        })
    }

    /// Answers 1 to a member and 0 to who is none: of all changes committed before it asked.
    async fn standing(&self, from: NodeId) -> io::Result<Bytes> {
        if let Err(error) = self.parts.reads.pass().await {
            return Ok(Led::Unknown(error.to_string()).encode());
        }
        let member = self.parts.members.borrow().membership().get_node(&from).is_some();
        Ok(Led::Done(Bytes::copy_from_slice(&[u8::from(member)])).encode())
    }

    /// Answers when this member has heard from the others that it is none any more; it does not take one's word for that.
    async fn farewell(&self) -> io::Result<Bytes> {
        self.parts.doubt.notify_one();
        let mut removed = self.parts.removed.clone();
        // Whoever said it waits no longer.
        let _ = A::timeout(self.parts.patience, removed.wait_for(|removed| *removed)).await;
        Ok(Bytes::new())
    }

    fn snapshot_begin(&self, body: Bytes) -> io::Result<Bytes> {
        let (vote, position, names) = codec::read_snapshot(body)?;
        self.parts.heard.now();
        let mut receiving = self.receiving.lock();
        receiving.1 = None;
        let dir = self.parts.snapshots.receive()?;
        let mut files = Vec::with_capacity(names.len());
        for (name, size) in names {
            let path = below(&dir.join("state"), &name)?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            files.push((OpenOptions::new().write(true).create_new(true).open(path)?, size, 0));
        }
        receiving.0 += 1;
        let transfer = receiving.0;
        receiving.1 = Some(Receiving { transfer, dir, vote, position, files });
        let mut out = Vec::with_capacity(8);
        out.put_u64_le(transfer);
        Ok(out.into())
    }

    fn snapshot_piece(&self, body: Bytes) -> io::Result<Bytes> {
        let piece = codec::read_piece(body)?;
        let mut receiving = self.receiving.lock();
        let receiving = receiving.1.as_mut().filter(|receiving| receiving.transfer == piece.transfer);
        let receiving =
            receiving.ok_or_else(|| io::Error::other("this snapshot is not expected any more"))?;
        let (file, size, received) = receiving
            .files
            .get_mut(piece.file as usize)
            .ok_or_else(|| io::Error::other("a piece of an unknown file of a snapshot"))?;
        if piece.offset + piece.bytes.len() as u64 > *size {
            return Err(io::Error::other("a piece past the end of a snapshot's file"));
        }
        file.write_all_at(&piece.bytes, piece.offset)?;
        self.parts.heard.now();
        *received += piece.bytes.len() as u64;
        Ok(Bytes::new())
    }

    async fn snapshot_end(&self, mut body: Bytes) -> io::Result<Bytes> {
        let transfer = codec::number(&mut body)?;
        let receiving = self.receiving.lock().1.take().filter(|receiving| receiving.transfer == transfer);
        let receiving =
            receiving.ok_or_else(|| io::Error::other("this snapshot is not expected any more"))?;
        let (vote, meta, state) = A::spawn_blocking(move || finish(receiving)).await??;
        let snapshot = Snapshot { meta, snapshot: SnapshotFiles { state } };
        let response =
            self.parts.raft.install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)?;
        let mut out = Vec::new();
        codec::put_vote(&mut out, &response.vote);
        Ok(out.into())
    }
}

type Meta = SnapshotMeta<openraft::impls::leader_id_adv::LeaderId<u64, NodeId>, NodeId, openraft::BasicNode>;

/// Makes what was received durable.
fn finish(receiving: Receiving) -> io::Result<(Vote, Meta, PathBuf)> {
    for (file, size, received) in &receiving.files {
        if size != received {
            return Err(io::Error::other(format!("a snapshot's file has {received} of {size} bytes")));
        }
        file.sync_all()?;
    }
    let state = receiving.dir.join("state");
    sync_directories(&state)?;
    write_position(&receiving.dir, &receiving.position)?;
    let Position { applied, members } = receiving.position;
    Ok((receiving.vote, SnapshotMeta { last_log_id: applied, last_membership: members }, state))
}

fn sync_directories(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_directories(&path)?;
        }
    }
    File::open(directory)?.sync_all()
}

/// The path of `name` below `root`; a peer may name nothing else.
fn below(root: &Path, name: &str) -> io::Result<PathBuf> {
    let path = Path::new(name);
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    if !plain || name.is_empty() {
        return Err(io::Error::other(format!("{name:?} is no file of a snapshot")));
    }
    Ok(root.join(path))
}
