//! The application's state machine as openraft asks for it.

use super::snapshots::{SnapshotFiles, Snapshots};
use super::types::{NodeId, Position, StoredMembers, Types};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf};
use openraft::{AsyncRuntime, EntryPayload};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot, watch};

/// Writes a copy of a state below a path; answers the copy's position.
pub type Checkpoint = Box<dyn FnOnce(&Path) -> io::Result<Bytes> + Send + Sync>;

/// Replaces a state by the copy below a path, durably.
pub type Restorer = Box<dyn FnOnce(&Path) -> io::Result<()> + Send>;

/// What is replicated. Commands come in the same order on every member, and `apply` must come
/// to the same state from the same commands: no clocks, no randomness, no map order.
pub trait StateMachine: Send + Sync + 'static {
    /// What a command answers to whoever proposed it.
    type Response: Send + Sync + 'static;

    /// The position stored with the newest batch that survived; `None` when there is none.
    fn position(&self) -> io::Result<Option<Bytes>>;

    /// Applies `commands` in order and stores `position` atomically with their effects. The
    /// effects need not be on disk yet. Answers one response a command.
    fn apply(&mut self, commands: Vec<Bytes>, position: Bytes) -> io::Result<Vec<Self::Response>>;

    /// A function that makes everything applied durable, writes a copy of the state below the
    /// given path (which does not exist yet), and answers the position of that copy. It runs
    /// beside further calls of `apply`.
    fn checkpointer(&self) -> Checkpoint;

    /// A function that replaces the state by such a copy. Nothing is applied while it runs; it may
    /// take long, and does not hold up the group's thread.
    fn restorer(&self) -> Restorer;
}

/// When to take a snapshot, so that the log can be purged.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotRule {
    pub entries: u64,
    pub bytes: u64,
}

/// A state machine and its bookkeeping.
pub struct Machine<S: StateMachine> {
    pub state: S,
    pub position: Position,
    pub snapshots: Snapshots,
    /// One past the last index whose effects are durable.
    pub flushed: Arc<AtomicU64>,
    pub rule: SnapshotRule,
    /// Rung when the rule asks for a snapshot.
    pub due: Arc<Notify>,
    pub since: (u64, u64),
    /// This member.
    pub node: NodeId,
    /// Commands forwarded from here.
    pub forwarded: Forwarded<S::Response>,
    /// One past the last index applied.
    pub applied: watch::Sender<u64>,
    /// The members, as of the last change applied.
    pub members: watch::Sender<StoredMembers>,
}

type Answer<S> = Option<<S as StateMachine>::Response>;

/// Whoever waits here for a command that the leader, another member, appended.
pub type Forwarded<R> = Arc<Mutex<HashMap<u64, oneshot::Sender<R>>>>;

impl<S: StateMachine, A: AsyncRuntime> RaftStateMachine<Types<Answer<S>, A>> for Machine<S> {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types<Answer<S>, A>>>, StoredMembers), io::Error> {
        Ok((self.position.applied, self.position.members.clone()))
    }

    async fn apply<E>(&mut self, mut entries: E) -> Result<(), io::Error>
    where
        E: Stream<Item = Result<EntryResponder<Types<Answer<S>, A>>, io::Error>> + Unpin + Send,
    {
        let mut commands = Vec::new();
        let mut responders = Vec::new();
        let mut changed = false;
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.position.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(payload) => {
                    self.since.1 += payload.command.len() as u64;
                    let mine = payload.origin.filter(|origin| origin.node == self.node);
                    responders.push((responder, Some(mine.map(|origin| origin.request))));
                    commands.push(payload.command);
                }
                EntryPayload::Membership(members) => {
                    self.position.members = StoredMembers::new(Some(entry.log_id), members);
                    changed = true;
                    responders.push((responder, None));
                }
                EntryPayload::Blank => responders.push((responder, None)),
            }
        }
        self.since.0 += responders.len() as u64;
        let mut answers = self.state.apply(commands, self.position.encode())?.into_iter();
        if changed {
            self.members.send_replace(self.position.members.clone());
        }
        for (responder, command) in responders {
            let answer = if command.is_some() { answers.next() } else { None };
            if let (Some(Some(request)), None) = (command, &responder) {
                let waiter = self.forwarded.lock().remove(&request);
                if let (Some(waiter), Some(answer)) = (waiter, answer) {
                    // Whoever asked may have given up.
                    let _ = waiter.send(answer);
                }
            } else if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        self.applied.send_replace(self.position.applied.map_or(0, |id| id.index() + 1));
        if self.since.0 >= self.rule.entries || self.since.1 >= self.rule.bytes {
            self.since = (0, 0);
            self.due.notify_one();
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            checkpoint: Some(self.state.checkpointer()),
            snapshots: self.snapshots.clone(),
            flushed: Arc::clone(&self.flushed),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types<Answer<S>, A>>,
        snapshot: SnapshotFiles,
    ) -> Result<(), io::Error> {
        let (snapshots, restore) = (self.snapshots.clone(), self.state.restorer());
        // Minutes for a large state, in which the other groups of this thread must go on.
        A::spawn_blocking(move || restore(&snapshots.adopt(snapshot)?.state)).await??;
        self.position = Position { applied: meta.last_log_id, members: meta.last_membership.clone() };
        self.members.send_replace(self.position.members.clone());
        let end = self.position.applied.map_or(0, |id| id.index() + 1);
        self.flushed.fetch_max(end, Ordering::AcqRel);
        self.applied.send_replace(end);
        self.since = (0, 0);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types<Answer<S>>, SnapshotFiles>>, io::Error> {
        Ok(self.snapshots.current()?.map(|(position, files)| snapshot_of(position, files)))
    }
}

/// Builds one snapshot beside the running state machine.
pub struct Builder {
    checkpoint: Option<Checkpoint>,
    snapshots: Snapshots,
    flushed: Arc<AtomicU64>,
}

impl<R: Send + Sync + 'static, A: AsyncRuntime> RaftSnapshotBuilder<Types<R, A>> for Builder {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types<R, A>, SnapshotFiles>, io::Error> {
        let fill = self.checkpoint.take().ok_or_else(|| io::Error::other("a snapshot is built once"))?;
        let snapshots = self.snapshots.clone();
        let (position, files) = A::spawn_blocking(move || snapshots.build(fill)).await??;
        self.flushed.fetch_max(position.applied.map_or(0, |id| id.index() + 1), Ordering::AcqRel);
        Ok(snapshot_of(position, files))
    }
}

/// The answer's type does not matter to a snapshot.
fn snapshot_of(position: Position, files: SnapshotFiles) -> SnapshotOf<Types<()>, SnapshotFiles> {
    let meta = SnapshotMeta { last_log_id: position.applied, last_membership: position.members };
    Snapshot { meta, snapshot: files }
}
