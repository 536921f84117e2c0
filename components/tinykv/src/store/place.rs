//! Where the state lies below a data directory, and how another takes its place.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The directory of the state below a data directory: `state`, or `state-N` after the Nth
/// snapshot of another member that took its place; the file `STATE` names it then. One that should
/// be there and is not is an error: a new one in its place would forget everything.
pub fn state_dir(data_dir: &Path) -> io::Result<PathBuf> {
    let file = data_dir.join("STATE");
    let first = data_dir.join("state");
    match std::fs::read(&file) {
        Ok(name) => {
            let name = String::from_utf8_lossy(&name);
            let is_one = name.strip_prefix("state-").is_some_and(|number| number.parse::<u64>().is_ok());
            let path = data_dir.join(&*name);
            if is_one && path.is_dir() {
                return Ok(path);
            }
            Err(io::Error::other(format!("{} names {name:?}, which is not there", file.display())))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) if first.is_dir() => Ok(first),
        Err(_) => match others(data_dir)?.next() {
            None => Ok(first),
            Some(other) => {
                let (file, other) = (file.display(), other.display());
                Err(io::Error::other(format!(
                    "{file} is missing, and the state was in {other}, or in one like it"
                )))
            }
        },
    }
}

/// Sees to it that the log below a data directory lies in another one: from the first start on, by a link.
pub fn log_elsewhere(data_dir: &Path, log_dir: &Path) -> io::Result<()> {
    let log = data_dir.join("log");
    std::fs::create_dir_all(log_dir)?;
    let wanted = log_dir.canonicalize()?;
    match std::fs::symlink_metadata(&log) {
        Ok(_) if log.canonicalize()? == wanted => Ok(()),
        Ok(_) => Err(io::Error::other(format!(
            "the log lies in {} already; stop the server, move what is there, and put a link to it in its place",
            log.canonicalize()?.display()
        ))),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) if std::fs::read_dir(&wanted)?.next().is_some() => {
            Err(io::Error::other("it is not empty, and this member has no log yet; name another directory"))
        }
        Err(_) => {
            std::os::unix::fs::symlink(&wanted, &log)?;
            File::open(data_dir)?.sync_all()
        }
    }
}

/// Directories below a data directory that are, were or were to be the state after a snapshot.
fn others(data_dir: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let entries = match std::fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        entries => entries?.collect::<io::Result<Vec<_>>>()?,
    };
    let is_state = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with("state-")) && path.is_dir()
    };
    Ok(entries.into_iter().map(|entry| entry.path()).filter(is_state))
}

/// Copies `copy` to a new state directory beside `current`; not in use before [`adopt`].
pub fn receive(data_dir: &Path, current: &Path, copy: &Path) -> io::Result<PathBuf> {
    let number = current.to_string_lossy().rsplit_once("state-").and_then(|(_, n)| n.parse::<u64>().ok());
    let next = data_dir.join(format!("state-{}", number.unwrap_or(0) + 1));
    if next.exists() {
        std::fs::remove_dir_all(&next)?;
    }
    std::fs::create_dir(&next)?;
    for entry in std::fs::read_dir(copy)? {
        let entry = entry?;
        let (from, to) = (entry.path(), next.join(entry.file_name()));
        // Tables never change; the rest is RocksDB's to rewrite.
        if from.extension().is_some_and(|extension| extension == "sst") {
            std::fs::hard_link(&from, &to)?;
        } else {
            std::fs::copy(&from, &to)?;
            File::open(&to)?.sync_all()?;
        }
    }
    File::open(&next)?.sync_all()?;
    Ok(next)
}

/// From the next start on, `next` is the state.
pub fn adopt(data_dir: &Path, next: &Path) -> io::Result<()> {
    let name = next.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = data_dir.join("STATE.tmp");
    std::fs::write(&temporary, name)?;
    File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, data_dir.join("STATE"))?;
    File::open(data_dir)?.sync_all()
}

/// Removes state directories that are not in use.
pub fn clear_others(data_dir: &Path, current: &Path) -> io::Result<()> {
    let first = Some(data_dir.join("state")).filter(|path| path.is_dir());
    for path in others(data_dir)?.chain(first).filter(|path| path != current) {
        std::fs::remove_dir_all(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_lies_elsewhere_from_the_first_start_on() {
        let dir = tempfile::tempdir().expect("dir");
        let (data, wal) = (dir.path().join("data"), dir.path().join("disk/wal"));
        std::fs::create_dir(&data).expect("folder");
        log_elsewhere(&data, &wal).expect("linked");
        std::fs::write(data.join("log/1.log"), "x").expect("written");
        assert!(wal.join("1.log").is_file());
        log_elsewhere(&data, &wal).expect("as before");
        let other = dir.path().join("other");
        let told = log_elsewhere(&data, &other).expect_err("it lies elsewhere").to_string();
        assert!(told.contains("disk/wal"), "{told}");
        let second = dir.path().join("second");
        std::fs::create_dir(&second).expect("folder");
        assert!(log_elsewhere(&second, &wal).expect_err("another's").to_string().contains("not empty"));
    }

    #[test]
    fn a_state_that_should_be_there_is_not_made_anew() {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        let told = || state_dir(dir.path()).map_err(|error| error.to_string());
        assert_eq!(told(), Ok(at("state")), "at the first start");
        std::fs::create_dir(at("state-3")).expect("folder");
        assert!(told().is_err_and(|said| said.contains("STATE is missing")));
        adopt(dir.path(), &at("state-3")).expect("adopted");
        assert_eq!(told(), Ok(at("state-3")));
        for wrong in ["state-2", "state", "stape-3", "", "state-3/..", "\u{fffd}"] {
            std::fs::write(at("STATE"), wrong).expect("written");
            assert!(told().is_err_and(|said| said.contains("STATE names")), "{wrong}");
        }
        std::fs::remove_file(at("STATE")).expect("removed");
        std::fs::create_dir(at("state")).expect("folder");
        assert_eq!(told(), Ok(at("state")), "one that was received, and not adopted");
        clear_others(dir.path(), &at("state")).expect("cleared");
        assert!(!at("state-3").exists());
    }
}
