//! A new cluster on the state that a snapshot holds, etcd's or this program's own.
//!
//! The state is written first and the identity last: a directory in which this was interrupted does not start. What runs before every
//! start of a member (`--when-new`) begins anew there.
//! The new cluster's id follows from its members and the snapshot, so that members that were restored from
//! different files, or that still run on the old data, do not meet.

use crate::etcd::snapshot::{Sealed, SnapshotError, read, unseal};
use crate::identity::{self, Identity, IdentityError};
use crate::membership;
use crate::shelf::{Shelf, ShelfError, is_url};
use crate::store::{NewState, StoreError, log_elsewhere};
use aistack_api::tinykv::{Founder, InitialClusterState, TinykvConfig, TinykvConfigError};
use replication::founding_position;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What to restore, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct RestoreArgs {
    /// The snapshot: of `tinykv backup`, `etcdctl snapshot save`, or etcd's member/snap/db. Or its URL, such as
    /// `s3://bucket/path/NAME.db`.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Go on this many revisions after the snapshot's, so that clients never see a revision come back.
    #[arg(long, value_name = "REVISIONS", default_value_t = 0, requires = "mark_compacted")]
    pub bump_revision: u64,
    /// Tell watchers that all revisions before are compacted, so that they list anew.
    #[arg(long, requires = "bump_revision")]
    pub mark_compacted: bool,
    /// Take a file without a SHA-256 at its end, or with a wrong one.
    #[arg(long)]
    pub skip_hash_check: bool,
    /// Do nothing where there is data already, and for a member that joins others (`initial_cluster_state: existing`): what runs
    /// before every start of a member may say this. What a restore left that was interrupted is no data, and goes first.
    #[arg(long)]
    pub when_new: bool,
}

/// Whether this member begins with what it restores.
pub fn is_new(config: &TinykvConfig) -> bool {
    config.initial_cluster_state == InitialClusterState::New && !identity::is_taken(&config.data_dir)
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] TinykvConfigError),
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] IdentityError),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Where it lies.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// What came from there.
    #[error("{url}, of which a copy was made here: {source}")]
    Copy {
        /// Where it lies.
        url: String,
        /// What is wrong with it.
        #[source]
        source: SnapshotError,
    },
    /// The new state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writing it.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Revisions are numbers of 63 bits.
    #[error("the snapshot's revision is {revision}; {bump} more are more than there are")]
    Bump {
        /// What the snapshot has.
        revision: i64,
        /// What was to be added.
        bump: u64,
    },
}

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The new member.
    pub identity: Identity,
    /// How many members there are.
    pub members: usize,
    /// The revision.
    pub revision: i64,
    /// The last compaction, or −1.
    pub compacted: i64,
    /// Versions, deletions among them.
    pub versions: u64,
}

/// Restores into the data directory that `config` names, which must be empty or absent.
pub fn restore(config: &TinykvConfig, wanted: &RestoreArgs) -> Result<Restored, RestoreError> {
    if !is_url(&wanted.file) {
        return from_file(config, wanted);
    }
    let folder = Shelf::aside()?;
    // Of the same name, for those who read what is wrong with it.
    let file = folder.path().join(wanted.file.file_name().unwrap_or(OsStr::new("backup.db")));
    let write = |source| RestoreError::Write { path: file.clone(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(write)?;
    let shelf = Shelf::open(&wanted.file.to_string_lossy())?;
    runtime.block_on(shelf.take(&file))?;
    from_file(config, &RestoreArgs { file, ..wanted.clone() }).map_err(|error| match error {
        RestoreError::Snapshot(source) => {
            RestoreError::Copy { url: wanted.file.display().to_string(), source }
        }
        other => other,
    })
}

fn from_file(config: &TinykvConfig, wanted: &RestoreArgs) -> Result<Restored, RestoreError> {
    let founders = config.founders()?;
    let sealed = unseal(&wanted.file, wanted.skip_hash_check)?;
    let dir = &config.data_dir;
    let _lock = identity::reserve(dir, wanted.when_new)?;
    let state = dir.join("state");
    let written = fill(config, &founders, wanted, sealed, &state);
    if written.is_err() {
        // What came before counts; the directory is refused as long as anything is left in it.
        let _ = identity::empty(dir);
    }
    let restored = written?;
    // A log that is empty is one, too.
    let log = dir.join("log");
    let made = match &config.log_dir {
        Some(elsewhere) => log_elsewhere(dir, elsewhere),
        None => fs::create_dir(&log),
    };
    made.map_err(|source| RestoreError::Write { path: log, source })?;
    identity::give(dir, restored.identity)?;
    Ok(restored)
}

fn fill(
    config: &TinykvConfig,
    founders: &[Founder],
    wanted: &RestoreArgs,
    sealed: Sealed,
    state: &Path,
) -> Result<Restored, RestoreError> {
    let mut new = NewState::create(state)?;
    let mut contents = read(&wanted.file, sealed.length, |number, change| new.put(number, change))?;
    let rest = &mut contents.rest;
    let (revision, bump) = (rest.revision, wanted.bump_revision);
    let bumped = revision.checked_add_unsigned(bump).filter(|bumped| *bumped < i64::MAX);
    rest.revision = bumped.ok_or(RestoreError::Bump { revision, bump })?;
    if wanted.mark_compacted {
        rest.compacted = rest.revision;
    }
    let identity =
        Identity::restored(founders, &config.initial_cluster_token, &config.name, seed(sealed, bump));
    let write = |source| RestoreError::Write { path: state.to_owned(), source };
    let position = founding_position(membership::founding(config, identity, founders)).map_err(write)?;
    new.finish(rest, &position).map_err(write)?;
    Ok(Restored {
        identity,
        members: founders.len().max(1),
        revision: rest.revision,
        compacted: rest.compacted,
        versions: contents.versions,
    })
}

/// What stands for a state: the file it comes from, and what was done to it.
fn seed(sealed: Sealed, bump: u64) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&sealed.digest[..8]);
    u64::from_be_bytes(first) ^ bump
}
