//! Leases as the replicated state knows them. When they run out is the leader's business.

use super::keyspace::{Change, Keyspace};
use super::types::Refusal;
use bytes::Bytes;
use std::collections::BTreeSet;

/// A promise that keys live for a time after it was last renewed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lease {
    /// Seconds.
    pub ttl: i64,
    /// The keys that live by it.
    pub keys: BTreeSet<Bytes>,
}

impl Keyspace {
    /// A lease, if there is one of this id.
    pub fn lease(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// Every lease.
    pub fn leases(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// Creates a lease; answers the time to live it got.
    pub(super) fn grant(&mut self, id: i64, ttl: i64) -> Result<i64, Refusal> {
        if id == 0 {
            return Err(Refusal::LeaseNotFound);
        }
        if self.leases.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        let ttl = ttl.max(self.min_lease_ttl);
        self.leases.insert(id, Lease { ttl, keys: BTreeSet::new() });
        Ok(ttl)
    }

    /// Ends a lease and its keys, all at one revision.
    pub(super) fn revoke(&mut self, id: i64, changes: &mut Vec<Change>) -> Result<(), Refusal> {
        let lease = self.leases.get(&id).ok_or(Refusal::LeaseNotFound)?;
        let keys: Vec<Bytes> = lease.keys.iter().cloned().collect();
        let revision = self.revision + 1;
        for key in &keys {
            changes.push(self.remove(key, revision));
        }
        if !keys.is_empty() {
            self.revision = revision;
        }
        self.leases.remove(&id);
        Ok(())
    }
}
