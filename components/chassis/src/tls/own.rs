//! Certificates that a server makes for itself.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::TlsError;

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// PEM file of the certificate chain.
    pub cert_file: PathBuf,
    /// PEM file of the private key.
    pub key_file: PathBuf,
}

/// The self-signed certificate in `dir`, for `hosts`; it is made where there is none. It encrypts, and proves nothing to
/// anybody who was not given it.
pub fn self_signed(dir: &Path, hosts: &[String]) -> Result<Pair, TlsError> {
    let pair = Pair { cert_file: dir.join("cert.pem"), key_file: dir.join("key.pem") };
    if pair.cert_file.exists() && pair.key_file.exists() {
        return Ok(pair);
    }
    let made = rcgen::generate_simple_self_signed(hosts).map_err(|source| TlsError::Make { source })?;
    let write = |path: &Path, text: &str, mode| {
        write(path, text, mode).map_err(|source| TlsError::Write { path: path.to_owned(), source })
    };
    fs::create_dir_all(dir).map_err(|source| TlsError::Write { path: dir.to_owned(), source })?;
    write(&pair.key_file, &made.signing_key.serialize_pem(), 0o600)?;
    write(&pair.cert_file, &made.cert.pem(), 0o644)?;
    Ok(pair)
}

/// Whole or not at all: a process that is killed in between makes the pair again.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
