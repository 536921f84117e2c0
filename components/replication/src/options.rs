//! How a group runs, and what it says of itself.

use crate::log::LogError;
use crate::raft::NodeId;
use openraft::Config;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

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
    /// Whether this member forgets all others at its start, because most of them are lost for good.
    /// Those must not start again with their data.
    pub forget_others: bool,
    /// Directory of the snapshots.
    pub dir: PathBuf,
    /// How often a leader tells its followers that it lives.
    pub heartbeat: Duration,
    /// How long a follower waits for that before it stands for election; drawn from this value
    /// to a tenth more.
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
            forget_others: false,
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
    /// The others could not be forgotten.
    #[error("cannot make this member the only one: {0}")]
    Forget(#[source] io::Error),
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

/// The same in openraft's words.
pub fn config_of(options: &GroupOptions) -> Result<Config, StartError> {
    let election = options.election.as_millis() as u64;
    let config = Config {
        cluster_name: "aistack".to_owned(),
        heartbeat_interval: options.heartbeat.as_millis() as u64,
        // For the longest of these times after they heard of a leader members refuse to vote, and only then their own time
        // begins: the two together make 1.0 to 1.1 of what was asked for. In the shortest of them two disks must have synced
        // a vote, one after the other, or no election ever succeeds.
        election_timeout_min: election * 9 / 20,
        election_timeout_max: election * 11 / 20,
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
