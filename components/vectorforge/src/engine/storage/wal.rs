//! The log of writes: what is acknowledged is in it, synced.
//!
//! A log is a directory of files named by the first operation they may hold (`00000000000000000001.wal`). A file is a
//! 24-byte header (`VFWAL001`, first operation u64, 4 zero bytes, crc32c of the 20 bytes before) and records:
//!
//! ```text
//! length of the body u32 | operation u64 | durable-through u64 | crc32c of the body u32 | crc32c of the 24 bytes before u32 | body
//! ```
//!
//! The header has a checksum of its own so that the two ways a log can end differently than it was written are told
//! apart. A record that runs past the end of the last file, or a tail of zeros, is a write that the crash tore: nobody
//! was told that it is safe, and it is cut off. A checksum that does not fit is damage to something that may have been
//! acknowledged: an error that names file and offset, never a silent loss. One exception: after a power failure pages
//! of an unsynced group may be missing from the middle; `durable-through` (the operation known to be on disk when the
//! record was written) shows whether a later record vouches for the damaged one; where one does, it was acknowledged.
//!
//! Appending writes to the page cache; [`Wal::sync_to`] makes it durable, one `fdatasync` for all who wait (group
//! commit). A failed write is cut off again and refused; a failed sync ends all writing, because the kernel may have
//! dropped the pages it could not write.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::durable;
use crate::engine::error::EngineError;

const MAGIC: [u8; 8] = *b"VFWAL001";
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 28;
/// A file is left for a new one at this size.
const FILE_BYTES: u64 = 32 << 20;

/// A record read back.
pub struct Entry {
    /// Its operation number.
    pub operation: u64,
    /// Its body.
    pub body: Vec<u8>,
}

/// The log of one collection, open for appending.
pub struct Wal {
    dir: PathBuf,
    tail: Mutex<Tail>,
    sync: Mutex<SyncState>,
    synced: Condvar,
}

struct Tail {
    file: Arc<File>,
    path: PathBuf,
    length: u64,
    first: u64,
    last: u64,
    /// Bytes in the files before this one.
    older_bytes: u64,
    /// Files before this one, by first operation.
    older: Vec<(u64, PathBuf)>,
    /// Why nothing may be appended any more.
    refused: Option<String>,
}

struct SyncState {
    durable: u64,
    syncing: bool,
    failed: Option<String>,
}

impl Wal {
    /// Opens the log of a directory (founding it when empty), cuts off a torn tail, and hands every record after
    /// operation `after` to `replay`, in order.
    pub fn open(
        dir: &Path,
        after: u64,
        mut replay: impl FnMut(Entry) -> Result<(), EngineError>,
    ) -> Result<Self, EngineError> {
        durable::create_dir(dir)?;
        let mut files = list(dir)?;
        let mut last = after;
        let mut older_bytes = 0;
        let count = files.len();
        let mut tail_length = 0;
        let mut ends_at = after;
        for (index, (first, path)) in files.iter().enumerate() {
            let bytes = fs::read(path).map_err(EngineError::io("read", path))?;
            let scanned = scan(path, &bytes, *first, index + 1 == count)?;
            ends_at = first + scanned.records.len() as u64 - 1;
            for (operation, range) in scanned.records {
                if operation > after {
                    if operation != last + 1 {
                        let detail =
                            format!("operation {operation} follows {last}: records are missing between");
                        return Err(EngineError::corrupt(path, detail));
                    }
                    replay(Entry { operation, body: bytes[range].to_vec() })?;
                    last = operation;
                }
            }
            tail_length = scanned.good_bytes;
            if index + 1 < count {
                older_bytes += bytes.len() as u64;
            } else if scanned.good_bytes < bytes.len() as u64 {
                cut(path, scanned.good_bytes)?;
            }
        }
        let tail = match files.pop() {
            Some((first, path)) if tail_length >= FILE_HEADER as u64 && ends_at == last => {
                let file =
                    OpenOptions::new().write(true).open(&path).map_err(EngineError::io("open", &path))?;
                file.sync_all().map_err(EngineError::io("sync", &path))?;
                Tail {
                    file: Arc::new(file),
                    path,
                    length: tail_length,
                    first,
                    last,
                    older_bytes,
                    older: files,
                    refused: None,
                }
            }
            spent => {
                // Its very header was torn, so it holds nothing; or it ends before what the caller has elsewhere, and
                // what follows would leave a gap. Either way nobody needs it.
                if let Some((_, path)) = spent {
                    durable::remove(&path)?;
                }
                let (file, path) = found(dir, last + 1)?;
                let length = FILE_HEADER as u64;
                let first = last + 1;
                Tail { file, path, length, first, last, older_bytes, older: files, refused: None }
            }
        };
        let sync = SyncState { durable: last, syncing: false, failed: None };
        Ok(Self {
            dir: dir.to_path_buf(),
            tail: Mutex::new(tail),
            sync: Mutex::new(sync),
            synced: Condvar::new(),
        })
    }

    /// Appends a record and returns its operation number. Not durable yet.
    pub fn append(&self, collection: &str, body: &[u8]) -> Result<u64, EngineError> {
        let durable = {
            let sync = self.sync.lock();
            if let Some(reason) = &sync.failed {
                return Err(refused(collection, reason));
            }
            sync.durable
        };
        let mut tail = self.tail.lock();
        if let Some(reason) = &tail.refused {
            return Err(refused(collection, reason));
        }
        if tail.length > FILE_BYTES {
            self.rotate_locked(&mut tail)?;
        }
        let operation = tail.last + 1;
        let mut record = Vec::with_capacity(RECORD_HEADER + body.len());
        let length = u32::try_from(body.len()).map_err(|_| EngineError::Limit {
            what: "size of one write in bytes",
            got: body.len() as u64,
            allowed: "less than 4 GiB",
        })?;
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(&operation.to_le_bytes());
        record.extend_from_slice(&durable.to_le_bytes());
        record.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
        let header_crc = crc32c::crc32c(&record);
        record.extend_from_slice(&header_crc.to_le_bytes());
        record.extend_from_slice(body);
        if let Err(source) = tail.file.write_all_at(&record, tail.length) {
            // Part of the record may be there; without it gone, a later record would follow a torn one.
            if let Err(second) = tail.file.set_len(tail.length) {
                tail.refused = Some(format!("a failed write could not be undone: {second}"));
            }
            return Err(EngineError::Io { operation: "append to", path: tail.path.clone(), source });
        }
        tail.length += record.len() as u64;
        tail.last = operation;
        Ok(operation)
    }

    /// Returns when every operation up to this one is on disk.
    pub fn sync_to(&self, collection: &str, operation: u64) -> Result<(), EngineError> {
        let mut sync = self.sync.lock();
        loop {
            if sync.durable >= operation {
                return Ok(());
            }
            if let Some(reason) = &sync.failed {
                return Err(refused(collection, reason));
            }
            if sync.syncing {
                self.synced.wait(&mut sync);
                continue;
            }
            sync.syncing = true;
            drop(sync);
            let (file, last) = {
                let tail = self.tail.lock();
                (Arc::clone(&tail.file), tail.last)
            };
            let outcome = file.sync_data();
            sync = self.sync.lock();
            sync.syncing = false;
            match outcome {
                Ok(()) => sync.durable = sync.durable.max(last),
                Err(error) => sync.failed = Some(error.to_string()),
            }
            self.synced.notify_all();
        }
    }

    /// Number of the last operation appended.
    pub fn last(&self) -> u64 {
        self.tail.lock().last
    }

    /// Bytes in all files.
    pub fn bytes(&self) -> u64 {
        let tail = self.tail.lock();
        tail.older_bytes + tail.length
    }

    /// Why the log takes no more writes, if it does not.
    pub fn failure(&self) -> Option<String> {
        self.sync.lock().failed.clone().or_else(|| self.tail.lock().refused.clone())
    }

    /// Starts a new file, so that a checkpoint of everything before can drop the old ones.
    pub fn rotate(&self) -> Result<(), EngineError> {
        let mut tail = self.tail.lock();
        if tail.last + 1 == tail.first { Ok(()) } else { self.rotate_locked(&mut tail) }
    }

    fn rotate_locked(&self, tail: &mut Tail) -> Result<(), EngineError> {
        // The old file must be durable first: from here on, syncs reach the new one only.
        if let Err(error) = tail.file.sync_data() {
            tail.refused = Some(error.to_string());
            return Err(EngineError::io("sync", &tail.path)(error));
        }
        let first = tail.last + 1;
        let (file, path) = found(&self.dir, first)?;
        let old = std::mem::replace(&mut tail.path, path);
        let old_first = std::mem::replace(&mut tail.first, first);
        tail.older.push((old_first, old));
        tail.older_bytes += tail.length;
        tail.file = file;
        tail.length = FILE_HEADER as u64;
        Ok(())
    }

    /// Removes the files whose operations are all at or before this one.
    pub fn forget_through(&self, operation: u64) -> Result<(), EngineError> {
        let mut tail = self.tail.lock();
        while !tail.older.is_empty() {
            let next_first = tail.older.get(1).map_or(tail.first, |(first, _)| *first);
            if next_first > operation + 1 {
                break;
            }
            let (_, path) = &tail.older[0];
            let bytes = fs::metadata(path).map_or(0, |meta| meta.len());
            durable::remove(path)?;
            tail.older.remove(0);
            tail.older_bytes = tail.older_bytes.saturating_sub(bytes);
        }
        Ok(())
    }
}

fn refused(collection: &str, reason: &str) -> EngineError {
    EngineError::WritesRefused { collection: collection.to_owned(), reason: reason.to_owned() }
}

fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, EngineError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(EngineError::io("list", dir))? {
        let path = entry.map_err(EngineError::io("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name.strip_suffix(".wal").and_then(|number| number.parse::<u64>().ok()) {
            Some(first) => files.push((first, path)),
            None => return Err(EngineError::corrupt(&path, "an unknown file in the log directory")),
        }
    }
    files.sort();
    Ok(files)
}

fn found(dir: &Path, first: u64) -> Result<(Arc<File>, PathBuf), EngineError> {
    let path = dir.join(format!("{first:020}.wal"));
    let mut header = Vec::with_capacity(FILE_HEADER);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&first.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    let mut file = File::create(&path).map_err(EngineError::io("create", &path))?;
    let written = file.write_all(&header).and_then(|()| file.sync_all());
    if let Err(source) = written {
        // Left behind it would only be swept at the next start.
        let _ = fs::remove_file(&path);
        return Err(EngineError::Io { operation: "create", path, source });
    }
    durable::sync_dir(dir)?;
    Ok((Arc::new(file), path))
}

fn cut(path: &Path, length: u64) -> Result<(), EngineError> {
    let file = OpenOptions::new().write(true).open(path).map_err(EngineError::io("open", path))?;
    file.set_len(length).and_then(|()| file.sync_all()).map_err(EngineError::io("cut the torn tail of", path))
}

struct Scanned {
    records: Vec<(u64, std::ops::Range<usize>)>,
    good_bytes: u64,
}

struct Header {
    length: usize,
    operation: u64,
    durable: u64,
    body_crc: u32,
}

fn read_header(bytes: &[u8], at: usize) -> Option<Header> {
    let header: &[u8; RECORD_HEADER] = bytes.get(at..)?.first_chunk()?;
    let word =
        |offset: usize| header[offset..offset + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
    let long =
        |offset: usize| header[offset..offset + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
    (crc32c::crc32c(&header[..24]) == word(24)).then(|| Header {
        length: word(0) as usize,
        operation: long(4),
        durable: long(12),
        body_crc: word(20),
    })
}

/// Finds the records of a file; pure, so that every kind of damage can be tried on a slice.
fn scan(path: &Path, bytes: &[u8], first: u64, is_last: bool) -> Result<Scanned, EngineError> {
    let fault = |at: usize, detail: &str| EngineError::corrupt(path, format!("{detail} at byte {at}"));
    let torn = |at: usize| bytes[at..].iter().all(|byte| *byte == 0);
    if is_last && (bytes.len() < FILE_HEADER || torn(0)) {
        return Ok(Scanned { records: Vec::new(), good_bytes: 0 });
    }
    let header = bytes.get(..FILE_HEADER).ok_or_else(|| fault(0, "file header cut short"))?;
    let crc_fits = header[20..] == crc32c::crc32c(&header[..20]).to_le_bytes();
    if !crc_fits || header[..8] != MAGIC || header[8..16] != first.to_le_bytes() {
        return Err(fault(0, "file header damaged"));
    }
    let mut records = Vec::new();
    let mut at = FILE_HEADER;
    let mut expected = first;
    while at < bytes.len() {
        let Some(header) = read_header(bytes, at) else {
            if is_last && (bytes.len() - at < RECORD_HEADER || torn(at)) {
                break;
            }
            return Err(fault(at, "record header damaged"));
        };
        if header.operation != expected {
            return Err(fault(at, "operation out of sequence"));
        }
        let start = at + RECORD_HEADER;
        let Some(body) = bytes.get(start..).and_then(|rest| rest.get(..header.length)) else {
            if is_last {
                break;
            }
            return Err(fault(at, "record cut short"));
        };
        if crc32c::crc32c(body) != header.body_crc {
            if is_last && torn_in_unsynced_group(bytes, start, header.length, header.operation) {
                break;
            }
            return Err(fault(start, "record checksum differs"));
        }
        records.push((header.operation, start..start + header.length));
        at = start + header.length;
        expected += 1;
    }
    Ok(Scanned { records, good_bytes: at as u64 })
}

/// Whether a damaged body shows the marks of a power failure inside an unsynced group: whole pages of zeros, and no
/// later record that vouches for it.
fn torn_in_unsynced_group(bytes: &[u8], start: usize, length: usize, operation: u64) -> bool {
    const PAGE: usize = 4096;
    let end = start + length;
    let zero_page = (start / PAGE * PAGE..end).step_by(PAGE).any(|page| {
        let held = &bytes[page.max(start)..(page + PAGE).min(end)];
        held.len() > 64 && held.iter().all(|byte| *byte == 0)
    });
    let mut at = end;
    let mut vouched = false;
    while let Some(header) = read_header(bytes, at) {
        vouched |= header.durable >= operation;
        at += RECORD_HEADER + header.length;
    }
    zero_page && !vouched
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entries = Vec<(u64, Vec<u8>)>;

    fn collect(dir: &Path, after: u64) -> Result<(Wal, Entries), EngineError> {
        let mut entries = Vec::new();
        let wal = Wal::open(dir, after, |entry| {
            entries.push((entry.operation, entry.body));
            Ok(())
        })?;
        Ok((wal, entries))
    }

    fn filled(dir: &Path) -> PathBuf {
        let (wal, _) = collect(dir, 0).expect("founded");
        for number in 1..=5u8 {
            assert_eq!(
                wal.append("c", &vec![number; usize::from(number) * 10]).expect("appended"),
                u64::from(number)
            );
        }
        wal.sync_to("c", 5).expect("synced");
        dir.join(format!("{:020}.wal", 1))
    }

    #[test]
    fn what_was_appended_is_replayed_in_order() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        filled(dir.path());
        let (wal, entries) = collect(dir.path(), 2).expect("opened");
        assert_eq!(entries.iter().map(|(operation, _)| *operation).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(entries[0].1, vec![3; 30]);
        assert_eq!(wal.append("c", b"six").expect("appended"), 6);
        wal.rotate().expect("rotated");
        assert_eq!(wal.append("c", b"seven").expect("appended"), 7);
        wal.forget_through(6).expect("cut");
        drop(wal);
        let (_, entries) = collect(dir.path(), 6).expect("opened");
        assert_eq!(entries, [(7, b"seven".to_vec())]);
        assert!(collect(dir.path(), 3).is_err(), "operations 4 to 6 are missing and must be missed");
    }

    #[test]
    fn a_cut_loses_only_what_lies_behind_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = filled(dir.path());
        let good = fs::read(&path).expect("read");
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).expect("written");
            let (wal, entries) = collect(dir.path(), 0).expect("a torn tail is no error");
            let mut at = FILE_HEADER;
            let whole = (1..=5).take_while(|number| {
                at += RECORD_HEADER + number * 10;
                at <= length
            });
            let whole = whole.count();
            assert_eq!(entries.len(), whole, "cut to {length}");
            assert_eq!(wal.append("c", b"next").expect("appended"), whole as u64 + 1);
            drop(wal);
            assert_eq!(collect(dir.path(), 0).expect("opened").1.len(), whole + 1);
            fs::remove_dir_all(dir.path()).expect("removed");
            fs::create_dir_all(dir.path()).expect("created");
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = filled(dir.path());
        let good = fs::read(&path).expect("read");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).expect("written");
            let Err(error) = collect(dir.path(), 0) else { panic!("bit {bit} went unnoticed") };
            assert!(error.to_string().contains(".wal"), "{error}");
        }
    }

    #[test]
    fn a_log_that_ends_before_the_checkpoint_starts_anew_behind_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        filled(dir.path());
        let (wal, entries) = collect(dir.path(), 9).expect("opened");
        assert!(entries.is_empty());
        assert_eq!(wal.append("c", b"ten").expect("appended"), 10);
        drop(wal);
        assert_eq!(collect(dir.path(), 9).expect("opened").1, [(10, b"ten".to_vec())]);
    }

    #[test]
    fn a_tail_of_zeros_is_a_torn_write() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = filled(dir.path());
        let mut bytes = fs::read(&path).expect("read");
        bytes.extend_from_slice(&[0; 5000]);
        fs::write(&path, &bytes).expect("written");
        assert_eq!(collect(dir.path(), 0).expect("opened").1.len(), 5);
    }
}
