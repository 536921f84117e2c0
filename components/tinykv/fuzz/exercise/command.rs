//! Commands as the log holds them.

use crate::mvcc;
use bytes::Bytes;

/// Reads a command. Returns whether it could be read; then it can be written, and is the same.
pub fn command(data: &[u8]) -> bool {
    let Ok(read) = mvcc::decode(&Bytes::copy_from_slice(data)) else { return false };
    let again = mvcc::encode(&read.0, &read.1);
    assert_eq!(mvcc::decode(&again), Ok(read), "what was written is read");
    true
}
