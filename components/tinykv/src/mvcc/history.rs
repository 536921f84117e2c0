//! The versions of one key.

use super::blob::Blob;
use cowtree::Tree;

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
    pub value: Option<Blob>,
}

impl Version {
    /// Whether this is the absence of the key.
    pub fn is_deletion(&self) -> bool {
        self.create_revision == 0
    }

    pub(super) fn deletion(revision: i64) -> Self {
        Self { mod_revision: revision, create_revision: 0, version: 0, lease: 0, size: 0, value: None }
    }
}

/// All versions of a key that have not been compacted, the latest apart. Snapshots of the index share histories, and a
/// shared one is copied before it is changed: that must stay cheap however often a key was written.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub latest: Version,
    /// Most keys have none: a pointer is all that they pay.
    older: Option<Box<Older>>,
}

/// Superseded versions in a list, before they move to a tree.
const FEW: usize = 32;

#[derive(Debug, Clone)]
enum Older {
    /// Ascending.
    Few(Vec<Version>),
    Many(Tree<i64, Version>),
}

impl History {
    pub fn new(latest: Version) -> Self {
        Self { latest, older: None }
    }

    /// Takes in a history as the store tells it, newest version first.
    pub fn of_newest_first(latest: Version, mut older: Vec<Version>) -> Self {
        older.reverse();
        let older = match older.len() {
            0 => None,
            1..=FEW => {
                older.shrink_to_fit();
                Some(Box::new(Older::Few(older)))
            }
            _ => Some(Box::new(Older::Many(tree_of(older)))),
        };
        Self { latest, older }
    }

    /// The version that stood at `revision`, deletions included.
    pub fn at(&self, revision: i64) -> Option<&Version> {
        if self.latest.mod_revision <= revision {
            return Some(&self.latest);
        }
        match &**self.older.as_ref()? {
            Older::Few(list) => {
                let after = list.partition_point(|version| version.mod_revision <= revision);
                after.checked_sub(1).map(|at| &list[at])
            }
            Older::Many(tree) => tree.range(..=revision).next_back().map(|(_, version)| version),
        }
    }

    /// Makes `version` the latest; answers the one before.
    pub fn push(&mut self, version: Version) -> &Version {
        let before = std::mem::replace(&mut self.latest, version);
        let older = self.older.get_or_insert_with(|| Box::new(Older::Few(Vec::new())));
        if let Older::Few(list) = &mut **older
            && list.len() == FEW
        {
            **older = Older::Many(tree_of(std::mem::take(list)));
        }
        match &mut **older {
            Older::Few(list) => {
                if list.capacity() == list.len() {
                    // Not the four that a list begins with: many keys are superseded once between compactions.
                    list.reserve_exact(list.len().max(1));
                }
                list.push(before);
                list.last().expect("it was just put there")
            }
            Older::Many(tree) => tree.get_or_insert_with(before.mod_revision, || before),
        }
    }

    /// Takes the value of a superseded version out of memory.
    pub fn unload(&mut self, revision: i64) -> Option<Blob> {
        match &mut **self.older.as_mut()? {
            Older::Few(list) => {
                let at = list.binary_search_by_key(&revision, |version| version.mod_revision).ok()?;
                list[at].value.take()
            }
            Older::Many(tree) => tree.get_mut(&revision)?.value.take(),
        }
    }

    /// Whether a compaction at `compacted` leaves something to drop.
    pub fn is_stale(&self, compacted: i64) -> bool {
        self.is_gone(compacted) || self.oldest().is_some_and(|oldest| oldest < self.least_kept(compacted))
    }

    /// Whether nothing stands at `compacted` or later: the key may leave the index. A deletion at the very revision
    /// stays, for watchers that start there.
    pub fn is_gone(&self, compacted: i64) -> bool {
        self.latest.is_deletion() && self.latest.mod_revision < compacted
    }

    /// Takes up to `limit` versions out that nobody can ask for any more, oldest first.
    pub fn drop_stale(&mut self, compacted: i64, limit: usize) -> Vec<Version> {
        let least = self.least_kept(compacted);
        let Some(older) = &mut self.older else { return Vec::new() };
        let (dropped, empty) = match &mut **older {
            Older::Few(list) => {
                let stale = list.partition_point(|version| version.mod_revision < least).min(limit);
                let dropped: Vec<_> = list.drain(..stale).collect();
                list.shrink_to_fit();
                (dropped, list.is_empty())
            }
            Older::Many(tree) => {
                let stale: Vec<i64> = tree.range(..least).take(limit).map(|(at, _)| *at).collect();
                let dropped = stale.iter().filter_map(|at| tree.remove(at)).collect();
                (dropped, tree.is_empty())
            }
        };
        if empty {
            self.older = None;
        }
        dropped
    }

    /// The least revision whose version stays: the one that stands at the compaction, unless that is a deletion of an
    /// earlier revision.
    fn least_kept(&self, compacted: i64) -> i64 {
        match self.at(compacted) {
            Some(standing) if standing.is_deletion() && standing.mod_revision < compacted => compacted,
            Some(standing) => standing.mod_revision,
            None => i64::MIN,
        }
    }

    fn oldest(&self) -> Option<i64> {
        match &**self.older.as_ref()? {
            Older::Few(list) => list.first().map(|version| version.mod_revision),
            Older::Many(tree) => tree.first().map(|(at, _)| *at),
        }
    }

    /// Every version, oldest first.
    #[cfg(test)]
    pub fn versions(&self) -> Vec<&Version> {
        let mut all: Vec<&Version> = match self.older.as_deref() {
            None => Vec::new(),
            Some(Older::Few(list)) => list.iter().collect(),
            Some(Older::Many(tree)) => tree.iter().map(|(_, version)| version).collect(),
        };
        all.push(&self.latest);
        all
    }
}

fn tree_of(ascending: Vec<Version>) -> Tree<i64, Version> {
    let entries = ascending.into_iter().map(|version| (version.mod_revision, version));
    cowtree::from_sorted(entries).expect("revisions of a key ascend")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(revision: i64) -> Version {
        // Every seventh write is a deletion.
        let create_revision = i64::from(revision % 7 != 0);
        Version { mod_revision: revision, create_revision, version: 1, lease: 0, size: 0, value: None }
    }

    #[test]
    fn a_long_history_answers_like_a_list_and_drops_the_same() {
        for writes in [1, 2, 31, 32, 33, 34, 300] {
            let list: Vec<Version> = (1..=writes).map(|n| version(n * 3)).collect();
            let mut history = History::new(list[0].clone());
            for next in &list[1..] {
                let before = history.latest.clone();
                assert_eq!(history.push(next.clone()), &before);
            }
            let told = History::of_newest_first(
                history.latest.clone(),
                list[..list.len() - 1].iter().rev().cloned().collect(),
            );
            assert_eq!(told.versions(), history.versions());
            for revision in 0..=writes * 3 + 1 {
                let standing = list.iter().rfind(|version| version.mod_revision <= revision);
                assert_eq!(history.at(revision), standing, "{writes} writes, at {revision}");
            }
            for compacted in [2, 3, 21, 22, 60, 500, writes * 3, writes * 3 + 1] {
                let kept = |version: &&Version| {
                    let standing = list.iter().rfind(|version| version.mod_revision <= compacted);
                    let ended = version.is_deletion() && version.mod_revision < compacted;
                    let last = version.mod_revision == list[list.len() - 1].mod_revision;
                    version.mod_revision > compacted || (Some(*version) == standing && !ended) || last
                };
                let mut swept = history.clone();
                while swept.is_stale(compacted) && !swept.drop_stale(compacted, 5).is_empty() {}
                let expected: Vec<&Version> = list.iter().filter(kept).collect();
                assert_eq!(swept.versions(), expected, "{writes} writes, compacted at {compacted}");
            }
        }
    }
}
