//! `aistack down`: asks the supervisor to stop, and watches it do so.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{missing_stack, print};
use crate::cli::DownArgs;
use crate::fail::Failure;
use crate::local::state::StackFolder;
use crate::view::span;

/// Longer than any pod's grace period and the ones behind it together.
const PATIENCE: Duration = Duration::from_mins(4);

/// Runs the command.
pub fn run(args: &DownArgs) -> Result<(), Failure> {
    let named = args.stack.stack.as_deref().map(StackFolder::of).transpose()?;
    if let (Some(name), Some(folder)) = (&args.stack.stack, &named)
        && !folder.path().exists()
    {
        return Err(Failure::wrong_state(missing_stack(name, folder)?));
    }
    let Some(folder) = named.map_or_else(|| only_stack(args.purge), |folder| Ok(Some(folder)))? else {
        print("no stack is up");
        return Ok(());
    };
    let stack = folder.stack();
    if folder.is_up() {
        let begun = Instant::now();
        stop(&folder)?;
        print(&format!("  down    stack {stack} stopped in {}", span(begun.elapsed())));
    } else {
        print(&format!("stack {stack} is not up"));
    }
    if args.purge {
        folder.purge()?;
        print(&format!("  purge   {} deleted", folder.path().display()));
    }
    Ok(())
}

/// The only stack that is up; to purge, the only stack that there is.
fn only_stack(purge: bool) -> Result<Option<StackFolder>, Failure> {
    let all = StackFolder::all()?;
    let mut candidates: Vec<StackFolder> = all.iter().filter(|folder| folder.is_up()).cloned().collect();
    if candidates.is_empty() && purge {
        candidates = all;
    }
    if candidates.len() > 1 {
        let names: Vec<String> = candidates.iter().map(StackFolder::stack).collect();
        return Err(Failure::refused(format!(
            "there are several stacks: {}\n  say which with --stack NAME",
            names.join(", ")
        )));
    }
    Ok(candidates.pop())
}

fn stop(folder: &StackFolder) -> Result<(), Failure> {
    let supervisor = folder.status()?.supervisor;
    if !supervisor.is_alive() {
        return Err(Failure::failed(format!(
            "stack {} is held by a process that is not its supervisor\n  see which: fuser {}",
            folder.stack(),
            folder.path().join("lock").display()
        )));
    }
    let pid = Pid::from_raw(supervisor.pid);
    kill(pid, Signal::SIGTERM).map_err(|errno| Failure::failed(format!("stop pid {pid}: {errno}")))?;
    let begun = Instant::now();
    while folder.is_up() || supervisor.is_alive() {
        if begun.elapsed() > PATIENCE {
            // The kernel ends the pods with their supervisor.
            kill(pid, Signal::SIGKILL)
                .map_err(|errno| Failure::failed(format!("kill pid {pid}: {errno}")))?;
            return Err(Failure::failed(format!(
                "stack {} did not stop in peace and was killed",
                folder.stack()
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
