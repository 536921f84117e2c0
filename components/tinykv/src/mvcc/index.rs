//! Every key and its versions, in trees that are cloned in O(1): whoever reads much takes a clone and lets go of the lock.

use super::blob::Blob;
use super::history::{History, Version};
use super::types::Span;
use cowtree::{Range, Tree};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Bound;
use triomphe::Arc;

/// Keys and who of them exists.
#[derive(Clone, Default)]
pub(super) struct Index {
    keys: Tree<Blob, Arc<History>>,
    /// The keys that exist now. Counting goes by this tree: the other one holds deleted keys, too.
    live: Tree<Blob, ()>,
    /// Revision of the last change of `live`: at every revision since, the same keys exist.
    turned: i64,
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

fn bounds(span: &Span) -> Bounds<'_> {
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
        Ok(Self { keys: cowtree::from_sorted(entries)?, live, turned: revision })
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

    /// How many keys of a span exist at `revision`, if that can be told in O(log n).
    pub fn count(&self, span: &Span, revision: i64) -> Option<usize> {
        (revision >= self.turned).then(|| self.live.count::<[u8], _>(bounds(span)))
    }

    /// Makes `version` the latest of its key; answers the key as it is kept, and the version before.
    pub fn supersede(&mut self, key: &[u8], version: Version) -> (Blob, Option<&Version>) {
        let (revision, exists) = (version.mod_revision, !version.is_deletion());
        let Some((kept, known)) = self.entry(key) else {
            let kept = Blob::copy_of(key);
            self.keys.insert(kept.clone(), Arc::new(History::new(version)));
            if exists {
                self.live.insert(kept.clone(), ());
                self.turned = revision;
            }
            return (kept, None);
        };
        let (kept, existed) = (kept.clone(), !known.latest.is_deletion());
        if exists != existed {
            self.turned = revision;
            if exists {
                self.live.insert(kept.clone(), ());
            } else {
                self.live.remove(key);
            }
        }
        let history = self.get_mut(key).expect("it was just looked at");
        (kept, Some(history.push(version)))
    }

    /// Takes a key out whose last version is a deletion.
    pub fn remove(&mut self, key: &[u8]) -> Option<Version> {
        self.keys.remove(key).map(|history| history.latest.clone())
    }
}

/// Snapshots kept for those who read on.
const PAGES: usize = 8;

/// Who existed at revisions that somebody reads page by page.
///
/// A list in pages asks for its total with each page, at the revision of its first one, while writes go on. Walking the
/// index for it is what makes the peer's lists O(pages × keys). Who existed at a revision is told by a clone of `live`
/// taken while it was the latest, which costs nothing but the nodes that later changes copy; so the first page leaves one
/// behind. A revision that nobody began a list at, or that [`PAGES`] later lists have pushed out, is walked.
#[derive(Default)]
pub(super) struct Pages(Mutex<VecDeque<Page>>);

struct Page {
    /// At every revision from the first to the second …
    from: i64,
    to: i64,
    /// … these keys exist.
    live: Tree<Blob, ()>,
}

impl Pages {
    /// Notes who exists now, at `revision`, the latest.
    pub fn note(&self, index: &Index, revision: i64) {
        let mut pages = self.0.lock();
        if let Some(last) = pages.back_mut().filter(|last| last.from == index.turned) {
            last.to = last.to.max(revision);
            return;
        }
        if pages.len() == PAGES {
            pages.pop_front();
        }
        pages.push_back(Page { from: index.turned, to: revision, live: index.live.clone() });
    }

    /// How many keys of a span existed at `revision`, if that was noted.
    pub fn count(&self, span: &Span, revision: i64) -> Option<usize> {
        let pages = self.0.lock();
        let page = pages.iter().find(|page| page.from <= revision && revision <= page.to)?;
        Some(page.live.count::<[u8], _>(bounds(span)))
    }

    /// Lets go of revisions that nobody may read any more.
    pub fn compacted(&self, revision: i64) {
        self.0.lock().retain(|page| page.to >= revision);
    }

    /// Forgets everything.
    #[cfg(test)]
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}
