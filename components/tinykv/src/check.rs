//! `tinykv check`: reads everything a member has on disk, and changes nothing.

use crate::identity::{self, IdentityError};
use crate::mvcc::{Keyspace, Restored};
use crate::store::{Db, StoreError, state_dir};
use replication::log::{Log, LogError, Recovery};
use std::io;
use std::path::Path;

/// Why a data directory is not sound.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Who the member is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state cannot be read.
    #[error("the state is damaged: {0}")]
    State(#[source] io::Error),
    /// A snapshot, which is what other members would get.
    #[error("a snapshot is damaged: {0}")]
    Snapshot(#[source] io::Error),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The log.
    pub log: Recovery,
    /// Versions in the state.
    pub versions: u64,
    /// Keys that exist in it.
    pub keys: usize,
    /// Its revision; the log may go further.
    pub revision: i64,
}

/// Reads the identity, the log, the state and the snapshots below `data_dir`.
pub fn check(data_dir: &Path) -> Result<Found, CheckError> {
    identity::read(data_dir)?;
    let log = Log::check(&data_dir.join("log"))?;
    for snapshot in replication::snapshots(&data_dir.join("snapshots")).map_err(CheckError::Snapshot)? {
        Db::open_read_only(&snapshot)?.verify().map_err(CheckError::Snapshot)?;
    }
    let db = Db::open_read_only(&state_dir(data_dir).map_err(CheckError::State)?)?;
    db.verify().map_err(CheckError::State)?;
    let mut keyspace = Keyspace::new(0, 1);
    let mut versions = 0;
    let mut restored = Restored::default();
    db.versions(|key, version| {
        versions += 1;
        restored.add(key, version);
    })
    .map_err(CheckError::State)?;
    keyspace.restore(restored).map_err(|error| CheckError::State(io::Error::other(error)))?;
    let loaded = db.load().map_err(CheckError::State)?;
    keyspace.restore_rest(loaded.revision, loaded.compacted, loaded.leases, loaded.alarms);
    Ok(Found { log, versions, keys: keyspace.keys(), revision: keyspace.revision() })
}
