//! How requests reach other members. The connection of [`tcp`](crate::tcp) ships; simulations
//! bring their own.

use crate::NodeId;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// What a request asks of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Append entries, or hear that the leader lives.
    Append = 1,
    /// Vote.
    Vote = 2,
    /// Say whether it would vote.
    PreVote = 3,
    /// Expect a snapshot.
    SnapshotBegin = 4,
    /// A piece of it.
    SnapshotPiece = 5,
    /// Install it.
    SnapshotEnd = 6,
    /// Take over the leadership.
    Transfer = 7,
    /// Append a command that a follower was given (leader only).
    Propose = 8,
    /// Say up to where a linearizable read must see (leader only).
    ReadIndex = 9,
    /// Something of the application's own (leader only).
    Ask = 10,
    /// Say whether the asker still is a member.
    Standing = 11,
    /// Say who the members are, to a process that is none of them yet.
    Introduce = 12,
    /// Ask whether it still is a member: it was removed.
    Farewell = 13,
}

impl Kind {
    /// The kind of a number, if there is one.
    pub fn of(number: u8) -> Option<Self> {
        const KINDS: [Kind; 13] = [
            Kind::Append,
            Kind::Vote,
            Kind::PreVote,
            Kind::SnapshotBegin,
            Kind::SnapshotPiece,
            Kind::SnapshotEnd,
            Kind::Transfer,
            Kind::Propose,
            Kind::ReadIndex,
            Kind::Ask,
            Kind::Standing,
            Kind::Introduce,
            Kind::Farewell,
        ];
        KINDS.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// One request to one group of a member.
#[derive(Debug, Clone)]
pub struct Request {
    /// The group.
    pub group: u32,
    /// What is asked.
    pub kind: Kind,
    /// The question.
    pub body: Bytes,
}

/// A member as others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Who it is.
    pub node: NodeId,
    /// Where it listens.
    pub address: String,
}

/// An answer on its way.
pub type Answering = BoxFuture<'static, io::Result<Bytes>>;

/// Carries requests to members. Requests to one member arrive in the order of the calls, if they
/// arrive; there is no limit of time, the caller sets one.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request: it is on its way when this returns, before the answer is waited for. An error of the kind
    /// [`io::ErrorKind::NotConnected`] says that it never left; after any other it may have been done.
    fn call(&self, to: &Peer, request: Request) -> Answering;
}

/// Answers requests of one group.
pub trait Service: Send + Sync + 'static {
    /// Answers. Up to its first wait it runs in the order of arrival.
    fn answer(&self, from: NodeId, kind: Kind, body: Bytes) -> Answering;
}

/// The groups of a process.
#[derive(Clone, Default)]
pub struct Services {
    groups: Arc<RwLock<HashMap<u32, Arc<dyn Service>>>>,
}

impl Services {
    /// From now on `service` answers for `group`.
    pub fn insert(&self, group: u32, service: Arc<dyn Service>) {
        self.groups.write().insert(group, service);
    }

    /// Nobody answers for `group` any more.
    pub fn remove(&self, group: u32) {
        self.groups.write().remove(&group);
    }

    /// Answers a request.
    pub fn answer(&self, from: NodeId, request: Request) -> Answering {
        if let Some(service) = self.groups.read().get(&request.group) {
            return service.answer(from, request.kind, request.body);
        }
        let error = io::Error::new(io::ErrorKind::NotFound, "no such group here yet");
        Box::pin(std::future::ready(Err(error)))
    }
}

/// A process without peers.
pub struct Nobody;

impl Transport for Nobody {
    fn call(&self, to: &Peer, _request: Request) -> Answering {
        let reason = format!("no network here to reach member {:x}", to.node);
        let error = io::Error::new(io::ErrorKind::NotConnected, reason);
        Box::pin(std::future::ready(Err(error)))
    }
}
