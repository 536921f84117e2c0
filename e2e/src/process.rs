//! Child processes that end with whoever started them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// A child that is killed when it is dropped. What it prints goes to a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; its output goes to `NAME.log` in `folder`.
    pub fn start(folder: &Path, name: &str, program: &Path, args: &[String]) -> Result<Self> {
        Self::start_with(folder, name, program, args, &[])
    }

    /// The same, with more variables than it inherits.
    pub fn start_with(
        folder: &Path,
        name: &str,
        program: &Path,
        args: &[String],
        env: &[(String, String)],
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let errors = output.try_clone()?;
        let child = Command::new(program)
            .args(args)
            .envs(env.iter().cloned())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of what it printed.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills processes and removes a folder once whoever made it is no more, even if that was killed itself: then the pipe that
/// it reads from ends.
#[derive(Debug)]
pub struct Watchdog {
    child: Child,
}

impl Watchdog {
    /// Watches over `processes` and `folder`.
    pub fn over(processes: &[Process], folder: &Path) -> Result<Self> {
        let ids: Vec<String> = processes.iter().map(|process| process.id().to_string()).collect();
        let script = "trap '' INT TERM HUP; cat >/dev/null; folder=$1; shift; kill -9 \"$@\" 2>/dev/null; rm -rf \"$folder\"";
        let child = Command::new("sh")
            .args(["-c", script, "watchdog"])
            .arg(folder)
            .args(ids)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the watchdog")?;
        Ok(Self { child })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Its processes were ended by whoever drops it: their numbers may be somebody else's by now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
