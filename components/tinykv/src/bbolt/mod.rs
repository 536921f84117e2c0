//! Files of bbolt, the B+tree in one file in which etcd keeps its state: what etcd's snapshots are.
//!
//! ```text
//! file    pages; 0 and 1 are metas, of which the one with the later transaction counts
//! page    id u64 | flags u16 | count u16 | further pages that belong to it u32 | what it holds
//! meta    magic u32 | version u32 | page size u32 | flags u32 | bucket | free list u64 | pages u64 |
//!         transaction u64 | FNV-1a of all that u64
//! leaf    per element: flags u32 | offset u32 | key size u32 | value size u32; then keys and values
//! branch  per element: offset u32 | key size u32 | page u64; then keys, each the first of that page
//! bucket  root page u64 | sequence u64; with root 0, a leaf page follows
//! ```
//!
//! Integers are little-endian; an offset counts from the start of its element. The root of a file is
//! a bucket whose values are buckets. Only such files are read and written: etcd has no others.
//!
//! Source: the format as bbolt 1.5 reads and writes it.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{BboltError, Tree};
pub use write::Writer;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const META: u16 = 4;
const FREE_LIST: u16 = 16;
/// Flag of a leaf's element whose value is a bucket.
const BUCKET: u32 = 1;
const PAGE_HEAD: usize = 16;
/// Of elements of leaves and of branches.
const ELEMENT: usize = 16;
/// A meta and its checksum.
const META_SIZE: usize = 64;
const BUCKET_HEAD: usize = 16;

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
