//! API keys, known only by their SHA-256 digests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Why a file of keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The file could not be read.
    #[error("keys file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A line is no digest.
    #[error("keys file {} line {line}: expected `sha256:<64 hex digits>  <name>`; a key itself does not belong in this file", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
    /// The file holds no key, which would lock everyone out.
    #[error("keys file {} holds no key; every request would be refused", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Name of the key that a request was let in by; found in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyName(pub Arc<str>);

/// The keys that open a listener.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    keys: Arc<[([u8; 32], Arc<str>)]>,
}

impl ApiKeys {
    /// Reads a file of digests.
    pub fn read(path: &Path) -> Result<Self, AuthError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| AuthError::Read { path: path.to_owned(), source })?;
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key =
                parse(line).ok_or_else(|| AuthError::Line { path: path.to_owned(), line: index + 1 })?;
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(AuthError::Empty { path: path.to_owned() });
        }
        Ok(Self { keys: keys.into() })
    }

    /// The name of the key that the headers carry, if it is one of these.
    ///
    /// Looked for in `Authorization: Bearer`, `api-key` (Qdrant's clients) and `x-api-key`.
    pub fn check(&self, headers: &HeaderMap) -> Option<ApiKeyName> {
        let digest: [u8; 32] = Sha256::digest(presented(headers)?).into();
        let mut found = None;
        // Every digest is compared, so that the time tells nothing about which one fitted.
        for (known, name) in self.keys.iter() {
            if bool::from(known.ct_eq(&digest)) {
                found = Some(ApiKeyName(name.clone()));
            }
        }
        found
    }
}

fn parse(line: &str) -> Option<([u8; 32], Arc<str>)> {
    let (digest, name) = line.strip_prefix("sha256:")?.split_once(char::is_whitespace).map_or_else(
        || (line.strip_prefix("sha256:").unwrap_or_default(), ""),
        |(digest, name)| (digest, name.trim()),
    );
    let mut bytes = [0; 32];
    hex::decode_to_slice(digest, &mut bytes).ok()?;
    Some((bytes, name.into()))
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(http::header::AUTHORIZATION).and_then(|value| {
        let value = value.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let plain = || {
        ["api-key", "x-api-key"].iter().find_map(|name| headers.get(*name)).map(http::HeaderValue::as_bytes)
    };
    bearer.or_else(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    // SHA-256 of "secret".
    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn keys(text: &str) -> Result<ApiKeys, AuthError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, text).unwrap();
        ApiKeys::read(&path)
    }

    #[test]
    fn a_key_is_found_in_every_header_that_clients_use() {
        let keys = keys(&format!("# team keys\n\nsha256:{SECRET}  alice\n")).unwrap();
        let table = [
            ("authorization", "Bearer secret", true),
            ("authorization", "bearer secret", true),
            ("api-key", "secret", true),
            ("x-api-key", "secret", true),
            ("authorization", "secret", false),
            ("authorization", "Bearer Secret", false),
            ("api-key", "", false),
        ];
        for (name, value, expected) in table {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            let found = keys.check(&headers);
            assert_eq!(found.is_some(), expected, "{name}: {value}");
            assert!(found.is_none_or(|name| &*name.0 == "alice"));
        }
        assert!(keys.check(&HeaderMap::new()).is_none());
    }

    #[test]
    fn a_file_of_plain_keys_is_refused() {
        for text in ["secret alice", "sha256:abc alice", "", "# only a comment"] {
            assert!(keys(text).is_err(), "{text}");
        }
    }
}
