//! What a member refuses, and why it does not start.

use crate::discovery::DiscoveryError;
use crate::identity::IdentityError;
use crate::membership::MemberRefusal;
use crate::membership::founding::FoundingError;
use crate::mvcc::{AuthError, Refusal};
use crate::store::StoreError;
use crate::tokens::TokensError;
use aistack_api::tinykv::TinykvConfigError;
use aistack_chassis::tls::TlsError;
use replication::{ProposeError, StartError};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeStartError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] TinykvConfigError),
    /// Peers cannot be listened to.
    #[error("cannot listen to the other members on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The log cannot lie where it should.
    #[error("log_dir (--wal-dir) {path}: {source}", path = path.display())]
    LogDir {
        /// Where it should.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The other founders are not found.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The data directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The group.
    #[error(transparent)]
    Group(#[from] StartError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The keys of tokens.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The cluster to join did not take this process.
    #[error("cannot join the cluster: {0}")]
    Join(String),
    /// The other founders.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// It was removed.
    #[error(
        "member {id:x} was removed from its cluster for good; to bring this machine back, add a member and start it with an empty data directory instead of {path}",
        path = path.display()
    )]
    Removed {
        /// The member.
        id: u64,
        /// Its data directory.
        path: PathBuf,
    },
}

/// Why a request was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// The engine refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// This lease would live too long.
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// It is larger than a request may be.
    #[error("request is too large")]
    TooLarge,
    /// It took too long; whether it was done is unknown.
    #[error("request timed out")]
    TimedOut,
    /// Nobody leads now.
    #[error("no leader")]
    NoLeader,
    /// Only the leader can do this.
    #[error("not leader")]
    NotLeader,
    /// A learner does not answer this.
    #[error("rpc not supported for learner")]
    Learner,
    /// The members stay as they are.
    #[error(transparent)]
    Members(#[from] MemberRefusal),
    /// It listens to no peers.
    #[error("this member listens to no peers; name it in `peers` (--initial-cluster) and start it again")]
    NoPeers,
    /// The leadership cannot go there.
    #[error("bad leader transferee")]
    BadTransferee,
    /// The leader went away in the middle of it; whether it was done is unknown.
    #[error("leader changed")]
    LeaderChanged,
    /// The member is stopping or has stopped.
    #[error("server stopped: {0}")]
    Stopped(String),
    /// The state cannot be read.
    #[error("cannot read the state: {0}")]
    State(String),
    /// The token that came with the request proves nothing.
    #[error("invalid auth token")]
    InvalidToken,
    /// This member reads tokens and makes none.
    #[error("token signing attempted with verify-only key")]
    VerifyOnly,
    /// bcrypt takes no longer ones.
    #[error("password length exceeds 72 bytes")]
    PasswordTooLong,
}

impl From<AuthError> for NodeError {
    fn from(error: AuthError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<ProposeError> for NodeError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { .. } => Self::NoLeader,
            ProposeError::Unknown(reason) => {
                tracing::debug!(%reason, "what came of a request is unknown");
                Self::LeaderChanged
            }
            ProposeError::Stopped(reason) => Self::Stopped(reason),
        }
    }
}

impl From<io::Error> for NodeError {
    fn from(error: io::Error) -> Self {
        Self::State(error.to_string())
    }
}
