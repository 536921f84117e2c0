//! The engine itself: which collections and aliases there are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::collection::Collection;
use super::config::{CollectionConfig, EngineOptions};
use super::error::EngineError;
use super::query::AliasChange;

/// All collections of one data directory, which it locks.
pub struct Engine {}

fn absent<T>(what: &str) -> Result<T, EngineError> {
    Err(EngineError::Unsupported { what: what.to_owned() })
}

impl Engine {
    /// Opens (or founds) a data directory: takes its lock, verifies every checksum, replays the logs.
    pub fn open(_dir: &Path, _options: EngineOptions) -> Result<Self, EngineError> {
        absent("open")
    }

    /// Founds a collection. It is on disk when this returns.
    pub fn create_collection(&self, _name: &str, _config: CollectionConfig) -> Result<Arc<Collection>, EngineError> {
        absent("create")
    }

    /// Drops a collection and the aliases that point at it; false when there was none.
    pub fn drop_collection(&self, _name: &str) -> Result<bool, EngineError> {
        absent("drop")
    }

    /// The collection of that name or alias.
    pub fn collection(&self, _name: &str) -> Result<Arc<Collection>, EngineError> {
        absent("collection")
    }

    /// Names of all collections, sorted, aliases left out.
    pub fn collections(&self) -> Vec<String> {
        Vec::new()
    }

    /// Applies a batch of alias changes, all or none.
    pub fn change_aliases(&self, _changes: &[AliasChange]) -> Result<(), EngineError> {
        absent("aliases")
    }

    /// All aliases with the collection each names.
    pub fn aliases(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Stops the optimiser, takes a checkpoint of every collection and releases the directory. Dropping the engine
    /// does the same but cannot report an error.
    pub fn close(&self) -> Result<(), EngineError> {
        absent("close")
    }
}
