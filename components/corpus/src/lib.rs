//! Corpora of fuzzers, replayed by stable tests: what fuzzing found worth keeping, and thousands of mutations of it.

use std::fs;
use std::io;
use std::panic::{RefUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Mutations of a whole corpus, shared by its files.
const MUTATIONS: u64 = 12_000;
/// Mutations of each file at least.
const LEAST: u64 = 20;

/// What a replay found.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The corpus is not there, or empty.
    #[error("no corpus in {}: {source}", folder.display())]
    Missing {
        /// Where it should be.
        folder: PathBuf,
        /// What was met there.
        source: io::Error,
    },
    /// A file that a correct writer makes is not in the corpus.
    #[error("{name} is not in the corpus as it is written today: write it with WRITE_CORPUS=1")]
    Stale {
        /// Its name.
        name: String,
    },
    /// A file that a correct writer makes cannot be read.
    #[error("{name} is well formed, and cannot be read")]
    Refused {
        /// Its name.
        name: String,
    },
    /// The reader panicked.
    #[error("the reader panicked on {}, mutated with seed {seed} (0: as it is)", file.display())]
    Panicked {
        /// The file.
        file: PathBuf,
        /// Of the mutation.
        seed: u64,
    },
}

/// Puts all files of `folder`, and mutations of them, before `read`, which tells whether it could read one. The `honest` files,
/// by name, are among them and can be read; with `WRITE_CORPUS` in the environment they are written first. Answers how many files
/// could be read as they are.
pub fn replay(
    folder: &Path,
    honest: &[(String, Vec<u8>)],
    read: impl Fn(&[u8]) -> bool + RefUnwindSafe,
) -> Result<usize, Failure> {
    let files =
        open(folder, honest).map_err(|source| Failure::Missing { folder: folder.to_owned(), source })?;
    for (name, file) in honest {
        if !files.iter().any(|(_, bytes)| bytes == file) {
            return Err(Failure::Stale { name: name.clone() });
        }
        if !read(file) {
            return Err(Failure::Refused { name: name.clone() });
        }
    }
    let mutations = (MUTATIONS / files.len() as u64).max(LEAST);
    let mut good = 0;
    for (path, file) in &files {
        let attempt = |seed, bytes: &[u8]| {
            catch_unwind(|| read(bytes)).map_err(|_| Failure::Panicked { file: path.clone(), seed })
        };
        good += usize::from(attempt(0, file)?);
        for seed in 1..=mutations {
            attempt(seed, &mutate(file, seed))?;
        }
    }
    Ok(good)
}

fn open(folder: &Path, honest: &[(String, Vec<u8>)]) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    if std::env::var_os("WRITE_CORPUS").is_some() {
        for (name, file) in honest {
            fs::write(folder.join(name), file)?;
        }
    }
    let paths = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let files: Vec<_> = paths
        .map(|path| path.and_then(|path| Ok((path.clone(), fs::read(path)?))))
        .collect::<Result<_, _>>()?;
    if files.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(files) }
}

/// Seeded damage: flipped bits, overwritten integers, cut and repeated pieces. The same seed does the same damage.
pub fn mutate(file: &[u8], mut seed: u64) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for a test.
    fn folder(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("corpus-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).expect("written");
        }
        folder
    }

    fn honest(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        vec![("honest".to_owned(), bytes.to_vec())]
    }

    #[test]
    fn a_reader_that_panics_is_named_with_the_seed_that_does_it_again() {
        let here = folder("panics", &[("one", b"abcdef")]);
        let read = |bytes: &[u8]| {
            assert!(bytes.len() >= 3, "too short");
            true
        };
        let outcome = replay(&here, &[], read);
        let Err(Failure::Panicked { seed, .. }) = outcome else { panic!("{outcome:?}") };
        assert!(mutate(b"abcdef", seed).len() < 3);
        fs::remove_dir_all(here).expect("removed");
    }

    #[test]
    fn honest_files_are_there_and_read() {
        let here = folder("honest", &[("honest", b"good"), ("other", b"bad!")]);
        let read = |bytes: &[u8]| bytes == b"good";
        assert!(matches!(replay(&here, &honest(b"good"), read), Ok(1)));
        assert!(matches!(replay(&here, &honest(b"new"), read), Err(Failure::Stale { .. })));
        assert!(matches!(replay(&here, &honest(b"bad!"), read), Err(Failure::Refused { .. })));
        assert!(matches!(replay(&here.join("none"), &[], read), Err(Failure::Missing { .. })));
        fs::remove_dir_all(here).expect("removed");
    }
}
