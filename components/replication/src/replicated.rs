//! A running Raft group.

use crate::log::{Log, LogError, LogOptions, Recovery};
use crate::raft::{
    Machine, NoPeers, NodeId, Payload, Position, SnapshotRule, Snapshots, StateMachine, Storage, Types,
};
use crate::reads::ReadGate;
use crate::thread::RaftThread;
use bytes::Bytes;
use openraft::errors::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{BasicNode, Config, Raft, RaftMetrics};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The group of a process that has one.
const ONLY_GROUP: u32 = 0;

/// How a group runs.
#[derive(Clone)]
pub struct GroupOptions {
    /// Identity of this member; never given to another node.
    pub node: NodeId,
    /// Address under which peers will find this member.
    pub address: String,
    /// Directory of the log and the snapshots.
    pub dir: PathBuf,
    /// How often a leader tells its followers that it lives.
    pub heartbeat: Duration,
    /// How long a follower waits for that before it stands for election; drawn from one to two
    /// times this value.
    pub election: Duration,
    /// A snapshot is taken after this many entries …
    pub snapshot_entries: u64,
    /// … or this many bytes of commands.
    pub snapshot_bytes: u64,
    /// Entries kept in the log behind a snapshot, for followers that are a little late.
    pub keep_entries: u64,
    /// How the log is kept.
    pub log: LogOptions,
}

impl GroupOptions {
    /// etcd's timers; a snapshot every 100,000 entries or 256 MiB.
    pub fn new(node: NodeId, dir: PathBuf) -> Self {
        Self {
            node,
            address: String::new(),
            dir,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            snapshot_entries: 100_000,
            snapshot_bytes: 256 << 20,
            keep_entries: 1_000,
            log: LogOptions::default(),
        }
    }
}

/// Why a group does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshot directory.
    #[error("cannot use the snapshot directory: {0}")]
    Snapshots(#[source] io::Error),
    /// Raft's thread cannot be started.
    #[error("cannot start the thread that Raft runs on: {0}")]
    Thread(#[source] io::Error),
    /// The state machine does not know its position.
    #[error("cannot read the state machine's position: {0}")]
    Position(#[source] io::Error),
    /// The options contradict one another.
    #[error("invalid timers: {0}")]
    Timers(String),
    /// openraft refused.
    #[error("the group cannot start: {0}")]
    Raft(String),
    /// The entries in the log were not applied in time.
    #[error("the group did not recover within {0:?}")]
    Recovery(Duration),
}

/// Why a command was not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// Another member leads; `None` while nobody does.
    #[error("this member does not lead")]
    NotLeader {
        /// Who leads, as far as is known.
        leader: Option<NodeId>,
    },
    /// The group has stopped, for this reason. Whether the command survived is unknown.
    #[error("the group has stopped: {0}")]
    Stopped(String),
}

/// Where a group stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// This member.
    pub node: NodeId,
    /// Current term.
    pub term: u64,
    /// Index of the last entry in the log.
    pub last_index: u64,
    /// Index of the last entry applied.
    pub applied_index: u64,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Index that the last snapshot holds.
    pub snapshot_index: u64,
    /// Members and their addresses.
    pub members: BTreeMap<NodeId, String>,
}

type Types1<S> = Types<Option<<S as StateMachine>::Response>>;
type MetricsOf<S> = WatchReceiverOf<Types1<S>, RaftMetrics<Types1<S>>>;
type RaftOf<S> = Raft<Types1<S>, Machine<S>>;

/// A state machine replicated by a Raft group.
pub struct Replicated<S: StateMachine> {
    raft: RaftOf<S>,
    metrics: MetricsOf<S>,
    reads: ReadGate,
    log: Log,
    node: NodeId,
    snapshots: JoinHandle<()>,
    recovery: Recovery,
    thread: RaftThread,
}

/// How long the log may take to be applied again at start.
const RECOVERY_LIMIT: Duration = Duration::from_mins(10);

impl<S: StateMachine> Replicated<S> {
    /// Opens the log, brings `machine` up to date with it, and leads (this version runs groups
    /// of one voter). Returns once every command acknowledged before is applied.
    pub async fn start(options: GroupOptions, machine: S) -> Result<Self, StartError> {
        let (log, recovery) = Log::open(&options.dir.join("log"), options.log.clone())?;
        let snapshots = Snapshots::open(options.dir.join("snapshots")).map_err(StartError::Snapshots)?;
        let position = match machine.position().map_err(StartError::Position)? {
            Some(bytes) => Position::decode(&bytes).map_err(StartError::Position)?,
            None => Position::default(),
        };
        // What the state machine shows right after it was opened came from its disk.
        let flushed = Arc::new(AtomicU64::new(position.applied.map_or(0, |id| id.index() + 1)));
        let due = Arc::new(Notify::new());
        let storage = Storage { log: log.group(ONLY_GROUP), flushed: Arc::clone(&flushed) };
        let rule = SnapshotRule { entries: options.snapshot_entries, bytes: options.snapshot_bytes };
        let machine = Machine {
            state: machine,
            position,
            snapshots,
            flushed,
            rule,
            due: Arc::clone(&due),
            since: (0, 0),
        };
        let config = Arc::new(config_of(&options)?);
        let thread = RaftThread::start().map_err(StartError::Thread)?;
        let node = options.node;
        let start = async move {
            let raft: RaftOf<S> = Raft::new(node, config, NoPeers, storage, machine)
                .await
                .map_err(|error| StartError::Raft(error.to_string()))?;
            lead(&raft, &options).await?;
            Ok(raft)
        };
        let raft = thread.run(start).await.unwrap_or_else(|| {
            Err(StartError::Raft("its thread has ended; the log of this process says why".to_owned()))
        })?;
        let snapshots = thread.handle().spawn(take_snapshots(raft.clone(), due));
        let reads = ReadGate::start(raft.clone(), thread.handle());
        let metrics = raft.metrics();
        Ok(Self { raft, metrics, reads, log, node, snapshots, recovery, thread })
    }

    /// What was found in the log at start.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Replicates a command; answers what it answered when it was applied.
    pub async fn propose(&self, command: Bytes) -> Result<S::Response, ProposeError> {
        match self.raft.client_write(Payload(command)).await {
            Ok(written) => written
                .data
                .ok_or_else(|| ProposeError::Stopped("the command was applied without an answer".to_owned())),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id })
            }
            Err(RaftError::APIError(error)) => Err(ProposeError::Stopped(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(self.reason(&fatal))),
        }
    }

    /// Returns when everything acknowledged before this call is applied here, so that a read of
    /// the local state is linearizable. By ReadIndex: no clock is trusted. Calls waiting at the
    /// same time share one round.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        self.reads.pass().await
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        openraft::async_runtime::WatchReceiver::borrow_watched(&self.metrics).current_term
    }

    /// Where the group stands.
    pub fn status(&self) -> GroupStatus {
        let metrics = openraft::async_runtime::WatchReceiver::borrow_watched(&self.metrics).clone();
        GroupStatus {
            node: self.node,
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.map_or(0, |id| id.index()),
            leader: metrics.current_leader,
            snapshot_index: metrics.snapshot.map_or(0, |id| id.index()),
            members: metrics.membership_config.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
        }
    }

    /// Resolves, with the reason, when the group has stopped for good: the disk failed, or the
    /// state machine did. The process should exit; after a restart the disk decides.
    pub async fn stopped(&self) -> String {
        // These change with leaders and members, not with every command, and end with the group.
        let mut server = self.raft.server_metrics();
        loop {
            let ended = openraft::async_runtime::WatchReceiver::changed(&mut server).await.is_err();
            let state =
                openraft::async_runtime::WatchReceiver::borrow_watched(&self.metrics).running_state.clone();
            match state {
                Err(fatal) => return self.reason(&fatal),
                Ok(()) if ended => return self.reason(&Fatal::Stopped),
                Ok(()) => {}
            }
        }
    }

    /// Takes a snapshot and purges the log behind it.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        self.raft.trigger().snapshot().await.map_err(|fatal| ProposeError::Stopped(self.reason(&fatal)))
    }

    /// Stops the group. Everything acknowledged is on disk already; the log is sealed when the
    /// last handle to it goes.
    pub async fn shutdown(&self) {
        self.snapshots.abort();
        self.reads.stop();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the group did not stop in good order");
        }
        self.thread.stop().await;
    }

    fn reason(&self, fatal: &Fatal<Types1<S>>) -> String {
        // The log knows the cause; openraft has only heard of its consequences.
        self.log.failure().unwrap_or_else(|| fatal.to_string())
    }
}

fn config_of(options: &GroupOptions) -> Result<Config, StartError> {
    let election = options.election.as_millis() as u64;
    let config = Config {
        cluster_name: "aistack".to_owned(),
        heartbeat_interval: options.heartbeat.as_millis() as u64,
        election_timeout_min: election,
        election_timeout_max: election * 2,
        enable_pre_vote: Some(true),
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.keep_entries,
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Timers(error.to_string()))
}

/// Founds the group at its first start; leads at once, since nobody else can.
async fn lead<S: StateMachine>(raft: &RaftOf<S>, options: &GroupOptions) -> Result<(), StartError> {
    let refused = |error: String| StartError::Raft(error);
    if !raft.is_initialized().await.map_err(|error| refused(error.to_string()))? {
        let members = BTreeMap::from([(options.node, BasicNode { addr: options.address.clone() })]);
        match raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(refused(error.to_string())),
        }
    } else if !raft.is_leader() {
        raft.trigger().elect(true).await.map_err(|error| refused(error.to_string()))?;
    }
    raft.wait_for_recovery(Some(RECOVERY_LIMIT)).await.map_err(|_| StartError::Recovery(RECOVERY_LIMIT))?;
    raft.wait(Some(RECOVERY_LIMIT))
        .current_leader(options.node, "the only voter leads")
        .await
        .map_err(|_| StartError::Recovery(RECOVERY_LIMIT))?;
    Ok(())
}

async fn take_snapshots<S: StateMachine>(raft: RaftOf<S>, due: Arc<Notify>) {
    loop {
        due.notified().await;
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}
