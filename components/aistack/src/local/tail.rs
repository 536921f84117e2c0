//! Logs of pods: the end of a file, and what is added to it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes looked at to find the last lines of a log.
const WINDOW: u64 = 256 << 10;

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

/// The last line that says something, shortened for a table.
pub fn last_line(path: &Path) -> Option<String> {
    let lines = last_lines(path, 20).ok()?;
    let line = lines.iter().rev().find(|line| !line.trim().is_empty())?;
    let text = log_message(line.trim());
    Some(if text.chars().count() > 160 { text.chars().take(159).chain(['…']).collect() } else { text })
}

/// The message of a JSON log line; any other line as it is.
fn log_message(line: &str) -> String {
    let message = serde_json::from_str::<serde_json::Value>(line).ok().and_then(|json| {
        let message =
            json.pointer("/fields/message").or_else(|| json.get("message")).or_else(|| json.get("msg"))?;
        Some(message.as_str()?.to_owned())
    });
    message.unwrap_or_else(|| line.to_owned())
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
        std::fs::write(&path, "a\n{\"level\":\"ERROR\",\"fields\":{\"message\":\"port taken\"}}\n\n")
            .expect("written");
        assert_eq!(last_line(&path).as_deref(), Some("port taken"));
        assert_eq!(last_lines(&path, 1).expect("read"), [""]);
        assert_eq!(last_lines(&path, 9).expect("read").len(), 3);
        assert_eq!(last_line(&folder.path().join("none")), None);
    }
}
