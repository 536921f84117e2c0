//! Writing: each bucket once, its keys in order, pages full, from the leaves up.

use super::{
    BRANCH, BUCKET, BUCKET_HEAD, ELEMENT, FREE_LIST, LEAF, MAGIC, META, META_SIZE, PAGE_HEAD, VERSION, fnv,
};
use bytes::BufMut as _;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};

/// What bbolt takes on most machines; a file says which it has.
const PAGE_SIZE: usize = 4096;
/// After the two metas.
const FREE_LIST_PAGE: u64 = 2;
/// The most elements of a page.
const MAX_COUNT: usize = u16::MAX as usize;

/// A file that is being written.
pub struct Writer {
    out: BufWriter<File>,
    next_page: u64,
    /// The names of the buckets so far, and their roots.
    buckets: Vec<(Vec<u8>, u64)>,
}

impl Writer {
    /// Begins with an empty file.
    pub fn new(mut file: File) -> io::Result<Self> {
        let next_page = FREE_LIST_PAGE + 1;
        file.seek(SeekFrom::Start(next_page * PAGE_SIZE as u64))?;
        Ok(Self { out: BufWriter::with_capacity(1 << 20, file), next_page, buckets: Vec::new() })
    }

    /// Has `fill` put the keys of a bucket; names of buckets ascend.
    pub fn bucket(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut Filling<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.buckets.last().is_some_and(|(last, _)| &last[..] >= name.as_bytes()) {
            return Err(io::Error::other(format!("bucket {name} is out of order")));
        }
        let mut filling = Filling { writer: self, levels: vec![Draft::new(LEAF)], last: Vec::new() };
        fill(&mut filling)?;
        let root = filling.end()?;
        self.buckets.push((name.as_bytes().to_vec(), root));
        Ok(())
    }

    /// Writes what holds the buckets together; answers the file and its length. It is not on disk yet.
    pub fn finish(mut self) -> io::Result<(File, u64)> {
        let buckets = std::mem::take(&mut self.buckets);
        let mut filling = Filling { writer: &mut self, levels: vec![Draft::new(LEAF)], last: Vec::new() };
        for (name, root) in buckets {
            let mut value = Vec::with_capacity(BUCKET_HEAD);
            value.put_u64_le(root);
            value.put_u64_le(0);
            filling.put_flagged(BUCKET, &name, &value)?;
        }
        let root = filling.end()?;
        let pages = self.next_page;
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        let mut head = Vec::with_capacity(3 * PAGE_SIZE);
        for transaction in 0..2 {
            put_head(&mut head, transaction, META, 0, 0);
            put_meta(&mut head, root, pages, transaction);
            head.resize((transaction as usize + 1) * PAGE_SIZE, 0);
        }
        put_head(&mut head, FREE_LIST_PAGE, FREE_LIST, 0, 0);
        head.resize(3 * PAGE_SIZE, 0);
        file.write_all(&head)?;
        Ok((file, pages * PAGE_SIZE as u64))
    }

    /// Writes a page, and those that belong to it; answers its number.
    fn write(&mut self, draft: &Draft) -> io::Result<u64> {
        let id = self.next_page;
        let pages = draft.size().div_ceil(PAGE_SIZE).max(1);
        let mut head = Vec::with_capacity(PAGE_HEAD);
        put_head(&mut head, id, draft.flags, draft.count as u16, pages as u32 - 1);
        self.out.write_all(&head)?;
        let mut offset = draft.count * ELEMENT;
        for element in draft.elements.chunks_exact(ELEMENT) {
            // Where its data is was left open: it depends on how many elements there are.
            let (mut one, data) = (element.to_vec(), data_size(draft.flags, element));
            let at = if draft.flags == LEAF { 4 } else { 0 };
            one[at..at + 4].copy_from_slice(&(offset as u32).to_le_bytes());
            self.out.write_all(&one)?;
            offset = offset - ELEMENT + data;
        }
        self.out.write_all(&draft.data)?;
        io::copy(
            &mut io::Read::take(io::repeat(0), (pages * PAGE_SIZE - draft.size()) as u64),
            &mut self.out,
        )?;
        self.next_page += pages as u64;
        Ok(id)
    }
}

/// Bytes of the key and the value of an element.
fn data_size(flags: u16, element: &[u8]) -> usize {
    let field = |at: usize| {
        u32::from_le_bytes([element[at], element[at + 1], element[at + 2], element[at + 3]]) as usize
    };
    if flags == LEAF { field(8) + field(12) } else { field(4) }
}

fn put_head(out: &mut Vec<u8>, id: u64, flags: u16, count: u16, overflow: u32) {
    out.put_u64_le(id);
    out.put_u16_le(flags);
    out.put_u16_le(count);
    out.put_u32_le(overflow);
}

fn put_meta(out: &mut Vec<u8>, root: u64, pages: u64, transaction: u64) {
    let start = out.len();
    out.put_u32_le(MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(PAGE_SIZE as u32);
    out.put_u32_le(0);
    out.put_u64_le(root);
    out.put_u64_le(0);
    out.put_u64_le(FREE_LIST_PAGE);
    out.put_u64_le(pages);
    out.put_u64_le(transaction);
    out.put_u64_le(fnv(&out[start..]));
    debug_assert_eq!(out.len() - start, META_SIZE);
}

/// A page that is being filled.
struct Draft {
    flags: u16,
    count: usize,
    elements: Vec<u8>,
    data: Vec<u8>,
    first: Vec<u8>,
}

impl Draft {
    fn new(flags: u16) -> Self {
        Self { flags, count: 0, elements: Vec::new(), data: Vec::new(), first: Vec::new() }
    }

    fn size(&self) -> usize {
        PAGE_HEAD + self.elements.len() + self.data.len()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.count == 0 || (self.count < MAX_COUNT && self.size() + ELEMENT + bytes <= PAGE_SIZE)
    }

    fn begin(&mut self, key: &[u8]) {
        if self.count == 0 {
            self.first = key.to_vec();
        }
        self.count += 1;
    }
}

/// A bucket that is being written: the last page of each level, leaves first.
pub struct Filling<'a> {
    writer: &'a mut Writer,
    levels: Vec<Draft>,
    last: Vec<u8>,
}

impl Filling<'_> {
    /// Puts a key; keys ascend, and none is empty.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.put_flagged(0, key, value)
    }

    fn put_flagged(&mut self, flags: u32, key: &[u8], value: &[u8]) -> io::Result<()> {
        if self.last.as_slice() >= key {
            return Err(io::Error::other(format!("a key of {} bytes is out of order", key.len())));
        }
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        let (key_size, value_size) = (size(key)?, size(value)?);
        if !self.levels[0].has_room(key.len() + value.len()) {
            self.close(0)?;
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        let leaf = &mut self.levels[0];
        leaf.begin(key);
        for field in [flags, 0, key_size, value_size] {
            leaf.elements.put_u32_le(field);
        }
        leaf.data.extend_from_slice(key);
        leaf.data.extend_from_slice(value);
        Ok(())
    }

    /// Writes the last page of a level, and names it one level up.
    fn close(&mut self, level: usize) -> io::Result<()> {
        let flags = self.levels[level].flags;
        let full = std::mem::replace(&mut self.levels[level], Draft::new(flags));
        let page = self.writer.write(&full)?;
        if self.levels.len() == level + 1 {
            self.levels.push(Draft::new(BRANCH));
        }
        if !self.levels[level + 1].has_room(full.first.len()) {
            self.close(level + 1)?;
        }
        let branch = &mut self.levels[level + 1];
        branch.begin(&full.first);
        branch.elements.put_u32_le(0);
        branch.elements.put_u32_le(full.first.len() as u32);
        branch.elements.put_u64_le(page);
        branch.data.extend_from_slice(&full.first);
        Ok(())
    }

    /// Writes what is left; answers the root.
    fn end(mut self) -> io::Result<u64> {
        let mut level = 0;
        while level + 1 < self.levels.len() {
            self.close(level)?;
            level += 1;
        }
        self.writer.write(&self.levels[level])
    }
}
