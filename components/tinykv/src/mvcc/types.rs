//! What the engine is asked and what it answers.

use super::auth::{AuthCommand, AuthError};
use super::release::Release;
use bytes::Bytes;

/// A key with everything that is known of one version of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Revision at which the key was last created.
    pub create_revision: i64,
    /// Revision of this version.
    pub mod_revision: i64,
    /// Number of writes since the creation, from 1.
    pub version: i64,
    /// The lease that the key lives by, 0 for none.
    pub lease: i64,
}

/// Which keys are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// One key.
    Key(Bytes),
    /// Keys from the first (inclusive) to the second (exclusive).
    Between(Bytes, Bytes),
    /// Every key from this one on.
    From(Bytes),
}

impl Span {
    /// Whether `key` is meant.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Between(from, to) => &from[..] <= key && key < &to[..],
            Self::From(from) => &from[..] <= key,
        }
    }

    /// The first key that could be meant.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Key(key) | Self::Between(key, _) | Self::From(key) => key,
        }
    }
}

/// What a query is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortBy {
    /// The key; the order in which keys are kept.
    Key,
    /// The number of writes.
    Version,
    /// The revision of creation.
    Create,
    /// The revision of the last write.
    Mod,
    /// The value.
    Value,
}

/// A read of some keys at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which keys.
    pub span: Span,
    /// At which revision; 0 (and less) is the latest.
    pub revision: i64,
    /// At most so many; 0 (and less) is no limit.
    pub limit: i64,
    /// Order other than ascending keys: by what, and whether descending.
    pub sort: Option<(SortBy, bool)>,
    /// Take the first keys up to the limit, and one more, before they are sorted: as etcd does where a request names what to
    /// sort by and no order.
    pub limit_first: bool,
    /// Leave values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Bounds on the revision of the last write, 0 for none.
    pub mod_bounds: (i64, i64),
    /// Bounds on the revision of creation, 0 for none.
    pub create_bounds: (i64, i64),
}

impl Query {
    /// Everything about the keys of `span`, now.
    pub fn of(span: Span) -> Self {
        Self {
            span,
            revision: 0,
            limit: 0,
            sort: None,
            limit_first: false,
            keys_only: false,
            count_only: false,
            mod_bounds: (0, 0),
            create_bounds: (0, 0),
        }
    }

    /// Whether revisions decide what is answered.
    pub fn has_bounds(&self) -> bool {
        self.mod_bounds != (0, 0) || self.create_bounds != (0, 0)
    }
}

/// A write of one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// Its new value.
    pub value: Bytes,
    /// The lease it shall live by, 0 for none.
    pub lease: i64,
    /// Answer the version before.
    pub prev_kv: bool,
    /// Keep the value there is.
    pub keep_value: bool,
    /// Keep the lease there is.
    pub keep_lease: bool,
}

/// A deletion of some keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// Which keys.
    pub span: Span,
    /// Answer the versions before.
    pub prev_kv: bool,
}

/// How the two sides of a comparison must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// The key's side is more.
    Greater,
    /// The key's side is less.
    Less,
    /// Not the same.
    NotEqual,
}

/// What of a key is compared, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The number of writes.
    Version(i64),
    /// The revision of creation.
    Create(i64),
    /// The revision of the last write.
    Mod(i64),
    /// The value.
    Value(Bytes),
    /// The lease.
    Lease(i64),
}

/// A condition on every key of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Which keys; a span without keys compares as one key that was never written.
    pub span: Span,
    /// What is compared with what.
    pub target: Target,
    /// How they must stand.
    pub relation: Relation,
}

/// Conditions, and what to do when all of them hold or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Done when they do.
    pub success: Vec<Op>,
    /// Done when one does not.
    pub failure: Vec<Op>,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Read.
    Query(Query),
    /// Write.
    Put(Put),
    /// Delete.
    Delete(Delete),
    /// Decide again.
    Txn(Txn),
}

impl Txn {
    /// Whether it cannot write whichever way it goes.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            Op::Query(_) => true,
            Op::Put(_) | Op::Delete(_) => false,
            Op::Txn(txn) => txn.is_read_only(),
        })
    }

    /// Whether it may write a key (not only delete).
    pub fn puts(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            Op::Put(_) => true,
            Op::Query(_) | Op::Delete(_) => false,
            Op::Txn(txn) => txn.puts(),
        })
    }
}

/// A state of alarm that an operator must see to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// The quota is used up: nothing may grow.
    NoSpace,
    /// Members disagree.
    Corrupt,
}

/// What is replicated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Write one key.
    Put(Put),
    /// Delete keys.
    Delete(Delete),
    /// A transaction.
    Txn(Txn),
    /// Forget versions that were superseded at this revision.
    Compact(i64),
    /// Create a lease with this id and time to live in seconds.
    LeaseGrant {
        /// Its id, not 0.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// End a lease and delete the keys that live by it.
    LeaseRevoke(i64),
    /// Raise an alarm for a member.
    AlarmRaise(u64, Alarm),
    /// End an alarm of a member.
    AlarmClear(u64, Alarm),
    /// Change users and roles.
    Auth(AuthCommand),
    /// Make ready to go back to an earlier release, or (without one) go on as before.
    Downgrade(Option<Release>),
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueryAnswer {
    /// The keys found.
    pub kvs: Vec<KeyValue>,
    /// Keys in the span, whatever the limit and the bounds.
    pub count: i64,
    /// Whether the limit left some out.
    pub more: bool,
    /// Revision of the store at the read.
    pub revision: i64,
}

/// The answer to a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnAnswer {
    /// Whether all conditions held.
    pub succeeded: bool,
    /// Revision after it.
    pub revision: i64,
    /// One answer a step.
    pub answers: Vec<Answer>,
}

/// What a command or a step answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a read.
    Query(QueryAnswer),
    /// To a write.
    Put {
        /// Revision of the write.
        revision: i64,
        /// The version before, when asked for.
        prev: Option<KeyValue>,
    },
    /// To a deletion.
    Delete {
        /// Revision after it.
        revision: i64,
        /// How many keys there were.
        deleted: i64,
        /// Their last versions, when asked for.
        prev: Vec<KeyValue>,
    },
    /// To a transaction.
    Txn(TxnAnswer),
    /// To everything else: the revision after it.
    Done {
        /// Revision of the store.
        revision: i64,
    },
    /// To a change of users and roles: what it touched.
    Auth(super::auth::Touched),
    /// To a grant: what was granted.
    Granted {
        /// Revision of the store.
        revision: i64,
        /// Its id.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
}

/// Why a command or a read was not done. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The revision is older than the last compaction.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision is yet to come.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// There is no version whose value or lease could be kept.
    #[error("key not found")]
    KeyNotFound,
    /// There is no such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// There is such a lease already.
    #[error("lease already exists")]
    LeaseExists,
    /// The quota is used up.
    #[error("database space exceeded")]
    NoSpace,
    /// The cluster goes back to an earlier release already.
    #[error("cluster has a downgrade job in progress")]
    Downgrading,
    /// Users and roles forbid it.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// What came of a command.
pub type Outcome = Result<Answer, Refusal>;
