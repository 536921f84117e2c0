//! The process's one log: append-only, segmented, checksummed, shared by every Raft group.
//!
//! Writers hand records to a queue; one thread drains it, writes all that is waiting as one
//! frame, calls fdatasync once, and only then reports each of them done. A write that finds the
//! queue empty may be done where it is asked for. An error of the disk
//! poisons the log: everything waiting and everything later is refused with that error,
//! because after a failed fdatasync nobody knows what the disk holds.
//!
//! Files: `<dir>/<first frame, 16 hex digits>.log`. A new segment starts with the votes and
//! purge points of all groups, so that older segments can be deleted whole.

mod frame;
mod group;
mod record;
mod recover;
mod segment;
mod writer;

pub use frame::FRAME_OVERHEAD;
pub use group::{Entry, LogRange};
pub use record::{EntryId, EntryKind, Record, RecordError, Vote};
pub(crate) use record::{decode as decode_record, encode as encode_record};
pub use segment::SegmentFile;
pub use writer::{Done, SyncObserver};

use group::Group;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use writer::Job;

/// Puts something between the log and a segment file.
pub type WrapFile = Arc<dyn Fn(Arc<File>) -> Arc<dyn SegmentFile> + Send + Sync>;

/// How a log is kept.
#[derive(Clone)]
pub struct LogOptions {
    /// Size of a segment file in bytes.
    pub segment_bytes: u64,
    /// Entry payloads kept in memory for readers, in bytes, per group.
    pub cache_bytes: usize,
    /// Told about every fdatasync: its duration, and the bytes it covered.
    pub observer: Option<SyncObserver>,
    /// Wraps each segment file; `None` writes to the file itself. For fault injection.
    pub wrap: Option<WrapFile>,
    /// Whether everything is written by whoever asks, so that nothing depends on the scheduling
    /// of threads. For simulations.
    pub without_thread: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            observer: None,
            wrap: None,
            without_thread: false,
        }
    }
}

/// Why the log cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directory cannot be listed or created.
    #[error("cannot use the log directory {path}: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A segment cannot be created or reserved.
    #[error("cannot create the log segment {path}: {source}", path = path.display())]
    Create {
        /// The segment.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A segment cannot be read.
    #[error("cannot read the log segment {path}: {source}", path = path.display())]
    Open {
        /// The segment.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file that the log did not write.
    #[error("{path} is no segment of this log; move it away", path = path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that were acknowledged are not what they were.
    #[error(
        "the log is corrupt: {path} at byte {offset}: {problem}; restore this node from a snapshot \
         or another member, the file is left as it is",
        path = path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// First byte of the damaged unit.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// The thread that writes cannot be started.
    #[error("cannot start the log's writer: {0}")]
    Thread(#[source] io::Error),
    /// An earlier write failed; the process must restart.
    #[error("the log has stopped: {0}")]
    Stopped(String),
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        Self::other(error)
    }
}

/// Where an entry's record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    segment: u64,
    offset: u64,
    length: u32,
}

struct Shared {
    groups: Mutex<HashMap<u32, Arc<Mutex<Group>>>>,
    files: Mutex<HashMap<u64, (PathBuf, Arc<File>)>>,
    stopped: Mutex<Option<String>>,
}

impl Shared {
    fn group(&self, group: u32) -> Arc<Mutex<Group>> {
        Arc::clone(self.groups.lock().entry(group).or_default())
    }
}

/// A handle to the log; clones share it. The last one dropped seals and closes it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    queue: Arc<writer::Handle>,
    cache_bytes: usize,
}

/// What recovery found worth telling.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Whether the process that wrote last had stopped in good order.
    pub sealed: bool,
    /// The unfinished last write that was cut off: file and offset.
    pub cut: Option<(PathBuf, u64)>,
    /// Entries found.
    pub entries: u64,
}

impl Log {
    /// Opens the log in `dir`, creating it if there is none.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Self, Recovery), LogError> {
        let directory = |source| LogError::Directory { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(directory)?;
        let cache_bytes = options.cache_bytes;
        let recovered = recover::recover(dir, &options)?;
        let found = recovered.summary();
        if let Some((path, offset)) = &found.cut {
            tracing::warn!(path = %path.display(), offset, "cut an unfinished write off the log");
        }
        let (shared, writer) = recovered.into_parts(dir, options);
        let queue = writer::start(Arc::clone(&shared), writer)?;
        Ok((Self { shared, queue: Arc::new(queue), cache_bytes }, found))
    }

    /// Reads a log without changing anything, for a check: the first damage is the error.
    pub fn check(dir: &Path) -> Result<Recovery, LogError> {
        recover::scan(dir, false).map(|recovered| recovered.summary())
    }

    /// Every entry of a group that the files still hold, by index: those that were purged but whose segment is there
    /// too, those that were withdrawn not. Changes nothing; the process that writes must not run.
    pub fn history(dir: &Path, group: u32) -> Result<BTreeMap<u64, Entry>, LogError> {
        let mut entries = BTreeMap::new();
        recover::scan_with(dir, false, &mut |record| match record {
            Record::Entry { group: of, id, kind, payload } if *of == group => {
                entries.insert(id.index, Entry { id: *id, kind: *kind, payload: payload.clone() });
            }
            Record::Truncate { group: of, keep } if *of == group => {
                entries.split_off(&keep.map_or(0, |keep| keep + 1));
            }
            _ => {}
        })?;
        Ok(entries)
    }

    /// The part of the log that belongs to one group.
    pub fn group(&self, group: u32) -> GroupLog {
        GroupLog {
            state: self.shared.group(group),
            shared: Arc::clone(&self.shared),
            queue: Arc::clone(&self.queue),
            group,
            cache_bytes: self.cache_bytes,
        }
    }

    /// The error that stopped the log, if one did.
    pub fn failure(&self) -> Option<String> {
        self.shared.stopped.lock().clone()
    }
}

/// One group's view of the log. Calls must come in the order in which they shall take effect.
#[derive(Clone)]
pub struct GroupLog {
    state: Arc<Mutex<Group>>,
    shared: Arc<Shared>,
    queue: Arc<writer::Handle>,
    group: u32,
    cache_bytes: usize,
}

impl GroupLog {
    /// Appends entries. They are readable at once; `done` is called after they are durable.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), LogError> {
        let job = self.take_in(entries, done);
        self.queue.send(job)
    }

    /// Like [`append`](Self::append), but when nothing else is being written the caller's thread
    /// writes, and `done` is called before this returns.
    pub fn append_here(&self, entries: Vec<Entry>, done: Done) -> Result<(), LogError> {
        let job = self.take_in(entries, done);
        self.queue.write_here(job)
    }

    fn take_in(&self, entries: Vec<Entry>, done: Done) -> Job {
        let mut records = Vec::with_capacity(entries.len());
        {
            let mut state = self.state.lock();
            for entry in entries {
                records.push(Record::Entry {
                    group: self.group,
                    id: entry.id,
                    kind: entry.kind,
                    payload: entry.payload.clone(),
                });
                state.push(entry);
            }
            state.shrink_cache(self.cache_bytes);
        }
        Job { records, done: Some(done) }
    }

    /// Saves the vote; `done` is called after it is durable.
    pub fn save_vote(&self, vote: Vote, done: Done) -> Result<(), LogError> {
        self.state.lock().vote = Some(vote);
        self.queue.send(Job { records: vec![Record::Vote { group: self.group, vote }], done: Some(done) })
    }

    /// Withdraws every entry past `keep` (`None`: all).
    pub fn truncate(&self, keep: Option<u64>, done: Done) -> Result<(), LogError> {
        self.state.lock().truncate(keep);
        let records = vec![Record::Truncate { group: self.group, keep }];
        self.queue.send(Job { records, done: Some(done) })
    }

    /// Forgets every entry up to `id`, inclusive; whole segments of them are deleted.
    pub fn purge(&self, id: EntryId) -> Result<(), LogError> {
        self.state.lock().purge(id);
        let records = vec![Record::Purge { group: self.group, id }];
        self.queue.send(Job { records, done: None })
    }

    /// The vote saved last.
    pub fn vote(&self) -> Option<Vote> {
        self.state.lock().vote
    }

    /// The purge point and the last entry (or the purge point, when there is no entry).
    pub fn bounds(&self) -> (Option<EntryId>, Option<EntryId>) {
        let state = self.state.lock();
        (state.purged(), state.last())
    }

    /// Payload bytes appended since the process started; a measure of growth.
    pub fn appended_bytes(&self) -> u64 {
        self.state.lock().appended_bytes
    }

    /// The entries of `[start, end)` that exist, at most `budget` bytes of them but at least one.
    pub fn read(&self, start: u64, end: u64, budget: usize) -> Result<Vec<Entry>, LogError> {
        let range = self.state.lock().range(start, end, budget);
        range.into_iter().map(|slot| self.load(slot)).collect()
    }

    fn load(&self, slot: LogRange) -> Result<Entry, LogError> {
        let (id, kind, place) = match slot {
            LogRange::Memory(entry) => return Ok(entry),
            LogRange::Disk { id, kind, place } => (id, kind, place),
        };
        let (path, file) =
            self.shared.files.lock().get(&place.segment).cloned().ok_or_else(|| {
                LogError::Stopped(format!("entry {} was purged while it was read", id.index))
            })?;
        let corrupt =
            |problem: String| LogError::Corrupt { path: path.clone(), offset: place.offset, problem };
        let bytes = segment::read_at(&file, place.offset, place.length as usize)
            .map_err(|source| LogError::Open { path: path.clone(), source })?;
        match record::decode(&bytes) {
            Ok((Record::Entry { id: found, payload, .. }, _)) if found == id => {
                Ok(Entry { id, kind, payload })
            }
            Ok(_) => Err(corrupt(format!("another record stands where entry {} belongs", id.index))),
            Err(error) => Err(corrupt(error.to_string())),
        }
    }
}
