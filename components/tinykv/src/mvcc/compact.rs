//! Forgetting versions. That a revision is compacted is decided at once; taking the versions out
//! of memory and disk happens piece by piece afterwards and changes no answer.

use super::keyspace::{Keyspace, Version};
use bytes::Bytes;
use std::ops::Bound;

/// What one piece of a sweep took out of memory.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Versions that nobody can ask for any more: key and revision.
    pub dropped: Vec<(Bytes, i64)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Bytes>,
}

impl Keyspace {
    /// Drops superseded versions of up to `keys` keys from `start` on.
    pub fn sweep(&mut self, start: Option<&Bytes>, keys: usize) -> Sweep {
        let compacted = self.compacted;
        let from = start.map_or(Bound::Unbounded, Bound::Included);
        let mut sweep = Sweep::default();
        let mut forgotten: Vec<(Bytes, Version)> = Vec::new();
        let mut empty = Vec::new();
        for (seen, (key, history)) in self.index.range_mut::<Bytes, _>((from, Bound::Unbounded)).enumerate() {
            if seen == keys {
                sweep.next = Some(key.clone());
                break;
            }
            // The version that stands at the compaction stays, unless it is a deletion; that
            // one stays only at the very revision, for watchers that start there.
            let standing = history.older.partition_point(|version| version.mod_revision <= compacted);
            let mut drop = standing.saturating_sub(1);
            if history.latest.mod_revision <= compacted {
                drop = history.older.len();
                if history.latest.is_deletion() && history.latest.mod_revision < compacted {
                    empty.push(key.clone());
                }
            } else if standing > 0 {
                let last = &history.older[standing - 1];
                if last.is_deletion() && last.mod_revision < compacted {
                    drop = standing;
                }
            }
            forgotten.extend(history.older.drain(..drop).map(|version| (key.clone(), version)));
            if history.older.is_empty() {
                history.older.shrink_to_fit();
            }
        }
        for key in empty {
            if let Some(history) = self.index.remove(&key) {
                forgotten.push((key, history.latest));
            }
        }
        for (key, version) in forgotten {
            self.forget(&key, &version);
            sweep.dropped.push((key, version.mod_revision));
        }
        sweep
    }
}
