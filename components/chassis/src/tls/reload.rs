//! Files that are read again when they change.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::TlsError;

/// What changes when a file does: its inode, its size and its times; nothing where there is none.
type Stamp = Option<(u64, u64, i64, i64, i64, i64)>;
type Build<T> = Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>;

/// Something made from files, made anew when they have changed. What stands on the old one stays as it is.
pub(super) struct Reloading<T> {
    files: Vec<PathBuf>,
    build: Build<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: T,
    stamps: Vec<Stamp>,
    /// Files as they were when nothing could be made from them; said once.
    refused: Option<Vec<Stamp>>,
}

impl<T: Clone> Reloading<T> {
    pub fn new(files: Vec<PathBuf>, build: Build<T>) -> Result<Self, TlsError> {
        // Before they are read: a change in between is seen the next time.
        let stamps = stamps(&files);
        let current = build()?;
        Ok(Self { files, build, state: Mutex::new(State { current, stamps, refused: None }) })
    }

    /// What the files make now; while they make nothing, as between a new certificate and its key, what they made before.
    pub fn current(&self) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        // Files that were refused are read again when they are others.
        if now == state.stamps || state.refused.as_ref() == Some(&now) {
            return state.current.clone();
        }
        match (self.build)() {
            Ok(made) => {
                tracing::info!(files = ?self.files, "certificates were read again");
                *state = State { current: made, stamps: now, refused: None };
            }
            Err(error) => {
                tracing::warn!(%error, "new certificates cannot be used yet; those from before stay in use");
                state.refused = Some(now);
            }
        }
        state.current.clone()
    }
}

/// Files, and whether they are others than when somebody looked last.
#[derive(Debug)]
pub struct Watched {
    files: Vec<PathBuf>,
    seen: Vec<Stamp>,
}

impl Watched {
    /// As they are now.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let seen = stamps(&files);
        Self { files, seen }
    }

    /// Whether one of them changed since this was asked last.
    pub fn have_changed(&mut self) -> bool {
        let now = stamps(&self.files);
        std::mem::replace(&mut self.seen, now.clone()) != now
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()))
    };
    files.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_change_is_told_once() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("file");
        let mut watched = Watched::new(vec![path.clone()]);
        assert!(!watched.have_changed(), "there is none");
        std::fs::write(&path, "first").expect("written");
        assert!(watched.have_changed() && !watched.have_changed());
        std::fs::remove_file(&path).expect("removed");
        assert!(watched.have_changed() && !watched.have_changed());
    }

    #[test]
    fn files_that_are_refused_are_read_once_and_again_when_they_change() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("file");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write("first");
        let reads = Arc::new(AtomicUsize::new(0));
        let build = {
            let (path, reads) = (path.clone(), Arc::clone(&reads));
            move || {
                reads.fetch_add(1, Ordering::SeqCst);
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let refused = || TlsError::NoCertificate { path: Path::new("file").to_owned() };
                (!text.contains("bad")).then_some(text).ok_or_else(refused)
            }
        };
        let files = Reloading::new(vec![path.clone()], Box::new(build)).expect("made");
        let ask = |times: usize| {
            let last = (0..times).map(|_| files.current()).last();
            (last.expect("asked"), reads.load(Ordering::SeqCst))
        };
        assert_eq!(ask(3), ("first".to_owned(), 1));
        write("it is bad");
        assert_eq!(ask(5), ("first".to_owned(), 2), "read once, though asked for often");
        write("still as bad as before");
        assert_eq!(ask(2), ("first".to_owned(), 3));
        write("second one");
        assert_eq!(ask(2), ("second one".to_owned(), 4));
    }
}
