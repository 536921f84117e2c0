//! What fuzzing found worth keeping, and thousands of mutations of it, before the readers of the log.

#[path = "../fuzz/exercise.rs"]
mod exercise;
#[path = "../src/log/frame.rs"]
#[allow(dead_code)]
mod frame;
#[path = "../src/log/record.rs"]
#[allow(dead_code)]
mod record;

use record::{EntryId, EntryKind, Record, Vote};
use std::path::Path;

/// Two frames with a record of every kind.
fn honest() -> Vec<u8> {
    let id = |index| EntryId { term: 2, leader: 7, index };
    let entry = |index, kind| Record::Entry { group: 3, id: id(index), kind, payload: vec![b'x'; 20].into() };
    let first = [
        Record::Vote { group: 3, vote: Vote { term: 2, leader: 7, committed: true } },
        entry(1, EntryKind::Blank),
        entry(2, EntryKind::Command),
        entry(3, EntryKind::Membership),
        entry(4, EntryKind::Forwarded),
    ];
    let second =
        [Record::Truncate { group: 3, keep: Some(3) }, Record::Purge { group: 3, id: id(1) }, Record::Seal];
    let mut out = Vec::new();
    for (sequence, records) in [(1, &first[..]), (2, &second[..])] {
        let mut bytes = Vec::new();
        frame::begin(&mut bytes);
        for one in records {
            record::encode(one, &mut bytes);
        }
        frame::finish(sequence, &mut bytes);
        out.extend(bytes);
    }
    out.extend([0; 64]);
    out
}

#[test]
fn the_fuzz_corpus_and_thousands_of_mutations_of_it_do_no_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/log");
    let outcome = corpus::replay(&folder, &[("honest".to_owned(), honest())], exercise::log);
    assert!(outcome.is_ok(), "{outcome:?}");
}
