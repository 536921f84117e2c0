//! Memory for weights: large mappings on large pages, handed out in pieces.
//!
//! A layer's matrices are some hundred kilobytes each. Mapped one by one they would lie on 4 KiB pages, at whose ends the hardware
//! prefetcher stops; together on 2 MiB pages they stream at the speed of memory.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;

use memmap2::MmapMut;

/// Bytes of a mapping; a larger piece gets one of its own.
const MAPPING: usize = 32 << 20;
/// A large page.
const PAGE: usize = 2 << 20;
/// Pieces begin on cache lines.
const LINE: usize = 64;

/// Hands out pieces of zeroed memory. The memory lives as long as any piece of its mapping.
#[derive(Default)]
pub struct Arena {
    mapping: Option<Arc<Mapping>>,
    used: usize,
}

struct Mapping {
    map: MmapMut,
    /// First byte on a large page.
    start: usize,
}

/// A piece: exclusively its owner's.
pub(crate) struct Region {
    mapping: Arc<Mapping>,
    at: usize,
    bytes: usize,
}

impl Arena {
    pub(crate) fn take(&mut self, bytes: usize) -> io::Result<Region> {
        let fits = |m: &Arc<Mapping>| m.map.len() - m.start - self.used >= bytes;
        let mapping = match &self.mapping {
            Some(mapping) if fits(mapping) => Arc::clone(mapping),
            _ => {
                let mapping = Arc::new(Mapping::new(bytes.max(MAPPING))?);
                self.mapping = Some(Arc::clone(&mapping));
                self.used = 0;
                mapping
            }
        };
        let at = mapping.start + self.used;
        self.used = (self.used + bytes).next_multiple_of(LINE).min(mapping.map.len() - mapping.start);
        Ok(Region { mapping, at, bytes })
    }
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        let length = bytes.checked_add(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapMut::map_anon(length)?;
        // Advice only: without large pages everything works, slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = map.as_ptr().align_offset(PAGE).min(PAGE);
        Ok(Self { map, start })
    }
}

impl Region {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.mapping.map[self.at..self.at + self.bytes]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let base = self.mapping.map.as_ptr().cast_mut();
        // SAFETY: the arena gave these bytes to this region alone, the mapping is writable, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(base.add(self.at), self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_apart_aligned_and_outlive_the_arena() {
        let mut arena = Arena::default();
        let mut pieces: Vec<Region> = [1, 64, 1000, 0, MAPPING, 5 << 20, 40 << 20, 7, 30 << 20]
            .iter()
            .map(|&bytes| arena.take(bytes).unwrap())
            .collect();
        drop(arena);
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert!(piece.bytes().as_ptr().addr().is_multiple_of(LINE));
            assert!(piece.bytes().iter().all(|&b| b == 0), "zeroed and not yet anyone else's");
            piece.bytes_mut().fill(i as u8 + 1);
        }
        for (i, piece) in pieces.iter().enumerate() {
            assert!(piece.bytes().iter().all(|&b| b == i as u8 + 1));
        }
    }
}
