//! Settings of `tinykv`.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

mod peers;

pub use self::peers::{PeerCertificates, PeerSecurity, PeerTlsError, TinykvPeerTls};
use crate::server::{Limits, ServerConfig, TlsVersion};

mod compaction;
mod discovery;
mod error;
mod parts;

pub use error::TinykvConfigError;
pub use parts::{
    JwtConfig, SigningMethod, TinykvAuthConfig, TinykvMemoryConfig, TinykvRaftConfig, TinykvRequestLimits,
};

pub use compaction::{CompactionMode, Retention, TinykvAutoCompaction, duration};
pub use discovery::TinykvDiscovery;

/// The token of clusters that are given none; etcd's default.
pub const DEFAULT_CLUSTER_TOKEN: &str = "etcd-cluster";

/// The effective configuration of a TinyKV node. Environment prefix: `TINYKV_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinykvConfig {
    /// Admin port, TLS, API keys, limits of the client listener, telemetry.
    #[serde(deserialize_with = "server_with_defaults")]
    pub server: ServerConfig,
    /// Name of this member, shown by `etcdctl member list`.
    pub name: String,
    /// Directory of the log, the state and the snapshots. Created when missing; one process at a time may hold it.
    pub data_dir: PathBuf,
    /// Address of the client listener: etcd's gRPC API, `platform.v1.KVService`, `/version`, `/health`, `/metrics`.
    pub listen_client: SocketAddr,
    /// Further addresses that serve the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_listeners: Vec<MoreListener>,
    /// Addresses that serve `/metrics`, `/health`, `/livez` and `/readyz` alone, by etcd's forms; with TLS where the clients'
    /// listener has it, unless they are in the clear.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics_listeners: Vec<MoreListener>,
    /// URLs under which clients reach this member, as the member list shows them. Empty: the client listener's address.
    pub advertise_client_urls: Vec<String>,
    /// Where the other members connect. Nothing listens there unless `peers` names members.
    pub listen_peer: SocketAddr,
    /// Further addresses where they may connect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_peer_listeners: Vec<SocketAddr>,
    /// The members that found the cluster, this one among them: `name=http://host:port` each (`https` with
    /// `peer_tls`), or the URL alone when its host's first label is the name. The same list on every member; read at the first start. Empty: a cluster of one.
    pub peers: Vec<String>,
    /// Whether `peers` found a cluster, or this member was added to one that exists. Read at the first start.
    pub initial_cluster_state: InitialClusterState,
    /// Tells a cluster from another one with the same `peers`, such as one that was founded there before. The same on every
    /// member; read at the first start.
    pub initial_cluster_token: String,
    /// At the first start, found the cluster only when every member of `peers` is there to found the same one, where etcd is
    /// content with most of them. Then a list that was changed over members with data founds no second cluster beside theirs.
    pub found_together: bool,
    /// TLS between the members. Absent: they talk in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_tls: Option<TinykvPeerTls>,
    /// The oldest version of TLS that clients and members may speak. Absent: 1.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_min_version: Option<TlsVersion>,
    /// The newest one. Absent: 1.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_max_version: Option<TlsVersion>,
    /// Make a self-signed certificate in the data directory for the client listener. Clients cannot check it unless they are
    /// given it. Without effect when `server.tls` is given.
    pub auto_tls: bool,
    /// Logical size at which writes are refused with NOSPACE, in bytes.
    pub quota_bytes: u64,
    /// Compaction without being asked.
    pub auto_compaction: TinykvAutoCompaction,
    /// Tokens and passwords of etcd's users.
    pub auth: TinykvAuthConfig,
    /// Limits of a single request.
    pub request_limits: TinykvRequestLimits,
    /// Raft: timers, log, snapshots.
    pub raft: TinykvRaftConfig,
    /// Memory of the engine.
    pub memory: TinykvMemoryConfig,
    /// A watcher that asked for progress and sees no event hears after this time where the store is, in milliseconds.
    pub watch_progress_interval_ms: u64,
    /// A call that takes longer than this is told of in the log, in microseconds; of those that answer once.
    pub slow_request_us: u64,
    /// At the start, forget all other members and go on alone, with what this one has. For a cluster that has lost most of its
    /// members for good: of what they acknowledged, this one may lack the last writes. Those that were forgotten must not start
    /// again with their data. Take the setting away afterwards.
    pub force_new_cluster: bool,
    /// Find the other founders through another cluster, instead of `peers`. Used at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<TinykvDiscovery>,
    /// URLs under which the other members reach this one, which `discovery` tells them. Empty: `listen_peer`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertise_peer_urls: Vec<String>,
    /// Where the Raft log lies, such as on a disk of its own: a directory that is empty or absent at the first start, to which
    /// `log` in the data directory leads. Absent: in the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_dir: Option<PathBuf>,
    /// Let other processes listen on the same addresses; the kernel shares connections out.
    pub reuse_port: bool,
    /// Plain HTTP: the JSON gateway, and who may use what is there.
    pub http: TinykvHttpConfig,
    /// Show, in `/metrics`, how long calls take, by method.
    pub extensive_metrics: bool,
}

/// What is served by plain HTTP beside gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinykvHttpConfig {
    /// Serve etcd's JSON gateway under `/v3`.
    pub json_gateway: bool,
    /// Origins whose pages may read answers (CORS); `*` stands for all. Empty: all.
    pub cors_origins: Vec<String>,
    /// Names by which clients without TLS may call this server, against DNS rebinding; `*` stands for all. Empty: all.
    pub allowed_hosts: Vec<String>,
}

impl Default for TinykvHttpConfig {
    fn default() -> Self {
        Self { json_gateway: true, cors_origins: Vec::new(), allowed_hosts: Vec::new() }
    }
}

impl Default for TinykvConfig {
    fn default() -> Self {
        Self {
            server: default_server(),
            name: "default".to_owned(),
            data_dir: PathBuf::from("./tinykv-data"),
            listen_client: ([127, 0, 0, 1], 2379).into(),
            more_listeners: Vec::new(),
            metrics_listeners: Vec::new(),
            advertise_client_urls: Vec::new(),
            listen_peer: ([127, 0, 0, 1], 2380).into(),
            more_peer_listeners: Vec::new(),
            peers: Vec::new(),
            initial_cluster_state: InitialClusterState::New,
            initial_cluster_token: DEFAULT_CLUSTER_TOKEN.to_owned(),
            found_together: false,
            peer_tls: None,
            auto_tls: false,
            quota_bytes: 2 << 30,
            auto_compaction: TinykvAutoCompaction::default(),
            auth: TinykvAuthConfig::default(),
            request_limits: TinykvRequestLimits::default(),
            raft: TinykvRaftConfig::default(),
            memory: TinykvMemoryConfig::default(),
            watch_progress_interval_ms: 600_000,
            slow_request_us: 300_000,
            force_new_cluster: false,
            discovery: None,
            advertise_peer_urls: Vec::new(),
            tls_min_version: None,
            tls_max_version: None,
            log_dir: None,
            reuse_port: false,
            http: TinykvHttpConfig::default(),
            extensive_metrics: false,
        }
    }
}

/// One more address for clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoreListener {
    /// The address.
    pub address: SocketAddr,
    /// Without TLS, whatever `server.tls` says.
    #[serde(default)]
    pub in_the_clear: bool,
}

/// What a member does at its first start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitialClusterState {
    /// It founds a cluster, with the other members named.
    #[default]
    New,
    /// It joins the cluster of the members named, to which it was added.
    Existing,
}

/// Watches are requests that last, so more of them may be in progress than elsewhere.
fn default_limits() -> Limits {
    Limits { max_concurrent_requests: 65_536, ..Limits::default() }
}

fn default_server() -> ServerConfig {
    ServerConfig { limits: default_limits(), ..ServerConfig::with_admin(([127, 0, 0, 1], 2381).into()) }
}

/// A file that names only part of `server` keeps the rest as it is by default.
fn server_with_defaults<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ServerConfig, D::Error> {
    let mut value = serde_json::Value::deserialize(deserializer)?;
    if let Some(fields) = value.as_object_mut() {
        let defaults = default_server();
        fields.entry("admin_listen").or_insert_with(|| defaults.admin_listen.to_string().into());
        let limits = fields.entry("limits").or_insert_with(|| serde_json::json!({}));
        if let Some(limits) = limits.as_object_mut() {
            limits
                .entry("max_concurrent_requests")
                .or_insert_with(|| defaults.limits.max_concurrent_requests.into());
        }
    }
    serde_json::from_value(value).map_err(serde::de::Error::custom)
}

/// A member that founds a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Founder {
    /// Its name.
    pub name: String,
    /// Where it listens to the others: host and port.
    pub address: String,
}

impl TinykvConfig {
    /// The members that found the cluster, by name; none for a cluster of one.
    pub fn founders(&self) -> Result<Vec<Founder>, TinykvConfigError> {
        let mut founders = Vec::with_capacity(self.peers.len());
        for entry in &self.peers {
            let wrong = |reason| TinykvConfigError::Peer { entry: entry.clone(), reason };
            let (name, url) = entry.split_once('=').unwrap_or(("", entry));
            let bare = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            let address = bare.unwrap_or(url).trim_end_matches('/');
            let (host, port) =
                address.rsplit_once(':').ok_or_else(|| wrong("write name=http://host:port"))?;
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(wrong("write name=http://host:port"));
            }
            let name = if name.is_empty() { host.split('.').next().unwrap_or(host) } else { name };
            founders.push(Founder { name: name.to_owned(), address: address.to_owned() });
        }
        founders.sort();
        if let Some(twice) = founders.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(TinykvConfigError::Peer {
                entry: twice[1].name.clone(),
                reason: "this name stands there twice",
            });
        }
        if !founders.is_empty() && founders.iter().all(|founder| founder.name != self.name) {
            let names = founders.iter().map(|founder| founder.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(TinykvConfigError::Stranger { name: self.name.clone(), names });
        }
        Ok(founders)
    }

    /// Checks the values that serde cannot.
    pub fn validate(&self) -> Result<(), TinykvConfigError> {
        self.server.validate()?;
        if self.tls_min_version > self.tls_max_version.or(Some(TlsVersion::V1_3)) {
            return Err(TinykvConfigError::NoTlsVersion);
        }
        if self.server.tls.is_none()
            && !self.auto_tls
            && self.metrics_listeners.iter().any(|it| !it.in_the_clear)
        {
            return Err(TinykvConfigError::MetricsTls);
        }
        self.founders()?;
        self.auto_compaction.retention()?;
        self.peer_security()?;
        if let Some(discovery) = &self.discovery {
            let wrong = |reason| TinykvConfigError::Discovery { reason };
            discovery.check(!self.peers.is_empty()).map_err(wrong)?;
        }
        let limits = &self.request_limits;
        let positive = [
            ("quota_bytes", self.quota_bytes),
            ("request_limits.max_request_bytes", limits.max_request_bytes as u64),
            ("request_limits.max_txn_ops", limits.max_txn_ops as u64),
            ("request_limits.timeout_ms", limits.timeout_ms),
            ("auth.token_ttl_seconds", self.auth.token_ttl_seconds),
            ("auth.jwt.ttl_ms", self.auth.jwt.as_ref().map_or(1, |jwt| jwt.ttl_ms)),
            ("raft.heartbeat_ms", self.raft.heartbeat_ms),
            ("raft.snapshot_entries", self.raft.snapshot_entries),
            ("raft.snapshot_bytes", self.raft.snapshot_bytes),
            ("watch_progress_interval_ms", self.watch_progress_interval_ms),
        ];
        if let Some((field, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(TinykvConfigError::Zero { field });
        }
        if !(4..=31).contains(&self.auth.bcrypt_cost) {
            return Err(TinykvConfigError::BcryptCost { cost: self.auth.bcrypt_cost });
        }
        let (heartbeat, election) = (self.raft.heartbeat_ms, self.raft.election_ms);
        if election < 5 * heartbeat {
            return Err(TinykvConfigError::Timers { heartbeat, election });
        }
        let least = 4 * limits.max_request_bytes as u64;
        if self.raft.segment_bytes < least {
            return Err(TinykvConfigError::Segment { segment: self.raft.segment_bytes, least });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation_names_the_field() {
        type Change = fn(&mut TinykvConfig);
        let table: &[(Change, Option<&str>)] = &[
            (|_| {}, None),
            (|c| c.peers.push("http://10.0.0.2:2380".into()), Some("not this member")),
            (|c| c.peers = vec!["default=http://10.0.0.2:2380".into(), "b=http://b:2380".into()], None),
            (|c| c.peers = vec!["http://default.kv-members:2380".into()], None),
            (|c| c.peers = vec!["default=https://10.0.0.2:2380".into()], Some("--peer-auto-tls")),
            (|c| c.peers = vec!["default=http://10.0.0.2".into()], Some("host:port")),
            (|c| c.peers = vec!["default=a:1".into(), "default=b:1".into()], Some("twice")),
            (|c| c.quota_bytes = 0, Some("quota_bytes")),
            (|c| c.request_limits.max_txn_ops = 0, Some("max_txn_ops")),
            (|c| c.auto_compaction.retention = "1h".into(), None),
            (|c| c.auto_compaction.retention = "soon".into(), Some("auto_compaction.retention")),
            (|c| c.auth.bcrypt_cost = 3, Some("auth.bcrypt_cost")),
            (|c| c.auth.token_ttl_seconds = 0, Some("token_ttl_seconds")),
            (|c| c.raft.election_ms = 300, Some("raft.election_ms")),
            (|c| c.raft.segment_bytes = 4096, Some("raft.segment_bytes")),
            (|c| c.discovery = Some(TinykvDiscovery::default()), Some("discovery.token")),
            (|c| c.server.limits.max_connections = 0, Some("max_connections")),
            (
                |c| (c.tls_min_version, c.tls_max_version) = (Some(TlsVersion::V1_3), Some(TlsVersion::V1_2)),
                Some("tls_min_version"),
            ),
            (
                |c| {
                    let address = ([127, 0, 0, 1], 1).into();
                    c.metrics_listeners.push(MoreListener { address, in_the_clear: false });
                },
                Some("client TLS key/cert"),
            ),
        ];
        for (change, expected) in table {
            let mut config = TinykvConfig::default();
            change(&mut config);
            match (config.validate(), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
                (result, expected) => panic!("{result:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_partial_server_section_keeps_the_other_defaults() {
        let config: TinykvConfig =
            serde_json::from_str(r#"{"server":{"limits":{"max_connections":5}}}"#).expect("parses");
        assert_eq!(config.server.admin_listen.port(), 2381);
        assert_eq!(config.server.limits.max_concurrent_requests, 65_536);
        assert_eq!(config.server.limits.max_connections, 5);
        assert!(serde_json::from_str::<TinykvConfig>(r#"{"quota":1}"#).is_err());
    }
}
