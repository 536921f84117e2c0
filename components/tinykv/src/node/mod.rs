//! A running member: the Raft group, the state, the clocks of leases. What the doors call.

mod errors;
mod leases;

pub use errors::{NodeError, NodeStartError};
pub use leases::{Granted, LeaseLeft};

use crate::compactor;
use crate::discovery;
use crate::identity::{self, DirLock, Identity};
use crate::members::{self, Question, Reply};
use crate::membership::{self, founding};
use crate::metrics::Figures;
use crate::mvcc::{
    self, Alarm, Answer, Command, Keyspace, Origin, Pager, Put, Query, QueryAnswer, Refusal, Txn, TxnAnswer,
};
use crate::store::{Db, KvMachine, Shared, SharedParts, log_elsewhere};
use crate::tls;
use crate::tokens::{Tokens, TokensError};
use aistack_api::tinykv::{Founder, InitialClusterState, TinykvConfig};
use leases::{begin_to_lead, end_leases};
use replication::log::LogOptions;
use replication::{Channel, GroupOptions, GroupStatus, Host, Peers, Replicated};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a key costs beside its bytes, when the quota is reckoned.
const KEY_OVERHEAD: usize = 320;
/// Connections of members that the kernel holds until they are accepted, as many as Rust's own listeners ask for.
const PEER_BACKLOG: u32 = 128;
/// What a lease costs.
const LEASE_OVERHEAD: usize = 64;

/// A running member.
pub struct Node {
    /// The configuration it runs by.
    pub config: TinykvConfig,
    /// Who it is.
    pub identity: Identity,
    /// The state.
    pub shared: Arc<Shared>,
    pub(crate) group: Replicated<KvMachine>,
    /// Whether it listens to peers.
    pub(crate) has_peers: bool,
    /// Whether the others know this member's name, and where clients reach it.
    pub(crate) published: AtomicBool,
    /// Whether there has been no leader for a while.
    pub(crate) deserted: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    stopping: AtomicBool,
    /// The term that this member's clocks of leases count for: it leads, and they began anew when it did. 0 when it does not.
    clocks_of: AtomicU64,
    _lock: DirLock,
}

impl Node {
    /// Opens the data directory and starts the member; everything acknowledged before is there.
    pub async fn start(mut config: TinykvConfig) -> Result<Arc<Self>, NodeStartError> {
        discovery::resolve(&mut config).await?;
        let founders = config.founders()?;
        let channel = tls::channel(&config)?;
        let joins = config.initial_cluster_state == InitialClusterState::Existing;
        let first = if founders.is_empty() {
            Identity::alone()
        } else if joins && !identity::is_taken(&config.data_dir) {
            let joined = membership::join(&config, &founders, &*channel).await;
            joined.map_err(NodeStartError::Join)?
        } else {
            let among = Identity::among(&founders, &config.initial_cluster_token, &config.name);
            let awaits_founders = config.found_together && founders.len() > 1;
            if !identity::is_taken(&config.data_dir) {
                founding::is_new(&config, &founders, among, &*channel).await?;
            }
            Identity { awaits_founders, ..among }
        };
        let (identity, lock) = identity::take(&config.data_dir, first)?;
        if identity.removed {
            let (id, path) = (identity.member_id, config.data_dir);
            return Err(NodeStartError::Removed { id, path });
        }
        if config.force_new_cluster {
            tracing::warn!(
                "force_new_cluster (--force-new-cluster) is given: at this start, and at every one as long as it is, all other \
                 members are forgotten; take it away before members are added"
            );
        }
        let has_peers = identity.has_peers || !founders.is_empty();
        let figures = Arc::new(Figures::default());
        let shared = Shared::open(&config.data_dir, parts_of(&config, Arc::clone(&figures))?)?;
        if let Some(log_dir) = &config.log_dir {
            log_elsewhere(&config.data_dir, log_dir)
                .map_err(|source| NodeStartError::LogDir { path: log_dir.clone(), source })?;
        }
        let log = log_of(&config, figures);
        let host = host_of(&config, identity, has_peers.then(|| Arc::clone(&channel)), log)?;
        let identity = if identity.awaits_founders {
            // It listens already, so that the others hear of it.
            founding::all_there(&config, &founders, identity, &*channel).await?;
            identity::found(&config.data_dir, identity)?
        } else {
            identity
        };
        let options = group_of(&config, identity, &founders);
        let group = host.start(options, KvMachine(Arc::clone(&shared))).await?;
        drop(host);
        if let Some((path, offset)) = &group.recovery().cut {
            tracing::warn!(path = %path.display(), offset, "an unfinished write was cut off the log");
        }
        let retention = config.auto_compaction.retention()?;
        Ok(Arc::new_cyclic(|node: &Weak<Self>| {
            let mut tasks = vec![
                tokio::spawn(Arc::clone(&shared).sweep_forever()),
                tokio::spawn(end_leases(node.clone())),
                tokio::spawn(begin_to_lead(node.clone())),
                tokio::spawn(membership::look_after(node.clone())),
                tokio::spawn(membership::watch_for_desertion(node.clone())),
            ];
            tasks.extend(retention.map(|keep| tokio::spawn(compactor::run(node.clone(), keep))));
            group.answer_with(members::answerer(node.clone()));
            Self {
                config,
                identity,
                shared,
                group,
                has_peers,
                published: AtomicBool::new(false),
                deserted: watch::Sender::new(false),
                tasks,
                stopping: AtomicBool::new(false),
                clocks_of: AtomicU64::new(0),
                _lock: lock,
            }
        }))
    }

    /// Whether the others know of this member's start.
    pub fn is_published(&self) -> bool {
        self.published.load(Ordering::Acquire)
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

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<u64> {
        self.group.leader()
    }

    /// Hands the leadership to another voter; only the leader can.
    pub async fn move_leader(&self, to: u64) -> Result<(), NodeError> {
        if self.leader() != Some(self.identity.member_id) {
            return Err(NodeError::NotLeader);
        }
        if !self.status().members.get(&to).is_some_and(|member| member.voter) {
            return Err(NodeError::BadTransferee);
        }
        self.in_time(async { Ok(self.group.transfer_leader(to).await?) }).await
    }

    /// Has the leader answer a question; this member, if it leads.
    async fn ask(&self, question: Question) -> Result<Reply, NodeError> {
        let reply = self.in_time(async { Ok(self.group.ask_leader(question.encode()).await?) }).await?;
        Reply::decode(reply).ok_or(NodeError::LeaderChanged)
    }

    /// Where the store stands.
    pub fn revision(&self) -> i64 {
        self.shared.with(Keyspace::revision)
    }

    /// Hands the leadership, if this member has it, to the voter that has most of the log, so that nobody waits for an
    /// election when it stops.
    pub async fn hand_over(&self) {
        let me = self.identity.member_id;
        if self.leader() != Some(me) {
            return;
        }
        let progress = self.group.progress();
        let members = self.status().members;
        let others = members.iter().filter(|(id, member)| **id != me && member.voter);
        let heir = others.filter_map(|(id, _)| Some((progress.get(id)?, *id)));
        let heir =
            heir.filter(|(progress, _)| progress.heard.is_some_and(|heard| heard < Duration::from_secs(2)));
        if let Some((_, heir)) = heir.max_by_key(|(progress, _)| progress.matched)
            && let Err(error) = self.move_leader(heir).await
        {
            tracing::info!(%error, "the leadership was not handed over");
        }
    }

    /// Waits until a member that joined with nothing holds what its cluster held when it came. Before that it would answer
    /// clients from an empty store.
    pub async fn caught_up(&self) {
        if !self.identity.joined || self.revision() > 1 {
            return;
        }
        while self.group.read_barrier().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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
        self.shared.stop();
        let removed = self.removed();
        self.group.shutdown().await;
        if removed && let Err(error) = identity::retire(&self.config.data_dir, self.identity) {
            tracing::warn!(%error, "that this member was removed could not be noted");
        }
        let shared = Arc::clone(&self.shared);
        let flushed = tokio::task::spawn_blocking(move || shared.db().flush()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the state could not be flushed; the log will be replayed");
        }
    }

    /// Returns when a read of the local state is linearizable.
    pub(crate) async fn barrier(&self) -> Result<(), NodeError> {
        if self.is_learner() {
            return Err(NodeError::Learner);
        }
        let waited = self.in_time(async { Ok(self.group.read_barrier().await?) }).await;
        if waited.is_err() {
            self.shared.figures.reads_failed.inc();
        }
        waited
    }

    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        let limit = Duration::from_millis(self.config.request_limits.timeout_ms);
        tokio::time::timeout(limit, work).await.unwrap_or(Err(NodeError::TimedOut))
    }

    /// Replicates a command.
    pub async fn propose(&self, by: &Origin, command: &Command) -> Result<Answer, NodeError> {
        let bytes = mvcc::encode(by, command);
        if bytes.len() > self.config.request_limits.max_request_bytes {
            return Err(NodeError::TooLarge);
        }
        let _waiting = self.shared.figures.waiting();
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
    pub async fn propose_growth(&self, by: &Origin, command: &Command) -> Result<Answer, NodeError> {
        let cost = growth(command);
        if cost > 0 {
            let (bytes, raised) = self.shared.with(|keyspace| {
                (keyspace.bytes(), keyspace.alarms().iter().any(|(_, alarm)| *alarm == Alarm::NoSpace))
            });
            if bytes + cost as u64 > self.config.quota_bytes {
                if !raised {
                    tracing::warn!(bytes, quota = self.config.quota_bytes, "the quota is used up: NOSPACE");
                    let alarm = Command::AlarmRaise(self.identity.member_id, Alarm::NoSpace);
                    self.propose(&Origin::Member, &alarm).await?;
                }
                return Err(Refusal::NoSpace.into());
            }
        }
        self.propose(by, command).await
    }

    /// Reads keys; linearizably unless `serializable`.
    pub async fn query(
        &self,
        by: &Origin,
        query: &Query,
        serializable: bool,
    ) -> Result<QueryAnswer, NodeError> {
        self.shared.figures.ranges.inc();
        if !serializable {
            self.barrier().await?;
        }
        Ok(self.shared.query(by, query)??)
    }

    /// Begins to read a range piece by piece; linearizably unless `serializable`.
    pub async fn page(
        &self,
        by: &Origin,
        query: &Query,
        serializable: bool,
    ) -> Result<(Pager, Db), NodeError> {
        self.shared.figures.ranges.inc();
        if !serializable {
            self.barrier().await?;
        }
        Ok(self.shared.page(by, query)?)
    }

    /// Answers a transaction that cannot write.
    pub async fn read_txn(&self, by: &Origin, txn: &Txn, serializable: bool) -> Result<TxnAnswer, NodeError> {
        if !serializable {
            self.barrier().await?;
        }
        Ok(self.shared.read_txn(by, txn)??)
    }

    /// Forgets superseded versions; with `wait`, returns when they are off the disk's tables.
    pub async fn compact(&self, by: &Origin, revision: i64, wait: bool) -> Result<i64, NodeError> {
        let answer = self.propose(by, &Command::Compact(revision)).await?;
        if wait {
            // As long as it takes: whoever asks may set a limit.
            self.shared.swept(revision).await;
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

fn parts_of(config: &TinykvConfig, figures: Arc<Figures>) -> Result<SharedParts, TokensError> {
    let tokens = match &config.auth.jwt {
        Some(jwt) => Tokens::jwt(jwt)?,
        None => Tokens::simple(Duration::from_secs(config.auth.token_ttl_seconds)),
    };
    Ok(SharedParts {
        value_bytes: config.memory.value_bytes,
        cache_bytes: config.memory.block_cache_bytes,
        // One and a half elections, so that a lease outlives a change of leaders.
        min_lease_ttl: (config.raft.election_ms * 3 / 2).div_ceil(1_000) as i64,
        recent_bytes: config.memory.recent_change_bytes,
        figures,
        tokens: Arc::new(tokens),
    })
}

fn host_of(
    config: &TinykvConfig,
    identity: Identity,
    channel: Option<Arc<dyn Channel>>,
    log: LogOptions,
) -> Result<Arc<Host>, NodeStartError> {
    let Some(channel) = channel else {
        return Ok(Host::alone(&config.data_dir, log)?);
    };
    let listeners = std::iter::once(&config.listen_peer)
        .chain(&config.more_peer_listeners)
        .map(|&address| {
            peer_listener(address, config.reuse_port)
                .map_err(|source| NodeStartError::Listen { address, source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let peers = Peers { cluster: identity.cluster_id, node: identity.member_id, listeners, channel };
    Ok(Host::with_peers(&config.data_dir, log, peers)?)
}

fn peer_listener(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    if !reuse_port {
        return TcpListener::bind(address);
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    let listener = socket.listen(PEER_BACKLOG)?.into_std()?;
    listener.set_nonblocking(false)?;
    Ok(listener)
}

fn group_of(config: &TinykvConfig, identity: Identity, founders: &[Founder]) -> GroupOptions {
    let raft = &config.raft;
    GroupOptions {
        founders: membership::founding(config, identity, founders),
        forget_others: config.force_new_cluster,
        heartbeat: Duration::from_millis(raft.heartbeat_ms),
        election: Duration::from_millis(raft.election_ms),
        snapshot_entries: raft.snapshot_entries,
        snapshot_bytes: raft.snapshot_bytes,
        keep_entries: raft.catchup_entries,
        ..GroupOptions::new(identity.member_id, config.data_dir.clone())
    }
}

fn log_of(config: &TinykvConfig, figures: Arc<Figures>) -> LogOptions {
    LogOptions {
        segment_bytes: config.raft.segment_bytes,
        cache_bytes: config.memory.log_cache_bytes,
        observer: Some(Arc::new(move |duration, bytes| figures.synced(duration, bytes))),
        ..LogOptions::default()
    }
}
