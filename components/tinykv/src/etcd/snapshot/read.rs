//! Reading what etcd or this program has written.

use super::{
    ALARM, AUTH, AUTH_ENABLED, AUTH_REVISION, CLUSTER, DIGEST, DOWNGRADE, FINISHED_COMPACTION, KEY, LEASE,
    LeaseRecord, META, ROLES, SCHEDULED_COMPACTION, USERS, parse_revision_key,
};
use crate::bbolt::{BboltError, Tree};
use crate::etcd::auth;
use crate::mvcc::auth::{Role, User};
use crate::mvcc::{Alarm, Auth, Change, KeyValue, Release};
use crate::store::Loaded;
use prost::Message as _;
use ring::digest::{Context, SHA256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use tonic::Status;
use wire::etcd::etcdserverpb as pb;
use wire::etcd::{authpb, mvccpb};

/// Pages are multiples of this, so what is left over tells whether a digest is there.
const SECTOR: u64 = 512;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The system refused.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Nothing proves that it is whole.
    #[error("{path} has no SHA-256 at its end, so it was cut short, or it is no snapshot; a file taken from etcd's \
             member/snap/db has none: --skip-hash-check takes it without", path = path.display())]
    Unsealed {
        /// The file.
        path: PathBuf,
    },
    /// Something in it has changed.
    #[error("{path} is damaged: the SHA-256 at its end is not that of what stands before it", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Its pages.
    #[error(transparent)]
    Bbolt(#[from] BboltError),
    /// A record in it.
    #[error("{path}, bucket {bucket}: {reason}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The bucket.
        bucket: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// What was read could not be put down.
    #[error("cannot write what {path} holds: {source}", path = path.display())]
    Put {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A file whose digest is right, or was not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes before the digest.
    pub length: u64,
    /// SHA-256 of those.
    pub digest: [u8; DIGEST],
}

/// Checks the digest at a file's end. Without one it is taken only if `skip` says so; a wrong one then passes too.
pub fn unseal(path: &Path, skip: bool) -> Result<Sealed, SnapshotError> {
    let read = |source| SnapshotError::Read { path: path.to_owned(), source };
    // Asked before it is opened: a pipe would hold that up.
    let whole = fs::metadata(path).map_err(read)?;
    if !whole.is_file() {
        return Err(read(io::Error::other("it is no regular file")));
    }
    let (mut file, whole) = (File::open(path).map_err(read)?, whole.len());
    let is_sealed = whole % SECTOR == DIGEST as u64;
    if !is_sealed && !skip {
        return Err(SnapshotError::Unsealed { path: path.to_owned() });
    }
    let length = if is_sealed { whole - DIGEST as u64 } else { whole };
    let mut context = Context::new(&SHA256);
    let (mut buffer, mut left) = (vec![0; 1 << 20], length);
    while left > 0 {
        let part = &mut buffer[..left.min(1 << 20) as usize];
        file.read_exact(part).map_err(read)?;
        context.update(part);
        left -= part.len() as u64;
    }
    let mut digest = [0; DIGEST];
    digest.copy_from_slice(context.finish().as_ref());
    if is_sealed && !skip {
        let mut stored = [0; DIGEST];
        file.read_exact(&mut stored).map_err(read)?;
        if stored != digest {
            return Err(SnapshotError::Changed { path: path.to_owned() });
        }
    }
    Ok(Sealed { length, digest })
}

/// What a snapshot holds beside the versions, and how many there are.
#[derive(Debug, Default)]
pub struct Contents {
    /// Everything but the versions.
    pub rest: Loaded,
    /// Versions, deletions among them.
    pub versions: u64,
}

/// Reads the first `length` bytes of a file; calls `put` with every version and its number within its revision.
pub fn read(
    path: &Path,
    length: u64,
    put: impl FnMut(u32, Change) -> io::Result<()>,
) -> Result<Contents, SnapshotError> {
    let file = Snapshot { tree: Tree::open(path, length)?, path };
    let (latest, versions) = file.versions(put)?;
    let meta = file.records(META)?;
    let compaction = |name: &[u8]| match meta.get(name) {
        None => Ok(-1),
        Some(value) => parse_revision_key(value)
            .map(|(revision, ..)| revision)
            .ok_or_else(|| file.wrong(META, format!("{} is no revision", String::from_utf8_lossy(name)))),
    };
    let compacted = compaction(FINISHED_COMPACTION)?.max(compaction(SCHEDULED_COMPACTION)?);
    let rest = Loaded {
        revision: latest.max(compacted),
        compacted,
        leases: file.leases()?,
        alarms: file.alarms()?,
        auth: file.auth()?,
        downgrade: file.downgrade()?,
    };
    Ok(Contents { rest, versions })
}

/// How etcd keeps a downgrade.
#[derive(serde::Deserialize)]
struct DowngradeRecord {
    #[serde(default, rename = "target-version")]
    target: String,
    #[serde(default)]
    enabled: bool,
}

struct Snapshot<'a> {
    tree: Tree,
    path: &'a Path,
}

impl Snapshot<'_> {
    fn wrong(&self, bucket: &'static str, reason: impl Into<String>) -> SnapshotError {
        SnapshotError::Record { path: self.path.to_owned(), bucket, reason: reason.into() }
    }

    fn each(
        &self,
        bucket: &str,
        each: impl FnMut(&[u8], &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        match self.tree.bucket(bucket)? {
            Some(found) => self.tree.each(&found, each),
            // Versions of etcd differ in the buckets that they have from the start.
            None => Ok(()),
        }
    }

    /// All of a bucket that is small.
    fn records(&self, bucket: &str) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, SnapshotError> {
        let mut records = BTreeMap::new();
        self.each(bucket, |key, value| {
            records.insert(key.to_vec(), value.to_vec());
            Ok(())
        })?;
        Ok(records)
    }

    /// Answers the latest revision, and how many versions there are.
    fn versions(
        &self,
        mut put: impl FnMut(u32, Change) -> io::Result<()>,
    ) -> Result<(i64, u64), SnapshotError> {
        let bucket = self.tree.bucket(KEY)?;
        let bucket =
            bucket.ok_or_else(|| self.wrong(KEY, "it is missing; this is a file of another program"))?;
        let (mut latest, mut versions) = (1, 0);
        self.tree.each(&bucket, |key, value| {
            let (revision, number, is_deletion) = parse_revision_key(key)
                .ok_or_else(|| self.wrong(KEY, format!("a key of {} bytes is no revision", key.len())))?;
            latest = latest.max(revision);
            let kv = mvccpb::KeyValue::decode(value)
                .map_err(|error| self.wrong(KEY, format!("revision {revision}: {error}")))?;
            if value.is_empty() {
                // It stands for the revision alone.
                return Ok(());
            }
            let is_sound = !kv.key.is_empty()
                && (is_deletion
                    || (kv.mod_revision == revision
                        && (1..=revision).contains(&kv.create_revision)
                        && kv.version > 0));
            if !is_sound {
                return Err(self.wrong(KEY, format!("revision {revision} holds no version of a key")));
            }
            let number = u32::try_from(number).map_err(|_| {
                self.wrong(KEY, format!("revision {revision} has more changes than there can be"))
            })?;
            versions += 1;
            put(number, change(kv, revision, is_deletion))
                .map_err(|source| SnapshotError::Put { path: self.path.to_owned(), source })
        })?;
        Ok((latest, versions))
    }

    fn leases(&self) -> Result<Vec<(i64, i64)>, SnapshotError> {
        let mut leases = Vec::new();
        self.each(LEASE, |_, value| {
            let LeaseRecord { id, ttl, .. } =
                LeaseRecord::decode(value).map_err(|error| self.wrong(LEASE, error.to_string()))?;
            leases.push((id, ttl));
            Ok(())
        })?;
        Ok(leases)
    }

    fn alarms(&self) -> Result<Vec<(u64, Alarm)>, SnapshotError> {
        let mut alarms = Vec::new();
        self.each(ALARM, |key, _| {
            let record =
                pb::AlarmMember::decode(key).map_err(|error| self.wrong(ALARM, error.to_string()))?;
            match record.alarm() {
                pb::AlarmType::None => return Err(self.wrong(ALARM, "an alarm of no known kind")),
                pb::AlarmType::Nospace => alarms.push((record.member_id, Alarm::NoSpace)),
                pb::AlarmType::Corrupt => alarms.push((record.member_id, Alarm::Corrupt)),
            }
            Ok(())
        })?;
        Ok(alarms)
    }

    fn auth(&self) -> Result<Auth, SnapshotError> {
        let guards = self.records(AUTH)?;
        let revision = match guards.get(AUTH_REVISION) {
            None => 0,
            Some(value) => value[..]
                .try_into()
                .map(u64::from_be_bytes)
                .map_err(|_| self.wrong(AUTH, "the revision is no number"))?,
        };
        let enabled = guards.get(AUTH_ENABLED).is_some_and(|value| value == &[1]);
        let (mut users, mut roles) = (BTreeMap::new(), BTreeMap::new());
        self.each(USERS, |key, value| {
            let record = authpb::User::decode(value).map_err(|error| self.wrong(USERS, error.to_string()))?;
            let user = User {
                password: record.password,
                no_password: record.options.is_some_and(|options| options.no_password),
                roles: record.roles.into_iter().collect(),
            };
            users.insert(self.name(USERS, key)?, user);
            Ok(())
        })?;
        self.each(ROLES, |key, value| {
            let record = authpb::Role::decode(value).map_err(|error| self.wrong(ROLES, error.to_string()))?;
            let permissions = record.key_permission.into_iter().map(auth::permission);
            let permissions = permissions
                .collect::<Result<Vec<_>, Status>>()
                .map_err(|status| self.wrong(ROLES, status.message()))?;
            roles.insert(self.name(ROLES, key)?, Role { permissions });
            Ok(())
        })?;
        // No state is older than the first.
        Ok(Auth::restore(enabled, revision.max(1), users, roles))
    }

    /// The release to go back to; not one that this program's clusters could not go back to.
    fn downgrade(&self) -> Result<Option<Release>, SnapshotError> {
        let records = self.records(CLUSTER)?;
        let Some(info) = records.get(DOWNGRADE) else { return Ok(None) };
        let info: DowngradeRecord = serde_json::from_slice(info)
            .map_err(|error| self.wrong(CLUSTER, format!("the downgrade: {error}")))?;
        let target = Release::parse(&info.target).filter(|_| info.enabled);
        Ok(target.filter(|target| *target == Release::OWN.before()))
    }

    fn name(&self, bucket: &'static str, key: &[u8]) -> Result<String, SnapshotError> {
        String::from_utf8(key.to_vec()).map_err(|_| self.wrong(bucket, "a name is no UTF-8"))
    }
}

fn change(kv: mvccpb::KeyValue, revision: i64, is_deletion: bool) -> Change {
    let mvccpb::KeyValue { key, value, create_revision, version, lease, .. } = kv;
    let kv = if is_deletion {
        KeyValue { key, mod_revision: revision, ..KeyValue::default() }
    } else {
        KeyValue { key, value, create_revision, mod_revision: revision, version, lease }
    };
    Change { kv, is_deletion, prev: None }
}
