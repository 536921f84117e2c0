//! A pack holds the nodes that one checkpoint wrote. It is written once, and never changed.
//!
//! ```text
//! "COWPACK1"
//! bodies of nodes, one after the other, children before parents
//! for each body: SHA-256 of it (its address) | offset u64 | length u32
//! offset of that list u64 | bodies u64 | CRC-32C of the list u32 | CRC-32C of the 20 bytes before u32 | "COWPEND1"
//! ```
//!
//! Numbers are little-endian. A pack that a manifest names was synced before, so one that is short or
//! damaged is corruption and never a torn write.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::StoreError;
use super::files::{Files, NewFile, OldFile};
use crate::codec::take_array;
use crate::hash::Address;

const MAGIC: &[u8; 8] = b"COWPACK1";
const END: &[u8; 8] = b"COWPEND1";
const FOOTER: u64 = 32;
const ROW: u64 = 44;
/// Bytes gathered before they go to the file.
const BUFFER: usize = 1 << 20;

pub(super) fn name_of(number: u64) -> String {
    format!("{number:016}.pack")
}

/// Where a body stands in its pack.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub offset: u64,
    pub len: u32,
}

/// What a manifest remembers of a pack: enough to notice another in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    pub number: u64,
    pub size: u64,
    pub footer_crc: u32,
}

pub(super) struct PackWriter {
    number: u64,
    path: PathBuf,
    file: Box<dyn NewFile>,
    buffer: Vec<u8>,
    /// Bytes before the buffer.
    flushed: u64,
    list: Vec<u8>,
    pub bodies: u64,
}

impl PackWriter {
    pub fn create(files: &dyn Files, number: u64) -> Result<Self, StoreError> {
        let path = files.path(&name_of(number));
        let file =
            files.create(&name_of(number)).map_err(|source| StoreError::io("create", &path, source))?;
        let buffer = MAGIC.to_vec();
        Ok(Self { number, path, file, buffer, flushed: 0, list: Vec::new(), bodies: 0 })
    }

    pub fn append(&mut self, address: &Address, body: &[u8]) -> Result<Extent, StoreError> {
        let extent = Extent { offset: self.size(), len: body.len() as u32 };
        self.list.extend_from_slice(address);
        self.list.extend_from_slice(&extent.offset.to_le_bytes());
        self.list.extend_from_slice(&extent.len.to_le_bytes());
        self.bodies += 1;
        self.buffer.extend_from_slice(body);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(extent)
    }

    pub fn size(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.file.write_all(&self.buffer).map_err(|source| StoreError::io("write", &self.path, source))?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes list and footer; all of the pack is on the disk then.
    pub fn finish(mut self) -> Result<Label, StoreError> {
        let mut footer = self.size().to_le_bytes().to_vec();
        footer.extend_from_slice(&self.bodies.to_le_bytes());
        footer.extend_from_slice(&crc32c::crc32c(&self.list).to_le_bytes());
        let footer_crc = crc32c::crc32c(&footer);
        footer.extend_from_slice(&footer_crc.to_le_bytes());
        footer.extend_from_slice(END);
        let list = std::mem::take(&mut self.list);
        self.buffer.extend_from_slice(&list);
        self.buffer.extend_from_slice(&footer);
        self.flush()?;
        self.file.sync().map_err(|source| StoreError::io("sync", &self.path, source))?;
        Ok(Label { number: self.number, size: self.flushed, footer_crc })
    }
}

pub(super) struct Pack {
    pub label: Label,
    pub path: PathBuf,
    file: Box<dyn OldFile>,
}

impl Pack {
    /// Opens a pack that a manifest names, and lists its bodies.
    pub fn open(files: &dyn Files, label: Label) -> Result<(Self, Vec<(Address, Extent)>), StoreError> {
        let path = files.path(&name_of(label.number));
        let file =
            files.open(&name_of(label.number)).map_err(|source| StoreError::io("open", &path, source))?;
        let size = file.size().map_err(|source| StoreError::io("stat", &path, source))?;
        let pack = Self { label, path, file };
        if size != label.size {
            return Err(pack.damaged(size.min(label.size), "its size is not what the manifest says"));
        }
        let list = pack.list()?;
        Ok((pack, list))
    }

    fn list(&self) -> Result<Vec<(Address, Extent)>, StoreError> {
        let size = self.label.size;
        let magic = self.read(0, MAGIC.len() as u64)?;
        if magic != MAGIC {
            return Err(self.damaged(0, "it does not start as a pack does"));
        }
        let at = size.checked_sub(FOOTER).ok_or_else(|| self.damaged(0, "it is too short"))?;
        let footer = self.read(at, FOOTER)?;
        let parsed = parse_footer(&footer).ok_or_else(|| self.damaged(at, "damaged footer"))?;
        let (list_at, bodies, list_crc, footer_crc) = parsed;
        let list_len = bodies.checked_mul(ROW).ok_or_else(|| self.damaged(at, "damaged footer"))?;
        if footer_crc != self.label.footer_crc || list_at.checked_add(list_len) != Some(at) {
            return Err(self.damaged(at, "damaged footer, or not the pack that the manifest means"));
        }
        let list = self.read(list_at, list_len)?;
        if crc32c::crc32c(&list) != list_crc {
            return Err(self.damaged(list_at, "damaged list of nodes"));
        }
        let mut rest = &list[..];
        let mut rows = Vec::with_capacity(bodies as usize);
        while let Some(address) = take_array(&mut rest) {
            let (Some(offset), Some(len)) = (take_array(&mut rest), take_array(&mut rest)) else { break };
            rows.push((address, Extent { offset: u64::from_le_bytes(offset), len: u32::from_le_bytes(len) }));
        }
        Ok(rows)
    }

    /// A body, compared with its address.
    pub fn body(&self, address: &Address, extent: Extent) -> Result<Vec<u8>, StoreError> {
        let body = self.read(extent.offset, extent.len.into())?;
        if Sha256::digest(&body)[..] != address[..] {
            return Err(self.damaged(extent.offset, "a node is not what its address says"));
        }
        Ok(body)
    }

    pub fn damaged(&self, offset: u64, problem: &'static str) -> StoreError {
        StoreError::Damaged { file: self.path.clone(), offset, problem }
    }

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        if offset.checked_add(len).is_none_or(|end| end > self.label.size) {
            return Err(self.damaged(offset, "it ends before what it should hold"));
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_at(offset, &mut bytes).map_err(|source| StoreError::io("read", &self.path, source))?;
        Ok(bytes)
    }
}

/// Where the list is, how many rows it has, its checksum and that of the footer.
fn parse_footer(mut footer: &[u8]) -> Option<(u64, u64, u32, u32)> {
    let computed = crc32c::crc32c(footer.get(..20)?);
    let list_at = u64::from_le_bytes(take_array(&mut footer)?);
    let bodies = u64::from_le_bytes(take_array(&mut footer)?);
    let list_crc = u32::from_le_bytes(take_array(&mut footer)?);
    let footer_crc = u32::from_le_bytes(take_array(&mut footer)?);
    (footer_crc == computed && footer == END).then_some((list_at, bodies, list_crc, footer_crc))
}
