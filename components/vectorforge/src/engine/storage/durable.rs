//! Small files that are replaced as a whole: written aside, synced, renamed over, the directory synced.
//!
//! Layout: `magic: [u8; 8] | length: u64 | crc32c of the body: u32 | crc32c of the 20 bytes before: u32 | body`.
//! A reader sees the old body or the new one, never a mixture, and a flipped bit anywhere is an error that names the
//! file.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::error::EngineError;

const HEADER: usize = 24;

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), EngineError> {
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(EngineError::io("sync directory", dir))
}

/// Creates a directory and makes its name durable.
pub fn create_dir(dir: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(dir).map_err(EngineError::io("create directory", dir))?;
    dir.parent().map_or(Ok(()), sync_dir)
}

/// Replaces the file at `path` by one with this body. Durable when it returns.
pub fn replace(path: &Path, magic: [u8; 8], body: &[u8]) -> Result<(), EngineError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(&magic);
    header.extend_from_slice(&(body.len() as u64).to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let header_crc = crc32c::crc32c(&header);
    header.extend_from_slice(&header_crc.to_le_bytes());
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(&header)?;
        file.write_all(body)?;
        file.sync_all()
    });
    if let Err(source) = written {
        // The half-written file is of no use to anyone; a failure to remove it is the lesser trouble.
        let _ = fs::remove_file(&aside);
        return Err(EngineError::Io { operation: "write", path: aside, source });
    }
    fs::rename(&aside, path).map_err(EngineError::io("rename into place", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Reads the body of a file that [`replace`] wrote.
pub fn read(path: &Path, magic: [u8; 8]) -> Result<Vec<u8>, EngineError> {
    let mut bytes = fs::read(path).map_err(EngineError::io("read", path))?;
    let fault = |detail: &str| EngineError::corrupt(path, detail);
    let header = bytes.get(..HEADER).ok_or_else(|| fault("shorter than its header"))?;
    let field = |at: usize| header[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
    if header[..8] != magic {
        return Err(fault("not a file of this kind or version (magic bytes differ)"));
    }
    if crc32c::crc32c(&header[..20]) != field(20) {
        return Err(fault("header checksum differs"));
    }
    let length = header[8..16].try_into().map(u64::from_le_bytes).unwrap_or_default();
    if length != (bytes.len() - HEADER) as u64 {
        return Err(fault("length differs from the header's"));
    }
    let crc = field(16);
    let body = bytes.split_off(HEADER);
    if crc32c::crc32c(&body) != crc {
        return Err(fault("body checksum differs"));
    }
    Ok(body)
}

/// [`replace`] with a JSON body.
pub fn replace_json<T: Serialize>(path: &Path, magic: [u8; 8], value: &T) -> Result<(), EngineError> {
    let body = serde_json::to_vec(value)
        .map_err(|error| EngineError::corrupt(path, format!("cannot be encoded: {error}")))?;
    replace(path, magic, &body)
}

/// [`read`] with a JSON body.
pub fn read_json<T: DeserializeOwned>(path: &Path, magic: [u8; 8]) -> Result<T, EngineError> {
    let body = read(path, magic)?;
    serde_json::from_slice(&body)
        .map_err(|error| EngineError::corrupt(path, format!("does not parse: {error}")))
}

/// Removes a file; it being gone already is fine.
pub fn remove(path: &Path) -> Result<(), EngineError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        replace(&path, *b"TESTFILE", b"some body").expect("written");
        assert_eq!(read(&path, *b"TESTFILE").expect("read"), b"some body");
        let good = fs::read(&path).expect("read");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).expect("written");
            let error = read(&path, *b"TESTFILE").expect_err("a flipped bit").to_string();
            assert!(error.contains("file"), "{error}");
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).expect("written");
            assert!(read(&path, *b"TESTFILE").is_err(), "cut to {length}");
        }
    }
}
