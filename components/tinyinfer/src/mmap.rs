//! The one place where model files are mapped into memory.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// Maps a file read-only. Replacing or truncating it while it is mapped is the operator's mistake: model files are written once.
pub(crate) fn read_only(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    #[allow(unsafe_code)]
    // SAFETY: the map is read-only; model files are written once and not modified in place.
    unsafe {
        Mmap::map(&file)
    }
}
