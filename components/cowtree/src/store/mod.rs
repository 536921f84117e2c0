//! Trees on the disk: nodes named by what they hold, in packs that are written once, and a manifest
//! that names the roots.
//!
//! A checkpoint writes the nodes that the store has not got into one new pack, syncs it and its name, and
//! then puts a new manifest in the place of the old one. Whatever happens before that last step leaves
//! the old roots, whatever happens after it the new ones; all roots of a checkpoint change together.

mod body;
mod checkpoint;
mod collect;
mod files;
mod load;
mod manifest;
mod pack;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use manifest::Manifest;
use pack::{Extent, Pack};

use crate::hash::Address;

pub use checkpoint::{Checkpoint, Written};
pub use collect::Collected;
pub use files::{Directory, Files, NewFile, OldFile};
pub use manifest::Root;

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("could not {operation} {}", file.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Bytes that were synced have changed or are gone.
    #[error("{} is damaged at byte {offset}: {problem}", file.display())]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// Packs without a manifest: it was taken away, or the directory belongs to something else.
    #[error("{} is missing, but there are packs beside it", file.display())]
    NoManifest {
        /// Where the manifest belongs.
        file: PathBuf,
    },
    /// Whole bytes that are not keys and values of the types that were asked for.
    #[error("{} holds at byte {offset} a node of other keys and values than asked for", file.display())]
    Foreign {
        /// Which file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// No root has that name.
    #[error("no tree is called {name}")]
    NoSuchRoot {
        /// The name.
        name: String,
    },
    /// An earlier commit failed half-way, so that what is on the disk is known only after opening it anew.
    #[error("an earlier commit failed; open the store anew")]
    CommitFailed,
}

impl StoreError {
    fn io(operation: &'static str, file: &Path, source: io::Error) -> Self {
        Self::Io { operation, file: file.to_owned(), source }
    }
}

/// Where a node is.
#[derive(Clone, Copy)]
struct Place {
    pack: u64,
    extent: Extent,
}

/// A directory of trees.
pub struct Store {
    files: Box<dyn Files>,
    manifest: Manifest,
    packs: BTreeMap<u64, Pack>,
    /// Every node on the disk. With a node, all nodes below it are there too.
    index: HashMap<Address, Place>,
    commit_failed: bool,
}

impl Store {
    /// Opens the store in a directory, or starts one. Left-overs of a checkpoint that was cut off go.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let directory =
            Directory::open(path.clone()).map_err(|source| StoreError::io("open", &path, source))?;
        Self::open_in(Box::new(directory))
    }

    /// The same with files of any kind.
    pub fn open_in(files: Box<dyn Files>) -> Result<Self, StoreError> {
        let io = |operation: &'static str, name: &str, source| {
            StoreError::io(operation, &files.path(name), source)
        };
        let names = files.list().map_err(|source| io("list", "", source))?;
        let is_pack = |name: &str| Path::new(name).extension().is_some_and(|extension| extension == "pack");
        let manifest = match Manifest::read(&*files)? {
            Some(manifest) => manifest,
            // The first manifest is there before the first pack, so packs alone are no crash's doing.
            None if names.iter().any(|name| is_pack(name)) => {
                return Err(StoreError::NoManifest { file: files.path(manifest::NAME) });
            }
            None => {
                let manifest = Manifest::default();
                manifest.publish(&*files)?;
                manifest
            }
        };
        let mut packs = BTreeMap::new();
        let mut index = HashMap::new();
        for label in &manifest.packs {
            let (pack, rows) = Pack::open(&*files, *label)?;
            for (address, extent) in rows {
                index.insert(address, Place { pack: label.number, extent });
            }
            packs.insert(label.number, pack);
        }
        // What was found may be a rename that only this process's predecessor saw; files that the manifest
        // before it needs must not go first.
        files.sync_names().map_err(|source| io("sync the directory of", manifest::NAME, source))?;
        let is_named = |name: &str| packs.keys().any(|number| pack::name_of(*number) == name);
        // Listed anew: the first manifest may have taken the place of a draft that was left over.
        for name in &files.list().map_err(|source| io("list", "", source))? {
            if name == manifest::DRAFT || (is_pack(name) && !is_named(name)) {
                files.remove(name).map_err(|source| io("remove", name, source))?;
            }
        }
        Ok(Self { files, manifest, packs, index, commit_failed: false })
    }

    /// The trees, by name.
    pub fn roots(&self) -> &BTreeMap<String, Root> {
        &self.manifest.roots
    }

    /// What the last commit noted: whatever must change together with the trees, as a log position.
    pub fn note(&self) -> &[u8] {
        &self.manifest.note
    }

    /// Bytes of all packs, nodes that no root needs any more included.
    pub fn size(&self) -> u64 {
        self.packs.values().map(|pack| pack.label.size).sum()
    }

    /// A node's bytes, compared with its address, and the pack that they came from.
    fn body(&self, address: &Address) -> Result<(Vec<u8>, &Pack, Extent), StoreError> {
        let damaged = || StoreError::Damaged {
            file: self.files.path(manifest::NAME),
            offset: 0,
            problem: "it leads to a node that no pack holds",
        };
        let place = self.index.get(address).ok_or_else(damaged)?;
        let pack = self.packs.get(&place.pack).ok_or_else(damaged)?;
        Ok((pack.body(address, place.extent)?, pack, place.extent))
    }
}
