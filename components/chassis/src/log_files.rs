//! Where log lines go: standard error, standard output, files; and files that are set aside when they are large.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime as Now};

/// Where log lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOutputs {
    /// All of these; standard error, when there are none.
    pub to: Vec<LogOutput>,
    /// When files are set aside. Absent: never.
    pub rotation: Option<LogRotation>,
}

impl LogOutputs {
    /// Whether people read them as they come.
    pub fn is_terminal(&self) -> bool {
        match self.to[..] {
            [] | [LogOutput::Stderr] => io::stderr().is_terminal(),
            [LogOutput::Stdout] => io::stdout().is_terminal(),
            _ => false,
        }
    }
}

/// One of the places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// The end of this file.
    File(PathBuf),
}

/// When a file is set aside, as `NAME-TIME.EXTENSION`, and when those are deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRotation {
    /// No file gets larger.
    pub max_bytes: u64,
    /// Those that are older go. Absent: none does for its age.
    pub max_age: Option<Duration>,
    /// So many are kept. Absent: all.
    pub max_backups: Option<usize>,
}

enum Sink {
    Stderr,
    Stdout,
    File(Mutex<LogFile>),
}

/// Writes every line to all outputs.
pub struct LogWriter(Vec<Sink>);

impl LogWriter {
    /// Opens the files; the error comes with the name of one.
    pub fn open(outputs: &LogOutputs) -> Result<Self, (PathBuf, io::Error)> {
        let sink = |output: &LogOutput| {
            Ok(match output {
                LogOutput::Stderr => Sink::Stderr,
                LogOutput::Stdout => Sink::Stdout,
                LogOutput::File(path) => {
                    let file = LogFile::open(path, outputs.rotation.clone());
                    Sink::File(Mutex::new(file.map_err(|source| (path.clone(), source))?))
                }
            })
        };
        let sinks: Vec<Sink> = outputs.to.iter().map(sink).collect::<Result<_, _>>()?;
        Ok(Self(if sinks.is_empty() { vec![Sink::Stderr] } else { sinks }))
    }
}

impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut outcome = Ok(line.len());
        for sink in &self.0 {
            let written = match sink {
                Sink::Stderr => io::stderr().write_all(line),
                Sink::Stdout => io::stdout().write_all(line),
                Sink::File(file) => file.lock().unwrap_or_else(PoisonError::into_inner).write(line),
            };
            // The others get their line all the same.
            if let Err(error) = written {
                outcome = Err(error);
            }
        }
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    rotation: Option<LogRotation>,
}

impl LogFile {
    fn open(path: &Path, rotation: Option<LogRotation>) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, rotation })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let most = self.rotation.as_ref().map_or(u64::MAX, |rotation| rotation.max_bytes);
        if self.size > 0 && self.size.saturating_add(line.len() as u64) > most {
            self.set_aside()?;
        }
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    fn set_aside(&mut self) -> io::Result<()> {
        let (start, end) = self.name();
        let mut backup = self.path.with_file_name(format!("{start}{}{end}", stamp()));
        let mut more = 0;
        while backup.exists() {
            more += 1;
            backup = self.path.with_file_name(format!("{start}{}.{more}{end}", stamp()));
        }
        fs::rename(&self.path, backup)?;
        self.file = append(&self.path)?;
        self.size = 0;
        self.prune()
    }

    /// What the names of files that were set aside begin and end with.
    fn name(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let end = self.path.extension().map_or_else(String::new, |it| format!(".{}", it.to_string_lossy()));
        (format!("{}-", part(self.path.file_stem())), end)
    }

    fn prune(&self) -> io::Result<()> {
        let Some(rotation) = &self.rotation else { return Ok(()) };
        let (start, end) = self.name();
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut backups = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let between = name.strip_prefix(&start).and_then(|name| name.strip_suffix(&end));
            if between.is_some_and(|stamp| stamp.len() >= STAMP && stamp.as_bytes()[10] == b'T') {
                backups.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        // The newest first; of one moment, by name.
        backups.sort_by(|one, other| other.cmp(one));
        let now = SystemTime::now();
        let is_old = |at: &SystemTime| {
            rotation.max_age.is_some_and(|most| now.duration_since(*at).is_ok_and(|age| age > most))
        };
        for (nth, (at, path)) in backups.iter().enumerate() {
            if rotation.max_backups.is_some_and(|most| nth >= most) || is_old(at) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Length of `2026-01-02T03-04-05.678`.
const STAMP: usize = 23;

/// The time as file names may have it.
fn stamp() -> String {
    let mut text = String::new();
    // Without a clock all have one name, and get numbers.
    let _ = Now.format_time(&mut Writer::new(&mut text));
    text.truncate(STAMP);
    text.replace(':', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn lines_go_to_every_file_and_large_ones_are_set_aside() {
        let dir = tempfile::tempdir().expect("dir");
        let (small, other) = (dir.path().join("logs/server.log"), dir.path().join("other"));
        let rotation = LogRotation { max_bytes: 25, max_age: None, max_backups: Some(2) };
        let to = vec![LogOutput::File(small.clone())];
        let writer = LogWriter::open(&LogOutputs { to, rotation: Some(rotation) }).expect("opened");
        for nth in 0..8 {
            (&writer).write_all(format!("line {nth} 90\n").as_bytes()).expect("written");
        }
        assert_eq!(fs::read_to_string(&small).expect("read"), "line 6 90\nline 7 90\n");
        let all = names(&dir.path().join("logs"));
        assert_eq!(all.len(), 3, "two were kept: {all:?}");
        assert!(
            all.iter().all(|name| name.starts_with("server")
                && Path::new(name).extension().is_some_and(|it| it == "log")),
            "{all:?}"
        );
        // It goes on where it ended.
        let to = vec![LogOutput::File(small.clone()), LogOutput::File(other.clone())];
        let writer = LogWriter::open(&LogOutputs { to, rotation: None }).expect("opened");
        (&writer).write_all(b"more\n").expect("written");
        assert_eq!(fs::read_to_string(&small).expect("read"), "line 6 90\nline 7 90\nmore\n");
        assert_eq!(fs::read_to_string(&other).expect("read"), "more\n");
        let to = vec![LogOutput::File(other.join("file"))];
        let (path, _) = LogWriter::open(&LogOutputs { to, rotation: None }).err().expect("no folder");
        assert_eq!(path, other.join("file"));
    }

    #[test]
    fn old_files_go_and_those_of_others_stay() {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        for name in ["a-2026-01-02T03-04-05.678.log", "a-notes.log", "b-2026-01-02T03-04-05.678.log"] {
            let file = File::create(at(name)).expect("made");
            file.set_modified(SystemTime::UNIX_EPOCH).expect("aged");
        }
        let max_age = Some(Duration::from_hours(1));
        let rotation = LogRotation { max_bytes: 1, max_age, max_backups: None };
        let mut log = LogFile::open(&at("a.log"), Some(rotation)).expect("opened");
        for _ in 0..3 {
            log.write(b"line\n").expect("written");
        }
        let left = names(dir.path());
        assert!(!left.contains(&"a-2026-01-02T03-04-05.678.log".to_owned()), "{left:?}");
        // The file, what is no log of it, another's, and the two that are new.
        assert_eq!(left.len(), 5, "{left:?}");
    }
}
