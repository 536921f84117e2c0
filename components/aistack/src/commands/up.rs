//! `aistack up`: checks everything that can be checked first, then starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aistack_crds::check::nearest;
use aistack_operator::{Compiled, Outlet};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::task::LocalSet;

use super::logs::Printer;
use super::{read_manifest, runtime};
use crate::cli::UpArgs;
use crate::fail::Failure;
use crate::local::members;
use crate::local::plan::{Folders, LocalPlan, PlanError, PortPlan, Wanted, plan};
use crate::local::ports::{Holder, Ports, holder};
use crate::local::state::{Phase, StackFolder, StackStatus, models_folder};
use crate::local::supervise::{Supervisor, generate_secrets};
use crate::local::{programs, tail};
use crate::view::Progress;

/// Name of the hidden command that a background supervisor runs.
pub const SUPERVISE: &str = "__supervise";
/// Restarts after which a pod will not come up by waiting.
const HOPELESS_RESTARTS: u32 = 3;

/// Runs the command.
pub fn run(args: &UpArgs) -> Result<(), Failure> {
    let compiled = read_manifest(&args.file)?;
    refuse_gaps(&args.file, &compiled)?;
    let folder = StackFolder::of(&compiled.name)?;
    folder.create()?;
    let Some(lock) = folder.lock()? else { return Err(already_up(&folder)) };
    kill_orphans(&folder);
    // Held until every pod listens on its own port.
    let mut ports = Ports::default();
    let before = folder.plan_before()?;
    let mut plan = prepare(&compiled, &folder, before.as_ref(), args.port, &mut ports)?;
    if args.traces {
        plan.record_spans(&folder.traces());
    }
    folder.write_plan(&plan)?;
    let manifest = fs::canonicalize(&args.file).unwrap_or_else(|_| args.file.clone());
    if args.detach {
        // The supervisor takes the lock itself.
        drop(lock);
        let outcome = detach(&folder, &manifest, args.timeout);
        drop(ports);
        return outcome;
    }
    let outcome = foreground(plan, &folder, manifest);
    drop((lock, ports));
    outcome
}

fn refuse_gaps(file: &Path, compiled: &Compiled) -> Result<(), Failure> {
    let gaps = compiled.gaps_at(Outlet::Local);
    if gaps.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = gaps.iter().map(|gap| format!("{}: {gap}", file.display())).collect();
    Err(Failure::refused(lines.join("\nerror: ")))
}

fn already_up(folder: &StackFolder) -> Failure {
    let stack = folder.stack();
    let (pid, url) = folder
        .status()
        .map(|status| (format!(" (pid {})", status.supervisor.pid), status.url))
        .unwrap_or_default();
    Failure::wrong_state(format!(
        "stack {stack} is up already{pid}   {url}\n  look at it: aistack status; after a change of the manifest: aistack down, then up again"
    ))
}

/// Ends what a supervisor that died left behind. The kernel ends pods with their supervisor, so this finds only what
/// slipped through before the pod's life was tied to it.
fn kill_orphans(folder: &StackFolder) {
    let Ok(status) = folder.status() else { return };
    for pod in status.pods.iter().filter(|pod| pod.process.is_alive()) {
        eprintln!(
            "  up      ended {} (pid {}), left behind by a supervisor that died",
            pod.name, pod.process.pid
        );
        let pid = Pid::from_raw(pod.process.pid);
        // Pods lead their own process group; one that does not any more is ended alone.
        if killpg(pid, Signal::SIGKILL).is_err() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let begun = Instant::now();
        while pod.process.is_alive() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Ports, programs, models and keys: everything that could be missing is found missing before anything starts.
fn prepare(
    compiled: &Compiled,
    folder: &StackFolder,
    before: Option<&LocalPlan>,
    entry: Option<u16>,
    ports: &mut Ports,
) -> Result<LocalPlan, Failure> {
    let folders = Folders { state: folder.path().to_owned(), models: models_folder()? };
    let mut give = |pod: &str, container: u16, wanted: Wanted| {
        let none = |source| PlanError::Port { pod: pod.to_owned(), source };
        let earlier = before.and_then(|plan| members::port(plan, pod, container));
        match (wanted, earlier) {
            (Wanted::Entry, _) => {
                let port = entry.unwrap_or(container);
                ports.exactly(port).ok_or_else(|| PlanError::EntryTaken { port, by: taken_by(holder(port)) })
            }
            (Wanted::Lasting, Some(port)) => ports.exactly(port).ok_or_else(|| PlanError::MemberTaken {
                pod: pod.to_owned(),
                port,
                by: taken_by(holder(port)),
            }),
            (Wanted::Lasting, None) => {
                ports.lasting(&format!("{}/{pod}", folder.path().display())).map_err(none)
            }
            (Wanted::Any, earlier) => {
                let first = ports.exactly(container);
                let port = first.or_else(|| ports.exactly(earlier?));
                port.map_or_else(|| ports.prefer(container), Ok).map_err(none)
            }
        }
    };
    let plan =
        plan(&compiled.name, &compiled.manifests, &folders, &mut give).map_err(|error| match error {
            PlanError::EntryTaken { port, .. } => Failure::failed(format!(
                "{error}\n  stop it, or: aistack up --port {}",
                port.saturating_add(10)
            )),
            other => Failure::failed(other.to_string()),
        })?;
    if let Some(before) = before {
        members::kept(before, &plan).map_err(Failure::refused)?;
    }
    let pods = plan.pods.iter().map(|pod| (pod.name.as_str(), pod.ports.as_slice()));
    for sentence in moved(pods, plan.entry_port, holder) {
        eprintln!("  up      {sentence}");
    }
    programs::find_all(&plan.pods).map_err(|error| Failure::failed(error.to_string()))?;
    check_models(&plan, &folders.models)?;
    generate_secrets(&plan)?;
    Ok(plan)
}

/// A sentence for each port that others have, so that a pod listens elsewhere. That pods of one stack want the same port is no
/// news.
fn moved<'a>(
    pods: impl Iterator<Item = (&'a str, &'a [PortPlan])> + Clone,
    entry_port: u16,
    holder: impl Fn(u16) -> Option<Holder>,
) -> Vec<String> {
    let given: Vec<u16> = pods.clone().flat_map(|(_, ports)| ports).map(|port| port.local).collect();
    let mut sentences = Vec::new();
    for (pod, ports) in pods {
        for PortPlan { name, container, local } in ports {
            let is_for_clients = !["admin", "peer"].contains(&name.as_str());
            if !is_for_clients || [*container, entry_port].contains(local) || given.contains(container) {
                continue;
            }
            let by = taken_by(holder(*container));
            sentences.push(format!(
                "port {container} is taken{by}: the {name} port of {pod} is 127.0.0.1:{local}"
            ));
        }
    }
    sentences
}

fn taken_by(holder: Option<Holder>) -> String {
    holder.map(|holder| format!(" by {} (pid {})", holder.name, holder.pid)).unwrap_or_default()
}

fn check_models(plan: &LocalPlan, models: &Path) -> Result<(), Failure> {
    for pod in plan.pods.iter().filter(|pod| !pod.serves.is_empty()) {
        let name = &pod.serves;
        if models.join(name).exists() || (name.contains('/') && Path::new(name).exists()) {
            continue;
        }
        let mut known: Vec<String> = fs::read_dir(models)
            .map(|entries| {
                entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
            })
            .unwrap_or_default();
        known.sort();
        let there = match (nearest(name, known.iter().map(String::as_str)), known.is_empty()) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, false) => format!("there are {}", known.join(", ")),
            (None, true) => "it is empty".to_owned(),
        };
        return Err(Failure::failed(format!(
            "model {name} is not in the model cache {}; {there}\n  fetch smollm2-135m-instruct and all-minilm-l6-v2: cargo xtask models; another cache: AISTACK_MODELS=DIR",
            models.display()
        )));
    }
    Ok(())
}

fn foreground(plan: LocalPlan, folder: &StackFolder, manifest: PathBuf) -> Result<(), Failure> {
    let local = LocalSet::new();
    runtime()?.block_on(local.run_until(async {
        let mut printer = Printer::following(folder, plan.pods.iter().map(|pod| pod.name.clone()), false);
        let supervisor = Supervisor::start(plan, folder.clone(), manifest).await?;
        let board = supervisor.board();
        let shown = tokio::task::spawn_local(async move {
            let mut progress = Progress::new();
            let mut changes = board.changes();
            while !board.snapshot().all_ready() {
                progress.show(&board.snapshot());
                if changes.changed().await.is_err() {
                    return;
                }
            }
            progress.show(&board.snapshot());
            loop {
                printer.print_new();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let outcome = supervisor.run().await.map_err(Failure::from);
        shown.abort();
        eprintln!("  down    stack {} stopped", folder.stack());
        outcome
    }))
}

/// Starts a supervisor of its own session, and watches until every pod is Ready.
fn detach(folder: &StackFolder, manifest: &Path, patience: Duration) -> Result<(), Failure> {
    let log = fs::File::create(folder.supervisor_log())?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(SUPERVISE)
        .arg(folder.path())
        .arg(manifest)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let begun = Instant::now();
    let mut progress = Progress::new();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        if child.try_wait()?.is_some() {
            let lines = tail::last_lines(&folder.supervisor_log(), 20).unwrap_or_default().join("\n");
            return Err(Failure::failed(format!("the supervisor ended\n{lines}")));
        }
        let Ok(status) = folder.status() else { continue };
        if status.supervisor.pid != i32::try_from(child.id()).unwrap_or_default() {
            // The status of an earlier run.
            continue;
        }
        progress.show(&status);
        if status.all_ready() {
            return Ok(());
        }
        if let Some(failure) = hopeless(&status, begun.elapsed() > patience) {
            return Err(failure);
        }
    }
}

fn hopeless(status: &StackStatus, out_of_patience: bool) -> Option<Failure> {
    let broken = status
        .pods
        .iter()
        .find(|pod| pod.phase == Phase::CrashLoopBackOff && pod.restarts >= HOPELESS_RESTARTS);
    let pod = match broken {
        Some(pod) => pod,
        None if out_of_patience => status.pods.iter().find(|pod| pod.phase != Phase::Ready)?,
        None => return None,
    };
    let message = if pod.message.is_empty() { pod.phase.name() } else { &pod.message };
    Some(Failure::not_ready(format!(
        "{} is not Ready: {message}\n  look: aistack logs {}; the stack keeps trying, and aistack down stops it",
        pod.name, pod.name
    )))
}

/// The background supervisor itself.
pub fn supervise(folder: PathBuf, manifest: PathBuf) -> Result<(), Failure> {
    // A session of its own: closing the terminal does not reach it.
    nix::unistd::setsid().map_err(|errno| Failure::failed(format!("leave the terminal: {errno}")))?;
    let folder = StackFolder::at(folder);
    let Some(lock) = folder.lock()? else { return Err(already_up(&folder)) };
    let plan = folder.plan()?;
    let local = LocalSet::new();
    let outcome = runtime()?.block_on(local.run_until(async {
        Supervisor::start(plan, folder.clone(), manifest).await?.run().await.map_err(Failure::from)
    }));
    drop(lock);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_others_have_is_said_with_the_one_given_instead() {
        let port = |name: &str, container, local| PortPlan { name: name.into(), container, local };
        let pods = [
            (
                "tinykv-0",
                vec![port("client", 2379, 40_001), port("peer", 2380, 40_002), port("admin", 9000, 40_003)],
            ),
            ("vectorforge-0", vec![port("http", 6333, 6333), port("grpc", 6334, 40_004)]),
            ("tinyinfer-chat", vec![port("http", 8000, 8000)]),
            ("tinyinfer-embed", vec![port("http", 8000, 40_005)]),
            ("modelhub-0", vec![port("http", 8080, 8090)]),
        ];
        let pods = pods.iter().map(|(pod, ports)| (*pod, ports.as_slice()));
        let holder = |port| (port == 2379).then(|| Holder { name: "etcd".into(), pid: 7 });
        let want = [
            "port 2379 is taken by etcd (pid 7): the client port of tinykv-0 is 127.0.0.1:40001",
            "port 6334 is taken: the grpc port of vectorforge-0 is 127.0.0.1:40004",
        ];
        assert_eq!(moved(pods, 8090, holder), want);
    }
}
