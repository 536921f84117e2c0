//! Errors in the words and codes that etcd's clients match.

use crate::mvcc::Refusal;
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
            NodeError::BadTransferee => (Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            NodeError::LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
            NodeError::Stopped(_) => (Code::Unavailable, "etcdserver: server stopped"),
            NodeError::State(reason) => {
                tracing::error!(%reason, "the state cannot be read");
                (Code::DataLoss, "etcdserver: corrupt cluster")
            }
        };
        Self::new(code, text)
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
            Refusal::NoSpace => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        };
        Self::new(code, text)
    }
}
