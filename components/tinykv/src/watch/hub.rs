//! The recent changes, shared by all watchers. Watchers pull: the hub never waits for anyone.

use crate::mvcc::Change;
use crate::store::by_revision;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// All changes of one revision.
#[derive(Debug)]
pub struct Revisioned {
    /// The revision.
    pub revision: i64,
    /// Its changes, in order.
    pub changes: Vec<Change>,
}

struct Ring {
    recent: VecDeque<Arc<Revisioned>>,
    bytes: usize,
    /// Every revision after this one is in `recent`.
    floor: i64,
}

/// The recent changes.
pub struct Hub {
    ring: RwLock<Ring>,
    budget: usize,
    revision: watch::Sender<i64>,
}

impl Hub {
    /// Starts after `revision`; keeps about `budget` bytes of changes.
    pub fn new(revision: i64, budget: usize) -> Self {
        let ring = Ring { recent: VecDeque::new(), bytes: 0, floor: revision };
        Self { ring: RwLock::new(ring), budget, revision: watch::Sender::new(revision) }
    }

    /// Adds changes and lets watchers know that the store is at `revision`.
    pub fn publish(&self, revision: i64, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        {
            let mut ring = self.ring.write();
            for (revision, changes) in by_revision(changes) {
                ring.bytes += weight(&changes);
                ring.recent.push_back(Arc::new(Revisioned { revision, changes }));
            }
            while ring.bytes > self.budget && ring.recent.len() > 1 {
                if let Some(oldest) = ring.recent.pop_front() {
                    ring.bytes -= weight(&oldest.changes);
                    ring.floor = oldest.revision;
                }
            }
        }
        self.revision.send_replace(revision);
    }

    /// The store has gone to `revision` at once; what lies between is on disk.
    pub fn jump(&self, revision: i64) {
        {
            let mut ring = self.ring.write();
            *ring = Ring { recent: VecDeque::new(), bytes: 0, floor: revision };
        }
        self.revision.send_replace(revision);
    }

    /// Wakes when the store has moved on.
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// The revision up to which everything has been published.
    pub fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Every revision after this one is here.
    pub fn floor(&self) -> i64 {
        self.ring.read().floor
    }

    /// The changes from revision `from` on, up to `limit` revisions; `None` when the hub has
    /// let go of some of them.
    pub fn since(&self, from: i64, limit: usize) -> Option<Vec<Arc<Revisioned>>> {
        let ring = self.ring.read();
        if from <= ring.floor {
            return None;
        }
        let start = ring.recent.partition_point(|revisioned| revisioned.revision < from);
        Some(ring.recent.range(start..).take(limit).cloned().collect())
    }
}

fn weight(changes: &[Change]) -> usize {
    let one = |change: &Change| {
        let prev = change.prev.as_ref().map_or(0, |prev| prev.value.len());
        change.kv.key.len() + change.kv.value.len() + prev + 200
    };
    changes.iter().map(one).sum()
}
