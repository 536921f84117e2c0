//! Reading, without trust: whatever a file holds, it is read or refused by name, page and reason.

use super::{BRANCH, BUCKET, BUCKET_HEAD, ELEMENT, LEAF, MAGIC, META, META_SIZE, PAGE_HEAD, VERSION, fnv};
use bytes::Buf as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Page sizes that bbolt could have written.
const PAGE_SIZES: std::ops::RangeInclusive<u64> = 1 << 9..=1 << 16;
/// The most bytes that one page, with those that belong to it, may have: far beyond any request of etcd's.
const PAGE_LIMIT: u64 = 1 << 30;
/// A tree of that many levels would not fit on a disk.
const MAX_DEPTH: usize = 32;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BboltError {
    /// The system refused.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no bbolt file, or its first pages are damaged: neither of them is whole", path = path.display())]
    Alien {
        /// The file.
        path: PathBuf,
    },
    /// Its end is missing.
    #[error("{path} is cut short: it has {length} bytes, and {needed} belong to it", path = path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Bytes that are there.
        length: u64,
        /// Bytes that there were.
        needed: u64,
    },
    /// A page makes no sense.
    #[error("{path} is damaged at page {page} (byte {offset}): {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The page.
        page: u64,
        /// Where it starts.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A file, opened.
pub struct Tree {
    file: File,
    path: PathBuf,
    page_size: u64,
    pages: u64,
    root: u64,
}

/// Where a bucket's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bucket {
    /// In a tree of pages.
    Rooted(u64),
    /// In the page that is the bucket's value.
    Inline(Vec<u8>),
}

/// What a meta says.
struct Meta {
    page_size: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

impl Meta {
    /// Reads one that is whole.
    fn parse(page: &[u8]) -> Option<Self> {
        let (head, meta) = page.split_at_checked(PAGE_HEAD)?;
        let flags = (&head[8..10]).get_u16_le();
        let meta = meta.get(..META_SIZE)?;
        let (mut fields, mut stored) = meta.split_at(META_SIZE - 8);
        if flags != META || fnv(fields) != stored.get_u64_le() {
            return None;
        }
        let (magic, version, page_size) = (fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le());
        let (_flags, root, _sequence) = (fields.get_u32_le(), fields.get_u64_le(), fields.get_u64_le());
        let (_free, pages, transaction) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le());
        let page_size = u64::from(page_size);
        let fits = magic == MAGIC
            && version == VERSION
            && page_size.is_power_of_two()
            && PAGE_SIZES.contains(&page_size);
        fits.then_some(Self { page_size, root, pages, transaction })
    }
}

/// Pages that were read: none belongs to two places.
struct Visited(Vec<u64>);

impl Visited {
    /// Notes a page; whether it is new.
    fn visit(&mut self, page: u64) -> bool {
        let (word, bit) = ((page / 64) as usize, 1_u64 << (page % 64));
        let seen = self.0[word] & bit != 0;
        self.0[word] |= bit;
        !seen
    }
}

/// A page in memory, with those that belong to it.
struct Page {
    id: u64,
    bytes: Vec<u8>,
}

impl Page {
    fn flags(&self) -> u16 {
        (&self.bytes[8..10]).get_u16_le()
    }

    fn count(&self) -> usize {
        usize::from((&self.bytes[10..12]).get_u16_le())
    }

    /// The fields of an element, and where it starts.
    fn element(&self, number: usize) -> Option<(usize, &[u8])> {
        let start = PAGE_HEAD + number * ELEMENT;
        Some((start, self.bytes.get(start..start + ELEMENT)?))
    }

    /// Bytes at an offset from an element.
    fn slice(&self, element: usize, offset: u32, skip: u32, size: u32) -> Option<&[u8]> {
        let start = element as u64 + u64::from(offset) + u64::from(skip);
        let end = start + u64::from(size);
        self.bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// Flags, key and value.
    fn leaf(&self, number: usize) -> Option<(u32, &[u8], &[u8])> {
        let (start, mut fields) = self.element(number)?;
        let (flags, offset) = (fields.get_u32_le(), fields.get_u32_le());
        let (key, value) = (fields.get_u32_le(), fields.get_u32_le());
        Some((flags, self.slice(start, offset, 0, key)?, self.slice(start, offset, key, value)?))
    }

    /// Key and page.
    fn branch(&self, number: usize) -> Option<(&[u8], u64)> {
        let (start, mut fields) = self.element(number)?;
        let (offset, key) = (fields.get_u32_le(), fields.get_u32_le());
        Some((self.slice(start, offset, 0, key)?, fields.get_u64_le()))
    }
}

const OUT_OF_PAGE: &str = "an element lies outside of its page";

impl Tree {
    /// Opens the first `length` bytes of a file.
    pub fn open(path: &Path, length: u64) -> Result<Self, BboltError> {
        let read = |source| BboltError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let meta_at = |offset: u64| -> Result<Option<Meta>, BboltError> {
            let mut page = [0; PAGE_HEAD + META_SIZE];
            if offset + page.len() as u64 > length {
                return Ok(None);
            }
            file.read_exact_at(&mut page, offset).map_err(read)?;
            Ok(Meta::parse(&page))
        };
        let first = meta_at(0)?;
        let mut second = None;
        let mut size = first.as_ref().map_or(*PAGE_SIZES.start(), |meta| meta.page_size);
        // Without the first, nothing says where the second is.
        while second.is_none() && PAGE_SIZES.contains(&size) {
            second = meta_at(size)?.filter(|meta| meta.page_size == size);
            size = if first.is_some() { 0 } else { size * 2 };
        }
        let meta = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
        let Some(Meta { page_size, root, pages, .. }) = meta else {
            return Err(BboltError::Alien { path: path.to_owned() });
        };
        let needed = pages.saturating_mul(page_size);
        if needed > length {
            return Err(BboltError::Short { path: path.to_owned(), length, needed });
        }
        Ok(Self { file, path: path.to_owned(), page_size, pages, root })
    }

    /// The bucket of this name, if there is one.
    pub fn bucket(&self, name: &str) -> Result<Option<Bucket>, BboltError> {
        let mut found = None;
        self.walk(&Bucket::Rooted(self.root), true, |key, value, page| {
            if key == name.as_bytes() {
                found = Some((page, value.to_vec()));
            }
            Ok::<(), BboltError>(())
        })?;
        let Some((page, value)) = found else { return Ok(None) };
        let (mut head, rest) = value
            .split_at_checked(BUCKET_HEAD)
            .ok_or_else(|| self.damaged(page, "a bucket is shorter than its head"))?;
        Ok(Some(match head.get_u64_le() {
            0 if rest.len() < PAGE_HEAD => {
                return Err(self.damaged(page, "a bucket is shorter than its page"));
            }
            0 => Bucket::Inline(rest.to_vec()),
            root => Bucket::Rooted(root),
        }))
    }

    /// Calls `each` with every key and value of a bucket; keys ascend.
    pub fn each<E: From<BboltError>>(
        &self,
        bucket: &Bucket,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.walk(bucket, false, |key, value, _| each(key, value))
    }

    /// The same; values are buckets, or none is. Tells the page too.
    fn walk<E: From<BboltError>>(
        &self,
        bucket: &Bucket,
        buckets: bool,
        mut each: impl FnMut(&[u8], &[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut visited = Visited(vec![0; (self.pages / 64 + 1) as usize]);
        let mut last: Option<Vec<u8>> = None;
        let root = match bucket {
            Bucket::Rooted(root) => self.page(*root, &mut visited)?,
            Bucket::Inline(bytes) => Page { id: 0, bytes: bytes.clone() },
        };
        // Each page, and its next element.
        let mut path = vec![(root, 0)];
        while let Some((page, next)) = path.last_mut() {
            let (number, id) = (*next, page.id);
            *next += 1;
            if number >= page.count() {
                path.pop();
                continue;
            }
            match page.flags() {
                LEAF => {
                    let element = page.leaf(number).ok_or_else(|| self.damaged(id, OUT_OF_PAGE))?;
                    let (flags, key, value) = element;
                    if flags != u32::from(buckets) * BUCKET {
                        return Err(self
                            .damaged(id, "a key stands where a bucket should, or the reverse")
                            .into());
                    }
                    if key.is_empty() || last.as_deref().is_some_and(|last| last >= key) {
                        return Err(self.damaged(id, "its keys do not ascend").into());
                    }
                    last = Some(key.to_vec());
                    each(key, value, id)?;
                }
                BRANCH => {
                    let (_, child) = page.branch(number).ok_or_else(|| self.damaged(id, OUT_OF_PAGE))?;
                    if path.len() == MAX_DEPTH {
                        return Err(self.damaged(id, "it is too deep in the tree").into());
                    }
                    let child = self.page(child, &mut visited)?;
                    path.push((child, 0));
                }
                _ => return Err(self.damaged(id, "it is neither a leaf nor a branch").into()),
            }
        }
        Ok(())
    }

    fn page(&self, id: u64, visited: &mut Visited) -> Result<Page, BboltError> {
        if id < 2 || id >= self.pages {
            return Err(self.damaged(id, "there is no such page, but the tree names it"));
        }
        let read = |source| BboltError::Read { path: self.path.clone(), source };
        let offset = id * self.page_size;
        let mut head = [0; PAGE_HEAD];
        self.file.read_exact_at(&mut head, offset).map_err(read)?;
        let mut fields = &head[..];
        let (own, _flags, _count) = (fields.get_u64_le(), fields.get_u16_le(), fields.get_u16_le());
        if own != id {
            return Err(self.damaged(id, "it says that it is another one"));
        }
        let span = 1 + u64::from(fields.get_u32_le());
        if span > self.pages - id || span * self.page_size > PAGE_LIMIT {
            return Err(self.damaged(id, "more pages belong to it than there are"));
        }
        for page in id..id + span {
            if !visited.visit(page) {
                return Err(self.damaged(page, "it belongs to two places in the tree"));
            }
        }
        let mut bytes = vec![0; (span * self.page_size) as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(read)?;
        Ok(Page { id, bytes })
    }

    fn damaged(&self, page: u64, reason: &'static str) -> BboltError {
        let offset = page.saturating_mul(self.page_size);
        BboltError::Damaged { path: self.path.clone(), page, offset, reason }
    }
}
