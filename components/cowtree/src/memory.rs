use std::collections::HashSet;

use triomphe::Arc;

use crate::node::Node;
use crate::tree::Tree;

/// What trees take, nodes that they share counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Nodes.
    pub nodes: usize,
    /// Entries in them.
    pub entries: usize,
    /// Bytes of the nodes, unused places included.
    pub node_bytes: usize,
    /// Bytes that entries hold outside of the nodes, as weighed by the caller.
    pub entry_bytes: usize,
}

/// Measures several trees together, each node once. `weigh` answers what an entry holds on the heap.
///
/// ```
/// let tree: cowtree::Tree<u64, u64> = (0..10_000).map(|n| (n, n)).collect();
/// let alone = cowtree::memory([&tree], |_, _| 0);
/// let fork = tree.clone();
/// assert_eq!(cowtree::memory([&tree, &fork], |_, _| 0), alone);
/// ```
pub fn memory<'a, K: 'a, V: 'a>(
    trees: impl IntoIterator<Item = &'a Tree<K, V>>,
    mut weigh: impl FnMut(&K, &V) -> usize,
) -> Memory {
    let mut memory = Memory::default();
    let mut shared = HashSet::new();
    for root in trees.into_iter().filter_map(|tree| tree.root.as_ref()) {
        visit(root, &mut shared, &mut weigh, &mut memory);
    }
    memory
}

fn visit<K, V>(
    node: &Arc<Node<K, V>>,
    shared: &mut HashSet<*const Node<K, V>>,
    weigh: &mut impl FnMut(&K, &V) -> usize,
    memory: &mut Memory,
) {
    // A node with one owner is met once, since its owner is visited once.
    if Arc::count(node) > 1 && !shared.insert(Arc::as_ptr(node)) {
        return;
    }
    memory.nodes += 1;
    // An `Arc` keeps two counters before what it holds.
    memory.node_bytes += size_of::<Node<K, V>>() + 2 * size_of::<usize>();
    match &**node {
        Node::Inner(inner) => {
            for child in &inner.children {
                visit(child, shared, weigh, memory);
            }
        }
        Node::Leaf(leaf) => {
            memory.entries += leaf.entries.len();
            for (key, value) in &leaf.entries {
                memory.entry_bytes += weigh(key, value);
            }
        }
    }
}
