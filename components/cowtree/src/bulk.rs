//! Building a tree from entries that are sorted already: full nodes, no search.

use triomphe::Arc;

use crate::node::{FAN, Inner, LEAF, Leaf, Node, Split};
use crate::tree::Tree;

/// A key did not stand above the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entry {at} of a sorted load does not stand above the one before it")]
pub struct Unsorted {
    /// Which entry, from 0.
    pub at: usize,
}

/// Builds a tree from entries in ascending order of keys. Stops at the first that is not.
///
/// ```
/// let tree = cowtree::from_sorted((0..1000).map(|n| (n, n * n)))?;
/// assert_eq!(tree.count(10..20), 10);
/// # Ok::<_, cowtree::Unsorted>(())
/// ```
pub fn from_sorted<K: Ord + Clone, V: Clone>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> Result<Tree<K, V>, Unsorted> {
    let mut levels = Levels::new();
    let mut leaf = Leaf::<K, V>::empty();
    for (at, (key, value)) in entries.into_iter().enumerate() {
        // A leaf is handed on only when a further entry comes, so it is never empty.
        if leaf.entries.last().is_some_and(|(last, _)| *last >= key) {
            return Err(Unsorted { at });
        }
        if leaf.entries.len() == LEAF {
            let full = std::mem::replace(&mut leaf, Leaf::empty());
            levels.push((full.entries[0].0.clone(), Arc::new(Node::Leaf(full))));
        }
        leaf.entries.push((key, value));
    }
    if leaf.entries.is_empty() {
        return Ok(Tree::new());
    }
    levels.push((leaf.entries[0].0.clone(), Arc::new(Node::Leaf(leaf))));
    Ok(Tree { root: Some(levels.close()) })
}

/// The unfinished inner node of each height, lowest first, with the least key below it.
struct Levels<K, V> {
    open: Vec<(K, Inner<K, V>)>,
}

impl<K: Clone, V> Levels<K, V> {
    fn new() -> Self {
        Self { open: Vec::new() }
    }

    fn push(&mut self, split: Split<K, V>) {
        self.push_at(0, split);
    }

    fn push_at(&mut self, height: usize, (low, child): Split<K, V>) {
        if height == self.open.len() {
            let mut inner = Inner::empty();
            inner.push(None, child);
            self.open.push((low, inner));
            return;
        }
        let (_, inner) = &mut self.open[height];
        if inner.children.len() < FAN {
            inner.push(Some(low), child);
            return;
        }
        let mut next = Inner::empty();
        next.push(None, child);
        let (full_low, full) = std::mem::replace(&mut self.open[height], (low, next));
        self.push_at(height + 1, (full_low, Arc::new(Node::Inner(full))));
    }

    /// Closes the nodes from the lowest up; the topmost is the root.
    fn close(mut self) -> Arc<Node<K, V>> {
        loop {
            // Without the lowest height, number 0 is the next one.
            let (low, mut inner) = self.open.remove(0);
            if !self.open.is_empty() {
                self.push_at(0, (low, Arc::new(Node::Inner(inner))));
            } else if inner.children.len() == 1 {
                return inner.children.remove(0);
            } else {
                return Arc::new(Node::Inner(inner));
            }
        }
    }
}
