//! Snapshots are directories of files: `<dir>/<index, 16 hex digits>/{position, state/…}`.
//! One is kept. It appears under its name only when all of it is on disk.

use super::types::Position;
use bytes::Bytes;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const BUILDING: &str = "building";
const RECEIVING: &str = "receiving";
const UNFINISHED: [&str; 2] = [BUILDING, RECEIVING];

/// Writes a snapshot's position beside its state, durably.
pub fn write_position(snapshot: &Path, position: &Position) -> io::Result<()> {
    fs::write(snapshot.join("position"), position.encode())?;
    File::open(snapshot.join("position"))?.sync_all()?;
    File::open(snapshot)?.sync_all()
}

fn clear(path: &Path) -> io::Result<()> {
    if path.exists() { fs::remove_dir_all(path) } else { Ok(()) }
}

/// The files of one snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotFiles {
    /// The state machine's own files.
    pub state: PathBuf,
}

impl SnapshotFiles {
    /// Opens every file: its path below the state's directory, the file, its size. An open file
    /// can be read even after the snapshot was replaced by a newer one.
    pub fn open(&self) -> io::Result<Vec<(String, File, u64)>> {
        let mut opened = Vec::new();
        let mut directories = vec![self.state.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let name = path.strip_prefix(&self.state).ok().and_then(Path::to_str);
                let name = name.ok_or_else(|| io::Error::other("a snapshot's file has no readable name"))?;
                let file = File::open(&path)?;
                let size = file.metadata()?.len();
                opened.push((name.to_owned(), file, size));
            }
        }
        opened.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(opened)
    }
}

/// The directory of a group's snapshots.
#[derive(Debug, Clone)]
pub struct Snapshots {
    dir: PathBuf,
}

impl Snapshots {
    /// Uses `dir`, and clears away a snapshot that was being built when the process stopped.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        for unfinished in UNFINISHED {
            clear(&dir.join(unfinished))?;
        }
        Ok(Self { dir })
    }

    /// Has `fill` write a state machine's files, and keeps them as the current snapshot.
    pub fn build(
        &self,
        fill: impl FnOnce(&Path) -> io::Result<Bytes>,
    ) -> io::Result<(Position, SnapshotFiles)> {
        let building = self.dir.join(BUILDING);
        clear(&building)?;
        fs::create_dir(&building)?;
        let position = Position::decode(&fill(&building.join("state"))?)?;
        write_position(&building, &position)?;
        let files = self.keep(&building, &position)?;
        Ok((position, files))
    }

    /// Starts to receive a snapshot; what was received before and not adopted is dropped.
    pub fn receive(&self) -> io::Result<PathBuf> {
        let receiving = self.dir.join(RECEIVING);
        clear(&receiving)?;
        fs::create_dir_all(receiving.join("state"))?;
        Ok(receiving)
    }

    /// Keeps a snapshot that was received as the current one.
    pub fn adopt(&self, files: SnapshotFiles) -> io::Result<SnapshotFiles> {
        let receiving = self.dir.join(RECEIVING);
        if files.state != receiving.join("state") {
            return Ok(files);
        }
        let position = Position::decode(&fs::read(receiving.join("position"))?.into())?;
        self.keep(&receiving, &position)
    }

    fn keep(&self, finished: &Path, position: &Position) -> io::Result<SnapshotFiles> {
        let index = position.applied.map_or(0, |id| id.index());
        let name = self.dir.join(format!("{index:016x}"));
        if name.exists() {
            fs::remove_dir_all(&name)?;
        }
        fs::rename(finished, &name)?;
        File::open(&self.dir)?.sync_all()?;
        for other in self.list()?.into_iter().filter(|other| *other != name) {
            fs::remove_dir_all(other)?;
        }
        Ok(SnapshotFiles { state: name.join("state") })
    }

    /// The snapshot there is.
    pub fn current(&self) -> io::Result<Option<(Position, SnapshotFiles)>> {
        let Some(newest) = self.list()?.pop() else { return Ok(None) };
        let position = Position::decode(&fs::read(newest.join("position"))?.into())?;
        Ok(Some((position, SnapshotFiles { state: newest.join("state") })))
    }

    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let finished = |name: &std::ffi::OsStr| UNFINISHED.iter().all(|unfinished| name != *unfinished);
            if path.file_name().is_some_and(finished) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}
