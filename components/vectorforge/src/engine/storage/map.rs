//! A read-only view of a whole file, through mmap or copied into huge pages.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapMut};

use crate::engine::error::EngineError;

/// The bytes of a file. The file is ours alone: written once, renamed into place, never changed after.
pub enum Map {
    /// Pages come from the page cache as they are touched.
    File(Mmap),
    /// A private copy in anonymous memory, with huge pages where the system grants them.
    Copy(MmapMut, usize),
}

impl Map {
    /// Maps the file, or copies it when `preload`.
    pub fn open(path: &Path, preload: bool) -> Result<Self, EngineError> {
        let file = File::open(path).map_err(EngineError::io("open", path))?;
        // SAFETY: segment files are immutable once they have their name, and the data directory is locked, so nobody
        // truncates or rewrites the file below the map.
        let mapped = unsafe { Mmap::map(&file) }.map_err(EngineError::io("map", path))?;
        if !preload || mapped.is_empty() {
            return Ok(Self::File(mapped));
        }
        let length = mapped.len();
        let mut copy =
            MmapMut::map_anon(length.next_multiple_of(2 << 20)).map_err(EngineError::io("copy", path))?;
        // Without huge pages the copy is merely slower.
        let _ = copy.advise(Advice::HugePage);
        copy[..length].copy_from_slice(&mapped);
        Ok(Self::Copy(copy, length))
    }

    /// The bytes, starting at a page boundary.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Copy(map, length) => &map[..*length],
        }
    }
}
