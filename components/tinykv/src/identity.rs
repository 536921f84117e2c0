//! Who this member is. Written once, before anything else in the data directory, and never
//! changed: a member that came back with another identity would vote twice.

use aistack_api::tinykv::{DEFAULT_CLUSTER_TOKEN, Founder};
use aistack_chassis::dir_lock::{LOCK, lock_dir, lock_dir_to_read};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The cluster's and the member's id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The same on every member of a cluster.
    pub cluster_id: u64,
    /// This member's; also its Raft node id.
    pub member_id: u64,
    /// Whether it listens to peers.
    #[serde(default)]
    pub has_peers: bool,
    /// Whether it joined a cluster that was founded before.
    #[serde(default)]
    pub joined: bool,
    /// Whether it has yet to hear that the others found the same cluster; until then it takes no part in one.
    #[serde(default)]
    pub awaits_founders: bool,
    /// Whether it was removed from its cluster: then this data is of no use any more.
    #[serde(default)]
    pub removed: bool,
}

impl Identity {
    /// A cluster of one.
    pub fn alone() -> Self {
        Self { cluster_id: random_id(), member_id: random_id(), ..Self::default() }
    }

    /// A member that was added to a cluster.
    pub fn joined(cluster_id: u64, member_id: u64) -> Self {
        Self { cluster_id, member_id, has_peers: true, joined: true, ..Self::default() }
    }

    /// The member `name` of those that found a cluster on the state that `seed` stands for; with nobody beside it, a
    /// cluster of one. Of another state, and of the cluster that the state comes from, the cluster's id differs.
    pub fn restored(founders: &[Founder], token: &str, name: &str, seed: u64) -> Self {
        if founders.is_empty() {
            return Self::alone();
        }
        let founded = Self::among(founders, token, name);
        Self { cluster_id: mix(founded.cluster_id, seed).max(1), ..founded }
    }

    /// The member `name` of those that found a cluster: each of them comes to the same ids. With another token the cluster is
    /// another one.
    pub fn among(founders: &[Founder], token: &str, name: &str) -> Self {
        let founded = founders.iter().fold(SEED, |hash, founder| mix(hash, member_id(founder)));
        // Those that were founded when the token did not count yet had the default.
        let cluster_id = match token {
            DEFAULT_CLUSTER_TOKEN => founded,
            token => token.bytes().fold(founded, |hash, byte| mix(hash, u64::from(byte))).max(1),
        };
        let member_id = founders.iter().find(|founder| founder.name == name).map_or(0, member_id);
        Self { cluster_id, member_id, has_peers: true, ..Self::default() }
    }
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// The id of a member that founds a cluster.
pub fn member_id(founder: &Founder) -> u64 {
    let bytes = founder.name.bytes().chain([0]).chain(founder.address.bytes());
    // Not 0, which stands for nobody.
    bytes.fold(SEED, |hash, byte| mix(hash, u64::from(byte))).max(1)
}

/// A step of splitmix64.
fn mix(hash: u64, value: u64) -> u64 {
    let mut mixed = (hash ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What stands in the file: an identity with one digit changed would be another member's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    identity: Identity,
    /// CRC-32C of the identity, as compact JSON.
    crc32c: u32,
}

impl Stored {
    fn new(identity: Identity) -> io::Result<Self> {
        let crc32c = crc32c::crc32c(&serde_json::to_vec(&identity)?);
        Ok(Self { identity, crc32c })
    }
}

/// Reads what [`write`] has written.
fn parse(bytes: &[u8]) -> Result<Identity, String> {
    let stored: Stored = match serde_json::from_slice(bytes) {
        Ok(stored) => stored,
        // The first version wrote it bare; no bit makes one of the other.
        Err(error) => return serde_json::from_slice(bytes).map_err(|_| error.to_string()),
    };
    let whole = Stored::new(stored.identity).map_err(|error| error.to_string())?;
    if whole.crc32c == stored.crc32c {
        Ok(stored.identity)
    } else {
        Err("it is damaged: its checksum is that of something else".to_owned())
    }
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The system refused.
    #[error("cannot use the data directory {path}: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process holds it.
    #[error("the data directory {path} is in use by another process; stop that one, or use another directory", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A member writes there.
    #[error("a server is running on the data directory {path}, and what it writes would look like damage; stop it first", path = path.display())]
    Running {
        /// The directory.
        path: PathBuf,
    },
    /// There is data, but nothing says whose.
    #[error("{path} holds data but no identity.json; restore that file, or use another directory", path = path.display())]
    Lost {
        /// The directory.
        path: PathBuf,
    },
    /// There is something in it.
    #[error("{path} is not empty; restore into a directory that is, or does not exist", path = path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The identity cannot be read.
    #[error("{path} cannot be read: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Keeps other processes out of a data directory while it lives.
#[derive(Debug)]
pub struct DirLock(#[expect(dead_code, reason = "held, never read")] File);

/// Takes `dir`, creating it if there is none; answers who its member is: `first`, at the first
/// start.
pub fn take(dir: &Path, first: Identity) -> Result<(Identity, DirLock), IdentityError> {
    let failed = |source| IdentityError::Directory { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    let lock = lock(dir)?;
    let path = dir.join("identity.json");
    match fs::read(&path) {
        Ok(bytes) => {
            let identity =
                parse(&bytes).map_err(|reason| IdentityError::Malformed { path: path.clone(), reason })?;
            if identity.awaits_founders {
                // It took no part in any cluster yet, and the settings may name another one by now.
                write(dir, &path, first).map_err(failed)?;
                return Ok((first, lock));
            }
            Ok((identity, lock))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if [FILLING, "log", "state"].iter().any(|name| dir.join(name).exists()) {
                return Err(IdentityError::Lost { path: dir.to_owned() });
            }
            write(dir, &path, first).map_err(failed)?;
            Ok((first, lock))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Whose data `dir` holds.
pub fn read(dir: &Path) -> Result<Identity, IdentityError> {
    let path = dir.join("identity.json");
    let bytes = fs::read(&path).map_err(|source| IdentityError::Directory { path: path.clone(), source })?;
    parse(&bytes).map_err(|reason| IdentityError::Malformed { path, reason })
}

/// Keeps a member from starting in `dir` while somebody reads there, and changes nothing in it; refused while one runs. A
/// directory in which none ever ran needs no lock.
pub fn hold(dir: &Path) -> Result<Option<DirLock>, IdentityError> {
    match lock_dir_to_read(dir) {
        Ok(Some(lock)) => Ok(Some(DirLock(lock))),
        Ok(None) => Err(IdentityError::Running { path: dir.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Directory { path: dir.to_owned(), source }),
    }
}

/// A file in a directory that data is put into, until the identity is there: before that, what is beside it is nobody's.
const FILLING: &str = "FILLING";

/// Takes `dir`, which must be empty or absent, for data that is about to be put there. `again`: what another time left that was
/// interrupted goes first.
pub fn reserve(dir: &Path, again: bool) -> Result<DirLock, IdentityError> {
    let failed = |source| IdentityError::Directory { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    let lock = lock(dir)?;
    if again && dir.join(FILLING).exists() && !dir.join("identity.json").exists() {
        empty(dir).map_err(failed)?;
    }
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != LOCK && name != "lost+found" {
            return Err(IdentityError::NotEmpty { path: dir.to_owned() });
        }
    }
    let begin = || {
        File::create(dir.join(FILLING))?.sync_all()?;
        File::open(dir)?.sync_all()
    };
    begin().map_err(failed)?;
    Ok(lock)
}

/// Takes away what was put there since [`reserve`], and the mark last.
pub fn empty(dir: &Path) -> io::Result<()> {
    for name in ["state", "log", "identity.tmp", FILLING] {
        let path = dir.join(name);
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        match if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// From now on the data in `dir` is this member's.
pub fn give(dir: &Path, identity: Identity) -> Result<(), IdentityError> {
    write(dir, &dir.join("identity.json"), identity)
        .map_err(|source| IdentityError::Directory { path: dir.to_owned(), source })?;
    // Beside an identity it says nothing.
    let _ = fs::remove_file(dir.join(FILLING));
    Ok(())
}

/// Whether `dir` belongs to a member already that took part in a cluster.
pub fn is_taken(dir: &Path) -> bool {
    let awaits = |bytes: Vec<u8>| parse(&bytes).is_ok_and(|identity| identity.awaits_founders);
    fs::read(dir.join("identity.json")).is_ok_and(|bytes| !awaits(bytes))
}

/// Notes that the member was removed from its cluster.
pub fn retire(dir: &Path, identity: Identity) -> io::Result<()> {
    write(dir, &dir.join("identity.json"), Identity { removed: true, ..identity })
}

/// Notes that the others found the same cluster.
pub fn found(dir: &Path, identity: Identity) -> Result<Identity, IdentityError> {
    let founded = Identity { awaits_founders: false, ..identity };
    write(dir, &dir.join("identity.json"), founded)
        .map_err(|source| IdentityError::Directory { path: dir.to_owned(), source })?;
    Ok(founded)
}

fn lock(dir: &Path) -> Result<DirLock, IdentityError> {
    let lock = lock_dir(dir).map_err(|source| IdentityError::Directory { path: dir.to_owned(), source })?;
    lock.map(DirLock).ok_or_else(|| IdentityError::InUse { path: dir.to_owned() })
}

fn write(dir: &Path, path: &Path, identity: Identity) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(serde_json::to_string_pretty(&Stored::new(identity)?)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

/// A number that nobody else has drawn, not 0.
pub fn random_id() -> u64 {
    rand::random_range(1..=u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_drawn_once_and_kept() {
        let dir = tempfile::tempdir().expect("dir");
        let (first, lock) = take(dir.path(), Identity::alone()).expect("taken");
        assert!(matches!(take(dir.path(), Identity::alone()), Err(IdentityError::InUse { .. })));
        assert!(matches!(hold(dir.path()), Err(IdentityError::Running { .. })));
        drop(lock);
        drop(hold(dir.path()).expect("nobody runs"));
        assert!(hold(&dir.path().join("none")).expect("nobody ran there").is_none());
        let (second, _lock) = take(dir.path(), Identity::alone()).expect("taken");
        assert_eq!(first, second);
        assert_ne!(first.cluster_id, first.member_id);
    }

    #[test]
    fn an_identity_that_awaits_the_others_gives_way_to_another() {
        let dir = tempfile::tempdir().expect("dir");
        let waiting = Identity { awaits_founders: true, ..Identity::alone() };
        drop(take(dir.path(), waiting).expect("taken"));
        assert!(!is_taken(dir.path()));
        let (second, lock) =
            take(dir.path(), Identity { awaits_founders: true, ..Identity::alone() }).expect("taken");
        assert_ne!(second, waiting);
        let founded = found(dir.path(), second).expect("noted");
        assert!(is_taken(dir.path()) && !founded.awaits_founders);
        drop(lock);
        assert_eq!(take(dir.path(), waiting).expect("taken").0, founded);
    }

    #[test]
    fn no_bit_of_an_identity_can_change_unseen() {
        let dir = tempfile::tempdir().expect("dir");
        let (first, lock) = take(dir.path(), Identity::alone()).expect("taken");
        drop(lock);
        let path = dir.path().join("identity.json");
        let whole = fs::read(&path).expect("read");
        for at in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            // White space may become another.
            assert!(parse(&bytes).is_err() || parse(&bytes) == Ok(first), "bit {at}");
        }
        fs::write(&path, &whole[1..]).expect("written");
        let refused = take(dir.path(), first).expect_err("damaged");
        assert!(refused.to_string().contains("identity.json cannot be read"), "{refused}");
    }

    #[test]
    fn what_an_interrupted_filling_left_is_no_member_and_goes_before_the_next() {
        let dir = tempfile::tempdir().expect("dir");
        let elsewhere = tempfile::tempdir().expect("dir");
        let first = Identity::alone();
        drop(reserve(dir.path(), true).expect("empty"));
        assert!(matches!(take(dir.path(), first), Err(IdentityError::Lost { .. })));
        fs::create_dir(dir.path().join("state")).expect("created");
        fs::write(dir.path().join("state/part"), "x").expect("written");
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("log")).expect("linked");
        assert!(matches!(reserve(dir.path(), false), Err(IdentityError::NotEmpty { .. })));
        let lock = reserve(dir.path(), true).expect("what was left goes");
        assert!(!dir.path().join("state").exists() && elsewhere.path().exists());
        give(dir.path(), first).expect("given");
        drop(lock);
        assert!(matches!(reserve(dir.path(), true), Err(IdentityError::NotEmpty { .. })), "it is a member's");
        assert_eq!(take(dir.path(), Identity::alone()).expect("taken").0, first);
    }

    #[test]
    fn data_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        fs::create_dir(dir.path().join("log")).expect("created");
        assert!(matches!(take(dir.path(), Identity::alone()), Err(IdentityError::Lost { .. })));
        fs::write(dir.path().join("identity.json"), "{}").expect("written");
        assert!(matches!(take(dir.path(), Identity::alone()), Err(IdentityError::Malformed { .. })));
    }
}
