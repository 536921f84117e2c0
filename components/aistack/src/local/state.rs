//! What is on disk about a stack: who supervises it, what runs, and how it is.
//!
//! ```text
//! $XDG_STATE_HOME/aistack/<stack>/
//!   lock              held (flock) by the supervisor for as long as it lives
//!   plan.json         what the supervisor runs
//!   status.json       how it is, replaced atomically at every change
//!   supervisor.log    what a detached supervisor has to say
//!   logs/<pod>.log    output of each pod, over its restarts
//!   traces/<pod>.jsonl  spans of each pod, with `up --traces`
//!   pods/<pod>/       config files and scratch folders, rewritten at every start
//!   secrets/          generated keys
//!   volumes/          what would be PersistentVolumes; survives `aistack down`
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::plan::LocalPlan;

/// How a stack is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StackStatus {
    /// Name of the stack.
    pub stack: String,
    /// The process that looks after it.
    pub supervisor: ProcessId,
    /// When it started, Unix milliseconds.
    pub started_ms: u64,
    /// Address of the front door; empty when the stack has none.
    pub url: String,
    /// Manifest that it was started from.
    pub manifest: PathBuf,
    /// Its pods in the order in which they start.
    pub pods: Vec<PodStatus>,
}

impl StackStatus {
    /// Pods that are Ready.
    pub fn ready(&self) -> usize {
        self.pods.iter().filter(|pod| pod.phase == Phase::Ready).count()
    }

    /// Whether every pod is Ready.
    pub fn all_ready(&self) -> bool {
        self.ready() == self.pods.len()
    }
}

/// How a pod is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its name.
    pub name: String,
    /// The object that it belongs to, such as `KVCluster tinykv`.
    pub owner: String,
    /// What it serves: a model's name, or empty.
    pub serves: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Why, when it is not Ready.
    pub message: String,
    /// Its process; pid 0 when it has none.
    pub process: ProcessId,
    /// Starts after the first one.
    pub restarts: u32,
    /// Milliseconds from its last start to Ready.
    pub ready_after_ms: u64,
    /// Named loopback ports.
    pub ports: Vec<(String, u16)>,
}

impl PodStatus {
    /// Loopback port of a named port.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|(port, _)| port == name).map(|(_, number)| *number)
    }
}

/// Where a pod is in its life; the names are those of `kubectl get pods`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Waits for the pods that it needs.
    #[default]
    Pending,
    /// Runs and has not been ready yet.
    Starting,
    /// Runs and answers.
    Ready,
    /// Runs and does not answer at the moment.
    NotReady,
    /// Ended by itself and is started again after a while.
    CrashLoopBackOff,
    /// Was asked to end.
    Terminating,
    /// Ended as asked.
    Stopped,
}

impl Phase {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::NotReady => "NotReady",
            Self::CrashLoopBackOff => "CrashLoopBackOff",
            Self::Terminating => "Terminating",
            Self::Stopped => "Stopped",
        }
    }
}

/// A process, told apart from a later one with the same id by when it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id; 0 for none.
    pub pid: i32,
    /// Start in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub started: u64,
}

impl ProcessId {
    /// The process of this id, when there is one.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: start_of(pid)? })
    }

    /// This process.
    pub fn own() -> Self {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        Self::of(pid).unwrap_or(Self { pid, started: 0 })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        self.pid > 0 && start_of(self.pid) == Some(self.started)
    }
}

/// When a process started; `None` when it is gone or waits to be reaped.
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted from its end.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or folder.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of ours that is not as we wrote it.
    #[error("read {}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Neither of the variables that say where state goes is set.
    #[error("neither XDG_STATE_HOME nor HOME is set, so there is nowhere to keep state; set HOME")]
    NoHome,
}

/// The folder of one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackFolder(PathBuf);

impl StackFolder {
    /// The folder of a stack of this name.
    pub fn of(stack: &str) -> Result<Self, StateError> {
        Ok(Self(home()?.join(stack)))
    }

    /// A folder given by path.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Every stack that has state.
    pub fn all() -> Result<Vec<Self>, StateError> {
        let home = home()?;
        let Ok(entries) = fs::read_dir(&home) else { return Ok(Vec::new()) };
        let mut folders: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("lock").exists())
            .map(Self)
            .collect();
        folders.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(folders)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Name of the stack.
    pub fn stack(&self) -> String {
        self.0.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Log of a pod.
    pub fn log(&self, pod: &str) -> PathBuf {
        self.0.join("logs").join(format!("{pod}.log"))
    }

    /// Spans of the pods, one file each; absent when they record none.
    pub fn traces(&self) -> PathBuf {
        self.0.join("traces")
    }

    /// Log of a detached supervisor.
    pub fn supervisor_log(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }

    /// Creates the folder for this user only.
    pub fn create(&self) -> Result<(), StateError> {
        use std::os::unix::fs::DirBuilderExt;
        let build = |path: &Path| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| StateError::Io {
                action: "create",
                path: path.to_owned(),
                source,
            })
        };
        build(&self.0)?;
        build(&self.0.join("logs"))
    }

    /// Takes the stack for this process; `None` when a supervisor has it.
    pub fn lock(&self) -> Result<Option<Flock<fs::File>>, StateError> {
        let path = self.0.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| StateError::Io { action: "open", path: path.clone(), source })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(StateError::Io { action: "lock", path, source: errno.into() }),
        }
    }

    /// Whether a supervisor holds the stack.
    pub fn is_up(&self) -> bool {
        self.0.join("lock").exists() && matches!(self.lock(), Ok(None))
    }

    /// How the stack was when its supervisor last said so.
    pub fn status(&self) -> Result<StackStatus, StateError> {
        read_json(&self.0.join("status.json"))
    }

    /// Says how the stack is.
    pub fn write_status(&self, status: &StackStatus) -> Result<(), StateError> {
        write_json(&self.0.join("status.json"), status)
    }

    /// What the supervisor is to run.
    pub fn plan(&self) -> Result<LocalPlan, StateError> {
        read_json(&self.0.join("plan.json"))
    }

    /// What the supervisor ran last, if it ever did.
    pub fn plan_before(&self) -> Result<Option<LocalPlan>, StateError> {
        match self.plan() {
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Says what the supervisor is to run.
    pub fn write_plan(&self, plan: &LocalPlan) -> Result<(), StateError> {
        write_json(&self.0.join("plan.json"), plan)
    }

    /// Deletes everything of the stack, volumes as well.
    pub fn purge(&self) -> Result<(), StateError> {
        match fs::remove_dir_all(&self.0) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::Io { action: "delete", path: self.0.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

fn home() -> Result<PathBuf, StateError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_STATE_HOME")
        .or_else(|| Some(set("HOME")?.join(".local/state")))
        .ok_or(StateError::NoHome)?;
    Ok(base.join("aistack"))
}

/// The model cache: `$AISTACK_MODELS`, else `aistack/models` in the XDG cache.
pub fn models_folder() -> Result<PathBuf, StateError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(models) = set("AISTACK_MODELS") {
        return Ok(models);
    }
    let cache =
        set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).ok_or(StateError::NoHome)?;
    Ok(cache.join("aistack/models"))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, StateError> {
    let text = fs::read_to_string(path).map_err(|source| StateError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| StateError::Json { path: path.to_owned(), source })
}

/// A reader sees the old file or the new one, never half of one.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|source| StateError::Json { path: path.to_owned(), source })?;
    let fresh = path.with_extension("json.new");
    let write = || {
        fs::write(&fresh, text)?;
        fs::rename(&fresh, path)
    };
    write().map_err(|source| StateError::Io { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_later_one() {
        let own = ProcessId::own();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_alive(), "an id that was given again");
        assert!(!ProcessId::default().is_alive());
    }

    #[test]
    fn one_supervisor_a_stack() {
        let folder = tempfile::tempdir().expect("a folder");
        let stack = StackFolder::at(folder.path().join("laptop"));
        stack.create().expect("created");
        let lock = stack.lock().expect("readable").expect("free");
        assert!(stack.is_up());
        drop(lock);
        assert!(!stack.is_up());
    }
}
