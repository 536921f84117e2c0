//! What the tree is made of. A node is changed only while nobody else holds it; every change breaks
//! its seal, and with it the seals of all nodes above.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::OnceLock;

use arrayvec::ArrayVec;
use triomphe::Arc;

use crate::hash::{Address, ContentHash};

/// Most entries of a leaf.
pub(crate) const LEAF: usize = 32;
/// Most children of an inner node.
pub(crate) const FAN: usize = 16;
/// Entries that a search passes at once.
const STRIDE: usize = 5;
/// Most inner nodes from the root to a leaf. Nodes hold at least a quarter of their capacity but for
/// a few at the edges of bulk loads and appends, so no memory holds a tree that is deeper.
pub(crate) const DEPTH: usize = 20;

#[allow(clippy::large_enum_variant)] // leaves are nineteen in twenty nodes, and the larger ones but for tiny entries
pub(crate) enum Node<K, V> {
    Leaf(Leaf<K, V>),
    Inner(Inner<K, V>),
}

// In this order a search meets the number of entries and the first of them on the line that says leaf or not.
#[repr(C)]
pub(crate) struct Leaf<K, V> {
    /// Ascending. A value lies beside its key, so that finding the one brings the other along.
    pub entries: ArrayVec<(K, V), LEAF>,
    pub seal: Seal,
}

#[repr(C)]
pub(crate) struct Inner<K, V> {
    /// `separators[i]` is at most every key of `children[i + 1]`, and above every key of `children[i]`.
    pub separators: ArrayVec<K, FAN>,
    pub children: ArrayVec<Arc<Node<K, V>>, FAN>,
    /// Entries of each child: whoever counts need not visit it.
    pub counts: ArrayVec<usize, FAN>,
    pub len: usize,
    pub seal: Seal,
}

/// What is known of a node's contents until it changes: computed when asked for, never before.
#[derive(Default)]
pub(crate) struct Seal {
    pub content: OnceLock<ContentHash>,
    pub address: OnceLock<Address>,
}

impl Seal {
    fn breach(&mut self) {
        if self.content.get().is_some() || self.address.get().is_some() {
            *self = Self::default();
        }
    }
}

/// What a full node gave off: the least key that the new node may hold, and the node.
pub(crate) type Split<K, V> = (K, Arc<Node<K, V>>);

/// The node, to be changed: a copy of it where somebody else holds it too.
pub(crate) fn own<K: Clone, V: Clone>(node: &mut Arc<Node<K, V>>) -> &mut Node<K, V> {
    if !Arc::is_unique(node) {
        *node = copy(node);
    }
    Arc::get_mut(node).expect("the node was just found, or made, to have one owner")
}

/// A copy without a seal. It is filled where it will stay: moving a node costs as much as copying it.
fn copy<K: Clone, V: Clone>(node: &Node<K, V>) -> Arc<Node<K, V>> {
    let mut copy = Arc::new(match node {
        Node::Leaf(_) => Node::Leaf(Leaf::empty()),
        Node::Inner(_) => Node::Inner(Inner::empty()),
    });
    match (node, Arc::get_mut(&mut copy)) {
        (Node::Leaf(from), Some(Node::Leaf(to))) => to.entries.extend(from.entries.iter().cloned()),
        (Node::Inner(from), Some(Node::Inner(to))) => {
            to.separators.extend(from.separators.iter().cloned());
            to.children.extend(from.children.iter().cloned());
            to.counts.extend(from.counts.iter().copied());
            to.len = from.len;
        }
        _ => unreachable!("the copy was made of the same kind, and nobody else has it"),
    }
    copy
}

impl<K, V> Node<K, V> {
    /// Entries below and in this node.
    pub fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.entries.len(),
            Self::Inner(inner) => inner.len,
        }
    }

    /// Entries of a leaf, children of an inner node.
    pub fn slots(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.entries.len(),
            Self::Inner(inner) => inner.children.len(),
        }
    }

    pub fn seal(&self) -> &Seal {
        match self {
            Self::Leaf(leaf) => &leaf.seal,
            Self::Inner(inner) => &inner.seal,
        }
    }
}

impl<K, V> Leaf<K, V> {
    pub fn empty() -> Self {
        Self { entries: ArrayVec::new(), seal: Seal::default() }
    }

    pub fn find<Q>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        search(&self.entries, key, |(key, _)| key.borrow())
    }

    /// Takes in an entry at its place; a full leaf splits.
    pub fn add(&mut self, at: usize, key: K, value: V) -> Option<Split<K, V>>
    where
        K: Clone,
    {
        self.seal.breach();
        if self.entries.len() < LEAF {
            self.entries.insert(at, (key, value));
            return None;
        }
        // Ascending keys are common (revisions, row numbers): what they leave behind stays full.
        let cut = if at == LEAF { LEAF } else { LEAF / 2 };
        let mut right = Self { entries: self.entries.drain(cut..).collect(), seal: Seal::default() };
        if at < cut {
            self.entries.insert(at, (key, value));
        } else {
            right.entries.insert(at - cut, (key, value));
        }
        Some((right.entries[0].0.clone(), Arc::new(Node::Leaf(right))))
    }

    pub fn take(&mut self, at: usize) -> (K, V) {
        self.seal.breach();
        self.entries.remove(at)
    }

    pub fn entry(&self, at: usize) -> (&K, &V) {
        let (key, value) = &self.entries[at];
        (key, value)
    }

    pub fn value_mut(&mut self, at: usize) -> &mut V {
        self.seal.breach();
        &mut self.entries[at].1
    }

    /// Shares the entries of two neighbours out: all to `self` where they fit, else half each.
    /// Answers what then separates them.
    fn level_with(&mut self, right: &mut Self) -> Option<K>
    where
        K: Clone,
    {
        self.seal.breach();
        right.seal.breach();
        level(&mut self.entries, &mut right.entries);
        right.entries.first().map(|(key, _)| key.clone())
    }
}

impl<K, V> Inner<K, V> {
    pub fn empty() -> Self {
        Self {
            separators: ArrayVec::new(),
            children: ArrayVec::new(),
            counts: ArrayVec::new(),
            len: 0,
            seal: Seal::default(),
        }
    }

    /// The child whose keys surround `key`.
    pub fn child_of<Q>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let above = self.separators.iter().position(|separator| separator.borrow() > key);
        above.unwrap_or(self.separators.len())
    }

    /// Appends a child; `separator` is `None` for the first.
    pub fn push(&mut self, separator: Option<K>, child: Arc<Node<K, V>>) {
        self.separators.extend(separator);
        self.counts.push(child.len());
        self.len += child.len();
        self.children.push(child);
    }

    /// The child on the way of a change.
    pub fn descend(&mut self, child: usize) -> &mut Arc<Node<K, V>> {
        self.seal.breach();
        &mut self.children[child]
    }

    /// One entry came to a child.
    pub fn grew(&mut self, child: usize) {
        self.counts[child] += 1;
        self.len += 1;
    }

    /// One entry left a child; the child may have to be filled up.
    pub fn shrank(&mut self, child: usize)
    where
        K: Clone,
        V: Clone,
    {
        self.counts[child] -= 1;
        self.len -= 1;
        self.mend(child);
    }

    /// Takes in what `children[child]` gave off; a full node splits.
    pub fn adopt(&mut self, child: usize, (separator, node): Split<K, V>) -> Option<Split<K, V>> {
        self.counts[child] = self.children[child].len();
        self.len += 1;
        if self.children.len() < FAN {
            self.separators.insert(child, separator);
            self.counts.insert(child + 1, node.len());
            self.children.insert(child + 1, node);
            return None;
        }
        let cut = if child + 1 == FAN { FAN - 1 } else { FAN / 2 };
        let mut right = Self::empty();
        right.separators.extend(self.separators.drain(cut..));
        let between = self.separators.pop().expect("a cut leaves a child, and so a separator, before it");
        right.counts.extend(self.counts.drain(cut..));
        right.children.extend(self.children.drain(cut..));
        let (side, child) = if child < cut { (&mut *self, child) } else { (&mut right, child - cut) };
        side.separators.insert(child, separator);
        side.counts.insert(child + 1, node.len());
        side.children.insert(child + 1, node);
        self.len = self.counts.iter().sum();
        right.len = right.counts.iter().sum();
        Some((between, Arc::new(Node::Inner(right))))
    }

    /// Drops, fills or merges a child that lost an entry.
    fn mend(&mut self, child: usize)
    where
        K: Clone,
        V: Clone,
    {
        let slots = self.children[child].slots();
        if slots == 0 {
            self.children.remove(child);
            self.counts.remove(child);
            if !self.separators.is_empty() {
                self.separators.remove(child.saturating_sub(1));
            }
            return;
        }
        let least = if matches!(&*self.children[child], Node::Leaf(_)) { LEAF / 4 } else { FAN / 4 };
        if slots >= least || self.children.len() == 1 {
            return;
        }
        let left = child.saturating_sub(1);
        let mut right = self.children.remove(left + 1);
        let between = self.separators.remove(left);
        self.counts.remove(left + 1);
        let separator = match (own(&mut self.children[left]), own(&mut right)) {
            (Node::Leaf(one), Node::Leaf(other)) => one.level_with(other),
            (Node::Inner(one), Node::Inner(other)) => one.level_with(between, other),
            _ => unreachable!("siblings stand at one height"),
        };
        self.counts[left] = self.children[left].len();
        if let Some(separator) = separator {
            self.separators.insert(left, separator);
            self.counts.insert(left + 1, right.len());
            self.children.insert(left + 1, right);
        }
    }

    /// As for leaves; `between` separates the two before, the answer after.
    fn level_with(&mut self, between: K, right: &mut Self) -> Option<K> {
        self.seal.breach();
        right.seal.breach();
        let mut separators: Vec<K> = self.separators.drain(..).collect();
        separators.push(between);
        separators.extend(right.separators.drain(..));
        level(&mut self.counts, &mut right.counts);
        level(&mut self.children, &mut right.children);
        self.len = self.counts.iter().sum();
        right.len = right.counts.iter().sum();
        let mut separators = separators.into_iter();
        self.separators.extend(separators.by_ref().take(self.children.len() - 1));
        let between = separators.next();
        right.separators.extend(separators);
        between
    }
}

/// Finds a key by strides, then one by one. Binary search compares less, but each of its steps waits for memory that
/// nobody could foresee; these come in order, and the processor runs ahead of them.
fn search<T, Q: Ord + ?Sized>(slots: &[T], key: &Q, of: impl Fn(&T) -> &Q) -> Result<usize, usize> {
    let mut at = 0;
    while at + STRIDE < slots.len() && of(&slots[at + STRIDE]) <= key {
        at += STRIDE;
    }
    for slot in &slots[at..] {
        match of(slot).cmp(key) {
            Ordering::Less => at += 1,
            Ordering::Greater => return Err(at),
            Ordering::Equal => return Ok(at),
        }
    }
    Err(at)
}

/// Moves all of `right` to `left` where it fits, else evens the two out.
fn level<T, const N: usize>(left: &mut ArrayVec<T, N>, right: &mut ArrayVec<T, N>) {
    let all = left.len() + right.len();
    let keep = if all <= N { all } else { all / 2 };
    if left.len() <= keep {
        let missing = keep - left.len();
        left.extend(right.drain(..missing));
    } else {
        let mut moved: ArrayVec<T, N> = left.drain(keep..).collect();
        moved.extend(right.drain(..));
        *right = moved;
    }
}
