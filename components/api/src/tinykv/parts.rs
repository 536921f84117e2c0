//! Limits of requests, users' tokens, Raft and memory.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of a single request. Over one of them the request is refused and nothing of it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinykvRequestLimits {
    /// Largest write, in bytes.
    pub max_request_bytes: usize,
    /// Most conditions or steps on one path through a transaction.
    pub max_txn_ops: usize,
    /// Time in which a write or a linearizable read must be answered, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for TinykvRequestLimits {
    fn default() -> Self {
        Self { max_request_bytes: 3 << 19, max_txn_ops: 128, timeout_ms: 7_000 }
    }
}

/// Tokens and passwords of etcd's users; users and roles themselves are made by clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinykvAuthConfig {
    /// Signed tokens. Absent: simple ones, which every member keeps in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtConfig>,
    /// How long a simple token lives after its last use, in seconds.
    pub token_ttl_seconds: u64,
    /// Cost of a password's bcrypt hash, from 4 to 31.
    pub bcrypt_cost: u32,
    /// Whether the common name in a client's certificate names its user, where no token comes along. Clients show
    /// certificates when `server.tls.client_ca_file` is given.
    pub certificate_names: bool,
}

impl Default for TinykvAuthConfig {
    fn default() -> Self {
        Self { jwt: None, token_ttl_seconds: 300, bcrypt_cost: 10, certificate_names: true }
    }
}

/// Tokens signed by JSON Web Token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// How they are signed.
    pub sign_method: SigningMethod,
    /// PEM file of the key that they are signed with; the secret itself for `HS256`, `HS384` and `HS512`. Absent: this
    /// member can read tokens, and gives none out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key_file: Option<PathBuf>,
    /// PEM file of the key that they are checked with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key_file: Option<PathBuf>,
    /// How long they live, in milliseconds.
    pub ttl_ms: u64,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            sign_method: SigningMethod::RS256,
            private_key_file: None,
            public_key_file: None,
            ttl_ms: 300_000,
        }
    }
}

impl JwtConfig {
    /// How long tokens live.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

/// How a JSON Web Token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum SigningMethod {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// Raft: timers, log, snapshots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinykvRaftConfig {
    /// How often the leader tells its followers that it lives, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a follower waits for that before it stands for election, in milliseconds. Leases live at least one and
    /// a half times as long, rounded up to seconds.
    pub election_ms: u64,
    /// Size of a log segment, in bytes. A segment's space is reserved when it is created.
    pub segment_bytes: u64,
    /// A snapshot is taken, and the log purged behind it, after this many entries.
    pub snapshot_entries: u64,
    /// … or after this many bytes of writes.
    pub snapshot_bytes: u64,
    /// Entries that the log keeps behind a snapshot, for followers that are a little late; one that is later gets the snapshot.
    pub catchup_entries: u64,
}

impl Default for TinykvRaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 100,
            election_ms: 1_000,
            segment_bytes: 64 << 20,
            snapshot_entries: 100_000,
            snapshot_bytes: 256 << 20,
            catchup_entries: 1_000,
        }
    }
}

/// Memory of the engine. Keys and the positions of their versions are always in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinykvMemoryConfig {
    /// Values of recently written keys, in bytes.
    pub value_bytes: usize,
    /// Blocks of the state read from disk, in bytes.
    pub block_cache_bytes: usize,
    /// Recent changes kept for watchers, in bytes; watchers further behind read from disk.
    pub recent_change_bytes: usize,
    /// Entries of Raft's log that other members may still ask for, in bytes; older ones are read from disk.
    pub log_cache_bytes: usize,
}

impl Default for TinykvMemoryConfig {
    fn default() -> Self {
        Self {
            value_bytes: 16 << 20,
            block_cache_bytes: 32 << 20,
            recent_change_bytes: 8 << 20,
            log_cache_bytes: 8 << 20,
        }
    }
}
