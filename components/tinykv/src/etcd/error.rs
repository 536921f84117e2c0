//! Errors in the words and codes that etcd's clients match.

use crate::membership::MemberRefusal;
use crate::mvcc::{AuthError, Refusal};
use crate::node::NodeError;
use tonic::{Code, Status};

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Self {
        let (code, text) = match &error {
            NodeError::Refused(refusal) => return (*refusal).into(),
            NodeError::LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
            NodeError::TooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
            NodeError::TimedOut => (Code::Unavailable, "etcdserver: request timed out"),
            NodeError::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
            NodeError::NotLeader => (Code::FailedPrecondition, "etcdserver: not leader"),
            NodeError::Learner => (Code::FailedPrecondition, "etcdserver: rpc not supported for learner"),
            NodeError::Members(refusal) => {
                return Self::new(code_of(*refusal), format!("etcdserver: {refusal}"));
            }
            NodeError::NoPeers => return Self::failed_precondition(format!("etcdserver: {error}")),
            NodeError::BadTransferee => (Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            NodeError::LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
            NodeError::Stopped(_) => (Code::Unavailable, "etcdserver: server stopped"),
            NodeError::InvalidToken => (Code::Unauthenticated, "etcdserver: invalid auth token"),
            NodeError::VerifyOnly => (Code::Unknown, "auth: token signing attempted with verify-only key"),
            NodeError::PasswordTooLong => (Code::Unknown, "bcrypt: password length exceeds 72 bytes"),
            NodeError::State(reason) => {
                tracing::error!(%reason, "the state cannot be read");
                (Code::DataLoss, "etcdserver: corrupt cluster")
            }
        };
        Self::new(code, text)
    }
}

fn code_of(refusal: MemberRefusal) -> Code {
    match refusal {
        MemberRefusal::NotFound => Code::NotFound,
        MemberRefusal::Unhealthy => Code::Unavailable,
        MemberRefusal::PeerUrlExists
        | MemberRefusal::NotLearner
        | MemberRefusal::LearnerNotReady
        | MemberRefusal::TooManyLearners
        | MemberRefusal::NotEnoughStarted => Code::FailedPrecondition,
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, text) = match refusal {
            Refusal::Compacted => {
                (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
            }
            Refusal::FutureRevision => {
                (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
            }
            Refusal::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
            Refusal::LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
            Refusal::LeaseExists => (Code::FailedPrecondition, "etcdserver: lease already exists"),
            Refusal::Auth(error) => denial(error),
            Refusal::Downgrading => {
                (Code::FailedPrecondition, "etcdserver: cluster has a downgrade job in progress")
            }
            Refusal::NoSpace => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        };
        Self::new(code, text)
    }
}

fn denial(error: AuthError) -> (Code, &'static str) {
    match error {
        AuthError::RootUserMissing => (Code::FailedPrecondition, "etcdserver: root user does not exist"),
        AuthError::RootRoleMissing => {
            (Code::FailedPrecondition, "etcdserver: root user does not have root role")
        }
        AuthError::UserExists => (Code::FailedPrecondition, "etcdserver: user name already exists"),
        AuthError::UserEmpty => (Code::InvalidArgument, "etcdserver: user name is empty"),
        AuthError::UserNotFound => (Code::FailedPrecondition, "etcdserver: user name not found"),
        AuthError::RoleExists => (Code::FailedPrecondition, "etcdserver: role name already exists"),
        AuthError::RoleNotFound => (Code::FailedPrecondition, "etcdserver: role name not found"),
        AuthError::RoleEmpty => (Code::InvalidArgument, "etcdserver: role name is empty"),
        AuthError::Failed => {
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
        }
        AuthError::NoPasswordUser => {
            (Code::Unknown, "auth: authentication failed, password was given for no password user")
        }
        AuthError::PermissionDenied => (Code::PermissionDenied, "etcdserver: permission denied"),
        AuthError::RoleNotGranted => {
            (Code::FailedPrecondition, "etcdserver: role is not granted to the user")
        }
        AuthError::PermissionNotGranted => {
            (Code::FailedPrecondition, "etcdserver: permission is not granted to the role")
        }
        AuthError::NotEnabled => (Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
        AuthError::OldRevision => (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
        AuthError::InvalidManagement => (Code::InvalidArgument, "etcdserver: invalid auth management"),
    }
}
