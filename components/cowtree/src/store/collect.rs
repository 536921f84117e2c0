use std::collections::{BTreeMap, HashMap};

use super::body::{self, Body};
use super::pack::{self, Pack, PackWriter};
use super::{Place, Store, StoreError};
use crate::hash::Address;

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Bytes of all packs before.
    pub before: u64,
    /// Bytes of the one pack that is left.
    pub after: u64,
}

impl Store {
    /// Reads every node that a root needs and compares it with its hash; answers how many there are.
    pub fn verify(&self) -> Result<usize, StoreError> {
        let mut seen = HashMap::new();
        self.visit(&mut seen, &mut |_, bytes| Ok(bytes.len()))?;
        Ok(seen.len())
    }

    /// Copies the nodes that roots need into one pack and takes the others away. Costs as much as the
    /// roots hold; worth it when [`Store::size`] is a multiple of what it was after the last time.
    pub fn collect(&mut self) -> Result<Collected, StoreError> {
        if self.commit_failed {
            return Err(StoreError::CommitFailed);
        }
        let before = self.size();
        let number = self.manifest.next_pack;
        let mut writer = PackWriter::create(&*self.files, number)?;
        let mut index = HashMap::new();
        self.visit(&mut index, &mut |address, bytes| {
            let extent = writer.append(address, bytes)?;
            Ok(Place { pack: number, extent })
        })?;
        self.commit_failed = true;
        let label = writer.finish()?;
        self.sync_names()?;
        let mut manifest = self.manifest.clone();
        manifest.packs = vec![label];
        manifest.next_pack = number + 1;
        let (pack, _) = Pack::open(&*self.files, label)?;
        manifest.publish(&*self.files)?;
        self.manifest = manifest;
        self.index = index;
        let old = std::mem::replace(&mut self.packs, BTreeMap::from([(number, pack)]));
        self.commit_failed = false;
        // The new manifest is on the disk: what a crash leaves of the old packs, the next opening takes away.
        for number in old.into_keys() {
            let name = pack::name_of(number);
            self.files
                .remove(&name)
                .map_err(|source| StoreError::io("remove", &self.files.path(&name), source))?;
        }
        Ok(Collected { before, after: label.size })
    }

    /// Calls `each` once for every node that a root needs, children first.
    fn visit<T>(
        &self,
        seen: &mut HashMap<Address, T>,
        each: &mut impl FnMut(&Address, &[u8]) -> Result<T, StoreError>,
    ) -> Result<(), StoreError> {
        for root in self.manifest.roots.values() {
            if let Some(address) = &root.address {
                self.visit_below(address, seen, each)?;
            }
        }
        Ok(())
    }

    fn visit_below<T>(
        &self,
        address: &Address,
        seen: &mut HashMap<Address, T>,
        each: &mut impl FnMut(&Address, &[u8]) -> Result<T, StoreError>,
    ) -> Result<(), StoreError> {
        if seen.contains_key(address) {
            return Ok(());
        }
        let (bytes, pack, extent) = self.body(address)?;
        match body::parse(&bytes) {
            Some(Body::Leaf { .. }) => {}
            Some(Body::Inner { children, .. }) => {
                for child in children {
                    self.visit_below(&child.address, seen, each)?;
                }
            }
            None => return Err(pack.damaged(extent.offset, "not a node of this version")),
        }
        let what = each(address, &bytes)?;
        seen.insert(*address, what);
        Ok(())
    }
}
