//! Logs of pods: the end of a file, and what is added to it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::log_line::complaint;

/// Bytes looked at to find the last lines of a log.
const WINDOW: u64 = 256 << 10;
/// Longest complaint that a table shows.
const COMPLAINT_CHARS: usize = 160;

/// The last lines of a log, oldest first.
pub fn last_lines(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(WINDOW);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut found: Vec<&str> = text.lines().collect();
    if begin > 0 && !found.is_empty() {
        // The first one is cut.
        found.remove(0);
    }
    Ok(found[found.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
}

/// What a pod last complained of, shortened for a table. Only what it said after `from` counts.
pub fn last_complaint(path: &Path, from: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // A log that was set aside meanwhile begins anew.
    let from = if length < from { 0 } else { from };
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(WINDOW)))).ok()?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let complaint = text.lines().rev().take(20).find_map(complaint)?;
    let long = complaint.chars().count() > COMPLAINT_CHARS;
    Some(if long { complaint.chars().take(COMPLAINT_CHARS - 1).chain(['…']).collect() } else { complaint })
}

/// Sets a log aside that has grown too large while its pod runs. The pod goes on writing into the same file, which is why
/// it is copied and cut; what it writes in between may be lost.
pub fn cut(path: &Path, limit: u64) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > limit => {
            std::fs::copy(path, path.with_extension("log.1"))?;
            File::options().write(true).open(path)?.set_len(0)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What is added to a log from now on, by whole lines.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    inode: u64,
    position: u64,
    partial: Vec<u8>,
}

impl Follower {
    /// Follows a log from its end, or from its beginning when it does not exist yet.
    pub fn from_end(path: PathBuf) -> Self {
        let meta = std::fs::metadata(&path);
        let (inode, position) = meta.map_or((0, 0), |meta| (meta.ino(), meta.len()));
        Self { path, inode, position, partial: Vec::new() }
    }

    /// The lines added since the last call. A log that was set aside or cut is followed from its beginning.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        if meta.ino() != self.inode || meta.len() < self.position {
            self.inode = meta.ino();
            self.position = 0;
            self.partial.clear();
        }
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = Vec::new();
        let read = file.take(WINDOW).read_to_end(&mut bytes)?;
        self.position += read as u64;
        self.partial.append(&mut bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn follows_whole_lines_over_rotation() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pod.log");
        let mut follower = Follower::from_end(path.clone());
        assert_eq!(follower.lines().expect("no file yet"), Vec::<String>::new());
        let mut file = File::create(&path).expect("created");
        file.write_all(b"one\ntwo\nthr").expect("written");
        assert_eq!(follower.lines().expect("read"), ["one", "two"]);
        file.write_all(b"ee\n").expect("written");
        assert_eq!(follower.lines().expect("read"), ["three"]);
        std::fs::rename(&path, folder.path().join("pod.log.1")).expect("set aside");
        std::fs::write(&path, "four\n").expect("written");
        assert_eq!(follower.lines().expect("read"), ["four"]);
    }

    #[test]
    fn the_last_words_of_a_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pod.log");
        let text = "old trouble\n{\"level\":\"ERROR\",\"message\":\"port taken\"}\n{\"level\":\"INFO\",\"message\":\"bye\"}\n\n";
        std::fs::write(&path, text).expect("written");
        assert_eq!(last_complaint(&path, 0).as_deref(), Some("port taken"));
        assert_eq!(last_complaint(&path, text.len() as u64), None, "what an earlier run said does not count");
        assert_eq!(last_lines(&path, 1).expect("read"), [""]);
        assert_eq!(last_lines(&path, 9).expect("read").len(), 4);
        assert_eq!(last_complaint(&folder.path().join("none"), 0), None);
    }

    #[test]
    fn a_large_log_is_cut_under_its_writer() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pod.log");
        let mut writer = File::options().create(true).append(true).open(&path).expect("created");
        writer.write_all(b"one\ntwo\n").expect("written");
        cut(&path, 100).expect("small enough");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "one\ntwo\n");
        cut(&path, 4).expect("cut");
        writer.write_all(b"three\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "three\n");
        assert_eq!(std::fs::read_to_string(folder.path().join("pod.log.1")).expect("read"), "one\ntwo\n");
    }
}
