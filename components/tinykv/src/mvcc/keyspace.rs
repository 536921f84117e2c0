//! Every key and its versions, in memory; values may have left it.

use super::auth::Auth;
use super::lease::Lease;
use super::types::{Alarm, KeyValue, Span};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Bound;

/// Where values are that have left memory.
pub trait Values {
    /// The value that `key` got at `revision`.
    fn value(&self, key: &[u8], revision: i64) -> io::Result<Bytes>;
}

/// One version of a key, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Revision of this version.
    pub mod_revision: i64,
    /// Revision at which the key was last created; 0 when this version is its deletion.
    pub create_revision: i64,
    /// Number of writes since the creation; 0 for a deletion.
    pub version: i64,
    /// The lease that the key lives by.
    pub lease: i64,
    /// Bytes of the value.
    pub size: u32,
    /// The value, while it is in memory.
    pub value: Option<Bytes>,
}

impl Version {
    /// Whether this is the absence of the key.
    pub fn is_deletion(&self) -> bool {
        self.create_revision == 0
    }

    fn deletion(revision: i64) -> Self {
        Self {
            mod_revision: revision,
            create_revision: 0,
            version: 0,
            lease: 0,
            size: 0,
            value: Some(Bytes::new()),
        }
    }
}

/// All versions of a key that have not been compacted, the latest apart.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub older: Vec<Version>,
    pub latest: Version,
}

impl History {
    /// The version that stood at `revision`, deletions included.
    pub fn at(&self, revision: i64) -> Option<&Version> {
        if self.latest.mod_revision <= revision {
            return Some(&self.latest);
        }
        let after = self.older.partition_point(|version| version.mod_revision <= revision);
        after.checked_sub(1).map(|at| &self.older[at])
    }
}

/// One change of one key, for the store and the watchers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key after the change; for a deletion only the key and the revision count.
    pub kv: KeyValue,
    /// Whether the key is gone.
    pub is_deletion: bool,
    /// The version before, when the key existed and its value was still in memory.
    pub prev: Option<KeyValue>,
}

/// Bytes that a version costs beside its key and value.
const VERSION_OVERHEAD: u64 = 64;

/// The state of the engine.
pub struct Keyspace {
    pub(super) index: BTreeMap<Bytes, History>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) leases: BTreeMap<i64, Lease>,
    pub(super) alarms: BTreeSet<(u64, Alarm)>,
    pub(super) auth: Auth,
    pub(super) min_lease_ttl: i64,
    bytes: u64,
    value_budget: usize,
    value_bytes: usize,
    /// Values in memory, oldest first.
    resident: VecDeque<(Bytes, i64)>,
    /// Superseded versions whose values the store has not got yet.
    superseded: Vec<(Bytes, i64)>,
}

impl Keyspace {
    /// An empty store: revision 1, nothing compacted. Values beyond `value_budget` bytes leave
    /// memory; leases get at least `min_lease_ttl` seconds.
    pub fn new(value_budget: usize, min_lease_ttl: i64) -> Self {
        Self {
            index: BTreeMap::new(),
            revision: 1,
            compacted: -1,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            auth: Auth::default(),
            min_lease_ttl,
            bytes: 0,
            value_budget,
            value_bytes: 0,
            resident: VecDeque::new(),
            superseded: Vec::new(),
        }
    }

    /// The latest revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The last compaction, −1 when there was none.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Bytes that all versions take, live and superseded.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keys that exist now.
    pub fn keys(&self) -> usize {
        self.index.values().filter(|history| !history.latest.is_deletion()).count()
    }

    /// Alarms that are raised: member and kind.
    pub fn alarms(&self) -> &BTreeSet<(u64, Alarm)> {
        &self.alarms
    }

    /// Users and roles.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Takes in the users and roles that the store kept.
    pub fn restore_auth(&mut self, auth: Auth) {
        self.auth = auth;
    }

    /// The histories of a span's keys.
    pub(super) fn histories<'a>(
        &'a self,
        span: &'a Span,
    ) -> Box<dyn Iterator<Item = (&'a Bytes, &'a History)> + 'a> {
        match span {
            Span::Key(key) => Box::new(self.index.get_key_value(key).into_iter()),
            Span::Between(from, to) if from >= to => Box::new(std::iter::empty()),
            Span::Between(from, to) => {
                Box::new(self.index.range::<[u8], _>((Bound::Included(&from[..]), Bound::Excluded(&to[..]))))
            }
            Span::From(from) => {
                Box::new(self.index.range::<[u8], _>((Bound::Included(&from[..]), Bound::Unbounded)))
            }
        }
    }

    /// The latest version of a key that exists.
    pub(super) fn live(&self, key: &[u8]) -> Option<&Version> {
        self.index.get(key).map(|history| &history.latest).filter(|version| !version.is_deletion())
    }

    /// The version of `key` that stood at `revision`, if the key existed then.
    pub fn version_at(&self, key: &[u8], revision: i64) -> Option<&Version> {
        self.index.get(key)?.at(revision).filter(|version| !version.is_deletion())
    }

    pub(super) fn load(key: &Bytes, version: &Version, values: &dyn Values) -> io::Result<KeyValue> {
        let value = match &version.value {
            Some(value) => value.clone(),
            None => values.value(key, version.mod_revision)?,
        };
        Ok(kv_of(key, version, value))
    }

    /// Writes `kv` as the latest version of its key.
    pub(super) fn write(&mut self, kv: &KeyValue) -> Change {
        let version = Version {
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            size: kv.value.len() as u32,
            value: Some(kv.value.clone()),
        };
        self.value_bytes += kv.value.len();
        self.resident.push_back((kv.key.clone(), kv.mod_revision));
        let prev = self.supersede(&kv.key, version);
        self.relate(&kv.key, prev.as_ref().map_or(0, |prev| prev.lease), kv.lease);
        Change { kv: kv.clone(), is_deletion: false, prev: prev.and_then(known) }
    }

    /// Ends a key that exists.
    pub(super) fn remove(&mut self, key: &Bytes, revision: i64) -> Change {
        let prev = self.supersede(key, Version::deletion(revision));
        self.relate(key, prev.as_ref().map_or(0, |prev| prev.lease), 0);
        let kv = KeyValue { key: key.clone(), mod_revision: revision, ..KeyValue::default() };
        Change { kv, is_deletion: true, prev: prev.and_then(known) }
    }

    /// Makes `version` the latest; answers the one before, if the key existed.
    fn supersede(&mut self, key: &Bytes, version: Version) -> Option<Superseded> {
        self.bytes += cost(key, &version);
        let Some(history) = self.index.get_mut(key) else {
            self.index.insert(key.clone(), History { older: Vec::new(), latest: version });
            return None;
        };
        let before = std::mem::replace(&mut history.latest, version);
        let existed = !before.is_deletion();
        let answer = existed.then(|| Superseded {
            lease: before.lease,
            kv: before.value.clone().map(|value| kv_of(key, &before, value)),
        });
        if before.value.is_some() && existed {
            self.superseded.push((key.clone(), before.mod_revision));
        }
        history.older.push(before);
        answer
    }

    /// Moves a key from one lease to another.
    fn relate(&mut self, key: &Bytes, old: i64, new: i64) {
        if old == new {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&old) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&new) {
            lease.keys.insert(key.clone());
        }
    }

    /// Takes in a version that the store kept; in any order of keys, ascending within a key.
    pub fn restore(&mut self, key: Bytes, version: Version) {
        self.bytes += cost(&key, &version);
        self.revision = self.revision.max(version.mod_revision);
        match self.index.get_mut(&key) {
            None => {
                self.index.insert(key, History { older: Vec::new(), latest: version });
            }
            Some(history) => {
                let before = std::mem::replace(&mut history.latest, version);
                history.older.push(before);
            }
        }
    }

    /// Takes in what the store kept beside the versions; called after all of them.
    pub fn restore_rest(
        &mut self,
        revision: i64,
        compacted: i64,
        leases: Vec<(i64, i64)>,
        alarms: Vec<(u64, Alarm)>,
    ) {
        self.revision = self.revision.max(revision);
        self.compacted = compacted;
        self.alarms.extend(alarms);
        self.leases.extend(leases.into_iter().map(|(id, ttl)| (id, Lease { ttl, keys: BTreeSet::new() })));
        for (key, history) in &self.index {
            if let Some(lease) = self.leases.get_mut(&history.latest.lease) {
                lease.keys.insert(key.clone());
            }
        }
    }

    /// The store has everything applied so far: values that memory need not keep may go.
    pub fn stored(&mut self) {
        for (key, revision) in std::mem::take(&mut self.superseded) {
            let Some(history) = self.index.get_mut(&key) else { continue };
            if let Ok(at) = history.older.binary_search_by_key(&revision, |version| version.mod_revision)
                && let Some(value) = history.older[at].value.take()
            {
                self.value_bytes -= value.len();
            }
        }
        while self.value_bytes > self.value_budget {
            let Some((key, revision)) = self.resident.pop_front() else { return };
            if let Some(history) = self.index.get_mut(&key)
                && history.latest.mod_revision == revision
                && let Some(value) = history.latest.value.take()
            {
                self.value_bytes -= value.len();
            }
        }
        // Superseded values leave entries behind; sweep them when they are most of the queue.
        if self.resident.len() > 1024 && self.resident.len() > 2 * self.index.len() {
            let index = &self.index;
            self.resident.retain(|(key, revision)| {
                index.get(key).is_some_and(|history| {
                    history.latest.mod_revision == *revision && history.latest.value.is_some()
                })
            });
        }
    }

    pub(super) fn forget(&mut self, key: &Bytes, version: &Version) {
        self.bytes -= cost(key, version);
        // Only values of live versions are counted as resident.
        if !version.is_deletion() {
            self.value_bytes -= version.value.as_ref().map_or(0, Bytes::len);
        }
    }
}

struct Superseded {
    lease: i64,
    kv: Option<KeyValue>,
}

fn known(superseded: Superseded) -> Option<KeyValue> {
    superseded.kv
}

pub(super) fn kv_of(key: &Bytes, version: &Version, value: Bytes) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value,
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
        lease: version.lease,
    }
}

fn cost(key: &Bytes, version: &Version) -> u64 {
    key.len() as u64 + u64::from(version.size) + VERSION_OVERHEAD
}
