//! What fuzzing drives: everything that reads bytes of the log. Shared with `tests/fuzz_corpus.rs`; the readers are modules beside this one.

use crate::frame::{self, Parsed};
use crate::record;
use bytes::Bytes;

/// Reads bytes as a segment after its header, as the body of one frame, and as the body of one record; the last two get the checksums
/// that would keep a fuzzer out. Returns whether any of it could be read.
pub fn log(data: &[u8]) -> bool {
    let segment = Bytes::copy_from_slice(data);
    let mut good = frames(&segment) > 0;

    let mut framed = Vec::new();
    frame::begin(&mut framed);
    framed.extend_from_slice(data);
    frame::finish(1, &mut framed);
    good |= frames(&framed.into()) > 0;

    let mut single = (data.len() as u32).to_le_bytes().to_vec();
    single.extend_from_slice(&crc32c::crc32c(data).to_le_bytes());
    single.extend_from_slice(data);
    let single = Bytes::from(single);
    if let Ok((read, size)) = record::decode(&single) {
        assert!(size <= single.len(), "a record ends where its bytes do");
        let mut again = Vec::new();
        record::encode(&read, &mut again);
        assert_eq!(record::decode(&again.into()).expect("what was written is read").0, read);
        good = true;
    }
    good
}

/// Reads whole frames one after the other; answers how many there were.
fn frames(segment: &Bytes) -> u64 {
    let (mut at, mut sequence) = (0, 1);
    while let Parsed::Frame { end, records, .. } = frame::parse(segment, at, sequence) {
        assert!(at < end && end <= segment.len(), "a frame ends behind its start");
        assert!(records.iter().all(|(offset, _)| (at..end).contains(offset)), "records are in their frame");
        at = end;
        sequence += 1;
    }
    sequence - 1
}
