//! What is counted, under etcd's names, so that its dashboards and alerts work.

use crate::mvcc::{Change, Command, Origin};
use crate::node::Node;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use replication::{Link, ROUND_TRIP_BOUNDS};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
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
    /// Leaders seen to begin.
    pub leader_changes: Counter,
    /// Reads answered, of one key or many.
    pub ranges: Counter,
    /// Leases renewed.
    pub leases_renewed: Counter,
    /// Leases that ran out here.
    pub leases_expired: Counter,
    /// Linearizable reads that got no index to wait for.
    pub reads_failed: Counter,
    /// Asks for health that were answered by yes, and by no.
    pub health: (Counter, Counter),
    /// Versions dropped by compaction.
    pub swept_keys: Counter,
    /// When the last sweep ended, in seconds since 1970; 0 before the first.
    pub swept_at: AtomicU64,
    /// Watchers now.
    pub watchers: AtomicU64,
    /// Watch streams now.
    pub watch_streams: AtomicU64,
    pending: Gauge,
    /// Duration of fdatasync of the log, and its bytes; duration of writes of the state.
    disk: DiskFigures,
}

#[derive(Debug)]
struct DiskFigures {
    sync_seconds: Histogram,
    bytes: Counter,
    write_seconds: Histogram,
}

impl Default for DiskFigures {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        Self { sync_seconds: seconds(), bytes: Counter::default(), write_seconds: seconds() }
    }
}

impl Figures {
    /// One fdatasync of the log.
    pub fn synced(&self, duration: Duration, bytes: usize) {
        self.disk.sync_seconds.observe(duration.as_secs_f64());
        self.disk.bytes.inc_by(bytes as u64);
    }

    /// One write of what a batch changed.
    pub fn stored(&self, duration: Duration) {
        self.disk.write_seconds.observe(duration.as_secs_f64());
    }

    /// A proposal waits for its answer, until what this returns is dropped.
    pub fn waiting(&self) -> Waiting<'_> {
        self.pending.inc();
        Waiting(&self.pending)
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
                | Command::Downgrade(_)
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
        counter("etcd_debugging_server_lease_expired", "Leases that ran out", &self.leases_expired);
        counter("etcd_server_read_indexes_failed", "Linearizable reads that failed", &self.reads_failed);
        counter(
            "etcd_debugging_mvcc_db_compaction_keys",
            "Versions that compactions dropped",
            &self.swept_keys,
        );
        counter("etcd_debugging_mvcc_events", "Events made", &self.events);
        counter("etcd_debugging_lease_granted", "Leases granted", &self.leases_granted);
        counter("etcd_debugging_lease_revoked", "Leases revoked", &self.leases_revoked);
        counter("etcd_debugging_lease_renewed", "Leases renewed", &self.leases_renewed);
        counter("etcd_server_proposals_applied", "Proposals applied", &self.applied);
        counter("etcd_server_proposals_failed", "Proposals failed", &self.failed);
        counter("etcd_server_leader_changes_seen", "Leaders seen to begin", &self.leader_changes);
        counter("etcd_disk_wal_write_bytes", "Bytes written to the log", &self.disk.bytes);
        registry.register(
            "etcd_disk_wal_fsync_duration_seconds",
            "Latency of writing and fdatasync of the log",
            self.disk.sync_seconds.clone(),
        );
        registry.register(
            "etcd_disk_backend_commit_duration_seconds",
            "Latency of writing what a batch of commands changed; it is in the log already, so nothing is synced",
            self.disk.write_seconds.clone(),
        );
        registry.register("etcd_server_proposals_pending", "Proposals that wait", self.pending.clone());
    }
}

/// A proposal that waits, or whose client has given up waiting.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What goes between this member and the others, as etcd names it.
pub struct PeerFigures(pub Weak<Node>);

impl fmt::Debug for PeerFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerFigures")
    }
}

impl Collector for PeerFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        type Read = fn(&Link) -> &AtomicU64;
        let Some(node) = self.0.upgrade() else { return Ok(()) };
        let (traffic, members) = (node.group.traffic(), node.group.members());
        traffic.keep(|node| members.contains_key(&node));
        let links = traffic.links();
        let counters: [(&str, &str, &str, Read); 3] = [
            ("etcd_network_peer_sent_bytes", "Bytes sent to a member", "To", |link| &link.sent),
            ("etcd_network_peer_received_bytes", "Bytes that came from a member", "From", |link| {
                &link.received
            }),
            ("etcd_network_peer_sent_failures", "Requests that got no answer", "To", |link| &link.failed),
        ];
        for (name, help, label, read) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (node, link) in &links {
                let count = ConstCounter::new(read(link).load(Ordering::Relaxed));
                count.encode(family.encode_family(&[(label, format!("{node:x}"))])?)?;
            }
        }
        let (name, help) = (
            "etcd_network_peer_round_trip_time_seconds",
            "From a leader to a member and back, nothing written",
        );
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (node, link) in &links {
            let trips = link.round_trips();
            let bounds = ROUND_TRIP_BOUNDS.into_iter().chain([f64::MAX]);
            let buckets: Vec<_> = bounds.zip(trips.classes).collect();
            let count = trips.classes.iter().sum();
            family.encode_family(&[("To", format!("{node:x}"))])?.encode_histogram::<NoLabelSet>(
                trips.seconds,
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// Figures that are read when they are asked for, not counted: a line each for `/metrics`.
pub fn gauges(figures: &Arc<Figures>, values: &[(&str, f64)]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let own = [
        ("etcd_debugging_mvcc_watcher_total", figures.watchers.load(Ordering::Relaxed) as f64),
        ("etcd_debugging_mvcc_watch_stream_total", figures.watch_streams.load(Ordering::Relaxed) as f64),
        ("etcd_debugging_mvcc_db_compaction_last", figures.swept_at.load(Ordering::Relaxed) as f64),
    ];
    for (name, value) in own.iter().chain(values) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# TYPE {name} gauge\n{name} {value}");
    }
    // Counters, to etcd; in OpenMetrics those would have another ending.
    let (healthy, unhealthy) = &figures.health;
    for (name, count) in [("success", healthy), ("failures", unhealthy)] {
        let name = format!("etcd_server_health_{name}");
        let _ = writeln!(text, "# TYPE {name} gauge\n{name} {}", count.get());
    }
    text
}
