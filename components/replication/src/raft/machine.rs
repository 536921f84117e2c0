//! The application's state machine as openraft asks for it.

use super::snapshots::{SnapshotFiles, Snapshots};
use super::types::{Position, StoredMembers, Types};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Writes a copy of a state below a path; answers the copy's position.
pub type Checkpoint = Box<dyn FnOnce(&Path) -> io::Result<Bytes> + Send + Sync>;

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

    /// Replaces the state by such a copy, durably.
    fn restore(&mut self, copy: &Path) -> io::Result<()>;
}

/// When to take a snapshot, so that the log can be purged.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotRule {
    pub entries: u64,
    pub bytes: u64,
}

/// A state machine and its bookkeeping.
pub struct Machine<S> {
    pub state: S,
    pub position: Position,
    pub snapshots: Snapshots,
    /// One past the last index whose effects are durable.
    pub flushed: Arc<AtomicU64>,
    pub rule: SnapshotRule,
    /// Rung when the rule asks for a snapshot.
    pub due: Arc<Notify>,
    pub since: (u64, u64),
}

type Answer<S> = Option<<S as StateMachine>::Response>;

impl<S: StateMachine> RaftStateMachine<Types<Answer<S>>> for Machine<S> {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types<Answer<S>>>>, StoredMembers), io::Error> {
        Ok((self.position.applied, self.position.members.clone()))
    }

    async fn apply<E>(&mut self, mut entries: E) -> Result<(), io::Error>
    where
        E: Stream<Item = Result<EntryResponder<Types<Answer<S>>>, io::Error>> + Unpin + Send,
    {
        let mut commands = Vec::new();
        let mut responders = Vec::new();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.position.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(payload) => {
                    self.since.1 += payload.0.len() as u64;
                    responders.push((responder, true));
                    commands.push(payload.0);
                }
                EntryPayload::Membership(members) => {
                    self.position.members = StoredMembers::new(Some(entry.log_id), members);
                    responders.push((responder, false));
                }
                EntryPayload::Blank => responders.push((responder, false)),
            }
        }
        self.since.0 += responders.len() as u64;
        let mut answers = self.state.apply(commands, self.position.encode())?.into_iter();
        for (responder, is_command) in responders {
            let answer = if is_command { answers.next() } else { None };
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
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
        meta: &SnapshotMetaOf<Types<Answer<S>>>,
        snapshot: SnapshotFiles,
    ) -> Result<(), io::Error> {
        self.state.restore(&snapshot.state)?;
        self.position = Position { applied: meta.last_log_id, members: meta.last_membership.clone() };
        self.flushed.fetch_max(self.position.applied.map_or(0, |id| id.index() + 1), Ordering::AcqRel);
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

impl<R: Send + Sync + 'static> RaftSnapshotBuilder<Types<R>> for Builder {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types<R>, SnapshotFiles>, io::Error> {
        let fill = self.checkpoint.take().ok_or_else(|| io::Error::other("a snapshot is built once"))?;
        let snapshots = self.snapshots.clone();
        let built = tokio::task::spawn_blocking(move || snapshots.build(fill)).await;
        let (position, files) = built.map_err(io::Error::other)??;
        self.flushed.fetch_max(position.applied.map_or(0, |id| id.index() + 1), Ordering::AcqRel);
        Ok(snapshot_of(position, files))
    }
}

/// The answer's type does not matter to a snapshot.
fn snapshot_of(position: Position, files: SnapshotFiles) -> SnapshotOf<Types<()>, SnapshotFiles> {
    let meta = SnapshotMeta { last_log_id: position.applied, last_membership: position.members };
    Snapshot { meta, snapshot: files }
}
