//! The log against the faults of disks: what was reported durable is there after any stop, and
//! damage to it is named, never repaired away.

use bytes::Bytes;
use parking_lot::Mutex;
use replication::log::{
    Done, Entry, EntryId, EntryKind, GroupLog, Log, LogError, LogOptions, SegmentFile, Vote,
};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

const SMALL: u64 = 16 << 10;

fn small() -> LogOptions {
    LogOptions { segment_bytes: SMALL, cache_bytes: 4 << 10, ..LogOptions::default() }
}

fn open(dir: &Path) -> Log {
    Log::open(dir, small()).expect("the log opens").0
}

fn entry(index: u64, size: usize) -> Entry {
    let payload = Bytes::from(vec![index as u8; size]);
    Entry { id: EntryId { term: 1, leader: 1, index }, kind: EntryKind::Command, payload }
}

fn waiting() -> (Done, mpsc::Receiver<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |outcome| sender.send(outcome).expect("the test waits")), receiver)
}

fn append(group: &GroupLog, entries: Vec<Entry>) -> io::Result<()> {
    let (done, outcome) = waiting();
    group.append(entries, done)?;
    outcome.recv().expect("the writer answers")
}

fn indexes(group: &GroupLog) -> Vec<u64> {
    group.read(0, u64::MAX, usize::MAX).expect("readable").iter().map(|entry| entry.id.index).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(dir).expect("listable").map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn entries_votes_and_purge_points_survive_a_restart_and_many_segments() {
    let dir = tempfile::tempdir().expect("dir");
    let vote = Vote { term: 4, leader: 9, committed: true };
    {
        let log = open(dir.path());
        let group = log.group(3);
        let (done, outcome) = waiting();
        group.save_vote(vote, done).expect("queued");
        outcome.recv().expect("answered").expect("saved");
        for index in 0..200 {
            append(&group, vec![entry(index, 500)]).expect("durable");
        }
    }
    assert!(segments(dir.path()).len() > 5);
    let (log, found) = Log::open(dir.path(), small()).expect("opens");
    assert!(found.sealed && found.cut.is_none());
    let group = log.group(3);
    assert_eq!(group.vote(), Some(vote));
    let entries = group.read(0, u64::MAX, usize::MAX).expect("readable");
    assert_eq!(entries, (0..200).map(|index| entry(index, 500)).collect::<Vec<_>>());

    // Purging deletes whole segments; the vote, written long ago, outlives them.
    group.purge(entry(150, 0).id).expect("queued");
    append(&group, vec![entry(200, 10)]).expect("durable");
    let left = segments(dir.path()).len();
    assert!(left <= 3, "{left} segments left");
    drop((group, log));
    let log = open(dir.path());
    let group = log.group(3);
    assert_eq!(group.vote(), Some(vote));
    assert_eq!(group.bounds(), (Some(entry(150, 0).id), Some(entry(200, 0).id)));
    assert_eq!(indexes(&group), (151..=200).collect::<Vec<_>>());
}

#[test]
fn a_withdrawn_tail_stays_withdrawn_and_its_indexes_are_taken_again() {
    let dir = tempfile::tempdir().expect("dir");
    {
        let log = open(dir.path());
        let group = log.group(0);
        append(&group, (0..10).map(|index| entry(index, 100)).collect()).expect("durable");
        let (done, outcome) = waiting();
        group.truncate(Some(4), done).expect("queued");
        outcome.recv().expect("answered").expect("durable");
        let newer = Entry { id: EntryId { term: 2, leader: 2, index: 5 }, ..entry(5, 7) };
        append(&group, vec![newer]).expect("durable");
    }
    let log = open(dir.path());
    let group = log.group(0);
    assert_eq!(indexes(&group), [0, 1, 2, 3, 4, 5]);
    assert_eq!(group.bounds().1.map(|id| id.term), Some(2));
    group.purge(EntryId { term: 1, leader: 1, index: 3 }).expect("queued");
    assert_eq!(indexes(&group), [4, 5]);
    drop((group, log));
    let history = Log::history(dir.path(), 0).expect("readable");
    let told: Vec<_> = history.values().map(|entry| (entry.id.index, entry.id.term)).collect();
    assert_eq!(told, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 2)], "purged ones too, withdrawn ones not");
}

#[test]
fn groups_share_segments_and_hold_them_for_one_another() {
    let dir = tempfile::tempdir().expect("dir");
    let log = open(dir.path());
    let (quick, slow) = (log.group(1), log.group(2));
    append(&slow, vec![entry(0, 100)]).expect("durable");
    for index in 0..100 {
        append(&quick, vec![entry(index, 500)]).expect("durable");
    }
    let before = segments(dir.path()).len();
    quick.purge(entry(99, 0).id).expect("queued");
    append(&quick, vec![entry(100, 1)]).expect("durable");
    assert_eq!(
        segments(dir.path()).len(),
        before,
        "the oldest segment still holds an entry of the slow group"
    );
    slow.purge(entry(0, 0).id).expect("queued");
    append(&quick, vec![entry(101, 1)]).expect("durable");
    assert!(segments(dir.path()).len() < before);
}

#[test]
fn one_sync_covers_all_appends_that_wait() {
    let dir = tempfile::tempdir().expect("dir");
    let syncs = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Mutex::new(()));
    let (count, hold) = (Arc::clone(&syncs), Arc::clone(&gate));
    let observer: replication::log::SyncObserver = Arc::new(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        drop(hold.lock());
    });
    let log = Log::open(dir.path(), LogOptions { observer: Some(observer), ..LogOptions::default() })
        .expect("opens")
        .0;
    let group = log.group(0);
    let held = gate.lock();
    let outcomes: Vec<_> = (0..500)
        .map(|index| {
            let (done, outcome) = waiting();
            group.append(vec![entry(index, 64)], done).expect("queued");
            outcome
        })
        .collect();
    drop(held);
    for outcome in outcomes {
        outcome.recv().expect("answered").expect("durable");
    }
    assert!(syncs.load(Ordering::SeqCst) <= 10, "{} syncs for 500 appends", syncs.load(Ordering::SeqCst));
}

/// A log whose process died: no seal, `frames` frames of one entry each. Answers its only file.
fn killed_log(dir: &Path, frames: u64) -> PathBuf {
    let log = open(dir);
    let group = log.group(0);
    for index in 0..frames {
        append(&group, vec![entry(index, 700)]).expect("durable");
    }
    let copy = segments(dir);
    let saved: Vec<_> = copy.iter().map(|path| fs::read(path).expect("readable")).collect();
    drop((group, log));
    for (path, bytes) in copy.iter().zip(saved) {
        fs::write(path, bytes).expect("writable");
    }
    copy.into_iter().next_back().expect("a segment")
}

fn patch(path: &Path, at: u64, change: impl FnOnce(&mut [u8])) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).expect("seek");
    file.read_exact(&mut byte).expect("read");
    change(&mut byte);
    file.seek(SeekFrom::Start(at)).expect("seek");
    file.write_all(&byte).expect("write");
}

fn end_of_data(path: &Path) -> u64 {
    let bytes = fs::read(path).expect("readable");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

#[test]
fn a_torn_tail_is_cut_and_the_log_goes_on_after_it() {
    let dir = tempfile::tempdir().expect("dir");
    let path = killed_log(dir.path(), 5);
    let end = end_of_data(&path);
    let bytes = fs::read(&path).expect("readable");
    let mut torn = bytes.clone();
    torn[end as usize - 300..].fill(0);
    fs::write(&path, torn).expect("writable");
    {
        let (log, found) = Log::open(dir.path(), small()).expect("opens");
        assert!(!found.sealed);
        assert!(found.cut.is_some_and(|(file, offset)| file == path && offset < end));
        let group = log.group(0);
        assert_eq!(indexes(&group), [0, 1, 2, 3]);
        append(&group, vec![entry(4, 20)]).expect("durable");
    }
    let (log, found) = Log::open(dir.path(), small()).expect("opens");
    assert!(found.sealed && found.cut.is_none());
    assert_eq!(indexes(&log.group(0)), [0, 1, 2, 3, 4]);
}

#[test]
fn a_flipped_bit_names_the_file_and_the_offset_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let path = killed_log(dir.path(), 8);
    let end = end_of_data(&path);
    for at in (24..end).step_by(97) {
        patch(&path, at, |byte| byte[0] ^= 0x10);
        let before = fs::read(&path).expect("readable");
        let error = Log::open(dir.path(), small()).err().expect("corruption is refused");
        let LogError::Corrupt { path: named, offset, .. } = &error else {
            panic!("flip at {at} gave {error}")
        };
        assert_eq!(named, &path);
        assert!(*offset <= at, "flip at {at} reported at {offset}");
        let message = error.to_string();
        assert!(message.contains(&path.display().to_string()) && message.contains(&offset.to_string()));
        assert!(fs::read(&path).expect("readable") == before, "a refused log is not written");
        patch(&path, at, |byte| byte[0] ^= 0x10);
    }
    assert_eq!(indexes(&open(dir.path()).group(0)), (0..8).collect::<Vec<_>>());
}

#[test]
fn after_a_clean_stop_even_a_torn_looking_tail_is_corruption() {
    let dir = tempfile::tempdir().expect("dir");
    {
        append(&open(dir.path()).group(0), vec![entry(0, 700)]).expect("durable");
    }
    let path = segments(dir.path()).pop().expect("a segment");
    let end = end_of_data(&path);
    let mut bytes = fs::read(&path).expect("readable");
    bytes[end as usize..end as usize + 40].fill(7);
    fs::write(&path, bytes).expect("writable");
    assert!(matches!(Log::open(dir.path(), small()), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_missing_segment_and_a_foreign_file_are_named() {
    let dir = tempfile::tempdir().expect("dir");
    {
        let group = open(dir.path()).group(0);
        for index in 0..100 {
            append(&group, vec![entry(index, 500)]).expect("durable");
        }
    }
    let stranger = dir.path().join("notes.txt");
    fs::write(&stranger, "mine").expect("writable");
    assert!(
        matches!(Log::open(dir.path(), small()), Err(LogError::ForeignFile { path }) if path == stranger)
    );
    fs::remove_file(stranger).expect("removable");
    fs::remove_file(&segments(dir.path())[1]).expect("removable");
    assert!(matches!(Log::open(dir.path(), small()), Err(LogError::Corrupt { .. })));
}

struct Faulty {
    file: Arc<File>,
    broken: Arc<AtomicBool>,
    kind: i32,
}

impl SegmentFile for Faulty {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.kind == nix::libc::ENOSPC && self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(self.kind));
        }
        SegmentFile::write_all_at(&*self.file, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(self.kind));
        }
        SegmentFile::sync(&*self.file)
    }
}

#[test]
fn a_failed_write_or_sync_stops_the_log_for_good() {
    for kind in [nix::libc::EIO, nix::libc::ENOSPC] {
        let dir = tempfile::tempdir().expect("dir");
        let broken = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&broken);
        let options = LogOptions {
            wrap: Some(Arc::new(move |file| {
                Arc::new(Faulty { file, broken: Arc::clone(&switch), kind }) as Arc<dyn SegmentFile>
            })),
            ..small()
        };
        let log = Log::open(dir.path(), options).expect("opens").0;
        let group = log.group(0);
        append(&group, vec![entry(0, 10)]).expect("durable");
        broken.store(true, Ordering::SeqCst);
        let error = append(&group, vec![entry(1, 10)]).expect_err("the disk is broken");
        let system = io::Error::from_raw_os_error(kind).to_string();
        assert!(error.to_string().contains(&system), "{error}");
        // A disk that works again proves nothing about what was lost in between.
        broken.store(false, Ordering::SeqCst);
        append(&group, vec![entry(2, 10)]).expect_err("the log stays stopped");
        assert!(log.failure().is_some_and(|reason| reason.contains(&system)));
        drop((group, log));
        assert_eq!(indexes(&open(dir.path()).group(0)).first(), Some(&0));
    }
}

/// Counts writes that no sync has followed.
struct Counted {
    file: Arc<File>,
    open: Arc<AtomicUsize>,
}

impl SegmentFile for Counted {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // Two writes under one sync could reach the disk in any order.
        assert_eq!(self.open.fetch_add(1, Ordering::SeqCst), 0, "a write after one that was not synced");
        SegmentFile::write_all_at(&*self.file, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.open.store(0, Ordering::SeqCst);
        SegmentFile::sync(&*self.file)
    }
}

#[test]
fn every_write_is_synced_before_the_next_and_a_purge_rides_along() {
    let dir = tempfile::tempdir().expect("dir");
    let open_writes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open_writes);
    let options = LogOptions {
        wrap: Some(Arc::new(move |file| {
            Arc::new(Counted { file, open: Arc::clone(&count) }) as Arc<dyn SegmentFile>
        })),
        ..small()
    };
    let log = Log::open(dir.path(), options).expect("opens").0;
    let group = log.group(0);
    for index in 0..100 {
        append(&group, vec![entry(index, 500)]).expect("durable");
        group.purge(entry(index / 2, 0).id).expect("queued");
    }
    assert_eq!(open_writes.load(Ordering::SeqCst), 0);
    assert_eq!(log.failure(), None);
    drop((group, log));
    let group = open(dir.path()).group(0);
    assert_eq!(group.bounds().0.map(|id| id.index), Some(49));
    assert_eq!(indexes(&group), (50..100).collect::<Vec<_>>());
}

#[test]
fn check_reads_everything_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let path = killed_log(dir.path(), 3);
    let before = fs::read(&path).expect("readable");
    let found = Log::check(dir.path()).expect("sound");
    assert_eq!((found.entries, found.sealed), (3, false));
    patch(&path, 200, |byte| byte[0] ^= 1);
    assert!(matches!(Log::check(dir.path()), Err(LogError::Corrupt { .. })));
    patch(&path, 200, |byte| byte[0] ^= 1);
    assert!(fs::read(&path).expect("readable") == before);
}
