//! A running Raft group.

use crate::host::Host;
use crate::leadership::{Leadership, TypesOf};
use crate::log::{Log, LogOptions, Recovery};
use crate::members::{Caretaker, members_of};
use crate::options::{GroupOptions, GroupStatus, ProposeError, StartError, config_of};
use crate::raft::{
    Answerer, Forwarded, GroupService, Heard, Machine, Networks, NodeId, Position, RaftOf, ReadIndex,
    ReadRounds, ServiceParts, SnapshotRule, Snapshots, StateMachine, Storage, forget_others,
};
use crate::reads::{ReadGate, Rounds};
use crate::traffic::Traffic;
use crate::transport::{Services, Transport};
use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::{AsyncRuntime, BasicNode, Raft};
use openraft_rt_tokio::TokioRuntime;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What a group needs from its process.
pub struct Parts {
    /// The process's log.
    pub log: Log,
    /// Where requests of peers are answered.
    pub services: Services,
    /// How to reach peers.
    pub transport: Arc<dyn Transport>,
    /// What goes between this process and its peers.
    pub traffic: Traffic,
}

/// A state machine replicated by a Raft group. `A` is the runtime, another one in simulations.
pub struct Replicated<S: StateMachine, A: AsyncRuntime = TokioRuntime> {
    pub(crate) raft: RaftOf<S, A>,
    pub(crate) host: Option<Arc<Host>>,
    pub(crate) leadership: Leadership<S, A>,
    pub(crate) reads: ReadGate,
    pub(crate) parts: Parts,
    pub(crate) group: u32,
    pub(crate) node: NodeId,
    pub(crate) forwarded: Forwarded<S::Response>,
    pub(crate) next_request: AtomicU64,
    pub(crate) answerer: Arc<parking_lot::RwLock<Option<Answerer>>>,
    ended: watch::Sender<bool>,
    pub(crate) removed: watch::Receiver<bool>,
    pub(crate) heartbeat: Duration,
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
        let position = begin_at(&parts, &options, &machine).await?;
        let (group, node) = (options.group, options.node);
        let config = Arc::new(config_of(&options)?);
        // What the state machine shows right after it was opened came from its disk.
        let end = position.applied.map_or(0, |id| id.index() + 1);
        let flushed = Arc::new(AtomicU64::new(end));
        let (members, members_here) = watch::channel(position.members.clone());
        let due = Arc::new(Notify::new());
        let forwarded = Forwarded::default();
        let (applied, applied_here) = watch::channel(end);
        let storage = Storage {
            log: parts.log.group(group),
            flushed: Arc::clone(&flushed),
            node,
            members: members_here.clone(),
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
            members,
        };
        let networks = Networks {
            transport: Arc::clone(&parts.transport),
            traffic: parts.traffic.clone(),
            group,
            node,
            members: members_here.clone(),
        };
        let raft: RaftOf<S, A> = Raft::new(node, config, networks.clone(), storage, machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let answerer: Arc<parking_lot::RwLock<Option<Answerer>>> = Arc::default();
        let leadership = Leadership {
            node,
            server: raft.server_metrics(),
            metrics: raft.metrics(),
            heard: Heard::default(),
            members: members_here.clone(),
            patience: options.election,
        };
        let read_index = ReadIndex::start(ReadRounds {
            raft: raft.clone(),
            networks: networks.clone(),
            patience: options.election,
        });
        let reads = ReadGate::start(Rounds {
            read_index: read_index.clone(),
            leadership: leadership.clone(),
            networks: networks.clone(),
            applied: applied_here,
        });
        let (removed, removed_here) = watch::channel(false);
        let doubt = Arc::new(Notify::new());
        let service = GroupService::new(ServiceParts {
            raft: raft.clone(),
            snapshots,
            answerer: Arc::clone(&answerer),
            members: members_here,
            reads: reads.clone(),
            read_index,
            heard: leadership.heard.clone(),
            doubt: Arc::clone(&doubt),
            removed: removed_here.clone(),
            patience: options.election,
        });
        parts.services.insert(group, Arc::new(service));
        found::<S, A>(raft.clone(), node, options.founders).await?;
        let ended = watch::Sender::new(false);
        drop(A::spawn(take_snapshots::<S, A>(raft.clone(), due, ended.subscribe())));
        let (raft_here, leadership_here) = (raft.clone(), leadership.clone());
        let caretaker = Caretaker { raft: raft_here, leadership: leadership_here, networks, doubt, removed };
        drop(A::spawn(caretaker.run(ended.subscribe())));
        // Numbers of an earlier life of this process must not come again.
        let first_request = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        Ok(Self {
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
            removed: removed_here,
            heartbeat: options.heartbeat,
        })
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

    /// What goes between this process and its peers.
    pub fn traffic(&self) -> &Traffic {
        &self.parts.traffic
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.leadership.metrics.borrow_watched().current_term
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
        let metrics = self.leadership.metrics.borrow_watched().clone();
        GroupStatus {
            node: self.node,
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.map_or(0, |id| id.index()),
            leader: metrics.current_leader,
            snapshot_index: metrics.snapshot.map_or(0, |id| id.index()),
            members: members_of(metrics.membership_config.membership()),
        }
    }

    /// Resolves, with the reason, when the group has stopped for good: the disk failed, or the
    /// state machine did, or this member was removed. The process should exit; after a restart the
    /// disk decides.
    pub async fn stopped(&self) -> String {
        // These change with leaders and members, not with every command, and end with the group.
        let mut server = self.raft.server_metrics();
        let mut removed = self.removed.clone();
        loop {
            let ended = tokio::select! {
                biased;
                Ok(_) = removed.wait_for(|removed| *removed) => {
                    return "this member was removed from the group".to_owned();
                }
                changed = server.changed() => changed.is_err(),
            };
            let state = self.leadership.metrics.borrow_watched().running_state.clone();
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
        self.ended.send_replace(true);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the group did not stop in good order");
        }
        if let Some(host) = self.host.as_ref().filter(|host| Arc::strong_count(host) == 1) {
            host.stop().await;
        }
    }

    pub(crate) fn stop_reason(&self) -> String {
        match self.leadership.metrics.borrow_watched().running_state.clone() {
            Err(fatal) => self.reason(&fatal),
            Ok(()) => "it is shutting down".to_owned(),
        }
    }

    pub(crate) fn reason(&self, fatal: &Fatal<TypesOf<S, A>>) -> String {
        // The log knows the cause; openraft has only heard of its consequences.
        self.parts.log.failure().unwrap_or_else(|| fatal.to_string())
    }
}

/// Where the state machine stands, and the members there: this one alone, where the others are to be forgotten.
async fn begin_at<S: StateMachine>(
    parts: &Parts,
    options: &GroupOptions,
    machine: &S,
) -> Result<Position, StartError> {
    let position = match machine.position().map_err(StartError::Position)? {
        Some(bytes) => Position::decode(&bytes).map_err(StartError::Position)?,
        None => Position::default(),
    };
    if options.forget_others {
        let log = parts.log.group(options.group);
        let forgotten = forget_others(&log, &position, options.node).await.map_err(StartError::Forget)?;
        for (other, at) in forgotten {
            let address = at.addr.lines().next().unwrap_or_default().to_owned();
            tracing::warn!(member = format_args!("{other:x}"), address, "forgotten, as was asked for");
        }
    }
    Ok(position)
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
    mut ended: watch::Receiver<bool>,
) {
    loop {
        let goes_on = tokio::select! {
            biased;
            () = due.notified() => true,
            _ = ended.wait_for(|ended| *ended) => false,
        };
        if !goes_on || raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}
