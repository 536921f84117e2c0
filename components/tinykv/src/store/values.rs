//! Values that have left memory, read back.

use super::db::{Db, KV, failed, malformed};
use super::layout;
use crate::mvcc::Values;
use bytes::Bytes;
use std::io;

/// Values that are worth an iterator: making one costs as much as looking a few of them up.
const MANY: usize = 8;
/// Versions that an iterator passes one by one before it seeks: the next key is mostly the next version.
const STEPS: usize = 4;
/// Bytes of values that share a piece of memory.
const PIECE: usize = 256 << 10;

impl Values for Db {
    fn value(&self, key: &[u8], revision: i64) -> io::Result<Bytes> {
        match self.version(key, revision)? {
            Some((kv, _)) => Ok(kv.value),
            None => Err(lost(key, revision)),
        }
    }

    fn values(&self, wanted: &[(&[u8], i64)]) -> io::Result<Vec<Bytes>> {
        if wanted.len() < MANY {
            return wanted.iter().map(|(key, revision)| self.value(key, *revision)).collect();
        }
        let mut versions = self.db.raw_iterator_cf(self.family(KV));
        let mut name = Vec::new();
        let (mut found, mut piece) = (Vec::with_capacity(wanted.len()), Piece::default());
        for (key, revision) in wanted {
            name.clear();
            layout::put_version_key(&mut name, key, *revision);
            let mut steps = 0;
            while steps < STEPS && versions.key().is_some_and(|at| at < &name[..]) {
                versions.next();
                steps += 1;
            }
            if versions.key() != Some(&name[..]) {
                versions.seek(&name);
            }
            let Some((_, record)) = versions.item().filter(|(at, _)| *at == &name[..]) else {
                versions.status().map_err(failed)?;
                return Err(lost(key, *revision));
            };
            let (.., value) = layout::parse_version_value(record).ok_or_else(|| malformed("version"))?;
            piece.bytes.extend_from_slice(value);
            piece.ends.push(piece.bytes.len());
            if piece.bytes.len() >= PIECE {
                piece.move_to(&mut found);
            }
        }
        piece.move_to(&mut found);
        Ok(found)
    }
}

/// Values that follow one another in one piece of memory.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Piece {
    fn move_to(&mut self, found: &mut Vec<Bytes>) {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let mut start = 0;
        for end in self.ends.drain(..) {
            found.push(bytes.slice(start..end));
            start = end;
        }
    }
}

fn lost(key: &[u8], revision: i64) -> io::Error {
    let sentence = format!("the state lost version {revision} of a key of {} bytes", key.len());
    io::Error::new(io::ErrorKind::NotFound, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::{Change, KeyValue};

    fn key(number: usize) -> Bytes {
        // Zeros are escaped on disk.
        format!("k\0{number:04}").into()
    }

    #[test]
    fn many_values_are_those_that_are_found_one_by_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let db = Db::open(dir.path(), 1 << 20).expect("opened");
        let mut batch = db.batch();
        let mut revision = 1;
        for round in 0..9 {
            // Some keys have more versions than are stepped over, and some values fill a piece.
            for number in (0..300).filter(|number| round == 0 || number % 7 < round) {
                revision += 1;
                let size = if number == 100 { PIECE + 1 } else { number % 50 };
                let kv = KeyValue {
                    key: key(number),
                    value: vec![round as u8; size].into(),
                    create_revision: 1,
                    mod_revision: revision,
                    version: 1,
                    lease: 0,
                };
                batch.change(&Change { kv, is_deletion: false, prev: None }, 0);
            }
        }
        batch.write().expect("written");
        let mut all = Vec::new();
        db.versions(|key, version| all.push((key.to_vec(), version.mod_revision))).expect("read");
        for (every, is_flushed) in [(1, false), (2, true), (7, true), (90, true), (400, true)] {
            if is_flushed {
                db.flush().expect("flushed");
            }
            // Keys ascend, each once: another version of each, and none of some.
            let mut wanted: Vec<(&[u8], i64)> = Vec::new();
            for (at, (key, revision)) in all.iter().enumerate() {
                if at % every == 0 && wanted.last().is_none_or(|(last, _)| *last != &key[..]) {
                    wanted.push((key, *revision));
                }
            }
            let singly: Vec<_> =
                wanted.iter().map(|(key, revision)| db.value(key, *revision).expect("there")).collect();
            assert_eq!(db.values(&wanted).expect("there"), singly, "every {every}");
            wanted.push((b"none", 7));
            let error = db.values(&wanted).expect_err("absent");
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
