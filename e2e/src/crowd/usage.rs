//! What a process takes of the machine, as the kernel has it.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Clock ticks a second: the same on every Linux that we build for.
const TICKS: f64 = 100.0;

/// Processor time that a process took so far.
pub fn cpu(id: u32) -> Result<Duration> {
    let text =
        std::fs::read_to_string(format!("/proc/{id}/stat")).with_context(|| format!("process {id}"))?;
    // The second field is the name, in brackets, and may hold anything.
    let rest = text.rsplit_once(')').context("a name in brackets")?.1;
    let field =
        |number: usize| rest.split_whitespace().nth(number - 3).and_then(|text| text.parse::<f64>().ok());
    let ticks = field(14).zip(field(15)).map(|(user, system)| user + system).context("times")?;
    Ok(Duration::from_secs_f64(ticks / TICKS))
}

/// Memory of a process in MiB: now, and the most that it ever had.
pub fn memory(id: u32) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().ok()
    };
    let (now, most) = kib("VmRSS").zip(kib("VmHWM")).context("a process that is alive")?;
    Ok((now / 1024.0, most / 1024.0))
}
