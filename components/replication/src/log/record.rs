//! What the log remembers, and its bytes on disk.
//!
//! A record is self-contained and checksummed on its own, so that one entry can be read back
//! from the middle of a segment and still be trusted:
//!
//! ```text
//! body length  u32   |  CRC-32C of body  u32  |  body
//! body = tag u8, group u32, then the fields of the tag; integers are little-endian
//! ```

use bytes::{Buf, BufMut, Bytes};

/// Bytes before the body of every record: its length and its checksum.
pub const RECORD_HEADER: usize = 8;

/// Where an entry stands in the history of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct EntryId {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Node id of that leader.
    pub leader: u64,
    /// Position in the log, without holes.
    pub index: u64,
}

/// The promise a group made last: whom it follows, and whether a quorum granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// Term of the candidate.
    pub term: u64,
    /// Node id of the candidate.
    pub leader: u64,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// What an entry carries; the log itself does not look inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A leader's first entry of a term.
    Blank,
    /// A command of the application.
    Command,
    /// A change of membership.
    Membership,
    /// A command that begins with who waits for it: another member than the one that appended it.
    Forwarded,
}

/// One fact of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An entry was appended.
    Entry {
        /// Raft group.
        group: u32,
        /// Position.
        id: EntryId,
        /// What the payload is.
        kind: EntryKind,
        /// Opaque to the log.
        payload: Bytes,
    },
    /// A vote was cast.
    Vote {
        /// Raft group.
        group: u32,
        /// The vote.
        vote: Vote,
    },
    /// Every entry past `keep` was withdrawn (`None`: all of them).
    Truncate {
        /// Raft group.
        group: u32,
        /// Last index that stays.
        keep: Option<u64>,
    },
    /// Every entry up to `id` may be forgotten.
    Purge {
        /// Raft group.
        group: u32,
        /// Last entry that may be forgotten.
        id: EntryId,
    },
    /// The process stopped in good order: nothing after this was in flight.
    Seal,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the record says it has.
    #[error("the record is cut short")]
    Short,
    /// The checksum differs.
    #[error("checksum mismatch: stored {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// What the file says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The checksum holds, the content is of no known form.
    #[error("unknown record form (tag {0})")]
    Form(u8),
}

const TAG_BLANK: u8 = 1;
const TAG_COMMAND: u8 = 2;
const TAG_MEMBERSHIP: u8 = 3;
const TAG_VOTE: u8 = 4;
const TAG_TRUNCATE: u8 = 5;
const TAG_PURGE: u8 = 6;
const TAG_SEAL: u8 = 7;
const TAG_FORWARDED: u8 = 8;

/// Appends the record to `out`.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    out.put_bytes(0, RECORD_HEADER);
    match record {
        Record::Entry { group, id, kind, payload } => {
            out.put_u8(match kind {
                EntryKind::Blank => TAG_BLANK,
                EntryKind::Command => TAG_COMMAND,
                EntryKind::Membership => TAG_MEMBERSHIP,
                EntryKind::Forwarded => TAG_FORWARDED,
            });
            out.put_u32_le(*group);
            put_id(out, *id);
            out.put_slice(payload);
        }
        Record::Vote { group, vote } => {
            out.put_u8(TAG_VOTE);
            out.put_u32_le(*group);
            out.put_u64_le(vote.term);
            out.put_u64_le(vote.leader);
            out.put_u8(u8::from(vote.committed));
        }
        Record::Truncate { group, keep } => {
            out.put_u8(TAG_TRUNCATE);
            out.put_u32_le(*group);
            out.put_u8(u8::from(keep.is_some()));
            out.put_u64_le(keep.unwrap_or(0));
        }
        Record::Purge { group, id } => {
            out.put_u8(TAG_PURGE);
            out.put_u32_le(*group);
            put_id(out, *id);
        }
        Record::Seal => {
            out.put_u8(TAG_SEAL);
            out.put_u32_le(0);
        }
    }
    let length = (out.len() - start - RECORD_HEADER) as u32;
    let checksum = crc32c::crc32c(&out[start + RECORD_HEADER..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads the record at the head of `bytes`; answers it and its whole size.
pub fn decode(bytes: &Bytes) -> Result<(Record, usize), RecordError> {
    let Some(header) = bytes.first_chunk::<RECORD_HEADER>() else {
        return Err(RecordError::Short);
    };
    let (length, stored) = header.split_at(4);
    let length = u32_of(length) as usize;
    let stored = u32_of(stored);
    let end = RECORD_HEADER.checked_add(length).ok_or(RecordError::Short)?;
    if bytes.len() < end {
        return Err(RecordError::Short);
    }
    let mut body = bytes.slice(RECORD_HEADER..end);
    let computed = crc32c::crc32c(&body);
    if computed != stored {
        return Err(RecordError::Checksum { stored, computed });
    }
    Ok((body_of(&mut body)?, end))
}

fn body_of(body: &mut Bytes) -> Result<Record, RecordError> {
    if body.len() < 5 {
        return Err(RecordError::Short);
    }
    let tag = body.get_u8();
    let group = body.get_u32_le();
    let need = |body: &Bytes, size: usize| if body.len() < size { Err(RecordError::Short) } else { Ok(()) };
    let record = match tag {
        TAG_BLANK | TAG_COMMAND | TAG_MEMBERSHIP | TAG_FORWARDED => {
            need(body, 24)?;
            let id = get_id(body);
            let kind = match tag {
                TAG_BLANK => EntryKind::Blank,
                TAG_COMMAND => EntryKind::Command,
                TAG_FORWARDED => EntryKind::Forwarded,
                _ => EntryKind::Membership,
            };
            let payload = body.split_off(0);
            Record::Entry { group, id, kind, payload }
        }
        TAG_VOTE => {
            need(body, 17)?;
            let (term, leader) = (body.get_u64_le(), body.get_u64_le());
            Record::Vote { group, vote: Vote { term, leader, committed: body.get_u8() != 0 } }
        }
        TAG_TRUNCATE => {
            need(body, 9)?;
            let some = body.get_u8() != 0;
            let keep = body.get_u64_le();
            Record::Truncate { group, keep: some.then_some(keep) }
        }
        TAG_PURGE => {
            need(body, 24)?;
            Record::Purge { group, id: get_id(body) }
        }
        TAG_SEAL => Record::Seal,
        other => return Err(RecordError::Form(other)),
    };
    if body.is_empty() { Ok(record) } else { Err(RecordError::Form(tag)) }
}

fn put_id(out: &mut Vec<u8>, id: EntryId) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.leader);
    out.put_u64_le(id.index);
}

fn get_id(body: &mut Bytes) -> EntryId {
    EntryId { term: body.get_u64_le(), leader: body.get_u64_le(), index: body.get_u64_le() }
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    fn samples() -> Vec<Record> {
        let id = EntryId { term: 3, leader: u64::MAX, index: 42 };
        vec![
            Record::Entry { group: 0, id, kind: EntryKind::Blank, payload: Bytes::new() },
            Record::Entry { group: 7, id, kind: EntryKind::Command, payload: Bytes::from_static(b"payload") },
            Record::Entry { group: 7, id, kind: EntryKind::Membership, payload: vec![0; 4096].into() },
            Record::Entry { group: 7, id, kind: EntryKind::Forwarded, payload: vec![9; 40].into() },
            Record::Vote { group: 1, vote: Vote { term: 9, leader: 2, committed: true } },
            Record::Truncate { group: 1, keep: None },
            Record::Truncate { group: 1, keep: Some(0) },
            Record::Purge { group: 1, id },
            Record::Seal,
        ]
    }

    #[test]
    fn every_form_reads_back_as_written() {
        for record in samples() {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            let size = bytes.len();
            assert_eq!(decode(&bytes.into()), Ok((record, size)));
        }
    }

    /// Seeded mutations: a changed record is refused or, where the change hit nothing that
    /// counts, reads back the same. It never panics and never reads back as something else.
    #[test]
    fn no_mutation_reads_back_as_another_record() {
        let mut rng = StdRng::seed_from_u64(0x5eed);
        for round in 0..20_000 {
            let record = samples().swap_remove(round % samples().len());
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            match rng.random_range(0..4) {
                0 => {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
                1 => bytes.truncate(rng.random_range(0..bytes.len())),
                2 => {
                    let at = rng.random_range(0..bytes.len());
                    bytes.insert(at, rng.random());
                }
                _ => {
                    let at = rng.random_range(0..bytes.len());
                    let end = rng.random_range(at..bytes.len());
                    bytes[at..=end].fill(rng.random());
                }
            }
            if let Ok((read, _)) = decode(&bytes.into()) {
                assert_eq!(read, record, "round {round}");
            }
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..20_000 {
            let mut bytes = vec![0u8; rng.random_range(0..64)];
            rng.fill(&mut bytes[..]);
            let _ = decode(&bytes.into());
        }
    }
}
