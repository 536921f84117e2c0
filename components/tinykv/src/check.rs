//! `tinykv check`: reads everything a member has on disk, and changes nothing.

use crate::mvcc::{Keyspace, Restored};
use crate::store::{Db, StoreError, state_dir};
use replication::log::{Log, LogError, Recovery};
use std::io;
use std::path::Path;

/// Why a data directory is not sound.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state cannot be read.
    #[error("the state is damaged: {0}")]
    State(#[source] io::Error),
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

/// Reads the log and the state below `data_dir`.
pub fn check(data_dir: &Path) -> Result<Found, CheckError> {
    let log = Log::check(&data_dir.join("log"))?;
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
