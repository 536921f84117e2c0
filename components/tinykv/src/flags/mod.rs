//! etcd's flags, its `ETCD_*` variables and its configuration file, as settings of tinykv.
//!
//! What has the same meaning here is set. What has none and cannot do harm is named in a warning. What would have to be
//! done and is not done is refused by name.

mod values;

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use values::{
    address, clear_address, either, interval, list, microseconds, milliseconds, names, number, quota,
    streams, switch, text, tokens,
};

/// What became of a command line.
#[derive(Debug, Default, PartialEq)]
pub struct Flags {
    /// Settings, as the configuration file would hold them.
    pub settings: Map<String, Value>,
    /// What etcd's `--log-level` asks for.
    pub log_level: Option<String>,
    /// What is left of the command line.
    pub rest: Vec<String>,
    /// Sentences for the operator.
    pub warnings: Vec<String>,
}

/// Why etcd's settings cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// The flag came last.
    #[error("--{flag} needs a value")]
    NoValue {
        /// The flag.
        flag: String,
    },
    /// Its value is not one.
    #[error("--{flag}={value}: {reason}")]
    Value {
        /// The flag.
        flag: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// etcd does something then that tinykv does not.
    #[error("--{flag}={value}: {reason}")]
    Absent {
        /// The flag.
        flag: String,
        /// The value.
        value: String,
        /// What tinykv does instead, or what to do.
        reason: &'static str,
    },
    /// The file cannot be used.
    #[error("--config-file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

#[derive(Clone, Copy)]
enum Meaning {
    /// A setting of this path, read so.
    Set(&'static str, fn(&str) -> Result<Value, String>),
    /// Addresses for clients.
    Listeners,
    /// Addresses for the other members.
    PeerListeners,
    /// The level of logs.
    LogLevel,
    /// Nothing to do for these values; for others, what tinykv does not do.
    Only(&'static [&'static str], &'static str),
    /// Follows from another flag, which must be given too.
    With(&'static str, &'static str),
    /// Nothing to do, and this is why.
    Needless(&'static str),
}

use Meaning::{Listeners, LogLevel, Needless, Only, PeerListeners, Set, With};

const NO_BBOLT: &str = "tinykv does not keep its state in bbolt";
const NO_DISCOVERY: &str =
    "members are found by --discovery-token and --discovery-endpoints, or named by --initial-cluster";
const OF_DISCOVERY: &str = "--discovery-request-timeout limits all that is asked of the other cluster";
const CHECKED: &str = "every record carries a checksum, and `tinykv check` reads them all";
const OFF: &[&str] = &["", "false", "0", "0s"];

const FLAGS: &[(&str, Meaning)] = &[
    ("name", Set("name", text)),
    ("data-dir", Set("data_dir", text)),
    ("listen-client-urls", Listeners),
    ("listen-peer-urls", PeerListeners),
    ("listen-metrics-urls", Set("server.admin_listen", clear_address)),
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
    ("pre-vote", Only(&["true"], "elections always begin with a Pre-Vote")),
    ("enable-grpc-gateway", Only(&["true"], "the JSON gateway is always there")),
    ("enable-pprof", Needless("tinykv has no Go profiles")),
    ("force-new-cluster", Set("force_new_cluster", switch)),
    ("unsafe-no-fsync", Needless("tinykv always puts writes on disk before it acknowledges them")),
    ("auto-tls", Set("auto_tls", switch)),
    ("client-crl-file", Set("server.tls.client_crl_file", text)),
    ("client-cert-allowed-hostname", Only(OFF, "tinykv takes every certificate of the CA")),
    ("client-cert-file", Only(OFF, "the gateway calls in its own process")),
    ("client-key-file", Only(OFF, "the gateway calls in its own process")),
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
    ("corrupt-check-time", Only(OFF, CHECKED)),
    ("compact-hash-check-time", Needless(CHECKED)),
    ("feature-gates", Needless("tinykv has no features of that kind")),
    ("cors", Only(&["*", ""], "tinykv sends no CORS headers")),
    ("host-whitelist", Only(&["*", ""], "tinykv answers to every name")),
    ("cipher-suites", Set("server.tls.cipher_suites", names)),
    ("tls-min-version", Only(&["", "TLS1.2"], "tinykv speaks TLS 1.2 and 1.3")),
    ("tls-max-version", Only(&["", "TLS1.3"], "tinykv speaks TLS 1.2 and 1.3")),
    ("wal-dir", Only(OFF, "the log lies in --data-dir")),
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
    ("downgrade-check-time", Needless("tinykv knows no downgrades")),
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
    ("socket-reuse-port", Only(OFF, "one process has a port")),
    ("raft-read-timeout", Needless("a member that does not answer is asked again")),
    ("raft-write-timeout", Needless("a member that does not answer is asked again")),
    ("self-signed-cert-validity", Needless("certificates that tinykv makes do not run out")),
    ("warning-apply-duration", Needless("--warning-unary-request-duration tells of requests that take long")),
    ("warning-unary-request-duration", Set("slow_request_us", microseconds)),
    ("metrics", Needless("all metrics are always there")),
    ("logger", Only(&["zap"], "logs are JSON lines, or pretty on a terminal")),
    ("log-outputs", Only(&["default", "stderr", "[default]", "[stderr]"], "logs go to standard error")),
    ("log-rotation-config-json", Needless("logs go to standard error")),
    ("enable-log-rotation", Only(OFF, "logs go to standard error")),
    ("enable-distributed-tracing", Only(OFF, "set server.telemetry.otlp_endpoint")),
    ("distributed-tracing-address", Needless("set server.telemetry.otlp_endpoint")),
    ("distributed-tracing-service-name", Needless("set server.telemetry.otlp_endpoint")),
    ("distributed-tracing-instance-id", Needless("set server.telemetry.instance")),
    ("distributed-tracing-sampling-rate", Needless("set server.telemetry.sample_ratio")),
];

/// Flags that stand for true when nothing follows.
const SWITCHES: &[&str] = &[
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

fn meaning(flag: &str) -> Option<Meaning> {
    FLAGS.iter().find(|(name, _)| *name == flag).map(|(_, meaning)| *meaning)
}

/// Takes etcd's flags out of a command line, and adds what `ETCD_*` variables and etcd's file say. With a file, as with
/// etcd, flags and variables do not count; else a flag goes before its variable.
pub fn read(
    arguments: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Flags, FlagError> {
    let mut flags = Flags::default();
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    let mut file = None;
    for (name, value) in environment {
        let Some(name) = name.strip_prefix("ETCD_") else { continue };
        let flag = name.to_lowercase().replace('_', "-");
        match flag.as_str() {
            "config-file" => file = Some(value),
            // etcd's own switches that are no flags.
            "unsupported-arch" | "verify" => {}
            _ if meaning(&flag).is_some() => {
                given.insert(flag, value);
            }
            _ => flags.warnings.push(format!("ETCD_{name} names no flag of etcd's; it is ignored")),
        }
    }
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let bare = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).unwrap_or("");
        let (flag, value) = bare.split_once('=').map_or((bare, None), |(flag, value)| (flag, Some(value)));
        if flag != "config-file" && meaning(flag).is_none() {
            flags.rest.push(argument);
            continue;
        }
        let flag = flag.to_owned();
        let value = match value {
            Some(value) => value.to_owned(),
            None if SWITCHES.contains(&flag.as_str()) => "true".to_owned(),
            None => arguments.next().ok_or_else(|| FlagError::NoValue { flag: flag.clone() })?,
        };
        if flag == "config-file" {
            file = Some(value);
        } else {
            given.insert(flag, value);
        }
    }
    if let Some(path) = file {
        if !given.is_empty() {
            let names = given.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            flags.warnings.push(format!(
                "with --config-file, as with etcd, other flags and variables do not count: {names}"
            ));
        }
        given = from_file(&path)?;
    }
    let is_on = |flag: &str| given.get(flag).is_some_and(|value| !OFF.contains(&value.as_str()));
    for flag in given.keys().filter(|flag| is_on(flag)) {
        if let Some(With(other, why)) = meaning(flag)
            && !is_on(other)
        {
            let reason = format!("it needs --{other}: {why}");
            return Err(FlagError::Value { flag: flag.clone(), value: given[flag].clone(), reason });
        }
    }
    // etcd asks for certificates then, and takes no user from them.
    if is_on("trusted-ca-file") && !is_on("client-cert-auth") {
        put(&mut flags.settings, "auth.certificate_names", false.into());
    }
    for (flag, value) in given {
        flags.take(&flag, value)?;
    }
    Ok(flags)
}

impl Flags {
    fn take(&mut self, flag: &str, value: String) -> Result<(), FlagError> {
        match meaning(flag) {
            Some(Set(path, read)) => {
                let value = read(&value).map_err(|reason| FlagError::Value {
                    flag: flag.to_owned(),
                    value,
                    reason,
                })?;
                if !value.is_null() {
                    put(&mut self.settings, path, value);
                }
            }
            Some(Listeners) => {
                let wrong = |reason| FlagError::Value { flag: flag.to_owned(), value: value.clone(), reason };
                self.listen(flag == "listen-client-urls", &value).map_err(wrong)?;
            }
            Some(PeerListeners) => {
                let read = value.split(',').filter(|url| !url.is_empty()).map(address).collect();
                let all: Result<Vec<_>, _> = read;
                let mut all = all
                    .map_err(|reason| FlagError::Value { flag: flag.to_owned(), value, reason })?
                    .into_iter();
                if let Some(own) = all.next() {
                    put(&mut self.settings, "listen_peer", own);
                }
                if all.len() > 0 {
                    put(&mut self.settings, "more_peer_listeners", all.collect());
                }
            }
            Some(LogLevel) => {
                self.log_level = Some(value.replace("panic", "error").replace("fatal", "error"));
            }
            Some(Only(values, reason)) if !values.contains(&value.as_str()) => {
                return Err(FlagError::Absent { flag: flag.to_owned(), value, reason });
            }
            Some(Only(..) | With(..)) => {}
            Some(Needless(why)) => self.warnings.push(format!("--{flag} changes nothing: {why}")),
            None => self.warnings.push(format!("{flag} is no setting of etcd's; it is ignored")),
        }
        Ok(())
    }
}

impl Flags {
    /// Adds addresses for clients. The first one is the member's own; those of TLS come before those without.
    fn listen(&mut self, first: bool, urls: &str) -> Result<(), String> {
        let mut all = Vec::new();
        for url in urls.split(',').filter(|url| !url.is_empty()) {
            all.push((url.starts_with("http://"), address(url)?));
        }
        all.sort_by_key(|(in_the_clear, _)| *in_the_clear);
        let mut all = all.into_iter();
        if first && let Some((_, own)) = all.next() {
            put(&mut self.settings, "listen_client", own);
        }
        let more: Vec<Value> = all
            .map(|(in_the_clear, address)| json!({"address": address, "in_the_clear": in_the_clear}))
            .collect();
        if !more.is_empty() {
            let list = self.settings.entry("more_listeners").or_insert_with(|| json!([]));
            list.as_array_mut().expect("only this makes it").extend(more);
        }
        Ok(())
    }
}

fn put(settings: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            settings.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = settings.entry(first).or_insert_with(|| json!({}));
            if let Some(inner) = inner.as_object_mut() {
                put(inner, rest, value);
            }
        }
    }
}

/// etcd's own file: flags by their names, those of TLS in sections.
fn from_file(path: &str) -> Result<BTreeMap<String, String>, FlagError> {
    let failed = |reason: String| FlagError::File { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let file: Value = serde_yaml_ng::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let Value::Object(file) = file else { return Err(failed("it is no mapping of settings".to_owned())) };
    let mut given = BTreeMap::new();
    for (name, value) in file {
        let prefix = match name.as_str() {
            "client-transport-security" => "",
            "peer-transport-security" => "peer-",
            _ => {
                given.insert(name, plain(&value));
                continue;
            }
        };
        for (name, value) in value.as_object().into_iter().flatten() {
            // Here the file has other names than the command line.
            let flag = match (prefix, name.as_str()) {
                ("peer-", "allowed-cn" | "allowed-cns") => "peer-cert-allowed-cn".to_owned(),
                ("peer-", "allowed-hostname" | "allowed-hostnames") => {
                    "peer-cert-allowed-hostname".to_owned()
                }
                ("", allowed) if allowed.starts_with("allowed-") => "client-cert-allowed-hostname".to_owned(),
                _ => format!("{prefix}{name}"),
            };
            given.insert(flag, plain(value));
        }
    }
    Ok(given)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Flags, FlagError> {
        let owned = |text: &&str| (*text).to_owned();
        let pairs = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        read(arguments.iter().map(owned), pairs)
    }

    #[test]
    fn etcds_flags_become_settings() {
        let table: &[(&[&str], Value)] = &[
            (&["--name", "a", "-data-dir=/d"], json!({"name": "a", "data_dir": "/d"})),
            (&["--listen-client-urls=http://localhost:1"], json!({"listen_client": "127.0.0.1:1"})),
            (
                &[
                    "--listen-client-urls=http://127.0.0.1:1,https://10.0.0.1:2",
                    "--listen-client-http-urls=https://[::1]:3",
                ],
                json!({"listen_client": "10.0.0.1:2", "more_listeners": [
                    {"address": "[::1]:3", "in_the_clear": false}, {"address": "127.0.0.1:1", "in_the_clear": true}]}),
            ),
            (&["--listen-client-http-urls=", "--listen-peer-urls="], json!({})),
            (
                &["--listen-peer-urls=http://localhost:1,http://10.0.0.2:2"],
                json!({"listen_peer": "127.0.0.1:1", "more_peer_listeners": ["10.0.0.2:2"]}),
            ),
            (
                &["--initial-cluster", "a=http://x:1,b=http://y:2"],
                json!({"peers": ["a=http://x:1", "b=http://y:2"]}),
            ),
            (
                &["--heartbeat-interval=100", "--election-timeout", "1000"],
                json!({"raft": {"heartbeat_ms": 100, "election_ms": 1000}}),
            ),
            (
                &["--cert-file=c", "--key-file=k"],
                json!({"server": {"tls": {"cert_file": "c", "key_file": "k"}}}),
            ),
            (
                &[
                    "--peer-cert-file=c",
                    "--peer-trusted-ca-file=a",
                    "--peer-client-cert-auth",
                    "--peer-cert-allowed-cn=x,y",
                ],
                json!({"peer_tls": {"cert_file": "c", "ca_file": "a", "allowed_common_names": ["x", "y"]}}),
            ),
            (
                &["--trusted-ca-file=a", "--client-cert-auth"],
                json!({"server": {"tls": {"client_ca_file": "a"}}}),
            ),
            (
                &["--trusted-ca-file=a"],
                json!({"server": {"tls": {"client_ca_file": "a"}}, "auth": {"certificate_names": false}}),
            ),
            (&["--peer-auto-tls", "--auto-tls"], json!({"peer_tls": {"auto": true}, "auto_tls": true})),
            (&["--peer-auto-tls=false", "--peer-cert-file=", "--client-cert-auth=false"], json!({})),
            (&["--force-new-cluster"], json!({"force_new_cluster": true})),
            (
                &["--client-crl-file=r", "--peer-crl-file=p", "--cipher-suites=A,B"],
                json!({"server": {"tls": {"client_crl_file": "r", "cipher_suites": ["A", "B"]}}, "peer_tls": {"crl_file": "p"}}),
            ),
            (
                &["--discovery-token=t", "--discovery-endpoints=a,b", "--discovery-insecure-transport=false"],
                json!({"discovery": {"token": "t", "endpoints": ["a", "b"], "insecure_transport": false}}),
            ),
            (&["--warning-unary-request-duration=1µs"], json!({"slow_request_us": 1})),
            (&["--quota-backend-bytes=0", "--auth-token=simple"], json!({})),
            (&["--max-concurrent-streams=4294967295"], json!({})),
            (&["--watch-progress-notify-interval=1m30s"], json!({"watch_progress_interval_ms": 90_000})),
            (&["--watch-progress-notify-interval=0s"], json!({})),
            (
                &["--auth-token=jwt,sign-method=RS256,priv-key=p,ttl=1.5s"],
                json!({"auth": {"jwt": {"sign_method": "RS256", "private_key_file": "p", "ttl_ms": 1500}}}),
            ),
            (
                &["--auto-compaction-mode=revision", "--auto-compaction-retention", "1000"],
                json!({"auto_compaction": {"mode": "revision", "retention": "1000"}}),
            ),
            (&["--pre-vote", "--strict-reconfig-check=true", "--logger=zap"], json!({})),
        ];
        for (arguments, expected) in table {
            let flags = of(arguments, &[]).expect("etcd's flags");
            assert_eq!(Value::Object(flags.settings), *expected, "{arguments:?}");
            assert!(flags.rest.is_empty(), "{arguments:?}");
        }
    }

    #[test]
    fn flags_go_before_variables_and_what_is_not_etcds_stays() {
        let flags = of(
            &["check", "--name=a", "--print-config"],
            &[("ETCD_NAME", "b"), ("ETCD_NO_SUCH", "x"), ("PATH", "y")],
        );
        let flags = flags.expect("etcd's flags");
        assert_eq!(flags.rest, ["check", "--print-config"]);
        assert_eq!(Value::Object(flags.settings), json!({"name": "a"}));
        assert!(
            flags.warnings.iter().any(|warning| warning.contains("ETCD_NO_SUCH")),
            "{:?}",
            flags.warnings
        );
        let needless = of(&["--max-wals=5"], &[]).expect("harmless");
        assert!(needless.warnings[0].contains("--max-wals"), "{:?}", needless.warnings);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (argument, part) in [
            ("--peer-client-cert-auth", "needs --peer-trusted-ca-file"),
            ("--client-cert-auth=true", "needs --trusted-ca-file"),
            ("--peer-auto-tls=maybe", "true or false"),
            ("--discovery=http://x", "--discovery-endpoints"),
            ("--listen-client-urls=http://a:1,http://b:2", "no address"),
            ("--listen-metrics-urls=http://10.0.0.1:1,http://10.0.0.2:2", "one address"),
            ("--listen-metrics-urls=https://10.0.0.1:1", "client TLS key/cert"),
            ("--auth-token=jwt", "sign-method"),
            ("--name", "needs a value"),
        ] {
            let error = of(&[argument], &[]).expect_err(argument).to_string();
            assert!(error.contains(part), "{argument}: {error}");
        }
    }

    #[test]
    fn etcds_file_stands_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("etcd.yaml");
        let text = "name: a\nheartbeat-interval: 200\nclient-transport-security:\n  cert-file: c\n  auto-tls: false\n\
            peer-transport-security:\n  auto-tls: true\n  allowed-cn: x\n";
        std::fs::write(&path, text).expect("written");
        let flags =
            of(&["--name=b", &format!("--config-file={}", path.display())], &[]).expect("etcd's file");
        let expected = json!({"name": "a", "raft": {"heartbeat_ms": 200}, "server": {"tls": {"cert_file": "c"}},
                "peer_tls": {"auto": true, "allowed_common_names": ["x"]}});
        assert_eq!(Value::Object(flags.settings), expected);
        assert!(flags.warnings[0].contains("name"), "{:?}", flags.warnings);
    }
}
