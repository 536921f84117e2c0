//! The process's own figures, read from `/proc/self` when they are asked for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// CPU seconds, memory, open files and start time, under Prometheus' usual names.
#[derive(Debug)]
pub struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(figures) = Figures::read() else { return Ok(()) };
        let mut metric = |name: &str, help: &str, unit: Option<&Unit>, value: &dyn Encode| {
            value.encode(&mut encoder, name, help, unit)
        };
        metric(
            "process_cpu",
            "User and system time",
            Some(&Unit::Seconds),
            &Count(figures.cpu.as_secs_f64()),
        )?;
        metric(
            "process_resident_memory",
            "Resident memory",
            Some(&Unit::Bytes),
            &Level(figures.resident_bytes as f64),
        )?;
        metric("process_open_fds", "Open files", None, &Level(figures.open_files as f64))?;
        metric(
            "process_start_time",
            "Start, since the epoch",
            Some(&Unit::Seconds),
            &Level(figures.started_at),
        )
    }
}

trait Encode {
    fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
    ) -> std::fmt::Result;
}

struct Count(f64);
struct Level(f64);

impl Encode for Count {
    fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
    ) -> std::fmt::Result {
        let counter = ConstCounter::new(self.0);
        counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)
    }
}

impl Encode for Level {
    fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
    ) -> std::fmt::Result {
        let gauge = ConstGauge::new(self.0);
        gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
    }
}

struct Figures {
    cpu: Duration,
    resident_bytes: u64,
    open_files: usize,
    started_at: f64,
}

impl Figures {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the command in parentheses and may hold spaces: count from behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // Linux reports times to user space in units of 1/100 s on every architecture that we build for.
        const TICKS_PER_SECOND: f64 = 100.0;
        let cpu = (ticks(11)? + ticks(12)?) as f64 / TICKS_PER_SECOND;
        let uptime: f64 =
            std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        Some(Self {
            cpu: Duration::from_secs_f64(cpu),
            resident_bytes: resident_bytes()?,
            open_files: std::fs::read_dir("/proc/self/fd").ok()?.count(),
            started_at: now - uptime + ticks(19)? as f64 / TICKS_PER_SECOND,
        })
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// As many of the wanted connections as the limit of open files allows, with room left for the process's own files.
pub fn connections_within(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let Ok((files, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    wanted.min(files - (files / 8).clamp(files.min(32), 512)).max(1)
}

/// Lifts the soft limit of open files to the hard one, as servers with many connections need.
pub fn raise_open_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Failing to raise it only leaves the old limit in force.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
