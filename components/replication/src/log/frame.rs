//! A frame is what one write and one fdatasync put on disk: the records of many appends.
//!
//! ```text
//! magic u32 | body length u32 | sequence u64 | CRC-32C of the 16 bytes before u32
//! body: records, one after the other
//! trailer u64, a constant without zero bytes
//! ```
//!
//! Segments are preallocated with zeros, and frame `n + 1` is written only after frame `n` was
//! synced. So a crash can leave exactly one damaged frame, the last, and its damage has a form:
//! a written prefix followed by zeros, or whole sectors of zeros. Anything else is corruption
//! of data that was acknowledged, and is reported, never repaired.

use super::record::{self, RECORD_HEADER, Record, RecordError};
use bytes::{BufMut, Bytes};

const MAGIC: u32 = 0x4652_4D31;
const TRAILER: [u8; 8] = *b"\xF1endfrm\xF2";
const HEADER: usize = 20;
/// Unit in which a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Bytes a frame adds around its records.
pub const FRAME_OVERHEAD: usize = HEADER + TRAILER.len();

/// Starts a frame in an empty buffer; records follow by [`record::encode`].
pub fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.put_bytes(0, HEADER);
}

/// Closes the frame begun with [`begin`].
pub fn finish(sequence: u64, out: &mut Vec<u8>) {
    let body = (out.len() - HEADER) as u32;
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&body.to_le_bytes());
    out[8..16].copy_from_slice(&sequence.to_le_bytes());
    let checksum = crc32c::crc32c(&out[0..16]);
    out[16..20].copy_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&TRAILER);
}

/// What stands at a position of a segment.
#[derive(Debug, PartialEq)]
pub enum Parsed {
    /// A whole frame.
    Frame {
        /// Its number in the life of the log.
        sequence: u64,
        /// Offset of each record in the segment, and the record.
        records: Vec<(usize, Record)>,
        /// Where the next frame starts.
        end: usize,
    },
    /// Nothing but zeros from here on.
    End,
    /// The last write did not reach the disk whole.
    Torn,
    /// Acknowledged bytes have changed.
    Corrupt {
        /// First byte of the damaged unit, in the segment.
        offset: usize,
        /// What is wrong there.
        problem: String,
    },
}

/// Reads the frame number `expected` at `at`.
pub fn parse(segment: &Bytes, at: usize, expected: u64) -> Parsed {
    let rest = &segment[at..];
    if rest.iter().all(|byte| *byte == 0) {
        return Parsed::End;
    }
    let damage = match read(segment, at) {
        Ok((sequence, records, end)) if sequence == expected => {
            return Parsed::Frame { sequence, records, end };
        }
        Ok((sequence, ..)) => {
            return Parsed::Corrupt {
                offset: at,
                problem: format!("frame {sequence} stands where frame {expected} belongs"),
            };
        }
        Err(damage) => damage,
    };
    let corrupt = Parsed::Corrupt { offset: damage.offset, problem: damage.problem.to_string() };
    if later_frame_exists(segment, at + 1, expected) {
        return corrupt;
    }
    if damage.looks_torn { Parsed::Torn } else { corrupt }
}

struct Damage {
    offset: usize,
    problem: FrameError,
    looks_torn: bool,
}

#[derive(Debug, thiserror::Error)]
enum FrameError {
    #[error("damaged frame header")]
    Header,
    #[error("damaged frame trailer")]
    Trailer,
    #[error("the file ends inside a frame")]
    Short,
    #[error("record: {0}")]
    Record(#[from] RecordError),
}

type Whole = (u64, Vec<(usize, Record)>, usize);

fn read(segment: &Bytes, at: usize) -> Result<Whole, Damage> {
    let Some((body, sequence)) = header(&segment[at..]) else {
        let looks_torn = header_looks_torn(&segment[at..]);
        return Err(Damage { offset: at, problem: FrameError::Header, looks_torn });
    };
    let start = at + HEADER;
    let stop = start + body;
    let end = stop + TRAILER.len();
    if end > segment.len() {
        return Err(Damage { offset: at, problem: FrameError::Short, looks_torn: true });
    }
    let trailer = &segment[stop..end];
    let cut = TRAILER.iter().zip(trailer).take_while(|(want, is)| want == is).count();
    let tail_is_zero = trailer[cut..].iter().all(|byte| *byte == 0);
    let torn_sector = has_zero_sector(segment, at, end);
    let mut records = Vec::new();
    let mut offset = start;
    while offset < stop {
        match record::decode(&segment.slice(offset..stop)) {
            Ok((record, size)) => {
                records.push((offset, record));
                offset += size;
            }
            Err(problem) => {
                let looks_torn = (cut < TRAILER.len() && tail_is_zero) || torn_sector;
                return Err(Damage { offset, problem: problem.into(), looks_torn });
            }
        }
    }
    if cut < TRAILER.len() {
        return Err(Damage { offset: stop, problem: FrameError::Trailer, looks_torn: tail_is_zero });
    }
    Ok((sequence, records, end))
}

fn header(bytes: &[u8]) -> Option<(usize, u64)> {
    let head = bytes.first_chunk::<HEADER>()?;
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if u32_at(0) != MAGIC || u32_at(16) != crc32c::crc32c(&head[..16]) {
        return None;
    }
    let sequence = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
    Some((u32_at(4) as usize, sequence))
}

/// A header that a crash cut ends in zeros, and the body after it starts with zeros (a body
/// never does: a record's length comes first). One whose first sector never arrived starts with
/// a zero, which the magic never does.
fn header_looks_torn(bytes: &[u8]) -> bool {
    let Some((head, body)) = bytes.split_at_checked(HEADER) else { return true };
    head[0] == 0 || (head[HEADER - 1] == 0 && body.iter().take(RECORD_HEADER).all(|byte| *byte == 0))
}

/// Whether a sector inside the frame was never written.
fn has_zero_sector(segment: &Bytes, at: usize, end: usize) -> bool {
    let mut from = at;
    while from < end {
        let to = (from / SECTOR + 1) * SECTOR;
        let sector = &segment[from..to.min(end)];
        // A few bytes of a sector may well be zero by themselves.
        if sector.len() >= 16 && sector.iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

/// A whole later frame proves that the one before it had been synced.
fn later_frame_exists(segment: &Bytes, from: usize, expected: u64) -> bool {
    let magic = MAGIC.to_le_bytes();
    (from..segment.len().saturating_sub(FRAME_OVERHEAD)).any(|at| {
        segment[at..at + 4] == magic && read(segment, at).is_ok_and(|(sequence, ..)| sequence > expected)
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::{EntryId, EntryKind};
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    fn entry(index: u64, size: usize) -> Record {
        let id = EntryId { term: 1, leader: 1, index };
        Record::Entry { group: 0, id, kind: EntryKind::Command, payload: vec![0xAB; size].into() }
    }

    /// Three frames of 4, 1 and 3 records in a preallocated segment; answers where each starts.
    fn segment() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        let mut index = 0;
        for (sequence, count) in [(1, 4), (2, 1), (3, 3)] {
            starts.push(bytes.len());
            let mut frame = Vec::new();
            begin(&mut frame);
            for _ in 0..count {
                index += 1;
                record::encode(&entry(index, 700), &mut frame);
            }
            finish(sequence, &mut frame);
            bytes.extend(frame);
        }
        starts.push(bytes.len());
        bytes.resize(bytes.len() + 4096, 0);
        (bytes, starts)
    }

    fn outcome(bytes: Vec<u8>) -> (usize, Parsed) {
        let segment = Bytes::from(bytes);
        let (mut at, mut frames) = (0, 0);
        loop {
            match parse(&segment, at, frames as u64 + 1) {
                Parsed::Frame { end, .. } => {
                    at = end;
                    frames += 1;
                }
                other => return (frames, other),
            }
        }
    }

    #[test]
    fn whole_frames_read_back_to_the_zeros() {
        let (bytes, _) = segment();
        assert_eq!(outcome(bytes), (3, Parsed::End));
    }

    #[test]
    fn a_last_write_cut_anywhere_is_torn_and_earlier_frames_stay() {
        let (bytes, starts) = segment();
        for cut in starts[2] + 1..starts[3] {
            let mut bytes = bytes.clone();
            bytes[cut..].fill(0);
            assert_eq!(outcome(bytes), (2, Parsed::Torn), "cut at {cut}");
        }
        let mut bytes = bytes.clone();
        bytes[starts[2]..].fill(0);
        assert_eq!(outcome(bytes), (2, Parsed::End));
    }

    #[test]
    fn a_file_cut_short_inside_the_last_frame_is_torn() {
        let (mut bytes, starts) = segment();
        bytes.truncate(starts[2] + 100);
        assert_eq!(outcome(bytes), (2, Parsed::Torn));
    }

    #[test]
    fn sectors_that_never_arrived_in_the_last_frame_are_torn() {
        let (bytes, starts) = segment();
        let first = (starts[2] / SECTOR + 1) * SECTOR;
        for sector in (first..starts[3] - SECTOR).step_by(SECTOR) {
            let mut bytes = bytes.clone();
            bytes[sector..sector + SECTOR].fill(0);
            assert_eq!(outcome(bytes), (2, Parsed::Torn), "sector at {sector}");
        }
    }

    #[test]
    fn a_flipped_bit_is_corruption_wherever_it_is() {
        let (bytes, starts) = segment();
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..2_000 {
            let at = rng.random_range(0..starts[3]);
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << rng.random_range(0..8);
            let frame = starts.iter().rposition(|start| *start <= at).expect("the first starts at 0");
            let (frames, parsed) = outcome(bytes);
            assert_eq!(frames, frame, "flip at {at}");
            let Parsed::Corrupt { offset, .. } = parsed else { panic!("flip at {at} gave {parsed:?}") };
            assert!(offset <= at && at < starts[frame + 1], "flip at {at} reported at {offset}");
        }
    }

    #[test]
    fn a_hole_before_a_later_frame_is_corruption() {
        let (mut bytes, starts) = segment();
        bytes[starts[1]..starts[2]].fill(0);
        assert!(matches!(outcome(bytes), (1, Parsed::Corrupt { .. })));
    }

    #[test]
    fn random_damage_never_panics_and_never_invents_frames() {
        let (bytes, starts) = segment();
        let mut rng = StdRng::seed_from_u64(11);
        for _ in 0..2_000 {
            let mut bytes = bytes.clone();
            for _ in 0..rng.random_range(1..20) {
                let at = rng.random_range(0..starts[3]);
                bytes[at] = rng.random();
            }
            assert!(outcome(bytes).0 <= 3);
        }
    }
}
