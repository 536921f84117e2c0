//! The database handle.

use super::{layout, manifest};
use crate::mvcc::auth::{self, Auth, Touched};
use crate::mvcc::{Alarm, Change, KeyValue, Release, Version};
use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Direction,
    FlushOptions, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const KV: &str = "kv";
pub(super) const EV: &str = "ev";
const LEASE: &str = "lease";
const META: &str = "meta";
const FAMILIES: [&str; 4] = [KV, EV, LEASE, META];

const REVISION: &[u8] = b"revision";
const COMPACTED: &[u8] = b"compacted";
const POSITION: &[u8] = b"position";
const ALARM: &[u8] = b"alarm/";
const DOWNGRADE: &[u8] = b"downgrade";
const AUTH_ENABLED: &[u8] = b"auth/enabled";
const AUTH_REVISION: &[u8] = b"auth/revision";
const USER: &[u8] = b"auth/user/";
const ROLE: &[u8] = b"auth/role/";

/// Why the state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// RocksDB refused.
    #[error("cannot open the state in {path}: {source}", path = path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What it said.
        #[source]
        source: rocksdb::Error,
    },
    /// Reading it failed.
    #[error("cannot read the state in {path}: {source}", path = path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
}

/// Everything but the versions.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The latest revision.
    pub revision: i64,
    /// The last compaction.
    pub compacted: i64,
    /// Leases: id and seconds.
    pub leases: Vec<(i64, i64)>,
    /// Alarms: member and kind.
    pub alarms: Vec<(u64, Alarm)>,
    /// Users and roles.
    pub auth: Auth,
    /// The release that the cluster makes ready to go back to.
    pub downgrade: Option<Release>,
}

impl Loaded {
    /// What every member could do.
    pub fn release(&self) -> Release {
        self.downgrade.unwrap_or(Release::OWN)
    }
}

/// The database; clones share it.
#[derive(Clone)]
pub struct Db {
    pub(super) db: Arc<DB>,
}

pub(super) fn failed(error: rocksdb::Error) -> io::Error {
    io::Error::other(error)
}

pub(super) fn malformed(what: &str) -> io::Error {
    io::Error::other(format!("the state holds a malformed {what}"))
}

impl Db {
    /// Opens the database in `path`, creating it if there is none.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        manifest::check(path).map_err(|source| StoreError::Read { path: path.to_owned(), source })?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_max_background_jobs(2);
        // Files go to disk as they are written: at once, at their end, Raft's log would wait behind them for its own sync.
        options.set_bytes_per_sync(512 << 10);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(512);
        let cache = Cache::new_lru_cache(cache_bytes);
        let families = FAMILIES.iter().map(|name| ColumnFamilyDescriptor::new(*name, family(name, &cache)));
        let db = DB::open_cf_descriptors(&options, path, families)
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Ok(Self { db: Arc::new(db) })
    }

    /// Opens it without the possibility to change it.
    pub fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        manifest::check(path).map_err(|source| StoreError::Read { path: path.to_owned(), source })?;
        let db = DB::open_cf_for_read_only(&Options::default(), path, FAMILIES, false)
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Ok(Self { db: Arc::new(db) })
    }

    /// Checks the checksums of everything on disk.
    pub fn verify(&self) -> io::Result<()> {
        for name in FAMILIES {
            let mut options = ReadOptions::default();
            options.set_verify_checksums(true);
            options.fill_cache(false);
            for item in self.db.iterator_cf_opt(self.family(name), options, IteratorMode::Start) {
                item.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A checksum over every version up to `revision` that a compaction at `compacted` leaves.
    pub fn hash(&self, revision: i64, compacted: i64) -> io::Result<u32> {
        // As etcd does: the hash of nothing is not nothing.
        let mut hash = crc32c::crc32c(b"key");
        let mut last: Option<Bytes> = None;
        let mut standing_seen = false;
        // Keys ascend, and versions of a key come newest first.
        for item in self.db.iterator_cf(self.family(KV), IteratorMode::Start) {
            let (name, record) = item.map_err(failed)?;
            let (key, mod_revision) =
                layout::parse_version_key(&name).ok_or_else(|| malformed("version key"))?;
            let (created, ..) = layout::parse_version_value(&record).ok_or_else(|| malformed("version"))?;
            if last.as_ref() != Some(&key) {
                standing_seen = false;
                last = Some(key);
            }
            if mod_revision > revision {
                continue;
            }
            if mod_revision <= compacted {
                let gone = standing_seen || (created == 0 && mod_revision < compacted);
                standing_seen = true;
                if gone {
                    continue;
                }
            }
            hash = crc32c::crc32c_append(hash, &name);
            hash = crc32c::crc32c_append(hash, &record);
        }
        Ok(hash)
    }

    pub(super) fn family(&self, name: &'static str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every family is created at open")
    }

    fn meta(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(META), name).map_err(failed)
    }

    fn meta_number(&self, name: &[u8], absent: i64) -> io::Result<i64> {
        match self.meta(name)? {
            None => Ok(absent),
            Some(bytes) => bytes.try_into().map(i64::from_be_bytes).map_err(|_| malformed("number")),
        }
    }

    /// The Raft position of the newest batch here.
    pub fn position(&self) -> io::Result<Option<Bytes>> {
        Ok(self.meta(POSITION)?.map(Bytes::from))
    }

    /// Reads everything but the versions.
    pub fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded {
            revision: self.meta_number(REVISION, 1)?,
            compacted: self.meta_number(COMPACTED, -1)?,
            ..Loaded::default()
        };
        for item in self.db.iterator_cf(self.family(LEASE), IteratorMode::Start) {
            let (id, ttl) = item.map_err(failed)?;
            let number =
                |bytes: &[u8]| bytes.try_into().map(i64::from_be_bytes).map_err(|_| malformed("lease"));
            loaded.leases.push((number(&id)?, number(&ttl)?));
        }
        for item in self.db.iterator_cf(self.family(META), IteratorMode::From(ALARM, Direction::Forward)) {
            let (name, _) = item.map_err(failed)?;
            let Some(rest) = name.strip_prefix(ALARM) else { break };
            let (member, kind) = rest.split_at_checked(8).ok_or_else(|| malformed("alarm"))?;
            let member = member.try_into().map(u64::from_be_bytes).map_err(|_| malformed("alarm"))?;
            let alarm = match kind {
                [0] => Alarm::NoSpace,
                [1] => Alarm::Corrupt,
                _ => return Err(malformed("alarm")),
            };
            loaded.alarms.push((member, alarm));
        }
        loaded.auth = self.auth()?;
        if let Some(target) = self.meta(DOWNGRADE)? {
            let target = std::str::from_utf8(&target).ok().and_then(Release::parse);
            loaded.downgrade = Some(target.ok_or_else(|| malformed("release"))?);
        }
        Ok(loaded)
    }

    fn auth(&self) -> io::Result<Auth> {
        let enabled = self.meta_number(AUTH_ENABLED, 0)? != 0;
        let revision = self.meta_number(AUTH_REVISION, 1)? as u64;
        let users = self.named(USER, auth::parse_user)?;
        let roles = self.named(ROLE, auth::parse_role)?;
        Ok(Auth::restore(enabled, revision, users, roles))
    }

    /// The records whose names start with `prefix`, by the rest of their names.
    fn named<T, E: std::error::Error + Send + Sync + 'static>(
        &self,
        prefix: &[u8],
        parse: impl Fn(Bytes) -> Result<T, E>,
    ) -> io::Result<BTreeMap<String, T>> {
        let mut found = BTreeMap::new();
        let family = self.family(META);
        for item in self.db.iterator_cf(family, IteratorMode::From(prefix, Direction::Forward)) {
            let (name, record) = item.map_err(failed)?;
            let Some(rest) = name.strip_prefix(prefix) else { break };
            let rest = String::from_utf8(rest.to_vec()).map_err(io::Error::other)?;
            found.insert(rest, parse(Bytes::from(record)).map_err(io::Error::other)?);
        }
        Ok(found)
    }

    /// Calls `each` with every version, values left out: keys ascending, versions of a key newest first.
    pub fn versions(&self, mut each: impl FnMut(&[u8], Version)) -> io::Result<()> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(2 << 20);
        options.fill_cache(false);
        let mut versions = self.db.raw_iterator_cf_opt(self.family(KV), options);
        versions.seek_to_first();
        let mut key = Vec::new();
        while let Some((name, record)) = versions.item() {
            let mod_revision =
                layout::read_version_key(name, &mut key).ok_or_else(|| malformed("version key"))?;
            let (create_revision, version, lease, value) =
                layout::parse_version_value(record).ok_or_else(|| malformed("version"))?;
            let size = value.len() as u32;
            each(&key, Version { mod_revision, create_revision, version, lease, size, value: None });
            versions.next();
        }
        versions.status().map_err(failed)
    }

    /// The version that `key` got at `revision`, deletions included.
    pub fn version(&self, key: &[u8], revision: i64) -> io::Result<Option<(KeyValue, bool)>> {
        let record =
            self.db.get_pinned_cf(self.family(KV), layout::version_key(key, revision)).map_err(failed)?;
        let Some(record) = record else { return Ok(None) };
        let (create_revision, version, lease, value) =
            layout::parse_version_value(&record).ok_or_else(|| malformed("version"))?;
        let kv = KeyValue {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            create_revision,
            mod_revision: revision,
            version,
            lease,
        };
        Ok(Some((kv, create_revision == 0)))
    }

    /// The changes of revisions `from` to `to`, inclusive, in order: whole revisions, until
    /// `limit` changes are passed. Answers them and the last revision covered.
    pub fn changes(&self, from: i64, to: i64, limit: usize) -> io::Result<(Vec<Change>, i64)> {
        let mut changes: Vec<Change> = Vec::new();
        let start = layout::event_key(from, 0);
        for item in self.db.iterator_cf(self.family(EV), IteratorMode::From(&start, Direction::Forward)) {
            let (event, key) = item.map_err(failed)?;
            let (revision, _) = layout::parse_event_key(&event).ok_or_else(|| malformed("event"))?;
            if revision > to {
                break;
            }
            let last = changes.last().map(|change| change.kv.mod_revision);
            if changes.len() >= limit && last != Some(revision) {
                return Ok((changes, revision - 1));
            }
            // A version missing here was compacted in the meantime; the caller looks again.
            if let Some((mut kv, is_deletion)) = self.version(&key, revision)? {
                if is_deletion {
                    kv = KeyValue { key: kv.key, mod_revision: revision, ..KeyValue::default() };
                }
                changes.push(Change { kv, is_deletion, prev: None });
            }
        }
        Ok((changes, to))
    }

    /// Starts a batch.
    pub fn batch(&self) -> Batch<'_> {
        Batch { db: self, batch: WriteBatch::default() }
    }

    /// Writes all of memory to disk.
    pub fn flush(&self) -> io::Result<()> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families: Vec<_> = FAMILIES.iter().map(|name| self.family(name)).collect();
        self.db.flush_cfs_opt(&families, &options).map_err(failed)
    }

    /// Makes a copy in `path`, by hard links where possible.
    pub fn checkpoint(&self, path: &Path) -> io::Result<()> {
        Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(path)).map_err(failed)
    }

    /// Bytes on disk and in memtables.
    pub fn size(&self) -> u64 {
        let property = |name: &str| {
            FAMILIES
                .iter()
                .filter_map(|family| self.db.property_int_value_cf(self.family(family), name).ok().flatten())
                .sum::<u64>()
        };
        property("rocksdb.total-sst-files-size") + property("rocksdb.cur-size-all-mem-tables")
    }
}

fn family(name: &str, cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(if name == KV { 32 << 20 } else { 8 << 20 });
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    if name == KV {
        blocks.set_bloom_filter(10.0, false);
    }
    options.set_block_based_table_factory(&blocks);
    options
}

/// Writes that take effect together.
pub struct Batch<'a> {
    db: &'a Db,
    batch: WriteBatch,
}

impl Batch<'_> {
    /// A change, and its number within its revision.
    pub fn change(&mut self, change: &Change, number: u32) {
        let KeyValue { key, mod_revision, .. } = &change.kv;
        let name = layout::version_key(key, *mod_revision);
        self.batch.put_cf(self.db.family(KV), name, layout::version_value(change));
        self.batch.put_cf(self.db.family(EV), layout::event_key(*mod_revision, number), key);
    }

    /// Drops one event.
    pub fn drop_event(&mut self, revision: i64, number: u32) {
        self.batch.delete_cf(self.db.family(EV), layout::event_key(revision, number));
    }

    /// Drops one version.
    pub fn drop_version(&mut self, key: &[u8], revision: i64) {
        self.batch.delete_cf(self.db.family(KV), layout::version_key(key, revision));
    }

    /// Drops the events of all revisions before `revision`.
    pub fn drop_events_before(&mut self, revision: i64) {
        self.batch.delete_range_cf(
            self.db.family(EV),
            layout::event_key(0, 0),
            layout::event_key(revision, 0),
        );
    }

    /// The last compaction.
    pub fn compacted(&mut self, revision: i64) {
        self.batch.put_cf(self.db.family(META), COMPACTED, revision.to_be_bytes());
    }

    /// A lease, or (without seconds) its end.
    pub fn lease(&mut self, id: i64, ttl: Option<i64>) {
        match ttl {
            Some(ttl) => self.batch.put_cf(self.db.family(LEASE), id.to_be_bytes(), ttl.to_be_bytes()),
            None => self.batch.delete_cf(self.db.family(LEASE), id.to_be_bytes()),
        }
    }

    /// An alarm, raised or not.
    pub fn alarm(&mut self, member: u64, alarm: Alarm, raised: bool) {
        let mut name = ALARM.to_vec();
        name.extend_from_slice(&member.to_be_bytes());
        name.push(match alarm {
            Alarm::NoSpace => 0,
            Alarm::Corrupt => 1,
        });
        if raised {
            self.batch.put_cf(self.db.family(META), name, []);
        } else {
            self.batch.delete_cf(self.db.family(META), name);
        }
    }

    /// Users and roles that changed, and whether they count.
    pub fn auth(&mut self, auth: &Auth, touched: &Touched) {
        let meta = self.db.family(META);
        self.batch.put_cf(meta, AUTH_ENABLED, i64::from(auth.enabled()).to_be_bytes());
        self.batch.put_cf(meta, AUTH_REVISION, auth.revision().to_be_bytes());
        let users = touched
            .users
            .iter()
            .map(|name| ([USER, name.as_bytes()].concat(), auth.user(name).map(auth::user_record)));
        let roles = touched
            .roles
            .iter()
            .map(|name| ([ROLE, name.as_bytes()].concat(), auth.role(name).map(auth::role_record)));
        for (name, record) in users.chain(roles) {
            match record {
                Some(record) => self.batch.put_cf(meta, name, record),
                None => self.batch.delete_cf(meta, name),
            }
        }
    }

    /// The release to go back to, if there is one.
    pub fn downgrade(&mut self, target: Option<Release>) {
        match target {
            Some(target) => self.batch.put_cf(self.db.family(META), DOWNGRADE, target.to_string()),
            None => self.batch.delete_cf(self.db.family(META), DOWNGRADE),
        }
    }

    /// Where the batch brings the state.
    pub fn position(&mut self, position: &[u8], revision: i64) {
        self.batch.put_cf(self.db.family(META), POSITION, position);
        self.batch.put_cf(self.db.family(META), REVISION, revision.to_be_bytes());
    }

    /// Applies it; durable with the next flush.
    pub fn write(self) -> io::Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.db.write_opt(self.batch, &options).map_err(failed)
    }
}
