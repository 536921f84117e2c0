//! Snapshot files, which are bbolt's.

use crate::bbolt::{BboltError, Tree};
use std::path::Path;

/// Reads bytes as a file, as they are and with the checksum of the first page that would keep a fuzzer out. Returns whether it was read whole.
pub fn bbolt(data: &[u8], scratch: &Path) -> bool {
    let good = read(data, scratch);
    let mut mended = data.to_vec();
    if mended.len() >= 80 {
        let sum = mended[16..72].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        mended[72..80].copy_from_slice(&sum.to_le_bytes());
    }
    good | read(&mended, scratch)
}

fn read(data: &[u8], scratch: &Path) -> bool {
    std::fs::write(scratch, data).expect("a place to write");
    let Ok(tree) = Tree::open(scratch, data.len() as u64) else { return false };
    ["key", "meta", "auth"].into_iter().all(|name| match tree.bucket(name) {
        Ok(Some(bucket)) => {
            let mut last: Option<Vec<u8>> = None;
            let outcome = tree.each(&bucket, |key, _| {
                assert!(last.as_deref().is_none_or(|last| last < key), "keys ascend");
                last = Some(key.to_vec());
                Ok::<(), BboltError>(())
            });
            outcome.is_ok()
        }
        Ok(None) => true,
        Err(_) => false,
    })
}
