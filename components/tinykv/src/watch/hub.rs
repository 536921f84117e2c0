//! The recent changes, shared by all watchers. Watchers pull: the hub never waits for anyone.

use super::interest::{Bell, Interests};
use crate::mvcc::{Change, Span};
use crate::store::by_revision;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::sync::Arc;

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
    /// The revision up to which everything has been published.
    revision: i64,
    interests: Interests<Arc<Bell>>,
}

/// The recent changes.
pub struct Hub {
    ring: RwLock<Ring>,
    budget: usize,
}

/// Somebody who waits for changes of some keys; leaves when it is dropped.
pub struct Listener<'a> {
    hub: &'a Hub,
    span: Span,
    bell: Arc<Bell>,
}

impl Listener<'_> {
    /// Returns when one of the keys has changed since the last time.
    pub async fn heard(&self) {
        while self.hub.look(&self.bell).1.is_none() {
            self.bell.rung().await;
        }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.hub.leave(&self.span, &self.bell);
    }
}

impl Hub {
    /// Starts after `revision`; keeps about `budget` bytes of changes.
    pub fn new(revision: i64, budget: usize) -> Self {
        let ring = Ring {
            recent: VecDeque::new(),
            bytes: 0,
            floor: revision,
            revision,
            interests: Interests::default(),
        };
        Self { ring: RwLock::new(ring), budget }
    }

    /// Adds changes, and lets those know that they concern; the store is at `revision`.
    pub fn publish(&self, revision: i64, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut guard = self.ring.write();
        let ring = &mut *guard;
        for change in &changes {
            ring.interests.ring(change);
        }
        for (revision, changes) in by_revision(changes) {
            ring.bytes += weight(&changes);
            ring.recent.push_back(Arc::new(Revisioned { revision, changes }));
        }
        let mut old = Vec::new();
        while ring.bytes > self.budget && ring.recent.len() > 1 {
            if let Some(oldest) = ring.recent.pop_front() {
                ring.bytes -= weight(&oldest.changes);
                ring.floor = oldest.revision;
                old.push(oldest);
            }
        }
        ring.revision = revision;
        // What is let go of is freed without the lock.
        drop(guard);
    }

    /// The store has gone to `revision` at once; what lies between is on disk.
    pub fn jump(&self, revision: i64) {
        let mut guard = self.ring.write();
        let ring = &mut *guard;
        ring.recent.clear();
        ring.bytes = 0;
        let before = std::mem::replace(&mut ring.revision, revision);
        ring.floor = revision;
        ring.interests.ring_all(before + 1);
    }

    /// From now on changes of `span` ring the bell. Answers the revision after which they do.
    pub fn join(&self, span: &Span, bell: &Arc<Bell>) -> i64 {
        let mut ring = self.ring.write();
        ring.interests.add(span, Arc::clone(bell));
        ring.revision
    }

    /// Undoes one [`join`](Self::join).
    pub fn leave(&self, span: &Span, bell: &Arc<Bell>) {
        self.ring.write().interests.remove(span, bell);
    }

    /// Waits for changes of some keys.
    pub fn listen(&self, span: Span) -> Listener<'_> {
        let bell = Arc::default();
        self.join(&span, &bell);
        Listener { hub: self, span, bell }
    }

    /// Where the store is, and the first revision that rang the bell since the last look.
    pub fn look(&self, bell: &Bell) -> (i64, Option<i64>) {
        let ring = self.ring.read();
        (ring.revision, bell.answer())
    }

    /// The revision up to which everything has been published.
    pub fn revision(&self) -> i64 {
        self.ring.read().revision
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
