//! Hashes of contents: a sum over entries, so that neither order nor shape matters (`docs/adr/0004`).

use std::fmt;

use sha2::{Digest, Sha256};

use crate::codec::Codec;
use crate::node::{Leaf, Node};

/// Where a node is kept: SHA-256 of its bytes.
pub(crate) type Address = [u8; 32];

/// The sum of the SHA-256 of every entry, in four lanes modulo 2^64. It depends on which entries there
/// are, not on how they came. Unequal contents hash alike with a probability of 2^-256 unless somebody
/// searches for such contents; finding them takes a generalised birthday attack over thousands of
/// chosen entries, against which this is no proof.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ContentHash([u64; 4]);

impl ContentHash {
    /// Adds what `other` covers; the two cover different keys.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane].wrapping_add(other.0[lane])))
    }

    /// The 32 bytes that stand for this hash.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }

    /// The hash that [`ContentHash::to_bytes`] stands for.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let (lanes, _) = bytes.as_chunks::<8>();
        Self(std::array::from_fn(|lane| u64::from_le_bytes(lanes[lane])))
    }

    /// Hash of one entry, from its encoded bytes.
    pub(crate) fn of_entry(encoded: &[u8]) -> Self {
        Self::from_bytes(Sha256::digest(encoded).into())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

/// Content of a node; kept in its seal.
pub(crate) fn of_node<K: Codec, V: Codec>(node: &Node<K, V>) -> ContentHash {
    *node.seal().content.get_or_init(|| match node {
        Node::Leaf(leaf) => of_entries(leaf, 0, leaf.entries.len()),
        Node::Inner(inner) => {
            inner.children.iter().fold(ContentHash::default(), |sum, child| sum.plus(of_node(child)))
        }
    })
}

/// Content of the entries from rank `first` up to `end`.
pub(crate) fn of_ranks<K: Codec, V: Codec>(node: &Node<K, V>, first: usize, end: usize) -> ContentHash {
    if first == 0 && end == node.len() {
        return of_node(node);
    }
    match node {
        Node::Leaf(leaf) => of_entries(leaf, first, end),
        Node::Inner(inner) => {
            let mut sum = ContentHash::default();
            let mut before = 0;
            for (child, count) in inner.children.iter().zip(&inner.counts) {
                let (from, to) = (first.max(before), end.min(before + count));
                if from < to {
                    sum = sum.plus(of_ranks(child, from - before, to - before));
                }
                before += count;
            }
            sum
        }
    }
}

fn of_entries<K: Codec, V: Codec>(leaf: &Leaf<K, V>, first: usize, end: usize) -> ContentHash {
    let mut encoded = Vec::new();
    let mut sum = ContentHash::default();
    for (key, value) in &leaf.entries[first..end] {
        encoded.clear();
        key.encode(&mut encoded);
        value.encode(&mut encoded);
        sum = sum.plus(ContentHash::of_entry(&encoded));
    }
    sum
}
