//! Artefacts in an object store: a local directory, or S3 and others by URL.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::StatusCode;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetResult, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};

use crate::error::ApiError;

/// Size of the parts that an upload travels in.
const PART: usize = 8 << 20;
/// Parts of one upload under way at a time.
const PARTS_AT_A_TIME: usize = 4;

/// Why artefacts could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// The place from the configuration cannot be used.
    #[error("artefacts: {place} cannot be used: {reason}")]
    Place {
        /// Directory or URL.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The store failed.
    #[error("the artefact store did not {operation}: {source}")]
    Store {
        /// What was asked of it.
        operation: &'static str,
        /// What it said.
        source: object_store::Error,
    },
    /// The bytes that came are not those announced.
    #[error("the upload's SHA-256 is {found}, not {announced}: it was damaged on the way; send it again")]
    Digest {
        /// What the client announced.
        announced: String,
        /// What came.
        found: String,
    },
    /// The client stopped sending.
    #[error("the upload broke off after {bytes} bytes: {reason}; send it again")]
    BrokeOff {
        /// Bytes that came.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// More bytes than allowed.
    #[error("the upload is larger than {limit} bytes (limits.max_artefact_bytes)")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
}

impl From<ArtefactError> for ApiError {
    fn from(error: ArtefactError) -> Self {
        let message = error.to_string();
        match &error {
            ArtefactError::Digest { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "checksum_mismatch", message)
            }
            ArtefactError::BrokeOff { .. } => Self::invalid("upload_broke_off", message),
            ArtefactError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "artefact_too_large", message)
            }
            _ if is_full(&error) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "artefact_store_full",
                format!(
                    "{message}; free space, or delete versions that are not needed (modelhub models delete)"
                ),
            ),
            _ => Self::new(StatusCode::BAD_GATEWAY, "artefact_store_error", message),
        }
    }
}

fn is_full(error: &ArtefactError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::StorageFull
        {
            return true;
        }
        cause = error.source();
    }
    false
}

fn store(operation: &'static str) -> impl Fn(object_store::Error) -> ArtefactError {
    move |source| ArtefactError::Store { operation, source }
}

/// The object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Artefacts {
    store: Arc<dyn ObjectStore>,
    root: Path,
    limit: u64,
}

/// An object that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its name in the store.
    pub object: String,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

impl Artefacts {
    /// Opens a directory (made when missing) or a URL; `limit` bounds one upload.
    pub fn open(place: &str, limit: u64) -> Result<Self, ArtefactError> {
        let wrong = |reason: String| ArtefactError::Place { place: place.to_owned(), reason };
        let (store, root): (Arc<dyn ObjectStore>, Path) = if place.contains("://") {
            let url = place.parse().map_err(|e| wrong(format!("{e}")))?;
            let settings = std::env::vars().map(|(name, value)| (name.to_lowercase(), value));
            let (store, root) =
                object_store::parse_url_opts(&url, settings).map_err(|e| wrong(e.to_string()))?;
            (Arc::from(store), root)
        } else {
            std::fs::create_dir_all(place).map_err(|e| wrong(e.to_string()))?;
            sweep(std::path::Path::new(place));
            let store = LocalFileSystem::new_with_prefix(place).map_err(|e| wrong(e.to_string()))?;
            (Arc::new(store.with_automatic_cleanup(true)), Path::default())
        };
        Ok(Self { store, root, limit })
    }

    fn path(&self, object: &str) -> Path {
        object.split('/').fold(self.root.clone(), Path::join)
    }

    /// Writes a stream. With an announced digest the object gets its final name at once; without one it is renamed, which on
    /// cloud stores is a copy.
    pub async fn write<S, E>(&self, stream: S, announced: Option<&str>) -> Result<Written, ArtefactError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let first =
            announced.map_or_else(|| format!("uploads/{nonce}"), |sha256| object_name(sha256, &nonce));
        let upload = self.store.put_multipart(&self.path(&first)).await.map_err(store("begin an upload"))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let received = self.receive(stream, &mut upload).await;
        let checked = received.and_then(|(sha256, bytes)| match announced {
            Some(announced) if announced != sha256 => {
                Err(ArtefactError::Digest { announced: announced.to_owned(), found: sha256 })
            }
            _ => Ok((sha256, bytes)),
        });
        let (sha256, bytes) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                // The upload's own error is the one to tell.
                let _ = upload.abort().await;
                return Err(error);
            }
        };
        upload.finish().await.map_err(store("finish an upload"))?;
        let object = object_name(&sha256, &nonce);
        if announced.is_none() {
            let renamed = self.store.rename(&self.path(&first), &self.path(&object)).await;
            renamed.map_err(store("name an upload (give x-checksum-sha256 to make that unnecessary)"))?;
        }
        Ok(Written { object, sha256, bytes })
    }

    async fn receive<S, E>(
        &self,
        stream: S,
        upload: &mut WriteMultipart,
    ) -> Result<(String, u64), ArtefactError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let mut stream = std::pin::pin!(stream);
        let mut hash = Sha256::new();
        let mut bytes = 0_u64;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|e| ArtefactError::BrokeOff { bytes, reason: e.to_string() })?;
            bytes += piece.len() as u64;
            if bytes > self.limit {
                return Err(ArtefactError::TooLarge { limit: self.limit });
            }
            hash.update(&piece);
            upload.wait_for_capacity(PARTS_AT_A_TIME).await.map_err(store("write"))?;
            upload.put(piece);
        }
        Ok((hex::encode(hash.finalize()), bytes))
    }

    /// Opens an object for reading.
    pub async fn read(&self, object: &str) -> Result<GetResult, ArtefactError> {
        self.store.get(&self.path(object)).await.map_err(store("read"))
    }

    /// Deletes an object; one that is gone already is fine.
    pub async fn delete(&self, object: &str) -> Result<(), ArtefactError> {
        match self.store.delete(&self.path(object)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other.map_err(store("delete")),
        }
    }
}

/// Age from which on an unfinished upload is one that a killed process left: other processes may share the directory.
const STALE: Duration = Duration::from_hours(24);

/// Deletes what processes that were killed in the middle of an upload left: unnamed uploads, and parts (`object#1`).
fn sweep(place: &std::path::Path) {
    let mut folders = vec![(place.to_owned(), false)];
    while let Some((folder, unnamed)) = folders.pop() {
        // What cannot be read or deleted stays; it is space, not correctness.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push((path, unnamed || name == "uploads"));
                continue;
            }
            let part = name.rsplit_once('#').is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
            let age = metadata.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
            if (unnamed || part) && age >= STALE && std::fs::remove_file(&path).is_ok() {
                tracing::info!(file = %path.display(), "an upload that was never finished is deleted");
            }
        }
    }
}

fn object_name(sha256: &str, nonce: &str) -> String {
    format!("sha256/{}/{sha256}/{}", &sha256[..2], &nonce[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(data: &[u8], size: usize) -> impl Stream<Item = Result<Bytes, String>> + use<> {
        let pieces: Vec<Result<Bytes, String>> =
            data.chunks(size).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
        futures::stream::iter(pieces)
    }

    fn objects(folder: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|e| if e.path().is_dir() { objects(&e.path()) } else { 1 }).sum()
    }

    #[tokio::test]
    async fn an_upload_is_found_again_by_its_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let artefacts = Artefacts::open(&folder.path().display().to_string(), 1 << 20).expect("a directory");
        let data = vec![7_u8; 100_000];
        let digest = hex::encode(Sha256::digest(&data));
        for announced in [None, Some(digest.as_str())] {
            let written = artefacts.write(pieces(&data, 1_000), announced).await.expect("written");
            assert_eq!((written.sha256.as_str(), written.bytes), (digest.as_str(), 100_000));
            let read = artefacts.read(&written.object).await.expect("open").bytes().await.expect("bytes");
            assert_eq!(read, data);
            artefacts.delete(&written.object).await.expect("deleted");
            artefacts.delete(&written.object).await.expect("gone already");
        }
        assert_eq!(objects(folder.path()), 0);
    }

    #[test]
    fn what_a_killed_process_left_is_swept_when_it_is_old() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, old: bool| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            let file = std::fs::File::create(&path).expect("a file");
            let age = if old { STALE * 2 } else { Duration::ZERO };
            file.set_modified(std::time::SystemTime::now() - age).expect("a time");
        };
        file("sha256/ab/abc/1", true);
        file("sha256/ab/abc/2#1", true);
        file("sha256/ab/abc/3#1", false);
        file("uploads/4", true);
        file("uploads/5", false);
        Artefacts::open(&folder.path().display().to_string(), 1).expect("a directory");
        let there = |name: &str| folder.path().join(name).exists();
        assert!(there("sha256/ab/abc/1") && there("sha256/ab/abc/3#1") && there("uploads/5"));
        assert!(!there("sha256/ab/abc/2#1") && !there("uploads/4"));
    }

    #[tokio::test]
    async fn a_bad_upload_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let artefacts = Artefacts::open(&folder.path().display().to_string(), 1_000).expect("a directory");
        let wrong = "0".repeat(64);
        let error = artefacts.write(pieces(b"abc", 1), Some(&wrong)).await.expect_err("wrong digest");
        assert!(matches!(error, ArtefactError::Digest { .. }), "{error}");
        let error = artefacts.write(pieces(&[0; 2_000], 100), None).await.expect_err("too large");
        assert!(matches!(error, ArtefactError::TooLarge { .. }), "{error}");
        let cut = futures::stream::iter([Ok(Bytes::from_static(b"abc")), Err("connection lost".to_owned())]);
        let error = artefacts.write(cut, None).await.expect_err("cut");
        assert!(error.to_string().contains("after 3 bytes"), "{error}");
        assert_eq!(objects(folder.path()), 0);
    }
}
