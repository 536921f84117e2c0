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
        if now == state.stamps {
            return state.current.clone();
        }
        match (self.build)() {
            Ok(made) => {
                tracing::info!(files = ?self.files, "certificates were read again");
                *state = State { current: made, stamps: now, refused: None };
            }
            Err(error) if state.refused.as_ref() != Some(&now) => {
                tracing::warn!(%error, "new certificates cannot be used yet; those from before stay in use");
                state.refused = Some(now);
            }
            Err(_) => {}
        }
        state.current.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()))
    };
    files.iter().map(stamp).collect()
}
