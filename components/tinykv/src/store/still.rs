//! A state as it stood at one moment, in the order of its revisions.

use super::db::{Db, EV, KV, Loaded, failed, malformed};
use super::layout;
use crate::mvcc::{Change, KeyValue};
use bytes::Bytes;
use rocksdb::{Direction, IteratorMode, ReadOptions, Snapshot};
use std::io;

/// A state that does not change.
pub struct Still<'a> {
    db: &'a Db,
    snapshot: Snapshot<'a>,
    /// Everything but the versions.
    pub rest: Loaded,
}

impl<'a> Still<'a> {
    /// Whoever calls sees to it that no batch is written meanwhile.
    pub(crate) fn of(db: &'a Db) -> io::Result<Self> {
        Ok(Self { db, snapshot: db.db.snapshot(), rest: db.load()? })
    }

    /// Calls `each` with every version that the last compaction leaves, whether or not those that it
    /// drops are gone already; revisions ascend, and so do the numbers within one.
    pub fn each_version(&self, mut each: impl FnMut(u32, Change) -> io::Result<()>) -> io::Result<()> {
        // Events before the compaction are gone, and with them the order within a revision.
        let (mut last, mut number) = (0, 0);
        for (revision, name) in self.standing()? {
            number = if revision == last { number + 1 } else { 0 };
            last = revision;
            let change = self.change(&name)?.ok_or_else(|| malformed("compaction"))?;
            each(number, change)?;
        }
        let start = layout::event_key(self.rest.compacted.max(0), 0);
        let mut options = ReadOptions::default();
        options.set_readahead_size(2 << 20);
        let events = IteratorMode::From(&start, Direction::Forward);
        for item in self.snapshot.iterator_cf_opt(self.db.family(EV), options, events) {
            let (event, key) = item.map_err(failed)?;
            let (revision, number) = layout::parse_event_key(&event).ok_or_else(|| malformed("event"))?;
            let change = self.change(&layout::version_key(&key, revision))?;
            each(number, change.ok_or_else(|| malformed("event: its version is missing"))?)?;
        }
        Ok(())
    }

    /// Revisions before the compaction, and the names of the versions that stand since them.
    fn standing(&self) -> io::Result<Vec<(i64, Box<[u8]>)>> {
        let compacted = self.rest.compacted;
        let mut standing = Vec::new();
        if compacted <= 0 {
            return Ok(standing);
        }
        let mut options = ReadOptions::default();
        options.set_readahead_size(2 << 20);
        options.fill_cache(false);
        let mut decided: Option<Bytes> = None;
        // Keys ascend, and versions of a key come newest first.
        for item in self.snapshot.iterator_cf_opt(self.db.family(KV), options, IteratorMode::Start) {
            let (name, record) = item.map_err(failed)?;
            let (key, revision) = layout::parse_version_key(&name).ok_or_else(|| malformed("version key"))?;
            if revision > compacted || decided.as_ref() == Some(&key) {
                continue;
            }
            decided = Some(key);
            let (created, ..) = layout::parse_version_value(&record).ok_or_else(|| malformed("version"))?;
            if revision < compacted && created != 0 {
                standing.push((revision, name));
            }
        }
        standing.sort_by_key(|(revision, _)| *revision);
        Ok(standing)
    }

    /// The version of this name, if it is there.
    fn change(&self, name: &[u8]) -> io::Result<Option<Change>> {
        let Some(record) = self.snapshot.get_pinned_cf(self.db.family(KV), name).map_err(failed)? else {
            return Ok(None);
        };
        let (key, mod_revision) = layout::parse_version_key(name).ok_or_else(|| malformed("version key"))?;
        let (create_revision, version, lease, value) =
            layout::parse_version_value(&record).ok_or_else(|| malformed("version"))?;
        let value = Bytes::copy_from_slice(value);
        let kv = KeyValue { key, value, create_revision, mod_revision, version, lease };
        Ok(Some(Change { kv, is_deletion: create_revision == 0, prev: None }))
    }
}
