//! Ranks: from a key to the number of entries before it, and back.

use std::borrow::Borrow;
use std::ops::{Bound, RangeBounds};

use crate::node::Node;

/// Entries before the place where a range from `bound` starts.
pub(crate) fn rank<K, V, Q>(mut node: &Node<K, V>, bound: Bound<&Q>) -> usize
where
    K: Borrow<Q>,
    Q: Ord + ?Sized,
{
    let mut before = 0;
    let (key, after) = match bound {
        Bound::Unbounded => return 0,
        Bound::Included(key) => (key, false),
        Bound::Excluded(key) => (key, true),
    };
    loop {
        match node {
            Node::Inner(inner) => {
                let child = inner.child_of(key);
                before += inner.counts[..child].iter().sum::<usize>();
                node = &inner.children[child];
            }
            Node::Leaf(leaf) => {
                return before
                    + match leaf.find(key) {
                        Ok(at) => at + usize::from(after),
                        Err(at) => at,
                    };
            }
        }
    }
}

/// The ranks that a range of keys covers: first, and one past the last. Empty where it is upside down.
pub(crate) fn ranks<K, V, Q>(node: &Node<K, V>, range: &impl RangeBounds<Q>) -> (usize, usize)
where
    K: Borrow<Q>,
    Q: Ord + ?Sized,
{
    let first = rank(node, range.start_bound());
    let end = match range.end_bound() {
        Bound::Unbounded => node.len(),
        // A range that ends with a key ends where one that starts after it would start.
        Bound::Included(key) => rank(node, Bound::Excluded(key)),
        Bound::Excluded(key) => rank(node, Bound::Included(key)),
    };
    (first, end.max(first))
}
