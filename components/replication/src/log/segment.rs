//! Segment files: fixed-size, zero-filled ahead of the writes, named by their first frame.
//!
//! Preallocation keeps the file's size constant, so that fdatasync has no metadata to write.

use super::LogError;
use bytes::{BufMut, Bytes};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"RAFTLOG1";
/// Bytes before the first frame.
pub const SEGMENT_HEADER: usize = 24;

/// What the log asks of a file it writes. `File` is the one that ships; tests inject faults.
pub trait SegmentFile: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns once everything written is on stable storage.
    fn sync(&self) -> io::Result<()>;
}

impl SegmentFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// One file of the log.
#[derive(Clone)]
pub struct Segment {
    /// Sequence number of its first frame; also its name.
    pub first: u64,
    /// Where it lies.
    pub path: PathBuf,
    /// Open for reading and writing.
    pub file: Arc<File>,
}

/// The path of the segment that starts with frame `first`.
pub fn path_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}.log"))
}

/// Creates a segment of `size` bytes; it appears under its name only when it is whole.
pub fn create(dir: &Path, first: u64, size: u64) -> Result<Segment, LogError> {
    let path = path_of(dir, first);
    let failed = |source| LogError::Create { path: path.clone(), source };
    let temporary = path.with_extension("tmp");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)
        .map_err(failed)?;
    let mut header = Vec::with_capacity(SEGMENT_HEADER);
    header.extend_from_slice(MAGIC);
    header.put_u64_le(first);
    let checksum = crc32c::crc32c(&header);
    header.put_u32_le(checksum);
    header.put_u32_le(0);
    let written = reserve(&file, size)
        .and_then(|()| std::os::unix::fs::FileExt::write_all_at(&file, &header, 0))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, &path))
        .and_then(|()| sync_dir(dir));
    if let Err(source) = written {
        // Half a segment is no segment: give its space back.
        let _ = std::fs::remove_file(&temporary);
        return Err(failed(source));
    }
    Ok(Segment { first, path, file: Arc::new(file) })
}

/// Reads a segment whole; checks its header against its name.
pub fn open(path: &Path) -> Result<(Segment, Bytes), LogError> {
    let failed = |source| LogError::Open { path: path.to_owned(), source };
    let first = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .and_then(|stem| u64::from_str_radix(stem, 16).ok())
        .ok_or_else(|| LogError::ForeignFile { path: path.to_owned() })?;
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    let bytes = Bytes::from(std::fs::read(path).map_err(failed)?);
    let sound = bytes.first_chunk::<SEGMENT_HEADER>().is_some_and(|header| {
        header.starts_with(MAGIC)
            && header[8..16] == first.to_le_bytes()
            && header[16..20] == crc32c::crc32c(&header[..16]).to_le_bytes()
    });
    if !sound {
        let problem = "damaged segment header".to_owned();
        return Err(LogError::Corrupt { path: path.to_owned(), offset: 0, problem });
    }
    Ok((Segment { first, path: path.to_owned(), file: Arc::new(file) }, bytes))
}

/// Drops everything from `offset` on and fills the segment with zeros again.
pub fn cut(segment: &Segment, offset: u64, size: u64) -> Result<(), LogError> {
    let cut = || {
        segment.file.set_len(offset)?;
        reserve(&segment.file, size.max(offset))?;
        segment.file.sync_all()
    };
    cut().map_err(|source| LogError::Create { path: segment.path.clone(), source })
}

/// Reads `length` bytes at `offset`.
pub fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

/// Makes names in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn reserve(file: &File, size: u64) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, size as i64) {
        Ok(()) => Ok(()),
        // A file system without reservation: a sparse file has the right length all the same.
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.set_len(size),
        Err(errno) => Err(errno.into()),
    }
}
