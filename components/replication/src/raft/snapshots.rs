//! Snapshots are directories of files: `<dir>/<index, 16 hex digits>/{position, state/…}`.
//! One is kept. It appears under its name only when all of it is on disk.

use super::types::Position;
use bytes::Bytes;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The files of one snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotFiles {
    /// The state machine's own files.
    pub state: PathBuf,
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
        let building = dir.join("building");
        if building.exists() {
            fs::remove_dir_all(&building)?;
        }
        Ok(Self { dir })
    }

    /// Has `fill` write a state machine's files, and keeps them as the current snapshot.
    pub fn build(
        &self,
        fill: impl FnOnce(&Path) -> io::Result<Bytes>,
    ) -> io::Result<(Position, SnapshotFiles)> {
        let building = self.dir.join("building");
        if building.exists() {
            fs::remove_dir_all(&building)?;
        }
        fs::create_dir(&building)?;
        let position = Position::decode(&fill(&building.join("state"))?)?;
        fs::write(building.join("position"), position.encode())?;
        File::open(building.join("position"))?.sync_all()?;
        File::open(&building)?.sync_all()?;
        let index = position.applied.map_or(0, |id| id.index());
        let name = self.dir.join(format!("{index:016x}"));
        if name.exists() {
            fs::remove_dir_all(&name)?;
        }
        fs::rename(&building, &name)?;
        File::open(&self.dir)?.sync_all()?;
        for other in self.list()?.into_iter().filter(|other| *other != name) {
            fs::remove_dir_all(other)?;
        }
        Ok((position, SnapshotFiles { state: name.join("state") }))
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
            if path.file_name().is_some_and(|name| name != "building") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}
