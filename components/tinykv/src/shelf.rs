//! Backups kept in object storage, or in a folder: written whole, the oldest ones deleted.
//!
//! Credentials come from the environment, by the names that each storage's own tools know (`AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_KEY`, …).

use crate::storage;
use futures::TryStreamExt as _;
use futures::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _};
use std::io;
use std::path::{Path as File, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes sent at a time; least that storages take.
const PART: usize = 8 << 20;
/// What names of backups begin with.
const OURS: &str = "tinykv-";
/// What is done to a backup that is there.
const READ: &str = "read";
/// Parts under way at a time.
const PARTS_AT_A_TIME: usize = 4;
/// How long a storage that fails is asked to forget the parts that it has.
const ABORTS_WITHIN: Duration = Duration::from_secs(5);

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
    #[error("cannot {what} {url}: {advice}. It said: {said}", said = in_one_line(source))]
    Store {
        /// What was tried.
        what: &'static str,
        /// Where.
        url: String,
        /// What may be wrong, and what to do about it.
        advice: String,
        /// What it said.
        #[source]
        source: Box<object_store::Error>,
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

/// Storages answer in pages of XML.
fn in_one_line(said: &object_store::Error) -> String {
    said.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What may be wrong, and what to do about it.
fn advice(what: &str, url: &str, said: &object_store::Error) -> String {
    use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
    let (holder, variables) = storage::variables(url);
    match said {
        NotFound { .. } if what == READ => format!("there is no such backup, or no such {holder}"),
        NotFound { .. } => {
            format!("there is no such {holder}; make it, or mend its name or the storage's address")
        }
        PermissionDenied { .. } | Unauthenticated { .. } => {
            format!(
                "the credentials are wrong, or are not allowed this; they come from the environment ({variables})"
            )
        }
        _ if storage::is_of_this_machine(said) => {
            format!(
                "there are no credentials in the environment ({variables}), and this machine has none of its own"
            )
        }
        _ => format!(
            "see whether the storage is up, and is reached by what the environment says ({variables})"
        ),
    }
}

/// Whether a text names a place rather than a file.
pub fn is_url(text: &File) -> bool {
    text.to_str().is_some_and(|text| text.contains("://"))
}

/// Whether a path leads to a backup, rather than to where they are kept.
fn is_one(path: &str) -> bool {
    File::new(path).extension().is_some_and(|extension| extension == "db")
}

/// A backup by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// When it was taken.
    pub taken: SystemTime,
}

impl Named {
    /// `None`: nothing that was put here by this program.
    fn of(name: &str) -> Option<Self> {
        let (seconds, _) = name.strip_prefix(OURS)?.split_once('-')?;
        let taken = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))?;
        is_one(name).then(|| Self { name: name.to_owned(), taken })
    }
}

/// A place for backups, or one of them.
pub struct Shelf {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: String,
}

impl Shelf {
    /// Opens a URL such as `s3://bucket/path` or `file:///folder`; a folder that is not there is made.
    pub fn open(url: &str) -> Result<Self, ShelfError> {
        let shelf = Self::find(url)?;
        if url.starts_with("file://") && !is_one(url) {
            std::fs::create_dir_all(File::new("/").join(shelf.root.as_ref()))
                .map_err(|error| ShelfError::Place { url: url.to_owned(), reason: error.to_string() })?;
        }
        Ok(shelf)
    }

    /// Opens one to read what is there.
    pub fn find(url: &str) -> Result<Self, ShelfError> {
        let wrong = |reason: String| ShelfError::Place { url: url.to_owned(), reason };
        if url.contains(['?', '#']) {
            return Err(wrong(
                "what follows ? or # would be left out of the path; write %3F or %23".to_owned(),
            ));
        }
        let (store, root) = storage::connect(url).map_err(|error| wrong(in_one_line(&error)))?;
        Ok(Self { store, root, url: url.trim_end_matches('/').to_owned() })
    }

    /// A folder for what is on its way, which nobody else may look into, and which goes with what it holds.
    pub fn aside() -> Result<tempfile::TempDir, ShelfError> {
        let made = tempfile::Builder::new().prefix("tinykv-").tempdir();
        made.map_err(|source| ShelfError::File { path: std::env::temp_dir(), source })
    }

    fn refused(&self, what: &'static str) -> impl Fn(object_store::Error) -> ShelfError {
        let url = self.url.clone();
        move |source| {
            let advice = advice(what, &url, &source);
            ShelfError::Store { what, url: url.clone(), advice, source: Box::new(source) }
        }
    }

    /// The URL of what lies there under that name.
    pub fn url_of(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// Puts a file there, under a name that later ones come after; says which.
    pub async fn put(&self, file: &File, revision: i64) -> Result<String, ShelfError> {
        let failed = |source| ShelfError::File { path: file.to_owned(), source };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // Of two that are written at once, each has its own: storages mix parts of what has the same name, or refuse them.
        let mark: u32 = rand::random();
        let name = format!("{OURS}{now:011}-revision-{revision}-{mark:08x}.db");
        let mut from = tokio::fs::File::open(file).await.map_err(failed)?;
        let place = self.root.clone().join(name.as_str());
        let put = if from.metadata().await.map_err(failed)?.len() <= PART as u64 {
            let mut whole = Vec::with_capacity(PART);
            from.read_to_end(&mut whole).await.map_err(failed)?;
            self.store.put(&place, whole.into()).await.map(drop)
        } else {
            let mut upload = self.store.put_multipart(&place).await.map_err(self.refused("write to"))?;
            let sent = send(&mut from, upload.as_mut()).await;
            if sent.is_err() {
                // What was sent of it would be kept, and paid for. That it failed is said anyway, and soon.
                let _ = tokio::time::timeout(ABORTS_WITHIN, upload.abort()).await;
            }
            sent
        };
        put.map_err(self.refused("write to"))?;
        Ok(name)
    }

    /// Deletes the oldest but so many; says how many went.
    pub async fn prune(&self, keep: usize) -> Result<usize, ShelfError> {
        let ours = self.ours().await?;
        let old = ours.len().saturating_sub(keep.max(1));
        for path in &ours[..old] {
            self.store.delete(path).await.map_err(self.refused("delete from"))?;
        }
        Ok(old)
    }

    /// The backup that was taken last.
    pub async fn newest(&self) -> Result<Option<Named>, ShelfError> {
        let ours = self.ours().await?;
        Ok(ours.iter().rev().find_map(|path| path.filename().and_then(Named::of)))
    }

    /// What was put there, the oldest first.
    async fn ours(&self) -> Result<Vec<Path>, ShelfError> {
        // What lies in folders below belongs to others.
        let listed = self.store.list_with_delimiter(Some(&self.root)).await.map_err(self.refused("list"))?;
        let mut ours: Vec<Path> = listed
            .objects
            .into_iter()
            .map(|object| object.location)
            .filter(|path| path.filename().is_some_and(|name| name.starts_with(OURS) && is_one(name)))
            .collect();
        // Names begin with the time.
        ours.sort();
        Ok(ours)
    }

    /// Takes the backup that the URL names.
    pub async fn take(&self, into: &File) -> Result<(), ShelfError> {
        let failed = |source| ShelfError::File { path: into.to_owned(), source };
        let mut pieces = self.store.get(&self.root).await.map_err(self.refused(READ))?.into_stream();
        let mut file = tokio::fs::File::create(into).await.map_err(failed)?;
        while let Some(piece) = pieces.try_next().await.map_err(self.refused(READ))? {
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)
    }
}

/// Sends a file in parts. It has its name from the end on, and all of it is there.
async fn send(
    from: &mut tokio::fs::File,
    upload: &mut dyn MultipartUpload,
) -> Result<(), object_store::Error> {
    let failed =
        |source: io::Error| object_store::Error::Generic { store: "this machine", source: source.into() };
    let mut on_their_way = FuturesUnordered::new();
    loop {
        let mut part = Vec::with_capacity(PART);
        from.take(PART as u64).read_to_end(&mut part).await.map_err(failed)?;
        if part.is_empty() {
            break;
        }
        while on_their_way.len() >= PARTS_AT_A_TIME {
            on_their_way.try_next().await?;
        }
        on_their_way.push(upload.put_part(part.into()));
    }
    while on_their_way.try_next().await?.is_some() {}
    upload.complete().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(name.contains("-revision-44-"), "{name}");
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
