//! The replicated state machine: applies commands to the engine, writes what changed, tells the
//! watchers.

use super::db::{Batch, Db, Loaded, StoreError};
use super::place;
use super::still::Still;
use crate::lessor::Lessor;
use crate::metrics::Figures;
use crate::mvcc::{
    self, Answer, AuthCommand, Blob, Change, Command, Keyspace, Origin, Outcome, Pager, Query, QueryAnswer,
    Refusal, Release, Restored, Stale, Txn, TxnAnswer,
};
use crate::tokens::Tokens;
use crate::watch::Hub;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use replication::{Checkpoint, Restorer, StateMachine};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Commands applied under one hold of the engine's lock, so that readers get their turn.
const TURN: usize = 256;
/// Keys looked through at once for versions to drop.
const SWEEP_LOOK: usize = 10_000;
/// Versions dropped under one hold of the engine's lock, and with one write of the database.
const SWEEP_DROPS: usize = 250;
/// A sweep rests so many times as long as it worked: it has time, and writers do not.
const SWEEP_REST: u32 = 5;

/// What answers a command that was applied.
pub type Applied = Outcome;

/// The state, for everybody who reads it.
pub struct Shared {
    keyspace: RwLock<Keyspace>,
    /// The database, and where it lies; another one after a snapshot of another member.
    db: RwLock<(Db, PathBuf)>,
    parts: SharedParts,
    /// The recent changes, for watchers.
    pub hub: Hub,
    /// When leases run out.
    pub lessor: Lessor,
    /// What proves who a caller is.
    pub tokens: Arc<Tokens>,
    /// Whether callers must prove who they are: what the engine says of it, to be read without its lock.
    guarded: AtomicBool,
    /// What is counted.
    pub figures: Arc<Figures>,
    /// Held while a batch is applied and written; a checkpoint and a sweep take it to stand between two batches.
    between_batches: Mutex<()>,
    /// Rung when there is something to sweep.
    compacted: Notify,
    /// Last compaction whose sweep has ended.
    swept: tokio::sync::watch::Sender<i64>,
    /// Set when the process ends: a sweep goes on at the next start.
    stopping: AtomicBool,
}

/// What a store is opened with.
pub struct SharedParts {
    /// Values kept in memory, in bytes.
    pub value_bytes: usize,
    /// RocksDB's block cache, in bytes.
    pub cache_bytes: usize,
    /// The shortest lease that is granted, in seconds.
    pub min_lease_ttl: i64,
    /// Changes kept in memory for watchers, in bytes.
    pub recent_bytes: usize,
    /// Where to count.
    pub figures: Arc<Figures>,
    /// What proves who a caller is.
    pub tokens: Arc<Tokens>,
}

impl Shared {
    /// Opens the state below `data_dir` and builds the engine from it.
    pub fn open(data_dir: &Path, parts: SharedParts) -> Result<Arc<Self>, StoreError> {
        let find = |source| StoreError::Read { path: data_dir.to_owned(), source };
        let path = place::state_dir(data_dir).map_err(find)?;
        place::clear_others(data_dir, &path).map_err(find)?;
        let db = Db::open(&path, parts.cache_bytes)?;
        let read = |source| StoreError::Read { path: path.clone(), source };
        let (keyspace, leases) = load(&db, &parts).map_err(read)?;
        let lessor = Lessor::new(leases.into_iter());
        let hub = Hub::new(keyspace.revision(), parts.recent_bytes);
        let swept = tokio::sync::watch::Sender::new(-1);
        let shared = Self {
            guarded: AtomicBool::new(keyspace.auth().enabled()),
            tokens: Arc::clone(&parts.tokens),
            keyspace: RwLock::new(keyspace),
            db: RwLock::new((db, path)),
            hub,
            lessor,
            figures: Arc::clone(&parts.figures),
            parts,
            between_batches: Mutex::new(()),
            compacted: Notify::new(),
            swept,
            stopping: AtomicBool::new(false),
        };
        // A compaction whose sweep was interrupted.
        shared.compacted.notify_one();
        Ok(Arc::new(shared))
    }

    /// Replaces everything by the copy of another member's state.
    fn restore(&self, copy: &Path) -> io::Result<()> {
        let _between = self.between_batches.lock();
        let current = self.db.read().1.clone();
        let data_dir = current.parent().map(Path::to_owned).unwrap_or_default();
        let next = place::receive(&data_dir, &current, copy)?;
        let db = Db::open(&next, self.parts.cache_bytes).map_err(io::Error::other)?;
        let (keyspace, leases) = load(&db, &self.parts)?;
        place::adopt(&data_dir, &next)?;
        let revision = keyspace.revision();
        self.guarded.store(keyspace.auth().enabled(), Ordering::Release);
        {
            // Whoever holds the engine's lock sees both, or neither.
            let mut engine = self.keyspace.write();
            *engine = keyspace;
            *self.db.write() = (db, next);
        }
        self.lessor.replace(leases.into_iter());
        self.hub.jump(revision);
        self.compacted.notify_one();
        tracing::info!(revision, "took over the state of another member");
        Ok(())
    }

    /// Looks at the engine.
    pub fn with<T>(&self, look: impl FnOnce(&Keyspace) -> T) -> T {
        look(&self.keyspace.read())
    }

    /// Whether callers must prove who they are.
    pub fn guarded(&self) -> bool {
        self.guarded.load(Ordering::Acquire)
    }

    /// The database.
    pub fn db(&self) -> Db {
        self.db.read().0.clone()
    }

    /// Answers a query from the state as it is here and now.
    pub fn query(&self, origin: &Origin, query: &Query) -> io::Result<Result<QueryAnswer, Refusal>> {
        loop {
            let keyspace = self.keyspace.read();
            if let Err(denied) = keyspace.auth().check_read(origin, &query.span) {
                return Ok(Err(denied.into()));
            }
            let compacted = keyspace.compacted();
            // The database of this state: another one may take its place with another state.
            let db = self.db();
            let selected = if keyspace.is_brief(query) {
                let selected = keyspace.select(query);
                drop(keyspace);
                selected
            } else {
                let view = keyspace.view();
                drop(keyspace);
                view.select(query)
            };
            let selection = match selected {
                Ok(selection) => selection,
                Err(refusal) => return Ok(Err(refusal)),
            };
            match selection.load(query, &db) {
                Ok(answer) => return Ok(Ok(answer)),
                // A version may be swept between selecting and loading it; only then look again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if self.with(|keyspace| keyspace.compacted() == compacted) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins to read a range piece by piece from the state as it is here and now; answers what is read from, too.
    pub fn page(&self, origin: &Origin, query: &Query) -> Result<(Pager, Db), Refusal> {
        let keyspace = self.keyspace.read();
        keyspace.auth().check_read(origin, &query.span)?;
        let (view, db) = (keyspace.view(), self.db());
        drop(keyspace);
        Ok((Pager::new(view, query.clone())?, db))
    }

    /// Answers a transaction that cannot write.
    pub fn read_txn(&self, origin: &Origin, txn: &Txn) -> io::Result<Result<TxnAnswer, Refusal>> {
        // The lock is held over the loads: its reads must see one state.
        let keyspace = self.keyspace.read();
        keyspace.read_txn(origin, txn, &self.db())
    }

    /// Waits until the sweep of a compaction has ended.
    pub async fn swept(&self, revision: i64) {
        let mut swept = self.swept.subscribe();
        // The sender lives as long as `self`.
        let _ = swept.wait_for(|swept| *swept >= revision).await;
    }

    /// Ends what runs beside the commands; a sweep goes on at the next start.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Sweeps after each compaction, for as long as the process lives.
    pub async fn sweep_forever(self: Arc<Self>) {
        loop {
            self.compacted.notified().await;
            let shared = Arc::clone(&self);
            let swept = tokio::task::spawn_blocking(move || shared.sweep()).await;
            if let Ok(Err(error)) = swept {
                tracing::error!(%error, "compacted versions could not be dropped; they will be at the next start");
            }
        }
    }

    fn sweep(&self) -> io::Result<()> {
        let mut next: Option<Blob> = None;
        let compacted = self.with(Keyspace::compacted);
        loop {
            // The clone lives for as long as it is looked through: while it does, writes copy what they change.
            let Stale { keys, next: further } = self.with(Keyspace::view).stale(next.as_ref(), SWEEP_LOOK);
            let mut keys = keys.iter();
            while !keys.as_slice().is_empty() {
                if self.stopping.load(Ordering::Acquire) {
                    return Ok(());
                }
                let began = Instant::now();
                self.prune(&mut keys)?;
                std::thread::sleep(began.elapsed() * SWEEP_REST);
            }
            next = further;
            if next.is_none() {
                break;
            }
        }
        {
            let _between = self.between_batches.lock();
            let db = self.db();
            let mut batch = db.batch();
            batch.drop_events_before(compacted.max(0));
            batch.write()?;
        }
        if compacted >= 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            self.figures.swept_at.store(now, Ordering::Relaxed);
        }
        self.swept.send_replace(compacted);
        Ok(())
    }

    fn prune(&self, keys: &mut std::slice::Iter<'_, Blob>) -> io::Result<()> {
        // Of a batch that is applied and not yet written, memory would forget what the batch then puts on disk: a version that
        // nobody knows of any more, and that lives again at the next start once its key is deleted.
        let _between = self.between_batches.lock();
        let (dropped, db) = {
            let mut keyspace = self.keyspace.write();
            (keyspace.prune(keys, SWEEP_DROPS), self.db())
        };
        let mut batch = db.batch();
        for (key, revision) in &dropped {
            batch.drop_version(key, *revision);
        }
        self.figures.swept_keys.inc_by(dropped.len() as u64);
        batch.write()
    }

    fn apply(&self, commands: &[(Origin, Command)], position: &[u8]) -> io::Result<Vec<Applied>> {
        let between = self.between_batches.lock();
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut changes = Vec::new();
        let db = self.db();
        let mut batch = db.batch();
        for turn in commands.chunks(TURN) {
            let mut keyspace = self.keyspace.write();
            for (origin, command) in turn {
                let before = changes.len();
                let outcome = keyspace.apply(origin, command, &db, &mut changes)?;
                for (number, change) in changes[before..].iter().enumerate() {
                    batch.change(change, number as u32);
                }
                match &outcome {
                    Ok(Answer::Auth(touched)) => batch.auth(keyspace.auth(), touched),
                    Ok(answer) => record(&mut batch, command, answer),
                    Err(_) => {}
                }
                outcomes.push(outcome);
            }
        }
        let revision = self.with(Keyspace::revision);
        batch.position(position, revision);
        let started = Instant::now();
        batch.write()?;
        self.figures.stored(started.elapsed());
        self.keyspace.write().stored();
        drop(between);
        self.figures.applied(commands, &changes);
        self.follow_up(commands, &outcomes);
        self.hub.publish(revision, changes);
        Ok(outcomes)
    }

    /// What is done beside the state: clocks of leases, the sweep.
    fn follow_up(&self, commands: &[(Origin, Command)], outcomes: &[Applied]) {
        for ((_, command), outcome) in commands.iter().zip(outcomes) {
            match (command, outcome) {
                (Command::LeaseGrant { id, .. }, Ok(Answer::Granted { ttl, .. })) => {
                    self.lessor.granted(*id, *ttl);
                }
                // One that was forbidden goes on.
                (Command::LeaseRevoke(id), Ok(_)) => self.lessor.revoked(*id),
                (Command::Compact(_), Ok(_)) => self.compacted.notify_one(),
                (Command::Auth(command), Ok(_)) => self.follow_auth(command),
                (Command::Downgrade(target), Ok(_)) => tell_of_downgrade(*target),
                _ => {}
            }
        }
    }

    fn follow_auth(&self, command: &AuthCommand) {
        match command {
            AuthCommand::Enable => self.guarded.store(true, Ordering::Release),
            AuthCommand::Disable => {
                self.guarded.store(false, Ordering::Release);
                self.tokens.forget_all();
            }
            AuthCommand::Authenticate { name, token } => self.tokens.assign(name, token),
            AuthCommand::UserDelete { name } | AuthCommand::UserChangePassword { name, .. } => {
                self.tokens.forget(name);
            }
            _ => {}
        }
    }

    /// Looks at the state as it stands between two batches; batches go on meanwhile.
    pub fn still<T>(&self, look: impl FnOnce(&Still<'_>) -> io::Result<T>) -> io::Result<T> {
        let db = self.db();
        let still = {
            let _between = self.between_batches.lock();
            Still::of(&db)?
        };
        look(&still)
    }

    fn checkpoint(&self, path: &Path) -> io::Result<Bytes> {
        // Most is flushed while batches go on; what came meanwhile, between two of them.
        self.db().flush()?;
        let _between = self.between_batches.lock();
        let db = self.db();
        db.flush()?;
        db.checkpoint(path)?;
        db.position()?.ok_or_else(|| io::Error::other("the state has no position yet"))
    }
}

/// In etcd's words.
fn tell_of_downgrade(target: Option<Release>) {
    if let Some(target) = target {
        tracing::info!(target_version = target.whole(), "The server is ready to downgrade");
    } else {
        tracing::info!(cluster_version = %Release::OWN, "the downgrade was cancelled");
    }
}

/// Writes what a command did beside keys.
fn record(batch: &mut Batch<'_>, command: &Command, answer: &Answer) {
    match (command, answer) {
        (Command::LeaseGrant { id, .. }, Answer::Granted { ttl, .. }) => batch.lease(*id, Some(*ttl)),
        (Command::LeaseRevoke(id), _) => batch.lease(*id, None),
        (Command::Compact(revision), _) => batch.compacted(*revision),
        (Command::AlarmRaise(member, alarm), _) => batch.alarm(*member, *alarm, true),
        (Command::AlarmClear(member, alarm), _) => batch.alarm(*member, *alarm, false),
        (Command::Downgrade(target), _) => batch.downgrade(*target),
        _ => {}
    }
}

/// The state machine as a Raft group drives it.
pub struct KvMachine(pub Arc<Shared>);

impl StateMachine for KvMachine {
    type Response = Applied;

    fn position(&self) -> io::Result<Option<Bytes>> {
        self.0.db().position()
    }

    fn apply(&mut self, commands: Vec<Bytes>, position: Bytes) -> io::Result<Vec<Applied>> {
        let commands: Vec<(Origin, Command)> = commands
            .iter()
            .map(|bytes| mvcc::decode(bytes).map_err(io::Error::other))
            .collect::<Result<_, _>>()?;
        self.0.apply(&commands, &position)
    }

    fn checkpointer(&self) -> Checkpoint {
        let shared = Arc::clone(&self.0);
        Box::new(move |path| shared.checkpoint(path))
    }

    fn restorer(&self) -> Restorer {
        let shared = Arc::clone(&self.0);
        Box::new(move |copy| shared.restore(copy))
    }
}

/// Builds the engine from a database; answers the leases beside it.
fn load(db: &Db, parts: &SharedParts) -> io::Result<(Keyspace, Vec<(i64, i64)>)> {
    let mut keyspace = Keyspace::new(parts.value_bytes, parts.min_lease_ttl);
    let mut restored = Restored::default();
    db.versions(|key, version| restored.add(key, version))?;
    keyspace.restore(restored).map_err(io::Error::other)?;
    let Loaded { revision, compacted, leases, alarms, auth, downgrade } = db.load()?;
    keyspace.restore_rest(revision, compacted, leases.clone(), alarms);
    keyspace.restore_auth(auth);
    keyspace.restore_downgrade(downgrade);
    Ok((keyspace, leases))
}

/// Changes grouped by revision, as they were applied.
pub fn by_revision(changes: Vec<Change>) -> Vec<(i64, Vec<Change>)> {
    let mut groups: Vec<(i64, Vec<Change>)> = Vec::new();
    for change in changes {
        match groups.last_mut() {
            Some((revision, group)) if *revision == change.kv.mod_revision => group.push(change),
            _ => groups.push((change.kv.mod_revision, vec![change])),
        }
    }
    groups
}
