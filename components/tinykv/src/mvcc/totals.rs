//! How many keys of a span existed at a past revision, without a walk over them.
//!
//! A list in pages asks for its total with each page, at the revision of its first one, while writes go on and while each page may
//! come to another member. Walking the index for it is what makes the peer's lists O(pages × keys). Here the total is that of a
//! moment whose keys are at hand as a tree, less what came and went between that moment and the revision: the moment is now, or one
//! that a page was read at before.

use super::blob::Blob;
use super::index::{Index, bounds};
use super::types::Span;
use cowtree::Tree;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Bound;

/// Memory for what is remembered of keys that came and went: some 40,000 of them.
const TURN_BYTES: usize = 4 << 20;
/// What one takes beside the key, which may be gone everywhere else.
const TURN_OVERHEAD: usize = 64;
/// Moments kept for those who read on.
const PAGES: usize = 8;
/// Turns that cost nothing to look through.
const NEAR: usize = 64;

type Range<'a> = cowtree::Range<'a, (i64, u32), (Blob, bool)>;

/// The last keys that came into being or ceased to be. Cloned in O(1), as the index is.
#[derive(Clone, Default)]
pub(super) struct Turns {
    /// By revision, and by their order within it.
    recent: Tree<(i64, u32), (Blob, bool)>,
    bytes: usize,
    /// All turns after this revision are remembered.
    floor: i64,
    /// Revision of the last one.
    last: i64,
}

impl Turns {
    /// None so far, of a store that stands at `revision`.
    pub fn since(revision: i64) -> Self {
        Self { floor: revision, last: revision, ..Self::default() }
    }

    /// Revision of the last turn: at every revision since, the same keys exist.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// Notes that a key came into being, or ceased to be.
    pub fn push(&mut self, key: Blob, revision: i64, exists: bool) {
        let number = match self.recent.last() {
            Some(((last, number), _)) if *last == revision => number + 1,
            _ => 0,
        };
        self.bytes += key.len() + TURN_OVERHEAD;
        self.recent.insert((revision, number), (key, exists));
        self.last = revision;
        while self.bytes > TURN_BYTES {
            let Some(oldest) = self.recent.first().map(|(at, _)| *at) else { break };
            if let Some((key, _)) = self.recent.remove(&oldest) {
                self.bytes -= key.len() + TURN_OVERHEAD;
            }
            self.floor = oldest.0;
        }
    }

    /// The turns after `from`, up to `to`; `None` when some of them are forgotten.
    fn between(&self, from: i64, to: i64) -> Option<Range<'_>> {
        let range = (Bound::Excluded((from, u32::MAX)), Bound::Included((to, u32::MAX)));
        (from >= self.floor).then(|| self.recent.range(range))
    }

    /// The turns between what a page tells and `revision`.
    fn up_to_page(&self, page: &Page, revision: i64) -> Option<Range<'_>> {
        if page.from <= revision && revision <= page.to {
            // None, even where they are forgotten.
            return Some(self.recent.range((Bound::Excluded((i64::MAX, u32::MAX)), Bound::Unbounded)));
        }
        self.between(page.from.min(revision), page.from.max(revision))
    }
}

/// Moments that pages were read at.
#[derive(Default)]
pub(super) struct Pages(Mutex<VecDeque<Page>>);

struct Page {
    /// At every revision from the first to the second …
    from: i64,
    to: i64,
    /// … these keys exist. It costs the nodes that later changes copy.
    live: Tree<Blob, ()>,
}

/// A moment whose keys are at hand, and what turned between it and a revision.
struct Moment<'a> {
    /// The first revision that a page's keys are those of, and the keys; `None` for the present.
    page: Option<(i64, Tree<Blob, ()>)>,
    turns: Range<'a>,
}

impl Pages {
    /// Notes who exists now, at `revision`, the latest; `index` stands between two commands.
    pub fn note(&self, index: &Index, revision: i64) {
        let mut pages = self.0.lock();
        let turned = index.turns().last();
        if let Some(last) = pages.back_mut().filter(|last| last.from == turned) {
            last.to = last.to.max(revision);
            return;
        }
        if pages.len() == PAGES {
            pages.pop_front();
        }
        pages.push_back(Page { from: turned, to: revision, live: index.live_tree().clone() });
    }

    /// How many keys of a span existed at `revision`, if that can be told without walking over them.
    pub fn count(&self, index: &Index, span: &Span, revision: i64) -> Option<usize> {
        let Moment { page, turns } = self.nearest(index, revision)?;
        let turned = turns.filter(|(_, (key, _))| span.contains(key));
        let net: isize = turned.map(|(_, (_, exists))| if *exists { 1 } else { -1 }).sum();
        let live = page.as_ref().map_or_else(|| index.live_tree(), |(_, live)| live);
        let count = live.count::<[u8], _>(bounds(span)) as isize;
        let is_later = page.as_ref().is_none_or(|(from, _)| *from > revision);
        usize::try_from(if is_later { count - net } else { count + net }).ok()
    }

    /// Whether so much came and went since `revision` that pages to come at it had better find the present noted.
    pub fn is_far(&self, index: &Index, revision: i64) -> bool {
        self.nearest(index, revision).is_some_and(|moment| moment.page.is_none() && moment.turns.len() > NEAR)
    }

    /// The moment with the fewest turns between it and `revision`.
    fn nearest<'a>(&self, index: &'a Index, revision: i64) -> Option<Moment<'a>> {
        let turns = index.turns();
        let pages = self.0.lock();
        // A page that was noted by a later view than this one tells of turns that this one does not know.
        let known = pages.iter().filter(|page| page.from <= turns.last);
        let of_pages = known.filter_map(|page| Some((Some(page), turns.up_to_page(page, revision)?)));
        let now = turns.between(revision, i64::MAX).map(|between| (None, between));
        // Of equals the first: a page stays where it is.
        let (page, turns) = of_pages.chain(now).min_by_key(|(_, between)| between.len())?;
        Some(Moment { page: page.map(|page| (page.from, page.live.clone())), turns })
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
