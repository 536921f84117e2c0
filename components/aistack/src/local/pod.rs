//! One pod as a process: start, ask how it is, start again, stop.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::board::Board;
use super::plan::{PodPlan, ProbePlan};
use super::probe::{Answer, ask};
use super::state::{Phase, PodStatus, ProcessId, StackFolder, StackStatus};
use super::tail::{cut, last_complaint};

/// Time between two questions to a pod that is not ready yet.
const EAGER: Duration = Duration::from_millis(50);
/// A log larger than this is set aside.
pub(super) const LOG_BYTES: u64 = 32 << 20;

/// What a pod is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Run.
    #[default]
    Run,
    /// End in peace.
    Terminate,
    /// End now.
    Kill,
}

/// Everything that a pod's task needs.
pub struct PodTask {
    /// What to run.
    pub plan: PodPlan,
    /// The program, found.
    pub program: PathBuf,
    /// This executable, which runs as the pod until it becomes the program.
    pub shim: PathBuf,
    /// Where the pod's state is said.
    pub board: Rc<Board>,
    /// Where its files lie.
    pub folder: StackFolder,
    /// What it is told.
    pub orders: watch::Receiver<Order>,
}

/// Why a run of the process is over.
enum End {
    /// It ended by itself.
    Exited(io::Result<ExitStatus>),
    /// It stopped answering.
    Unhealthy(String),
    /// It was told to.
    Ordered,
}

impl PodTask {
    /// Runs the pod until it is told to end.
    pub async fn run(mut self) {
        let mut orders = self.orders.clone();
        tokio::select! {
            biased;
            () = told_to_end(&mut orders) => return self.stopped(),
            () = self.needs_are_ready() => {}
        }
        let mut backoff = Backoff::default();
        let mut restarts = 0;
        loop {
            let said_before = fs::metadata(self.folder.log(&self.plan.name)).map_or(0, |meta| meta.len());
            let (end, ready_for) = self.once(restarts).await;
            if matches!(end, End::Ordered) || *self.orders.borrow() != Order::Run {
                return self.stopped();
            }
            let wait = backoff.next(ready_for);
            let why = self.explain(end, said_before);
            self.board.change(&self.plan.name, |pod| {
                pod.phase = Phase::CrashLoopBackOff;
                pod.process = ProcessId::default();
                pod.message = format!("{why}; starts again in {}", humantime::format_duration(wait));
            });
            tokio::select! {
                biased;
                () = told_to_end(&mut self.orders) => return self.stopped(),
                () = sleep(wait) => restarts += 1,
            }
        }
    }

    /// Waits for the pods that this one cannot start without, and says which are still missing.
    async fn needs_are_ready(&self) {
        loop {
            let now = missing(&self.plan.needs, &self.board.snapshot());
            if now.is_empty() {
                return;
            }
            self.board.change(&self.plan.name, |pod| pod.message = format!("waits for {}", now.join(", ")));
            self.board.until(|status| missing(&self.plan.needs, status) != now).await;
        }
    }

    fn stopped(&self) {
        self.board.change(&self.plan.name, |pod| {
            pod.phase = Phase::Stopped;
            pod.process = ProcessId::default();
            pod.message.clear();
        });
    }

    fn explain(&self, end: End, said_before: u64) -> String {
        let killed = matches!(&end, End::Exited(Ok(status)) if is_killed(*status));
        let why = match end {
            End::Exited(Ok(status)) => {
                match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, Some(signal)) => {
                        let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
                        format!("killed by {name}")
                    }
                    (None, None) => "ended".to_owned(),
                }
            }
            End::Exited(Err(error)) => format!("{}: {error}", self.program.display()),
            End::Unhealthy(why) => why,
            End::Ordered => String::new(),
        };
        if killed {
            return why;
        }
        match last_complaint(&self.folder.log(&self.plan.name), said_before) {
            Some(line) => format!("{why}: {line}"),
            None => why,
        }
    }

    /// Runs the process once; says why it ended and for how long it had been ready.
    async fn once(&mut self, restarts: u32) -> (End, Duration) {
        let begun = Instant::now();
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => return (End::Exited(Err(error)), Duration::ZERO),
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        self.board.change(&self.plan.name, |pod| {
            pod.phase = Phase::Starting;
            pod.process = ProcessId::of(pid).unwrap_or_default();
            pod.restarts = restarts;
            pod.message.clear();
        });
        let mut ready_since = None;
        let end = tokio::select! {
            biased;
            () = told_to_end(&mut self.orders) => End::Ordered,
            status = child.wait() => End::Exited(status),
            why = health(&self.plan, &self.board, begun, &mut ready_since) => End::Unhealthy(why),
        };
        if !matches!(end, End::Exited(_)) {
            self.terminate(&mut child, pid).await;
        }
        // Whatever the process left behind goes with it.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        (end, ready_since.map_or(Duration::ZERO, |since: Instant| since.elapsed()))
    }

    fn spawn(&self) -> io::Result<Child> {
        for folder in &self.plan.folders {
            fs::create_dir_all(folder)?;
        }
        for file in &self.plan.files {
            write_private(&file.path, &file.text)?;
        }
        let log_path = self.folder.log(&self.plan.name);
        cut(&log_path, LOG_BYTES)?;
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path)?;
        let mut command = Command::new(&self.shim);
        command
            .arg(super::shim::COMMAND)
            .arg(std::process::id().to_string())
            .arg(&self.program)
            .args(&self.plan.args)
            .envs(&self.plan.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in a terminal goes to the supervisor alone, which stops its pods in order.
            .process_group(0);
        command.spawn()
    }

    async fn terminate(&mut self, child: &mut Child, pid: i32) {
        self.board.change(&self.plan.name, |pod| pod.phase = Phase::Terminating);
        if *self.orders.borrow() != Order::Kill {
            // An error here says that the process is gone, which is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            tokio::select! {
                biased;
                _ = self.orders.wait_for(|order| *order == Order::Kill) => {}
                ended = timeout(self.plan.grace, child.wait()) => if ended.is_ok() { return },
            }
        }
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = child.wait().await;
    }
}

/// The pods that have yet to be Ready before one with these needs starts: of several pods of one object, most must be.
fn missing(needs: &[String], status: &StackStatus) -> Vec<String> {
    let awaited: Vec<&PodStatus> = status.pods.iter().filter(|pod| needs.contains(&pod.name)).collect();
    let is_served = |owner: &str| {
        let pods = || awaited.iter().filter(|pod| pod.owner == owner);
        pods().filter(|pod| pod.phase == Phase::Ready).count() * 2 > pods().count()
    };
    awaited
        .iter()
        .filter(|pod| pod.phase != Phase::Ready && !is_served(&pod.owner))
        .map(|pod| pod.name.clone())
        .collect()
}

/// Whether somebody else ended the process: then its own last words say nothing about why.
fn is_killed(status: ExitStatus) -> bool {
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT].map(|signal| Some(signal as i32)).contains(&signal)
}

/// Waits until the pod is to end; a supervisor that is gone has no pods.
async fn told_to_end(orders: &mut watch::Receiver<Order>) {
    // The value is read where it matters; an error says that nobody is left to give orders.
    let _ = orders.wait_for(|order| *order != Order::Run).await;
}

/// Config files may hold addresses with credentials.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Asks a pod how it is for as long as it runs; returns only when it has to be started again.
async fn health(plan: &PodPlan, board: &Board, begun: Instant, ready_since: &mut Option<Instant>) -> String {
    let deadline = plan.startup.period.saturating_mul(plan.startup.failures);
    while let Answer::Bad(why) = ask(&plan.startup).await {
        if begun.elapsed() > deadline {
            return format!("did not start within {} s ({why})", deadline.as_secs());
        }
        sleep(EAGER).await;
    }
    let alive = liveness(&plan.liveness);
    let ready = readiness(plan, board, begun, ready_since);
    tokio::select! {
        why = alive => why,
        () = ready => String::new(),
    }
}

async fn liveness(probe: &ProbePlan) -> String {
    let mut failures = 0;
    loop {
        sleep(probe.period).await;
        match ask(probe).await {
            Answer::Good => failures = 0,
            Answer::Bad(why) => {
                failures += 1;
                if failures >= probe.failures {
                    return format!("stopped answering {}: {why}", probe.path);
                }
            }
        }
    }
}

/// Keeps the board up to date; never returns.
async fn readiness(plan: &PodPlan, board: &Board, begun: Instant, ready_since: &mut Option<Instant>) {
    let mut failures = 0;
    loop {
        match ask(&plan.readiness).await {
            Answer::Good => {
                failures = 0;
                let first = ready_since.is_none();
                ready_since.get_or_insert_with(Instant::now);
                board.change(&plan.name, |pod| {
                    pod.phase = Phase::Ready;
                    pod.message.clear();
                    if first {
                        pod.ready_after_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                    }
                });
            }
            Answer::Bad(why) => {
                failures += 1;
                if ready_since.is_some() && failures >= plan.readiness.failures {
                    board.change(&plan.name, |pod| {
                        pod.phase = Phase::NotReady;
                        pod.message = why;
                    });
                } else if ready_since.is_none() {
                    board.change(&plan.name, |pod| pod.message = why);
                }
            }
        }
        sleep(if ready_since.is_some() && failures == 0 { plan.readiness.period } else { EAGER }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_pods_of_an_object_most_must_be_ready() {
        let pod = |name: &str, ready: bool| PodStatus {
            name: name.to_owned(),
            owner: name.split('-').next().unwrap_or_default().to_owned(),
            phase: if ready { Phase::Ready } else { Phase::Starting },
            ..PodStatus::default()
        };
        let needs = ["kv-0", "kv-1", "kv-2", "vectors-0"].map(str::to_owned);
        let table: [([bool; 4], &[&str]); 5] = [
            ([false; 4], &["kv-0", "kv-1", "kv-2", "vectors-0"]),
            ([true, false, false, true], &["kv-1", "kv-2"]),
            ([true, false, true, true], &[]),
            ([false, true, true, false], &["vectors-0"]),
            ([true; 4], &[]),
        ];
        for (ready, wanted) in table {
            let mut pods: Vec<_> = needs.iter().zip(ready).map(|(name, ready)| pod(name, ready)).collect();
            pods.push(pod("hub-0", false));
            let status = StackStatus { pods, ..StackStatus::default() };
            assert_eq!(missing(&needs, &status), wanted, "{ready:?}");
        }
    }
}
