//! What may be wrong with the configuration.

use super::PeerTlsError;
use crate::server::ServerConfigError;

/// What is wrong with a [`TinykvConfig`](super::TinykvConfig).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TinykvConfigError {
    /// The shared part.
    #[error(transparent)]
    Server(#[from] ServerConfigError),
    /// TLS between the members.
    #[error(transparent)]
    PeerTls(#[from] PeerTlsError),
    /// An entry of `peers` cannot be used.
    #[error("peers: {entry}: {reason}")]
    Peer {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// This member is not among those that found the cluster.
    #[error("peers names {names}, but not this member, {name}; set name, or add name=URL for it to peers")]
    Stranger {
        /// This member.
        name: String,
        /// Those named.
        names: String,
    },
    /// Discovery cannot work so.
    #[error("discovery: {reason}")]
    Discovery {
        /// Why.
        reason: &'static str,
    },
    /// A number that must be positive.
    #[error("{field} is 0; leave it out for the default")]
    Zero {
        /// Path of the field.
        field: &'static str,
    },
    /// What automatic compaction keeps cannot be read.
    #[error("auto_compaction.retention is {retention:?}: {reason}")]
    Retention {
        /// What is set.
        retention: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// bcrypt knows no such cost.
    #[error("auth.bcrypt_cost is {cost}; it goes from 4 to 31, and each step doubles the work")]
    BcryptCost {
        /// The cost given.
        cost: u32,
    },
    /// Elections would start while the leader lives.
    #[error("raft.election_ms ({election}) must be at least five times raft.heartbeat_ms ({heartbeat})")]
    Timers {
        /// The heartbeat, in milliseconds.
        heartbeat: u64,
        /// The election timeout, in milliseconds.
        election: u64,
    },
    /// No version of TLS is left.
    #[error("tls_min_version (--tls-min-version) is 1.3 and tls_max_version 1.2, so that no version is left")]
    NoTlsVersion,
    /// Metrics by TLS without a certificate.
    #[error(
        "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url; write http:// in \
         --listen-metrics-urls, or name them"
    )]
    MetricsTls,
    /// A segment must hold more than one large write.
    #[error(
        "raft.segment_bytes is {segment}; it must be at least {least}, four times request_limits.max_request_bytes"
    )]
    Segment {
        /// The size given.
        segment: u64,
        /// The least that works well.
        least: u64,
    },
}
