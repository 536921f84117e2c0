//! Walking over entries in order. A cursor holds references on the stack; stepping never makes a node.

use std::iter::FusedIterator;

use arrayvec::ArrayVec;

use crate::node::{DEPTH, Inner, Leaf, Node};

/// A place between two entries.
pub(crate) struct Cursor<'a, K, V> {
    /// The inner nodes above the leaf, root first, and the child taken at each.
    path: ArrayVec<(&'a Inner<K, V>, usize), DEPTH>,
    leaf: &'a Leaf<K, V>,
    /// Entries of the leaf before the place.
    at: usize,
}

impl<K, V> Clone for Cursor<'_, K, V> {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), leaf: self.leaf, at: self.at }
    }
}

impl<'a, K, V> Cursor<'a, K, V> {
    /// The place before the entry of rank `rank`, or after the last one.
    pub fn at_rank(node: &'a Node<K, V>, mut rank: usize) -> Self {
        let mut path = ArrayVec::new();
        let mut node = node;
        loop {
            match node {
                Node::Leaf(leaf) => return Self { path, leaf, at: rank },
                Node::Inner(inner) => {
                    let mut child = 0;
                    while child + 1 < inner.counts.len() && rank >= inner.counts[child] {
                        rank -= inner.counts[child];
                        child += 1;
                    }
                    path.push((inner, child));
                    node = &inner.children[child];
                }
            }
        }
    }

    /// The entry after the place; the place moves behind it.
    #[inline]
    pub fn forth(&mut self) -> Option<(&'a K, &'a V)> {
        if self.at == self.leaf.entries.len() && !self.leaf_after() {
            return None;
        }
        let at = self.at;
        self.at += 1;
        Some(self.leaf.entry(at))
    }

    /// The entry before the place; the place moves before it.
    #[inline]
    pub fn back(&mut self) -> Option<(&'a K, &'a V)> {
        if self.at == 0 && !self.leaf_before() {
            return None;
        }
        self.at -= 1;
        Some(self.leaf.entry(self.at))
    }

    fn leaf_after(&mut self) -> bool {
        while let Some((inner, child)) = self.path.pop() {
            if child + 1 < inner.children.len() {
                self.path.push((inner, child + 1));
                self.enter(&inner.children[child + 1], |_| 0);
                self.at = 0;
                return true;
            }
        }
        false
    }

    fn leaf_before(&mut self) -> bool {
        while let Some((inner, child)) = self.path.pop() {
            if child > 0 {
                self.path.push((inner, child - 1));
                self.enter(&inner.children[child - 1], |inner| inner.children.len() - 1);
                self.at = self.leaf.entries.len();
                return true;
            }
        }
        false
    }

    fn enter(&mut self, mut node: &'a Node<K, V>, choose: impl Fn(&Inner<K, V>) -> usize) {
        loop {
            match node {
                Node::Leaf(leaf) => {
                    self.leaf = leaf;
                    return;
                }
                Node::Inner(inner) => {
                    let child = choose(inner);
                    self.path.push((inner, child));
                    node = &inner.children[child];
                }
            }
        }
    }
}

/// The entries of a range of keys, ascending; from the end with [`Iterator::rev`]. It knows how many
/// are left, and [`Iterator::nth`] skips in O(log n).
pub struct Range<'a, K, V> {
    root: Option<&'a Node<K, V>>,
    front: Option<Cursor<'a, K, V>>,
    back: Option<Cursor<'a, K, V>>,
    /// Rank of the next entry, and one past that of the last.
    next: usize,
    end: usize,
}

impl<'a, K, V> Range<'a, K, V> {
    pub(crate) fn new(root: Option<&'a Node<K, V>>, (next, end): (usize, usize)) -> Self {
        Self { root, front: None, back: None, next, end }
    }

    /// Rank of the next entry in the whole tree.
    pub fn rank(&self) -> usize {
        self.next
    }
}

impl<K, V> Clone for Range<'_, K, V> {
    fn clone(&self) -> Self {
        Self { front: self.front.clone(), back: self.back.clone(), ..*self }
    }
}

impl<'a, K, V> Iterator for Range<'a, K, V> {
    type Item = (&'a K, &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.end {
            return None;
        }
        let next = self.next;
        self.next += 1;
        match &mut self.front {
            Some(front) => front.forth(),
            None => self.front.insert(Cursor::at_rank(self.root?, next)).forth(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }

    fn count(self) -> usize {
        self.end - self.next
    }

    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        if n >= self.end - self.next {
            self.next = self.end;
        } else if n > 0 {
            self.next += n;
            self.front = None;
        }
        self.next()
    }

    fn last(mut self) -> Option<Self::Item> {
        self.next_back()
    }
}

impl<K, V> DoubleEndedIterator for Range<'_, K, V> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.next == self.end {
            return None;
        }
        let end = self.end;
        self.end -= 1;
        match &mut self.back {
            Some(back) => back.back(),
            None => self.back.insert(Cursor::at_rank(self.root?, end)).back(),
        }
    }

    fn nth_back(&mut self, n: usize) -> Option<Self::Item> {
        if n >= self.end - self.next {
            self.end = self.next;
        } else if n > 0 {
            self.end -= n;
            self.back = None;
        }
        self.next_back()
    }
}

impl<K, V> ExactSizeIterator for Range<'_, K, V> {}
impl<K, V> FusedIterator for Range<'_, K, V> {}
