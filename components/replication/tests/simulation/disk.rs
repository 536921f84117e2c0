//! A disk under the log that loses what was not synced and tears the write of a crash: at a byte, or so that some sectors arrived
//! and earlier ones did not.

use crate::runtime::draw;
use parking_lot::Mutex;
use replication::log::{LogOptions, SegmentFile};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Unit in which a disk writes whole or not at all.
const SECTOR: u64 = 512;

struct Unsynced {
    file: Arc<File>,
    offset: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

#[derive(Default)]
struct State {
    dead: AtomicBool,
    /// The next write stops halfway.
    tear: AtomicBool,
    unsynced: Mutex<Vec<Unsynced>>,
}

/// The disk of one life of a process.
#[derive(Clone, Default)]
pub struct Disk(Arc<State>);

impl Disk {
    pub fn options(&self) -> LogOptions {
        let disk = self.clone();
        LogOptions {
            segment_bytes: 64 << 10,
            cache_bytes: 4 << 10,
            without_thread: true,
            wrap: Some(Arc::new(move |file| Arc::new(Torn(file, disk.clone())) as Arc<dyn SegmentFile>)),
            ..LogOptions::default()
        }
    }

    /// The power goes: of what was written and not synced any sectors reached the disk, in any order.
    pub fn crash(&self) {
        self.0.dead.store(true, Ordering::SeqCst);
        let mut unsynced = self.0.unsynced.lock();
        for write in unsynced.iter().rev() {
            SegmentFile::write_all_at(&*write.file, &write.before, write.offset).expect("a simulated disk");
        }
        for write in unsynced.drain(..) {
            some_sectors(&write.file, &write.after, write.offset).expect("a simulated disk");
        }
    }

    pub fn tear_next_write(&self) {
        self.0.tear.store(true, Ordering::SeqCst);
    }
}

fn some_sectors(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + (SECTOR - (offset + at as u64) % SECTOR) as usize);
        if draw(0..2) == 0 {
            SegmentFile::write_all_at(file, &bytes[at..end], offset + at as u64)?;
        }
        at = end;
    }
    Ok(())
}

struct Torn(Arc<File>, Disk);

impl SegmentFile for Torn {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let state = &self.1.0;
        if state.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("the power is off"));
        }
        let mut before = vec![0; bytes.len()];
        self.0.read_exact_at(&mut before, offset)?;
        if state.tear.swap(false, Ordering::SeqCst) {
            if draw(0..2) == 0 {
                let written = draw(0..bytes.len() as u64) as usize;
                SegmentFile::write_all_at(&*self.0, &bytes[..written], offset)?;
            } else {
                some_sectors(&self.0, bytes, offset)?;
            }
            state.dead.store(true, Ordering::SeqCst);
            return Err(io::Error::other("the power went in the middle of a write"));
        }
        state.unsynced.lock().push(Unsynced {
            file: Arc::clone(&self.0),
            offset,
            before,
            after: bytes.to_vec(),
        });
        SegmentFile::write_all_at(&*self.0, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.1.0.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("the power is off"));
        }
        self.1.0.unsynced.lock().clear();
        Ok(())
    }
}
