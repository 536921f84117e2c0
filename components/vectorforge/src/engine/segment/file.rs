//! The container of a segment: sections behind a checksummed table.
//!
//! ```text
//! 0    magic `VFSEG001` | table offset u64 | table length u64 | crc32c of the table u32 | zeros
//!      | crc32c of the 60 bytes before u32                                                         64 bytes
//! 64   sections, each starting at a multiple of 64, zeros between
//!      table: per section kind u32 | index u32 | offset u64 | length u64 | crc32c u32 | zeros u32  32 bytes each
//! ```
//!
//! A section's checksum covers the zeros up to the next section too, and the file ends with the table, so that every
//! byte of the file is under some checksum. The header is written last: a file without one was never finished. Files
//! get their name by rename after a sync and never change again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::engine::error::EngineError;
use crate::engine::storage::durable;

const MAGIC: [u8; 8] = *b"VFSEG001";
const HEADER: usize = 64;
const ENTRY: usize = 32;
const ALIGN: u64 = 64;

/// What a section holds. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A JSON description of the segment.
    Meta = 1,
    /// Numeric ids, ascending, u64 each.
    NumericIds = 2,
    /// UUIDs, ascending, u128 each, after the numeric ids in row order.
    Uuids = 3,
    /// Number of the write that last touched each row, u64 each.
    Versions = 4,
    /// Rows of a vector field, f32, padded to lanes.
    Vectors = 5,
    /// Roaring bitmap of the rows that have the field's vector; absent when all have.
    Present = 6,
    /// Where each row's payload begins in `Payloads`, u64 each, one more than rows.
    PayloadOffsets = 7,
    /// Payloads as JSON, one after the other.
    Payloads = 8,
    /// Links of level 0, u32 each.
    GraphLevel0 = 9,
    /// Upper levels of the graph.
    GraphUpper = 10,
    /// A payload index.
    PayloadIndex = 11,
}

/// Where a section lies.
#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: u32,
    index: u32,
    offset: u64,
    length: u64,
    crc: u32,
}

/// Writes a segment file beside its final name.
pub struct FileWriter {
    out: BufWriter<File>,
    aside: PathBuf,
    path: PathBuf,
    at: u64,
    crc: u32,
    open: Option<(Kind, u32, u64)>,
    entries: Vec<Entry>,
}

impl FileWriter {
    /// Starts the file that will be called `path`.
    pub fn create(path: &Path) -> Result<Self, EngineError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&aside)
            .map_err(EngineError::io("create", &aside))?;
        let mut writer = Self {
            out: BufWriter::with_capacity(1 << 20, file),
            aside,
            path: path.to_path_buf(),
            at: 0,
            crc: 0,
            open: None,
            entries: Vec::new(),
        };
        writer.raw(&[0; HEADER])?;
        Ok(writer)
    }

    /// Where the file lies until it is finished.
    pub fn aside(&self) -> &Path {
        &self.aside
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        self.out.write_all(bytes).map_err(EngineError::io("write", &self.aside))?;
        self.at += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(())
    }

    /// Starts a section.
    pub fn begin(&mut self, kind: Kind, index: usize) {
        debug_assert!(self.open.is_none() && self.at.is_multiple_of(ALIGN));
        self.open = Some((kind, index as u32, self.at));
        self.crc = 0;
    }

    /// Adds to the section.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        self.raw(bytes)
    }

    /// Ends the section and says where its bytes lie.
    pub fn end(&mut self) -> Result<Range<usize>, EngineError> {
        let (kind, index, offset) = self.open.take().expect("`begin` came before");
        let length = self.at - offset;
        let padding = (ALIGN - self.at % ALIGN) % ALIGN;
        self.raw(&[0; ALIGN as usize][..padding as usize])?;
        self.entries.push(Entry { kind: kind as u32, index, offset, length, crc: self.crc });
        Ok(offset as usize..(offset + length) as usize)
    }

    /// A section in one go.
    pub fn section(&mut self, kind: Kind, index: usize, bytes: &[u8]) -> Result<Range<usize>, EngineError> {
        self.begin(kind, index);
        self.write(bytes)?;
        self.end()
    }

    /// Hands what was written so far to the operating system, so that it can be mapped.
    pub fn flush(&mut self) -> Result<(), EngineError> {
        self.out.flush().map_err(EngineError::io("write", &self.aside))
    }

    /// Writes table and header, syncs, and gives the file its name. Durable when it returns.
    pub fn finish(mut self) -> Result<(), EngineError> {
        let mut table = Vec::with_capacity(self.entries.len() * ENTRY);
        for entry in &self.entries {
            table.extend_from_slice(&entry.kind.to_le_bytes());
            table.extend_from_slice(&entry.index.to_le_bytes());
            table.extend_from_slice(&entry.offset.to_le_bytes());
            table.extend_from_slice(&entry.length.to_le_bytes());
            table.extend_from_slice(&entry.crc.to_le_bytes());
            table.extend_from_slice(&[0; 4]);
        }
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&self.at.to_le_bytes());
        header.extend_from_slice(&(table.len() as u64).to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&table).to_le_bytes());
        header.resize(HEADER - 4, 0);
        let crc = crc32c::crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        self.raw(&table)?;
        self.flush()?;
        let file = self.out.get_ref();
        file.write_all_at(&header, 0)
            .and_then(|()| file.sync_all())
            .map_err(EngineError::io("write", &self.aside))?;
        std::fs::rename(&self.aside, &self.path).map_err(EngineError::io("rename into place", &self.path))?;
        self.path.parent().map_or(Ok(()), durable::sync_dir)
    }

    /// Removes the unfinished file.
    pub fn abandon(self) {
        // It has no name that anyone looks for; what stays is swept at the next start.
        let _ = std::fs::remove_file(&self.aside);
    }
}

/// The sections of a segment file, all checksums verified.
pub struct Sections {
    entries: Vec<Entry>,
}

impl Sections {
    /// Reads the table of a file and verifies every byte of it.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self, EngineError> {
        let fault = |detail: String| EngineError::corrupt(path, detail);
        let header = bytes.get(..HEADER).ok_or_else(|| fault("shorter than its header".to_owned()))?;
        let word = |bytes: &[u8], at: usize| {
            bytes[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default()
        };
        let long = |bytes: &[u8], at: usize| {
            bytes[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default()
        };
        if header[..8] != MAGIC {
            return Err(fault("not a segment file of this version (magic bytes differ)".to_owned()));
        }
        if crc32c::crc32c(&header[..60]) != word(header, 60) {
            return Err(fault("header checksum differs".to_owned()));
        }
        let (table_at, table_length) = (long(header, 8) as usize, long(header, 16) as usize);
        let table = bytes.get(table_at..).filter(|table| table.len() == table_length);
        let table = table.ok_or_else(|| fault("length differs from the header's".to_owned()))?;
        if crc32c::crc32c(table) != word(header, 24) || !table_length.is_multiple_of(ENTRY) {
            return Err(fault("table checksum differs".to_owned()));
        }
        let mut entries = Vec::new();
        let mut expected = HEADER as u64;
        for row in table.chunks_exact(ENTRY) {
            let entry = Entry {
                kind: word(row, 0),
                index: word(row, 4),
                offset: long(row, 8),
                length: long(row, 16),
                crc: word(row, 24),
            };
            let padded = (entry.offset + entry.length).next_multiple_of(ALIGN);
            if entry.offset != expected || padded > table_at as u64 {
                return Err(fault("the table contradicts itself".to_owned()));
            }
            if crc32c::crc32c(&bytes[entry.offset as usize..padded as usize]) != entry.crc {
                let (kind, index, offset) = (entry.kind, entry.index, entry.offset);
                return Err(fault(format!("checksum of section {kind}.{index} at byte {offset} differs")));
            }
            expected = padded;
            entries.push(entry);
        }
        if expected != table_at as u64 {
            return Err(fault("bytes between the last section and the table".to_owned()));
        }
        Ok(Self { entries })
    }

    /// Where a section lies, if there is one.
    pub fn find(&self, kind: Kind, index: usize) -> Option<Range<usize>> {
        self.entries
            .iter()
            .find(|entry| entry.kind == kind as u32 && entry.index as usize == index)
            .map(|entry| entry.offset as usize..(entry.offset + entry.length) as usize)
    }
}
