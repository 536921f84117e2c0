//! Bytes that the index owns.

use bytes::Bytes;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use triomphe::ThinArc;

/// Immutable bytes in an allocation of their own, behind a handle of eight bytes. What comes with a command is a slice of
/// its message: kept as that, a key of ten bytes would keep the whole message in memory.
#[derive(Clone)]
pub struct Blob(ThinArc<(), u8>);

impl Blob {
    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice((), bytes))
    }

    /// The same bytes, shared.
    pub fn shared(&self) -> Bytes {
        if self.is_empty() { Bytes::new() } else { Bytes::from_owner(self.clone()) }
    }

    /// The same bytes, copied: cheaper for short ones that are needed once.
    pub fn copied(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.slice
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Blob {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Blob {}

impl PartialOrd for Blob {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Blob {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_a_pointer_and_sorts_like_its_bytes() {
        assert_eq!((size_of::<Blob>(), size_of::<Option<Blob>>()), (8, 8));
        let words: [&[u8]; 5] = [b"", b"\0", b"a", b"aa", b"b"];
        let blobs = words.map(Blob::copy_of);
        assert!(blobs.is_sorted());
        for (word, blob) in words.iter().zip(&blobs) {
            assert_eq!((&blob.shared()[..], &blob.copied()[..]), (*word, *word));
        }
    }
}
