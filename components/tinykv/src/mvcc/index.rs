//! Every key and its versions, in trees that are cloned in O(1): whoever reads much takes a clone and lets go of the lock.

use super::blob::Blob;
use super::history::{History, Version};
use super::totals::Turns;
use super::types::Span;
use cowtree::{Range, Tree};
use std::ops::Bound;
use triomphe::Arc;

/// Keys and who of them exists.
#[derive(Clone, Default)]
pub(super) struct Index {
    keys: Tree<Blob, Arc<History>>,
    /// The keys that exist now. Counting goes by this tree: the other one holds deleted keys, too.
    live: Tree<Blob, ()>,
    /// How `live` changed of late.
    turns: Turns,
}

pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

pub(super) fn bounds(span: &Span) -> Bounds<'_> {
    match span {
        Span::Key(key) => (Bound::Included(key), Bound::Included(key)),
        Span::Between(from, to) => (Bound::Included(from), Bound::Excluded(to)),
        Span::From(from) => (Bound::Included(from), Bound::Unbounded),
    }
}

impl Index {
    /// Builds it from the histories of all keys, ascending.
    pub fn of_sorted(histories: Vec<(Blob, History)>, revision: i64) -> Result<Self, cowtree::Unsorted> {
        let existing = histories.iter().filter(|(_, history)| !history.latest.is_deletion());
        let live = cowtree::from_sorted(existing.map(|(key, _)| (key.clone(), ())))?;
        let entries = histories.into_iter().map(|(key, history)| (key, Arc::new(history)));
        Ok(Self { keys: cowtree::from_sorted(entries)?, live, turns: Turns::since(revision) })
    }

    /// Keys that have a history, deleted ones included.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Keys that exist now.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    pub fn get(&self, key: &[u8]) -> Option<&History> {
        self.keys.get(key).map(|history| &**history)
    }

    pub fn entry(&self, key: &[u8]) -> Option<(&Blob, &History)> {
        self.keys.get_key_value(key).map(|(key, history)| (key, &**history))
    }

    /// The history of a key, to be changed other than by a new version.
    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut History> {
        self.keys.get_mut(key).map(Arc::make_mut)
    }

    /// The histories of a span's keys, ascending.
    pub fn histories(&self, span: &Span) -> impl Iterator<Item = (&Blob, &History)> {
        self.range(span).map(|(key, history)| (key, &**history))
    }

    /// The same from a key on.
    pub fn histories_from(&self, start: Option<&Blob>) -> impl Iterator<Item = (&Blob, &History)> {
        let from = start.map_or(Bound::Unbounded, |start| Bound::Included(&**start));
        self.keys.range::<[u8], _>((from, Bound::Unbounded)).map(|(key, history)| (key, &**history))
    }

    fn range(&self, span: &Span) -> Range<'_, Blob, Arc<History>> {
        self.keys.range::<[u8], _>(bounds(span))
    }

    /// Number of keys of a span, deleted ones included. O(log n).
    pub fn breadth(&self, span: &Span) -> usize {
        self.range(span).len()
    }

    /// The keys of a span that exist now.
    pub fn existing(&self, span: &Span) -> impl Iterator<Item = &Blob> {
        self.live.range::<[u8], _>(bounds(span)).map(|(key, ())| key)
    }

    /// The same, as a tree to be kept.
    pub fn live_tree(&self) -> &Tree<Blob, ()> {
        &self.live
    }

    /// How many keys of a span exist at `revision`, if that can be told in O(log n).
    pub fn count(&self, span: &Span, revision: i64) -> Option<usize> {
        (revision >= self.turns.last()).then(|| self.live.count::<[u8], _>(bounds(span)))
    }

    /// How keys came and went of late.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Makes `version` the latest of its key; answers the key as it is kept, and the version before.
    pub fn supersede(&mut self, key: &[u8], version: Version) -> (Blob, Option<&Version>) {
        let (revision, exists) = (version.mod_revision, !version.is_deletion());
        let Some((kept, known)) = self.entry(key) else {
            let kept = Blob::copy_of(key);
            self.keys.insert(kept.clone(), Arc::new(History::new(version)));
            if exists {
                self.turn(&kept, revision, true);
            }
            return (kept, None);
        };
        let (kept, existed) = (kept.clone(), !known.latest.is_deletion());
        if exists != existed {
            self.turn(&kept, revision, exists);
        }
        let history = self.get_mut(key).expect("it was just looked at");
        (kept, Some(history.push(version)))
    }

    /// A key comes into being, or ceases to be.
    fn turn(&mut self, key: &Blob, revision: i64, exists: bool) {
        if exists {
            self.live.insert(key.clone(), ());
        } else {
            self.live.remove(&**key);
        }
        self.turns.push(key.clone(), revision, exists);
    }

    /// Takes a key out whose last version is a deletion.
    pub fn remove(&mut self, key: &[u8]) -> Option<Version> {
        self.keys.remove(key).map(|history| history.latest.clone())
    }
}
