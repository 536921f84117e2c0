//! How a node is written. Children stand before separators, so that whoever follows addresses need not
//! know what a key is.
//!
//! ```text
//! height u8, 0 for a leaf | count
//! leaf:  content hash of 32 bytes | key, value of each entry
//! inner: address of 32 bytes, entries as a count, of each child | separators, one fewer
//! ```

use triomphe::Arc;

use crate::codec::{Codec, put_len, take_array, take_len};
use crate::hash::{Address, ContentHash};
use crate::node::{FAN, Inner, LEAF, Leaf, Node};

/// Writes a leaf, and seals its content hash on the way.
pub(super) fn put_leaf<K: Codec, V: Codec>(leaf: &Leaf<K, V>, out: &mut Vec<u8>) {
    out.push(0);
    put_len(leaf.entries.len(), out);
    let sum_at = out.len();
    out.extend_from_slice(&[0; 32]);
    let mut sum = ContentHash::default();
    for (key, value) in &leaf.entries {
        let at = out.len();
        key.encode(out);
        value.encode(out);
        if leaf.seal.content.get().is_none() {
            sum = sum.plus(ContentHash::of_entry(&out[at..]));
        }
    }
    let sum = *leaf.seal.content.get_or_init(|| sum);
    out[sum_at..sum_at + 32].copy_from_slice(&sum.to_bytes());
}

/// Writes an inner node whose children have these addresses.
pub(super) fn put_inner<K: Codec, V>(
    inner: &Inner<K, V>,
    height: u8,
    addresses: &[Address],
    out: &mut Vec<u8>,
) {
    out.push(height);
    put_len(addresses.len(), out);
    for (address, count) in addresses.iter().zip(&inner.counts) {
        out.extend_from_slice(address);
        put_len(*count, out);
    }
    for separator in &inner.separators {
        separator.encode(out);
    }
}

/// A child as its parent names it.
pub(super) struct Child {
    pub address: Address,
    pub len: usize,
}

/// A node whose children have not been loaded.
pub(super) enum Body<'a> {
    Leaf { count: usize, rest: &'a [u8] },
    Inner { height: u8, children: Vec<Child>, rest: &'a [u8] },
}

/// Reads the part that does not depend on keys and values.
pub(super) fn parse(mut body: &[u8]) -> Option<Body<'_>> {
    let [height] = take_array(&mut body)?;
    let count = take_len(&mut body)?;
    if height == 0 {
        return (1..=LEAF).contains(&count).then_some(Body::Leaf { count, rest: body });
    }
    if !(1..=FAN).contains(&count) {
        return None;
    }
    let mut children = Vec::with_capacity(count);
    for _ in 0..count {
        children.push(Child { address: take_array(&mut body)?, len: take_len(&mut body)? });
    }
    Some(Body::Inner { height, children, rest: body })
}

/// Reads the entries of a leaf.
pub(super) fn leaf<K: Codec + Ord, V: Codec>(count: usize, mut rest: &[u8]) -> Option<Node<K, V>> {
    let mut leaf = Leaf::empty();
    let sum = ContentHash::from_bytes(take_array(&mut rest)?);
    for _ in 0..count {
        let (key, value) = (K::decode(&mut rest)?, V::decode(&mut rest)?);
        if leaf.entries.last().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        leaf.entries.push((key, value));
    }
    leaf.seal.content.set(sum).ok()?;
    rest.is_empty().then_some(Node::Leaf(leaf))
}

/// Puts an inner node together from its loaded children.
pub(super) fn inner<K: Codec + Ord, V: Codec>(
    children: Vec<Arc<Node<K, V>>>,
    mut rest: &[u8],
) -> Option<Node<K, V>> {
    let mut inner = Inner::empty();
    let mut sum = ContentHash::default();
    for child in children {
        let separator = if inner.children.is_empty() { None } else { Some(K::decode(&mut rest)?) };
        sum = sum.plus(*child.seal().content.get()?);
        inner.push(separator, child);
    }
    inner.seal.content.set(sum).ok()?;
    let ascends = inner.separators.windows(2).all(|pair| pair[0] < pair[1]);
    (ascends && rest.is_empty()).then_some(Node::Inner(inner))
}
