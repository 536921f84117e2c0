//! Backups kept in object storage, or in a folder: written whole, the oldest ones deleted.
//!
//! Credentials come from the environment, by the names that each storage's own tools know (`AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_KEY`, …).

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart};
use std::io;
use std::path::{Path as File, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes sent at a time; least that storages take.
const PART: usize = 8 << 20;
/// Parts under way at a time.
const PARTS_AT_A_TIME: usize = 4;

/// Why a backup was not put there, or taken from there.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// No such place.
    #[error("{url}: {reason}")]
    Place {
        /// As it was given.
        url: String,
        /// Why.
        reason: String,
    },
    /// The storage refused.
    #[error("{what} {url}: {source}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// Where.
        url: String,
        /// What it said.
        #[source]
        source: object_store::Error,
    },
    /// A file on this machine.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Whether a text names a place rather than a file.
pub fn is_url(text: &File) -> bool {
    text.to_str().is_some_and(|text| text.contains("://"))
}

/// Whether a path leads to a backup, rather than to where they are kept.
fn is_one(path: &str) -> bool {
    File::new(path).extension().is_some_and(|extension| extension == "db")
}

/// A place for backups, or one of them.
pub struct Shelf {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: String,
}

impl Shelf {
    /// Opens a URL such as `s3://bucket/path` or `file:///folder`.
    pub fn open(url: &str) -> Result<Self, ShelfError> {
        let wrong = |reason: String| ShelfError::Place { url: url.to_owned(), reason };
        if let Some(folder) = url.strip_prefix("file://").filter(|folder| !is_one(folder)) {
            std::fs::create_dir_all(folder).map_err(|error| wrong(error.to_string()))?;
        }
        // A second provider in the process is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let parsed = url.parse().map_err(|error| wrong(format!("{error}")))?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let (store, root) = object_store::parse_url_opts(&parsed, settings(url, environment))
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self { store: Arc::from(store), root, url: url.to_owned() })
    }

    /// A folder for what is on its way, which nobody else may look into, and which goes with what it holds.
    pub fn aside() -> Result<tempfile::TempDir, ShelfError> {
        let made = tempfile::Builder::new().prefix("tinykv-").tempdir();
        made.map_err(|source| ShelfError::File { path: std::env::temp_dir(), source })
    }

    fn refused(&self, what: &'static str) -> impl Fn(object_store::Error) -> ShelfError {
        let url = self.url.clone();
        move |source| ShelfError::Store { what, url: url.clone(), source }
    }

    /// Puts a file there, under a name that later ones come after; says which.
    pub async fn put(&self, file: &File, revision: i64) -> Result<String, ShelfError> {
        let failed = |source| ShelfError::File { path: file.to_owned(), source };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = format!("tinykv-{now:011}-revision-{revision}.db");
        let mut from = tokio::fs::File::open(file).await.map_err(failed)?;
        let place = self.root.clone().join(name.as_str());
        let put = if from.metadata().await.map_err(failed)?.len() <= PART as u64 {
            let mut whole = Vec::with_capacity(PART);
            from.read_to_end(&mut whole).await.map_err(failed)?;
            self.store.put(&place, whole.into()).await.map(drop)
        } else {
            let upload = self.store.put_multipart(&place).await.map_err(self.refused("write to"))?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
            match send(&mut from, &mut upload).await {
                // It has its name from then on, and all of it is there.
                Ok(()) => upload.finish().await.map(drop),
                Err(error) => {
                    // What was sent of it would be kept, and paid for. That it failed is said anyway.
                    let _ = upload.abort().await;
                    Err(error)
                }
            }
        };
        put.map_err(self.refused("write to"))?;
        Ok(name)
    }

    /// Deletes the oldest but so many; says how many went.
    pub async fn prune(&self, keep: usize) -> Result<usize, ShelfError> {
        // What lies in folders below belongs to others.
        let listed = self.store.list_with_delimiter(Some(&self.root)).await.map_err(self.refused("list"))?;
        let mut ours: Vec<Path> = listed
            .objects
            .into_iter()
            .map(|object| object.location)
            .filter(|path| path.filename().is_some_and(|name| name.starts_with("tinykv-") && is_one(name)))
            .collect();
        // Names begin with the time.
        ours.sort();
        let old = ours.len().saturating_sub(keep.max(1));
        for path in &ours[..old] {
            self.store.delete(path).await.map_err(self.refused("delete from"))?;
        }
        Ok(old)
    }

    /// Takes the backup that the URL names.
    pub async fn take(&self, into: &File) -> Result<(), ShelfError> {
        let failed = |source| ShelfError::File { path: into.to_owned(), source };
        let mut pieces = self.store.get(&self.root).await.map_err(self.refused("read"))?.into_stream();
        let mut file = tokio::fs::File::create(into).await.map_err(failed)?;
        while let Some(piece) = pieces.try_next().await.map_err(self.refused("read"))? {
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)
    }
}

async fn send(from: &mut tokio::fs::File, upload: &mut WriteMultipart) -> Result<(), object_store::Error> {
    let mut piece = vec![0; PART];
    loop {
        let length = from.read(&mut piece).await.map_err(|source| object_store::Error::Generic {
            store: "this machine",
            source: source.into(),
        })?;
        if length == 0 {
            return Ok(());
        }
        upload.wait_for_capacity(PARTS_AT_A_TIME).await?;
        upload.put(Bytes::copy_from_slice(&piece[..length]));
    }
}

/// What a storage is told of the environment, in the words of `object_store`: variables that are meant for one, and no others, whatever
/// they are called.
fn settings(url: &str, environment: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    const STORAGES: [&str; 5] = ["aws_", "google_", "azure_", "identity_", "msi_"];
    let as_known = |name: String| match name.as_str() {
        // As az has them.
        "azure_storage_account" => "azure_storage_account_name".to_owned(),
        "azure_storage_key" => "azure_storage_account_key".to_owned(),
        _ => name,
    };
    let named = environment.map(|(name, value)| (as_known(name.to_lowercase()), value));
    let mut settings: Vec<(String, String)> =
        named.filter(|(name, _)| STORAGES.iter().any(|storage| name.starts_with(storage))).collect();
    // Who names an address without TLS means it.
    let is_address = |name: &str| name.contains("endpoint") || name.ends_with("base_url");
    let in_the_clear = |text: &str| text.starts_with("http://");
    if in_the_clear(url) || settings.iter().any(|(name, value)| is_address(name) && in_the_clear(value)) {
        settings.push(("allow_http".to_owned(), "true".to_owned()));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_is_told_what_is_meant_for_it() {
        let environment = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_ENDPOINT_URL", "http://minio:9000"),
            ("AZURE_STORAGE_KEY", "key"),
            ("BUCKET", "of something else"),
            ("TOKEN", "of something else"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let told = settings("s3://bucket/kv", environment.into_iter());
        let told: Vec<_> = told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            told,
            [
                ("aws_access_key_id", "id"),
                ("aws_endpoint_url", "http://minio:9000"),
                ("azure_storage_account_key", "key"),
                ("allow_http", "true"),
            ]
        );
        assert!(settings("https://host/folder", std::iter::empty()).is_empty());
        assert_eq!(settings("http://host/folder", std::iter::empty()).len(), 1);
    }

    #[tokio::test]
    async fn backups_are_kept_and_the_oldest_go() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = dir.path().join("kept/here");
        let shelf = Shelf::open(&format!("file://{}", folder.display())).expect("opened");
        for (at, text) in [(1, "one"), (2, "two"), (3, "three")] {
            std::fs::write(folder.join(format!("tinykv-{at:011}-revision-1.db")), text).expect("written");
        }
        std::fs::write(folder.join("theirs.db"), "stays").expect("written");
        let below = folder.join("another/tinykv-00000000000-revision-1.db");
        std::fs::create_dir_all(below.parent().expect("a folder")).expect("made");
        std::fs::write(&below, "of another cluster").expect("written");
        let file = dir.path().join("new");
        std::fs::write(&file, "four").expect("written");
        let name = shelf.put(&file, 44).await.expect("put");
        assert!(name.ends_with("-revision-44.db"), "{name}");
        assert_eq!(shelf.prune(2).await.expect("pruned"), 2);
        let mut left: Vec<_> = std::fs::read_dir(&folder)
            .expect("read")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        left.sort();
        assert!(below.exists(), "folders below are others'");
        assert_eq!(left, ["another", "theirs.db", "tinykv-00000000003-revision-1.db", name.as_str()]);
        let one = Shelf::open(&format!("file://{}/{name}", folder.display())).expect("opened");
        one.take(&dir.path().join("taken")).await.expect("taken");
        assert_eq!(std::fs::read(dir.path().join("taken")).expect("read"), b"four");
    }
}
