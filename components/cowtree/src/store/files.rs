use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file that is being written.
pub trait NewFile: Write + Send {
    /// Answers when everything written so far is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is whole and only read.
pub trait OldFile: Send + Sync {
    /// Bytes in it.
    fn size(&self) -> io::Result<u64>;

    /// Fills `into` from `offset` on.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// The files of one directory, as far as a store needs them. The disk is one; a model that loses what
/// was not synced is the other.
pub trait Files: Send + Sync {
    /// The name of a file for messages, with its directory.
    fn path(&self, name: &str) -> PathBuf;

    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading.
    fn open(&self, name: &str) -> io::Result<Box<dyn OldFile>>;

    /// Starts a file anew.
    fn create(&self, name: &str) -> io::Result<Box<dyn NewFile>>;

    /// Puts a file in the place of another, as one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a file away.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Answers when creations, renames and removals so far are on the disk.
    fn sync_names(&self) -> io::Result<()>;
}

/// A directory on the disk, locked for as long as this lives.
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

const LOCK: &str = "LOCK";

impl Directory {
    /// Makes the directory if there is none, and locks it against other processes.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
            sync_directory(path.parent().unwrap_or(Path::new("/")))?;
        }
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK))?;
        lock.try_lock().map_err(|refused| match refused {
            fs::TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another store has this directory open")
            }
            fs::TryLockError::Error(error) => error,
        })?;
        Ok(Self { path, _lock: lock })
    }
}

impl Files for Directory {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != LOCK {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OldFile>> {
        Ok(Box::new(File::open(self.path(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(File::create(self.path(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }
}

impl NewFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl OldFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}
