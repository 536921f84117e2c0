use std::borrow::Borrow;
use std::fmt;
use std::ops::{Bound, RangeBounds};

use triomphe::Arc;

use crate::codec::Codec;
use crate::diff::Diff;
use crate::edit;
use crate::hash::{self, ContentHash};
use crate::node::{Leaf, Node};
use crate::order;
use crate::range::Range;

/// An ordered map that is cloned in O(1). Clones share nodes; a change copies the nodes on its way
/// that are shared, and changes the others in place.
pub struct Tree<K, V> {
    pub(crate) root: Option<Arc<Node<K, V>>>,
}

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone() }
    }
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Tree<K, V> {
    /// An empty tree. It takes no memory.
    pub const fn new() -> Self {
        Self { root: None }
    }

    /// Number of entries. O(1).
    pub fn len(&self) -> usize {
        self.root.as_ref().map_or(0, |root| root.len())
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether the two are one and the same tree: neither changed since one was cloned from the other.
    /// O(1), and may be false for equal contents.
    pub fn ptr_eq(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// The value of `key`.
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The entry of `key`: the key as it is kept, and its value.
    pub fn get_key_value<Q>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.child_of(key)],
                Node::Leaf(leaf) => {
                    return leaf.find(key).ok().map(|at| leaf.entry(at));
                }
            }
        }
    }

    /// Whether `key` has an entry.
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.get_key_value(key).is_some()
    }

    /// The entry of the least key.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// The entry of the greatest key.
    pub fn last(&self) -> Option<(&K, &V)> {
        self.iter().next_back()
    }

    /// Every entry, ascending.
    pub fn iter(&self) -> Range<'_, K, V> {
        Range::new(self.root.as_deref(), (0, self.len()))
    }

    /// The entries of a range of keys, ascending. A range that is upside down holds nothing.
    pub fn range<Q, R>(&self, range: R) -> Range<'_, K, V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
        R: RangeBounds<Q>,
    {
        let root = self.root.as_deref();
        Range::new(root, root.map_or((0, 0), |root| order::ranks(root, &range)))
    }

    /// Number of entries of a range of keys. O(log n), however many they are.
    pub fn count<Q, R>(&self, range: R) -> usize
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
        R: RangeBounds<Q>,
    {
        self.range(range).len()
    }

    /// The entries whose keys start with `prefix`, ascending; their number is [`Range::len`], in O(log n).
    pub fn prefix(&self, prefix: &[u8]) -> Range<'_, K, V>
    where
        K: Borrow<[u8]>,
    {
        let start = Bound::Included(prefix);
        // What follows all such keys: the prefix without trailing 0xff, its last byte one up.
        let end = prefix.iter().rposition(|byte| *byte < u8::MAX).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        });
        self.range((start, end.as_deref().map_or(Bound::Unbounded, Bound::Excluded)))
    }

    /// Number of keys below `key`. O(log n).
    pub fn rank<Q>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.root.as_deref().map_or(0, |root| order::rank(root, Bound::Included(key)))
    }

    /// The entry before which `rank` others stand. O(log n).
    pub fn nth(&self, rank: usize) -> Option<(&K, &V)> {
        self.iter().nth(rank)
    }

    /// What changed from this tree to `newer`, in the order of keys. Nodes that the two share, and
    /// nodes whose content hashes are known and equal, are skipped, so that the diff of a fork costs what
    /// the fork changed. For trees that do not descend from one another, ask both for
    /// [`Tree::hash`] before.
    pub fn diff<'a>(&'a self, newer: &'a Self) -> Diff<'a, K, V>
    where
        K: Ord,
        V: PartialEq,
    {
        Diff::new(self.root.as_ref(), newer.root.as_ref())
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// Puts an entry; answers the value that it replaces. The key that was there stays.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let root = self.root.get_or_insert_with(|| Arc::new(Node::Leaf(Leaf::empty())));
        edit::insert(root, key, value)
    }

    /// Takes an entry out; answers its value.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.remove_entry(key).map(|(_, value)| value)
    }

    /// Takes an entry out.
    pub fn remove_entry<Q>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let taken = edit::remove(self.own(key)?, key)?;
        // A root with one child is replaced by it; one with none, by nothing.
        while let Some(root) = &self.root {
            self.root = match &**root {
                Node::Inner(inner) if inner.children.len() == 1 => Some(Arc::clone(&inner.children[0])),
                _ if root.len() == 0 => None,
                _ => break,
            };
        }
        Some(taken)
    }

    /// The value of `key`, to be changed. Nodes that are shared with other trees are copied, and
    /// content hashes forgotten, whether the value is then changed or not.
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        edit::value_mut(self.own(key)?, key)
    }

    /// The value of `key`, to be changed; where there is none, `default` becomes it.
    pub fn get_or_insert_with(&mut self, key: K, default: impl FnOnce() -> V) -> &mut V {
        if self.contains_key(&key) {
            return self.get_mut(&key).expect("the key is there");
        }
        let place = key.clone();
        self.insert(key, default());
        self.get_mut(&place).expect("the key was just put in")
    }

    /// The root, for a change of `key`. A tree that is shared is searched first: a change that finds
    /// nothing to do shall copy nothing.
    fn own<Q>(&mut self, key: &Q) -> Option<&mut Arc<Node<K, V>>>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let is_shared = self.root.as_ref().is_some_and(|root| Arc::count(root) > 1);
        if is_shared && !self.contains_key(key) {
            return None;
        }
        self.root.as_mut()
    }
}

impl<K: Codec, V: Codec> Tree<K, V> {
    /// Hash of the contents, and of nothing else: trees of equal entries hash alike whatever the order of
    /// changes that led to them. O(1) when nothing changed since the last call, else O(changes · log n).
    pub fn hash(&self) -> ContentHash {
        self.root.as_deref().map_or_else(ContentHash::default, hash::of_node)
    }

    /// The same for the entries of a range of keys. Hashes of neighbouring ranges add up to that of their
    /// union, so two replicas find where they differ by halving. O(log n) once the whole is known.
    pub fn hash_range<Q, R>(&self, range: R) -> ContentHash
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
        R: RangeBounds<Q>,
    {
        self.root.as_deref().map_or_else(ContentHash::default, |root| {
            let (first, end) = order::ranks(root, &range);
            hash::of_ranks(root, first, end)
        })
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Tree<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.ptr_eq(other) || (self.len() == other.len() && self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for Tree<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Tree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a, K, V> IntoIterator for &'a Tree<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Range<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Tree<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Tree<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut tree = Self::new();
        tree.extend(entries);
        tree
    }
}
