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
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/log")
}

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

/// Seeded damage: flipped bits, overwritten integers, cut and repeated pieces.
fn mutate(file: &[u8], mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut bytes = file.to_vec();
    for _ in 0..=next() % 4 {
        if bytes.is_empty() {
            break;
        }
        let at = (next() % bytes.len() as u64) as usize;
        match next() % 5 {
            0 => bytes[at] ^= 1 << (next() % 8),
            1 => bytes[at] = next() as u8,
            2 => {
                let extremes = [0, 1, u64::MAX, u64::MAX / 2 + 1, 1 << 32, next()];
                let value = extremes[(next() % 6) as usize].to_le_bytes();
                let n = value.len().min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&value[..n]);
            }
            3 => bytes.truncate(at),
            _ => {
                let piece = bytes[at..(at + (next() % 64) as usize).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

/// The corpus begins with the honest file of this test.
#[test]
fn the_fuzz_corpus_and_thousands_of_mutations_of_it_do_no_harm() {
    if std::env::var_os("WRITE_CORPUS").is_some() {
        std::fs::write(folder().join("honest"), honest()).expect("written");
    }
    let files: Vec<_> = std::fs::read_dir(folder())
        .expect("fuzz/corpus/log is committed")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (std::fs::read(&path).expect("readable"), path))
        .collect();
    assert!(files.iter().any(|(bytes, _)| *bytes == honest()), "write it with WRITE_CORPUS=1");
    let mut good = 0;
    let mutations = (12_000 / files.len() as u64).max(20);
    for (file, path) in files {
        good += usize::from(exercise::log(&file));
        for seed in 1..=mutations {
            let mutated = mutate(&file, seed);
            let outcome = std::panic::catch_unwind(|| exercise::log(&mutated));
            assert!(outcome.is_ok(), "{} with seed {seed} panicked", path.display());
        }
    }
    assert!(good >= 1, "the corpus has files that can be read");
}
