//! Tar archives of which every byte follows from what is in them: sorted, one moment, no names of users.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

const BLOCK: usize = 512;

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Folder,
    File(Vec<u8>),
}

/// A path of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    content: Content,
    mode: u32,
    owner: u32,
}

/// A tree of files, from which an archive is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Adds a file, and the folders above it. `path` has no leading slash.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.parents(path);
        self.0.insert(path.to_owned(), Entry { content: Content::File(bytes), mode, owner: 0 });
    }

    /// Adds a folder of somebody, and the folders above it.
    pub(super) fn folder(&mut self, path: &str, mode: u32, owner: u32) {
        self.parents(path);
        self.0.insert(path.to_owned(), Entry { content: Content::Folder, mode, owner });
    }

    fn parents(&mut self, path: &str) {
        for (slash, _) in path.match_indices('/') {
            let folder = Entry { content: Content::Folder, mode: 0o755, owner: 0 };
            self.0.entry(path[..slash].to_owned()).or_insert(folder);
        }
    }

    /// The archive, in the format that POSIX calls ustar.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (path, entry) in &self.0 {
            out.extend(header(path, entry)?);
            if let Content::File(bytes) = &entry.content {
                out.extend_from_slice(bytes);
                out.resize(out.len().next_multiple_of(BLOCK), 0);
            }
        }
        // Two empty blocks end an archive.
        out.resize(out.len() + 2 * BLOCK, 0);
        Ok(out)
    }
}

fn header(path: &str, entry: &Entry) -> Result<[u8; BLOCK]> {
    let (kind, size, path) = match &entry.content {
        Content::Folder => (b'5', 0, format!("{path}/")),
        Content::File(bytes) => (b'0', bytes.len(), path.to_owned()),
    };
    ensure!(size < 1 << 33, "{path} has {size} bytes, and a tar archive says up to 8 GiB");
    let (prefix, name) = split(&path)?;
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{:07o}", entry.mode));
    put(108, &format!("{:07o}", entry.owner));
    put(116, &format!("{:07o}", entry.owner));
    put(124, &format!("{size:011o}"));
    // The moment of every file: images of the same files are the same image.
    put(136, &format!("{:011o}", 0));
    // The sum is taken with blanks in its own place.
    put(148, "        ");
    put(257, "ustar\u{0}00");
    put(345, prefix);
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// A name of up to 100 bytes, and what goes before it.
fn split(path: &str) -> Result<(&str, &str)> {
    if path.len() <= 100 {
        return Ok(("", path));
    }
    path.match_indices('/')
        .map(|(slash, _)| (&path[..slash], &path[slash + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && !name.is_empty() && name.len() <= 100)
        .with_context(|| format!("a tar archive has no room for so long a path: {path}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_what_was_written() {
        let long = format!("{}/{}", "a".repeat(90), "b".repeat(90));
        let mut tree = Tree::default();
        tree.file("usr/bin/tinykv", 0o755, b"program".to_vec());
        tree.file(&long, 0o644, vec![7; 1025]);
        tree.folder("tmp", 0o1777, 0);
        tree.folder("var/lib/aistack", 0o755, 65532);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar");
        std::fs::write(&file, tree.archive().unwrap()).unwrap();
        let listed = Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&file).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let text = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<(&str, &str, &str)> = text
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words[0], words[1], words[5])
            })
            .collect();
        let expected = [
            ("drwxr-xr-x", "0/0", format!("{}/", "a".repeat(90))),
            ("-rw-r--r--", "0/0", long),
            ("drwxrwxrwt", "0/0", "tmp/".to_owned()),
            ("drwxr-xr-x", "0/0", "usr/".to_owned()),
            ("drwxr-xr-x", "0/0", "usr/bin/".to_owned()),
            ("-rwxr-xr-x", "0/0", "usr/bin/tinykv".to_owned()),
            ("drwxr-xr-x", "0/0", "var/".to_owned()),
            ("drwxr-xr-x", "0/0", "var/lib/".to_owned()),
            ("drwxr-xr-x", "65532/65532", "var/lib/aistack/".to_owned()),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(mode, owner, path)| (*mode, *owner, path.as_str())).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_order_of_adding_is_not_in_the_archive() {
        let (mut one, mut other) = (Tree::default(), Tree::default());
        for path in ["b/x", "a/y"] {
            one.file(path, 0o644, path.into());
        }
        for path in ["a/y", "b/x"] {
            other.file(path, 0o644, path.into());
        }
        assert_eq!(one.archive().unwrap(), other.archive().unwrap());
    }

    #[test]
    fn a_path_without_room_is_refused() {
        let mut tree = Tree::default();
        tree.file(&"x".repeat(101), 0o644, Vec::new());
        let error = tree.archive().unwrap_err().to_string();
        assert!(error.contains("no room for so long a path"), "{error}");
    }
}
