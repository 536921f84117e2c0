//! Comparing two trees: two walks side by side that step over what is the same below.

use std::cmp::Ordering;

use arrayvec::ArrayVec;
use triomphe::Arc;

use crate::node::{DEPTH, Inner, Leaf, Node};

/// One difference between two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a, K, V> {
    /// Only the newer tree has the key.
    Added(&'a K, &'a V),
    /// Only the older tree has the key.
    Removed(&'a K, &'a V),
    /// Both have the key, with different values.
    Changed {
        /// The key.
        key: &'a K,
        /// Its value in the older tree.
        old: &'a V,
        /// Its value in the newer tree.
        new: &'a V,
    },
}

impl<'a, K, V> Change<'a, K, V> {
    /// The key that differs.
    pub fn key(&self) -> &'a K {
        match self {
            Self::Added(key, _) | Self::Removed(key, _) | Self::Changed { key, .. } => key,
        }
    }
}

/// The differences of two trees, in the order of keys: what [`Tree::diff`](crate::Tree::diff) answers.
pub struct Diff<'a, K, V> {
    old: Walk<'a, K, V>,
    new: Walk<'a, K, V>,
}

impl<'a, K, V> Diff<'a, K, V> {
    pub(crate) fn new(old: Option<&'a Arc<Node<K, V>>>, new: Option<&'a Arc<Node<K, V>>>) -> Self {
        Self { old: Walk::new(old), new: Walk::new(new) }
    }
}

impl<'a, K: Ord, V: PartialEq> Iterator for Diff<'a, K, V> {
    type Item = Change<'a, K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match (self.old.spot, self.new.spot) {
                (Spot::End, Spot::End) => return None,
                (Spot::Below(old), Spot::Below(new)) => match self.old.height.cmp(&self.new.height) {
                    Ordering::Equal if is_same(old, new) => {
                        self.old.leave();
                        self.new.leave();
                    }
                    // Opening both keeps the walks level, so that what they share further down is met together.
                    Ordering::Equal => {
                        self.old.open(old);
                        self.new.open(new);
                    }
                    Ordering::Greater => self.old.open(old),
                    Ordering::Less => self.new.open(new),
                },
                (Spot::Below(old), _) => self.old.open(old),
                (_, Spot::Below(new)) => self.new.open(new),
                (Spot::Entry(leaf, at), Spot::End) => {
                    self.old.step(leaf, at);
                    let (key, value) = leaf.entry(at);
                    return Some(Change::Removed(key, value));
                }
                (Spot::End, Spot::Entry(leaf, at)) => {
                    self.new.step(leaf, at);
                    let (key, value) = leaf.entry(at);
                    return Some(Change::Added(key, value));
                }
                (Spot::Entry(old, old_at), Spot::Entry(new, new_at)) => {
                    let ((old_key, old_value), (new_key, new_value)) = (old.entry(old_at), new.entry(new_at));
                    match old_key.cmp(new_key) {
                        Ordering::Less => {
                            self.old.step(old, old_at);
                            return Some(Change::Removed(old_key, old_value));
                        }
                        Ordering::Greater => {
                            self.new.step(new, new_at);
                            return Some(Change::Added(new_key, new_value));
                        }
                        Ordering::Equal => {
                            self.old.step(old, old_at);
                            self.new.step(new, new_at);
                            if old_value != new_value {
                                return Some(Change::Changed {
                                    key: new_key,
                                    old: old_value,
                                    new: new_value,
                                });
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Whether two nodes are known to hold the same entries. Both walks have given out everything before
/// them, so the two can then be stepped over whatever surrounds them.
fn is_same<K, V>(one: &Arc<Node<K, V>>, other: &Arc<Node<K, V>>) -> bool {
    Arc::ptr_eq(one, other)
        || match (one.seal().content.get(), other.seal().content.get()) {
            (Some(mine), Some(theirs)) => mine == theirs && one.len() == other.len(),
            _ => false,
        }
}

/// Where a walk stands: always before the largest subtree that starts there.
enum Spot<'a, K, V> {
    Below(&'a Arc<Node<K, V>>),
    Entry(&'a Leaf<K, V>, usize),
    End,
}

impl<K, V> Clone for Spot<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Spot<'_, K, V> {}

struct Walk<'a, K, V> {
    path: ArrayVec<(&'a Inner<K, V>, usize), DEPTH>,
    spot: Spot<'a, K, V>,
    /// Inner nodes between the spot and the leaves; meaningful before a subtree only.
    height: usize,
}

impl<'a, K, V> Walk<'a, K, V> {
    fn new(root: Option<&'a Arc<Node<K, V>>>) -> Self {
        let Some(root) = root else {
            return Self { path: ArrayVec::new(), spot: Spot::End, height: 0 };
        };
        let (mut height, mut node) = (0, root);
        while let Node::Inner(inner) = &**node {
            height += 1;
            node = &inner.children[0];
        }
        Self { path: ArrayVec::new(), spot: Spot::Below(root), height }
    }

    /// Moves to the first child, or the first entry.
    fn open(&mut self, node: &'a Arc<Node<K, V>>) {
        match &**node {
            Node::Leaf(leaf) => self.spot = Spot::Entry(leaf, 0),
            Node::Inner(inner) => {
                self.path.push((inner, 0));
                self.spot = Spot::Below(&inner.children[0]);
                self.height -= 1;
            }
        }
    }

    /// Moves behind the node that stands at the spot, or behind the leaf whose entry does.
    fn leave(&mut self) {
        while let Some((inner, child)) = self.path.last_mut() {
            *child += 1;
            if let Some(next) = inner.children.get(*child) {
                self.spot = Spot::Below(next);
                return;
            }
            self.path.pop();
            self.height += 1;
        }
        self.spot = Spot::End;
    }

    /// Moves to the next entry.
    fn step(&mut self, leaf: &'a Leaf<K, V>, at: usize) {
        if at + 1 < leaf.entries.len() {
            self.spot = Spot::Entry(leaf, at + 1);
        } else {
            self.leave();
        }
    }
}
