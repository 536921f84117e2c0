//! The group's log as openraft asks for it.

use super::types::{
    NodeId, Origin, Payload, RaftEntry, StoredMembers, Types, decode_members, encode_members, from_log_id,
    from_vote, has_one_voter, take, to_log_id, to_vote,
};
use crate::log::{Entry, EntryKind, GroupLog, LogError};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::alias::{LogIdOf, VoteOf};
use openraft::{AsyncRuntime, BasicNode, EntryPayload};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Payload bytes read for one request of openraft.
const READ_BUDGET: usize = 4 << 20;

/// One group's log, and how far its state machine is safe on disk.
#[derive(Clone)]
pub struct Storage {
    pub log: GroupLog,
    /// One past the last index whose effects are durable in the state machine.
    pub flushed: Arc<AtomicU64>,
    /// This member.
    pub node: NodeId,
    /// The members, as of the last change applied.
    pub members: watch::Receiver<StoredMembers>,
}

pub fn to_entry(entry: Entry) -> io::Result<RaftEntry> {
    let payload: EntryPayload<Payload, NodeId, BasicNode> = match entry.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Command => EntryPayload::Normal(Payload { command: entry.payload, origin: None }),
        EntryKind::Forwarded => {
            let mut bytes = entry.payload;
            let origin = take(&mut bytes, 16)
                .map(|mut fields| Origin { node: fields.get_u64_le(), request: fields.get_u64_le() });
            if origin.is_none() {
                return Err(io::Error::other(format!("log entry {} names no origin", entry.id.index)));
            }
            EntryPayload::Normal(Payload { command: bytes, origin })
        }
        EntryKind::Membership => {
            let mut bytes = entry.payload;
            let members = decode_members(&mut bytes).ok_or_else(|| {
                io::Error::other(format!("log entry {} holds no readable membership", entry.id.index))
            })?;
            EntryPayload::Membership(members)
        }
    };
    Ok(RaftEntry::new(to_log_id(entry.id), payload))
}

pub fn from_entry(entry: RaftEntry) -> Entry {
    let id = from_log_id(&entry.log_id);
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(Payload { command, origin: None }) => (EntryKind::Command, command),
        EntryPayload::Normal(Payload { command, origin: Some(origin) }) => {
            let mut bytes = BytesMut::with_capacity(16 + command.len());
            bytes.put_u64_le(origin.node);
            bytes.put_u64_le(origin.request);
            bytes.put_slice(&command);
            (EntryKind::Forwarded, bytes.freeze())
        }
        EntryPayload::Membership(members) => (EntryKind::Membership, encode_members(&members).into()),
    };
    Entry { id, kind, payload }
}

/// Runs an operation that reports by callback, and waits for the report.
pub async fn durable(start: impl FnOnce(crate::log::Done) -> Result<(), LogError>) -> io::Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    start(Box::new(move |outcome| {
        // Nobody waits any more when openraft is shutting down.
        let _ = sender.send(outcome);
    }))?;
    receiver.await.map_err(|_| io::Error::other("the log ended before it answered"))?
}

impl Storage {
    fn read(&self, start: u64, end: u64, budget: usize) -> io::Result<Vec<RaftEntry>> {
        self.log.read(start, end, budget)?.into_iter().map(to_entry).collect()
    }
}

impl<R: Send + Sync + 'static, A: AsyncRuntime> RaftLogReader<Types<R, A>> for Storage {
    async fn try_get_log_entries<B: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: B,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types<R, A>>>, io::Error> {
        Ok(self.log.vote().map(to_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, READ_BUDGET)
    }
}

impl<R: Send + Sync + 'static, A: AsyncRuntime> RaftLogStorage<Types<R, A>> for Storage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<R, A>>, io::Error> {
        let (purged, last) = self.log.bounds();
        Ok(LogState { last_purged_log_id: purged.map(to_log_id), last_log_id: last.map(to_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types<R, A>>) -> Result<(), io::Error> {
        let vote = from_vote(vote);
        durable(|done| self.log.save_vote(vote, done)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<R, A>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> = entries.into_iter().map(from_entry).collect();
        let done: crate::log::Done = Box::new(move |outcome| callback.io_completed(outcome));
        // Several entries at once mean that more are on their way: those gather while the log's
        // thread writes these. A leader sends its entries on while they are written.
        let alone = has_one_voter(self.members.borrow().membership());
        let mine = entries.first().is_some_and(|entry| entry.id.leader == self.node);
        if entries.len() == 1 && (alone || !mine) {
            self.log.append_here(entries, done)?;
        } else {
            self.log.append(entries, done)?;
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types<R, A>>>) -> Result<(), io::Error> {
        let keep = last.map(|id| id.index());
        durable(|done| self.log.truncate(keep, done)).await
    }

    async fn purge(&mut self, upto: LogIdOf<Types<R, A>>) -> Result<(), io::Error> {
        let flushed = self.flushed.load(Ordering::Acquire);
        if upto.index() >= flushed {
            return Err(io::Error::other(format!(
                "refused to purge the log up to entry {}: the state machine is durable only below {flushed}",
                upto.index()
            )));
        }
        self.log.purge(from_log_id(&upto))?;
        Ok(())
    }
}
