//! `tinykv check`: reads everything a member has on disk, and changes nothing.

use crate::history::{self, HistoryError};
use crate::identity::{self, IdentityError};
use crate::mvcc::{Keyspace, Restored};
use crate::store::{Db, StoreError, state_dir};
use replication::applied_index;
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
    /// What the log holds beyond the state.
    #[error(transparent)]
    History(#[from] HistoryError),
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
    /// Its revision.
    pub revision: i64,
    /// What the log holds beyond it.
    pub beyond: Beyond,
}

/// Entries that a start would apply to the state. The last ones may turn out never to have been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beyond {
    /// How many they are.
    pub entries: u64,
    /// Keys that exist after all of them.
    pub keys: usize,
    /// The revision after all of them.
    pub revision: i64,
}

/// Reads the identity, the log, the state and the snapshots below `data_dir`. Refused while a member runs there.
pub fn check(data_dir: &Path) -> Result<Found, CheckError> {
    let _lock = identity::hold(data_dir)?;
    identity::read(data_dir)?;
    let log = Log::check(&data_dir.join("log"))?;
    for snapshot in replication::snapshots(&data_dir.join("snapshots")).map_err(CheckError::Snapshot)? {
        Db::open_read_only(&snapshot)?.verify().map_err(CheckError::Snapshot)?;
    }
    let db = Db::open_read_only(&state_dir(data_dir).map_err(CheckError::State)?)?;
    db.verify().map_err(CheckError::State)?;
    // Values stay: those of the log are nowhere else.
    let mut keyspace = Keyspace::new(usize::MAX, 1);
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
    keyspace.restore_auth(loaded.auth);
    keyspace.restore_downgrade(loaded.downgrade);
    let (keys, revision) = (keyspace.keys(), keyspace.revision());
    let beyond = beyond(data_dir, &db, keyspace)?;
    Ok(Found { log, versions, keys, revision, beyond })
}

/// Applies to the engine in memory what the log holds beyond the state on disk.
fn beyond(data_dir: &Path, db: &Db, mut keyspace: Keyspace) -> Result<Beyond, CheckError> {
    let position = db.position().map_err(CheckError::State)?;
    let applied = position.map(|position| applied_index(&position)).transpose().map_err(CheckError::State)?;
    let first = applied.flatten().map_or(0, |index| index + 1);
    let mut entries = 0;
    let mut changes = Vec::new();
    for entry in Log::history(&data_dir.join("log"), history::GROUP)?.split_off(&first).into_values() {
        entries += 1;
        if let Some((origin, command)) = history::command(&entry)? {
            // What a command answers is its client's business, refusals too.
            let _ = keyspace.apply(&origin, &command, db, &mut changes).map_err(CheckError::State)?;
            changes.clear();
        }
    }
    Ok(Beyond { entries, keys: keyspace.keys(), revision: keyspace.revision() })
}
