use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::manifest::{self, Manifest, Root};
use super::pack::{Pack, PackWriter};
use super::{Place, Store, StoreError, body};
use crate::codec::Codec;
use crate::hash::Address;
use crate::node::Node;
use crate::tree::Tree;

/// What a commit wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Nodes that the store had not got.
    pub nodes: u64,
    /// Bytes of the pack that holds them; 0 where there is none.
    pub bytes: u64,
}

/// Changes to a store's roots, not published yet. Dropped without a commit, it leaves everything as it was.
pub struct Checkpoint<'s> {
    store: &'s mut Store,
    manifest: Manifest,
    /// Started with the first node that has to be written.
    writer: Option<PackWriter>,
    fresh: HashMap<Address, Place>,
}

impl Store {
    /// Starts a checkpoint.
    pub fn checkpoint(&mut self) -> Result<Checkpoint<'_>, StoreError> {
        if self.commit_failed {
            return Err(StoreError::CommitFailed);
        }
        let manifest = self.manifest.clone();
        Ok(Checkpoint { store: self, manifest, writer: None, fresh: HashMap::new() })
    }
}

impl Checkpoint<'_> {
    /// Writes the nodes of `tree` that the store has not got, and calls the tree `name`.
    pub fn put<K: Codec, V: Codec>(&mut self, name: &str, tree: &Tree<K, V>) -> Result<(), StoreError> {
        let address = match tree.root.as_deref() {
            Some(root) => Some(self.save(root)?.0),
            None => None,
        };
        let root = Root { address, len: tree.len() as u64, hash: tree.hash() };
        self.manifest.roots.insert(name.to_owned(), root);
        Ok(())
    }

    /// Takes a name away; answers whether there was a tree of that name.
    pub fn remove(&mut self, name: &str) -> bool {
        self.manifest.roots.remove(name).is_some()
    }

    /// Publishes all changes at once, with a note that is kept beside them.
    pub fn commit(self, note: &[u8]) -> Result<Written, StoreError> {
        let Self { store, mut manifest, writer, fresh } = self;
        note.clone_into(&mut manifest.note);
        let mut written = Written::default();
        // From here on a failure leaves open which of the two manifests the disk has.
        store.commit_failed = true;
        let mut pack = None;
        if let Some(writer) = writer {
            written.nodes = writer.bodies;
            let label = writer.finish()?;
            written.bytes = label.size;
            store.sync_names()?;
            manifest.packs.push(label);
            manifest.next_pack = label.number + 1;
            pack = Some(Pack::open(&*store.files, label)?.0);
        }
        manifest.publish(&*store.files)?;
        store.manifest = manifest;
        store.index.extend(fresh);
        store.packs.extend(pack.map(|pack| (pack.label.number, pack)));
        store.commit_failed = false;
        Ok(written)
    }

    /// Writes a node after those below it; answers its address and its height.
    fn save<K: Codec, V: Codec>(&mut self, node: &Node<K, V>) -> Result<(Address, u8), StoreError> {
        if let Some(address) = node.seal().address.get()
            && (self.store.index.contains_key(address) || self.fresh.contains_key(address))
        {
            return Ok((*address, height_of(node)));
        }
        let mut bytes = Vec::new();
        let mut height = 0;
        match node {
            Node::Leaf(leaf) => body::put_leaf(leaf, &mut bytes),
            Node::Inner(inner) => {
                let mut addresses = Vec::with_capacity(inner.children.len());
                for child in &inner.children {
                    let (address, below) = self.save(child)?;
                    addresses.push(address);
                    height = below + 1;
                }
                body::put_inner(inner, height, &addresses, &mut bytes);
            }
        }
        let address = *node.seal().address.get_or_init(|| Sha256::digest(&bytes).into());
        if !self.store.index.contains_key(&address) && !self.fresh.contains_key(&address) {
            let writer = match &mut self.writer {
                Some(writer) => writer,
                None => {
                    self.writer.insert(PackWriter::create(&*self.store.files, self.store.manifest.next_pack)?)
                }
            };
            let extent = writer.append(&address, &bytes)?;
            self.fresh.insert(address, Place { pack: self.store.manifest.next_pack, extent });
        }
        Ok((address, height))
    }
}

impl Store {
    pub(super) fn sync_names(&self) -> Result<(), StoreError> {
        self.files.sync_names().map_err(|source| {
            StoreError::io("sync the directory of", &self.files.path(manifest::NAME), source)
        })
    }
}

fn height_of<K, V>(mut node: &Node<K, V>) -> u8 {
    let mut height = 0;
    while let Node::Inner(inner) = node {
        node = &inner.children[0];
        height += 1;
    }
    height
}
