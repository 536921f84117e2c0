//! A state that is written before there is a member to apply anything to it.

use super::db::{Db, Loaded, StoreError};
use crate::mvcc::Change;
use crate::mvcc::auth::Touched;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Changes that are written with one batch.
const BATCH: usize = 1_000;
/// RocksDB's block cache while it is written.
const CACHE_BYTES: usize = 8 << 20;

/// A new state.
pub struct NewState {
    db: Db,
    waiting: Vec<(u32, Change)>,
    /// The revision of the last change, and the number of each key's last change in it.
    revision: i64,
    numbers: HashMap<Bytes, u32>,
}

impl NewState {
    /// Creates one in `path`.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let db = Db::open(path, CACHE_BYTES)?;
        Ok(Self { db, waiting: Vec::new(), revision: 0, numbers: HashMap::new() })
    }

    /// Puts a change, and its number within its revision; revisions ascend, and so do the numbers
    /// within one.
    pub fn put(&mut self, number: u32, change: Change) -> io::Result<()> {
        if change.kv.mod_revision != self.revision {
            self.revision = change.kv.mod_revision;
            self.numbers.clear();
        }
        if let Some(before) = self.numbers.insert(change.kv.key.clone(), number) {
            // Of two changes of a key in one revision, only the second was ever seen.
            self.write()?;
            let mut batch = self.db.batch();
            batch.drop_event(self.revision, before);
            batch.write()?;
        }
        self.waiting.push((number, change));
        if self.waiting.len() >= BATCH { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut batch = self.db.batch();
        for (number, change) in self.waiting.drain(..) {
            batch.change(&change, number);
        }
        batch.write()
    }

    /// Puts everything else, and writes it all to disk. `position` is where in its group's log the state stands.
    pub fn finish(mut self, rest: &Loaded, position: &[u8]) -> io::Result<()> {
        self.write()?;
        let mut batch = self.db.batch();
        for (id, ttl) in &rest.leases {
            batch.lease(*id, Some(*ttl));
        }
        for (member, alarm) in &rest.alarms {
            batch.alarm(*member, *alarm, true);
        }
        let users = rest.auth.users().map(str::to_owned).collect();
        let roles = rest.auth.roles().map(str::to_owned).collect();
        batch.auth(&rest.auth, &Touched { users, roles });
        batch.downgrade(rest.downgrade);
        if rest.compacted >= 0 {
            batch.compacted(rest.compacted);
            batch.drop_events_before(rest.compacted);
        }
        batch.position(position, rest.revision);
        batch.write()?;
        self.db.flush()
    }
}
