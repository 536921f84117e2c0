//! The manifest: the roots that were published together, and the packs that hold their nodes.
//!
//! ```text
//! "COWROOTS" | version u32 | length of the body u64 | body | CRC-32C of all before u32
//! body: note | next pack u64 | count, packs: number u64, size u64, CRC of footer u32
//!       | count, roots: name, address of 32 bytes, entries u64, content hash of 32 bytes
//! ```

use std::collections::BTreeMap;

use super::StoreError;
use super::files::Files;
use super::pack::Label;
use crate::codec::{Codec, put_len, take, take_array, take_len};
use crate::hash::{Address, ContentHash};

pub(super) const NAME: &str = "MANIFEST";
/// What a manifest is called while it is written.
pub(super) const DRAFT: &str = "MANIFEST.new";

const MAGIC: &[u8; 8] = b"COWROOTS";
const VERSION: u32 = 1;

/// A tree that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// Where its topmost node is; `None` for the empty tree.
    pub(super) address: Option<Address>,
    /// Number of entries.
    pub len: u64,
    /// Hash of the contents.
    pub hash: ContentHash,
}

#[derive(Clone, Default)]
pub(super) struct Manifest {
    pub note: Vec<u8>,
    pub next_pack: u64,
    pub packs: Vec<Label>,
    pub roots: BTreeMap<String, Root>,
}

impl Manifest {
    /// Reads the manifest. `None` where there is none.
    pub fn read(files: &dyn Files) -> Result<Option<Self>, StoreError> {
        let path = files.path(NAME);
        let io = |source| StoreError::io("read", &path, source);
        let file = match files.open(NAME) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io)?,
        };
        let mut bytes = vec![0; file.size().map_err(io)? as usize];
        file.read_at(0, &mut bytes).map_err(io)?;
        let damaged = |problem| StoreError::Damaged { file: path.clone(), offset: 0, problem };
        let body = unwrap(&bytes).map_err(damaged)?;
        let mut rest = body;
        let manifest = Self::decode(&mut rest).filter(|_| rest.is_empty());
        manifest.map(Some).ok_or_else(|| damaged("it is not a manifest of this version"))
    }

    /// Puts this manifest in the place of the one before, for good.
    pub fn publish(&self, files: &dyn Files) -> Result<(), StoreError> {
        let draft = files.path(DRAFT);
        let io = |operation: &'static str| {
            let draft = draft.clone();
            move |source| StoreError::io(operation, &draft, source)
        };
        let mut body = Vec::new();
        self.encode(&mut body);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let mut file = files.create(DRAFT).map_err(io("create"))?;
        file.write_all(&bytes).map_err(io("write"))?;
        file.sync().map_err(io("sync"))?;
        drop(file);
        files.rename(DRAFT, NAME).map_err(io("rename"))?;
        files.sync_names().map_err(io("sync the directory of"))
    }
}

fn unwrap(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let (rest, crc) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
    if crc32c::crc32c(rest) != u32::from_le_bytes(*crc) {
        return Err("its checksum does not fit");
    }
    let parse = |mut rest| {
        let magic: [u8; 8] = take_array(&mut rest)?;
        let version = u32::from_le_bytes(take_array(&mut rest)?);
        let len = u64::from_le_bytes(take_array(&mut rest)?);
        (magic == *MAGIC && version == VERSION && len == rest.len() as u64).then_some(rest)
    };
    parse(rest).ok_or("it is not a manifest of this version")
}

impl Codec for Manifest {
    fn encode(&self, out: &mut Vec<u8>) {
        self.note.encode(out);
        self.next_pack.encode(out);
        put_len(self.packs.len(), out);
        for pack in &self.packs {
            pack.number.encode(out);
            pack.size.encode(out);
            pack.footer_crc.encode(out);
        }
        put_len(self.roots.len(), out);
        for (name, root) in &self.roots {
            name.encode(out);
            root.address.encode(out);
            root.len.encode(out);
            root.hash.to_bytes().encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        let mut manifest =
            Self { note: Vec::decode(input)?, next_pack: u64::decode(input)?, ..Self::default() };
        for _ in 0..take_len(input)? {
            manifest.packs.push(Label {
                number: u64::decode(input)?,
                size: u64::decode(input)?,
                footer_crc: u32::decode(input)?,
            });
        }
        for _ in 0..take_len(input)? {
            let name = String::decode(input)?;
            let address = Option::decode(input)?;
            let len = u64::decode(input)?;
            let hash = ContentHash::from_bytes(take(input, 32)?.try_into().ok()?);
            manifest.roots.insert(name, Root { address, len, hash });
        }
        Some(manifest)
    }
}
