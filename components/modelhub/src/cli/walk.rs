//! The files of a directory that is to be ingested. Nothing outside of it is read, and nothing twice.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::CliError;
use crate::rag::check_path;

/// Why links are passed over.
const LEADS_OUT: &str = "links that lead out of the directory";
const BROKEN: &str = "links that lead nowhere";
const TWICE: &str = "links to what is there already";
const NOT_REGULAR: &str = "pipes, sockets and devices; only regular files are read";
const BAD_NAME: &str = "names that are not UTF-8, hold control characters or are too long; rename them";

/// How far links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// As long as they stay below the directory.
    Inside,
    /// Anywhere: the snapshots of model hubs are links into a store beside them.
    Anywhere,
}

/// What is below a directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Name in the rag (relative, with `/`) and path, sorted by name.
    pub files: Vec<(String, PathBuf)>,
    /// What was passed over: why, and the names, fit to be printed.
    pub skipped: BTreeMap<&'static str, Vec<String>>,
    /// Folders that could not be read, with what the system said.
    pub unread: Vec<(String, String)>,
}

/// All files below a directory (or the file itself); hidden ones are left out. Each real folder and file is taken once.
pub fn walk(root: &Path, follow: Links) -> Result<Found, CliError> {
    let real = root.canonicalize().map_err(|e| CliError::file(root, e))?;
    let metadata = std::fs::metadata(&real).map_err(|e| CliError::file(root, e))?;
    let mut walker =
        Walker { root: real, follow, found: Found::default(), seen: HashSet::new(), links: VecDeque::new() };
    if !metadata.is_dir() {
        regular(root, metadata.file_type())?;
        let name = root.file_name().unwrap_or_default();
        if let Some(name) = walker.name("", name) {
            walker.found.files.push((name, root.to_owned()));
        }
        return Ok(walker.found);
    }
    std::fs::read_dir(root).map_err(|e| CliError::file(root, e))?;
    let top = walker.root.clone();
    walker.folder(String::new(), top);
    // Links last: what they lead to keeps its own name when it is below the directory anyway.
    while let Some((name, path)) = walker.links.pop_front() {
        walker.link(name, &path);
    }
    walker.found.files.sort();
    Ok(walker.found)
}

/// Refuses what is no regular file: reading a pipe would wait for somebody who writes.
pub fn regular(path: &Path, kind: std::fs::FileType) -> Result<(), CliError> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a named pipe (FIFO)",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(CliError::Usage(format!("{} is {what}, not a file: copy what it holds into a file", path.display())))
}

struct Walker {
    root: PathBuf,
    follow: Links,
    found: Found,
    /// Real paths that were taken.
    seen: HashSet<PathBuf>,
    links: VecDeque<(String, PathBuf)>,
}

impl Walker {
    fn folder(&mut self, prefix: String, folder: PathBuf) {
        let mut folders = vec![(prefix, folder)];
        while let Some((prefix, folder)) = folders.pop() {
            if !self.seen.insert(folder.clone()) {
                continue;
            }
            let mut entries: Vec<_> = match std::fs::read_dir(&folder) {
                Ok(entries) => entries.filter_map(Result::ok).collect(),
                Err(error) => {
                    let name = prefix.trim_end_matches('/').to_owned();
                    self.found.unread.push((name, format!("cannot be read: {error}")));
                    continue;
                }
            };
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let name = entry.file_name();
                if name.as_encoded_bytes().starts_with(b".") {
                    continue;
                }
                let Some(name) = self.name(&prefix, &name) else { continue };
                match entry.file_type() {
                    Ok(kind) if kind.is_symlink() => self.links.push_back((name, entry.path())),
                    Ok(kind) if kind.is_dir() => folders.push((format!("{name}/"), entry.path())),
                    Ok(kind) if kind.is_file() => self.file(name, entry.path()),
                    Ok(_) => self.skip(NOT_REGULAR, name),
                    Err(error) => self.found.unread.push((name, format!("cannot be read: {error}"))),
                }
            }
        }
    }

    fn file(&mut self, name: String, path: PathBuf) {
        self.seen.insert(path.clone());
        self.found.files.push((name, path));
    }

    fn link(&mut self, name: String, path: &Path) {
        let Ok(target) = path.canonicalize() else { return self.skip(BROKEN, name) };
        if self.follow == Links::Inside && !target.starts_with(&self.root) {
            return self.skip(LEADS_OUT, format!("{name} → {}", target.display()));
        }
        // Two names of one blob are two files of a model, but one document.
        let repeated = target.is_dir() || self.follow == Links::Inside;
        if repeated && self.seen.contains(&target) {
            return self.skip(TWICE, name);
        }
        if target.is_dir() {
            self.folder(format!("{name}/"), target);
        } else if target.is_file() {
            self.file(name, target);
        } else {
            self.skip(NOT_REGULAR, name);
        }
    }

    /// The name in the rag; `None` for one that would be another name there, or none.
    fn name(&mut self, prefix: &str, name: &OsStr) -> Option<String> {
        let whole =
            name.to_str().map(|name| format!("{prefix}{name}")).filter(|name| check_path(name).is_ok());
        if whole.is_none() {
            // Quoted and escaped: a line break in a name must not break the line.
            let quoted = name.as_encoded_bytes().escape_ascii();
            self.skip(BAD_NAME, format!("\"{prefix}{quoted}\""));
        }
        whole
    }

    fn skip(&mut self, why: &'static str, name: String) {
        self.found.skipped.entry(why).or_default().push(name);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_inside_and_once() {
        let outside = tempfile::tempdir().expect("a folder");
        std::fs::write(outside.path().join("passwd"), "secret").expect("written");
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        for folder in ["docs/deep", ".hidden", "other"] {
            std::fs::create_dir_all(root.join(folder)).expect("made");
        }
        for file in ["a.md", "docs/b.md", "docs/deep/c.md", ".hidden/d.md"] {
            std::fs::write(root.join(file), "text").expect("written");
        }
        for (target, link) in [
            (".", "loop"),
            ("../../docs", "docs/deep/up"),
            (".hidden/d.md", "shown.md"),
            ("a.md", "again.md"),
            ("nowhere.md", "broken.md"),
        ] {
            symlink(target, root.join(link)).expect("linked");
        }
        symlink(outside.path().join("passwd"), root.join("passwd.txt")).expect("linked");
        symlink(outside.path(), root.join("away")).expect("linked");
        let found = walk(root, Links::Inside).expect("walked");
        let names: Vec<&str> = found.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.md", "docs/b.md", "docs/deep/c.md", "shown.md"]);
        let skipped: Vec<(&str, usize)> =
            found.skipped.iter().map(|(why, names)| (*why, names.len())).collect();
        assert_eq!(skipped, [(BROKEN, 1), (LEADS_OUT, 2), (TWICE, 3)]);
        // A link that is named on the command line is the user's own choice.
        symlink(root, outside.path().join("link")).expect("linked");
        assert_eq!(walk(&outside.path().join("link"), Links::Inside).expect("walked").files.len(), 4);
    }

    #[test]
    fn a_models_snapshot_is_links_into_its_store() {
        let dir = tempfile::tempdir().expect("a folder");
        for folder in ["blobs", "snapshot"] {
            std::fs::create_dir(dir.path().join(folder)).expect("made");
        }
        std::fs::write(dir.path().join("blobs/9f2e"), "weights").expect("written");
        symlink("../blobs/9f2e", dir.path().join("snapshot/model.gguf")).expect("linked");
        let snapshot = dir.path().join("snapshot");
        assert_eq!(walk(&snapshot, Links::Anywhere).expect("walked").files[0].0, "model.gguf");
        assert!(walk(&snapshot, Links::Inside).expect("walked").files.is_empty());
    }

    #[test]
    fn names_that_a_rag_cannot_hold_are_skipped_and_said() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in [&b"ok.md"[..], b"line\nbreak.md", b"latin-\xe9.md", b"latin-\xe8.md", "Ä.md".as_bytes()]
        {
            std::fs::write(dir.path().join(OsStr::from_bytes(name)), "text").expect("written");
        }
        let found = walk(dir.path(), Links::Inside).expect("walked");
        let names: Vec<&str> = found.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ok.md", "Ä.md"]);
        let said = &found.skipped[BAD_NAME];
        assert_eq!(said.len(), 3);
        assert!(said.iter().all(|name| !name.contains('\n')), "{said:?}");
        assert!(said.contains(&"\"latin-\\xe9.md\"".to_owned()), "{said:?}");
    }

    #[test]
    fn pipes_are_refused_by_name_and_skipped_with_a_word_in_a_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let fifo = dir.path().join("fifo.txt");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
        assert!(made.success());
        symlink("fifo.txt", dir.path().join("link.txt")).expect("linked");
        std::fs::write(dir.path().join("a.md"), "text").expect("written");
        let error = walk(&fifo, Links::Inside).expect_err("a pipe").to_string();
        assert!(error.contains("is a named pipe (FIFO), not a file"), "{error}");
        let found = walk(dir.path(), Links::Inside).expect("walked");
        assert_eq!(found.files.len(), 1);
        assert_eq!(found.skipped[NOT_REGULAR], ["fifo.txt", "link.txt"]);
    }

    #[test]
    fn one_file_is_its_own_directory() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a.md");
        std::fs::write(&file, "text").expect("written");
        assert_eq!(walk(&file, Links::Inside).expect("walked").files, [("a.md".to_owned(), file)]);
        assert!(walk(&dir.path().join("missing"), Links::Inside).is_err());
    }
}
