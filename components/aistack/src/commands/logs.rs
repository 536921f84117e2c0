//! `aistack logs`: the pods' output, each line with the pod's name in its colour.

use std::time::Duration;

use super::{print, running_stack};
use crate::cli::LogsArgs;
use crate::fail::Failure;
use crate::local::state::StackFolder;
use crate::local::tail::{Follower, last_lines};
use crate::log_line::readable;
use crate::view::pod_style;

/// Prints what pods print from now on.
pub struct Printer {
    pods: Vec<(String, Follower)>,
    raw: bool,
}

impl Printer {
    /// Follows the logs of pods from their ends.
    pub fn following(folder: &StackFolder, pods: impl Iterator<Item = String>, raw: bool) -> Self {
        let pods = pods.map(|pod| {
            let follower = Follower::from_end(folder.log(&pod));
            (pod, follower)
        });
        Self { pods: pods.collect(), raw }
    }

    /// Prints the lines that were added since the last call.
    pub fn print_new(&mut self) {
        let width = self.pods.iter().map(|(pod, _)| pod.len()).max().unwrap_or(0);
        for (index, (pod, follower)) in self.pods.iter_mut().enumerate() {
            // A log that cannot be read this time is read the next time.
            for line in follower.lines().unwrap_or_default() {
                print(&prefixed(index, pod, width, &line, self.raw));
            }
        }
    }
}

fn prefixed(index: usize, pod: &str, width: usize, line: &str, raw: bool) -> String {
    let line = if raw { line.to_owned() } else { readable(line) };
    format!("{} {line}", pod_style(index).apply_to(format!("{pod:<width$} |")))
}

/// Runs the command.
pub fn run(args: &LogsArgs) -> Result<(), Failure> {
    let folder = match running_stack(&args.stack) {
        Ok(folder) => folder,
        // The logs of a stack that is down are still there.
        Err(failure) => args.stack.stack.as_deref().map(StackFolder::of).transpose()?.ok_or(failure)?,
    };
    let status = folder.status()?;
    let all: Vec<String> = status.pods.iter().map(|pod| pod.name.clone()).collect();
    if let Some(unknown) = args.pods.iter().find(|pod| !all.contains(pod)) {
        return Err(Failure::refused(format!(
            "stack {} has no pod {unknown}\n  its pods are {}",
            status.stack,
            all.join(", ")
        )));
    }
    let wanted: Vec<&String> =
        all.iter().filter(|pod| args.pods.is_empty() || args.pods.contains(pod)).collect();
    let mut printer = Printer::following(&folder, wanted.iter().map(|pod| (*pod).clone()), args.raw);
    let width = wanted.iter().map(|pod| pod.len()).max().unwrap_or(0);
    for (index, pod) in wanted.iter().enumerate() {
        for line in last_lines(&folder.log(pod), args.tail).unwrap_or_default() {
            print(&prefixed(index, pod, width, &line, args.raw));
        }
    }
    if !args.follow {
        return Ok(());
    }
    loop {
        std::thread::sleep(Duration::from_millis(100));
        printer.print_new();
    }
}
