//! `tinykv drill`: whether a cluster could begin with the newest backup of a place. It is fetched, restored as a founding member
//! restores it, and read back as `tinykv check` reads; all of that in a folder that goes again.
//!
//! How old it may be is asked last: that one which is too old is sound, or is not, is worth knowing.

use crate::check::{CheckError, check};
use crate::restore::{RestoreArgs, RestoreError, restore};
use crate::shelf::{Shelf, ShelfError};
use aistack_api::tinykv::TinykvConfig;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const HOUR: u64 = 60 * 60;

/// Which backups, and how old the newest may be.
#[derive(Debug, Clone, clap::Args)]
pub struct DrillArgs {
    /// Where backups are put, such as `s3://bucket/path` or `file:///folder`: what `tinykv backup` was given.
    #[arg(value_name = "URL")]
    pub url: String,
    /// Fail when the newest was taken longer ago than this.
    #[arg(long, value_name = "HOURS")]
    pub max_age_hours: Option<u64>,
}

/// Why no cluster could begin with the newest backup.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// Where backups are put.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// To fetch it.
    #[error(transparent)]
    Runtime(#[from] io::Error),
    /// There is none.
    #[error("{url}: there is no backup; see whether any was taken, and whether this is where they are put")]
    None {
        /// Where none is.
        url: String,
    },
    /// It cannot be restored.
    #[error("no cluster could begin with the newest backup, {url}: {source}")]
    Restore {
        /// The backup.
        url: String,
        /// Why.
        #[source]
        source: Box<RestoreError>,
    },
    /// What was restored cannot be read.
    #[error("the newest backup, {url}, was restored, and what came of it is not sound: {source}")]
    Check {
        /// The backup.
        url: String,
        /// Why.
        #[source]
        source: Box<CheckError>,
    },
    /// It is sound, and too old.
    #[error(
        "the newest backup is too old: {drilled}; it may be {most} hours old (--max-age-hours): see why none was taken since"
    )]
    Old {
        /// What was found all the same.
        drilled: Box<Drilled>,
        /// Hours that it may be old.
        most: u64,
    },
}

/// A backup that a cluster could begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drilled {
    /// The backup.
    pub url: String,
    /// Its revision.
    pub revision: i64,
    /// Keys that exist in it.
    pub keys: usize,
    /// Versions of them, deletions among them.
    pub versions: u64,
    /// How long ago it was taken.
    pub age: Duration,
}

impl fmt::Display for Drilled {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, revision, keys, versions, age } = self;
        let (hours, minutes) = (age.as_secs() / HOUR, age.as_secs() % HOUR / 60);
        write!(to, "{url}: restored and sound. revision {revision}, {keys} keys, {versions} versions; ")?;
        write!(to, "taken {hours} h {minutes} min ago")
    }
}

/// Restores the newest backup into a folder of its own, and reads all of it back.
pub fn drill(wanted: &DrillArgs) -> Result<Drilled, DrillError> {
    let shelf = Shelf::find(&wanted.url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let newest = runtime.block_on(shelf.newest())?;
    let newest = newest.ok_or_else(|| DrillError::None { url: wanted.url.clone() })?;
    let url = shelf.url_of(&newest.name);
    let folder = Shelf::aside()?;
    // A member that founds a cluster alone: what is restored is the same for each of several.
    let config = TinykvConfig { data_dir: folder.path().join("member"), ..TinykvConfig::default() };
    let as_founders_do = RestoreArgs {
        file: PathBuf::from(&url),
        bump_revision: 0,
        mark_compacted: false,
        skip_hash_check: false,
        when_new: true,
    };
    let failed = |source| DrillError::Restore { url: url.clone(), source: Box::new(source) };
    restore(&config, &as_founders_do).map_err(failed)?;
    let unsound = |source| DrillError::Check { url: url.clone(), source: Box::new(source) };
    let found = check(&config.data_dir).map_err(unsound)?;
    let age = SystemTime::now().duration_since(newest.taken).unwrap_or_default();
    let drilled = Drilled { url, revision: found.revision, keys: found.keys, versions: found.versions, age };
    match wanted.max_age_hours {
        Some(most) if age > Duration::from_secs(most.saturating_mul(HOUR)) => {
            Err(DrillError::Old { drilled: Box::new(drilled), most })
        }
        _ => Ok(drilled),
    }
}
