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

/// How a position's file begins, before the checksum; the first version wrote the position alone, which begins with another
/// byte, and not with one that is a bit away from this.
const SEALED: u8 = 2;

/// Writes a snapshot's position beside its state, durably: under a wrong one, another member would go on from the wrong place.
pub fn write_position(snapshot: &Path, position: &Position) -> io::Result<()> {
    let encoded = position.encode();
    let mut sealed = vec![SEALED];
    sealed.extend_from_slice(&crc32c::crc32c(&encoded).to_le_bytes());
    sealed.extend_from_slice(&encoded);
    fs::write(snapshot.join("position"), sealed)?;
    File::open(snapshot.join("position"))?.sync_all()?;
    File::open(snapshot)?.sync_all()
}

/// Reads it back.
fn read_position(snapshot: &Path) -> io::Result<Position> {
    let path = snapshot.join("position");
    let damaged = |why: &str| io::Error::other(format!("{} is damaged: {why}", path.display()));
    let bytes = Bytes::from(fs::read(&path)?);
    let encoded = match bytes.first() {
        Some(&SEALED) => {
            let stored = bytes.get(1..5).ok_or_else(|| damaged("it is cut short"))?;
            let encoded = bytes.slice(5..);
            if stored != crc32c::crc32c(&encoded).to_le_bytes() {
                return Err(damaged("its checksum is that of something else"));
            }
            encoded
        }
        _ => bytes,
    };
    Position::decode(&encoded).map_err(|error| damaged(&error.to_string()))
}

/// Where the state is of each snapshot that a group keeps in `dir`; their positions are read, and nothing is written.
pub fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let kept = Snapshots { dir: dir.to_owned() };
    let mut states = Vec::new();
    for snapshot in if dir.exists() { kept.list()? } else { Vec::new() } {
        read_position(&snapshot)?;
        states.push(snapshot.join("state"));
    }
    Ok(states)
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
        let position = read_position(&receiving)?;
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
        let position = read_position(&newest)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_a_snapshots_position_can_change_unseen() {
        let dir = tempfile::tempdir().expect("dir");
        let founders = [(7, "one".to_owned()), (9, "other".to_owned())].into();
        let encoded = super::super::types::founding_position(founders).expect("a position");
        let position = Position::decode(&encoded).expect("a position");
        write_position(dir.path(), &position).expect("written");
        assert_eq!(read_position(dir.path()).expect("read").encode(), encoded);
        let path = dir.path().join("position");
        let whole = fs::read(&path).expect("read");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).expect("written");
            let refused = read_position(dir.path()).err().map(|error| error.to_string());
            assert!(refused.is_some_and(|said| said.contains("position is damaged")), "bit {bit}");
        }
        fs::write(&path, &encoded).expect("written");
        assert_eq!(read_position(dir.path()).expect("as the first version wrote it").encode(), encoded);
    }
}
