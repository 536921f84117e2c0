//! Changes: one way down, on which shared nodes are copied and the others changed in place, and one way
//! up, on which counts are set right and nodes split or merge.

use std::borrow::Borrow;
use std::mem;

use triomphe::Arc;

use crate::node::{self, Inner, Leaf, Node, Split};

/// What putting an entry did below a node.
enum Put<K, V> {
    Replaced(V),
    Added,
    /// Added, and the node gave off another.
    Split(Split<K, V>),
}

/// Puts an entry; answers the value that it replaces. A root that splits gets a node above.
pub(crate) fn insert<K: Ord + Clone, V: Clone>(root: &mut Arc<Node<K, V>>, key: K, value: V) -> Option<V> {
    match put(root, key, value) {
        Put::Replaced(value) => Some(value),
        Put::Added => None,
        Put::Split((separator, right)) => {
            let left = mem::replace(root, Arc::new(Node::Leaf(Leaf::empty())));
            let mut above = Inner::empty();
            above.push(None, left);
            above.push(Some(separator), right);
            *root = Arc::new(Node::Inner(above));
            None
        }
    }
}

fn put<K: Ord + Clone, V: Clone>(node: &mut Arc<Node<K, V>>, key: K, value: V) -> Put<K, V> {
    match node::own(node) {
        Node::Leaf(leaf) => match leaf.find(&key) {
            Ok(at) => Put::Replaced(mem::replace(leaf.value_mut(at), value)),
            Err(at) => leaf.add(at, key, value).map_or(Put::Added, Put::Split),
        },
        Node::Inner(inner) => {
            let child = inner.child_of(&key);
            match put(inner.descend(child), key, value) {
                Put::Added => {
                    inner.grew(child);
                    Put::Added
                }
                Put::Split(split) => inner.adopt(child, split).map_or(Put::Added, Put::Split),
                replaced @ Put::Replaced(_) => replaced,
            }
        }
    }
}

/// Takes an entry out.
pub(crate) fn remove<K, V, Q>(node: &mut Arc<Node<K, V>>, key: &Q) -> Option<(K, V)>
where
    K: Borrow<Q> + Clone,
    V: Clone,
    Q: Ord + ?Sized,
{
    match node::own(node) {
        Node::Leaf(leaf) => leaf.find(key).ok().map(|at| leaf.take(at)),
        Node::Inner(inner) => {
            let child = inner.child_of(key);
            let taken = remove(inner.descend(child), key)?;
            inner.shrank(child);
            Some(taken)
        }
    }
}

/// The value of a key, to be changed.
pub(crate) fn value_mut<'a, K, V, Q>(mut node: &'a mut Arc<Node<K, V>>, key: &Q) -> Option<&'a mut V>
where
    K: Borrow<Q> + Clone,
    V: Clone,
    Q: Ord + ?Sized,
{
    loop {
        match node::own(node) {
            Node::Leaf(leaf) => return leaf.find(key).ok().map(|at| leaf.value_mut(at)),
            Node::Inner(inner) => {
                let child = inner.child_of(key);
                node = inner.descend(child);
            }
        }
    }
}
