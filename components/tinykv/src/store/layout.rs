//! The bytes of keys and values in RocksDB. Integers in keys are big-endian, to sort as numbers.

use crate::mvcc::{Change, KeyValue};
use bytes::{Buf, BufMut, Bytes};

/// Escapes a key so that longer keys with the same start sort after it and none is a prefix of
/// another: 0 becomes 0 255, and 0 0 ends it.
pub fn put_key(out: &mut Vec<u8>, key: &[u8]) {
    for byte in key {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xFF);
        }
    }
    out.put_slice(&[0, 0]);
}

/// The key of one version: newer ones first.
pub fn version_key(key: &[u8], revision: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 10);
    put_version_key(&mut out, key, revision);
    out
}

/// The same into a buffer.
pub fn put_version_key(out: &mut Vec<u8>, key: &[u8], revision: i64) {
    put_key(out, key);
    out.put_u64(!(revision as u64));
}

/// Reads [`version_key`] back.
pub fn parse_version_key(bytes: &[u8]) -> Option<(Bytes, i64)> {
    let mut key = Vec::with_capacity(bytes.len());
    let revision = read_version_key(bytes, &mut key)?;
    Some((key.into(), revision))
}

/// The same into a buffer that is used again; answers the revision.
pub fn read_version_key(bytes: &[u8], key: &mut Vec<u8>) -> Option<i64> {
    let (escaped, revision) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    let mut rest = escaped.strip_suffix(&[0, 0])?;
    key.clear();
    // Most keys hold no 0.
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        key.extend_from_slice(&rest[..=zero]);
        rest = rest[zero + 1..].strip_prefix(&[0xFF])?;
    }
    key.extend_from_slice(rest);
    let mut revision = revision;
    Some(!revision.get_u64() as i64)
}

/// The key of one event.
pub fn event_key(revision: i64, number: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&(revision as u64).to_be_bytes());
    out[8..].copy_from_slice(&number.to_be_bytes());
    out
}

/// Reads [`event_key`] back.
pub fn parse_event_key(mut bytes: &[u8]) -> Option<(i64, u32)> {
    (bytes.len() == 12).then(|| (bytes.get_u64() as i64, bytes.get_u32()))
}

/// What precedes the value in a version's record: creation, version, lease.
pub const VERSION_HEAD: usize = 24;

/// A version's record. A deletion has creation 0.
pub fn version_value(change: &Change) -> Vec<u8> {
    let KeyValue { create_revision, version, lease, value, .. } = &change.kv;
    let mut out = Vec::with_capacity(VERSION_HEAD + value.len());
    out.put_i64(*create_revision);
    out.put_i64(*version);
    out.put_i64(*lease);
    out.put_slice(value);
    out
}

/// Reads [`version_value`] back: creation, version, lease, value.
pub fn parse_version_value(bytes: &[u8]) -> Option<(i64, i64, i64, &[u8])> {
    let (mut head, value) = bytes.split_at_checked(VERSION_HEAD)?;
    Some((head.get_i64(), head.get_i64(), head.get_i64(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_keys_sort_by_key_then_newest_first_and_read_back() {
        let keys: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"\0a", b"a", b"a\0", b"a\xFF"];
        let mut all = Vec::new();
        for key in keys {
            for revision in [i64::MAX, 300, 2, 1] {
                let encoded = version_key(key, revision);
                assert_eq!(parse_version_key(&encoded), Some((Bytes::copy_from_slice(key), revision)));
                all.push(encoded);
            }
        }
        assert!(all.is_sorted());
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b""[..], b"short", b"12345678", b"\x00a\x00\x0012345678", b"x12345678"] {
            assert_eq!(parse_version_key(bytes), None, "{bytes:?}");
        }
        assert_eq!(parse_event_key(b"short"), None);
        assert!(parse_version_value(b"short").is_none());
    }
}
