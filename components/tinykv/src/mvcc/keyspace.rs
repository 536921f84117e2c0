//! Every key and its versions, in memory; values may have left it.

use super::auth::Auth;
use super::blob::Blob;
use super::history::{History, Version};
use super::index::Index;
use super::lease::Lease;
use super::read::View;
use super::release::Release;
use super::totals::Pages;
use super::types::{Alarm, KeyValue};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

/// Where values are that have left memory.
pub trait Values {
    /// The value that `key` got at `revision`.
    fn value(&self, key: &[u8], revision: i64) -> io::Result<Bytes>;

    /// The same for many keys, ascending.
    fn values(&self, wanted: &[(&[u8], i64)]) -> io::Result<Vec<Bytes>> {
        wanted.iter().map(|(key, revision)| self.value(key, *revision)).collect()
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
    pub(super) index: Index,
    pub(super) pages: Arc<Pages>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) leases: BTreeMap<i64, Lease>,
    pub(super) alarms: BTreeSet<(u64, Alarm)>,
    pub(super) auth: Auth,
    pub(super) downgrade: Option<Release>,
    pub(super) min_lease_ttl: i64,
    bytes: u64,
    value_budget: usize,
    value_bytes: usize,
    /// Values in memory, oldest first.
    resident: VecDeque<(Blob, i64)>,
    /// Superseded versions whose values the store has not got yet.
    superseded: Vec<(Blob, i64)>,
}

impl Keyspace {
    /// An empty store: revision 1, nothing compacted. Values beyond `value_budget` bytes leave
    /// memory; leases get at least `min_lease_ttl` seconds.
    pub fn new(value_budget: usize, min_lease_ttl: i64) -> Self {
        Self {
            index: Index::default(),
            pages: Arc::default(),
            revision: 1,
            compacted: -1,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            auth: Auth::default(),
            downgrade: None,
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
        self.index.live()
    }

    /// The state as it is now, to be read without this one's lock. O(1).
    pub fn view(&self) -> View {
        View {
            index: self.index.clone(),
            pages: Arc::clone(&self.pages),
            revision: self.revision,
            compacted: self.compacted,
        }
    }

    /// Alarms that are raised: member and kind.
    pub fn alarms(&self) -> &BTreeSet<(u64, Alarm)> {
        &self.alarms
    }

    /// The release that the cluster makes ready to go back to.
    pub fn downgrade(&self) -> Option<Release> {
        self.downgrade
    }

    /// What every member can do: the release of all of them, or the one they go back to.
    pub fn release(&self) -> Release {
        self.downgrade.unwrap_or(Release::OWN)
    }

    /// Users and roles.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Takes in the users and roles that the store kept.
    pub fn restore_auth(&mut self, auth: Auth) {
        self.auth = auth;
    }

    /// Takes in which release the store kept as the one to go back to.
    pub fn restore_downgrade(&mut self, target: Option<Release>) {
        self.downgrade = target;
    }

    /// The latest version of a key that exists.
    pub(super) fn live(&self, key: &[u8]) -> Option<&Version> {
        self.index.get(key).map(|history| &history.latest).filter(|version| !version.is_deletion())
    }

    /// The version of `key` that stood at `revision`, if the key existed then.
    pub fn version_at(&self, key: &[u8], revision: i64) -> Option<&Version> {
        self.index.get(key)?.at(revision).filter(|version| !version.is_deletion())
    }

    pub(super) fn load(key: &[u8], version: &Version, values: &dyn Values) -> io::Result<KeyValue> {
        let value = match &version.value {
            Some(value) => value.shared(),
            None => values.value(key, version.mod_revision)?,
        };
        Ok(kv_of(Bytes::copy_from_slice(key), version, value))
    }

    /// Writes `kv` as the latest version of its key.
    pub(super) fn write(&mut self, kv: &KeyValue) -> Change {
        let version = Version {
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            size: kv.value.len() as u32,
            value: Some(Blob::copy_of(&kv.value)),
        };
        self.value_bytes += kv.value.len();
        let Superseded { kept, lease, prev } = self.supersede(&kv.key, version);
        self.resident.push_back((kept, kv.mod_revision));
        self.relate(&kv.key, lease, kv.lease);
        Change { kv: kv.clone(), is_deletion: false, prev }
    }

    /// Ends a key that exists.
    pub(super) fn remove(&mut self, key: &Bytes, revision: i64) -> Change {
        let Superseded { lease, prev, .. } = self.supersede(key, Version::deletion(revision));
        self.relate(key, lease, 0);
        let kv = KeyValue { key: key.clone(), mod_revision: revision, ..KeyValue::default() };
        Change { kv, is_deletion: true, prev }
    }

    /// Makes `version` the latest.
    fn supersede(&mut self, key: &Bytes, version: Version) -> Superseded {
        self.bytes += cost(key, &version);
        let (kept, before) = self.index.supersede(key, version);
        let Some(before) = before.filter(|before| !before.is_deletion()) else {
            return Superseded { kept, lease: 0, prev: None };
        };
        let prev = before.value.as_ref().map(|value| kv_of(key.clone(), before, value.shared()));
        if prev.is_some() {
            self.superseded.push((kept.clone(), before.mod_revision));
        }
        Superseded { kept, lease: before.lease, prev }
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
            // Not a slice of the message that it came with.
            lease.keys.insert(Bytes::copy_from_slice(key));
        }
    }

    /// Takes in the versions that the store kept, all of them.
    pub fn restore(&mut self, restored: Restored) -> Result<(), cowtree::Unsorted> {
        let Restored { histories, bytes, revision, .. } = restored.ended();
        self.revision = self.revision.max(revision);
        self.bytes = bytes;
        self.index = Index::of_sorted(histories, self.revision)?;
        Ok(())
    }

    /// Takes in what the store kept beside the versions; called after them.
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
        if self.leases.is_empty() {
            return;
        }
        for (key, history) in self.index.histories_from(None) {
            if let Some(lease) = self.leases.get_mut(&history.latest.lease) {
                lease.keys.insert(key.copied());
            }
        }
    }

    /// The store has everything applied so far: values that memory need not keep may go.
    pub fn stored(&mut self) {
        for (key, revision) in std::mem::take(&mut self.superseded) {
            if let Some(value) = self.index.get_mut(&key).and_then(|history| history.unload(revision)) {
                self.value_bytes -= value.len();
            }
        }
        while self.value_bytes > self.value_budget {
            let Some((key, revision)) = self.resident.pop_front() else { return };
            if self.index.get(&key).is_some_and(|history| history.latest.mod_revision == revision)
                && let Some(value) = self.index.get_mut(&key).and_then(|history| history.latest.value.take())
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

    pub(super) fn forget(&mut self, key: &[u8], version: &Version) {
        self.bytes -= cost(key, version);
        // Only values of live versions are counted as resident.
        if !version.is_deletion() {
            self.value_bytes -= version.value.as_ref().map_or(0, |value| value.len());
        }
    }
}

/// What became of the version before.
struct Superseded {
    /// The key as the index keeps it.
    kept: Blob,
    lease: i64,
    /// The version before, when the key existed and its value was in memory.
    prev: Option<KeyValue>,
}

/// The versions that a store kept, as they are read: keys ascending, versions of a key newest first.
#[derive(Default)]
pub struct Restored {
    histories: Vec<(Blob, History)>,
    /// The key that is being read, with the versions seen so far.
    open: Option<(Blob, Version, Vec<Version>)>,
    bytes: u64,
    revision: i64,
}

impl Restored {
    /// Takes the next version in.
    pub fn add(&mut self, key: &[u8], version: Version) {
        self.bytes += cost(key, &version);
        self.revision = self.revision.max(version.mod_revision);
        match &mut self.open {
            Some((open, _, older)) if **open == *key => older.push(version),
            _ => {
                self.close();
                self.open = Some((Blob::copy_of(key), version, Vec::new()));
            }
        }
    }

    fn close(&mut self) {
        if let Some((key, latest, older)) = self.open.take() {
            self.histories.push((key, History::of_newest_first(latest, older)));
        }
    }

    fn ended(mut self) -> Self {
        self.close();
        self
    }
}

pub(super) fn kv_of(key: Bytes, version: &Version, value: Bytes) -> KeyValue {
    KeyValue {
        key,
        value,
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
        lease: version.lease,
    }
}

fn cost(key: &[u8], version: &Version) -> u64 {
    key.len() as u64 + u64::from(version.size) + VERSION_OVERHEAD
}
