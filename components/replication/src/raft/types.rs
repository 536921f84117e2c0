//! The names under which openraft knows our types, and the bytes of a position.

use crate::log::{EntryId, Vote as LogVote};
use bytes::{Buf, BufMut, Bytes};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{AsyncRuntime, BasicNode, EntryPayload, Membership, RaftTypeConfig};
use openraft_rt_tokio::TokioRuntime;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::marker::PhantomData;

/// The identity of a member of a group; never given to another node.
pub type NodeId = u64;

/// openraft's type parameters for a state machine that answers `R`, on the runtime `A`.
pub struct Types<R, A = TokioRuntime>(PhantomData<fn() -> (R, A)>);

impl<R, A> fmt::Debug for Types<R, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<R, A> Clone for Types<R, A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R, A> Copy for Types<R, A> {}
impl<R, A> Default for Types<R, A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<R, A> PartialEq for Types<R, A> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<R, A> Eq for Types<R, A> {}
impl<R, A> PartialOrd for Types<R, A> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<R, A> Ord for Types<R, A> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<R: Send + Sync + 'static, A: AsyncRuntime> RaftTypeConfig for Types<R, A> {
    type D = Payload;
    type R = R;
    type NodeId = NodeId;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Payload, NodeId, BasicNode>;
    type Entry = openraft::Entry<Self::LeaderId, Self::Payload>;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type AsyncRuntime = A;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// An entry of any group.
pub type RaftEntry = openraft::Entry<LeaderId<u64, NodeId>, EntryPayload<Payload, NodeId, BasicNode>>;

/// Who waits for a command that another member than its proposer appended: a member, and that
/// member's number for the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub node: NodeId,
    pub request: u64,
}

/// A command of the application, opaque here.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// The command.
    pub command: Bytes,
    /// Set when it was forwarded to the leader.
    pub origin: Option<Origin>,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.command.len())
    }
}
impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

pub type LogId = openraft::LogId<LeaderId<u64, NodeId>>;
pub type Members = Membership<NodeId, BasicNode>;
pub type StoredMembers = openraft::StoredMembership<LeaderId<u64, NodeId>, NodeId, BasicNode>;
pub type Vote = openraft::impls::Vote<LeaderId<u64, NodeId>>;

/// Whether at most one member votes.
pub fn has_one_voter(members: &Members) -> bool {
    members.get_joint_config().iter().all(|voters| voters.len() <= 1)
}

pub fn to_log_id(id: EntryId) -> LogId {
    LogId::new(LeaderId { term: id.term, node_id: id.leader }, id.index)
}

pub fn from_log_id(id: &LogId) -> EntryId {
    EntryId {
        term: id.committed_leader_id().term,
        leader: id.committed_leader_id().node_id,
        index: id.index(),
    }
}

pub fn to_vote(vote: LogVote) -> Vote {
    use openraft::vote::RaftVote as _;
    Vote::from_leader_id(LeaderId { term: vote.term, node_id: vote.leader }, vote.committed)
}

pub fn from_vote(vote: &Vote) -> LogVote {
    LogVote { term: vote.leader_id().term, leader: vote.leader_id().node_id, committed: vote.is_committed() }
}

/// Up to where a state machine has applied, and the members that held there. State machines
/// store it as opaque bytes beside the effects of the commands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Position {
    pub applied: Option<LogId>,
    pub members: StoredMembers,
}

const POSITION_FORM: u8 = 1;

impl Position {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(96);
        out.put_u8(POSITION_FORM);
        put_log_id(&mut out, self.applied.as_ref());
        put_log_id(&mut out, self.members.log_id().as_ref());
        out.extend_from_slice(&encode_members(self.members.membership()));
        out.into()
    }

    pub fn decode(bytes: &Bytes) -> io::Result<Self> {
        let mut bytes = bytes.clone();
        let parse = |bytes: &mut Bytes| {
            if take(bytes, 1)?.get_u8() != POSITION_FORM {
                return None;
            }
            let applied = get_log_id(bytes)?;
            let at = get_log_id(bytes)?;
            let members = decode_members(bytes)?;
            Some(Self { applied, members: StoredMembers::new(at, members) })
        };
        parse(&mut bytes).ok_or_else(|| io::Error::other("the stored Raft position is of no known form"))
    }
}

/// The index of the last entry that a state at this position holds; none before the first.
pub fn applied_index(position: &Bytes) -> io::Result<Option<u64>> {
    Ok(Position::decode(position)?.applied.map(|id| from_log_id(&id).index))
}

/// The position of a state that a new group is founded on: a state machine that answers it begins with what it
/// holds, and hands it to members that are added later as a snapshot. The same on every founder; a founder is
/// described as in `GroupOptions::founders`.
pub fn founding_position(founders: BTreeMap<NodeId, String>) -> io::Result<Bytes> {
    // Before every term in which somebody leads, and not the first entry: that one is purged.
    let id = to_log_id(EntryId { term: 0, leader: 0, index: 1 });
    let voters = founders.keys().copied().collect();
    let nodes: BTreeMap<_, _> = founders.into_iter().map(|(id, addr)| (id, BasicNode { addr })).collect();
    let members = Members::new(vec![voters], nodes).map_err(io::Error::other)?;
    Ok(Position { applied: Some(id), members: StoredMembers::new(Some(id), members) }.encode())
}

pub fn encode_members(members: &Members) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32_le(members.get_joint_config().len() as u32);
    for config in members.get_joint_config() {
        out.put_u32_le(config.len() as u32);
        for id in config {
            out.put_u64_le(*id);
        }
    }
    let nodes: Vec<_> = members.nodes().collect();
    out.put_u32_le(nodes.len() as u32);
    for (id, node) in nodes {
        out.put_u64_le(*id);
        out.put_u32_le(node.addr.len() as u32);
        out.put_slice(node.addr.as_bytes());
    }
    out
}

pub fn decode_members(bytes: &mut Bytes) -> Option<Members> {
    let mut configs = Vec::new();
    for _ in 0..take(bytes, 4)?.get_u32_le() {
        let mut config = BTreeSet::new();
        for _ in 0..take(bytes, 4)?.get_u32_le() {
            config.insert(take(bytes, 8)?.get_u64_le());
        }
        configs.push(config);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..take(bytes, 4)?.get_u32_le() {
        let id = take(bytes, 8)?.get_u64_le();
        let length = take(bytes, 4)?.get_u32_le() as usize;
        let addr = String::from_utf8(take(bytes, length)?.to_vec()).ok()?;
        nodes.insert(id, BasicNode { addr });
    }
    if configs.is_empty() {
        return Some(Members::default());
    }
    Members::new(configs, nodes).ok()
}

pub fn put_log_id(out: &mut Vec<u8>, id: Option<&LogId>) {
    out.put_u8(u8::from(id.is_some()));
    let id = id.map(from_log_id).unwrap_or_default();
    out.put_u64_le(id.term);
    out.put_u64_le(id.leader);
    out.put_u64_le(id.index);
}

#[expect(clippy::option_option, reason = "the outer one says whether the bytes were enough")]
pub fn get_log_id(bytes: &mut Bytes) -> Option<Option<LogId>> {
    let mut fields = take(bytes, 25)?;
    let some = fields.get_u8() != 0;
    let id = EntryId { term: fields.get_u64_le(), leader: fields.get_u64_le(), index: fields.get_u64_le() };
    Some(some.then(|| to_log_id(id)))
}

pub fn take(bytes: &mut Bytes, size: usize) -> Option<Bytes> {
    (bytes.len() >= size).then(|| bytes.split_to(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back_and_shortened_ones_are_refused() {
        let members = Members::new(
            vec![BTreeSet::from([1, 7])],
            BTreeMap::from([(1, BasicNode { addr: "a:1".into() }), (7, BasicNode { addr: String::new() })]),
        )
        .expect("valid members");
        let id = to_log_id(EntryId { term: 2, leader: 7, index: 99 });
        let position = Position { applied: Some(id), members: StoredMembers::new(Some(id), members) };
        let bytes = position.encode();
        assert_eq!(Position::decode(&bytes).expect("whole"), position);
        for end in 0..bytes.len() {
            assert!(Position::decode(&bytes.slice(..end)).is_err(), "cut at {end}");
        }
        let empty = Position::default();
        assert_eq!(Position::decode(&empty.encode()).expect("whole"), empty);
    }
}
