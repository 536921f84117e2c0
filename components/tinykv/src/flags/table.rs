//! What each of etcd's flags stands for.

use super::values::{
    either, interval, list, metrics, microseconds, milliseconds, names, number, quota, streams, switch, text,
    tls_version, tokens,
};
use serde_json::Value;

/// What a flag stands for.
#[derive(Clone, Copy)]
pub(super) enum Meaning {
    /// A setting of this path, read so.
    Set(&'static str, fn(&str) -> Result<Value, String>),
    /// Addresses for clients.
    Listeners,
    /// Addresses for the other members.
    PeerListeners,
    /// Addresses for metrics.
    MetricsListeners,
    /// The level of logs.
    LogLevel,
    /// Their form.
    LogForm,
    /// Of several flags that make one setting.
    Together,
    /// Nothing to do for these values; for others, what tinykv does not do.
    Only(&'static [&'static str], &'static str),
    /// Follows from another flag, which must be given too.
    With(&'static str, &'static str),
    /// Nothing to do, and this is why.
    Needless(&'static str),
}

use Meaning::{
    Listeners, LogForm, LogLevel, MetricsListeners, Needless, Only, PeerListeners, Set, Together, With,
};

const NO_BBOLT: &str = "tinykv does not keep its state in bbolt";
const NO_DISCOVERY: &str =
    "members are found by --discovery-token and --discovery-endpoints, or named by --initial-cluster";
const OF_DISCOVERY: &str = "--discovery-request-timeout limits all that is asked of the other cluster";
const CHECKED: &str = "every record carries a checksum, and `tinykv check` reads them all";
const COMPARED: &str = "members do not compare their data by themselves; have `etcdctl endpoint hashkv --cluster` run now and then, \
     which compares it, and leave the flag out";
pub(super) const OFF: &[&str] = &["", "false", "0", "0s"];

pub(super) const FLAGS: &[(&str, Meaning)] = &[
    ("name", Set("name", text)),
    ("data-dir", Set("data_dir", text)),
    ("listen-client-urls", Listeners),
    ("listen-peer-urls", PeerListeners),
    ("listen-metrics-urls", MetricsListeners),
    ("advertise-client-urls", Set("advertise_client_urls", list)),
    ("initial-cluster", Set("peers", list)),
    ("quota-backend-bytes", Set("quota_bytes", quota)),
    ("auto-compaction-mode", Set("auto_compaction.mode", text)),
    ("auto-compaction-retention", Set("auto_compaction.retention", text)),
    ("max-request-bytes", Set("request_limits.max_request_bytes", number)),
    ("max-txn-ops", Set("request_limits.max_txn_ops", number)),
    ("max-concurrent-streams", Set("server.limits.max_concurrent_requests", streams)),
    ("heartbeat-interval", Set("raft.heartbeat_ms", number)),
    ("election-timeout", Set("raft.election_ms", number)),
    ("snapshot-count", Set("raft.snapshot_entries", number)),
    ("watch-progress-notify-interval", Set("watch_progress_interval_ms", interval)),
    ("auth-token", Set("auth.jwt", tokens)),
    ("auth-token-ttl", Set("auth.token_ttl_seconds", number)),
    ("bcrypt-cost", Set("auth.bcrypt_cost", number)),
    ("cert-file", Set("server.tls.cert_file", text)),
    ("key-file", Set("server.tls.key_file", text)),
    ("trusted-ca-file", Set("server.tls.client_ca_file", text)),
    ("log-level", LogLevel),
    ("client-cert-auth", With("trusted-ca-file", "clients show certificates when it names their CA")),
    ("initial-advertise-peer-urls", Set("advertise_peer_urls", list)),
    ("initial-cluster-token", Set("initial_cluster_token", text)),
    ("initial-cluster-state", Set("initial_cluster_state", text)),
    ("initial-election-tick-advance", Needless("a member of one leads at once")),
    ("strict-reconfig-check", Needless("tinykv always keeps a quorum")),
    ("pre-vote", Needless("elections always begin with a Pre-Vote")),
    ("enable-grpc-gateway", Set("http.json_gateway", either)),
    ("enable-pprof", Needless("tinykv has no Go profiles")),
    ("force-new-cluster", Set("force_new_cluster", switch)),
    ("unsafe-no-fsync", Needless("tinykv always puts writes on disk before it acknowledges them")),
    ("auto-tls", Set("auto_tls", switch)),
    ("client-crl-file", Set("server.tls.client_crl_file", text)),
    ("client-cert-allowed-hostname", Set("server.tls.allowed_client_hosts", names)),
    ("client-cert-file", Needless("the gateway calls in its own process")),
    ("client-key-file", Needless("the gateway calls in its own process")),
    ("peer-auto-tls", Set("peer_tls.auto", switch)),
    ("peer-cert-file", Set("peer_tls.cert_file", text)),
    ("peer-key-file", Set("peer_tls.key_file", text)),
    ("peer-trusted-ca-file", Set("peer_tls.ca_file", text)),
    (
        "peer-client-cert-auth",
        With("peer-trusted-ca-file", "members show certificates when it names their CA"),
    ),
    ("peer-client-cert-file", Set("peer_tls.client_cert_file", text)),
    ("peer-client-key-file", Set("peer_tls.client_key_file", text)),
    ("peer-cert-allowed-cn", Set("peer_tls.allowed_common_names", names)),
    ("peer-cert-allowed-hostname", Set("peer_tls.allowed_hosts", names)),
    ("peer-crl-file", Set("peer_tls.crl_file", text)),
    ("peer-skip-client-san-verification", Needless("a member that connects may come from any address")),
    ("listen-client-http-urls", Listeners),
    ("discovery", Only(OFF, NO_DISCOVERY)),
    ("discovery-srv", Only(OFF, NO_DISCOVERY)),
    ("discovery-srv-name", Only(OFF, NO_DISCOVERY)),
    ("discovery-proxy", Only(OFF, NO_DISCOVERY)),
    ("discovery-fallback", Needless("there is no proxy to fall back to: a member that finds nobody ends")),
    ("discovery-token", Set("discovery.token", text)),
    ("discovery-endpoints", Set("discovery.endpoints", names)),
    ("discovery-insecure-transport", Set("discovery.insecure_transport", either)),
    ("discovery-insecure-skip-tls-verify", Set("discovery.insecure_skip_verify", switch)),
    ("discovery-cacert", Set("discovery.ca_file", text)),
    ("discovery-cert", Set("discovery.cert_file", text)),
    ("discovery-key", Set("discovery.key_file", text)),
    ("discovery-user", Set("discovery.user", text)),
    ("discovery-password", Set("discovery.password", text)),
    ("discovery-request-timeout", Set("discovery.request_timeout_ms", milliseconds)),
    ("discovery-dial-timeout", Needless(OF_DISCOVERY)),
    ("discovery-keepalive-time", Needless(OF_DISCOVERY)),
    ("discovery-keepalive-timeout", Needless(OF_DISCOVERY)),
    ("corrupt-check-time", Only(OFF, COMPARED)),
    ("compact-hash-check-time", Needless(CHECKED)),
    ("feature-gates", Needless("tinykv has no features of that kind")),
    ("cors", Set("http.cors_origins", names)),
    ("host-whitelist", Set("http.allowed_hosts", names)),
    ("cipher-suites", Set("server.tls.cipher_suites", names)),
    ("tls-min-version", Set("tls_min_version", tls_version)),
    ("tls-max-version", Set("tls_max_version", tls_version)),
    ("wal-dir", Set("log_dir", text)),
    (
        "max-snapshots",
        Needless(
            "tinykv keeps one snapshot. --max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8",
        ),
    ),
    ("max-wals", Needless("the log is purged behind the snapshot")),
    ("max-learners", Only(&["1"], "a cluster has one learner at a time")),
    ("snapshot-catchup-entries", Set("raft.catchup_entries", number)),
    ("backend-batch-interval", Needless(NO_BBOLT)),
    ("backend-batch-limit", Needless(NO_BBOLT)),
    ("backend-bbolt-freelist-type", Needless(NO_BBOLT)),
    ("bootstrap-defrag-threshold-megabytes", Needless(NO_BBOLT)),
    ("memory-mlock", Needless(NO_BBOLT)),
    ("compaction-batch-limit", Needless("the sweep yields by itself")),
    ("compaction-sleep-interval", Needless("the sweep yields by itself")),
    ("downgrade-check-time", Needless("a member of tinykv never becomes one of an earlier etcd")),
    (
        "v2-deprecation",
        Needless(
            "tinykv never had etcd's version 2. --v2-deprecation is deprecated and scheduled for removal in v3.8. The default \
             value is enforced, ignoring user input",
        ),
    ),
    ("grpc-keepalive-min-time", Needless("connections are kept alive every 30 s")),
    ("grpc-keepalive-interval", Needless("connections are kept alive every 30 s")),
    ("grpc-keepalive-timeout", Needless("connections are kept alive every 30 s")),
    ("socket-reuse-address", Needless("it is always so")),
    ("socket-reuse-port", Set("reuse_port", switch)),
    ("raft-read-timeout", Needless("a member that does not answer is asked again")),
    ("raft-write-timeout", Needless("a member that does not answer is asked again")),
    ("self-signed-cert-validity", Needless("certificates that tinykv makes do not run out")),
    ("warning-apply-duration", Needless("--warning-unary-request-duration tells of requests that take long")),
    ("warning-unary-request-duration", Set("slow_request_us", microseconds)),
    ("metrics", Set("extensive_metrics", metrics)),
    ("logger", Only(&["zap"], "logs are JSON lines, or pretty on a terminal")),
    ("log-format", LogForm),
    ("log-outputs", Together),
    ("log-rotation-config-json", Together),
    ("enable-log-rotation", Together),
    ("enable-distributed-tracing", Together),
    ("distributed-tracing-address", Together),
    ("distributed-tracing-service-name", Together),
    ("distributed-tracing-instance-id", Together),
    ("distributed-tracing-sampling-rate", Together),
];

/// Flags that stand for true when nothing follows.
pub(super) const SWITCHES: &[&str] = &[
    "auto-tls",
    "client-cert-auth",
    "discovery-insecure-skip-tls-verify",
    "discovery-insecure-transport",
    "enable-distributed-tracing",
    "enable-grpc-gateway",
    "enable-log-rotation",
    "enable-pprof",
    "force-new-cluster",
    "initial-election-tick-advance",
    "memory-mlock",
    "peer-auto-tls",
    "peer-client-cert-auth",
    "peer-skip-client-san-verification",
    "pre-vote",
    "socket-reuse-address",
    "socket-reuse-port",
    "strict-reconfig-check",
    "unsafe-no-fsync",
];

pub(super) fn meaning(flag: &str) -> Option<Meaning> {
    FLAGS.iter().find(|(name, _)| *name == flag).map(|(_, meaning)| *meaning)
}
