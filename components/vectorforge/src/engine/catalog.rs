//! The engine itself: which collections and aliases there are.
//!
//! ```text
//! LOCK                     held by the process that has the directory open
//! catalog                  names of collections and aliases
//! collections/<number>/    one collection
//! ```
//!
//! Collections are numbered, so that a name may hold whatever a protocol allows and a new collection never finds the
//! files of an old one. Creating and dropping are one rename of the catalog; directories that it does not name are
//! leavings of a crash and swept at the next start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aistack_chassis::dir_lock::{LOCK, lock_dir};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::collection::Collection;
use super::config::{CollectionConfig, EngineOptions};
use super::error::EngineError;
use super::query::AliasChange;
use super::storage::durable;

const MAGIC: [u8; 8] = *b"VFCAT001";
const MOST_NAME_BYTES: usize = 255;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Catalog {
    next: u64,
    collections: BTreeMap<String, u64>,
    aliases: BTreeMap<String, String>,
}

/// All collections of one data directory, which it locks.
pub struct Engine {
    dir: PathBuf,
    options: EngineOptions,
    /// Held while the catalog changes on disk.
    changing: Mutex<()>,
    catalog: RwLock<(Catalog, BTreeMap<String, Arc<Collection>>)>,
    _lock: File,
}

impl Engine {
    /// Opens (or founds) a data directory: takes its lock, verifies every checksum, replays the logs.
    pub fn open(dir: &Path, options: EngineOptions) -> Result<Self, EngineError> {
        durable::create_dir(&dir.join("collections"))?;
        let lock = take_lock(dir)?;
        let path = dir.join("catalog");
        let catalog: Catalog = if path.exists() {
            durable::read_json(&path, MAGIC)?
        } else {
            let founded = Catalog { next: 1, ..Catalog::default() };
            durable::replace_json(&path, MAGIC, &founded)?;
            founded
        };
        let mut collections = BTreeMap::new();
        for (name, number) in &catalog.collections {
            let collection = Collection::open(name, &collection_dir(dir, *number), options.clone())?;
            collections.insert(name.clone(), Arc::new(collection));
        }
        sweep(dir, &catalog)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            options,
            changing: Mutex::new(()),
            catalog: RwLock::new((catalog, collections)),
            _lock: lock,
        })
    }

    /// Founds a collection. It is on disk when this returns.
    pub fn create_collection(
        &self,
        name: &str,
        config: CollectionConfig,
    ) -> Result<Arc<Collection>, EngineError> {
        check_name(name)?;
        config.validate()?;
        let _one_change = self.changing.lock();
        let mut catalog = self.catalog.read().0.clone();
        if catalog.collections.contains_key(name) || catalog.aliases.contains_key(name) {
            return Err(EngineError::CollectionExists { name: name.to_owned() });
        }
        let number = catalog.next;
        let dir = collection_dir(&self.dir, number);
        durable::create_dir(&dir)?;
        let collection = Arc::new(Collection::found(name, &dir, config, self.options.clone())?);
        catalog.next += 1;
        catalog.collections.insert(name.to_owned(), number);
        self.save(&catalog)?;
        let mut held = self.catalog.write();
        held.0 = catalog;
        held.1.insert(name.to_owned(), Arc::clone(&collection));
        Ok(collection)
    }

    /// Drops a collection and the aliases that point at it; false when there was none.
    pub fn drop_collection(&self, name: &str) -> Result<bool, EngineError> {
        let _one_change = self.changing.lock();
        let mut catalog = self.catalog.read().0.clone();
        let Some(number) = catalog.collections.remove(name) else { return Ok(false) };
        catalog.aliases.retain(|_, target| target != name);
        self.save(&catalog)?;
        let collection = {
            let mut held = self.catalog.write();
            held.0 = catalog;
            held.1.remove(name)
        };
        if let Some(collection) = collection {
            collection.close(false)?;
        }
        let dir = collection_dir(&self.dir, number);
        fs::remove_dir_all(&dir).map_err(EngineError::io("remove", &dir))?;
        Ok(true)
    }

    /// The collection of that name or alias.
    pub fn collection(&self, name: &str) -> Result<Arc<Collection>, EngineError> {
        let held = self.catalog.read();
        let target = held.0.aliases.get(name).map_or(name, String::as_str);
        let found = held.1.get(target).cloned();
        found.ok_or_else(|| EngineError::CollectionNotFound { name: name.to_owned() })
    }

    /// Names of all collections, sorted, aliases left out.
    pub fn collections(&self) -> Vec<String> {
        self.catalog.read().1.keys().cloned().collect()
    }

    /// Applies a batch of alias changes, all or none.
    pub fn change_aliases(&self, changes: &[AliasChange]) -> Result<(), EngineError> {
        let _one_change = self.changing.lock();
        let mut catalog = self.catalog.read().0.clone();
        changes.iter().try_for_each(|change| change_alias(&mut catalog, change))?;
        self.save(&catalog)?;
        self.catalog.write().0 = catalog;
        Ok(())
    }

    /// All aliases with the collection each names.
    pub fn aliases(&self) -> BTreeMap<String, String> {
        self.catalog.read().0.aliases.clone()
    }

    /// Stops the optimisers, takes a checkpoint of every collection and refuses writes from now on. Dropping the engine
    /// without it loses nothing that was acknowledged, but the next start has more to replay.
    pub fn close(&self) -> Result<(), EngineError> {
        let collections: Vec<_> = self.catalog.read().1.values().cloned().collect();
        let outcomes: Vec<_> = collections.iter().map(|collection| collection.close(true)).collect();
        outcomes.into_iter().collect()
    }

    fn save(&self, catalog: &Catalog) -> Result<(), EngineError> {
        durable::replace_json(&self.dir.join("catalog"), MAGIC, catalog)
    }
}

fn collection_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join("collections").join(number.to_string())
}

fn take_lock(dir: &Path) -> Result<File, EngineError> {
    let lock = lock_dir(dir).map_err(EngineError::io("lock", &dir.join(LOCK)))?;
    lock.ok_or_else(|| EngineError::Locked { dir: dir.to_path_buf() })
}

fn sweep(dir: &Path, catalog: &Catalog) -> Result<(), EngineError> {
    let collections = dir.join("collections");
    for entry in fs::read_dir(&collections).map_err(EngineError::io("list", &collections))? {
        let path = entry.map_err(EngineError::io("list", &collections))?.path();
        let named = catalog.collections.values().any(|number| collection_dir(dir, *number) == path);
        if !named {
            fs::remove_dir_all(&path).map_err(EngineError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), EngineError> {
    let invalid = |reason| Err(EngineError::InvalidName { name: name.to_owned(), reason });
    if name.is_empty() {
        return invalid("it is empty");
    }
    if matches!(name, "." | "..") {
        return invalid("a path of that name means a folder, so no address would reach it");
    }
    if name.len() > MOST_NAME_BYTES {
        return invalid("it is longer than 255 bytes");
    }
    if name.contains(|character: char| character.is_control() || "<>:\"/\\|?*".contains(character)) {
        return invalid("it contains a control character or one of < > : \" / \\ | ? *");
    }
    Ok(())
}

fn change_alias(catalog: &mut Catalog, change: &AliasChange) -> Result<(), EngineError> {
    match change {
        AliasChange::Create { alias, collection } => {
            check_name(alias)?;
            if !catalog.collections.contains_key(collection) {
                return Err(EngineError::CollectionNotFound { name: collection.clone() });
            }
            if catalog.collections.contains_key(alias) {
                return Err(EngineError::CollectionExists { name: alias.clone() });
            }
            catalog.aliases.insert(alias.clone(), collection.clone());
        }
        AliasChange::Rename { from, to } => {
            check_name(to)?;
            if catalog.collections.contains_key(to) {
                return Err(EngineError::CollectionExists { name: to.clone() });
            }
            let absent = || EngineError::AliasNotFound { alias: from.clone() };
            let target = catalog.aliases.remove(from).ok_or_else(absent)?;
            catalog.aliases.insert(to.clone(), target);
        }
        AliasChange::Delete { alias } => {
            let absent = || EngineError::AliasNotFound { alias: alias.clone() };
            catalog.aliases.remove(alias).ok_or_else(absent)?;
        }
    }
    Ok(())
}
