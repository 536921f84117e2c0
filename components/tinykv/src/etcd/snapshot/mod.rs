//! etcd's snapshots: a bbolt file with etcd's buckets, and behind it the file's SHA-256. What etcd's
//! own tools take, and what they make, is written and read here.
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `key` | revision `_` number (`t` for a deletion) | the version, as a message |
//! | `meta` | a name | compaction, place in the log, form |
//! | `lease` | id | the lease, as a message |
//! | `alarm` | the alarm, as a message | |
//! | `auth`, `authUsers`, `authRoles` | a name | whether they count, users, roles |
//! | `members`, `members_removed`, `cluster` | an id, a name | who the members were, the release, and one to go back to |
//!
//! The form is that of the cluster's release: of 3.7, or of the one it goes back to.

mod read;
mod serve;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Contents, Sealed, SnapshotError, read, unseal};
pub use serve::{Stream, stream};
pub use write::{About, write};

use bytes::{Buf as _, BufMut as _};

const KEY: &str = "key";
const META: &str = "meta";
const LEASE: &str = "lease";
const ALARM: &str = "alarm";
const AUTH: &str = "auth";
const USERS: &str = "authUsers";
const ROLES: &str = "authRoles";
const CLUSTER: &str = "cluster";
const MEMBERS: &str = "members";
const MEMBERS_REMOVED: &str = "members_removed";

const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
const AUTH_ENABLED: &[u8] = b"authEnabled";
const AUTH_REVISION: &[u8] = b"authRevision";
const DOWNGRADE: &[u8] = b"downgrade";
/// A SHA-256.
const DIGEST: usize = 32;

/// A lease, as etcd keeps it.
#[derive(Clone, PartialEq, prost::Message)]
struct LeaseRecord {
    #[prost(int64, tag = "1")]
    id: i64,
    /// In seconds.
    #[prost(int64, tag = "2")]
    ttl: i64,
    /// What was left of it when a leader noted that.
    #[prost(int64, tag = "3")]
    remaining: i64,
}

/// The key of a version, or (with number 0) of a revision.
fn revision_key(revision: i64, number: i64, is_deletion: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(18);
    out.put_i64(revision);
    out.put_u8(b'_');
    out.put_i64(number);
    if is_deletion {
        out.put_u8(b't');
    }
    out
}

/// Reads [`revision_key`] back.
fn parse_revision_key(key: &[u8]) -> Option<(i64, i64, bool)> {
    let (mut numbers, mark) = key.split_at_checked(17)?;
    let (revision, separator, number) = (numbers.get_i64(), numbers.get_u8(), numbers.get_i64());
    let is_deletion = match mark {
        [] => false,
        [b't'] => true,
        _ => return None,
    };
    (separator == b'_' && revision > 0 && number >= 0).then_some((revision, number, is_deletion))
}
