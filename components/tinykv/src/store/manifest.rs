//! RocksDB's list of its files, looked through before RocksDB reads it: on some damage to it, RocksDB 11 never comes back.
//!
//! ```text
//! blocks of 32 KiB; in each, records: masked CRC-32C of type and data u32 | length u16 | type u8 | data
//! type    1 whole, 2 first, 3 middle, 4 last part of an edit; less than a head at a block's end is zeros
//! ```
//!
//! Source: RocksDB's `db/log_format.h` and `util/crc32c.h`.

use std::fs;
use std::io;
use std::path::Path;

const BLOCK: usize = 32 << 10;
const HEAD: usize = 7;

/// Refuses a list whose records have changed, by its name. An unfinished last write is RocksDB's to drop.
pub fn check(state: &Path) -> io::Result<()> {
    let current = state.join("CURRENT");
    let named = match fs::read(&current) {
        Ok(named) => named,
        // There is no database yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let name = String::from_utf8_lossy(&named);
    let manifest = state.join(name.trim_end_matches('\n'));
    if !name.starts_with("MANIFEST-") || !name.ends_with('\n') || !manifest.is_file() {
        let current = current.display();
        return Err(io::Error::other(format!("{current} is damaged: it names {name:?}, which is not there")));
    }
    match damage(&fs::read(&manifest)?) {
        None => Ok(()),
        Some(at) => Err(io::Error::other(format!(
            "{} is corrupt at byte {at}: a record has changed",
            manifest.display()
        ))),
    }
}

/// What stands at a place in a list.
enum Found {
    /// A record, up to there.
    Whole(usize),
    /// Less than one; the list ends before it does.
    Cut,
    /// No record.
    Other,
}

/// Where the first record begins that was whole once and is not now.
fn damage(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < bytes.len() {
        match found(bytes, at) {
            Found::Whole(end) => at = end,
            _ if bytes[at..].iter().all(|byte| *byte == 0) => return None,
            // Unfinished, unless something was written after it.
            Found::Cut => {
                let is_whole = |later| matches!(found(bytes, later), Found::Whole(end) if end > later + HEAD);
                return (at + 1..bytes.len()).any(is_whole).then_some(at);
            }
            Found::Other => return Some(at),
        }
    }
    None
}

fn found(bytes: &[u8], at: usize) -> Found {
    let left_in_block = BLOCK - at % BLOCK;
    if left_in_block < HEAD {
        return Found::Whole(at + left_in_block);
    }
    let rest = &bytes[at..];
    let Some(&[c0, c1, c2, c3, l0, l1, kind]) = rest.first_chunk::<HEAD>() else { return Found::Cut };
    let size = HEAD + usize::from(u16::from_le_bytes([l0, l1]));
    if !(1..=4).contains(&kind) || size > left_in_block {
        return Found::Other;
    }
    match rest.get(HEAD - 1..size) {
        None => Found::Cut,
        Some(data) if mask(crc32c::crc32c(data)) == u32::from_le_bytes([c0, c1, c2, c3]) => {
            Found::Whole(at + size)
        }
        Some(_) => Found::Other,
    }
}

/// As RocksDB keeps checksums.
fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Db;

    #[test]
    fn no_bit_of_the_list_of_files_can_change_unseen() {
        let dir = tempfile::tempdir().expect("dir");
        let state = dir.path().join("state");
        drop(Db::open(&state, 1 << 20).expect("created"));
        check(&state).expect("as RocksDB wrote it");
        let named = fs::read_to_string(state.join("CURRENT")).expect("read");
        let path = state.join(named.trim_end());
        let whole = fs::read(&path).expect("read");
        assert!(whole.len() > 200, "it has records");
        let seen = (0..whole.len() * 8).filter(|bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            damage(&bytes).is_some()
        });
        // The last record's length may point past the end, as that of an unfinished write does.
        let unseen = whole.len() * 8 - seen.count();
        assert!(unseen <= 16, "{unseen} bits of {}", whole.len() * 8);
        assert_eq!(damage(&whole[..whole.len() - 3]), None, "an unfinished last write");
        let mut bytes = whole.clone();
        bytes[6] = 5;
        fs::write(&path, bytes).expect("written");
        let refused = check(&state).expect_err("its first record is of no kind");
        assert!(
            refused.to_string().contains("MANIFEST-") && refused.to_string().contains("byte 0"),
            "{refused}"
        );
        fs::write(state.join("CURRENT"), "MANIFEST-4\n").expect("written");
        assert!(check(&state).expect_err("not there").to_string().contains("CURRENT is damaged"));
    }
}
