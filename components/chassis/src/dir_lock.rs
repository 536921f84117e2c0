//! One process a data directory.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The file in the directory that is locked.
pub const LOCK: &str = "LOCK";
/// How long another holder may take to let go: a process that is ending, or a child between fork and exec, which shares its
/// parent's locks.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(10);

/// Locks a directory for as long as the file lives; none when another process keeps it.
///
/// Waits for up to three seconds, on the caller's thread.
pub fn lock_dir(dir: &Path) -> io::Result<Option<File>> {
    patiently(File::create(dir.join(LOCK))?)
}

/// The same for somebody who only reads the directory: makes no file in it. Where nobody ever locked it, it fails with
/// `NotFound`.
pub fn lock_dir_to_read(dir: &Path) -> io::Result<Option<File>> {
    patiently(File::open(dir.join(LOCK))?)
}

fn patiently(file: File) -> io::Result<Option<File>> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_and_not_for_ever() {
        let dir = tempfile::tempdir().expect("dir");
        let first = lock_dir(dir.path()).expect("made").expect("free");
        assert!(lock_dir(dir.path()).expect("there").is_none());
        let (sender, receiver) = std::sync::mpsc::channel();
        let path = dir.path().to_owned();
        let second = std::thread::spawn(move || {
            receiver.recv().expect("told");
            lock_dir(&path).expect("there").is_some()
        });
        assert!(lock_dir_to_read(dir.path()).expect("there").is_none());
        drop(first);
        sender.send(()).expect("it waits");
        assert!(second.join().expect("ended"));
        let reading = lock_dir_to_read(dir.path()).expect("there").expect("free");
        assert!(lock_dir(dir.path()).expect("there").is_none());
        drop(reading);
        assert!(lock_dir(&dir.path().join("none")).is_err());
        assert!(lock_dir_to_read(&dir.path().join("none")).is_err());
    }
}
