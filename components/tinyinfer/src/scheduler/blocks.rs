//! The paged KV cache's bookkeeping: which block is free, shared or worth keeping.
//!
//! A block holds the keys and values of `block_size` consecutive tokens. A full block is published under a hash of
//! its own tokens and of everything before them, so that a later prompt with the same beginning takes it over instead
//! of computing it again. A free block keeps its contents until it is needed: the free list is the cache, oldest
//! first. Published blocks are never written again; only a sequence's last, unshared block is.

use std::collections::HashMap;

/// Index of a block in the executor's KV memory.
pub type BlockId = u32;

/// Identity of a block's contents: its tokens, everything before them, and the salt they were computed under.
type Fingerprint = u128;

#[derive(Debug, Clone, Default)]
struct Block {
    users: u32,
    published: Option<Published>,
}

#[derive(Debug, Clone)]
struct Published {
    fingerprint: Fingerprint,
    tokens: Box<[u32]>,
}

/// Allocates, shares and reclaims KV blocks.
#[derive(Debug, Clone)]
pub struct BlockManager {
    block_size: usize,
    blocks: Vec<Block>,
    free: FreeList,
    by_fingerprint: HashMap<Fingerprint, BlockId>,
}

impl BlockManager {
    /// A pool of `count` blocks of `block_size` tokens each, all free.
    pub fn new(count: usize, block_size: usize) -> Self {
        let mut free = FreeList::new(count);
        for id in 0..count {
            free.push_newest(id as BlockId);
        }
        Self { block_size, blocks: vec![Block::default(); count], free, by_fingerprint: HashMap::new() }
    }

    /// Tokens a block holds.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that no sequence uses: those never written and those kept for their contents.
    pub fn available(&self) -> usize {
        self.free.len
    }

    /// Blocks needed to hold `tokens` tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// The longest run of published blocks that equals the beginning of `tokens`. Takes no reference.
    pub fn find_prefix(&self, tokens: &[u32], salt: u64) -> Vec<BlockId> {
        let mut parent = root(salt);
        let mut found = Vec::new();
        for chunk in tokens.chunks_exact(self.block_size) {
            let fingerprint = chain(parent, chunk);
            let Some(&id) = self.by_fingerprint.get(&fingerprint) else { break };
            // The tokens are compared too: a collision must never serve one user's context to another.
            let same = self.blocks[id as usize].published.as_ref().is_some_and(|p| *p.tokens == *chunk);
            if !same {
                break;
            }
            found.push(id);
            parent = fingerprint;
        }
        found
    }

    /// How many of `ids` would leave the free list if they were shared now.
    pub fn idle_among(&self, ids: &[BlockId]) -> usize {
        ids.iter().filter(|&&id| self.blocks[id as usize].users == 0).count()
    }

    /// Adds a user to a block found by [`Self::find_prefix`].
    pub fn share(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        if block.users == 0 {
            self.free.remove(id);
        }
        block.users += 1;
    }

    /// Takes the free block that was used longest ago and forgets its contents. `None` when all are in use.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = self.free.pop_oldest()?;
        let block = &mut self.blocks[id as usize];
        if let Some(published) = block.published.take() {
            self.by_fingerprint.remove(&published.fingerprint);
        }
        block.users = 1;
        Some(id)
    }

    /// Removes a user. The last one leaves the block free: reusable at once when it was never published, kept as long
    /// as possible otherwise.
    pub fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.users > 0, "block {id} released more often than taken");
        block.users -= 1;
        if block.users > 0 {
            return;
        }
        if block.published.is_some() {
            self.free.push_newest(id);
        } else {
            self.free.push_oldest(id);
        }
    }

    /// Publishes `id` as holding `tokens` behind `parent`, and returns the fingerprint that the next block chains to.
    /// When another block already holds the same contents, that one stays the published one.
    pub fn publish(&mut self, id: BlockId, parent: Option<u128>, salt: u64, tokens: &[u32]) -> u128 {
        debug_assert_eq!(tokens.len(), self.block_size, "only a full block is published");
        let fingerprint = chain(parent.unwrap_or_else(|| root(salt)), tokens);
        self.by_fingerprint.entry(fingerprint).or_insert_with(|| {
            self.blocks[id as usize].published = Some(Published { fingerprint, tokens: tokens.into() });
            id
        });
        fingerprint
    }

    /// Forgets every kept content; blocks in use stay with their users, unpublished.
    pub fn forget_all(&mut self) {
        self.by_fingerprint.clear();
        for block in &mut self.blocks {
            block.published = None;
        }
    }

    /// Users of a block, for tests and invariants.
    pub fn users(&self, id: BlockId) -> u32 {
        self.blocks[id as usize].users
    }
}

fn root(salt: u64) -> Fingerprint {
    xxhash_rust::xxh3::xxh3_128_with_seed(b"kv", salt)
}

fn chain(parent: Fingerprint, tokens: &[u32]) -> Fingerprint {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&parent.to_le_bytes());
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    hasher.digest128()
}

/// A doubly linked list over block indices: constant time at both ends and in the middle.
#[derive(Debug, Clone)]
struct FreeList {
    /// `(previous, next)` of each block; the entry after the last block is the list's two ends.
    links: Vec<(u32, u32)>,
    len: usize,
}

impl FreeList {
    fn new(count: usize) -> Self {
        let ends = count as u32;
        Self { links: vec![(ends, ends); count + 1], len: 0 }
    }

    fn ends(&self) -> u32 {
        (self.links.len() - 1) as u32
    }

    fn insert_between(&mut self, id: u32, previous: u32, next: u32) {
        self.links[id as usize] = (previous, next);
        self.links[previous as usize].1 = id;
        self.links[next as usize].0 = id;
        self.len += 1;
    }

    fn push_newest(&mut self, id: u32) {
        let ends = self.ends();
        self.insert_between(id, self.links[ends as usize].0, ends);
    }

    fn push_oldest(&mut self, id: u32) {
        let ends = self.ends();
        self.insert_between(id, ends, self.links[ends as usize].1);
    }

    fn remove(&mut self, id: u32) {
        let (previous, next) = self.links[id as usize];
        self.links[previous as usize].1 = next;
        self.links[next as usize].0 = previous;
        self.len -= 1;
    }

    fn pop_oldest(&mut self) -> Option<u32> {
        let oldest = self.links[self.ends() as usize].1;
        if oldest == self.ends() {
            return None;
        }
        self.remove(oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocation_takes_the_oldest_and_ends_when_none_is_free() {
        let mut pool = BlockManager::new(3, 4);
        let taken: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(taken, [0, 1, 2]);
        pool.release(1);
        pool.release(0);
        assert_eq!(pool.available(), 2);
        assert_eq!(pool.allocate(), Some(0), "an unpublished block is the first to be used again");
    }

    #[test]
    fn a_prefix_is_found_block_by_block_and_only_under_its_salt() {
        let mut pool = BlockManager::new(4, 2);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        let parent = pool.publish(a, None, 7, &[1, 2]);
        pool.publish(b, Some(parent), 7, &[3, 4]);
        let table: &[(&[u32], u64, &[BlockId])] = &[
            (&[1, 2, 3, 4, 5], 7, &[a, b]),
            (&[1, 2, 3], 7, &[a]),
            (&[1, 2, 9, 9], 7, &[a]),
            (&[3, 4], 7, &[]),
            (&[1, 2, 3, 4], 8, &[]),
            (&[], 7, &[]),
        ];
        for (tokens, salt, expected) in table {
            assert_eq!(pool.find_prefix(tokens, *salt), *expected, "{tokens:?} under {salt}");
        }
    }

    #[test]
    fn a_kept_block_survives_until_the_pool_needs_it() {
        let mut pool = BlockManager::new(2, 2);
        let a = pool.allocate().unwrap();
        pool.publish(a, None, 0, &[1, 2]);
        pool.release(a);
        assert_eq!(pool.find_prefix(&[1, 2], 0), [a]);
        let b = pool.allocate().unwrap();
        assert_ne!(a, b, "the never-used block goes first");
        assert_eq!(pool.allocate(), Some(a));
        assert!(pool.find_prefix(&[1, 2], 0).is_empty(), "and now its contents are gone");
    }

    #[test]
    fn sharing_counts_users() {
        let mut pool = BlockManager::new(1, 2);
        let a = pool.allocate().unwrap();
        pool.publish(a, None, 0, &[1, 2]);
        pool.share(a);
        pool.release(a);
        assert_eq!((pool.available(), pool.users(a)), (0, 1));
        pool.release(a);
        assert_eq!((pool.available(), pool.idle_among(&[a])), (1, 1));
        pool.share(a);
        assert_eq!((pool.available(), pool.users(a)), (0, 1));
    }

    #[test]
    fn forgetting_leaves_users_their_blocks() {
        let mut pool = BlockManager::new(2, 2);
        let a = pool.allocate().unwrap();
        pool.publish(a, None, 0, &[1, 2]);
        pool.forget_all();
        assert!(pool.find_prefix(&[1, 2], 0).is_empty());
        pool.release(a);
        assert_eq!(pool.available(), 2);
    }
}
