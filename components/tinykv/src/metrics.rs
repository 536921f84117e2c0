//! What is counted, under etcd's names, so that its dashboards and alerts work.

use crate::mvcc::{Change, Command, Origin};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters that the engine and the doors keep up.
#[derive(Debug, Default)]
pub struct Figures {
    puts: Counter,
    deletes: Counter,
    txns: Counter,
    leases_granted: Counter,
    leases_revoked: Counter,
    events: Counter,
    /// Proposals that were applied.
    pub applied: Counter,
    /// Proposals that failed.
    pub failed: Counter,
    /// Reads answered, of one key or many.
    pub ranges: Counter,
    /// Leases renewed.
    pub leases_renewed: Counter,
    /// Versions dropped by compaction.
    pub swept_keys: AtomicU64,
    /// Watchers now.
    pub watchers: AtomicU64,
    /// Watch streams now.
    pub watch_streams: AtomicU64,
    /// Duration of fdatasync of the log, and its bytes.
    log: LogFigures,
}

#[derive(Debug)]
struct LogFigures {
    sync_seconds: Histogram,
    bytes: Counter,
}

impl Default for LogFigures {
    fn default() -> Self {
        Self { sync_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)), bytes: Counter::default() }
    }
}

impl Figures {
    /// One fdatasync of the log.
    pub fn synced(&self, duration: Duration, bytes: usize) {
        self.log.sync_seconds.observe(duration.as_secs_f64());
        self.log.bytes.inc_by(bytes as u64);
    }

    /// A batch was applied.
    pub fn applied(&self, commands: &[(Origin, Command)], changes: &[Change]) {
        self.applied.inc_by(commands.len() as u64);
        self.events.inc_by(changes.len() as u64);
        for (_, command) in commands {
            match command {
                Command::Put(_) => self.puts.inc(),
                Command::Delete(_) => self.deletes.inc(),
                Command::Txn(_) => self.txns.inc(),
                Command::LeaseGrant { .. } => self.leases_granted.inc(),
                Command::LeaseRevoke(_) => self.leases_revoked.inc(),
                Command::Compact(_)
                | Command::AlarmRaise(..)
                | Command::AlarmClear(..)
                | Command::Auth(_) => 0,
            };
        }
    }

    /// Makes the counters known.
    pub fn register(&self, registry: &mut Registry) {
        let mut counter =
            |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter("etcd_mvcc_put", "Puts applied", &self.puts);
        counter("etcd_mvcc_delete", "Deletions applied", &self.deletes);
        counter("etcd_mvcc_txn", "Transactions applied", &self.txns);
        counter("etcd_mvcc_range", "Ranges answered", &self.ranges);
        counter("etcd_debugging_mvcc_events", "Events made", &self.events);
        counter("etcd_debugging_lease_granted", "Leases granted", &self.leases_granted);
        counter("etcd_debugging_lease_revoked", "Leases revoked", &self.leases_revoked);
        counter("etcd_debugging_lease_renewed", "Leases renewed", &self.leases_renewed);
        counter("etcd_server_proposals_applied", "Proposals applied", &self.applied);
        counter("etcd_server_proposals_failed", "Proposals failed", &self.failed);
        counter("etcd_disk_wal_write_bytes", "Bytes written to the log", &self.log.bytes);
        registry.register(
            "etcd_disk_wal_fsync_duration_seconds",
            "Latency of writing and fdatasync of the log",
            self.log.sync_seconds.clone(),
        );
    }
}

/// Figures that are read when they are asked for, not counted: a line each for `/metrics`.
pub fn gauges(figures: &Arc<Figures>, values: &[(&str, f64)]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let own = [
        ("etcd_debugging_mvcc_watcher_total", figures.watchers.load(Ordering::Relaxed) as f64),
        ("etcd_debugging_mvcc_watch_stream_total", figures.watch_streams.load(Ordering::Relaxed) as f64),
        ("etcd_debugging_mvcc_db_compaction_keys", figures.swept_keys.load(Ordering::Relaxed) as f64),
    ];
    for (name, value) in own.iter().chain(values) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# TYPE {name} gauge\n{name} {value}");
    }
    text
}
