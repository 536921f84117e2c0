//! A running Raft group.

use crate::host::Host;
use crate::log::{Log, LogError, LogOptions, Recovery};
use crate::raft::{
    Answerer, Forwarded, GroupService, Led, Machine, Networks, NodeId, Payload, Position, RaftOf,
    SnapshotRule, Snapshots, StateMachine, Storage, Types, address_of,
};
use crate::reads::{ReadGate, Rounds};
use crate::transport::{Kind, Peer, Request, Services, Transport};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{AsyncRuntime, BasicNode, Config, Raft, RaftMetrics};
use openraft_rt_tokio::TokioRuntime;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// How a group runs.
#[derive(Clone)]
pub struct GroupOptions {
    /// The group's number in its process, the same on every member.
    pub group: u32,
    /// Identity of this member; never given to another node.
    pub node: NodeId,
    /// Who founds the group, this member among them, the same on every one of them: where each
    /// listens, and after a line feed what the application says of it. Empty: this member waits
    /// until a leader adds it. Used at the first start only.
    pub founders: BTreeMap<NodeId, String>,
    /// Directory of the snapshots.
    pub dir: PathBuf,
    /// How often a leader tells its followers that it lives.
    pub heartbeat: Duration,
    /// How long a follower waits for that before it stands for election; drawn from this value
    /// to a fifth more.
    pub election: Duration,
    /// A snapshot is taken after this many entries …
    pub snapshot_entries: u64,
    /// … or this many bytes of commands.
    pub snapshot_bytes: u64,
    /// Entries kept in the log behind a snapshot, for followers that are a little late.
    pub keep_entries: u64,
}

impl GroupOptions {
    /// A group of one with etcd's timers; a snapshot every 100,000 entries or 256 MiB.
    pub fn new(node: NodeId, dir: PathBuf) -> Self {
        Self {
            group: 0,
            node,
            founders: BTreeMap::from([(node, String::new())]),
            dir,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            snapshot_entries: 100_000,
            snapshot_bytes: 256 << 20,
            keep_entries: 1_000,
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
    /// Peers cannot be listened to.
    #[error("cannot listen to peers: {0}")]
    Listener(#[source] io::Error),
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

/// Why a command was not applied, or a read not let pass.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// Another member leads, or nobody does; nothing was done.
    #[error("this member does not lead")]
    NotLeader {
        /// Who leads, as far as is known.
        leader: Option<NodeId>,
    },
    /// Whether the command was or will be applied is unknown.
    #[error("what came of it is unknown: {0}")]
    Unknown(String),
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
    /// Members.
    pub members: BTreeMap<NodeId, Member>,
}

/// A member as the group knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Where it listens to peers.
    pub address: String,
    /// What the application says of it.
    pub label: String,
    /// Whether its vote counts; a learner's does not.
    pub voter: bool,
}

type TypesOf<S, A> = Types<Option<<S as StateMachine>::Response>, A>;
type MetricsOf<S, A> = WatchReceiverOf<TypesOf<S, A>, RaftMetrics<TypesOf<S, A>>>;
type ServerMetricsOf<S, A> = WatchReceiverOf<TypesOf<S, A>, RaftServerMetrics<TypesOf<S, A>>>;

/// Who leads, as far as this member knows.
pub struct Leadership<S: StateMachine, A: AsyncRuntime> {
    server: ServerMetricsOf<S, A>,
    patience: Duration,
}

impl<S: StateMachine, A: AsyncRuntime> Clone for Leadership<S, A> {
    fn clone(&self) -> Self {
        Self { server: self.server.clone(), patience: self.patience }
    }
}

impl<S: StateMachine, A: AsyncRuntime> Leadership<S, A> {
    /// The leader, and where it listens.
    pub fn leader(&self) -> Option<Peer> {
        let server = self.server.borrow_watched();
        let node = server.current_leader?;
        let address = server.membership_config.membership().get_node(&node).map(address_of)?;
        Some(Peer { node, address })
    }

    /// Waits until somebody leads; false when the group has ended.
    pub async fn led(&mut self) -> bool {
        while self.leader().is_none() {
            if self.server.changed().await.is_err() {
                return false;
            }
        }
        true
    }

    /// How long a leader may take to answer before it counts as gone.
    pub fn patience(&self) -> Duration {
        self.patience
    }
}

/// What a group needs from its process.
pub struct Parts {
    /// The process's log.
    pub log: Log,
    /// Where requests of peers are answered.
    pub services: Services,
    /// How to reach peers.
    pub transport: Arc<dyn Transport>,
}

/// A state machine replicated by a Raft group. `A` is the runtime, another one in simulations.
pub struct Replicated<S: StateMachine, A: AsyncRuntime = TokioRuntime> {
    pub(crate) raft: RaftOf<S, A>,
    pub(crate) host: Option<Arc<Host>>,
    pub(crate) leadership: Leadership<S, A>,
    metrics: MetricsOf<S, A>,
    reads: ReadGate,
    parts: Parts,
    group: u32,
    node: NodeId,
    forwarded: Forwarded<S::Response>,
    next_request: AtomicU64,
    answerer: Arc<parking_lot::RwLock<Option<Answerer>>>,
    ended: Arc<Notify>,
    heartbeat: Duration,
}

/// How long the log may take to be applied again at start.
const RECOVERY_LIMIT: Duration = Duration::from_mins(10);

impl<S: StateMachine> Replicated<S> {
    /// Opens a log below the options' directory for this one group, without peers.
    pub async fn start(options: GroupOptions, log: LogOptions, machine: S) -> Result<Self, StartError> {
        let host = Host::alone(&options.dir, log)?;
        host.start(options, machine).await
    }

    /// What was found in the log at start.
    pub fn recovery(&self) -> Recovery {
        self.host.as_ref().map(|host| host.recovery().clone()).unwrap_or_default()
    }
}

impl<S: StateMachine, A: AsyncRuntime> Replicated<S, A> {
    /// Starts a group in the context of the runtime `A`.
    pub fn launch(
        parts: Parts,
        options: GroupOptions,
        machine: S,
    ) -> BoxFuture<'static, Result<Self, StartError>> {
        // Boxed: the compiler cannot see through this future's type that it may change threads.
        Box::pin(Self::start_here(parts, options, machine))
    }

    async fn start_here(parts: Parts, options: GroupOptions, machine: S) -> Result<Self, StartError> {
        let snapshots = Snapshots::open(options.dir.join("snapshots")).map_err(StartError::Snapshots)?;
        let position = match machine.position().map_err(StartError::Position)? {
            Some(bytes) => Position::decode(&bytes).map_err(StartError::Position)?,
            None => Position::default(),
        };
        let (group, node) = (options.group, options.node);
        let config = Arc::new(config_of(&options)?);
        // What the state machine shows right after it was opened came from its disk.
        let end = position.applied.map_or(0, |id| id.index() + 1);
        let flushed = Arc::new(AtomicU64::new(end));
        let voters = Arc::new(AtomicUsize::new(0));
        let due = Arc::new(Notify::new());
        let forwarded = Forwarded::default();
        let (applied, applied_here) = watch::channel(end);
        let storage = Storage {
            log: parts.log.group(group),
            flushed: Arc::clone(&flushed),
            node,
            voters: Arc::clone(&voters),
        };
        let machine = Machine {
            state: machine,
            position,
            snapshots: snapshots.clone(),
            flushed,
            rule: SnapshotRule { entries: options.snapshot_entries, bytes: options.snapshot_bytes },
            due: Arc::clone(&due),
            since: (0, 0),
            node,
            forwarded: Arc::clone(&forwarded),
            applied,
            voters: Arc::clone(&voters),
        };
        let networks = || Networks { transport: Arc::clone(&parts.transport), group, node };
        let raft: RaftOf<S, A> = Raft::new(node, config, networks(), storage, machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let answerer: Arc<parking_lot::RwLock<Option<Answerer>>> = Arc::default();
        let service = GroupService::new(raft.clone(), snapshots, Arc::clone(&answerer));
        parts.services.insert(group, Arc::new(service));
        found::<S, A>(raft.clone(), node, options.founders).await?;
        let ended = Arc::new(Notify::new());
        drop(A::spawn(take_snapshots::<S, A>(raft.clone(), due, Arc::clone(&ended))));
        let leadership = Leadership { server: raft.server_metrics(), patience: options.election };
        let rounds = Rounds {
            raft: raft.clone(),
            leadership: leadership.clone(),
            networks: networks(),
            applied: applied_here,
        };
        let reads = ReadGate::start(rounds);
        // Numbers of an earlier life of this process must not come again.
        let first_request = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        Ok(Self {
            metrics: raft.metrics(),
            raft,
            host: None,
            leadership,
            reads,
            parts,
            group,
            node,
            forwarded,
            next_request: AtomicU64::new(first_request),
            answerer,
            ended,
            heartbeat: options.heartbeat,
        })
    }

    /// Replicates a command; answers what it answered when it was applied here. A follower hands
    /// the command to its leader. Waits while nobody leads: the caller sets a limit.
    pub async fn propose(&self, command: Bytes) -> Result<S::Response, ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            let outcome = match leadership.leader() {
                Some(leader) if leader.node == self.node => self.write(command.clone()).await,
                Some(leader) => self.forward(&leader, command.clone()).await,
                None => Err(ProposeError::NotLeader { leader: None }),
            };
            match outcome {
                Err(ProposeError::NotLeader { .. }) => self.pause(&mut leadership).await?,
                other => return other,
            }
        }
    }

    /// Waits until there may be a leader to ask.
    async fn pause(&self, leadership: &mut Leadership<S, A>) -> Result<(), ProposeError> {
        if leadership.leader().is_some() {
            // Whom this member takes for the leader says that it is not.
            A::sleep(self.heartbeat / 4).await;
        }
        if leadership.led().await { Ok(()) } else { Err(ProposeError::Stopped(self.stop_reason())) }
    }

    async fn write(&self, command: Bytes) -> Result<S::Response, ProposeError> {
        match self.raft.client_write(Payload { command, origin: None }).await {
            Ok(written) => written
                .data
                .ok_or_else(|| ProposeError::Stopped("the command was applied without an answer".to_owned())),
            // Refused before it was appended: no leader, or one that a quorum does not follow (yet).
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id })
            }
            // It is in somebody's log; whether it stays is another leader's to say.
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                Err(ProposeError::Unknown("the leader changed".to_owned()))
            }
            Err(RaftError::APIError(error)) => Err(ProposeError::Stopped(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(self.reason(&fatal))),
        }
    }

    async fn forward(&self, leader: &Peer, command: Bytes) -> Result<S::Response, ProposeError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting::new(&self.forwarded, request);
        let mut body = BytesMut::with_capacity(16 + command.len());
        body.put_u64_le(self.node);
        body.put_u64_le(request);
        body.put_slice(&command);
        match self.ask_peer(leader, Kind::Propose, body.freeze()).await? {
            Led::Done(_) => waiting.answer().await,
            Led::NotLeader(leader) => Err(ProposeError::NotLeader { leader }),
            Led::Unknown(reason) => Err(ProposeError::Unknown(reason)),
        }
    }

    async fn ask_peer(&self, peer: &Peer, kind: Kind, body: Bytes) -> Result<Led, ProposeError> {
        let answer = self.parts.transport.call(peer, Request { group: self.group, kind, body }).await;
        answer
            .and_then(Led::decode)
            .map_err(|error| ProposeError::Unknown(format!("the leader did not answer: {error}")))
    }

    /// Has the leader's application answer a question; this member's, if it leads. Waits while
    /// nobody leads: the caller sets a limit.
    pub async fn ask_leader(&self, question: Bytes) -> Result<Bytes, ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            let answer = match leadership.leader() {
                Some(leader) if leader.node == self.node => {
                    let answerer = self.answerer.read().clone();
                    match answerer {
                        Some(answerer) => return Ok(answerer(question).await),
                        None => Led::NotLeader(None),
                    }
                }
                Some(leader) => self.ask_peer(&leader, Kind::Ask, question.clone()).await?,
                None => Led::NotLeader(None),
            };
            match answer {
                Led::Done(bytes) => return Ok(bytes),
                Led::NotLeader(_) => self.pause(&mut leadership).await?,
                Led::Unknown(reason) => return Err(ProposeError::Unknown(reason)),
            }
        }
    }

    /// From now on `answerer` answers what [`ask_leader`](Self::ask_leader) asks of this member.
    pub fn answer_with(&self, answerer: Answerer) {
        *self.answerer.write() = Some(answerer);
    }

    /// Returns when everything acknowledged before this call is applied here, so that a read of
    /// the local state is linearizable. By ReadIndex: no clock is trusted. Calls waiting at the
    /// same time share one round. Waits while nobody leads: the caller sets a limit.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            match self.reads.pass().await {
                Err(ProposeError::NotLeader { .. } | ProposeError::Unknown(_)) => {
                    self.pause(&mut leadership).await?;
                }
                other => return other,
            }
        }
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.metrics.borrow_watched().current_term
    }

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leadership.leader().map(|leader| leader.node)
    }

    /// Waits until the leader is another than `known`; answers the new one.
    pub async fn leader_changed(&self, known: Option<NodeId>) -> Result<Option<NodeId>, ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            let leader = leadership.leader().map(|leader| leader.node);
            if leader != known {
                return Ok(leader);
            }
            if leadership.server.changed().await.is_err() {
                return Err(ProposeError::Stopped(self.stop_reason()));
            }
        }
    }

    /// Where the group stands.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.metrics.borrow_watched().clone();
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        let member = |id: &NodeId, node: &BasicNode| {
            let (address, label) = node.addr.split_once('\n').unwrap_or((&node.addr, ""));
            Member { address: address.to_owned(), label: label.to_owned(), voter: voters.contains(id) }
        };
        GroupStatus {
            node: self.node,
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.map_or(0, |id| id.index()),
            leader: metrics.current_leader,
            snapshot_index: metrics.snapshot.map_or(0, |id| id.index()),
            members: metrics.membership_config.nodes().map(|(id, node)| (*id, member(id, node))).collect(),
        }
    }

    /// Resolves, with the reason, when the group has stopped for good: the disk failed, or the
    /// state machine did. The process should exit; after a restart the disk decides.
    pub async fn stopped(&self) -> String {
        // These change with leaders and members, not with every command, and end with the group.
        let mut server = self.raft.server_metrics();
        loop {
            let ended = server.changed().await.is_err();
            let state = self.metrics.borrow_watched().running_state.clone();
            match state {
                Err(fatal) => return self.reason(&fatal),
                Ok(()) if ended => return self.reason(&Fatal::Stopped),
                Ok(()) => {}
            }
        }
    }

    /// Hands the leadership, which this member must have, to the voter `to`. Returns when somebody
    /// else leads; the caller sets a limit.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ProposeError> {
        let leader = self.leader();
        if leader != Some(self.node) {
            return Err(ProposeError::NotLeader { leader });
        }
        if to == self.node {
            return Ok(());
        }
        let transferred = self.raft.trigger().transfer_leader(to).await;
        transferred.map_err(|fatal| ProposeError::Stopped(self.reason(&fatal)))?;
        let mut known = leader;
        while known == leader || known.is_none() {
            known = self.leader_changed(known).await?;
        }
        Ok(())
    }

    /// Takes a snapshot and purges the log behind it.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        self.raft.trigger().snapshot().await.map_err(|fatal| ProposeError::Stopped(self.reason(&fatal)))
    }

    /// Stops the group. Everything acknowledged is on disk already; the log is sealed when the
    /// last handle to it goes.
    pub async fn shutdown(&self) {
        self.parts.services.remove(self.group);
        *self.answerer.write() = None;
        self.ended.notify_one();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the group did not stop in good order");
        }
        if let Some(host) = self.host.as_ref().filter(|host| Arc::strong_count(host) == 1) {
            host.stop().await;
        }
    }

    fn stop_reason(&self) -> String {
        match self.metrics.borrow_watched().running_state.clone() {
            Err(fatal) => self.reason(&fatal),
            Ok(()) => "it is shutting down".to_owned(),
        }
    }

    pub(crate) fn reason(&self, fatal: &Fatal<TypesOf<S, A>>) -> String {
        // The log knows the cause; openraft has only heard of its consequences.
        self.parts.log.failure().unwrap_or_else(|| fatal.to_string())
    }
}

/// A place among those who wait for a forwarded command; given up when it is dropped.
struct Waiting<'a, R> {
    all: &'a Forwarded<R>,
    request: u64,
    receiver: oneshot::Receiver<R>,
}

impl<'a, R> Waiting<'a, R> {
    fn new(all: &'a Forwarded<R>, request: u64) -> Self {
        let (sender, receiver) = oneshot::channel();
        all.lock().insert(request, sender);
        Self { all, request, receiver }
    }

    async fn answer(mut self) -> Result<R, ProposeError> {
        (&mut self.receiver)
            .await
            .map_err(|_| ProposeError::Unknown("it was applied with a snapshot".to_owned()))
    }
}

impl<R> Drop for Waiting<'_, R> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.request);
    }
}

fn config_of(options: &GroupOptions) -> Result<Config, StartError> {
    let election = options.election.as_millis() as u64;
    let config = Config {
        cluster_name: "aistack".to_owned(),
        heartbeat_interval: options.heartbeat.as_millis() as u64,
        election_timeout_min: election,
        // Members refuse to vote for as long after they heard of a leader: a wider range would only
        // make every election wait longer.
        election_timeout_max: election + election / 5,
        // The state is not on disk when it answers, and what was committed is not in the log: a
        // leader that comes back must be elected again.
        enable_leader_restore: Some(false),
        enable_pre_vote: Some(true),
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.keep_entries,
        // As long as the log has the entries, they are sent, not a snapshot.
        replication_lag_threshold: u64::MAX,
        max_payload_entries: 1_024,
        backoff: "50ms 100ms 200ms ...500ms".to_owned(),
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Timers(error.to_string()))
}

/// Founds the group at its first start. Alone, this member leads at once, since nobody else can.
fn found<S: StateMachine, A: AsyncRuntime>(
    raft: RaftOf<S, A>,
    node: NodeId,
    founders: BTreeMap<NodeId, String>,
) -> BoxFuture<'static, Result<(), StartError>> {
    Box::pin(async move {
        let initialized = raft.is_initialized().await.map_err(|error| StartError::Raft(error.to_string()))?;
        if !initialized && !founders.is_empty() {
            let founders: BTreeMap<NodeId, BasicNode> =
                founders.into_iter().map(|(id, addr)| (id, BasicNode { addr })).collect();
            match raft.initialize(founders).await {
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(StartError::Raft(error.to_string())),
            }
        }
        let voters: Vec<NodeId> = raft.voter_ids().collect();
        if voters != [node] {
            return Ok(());
        }
        if initialized && !raft.is_leader() {
            raft.trigger().elect(true).await.map_err(|error| StartError::Raft(error.to_string()))?;
        }
        raft.wait_for_recovery(Some(RECOVERY_LIMIT))
            .await
            .map_err(|_| StartError::Recovery(RECOVERY_LIMIT))?;
        raft.wait(Some(RECOVERY_LIMIT))
            .current_leader(node, "the only voter leads")
            .await
            .map_err(|_| StartError::Recovery(RECOVERY_LIMIT))?;
        Ok(())
    })
}

async fn take_snapshots<S: StateMachine, A: AsyncRuntime>(
    raft: RaftOf<S, A>,
    due: Arc<Notify>,
    ended: Arc<Notify>,
) {
    loop {
        tokio::select! {
            biased;
            () = due.notified() => {
                if raft.trigger().snapshot().await.is_err() {
                    return;
                }
            }
            () = ended.notified() => return,
        }
    }
}
