use std::collections::HashMap;

use triomphe::Arc;

use super::body::{self, Body};
use super::manifest;
use super::{Store, StoreError};
use crate::codec::Codec;
use crate::hash::Address;
use crate::node::{DEPTH, Node};
use crate::tree::Tree;

impl Store {
    /// Loads a tree. Every byte is compared with the hash that names it.
    pub fn load<K: Codec + Ord, V: Codec>(&self, name: &str) -> Result<Tree<K, V>, StoreError> {
        Ok(self.load_all([name])?.remove(0))
    }

    /// Loads several trees of one kind. Nodes that they shared when they were written, they share again.
    pub fn load_all<'n, K: Codec + Ord, V: Codec>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<Vec<Tree<K, V>>, StoreError> {
        let mut loader = Loader { store: self, loaded: HashMap::new() };
        names.into_iter().map(|name| loader.tree(name)).collect()
    }
}

struct Loader<'s, K, V> {
    store: &'s Store,
    loaded: HashMap<Address, Arc<Node<K, V>>>,
}

impl<K: Codec + Ord, V: Codec> Loader<'_, K, V> {
    fn tree(&mut self, name: &str) -> Result<Tree<K, V>, StoreError> {
        let missing = || StoreError::NoSuchRoot { name: name.to_owned() };
        let root = *self.store.manifest.roots.get(name).ok_or_else(missing)?;
        let node = match root.address {
            Some(address) => Some(self.node(&address, None)?),
            None => None,
        };
        let tree = Tree { root: node };
        let hash = tree.root.as_ref().and_then(|root| root.seal().content.get().copied());
        if tree.len() as u64 != root.len || hash.unwrap_or_default() != root.hash {
            return Err(StoreError::Damaged {
                file: self.store.files.path(manifest::NAME),
                offset: 0,
                problem: "a tree is not what it says",
            });
        }
        Ok(tree)
    }

    /// Loads a node that must stand at `height`, where that is known.
    fn node(&mut self, address: &Address, height: Option<u8>) -> Result<Arc<Node<K, V>>, StoreError> {
        if let Some(node) = self.loaded.get(address) {
            return Ok(Arc::clone(node));
        }
        let (bytes, pack, extent) = self.store.body(address)?;
        let foreign = || StoreError::Foreign { file: pack.path.clone(), offset: extent.offset };
        let node = match body::parse(&bytes).ok_or_else(foreign)? {
            Body::Leaf { count, rest } if height.is_none_or(|height| height == 0) => {
                body::leaf(count, rest).ok_or_else(foreign)?
            }
            Body::Inner { height: own, children, rest }
                if height.map_or(usize::from(own) <= DEPTH, |height| height == own) =>
            {
                let mut loaded = Vec::with_capacity(children.len());
                for child in children {
                    let node = self.node(&child.address, Some(own - 1))?;
                    if node.len() != child.len {
                        return Err(foreign());
                    }
                    loaded.push(node);
                }
                body::inner(loaded, rest).ok_or_else(foreign)?
            }
            _ => return Err(foreign()),
        };
        let node = Arc::new(node);
        // The node has just been made, so nobody has set its address.
        let _ = node.seal().address.set(*address);
        self.loaded.insert(*address, Arc::clone(&node));
        Ok(node)
    }
}
