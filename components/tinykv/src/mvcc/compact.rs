//! Forgetting versions. That a revision is compacted is decided at once; taking the versions out
//! of memory and disk happens piece by piece afterwards and changes no answer.

use super::blob::Blob;
use super::keyspace::Keyspace;
use super::read::View;

/// Keys that hold versions which nobody can ask for any more.
#[derive(Debug, Default)]
pub struct Stale {
    /// The keys, ascending.
    pub keys: Vec<Blob>,
    /// Where to look on; `None` at the end.
    pub next: Option<Blob>,
}

impl View {
    /// Looks through up to `keys` keys from `start` on. On a clone of the index, so that nobody waits for it.
    pub fn stale(&self, start: Option<&Blob>, keys: usize) -> Stale {
        let mut stale = Stale::default();
        for (seen, (key, history)) in self.index.histories_from(start).enumerate() {
            if seen == keys {
                stale.next = Some(key.clone());
                break;
            }
            if history.is_stale(self.compacted) {
                stale.keys.push(key.clone());
            }
        }
        stale
    }
}

impl Keyspace {
    /// Takes up to `limit` versions of the first of `keys` out of memory that nobody can ask for, and strikes the keys that
    /// are done off the list. Answers what was dropped: key and revision.
    pub fn prune(&mut self, keys: &mut std::slice::Iter<'_, Blob>, limit: usize) -> Vec<(Blob, i64)> {
        let compacted = self.compacted;
        let mut dropped = Vec::new();
        while let Some(key) = keys.as_slice().first() {
            let room = limit - dropped.len();
            if room == 0 {
                break;
            }
            let Some(history) = self.index.get_mut(key) else {
                keys.next();
                continue;
            };
            let mut versions = history.drop_stale(compacted, room);
            let (is_done, is_gone) = (versions.len() < room, history.is_gone(compacted));
            if is_done {
                keys.next();
            }
            if is_done && is_gone {
                versions.extend(self.index.remove(key));
            }
            for version in versions {
                self.forget(key, &version);
                dropped.push((key.clone(), version.mod_revision));
            }
        }
        dropped
    }
}
