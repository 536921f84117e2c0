//! What runs between the supervisor's fork and the pod's program: it ties the pod's life to the supervisor's.
//!
//! The kernel is asked to kill this process when its parent dies, then the program takes its place; the request survives
//! `execve` (prctl(2), PR_SET_PDEATHSIG). Without this a supervisor that is killed with SIGKILL would leave orphans.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

/// First argument of an `aistack` that is a pod in the making.
pub const COMMAND: &str = "__pod";

/// Becomes the program. Returns only with what went wrong.
pub fn become_pod(mut args: impl Iterator<Item = OsString>) -> String {
    let supervisor = args.next().and_then(|pid| pid.to_str()?.parse::<i32>().ok());
    let Some((supervisor, program)) = supervisor.zip(args.next()) else {
        return format!("{COMMAND} is for aistack itself");
    };
    if let Err(errno) = set_pdeathsig(Signal::SIGKILL) {
        return format!("tie the pod to its supervisor: {errno}");
    }
    // The supervisor may have died before the kernel was asked.
    if getppid().as_raw() != supervisor {
        return "the supervisor is gone".to_owned();
    }
    let error = Command::new(&program).args(args).exec();
    format!("run {}: {error}", program.display())
}
