//! A running member: the Raft group, the state, the clocks of leases. What the doors call.

use crate::identity::{self, DirLock, Identity, IdentityError};
use crate::lessor::Renewal;
use crate::metrics::Figures;
use crate::mvcc::{self, Alarm, Answer, Command, Keyspace, Put, Query, QueryAnswer, Refusal, Txn, TxnAnswer};
use crate::store::{KvMachine, Shared, SharedParts, StoreError};
use aistack_api::tinykv::TinykvConfig;
use replication::log::LogOptions;
use replication::{GroupOptions, GroupStatus, ProposeError, Replicated, StartError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often leases are looked through for those that have run out.
const LEASE_TICK: Duration = Duration::from_millis(200);
/// Leases ended in one look.
const LEASE_ENDINGS: usize = 500;
/// What a key costs beside its bytes, when the quota is reckoned.
const KEY_OVERHEAD: usize = 320;
/// What a lease costs.
const LEASE_OVERHEAD: usize = 64;
/// The longest lease, in seconds.
const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeStartError {
    /// The data directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The group.
    #[error(transparent)]
    Group(#[from] StartError),
}

/// Why a request was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// The engine refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// This lease would live too long.
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// It is larger than a request may be.
    #[error("request is too large")]
    TooLarge,
    /// It took too long; whether it was done is unknown.
    #[error("request timed out")]
    TimedOut,
    /// Nobody leads now.
    #[error("no leader")]
    NoLeader,
    /// The member is stopping or has stopped.
    #[error("server stopped: {0}")]
    Stopped(String),
    /// The state cannot be read.
    #[error("cannot read the state: {0}")]
    State(String),
}

impl From<ProposeError> for NodeError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { .. } => Self::NoLeader,
            ProposeError::Stopped(reason) => Self::Stopped(reason),
        }
    }
}

impl From<io::Error> for NodeError {
    fn from(error: io::Error) -> Self {
        Self::State(error.to_string())
    }
}

/// What is left of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseLeft {
    /// Seconds left.
    pub ttl: i64,
    /// Seconds granted.
    pub granted: i64,
    /// The keys that live by it.
    pub keys: Vec<bytes::Bytes>,
}

/// A running member.
pub struct Node {
    /// The configuration it runs by.
    pub config: TinykvConfig,
    /// Who it is.
    pub identity: Identity,
    /// The state.
    pub shared: Arc<Shared>,
    group: Replicated<KvMachine>,
    tasks: Vec<JoinHandle<()>>,
    stopping: AtomicBool,
    _lock: DirLock,
}

impl Node {
    /// Opens the data directory and starts the member; everything acknowledged before is there.
    pub async fn start(config: TinykvConfig) -> Result<Arc<Self>, NodeStartError> {
        let (identity, lock) = identity::take(&config.data_dir)?;
        let figures = Arc::new(Figures::default());
        let shared = Shared::open(&config.data_dir.join("state"), parts_of(&config, Arc::clone(&figures)))?;
        let group =
            Replicated::start(group_of(&config, identity, figures), KvMachine(Arc::clone(&shared))).await?;
        if let Some((path, offset)) = &group.recovery().cut {
            tracing::warn!(path = %path.display(), offset, "an unfinished write was cut off the log");
        }
        Ok(Arc::new_cyclic(|node: &std::sync::Weak<Self>| {
            let tasks = vec![
                tokio::spawn(Arc::clone(&shared).sweep_forever()),
                tokio::spawn(end_leases(node.clone())),
            ];
            Self { config, identity, shared, group, tasks, stopping: AtomicBool::new(false), _lock: lock }
        }))
    }

    /// Where the group stands.
    pub fn status(&self) -> GroupStatus {
        self.group.status()
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.group.term()
    }

    /// A checksum of the store at a revision (0: the latest): it, the revision, and the last
    /// compaction.
    pub async fn hash(&self, revision: i64) -> Result<(u32, i64, i64), NodeError> {
        self.barrier().await?;
        let (latest, compacted) = self.shared.with(|keyspace| (keyspace.revision(), keyspace.compacted()));
        let revision = if revision == 0 { latest } else { revision };
        if revision > latest {
            return Err(Refusal::FutureRevision.into());
        }
        if revision < compacted {
            return Err(Refusal::Compacted.into());
        }
        let shared = Arc::clone(&self.shared);
        let hash = tokio::task::spawn_blocking(move || shared.db().hash(revision, compacted)).await;
        Ok((hash.map_err(io::Error::other)??, revision, compacted))
    }

    /// Where the store stands.
    pub fn revision(&self) -> i64 {
        self.shared.with(Keyspace::revision)
    }

    /// Resolves, with the reason, when the member can do no more; the process should exit.
    pub async fn failed(&self) -> String {
        self.group.stopped().await
    }

    /// Stops: what memory holds is written to disk, so that the next start is quick.
    pub async fn stop(&self) {
        if self.stopping.swap(true, Ordering::SeqCst) {
            return;
        }
        for task in &self.tasks {
            task.abort();
        }
        self.group.shutdown().await;
        let shared = Arc::clone(&self.shared);
        let flushed = tokio::task::spawn_blocking(move || shared.db().flush()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the state could not be flushed; the log will be replayed");
        }
    }

    /// Returns when a read of the local state is linearizable.
    async fn barrier(&self) -> Result<(), NodeError> {
        self.in_time(async { Ok(self.group.read_barrier().await?) }).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, NodeError>>) -> Result<T, NodeError> {
        let limit = Duration::from_millis(self.config.request_limits.timeout_ms);
        tokio::time::timeout(limit, work).await.unwrap_or(Err(NodeError::TimedOut))
    }

    /// Replicates a command.
    pub async fn propose(&self, command: &Command) -> Result<Answer, NodeError> {
        let bytes = mvcc::encode(command);
        if bytes.len() > self.config.request_limits.max_request_bytes {
            return Err(NodeError::TooLarge);
        }
        let outcome = self.in_time(async { Ok(self.group.propose(bytes).await?) }).await;
        match outcome {
            Ok(outcome) => Ok(outcome?),
            Err(error) => {
                self.shared.figures.failed.inc();
                Err(error)
            }
        }
    }

    /// Replicates a command that grows the store, unless the quota is used up.
    pub async fn propose_growth(&self, command: &Command) -> Result<Answer, NodeError> {
        let cost = growth(command);
        if cost > 0 {
            let (bytes, raised) = self.shared.with(|keyspace| {
                (keyspace.bytes(), keyspace.alarms().iter().any(|(_, alarm)| *alarm == Alarm::NoSpace))
            });
            if bytes + cost as u64 > self.config.quota_bytes {
                if !raised {
                    tracing::warn!(bytes, quota = self.config.quota_bytes, "the quota is used up: NOSPACE");
                    self.propose(&Command::AlarmRaise(self.identity.member_id, Alarm::NoSpace)).await?;
                }
                return Err(Refusal::NoSpace.into());
            }
        }
        self.propose(command).await
    }

    /// Reads keys; linearizably unless `serializable`.
    pub async fn query(&self, query: &Query, serializable: bool) -> Result<QueryAnswer, NodeError> {
        self.shared.figures.ranges.inc();
        if !serializable {
            self.barrier().await?;
        }
        Ok(self.shared.query(query)??)
    }

    /// Answers a transaction that cannot write.
    pub async fn read_txn(&self, txn: &Txn, serializable: bool) -> Result<TxnAnswer, NodeError> {
        if !serializable {
            self.barrier().await?;
        }
        Ok(self.shared.read_txn(txn)??)
    }

    /// Creates a lease; id 0 draws one.
    pub async fn grant(&self, id: i64, ttl: i64) -> Result<(i64, i64), NodeError> {
        if ttl > MAX_LEASE_TTL {
            return Err(NodeError::LeaseTtlTooLarge);
        }
        let id = if id == 0 { (identity::random_id() >> 1).max(1) as i64 } else { id };
        match self.propose_growth(&Command::LeaseGrant { id, ttl }).await? {
            Answer::Granted { id, ttl, .. } => Ok((id, ttl)),
            _ => Err(NodeError::Stopped("a grant was answered by something else".to_owned())),
        }
    }

    /// Renews a lease; answers its seconds, or `None` when there is no such lease.
    pub async fn renew(&self, id: i64) -> Result<Option<i64>, NodeError> {
        self.shared.figures.leases_renewed.inc();
        self.in_time(async {
            let mut endings = self.shared.lessor.endings();
            loop {
                match self.shared.lessor.renew(id) {
                    Renewal::Renewed(ttl) => return Ok(Some(ttl)),
                    Renewal::Unknown => return Ok(None),
                    // Its end is on the way; saying "gone" before it is gone would be a lie.
                    Renewal::Ending => {
                        if endings.changed().await.is_err() {
                            return Ok(None);
                        }
                    }
                }
            }
        })
        .await
    }

    /// What is left of a lease; `None` when there is no such lease.
    pub async fn lease_left(&self, id: i64) -> Result<Option<LeaseLeft>, NodeError> {
        self.barrier().await?;
        let Some(left) = self.shared.lessor.remaining(id) else { return Ok(None) };
        Ok(self.shared.with(|keyspace| {
            let lease = keyspace.lease(id)?;
            let keys = lease.keys.iter().cloned().collect();
            Some(LeaseLeft { ttl: left.as_secs() as i64, granted: lease.ttl, keys })
        }))
    }

    /// All leases, the next one to run out first.
    pub async fn leases(&self) -> Result<Vec<i64>, NodeError> {
        self.barrier().await?;
        Ok(self.shared.lessor.by_deadline())
    }

    /// Forgets superseded versions; with `wait`, returns when they are off the disk's tables.
    pub async fn compact(&self, revision: i64, wait: bool) -> Result<i64, NodeError> {
        let answer = self.propose(&Command::Compact(revision)).await?;
        if wait {
            self.in_time(async {
                self.shared.swept(revision).await;
                Ok(())
            })
            .await?;
        }
        match answer {
            Answer::Done { revision } => Ok(revision),
            _ => Err(NodeError::Stopped("a compaction was answered by something else".to_owned())),
        }
    }
}

fn growth(command: &Command) -> usize {
    let put = |put: &Put| put.key.len() + put.value.len() + KEY_OVERHEAD;
    fn steps(txn: &Txn, put: &impl Fn(&Put) -> usize) -> usize {
        let path = |ops: &[mvcc::Op]| -> usize {
            ops.iter()
                .map(|op| match op {
                    mvcc::Op::Put(one) => put(one),
                    mvcc::Op::Txn(txn) => steps(txn, put),
                    mvcc::Op::Query(_) | mvcc::Op::Delete(_) => 0,
                })
                .sum()
        };
        path(&txn.success).max(path(&txn.failure))
    }
    match command {
        Command::Put(one) => put(one),
        Command::Txn(txn) => steps(txn, &put),
        Command::LeaseGrant { .. } => LEASE_OVERHEAD,
        _ => 0,
    }
}

fn parts_of(config: &TinykvConfig, figures: Arc<Figures>) -> SharedParts {
    SharedParts {
        value_bytes: config.memory.value_bytes,
        cache_bytes: config.memory.block_cache_bytes,
        // One and a half elections, so that a lease outlives a change of leaders.
        min_lease_ttl: (config.raft.election_ms * 3 / 2).div_ceil(1_000) as i64,
        recent_bytes: config.memory.recent_change_bytes,
        figures,
    }
}

fn group_of(config: &TinykvConfig, identity: Identity, figures: Arc<Figures>) -> GroupOptions {
    let raft = &config.raft;
    GroupOptions {
        address: format!("http://{}", config.listen_peer),
        heartbeat: Duration::from_millis(raft.heartbeat_ms),
        election: Duration::from_millis(raft.election_ms),
        snapshot_entries: raft.snapshot_entries,
        snapshot_bytes: raft.snapshot_bytes,
        log: LogOptions {
            segment_bytes: raft.segment_bytes,
            observer: Some(Arc::new(move |duration, bytes| figures.synced(duration, bytes))),
            ..LogOptions::default()
        },
        ..GroupOptions::new(identity.member_id, config.data_dir.clone())
    }
}

/// Proposes the end of leases that have run out, for as long as the member lives.
async fn end_leases(node: std::sync::Weak<Node>) {
    let mut ticks = tokio::time::interval(LEASE_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(node) = node.upgrade() else {
            continue;
        };
        let expired = node.shared.lessor.expired(LEASE_ENDINGS);
        let endings = expired.into_iter().map(|id| {
            let node = &node;
            async move {
                match node.propose(&Command::LeaseRevoke(id)).await {
                    Ok(_) | Err(NodeError::Refused(Refusal::LeaseNotFound)) => {}
                    Err(error) => {
                        tracing::warn!(id, %error, "a lease that has run out could not be ended yet");
                    }
                }
            }
        });
        futures::future::join_all(endings).await;
    }
}
