//! Clones: what they share, what they cost, and what they do not see of one another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cowtree::{Codec, Tree, memory};

fn nodes(tree: &Tree<u64, u64>) -> usize {
    memory([tree], |_, _| 0).nodes
}

/// A value that counts how often it was copied.
struct Counted(u64, Arc<AtomicUsize>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.1.fetch_add(1, Ordering::Relaxed);
        Self(self.0, Arc::clone(&self.1))
    }
}

#[test]
fn a_sole_owner_never_copies_a_value() {
    let copies = Arc::default();
    let value = |n| Counted(n, Arc::clone(&copies));
    let mut tree = Tree::new();
    for n in 0..20_000_u64 {
        tree.insert(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), value(n));
    }
    for n in 0..20_000_u64 {
        let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        tree.get_mut(&key).expect("it was put in").0 += 1;
        if n % 3 > 0 {
            tree.remove(&key);
        }
    }
    assert_eq!(copies.load(Ordering::Relaxed), 0);
    // A fork copies the leaf that it changes, once; what changes nothing copies nothing.
    let mut fork = tree.clone();
    assert!(fork.remove(&1).is_none());
    assert!(fork.get_mut(&1).is_none());
    assert!(fork.ptr_eq(&tree));
    fork.insert(0, value(0));
    let once = copies.load(Ordering::Relaxed);
    assert!((1..=32).contains(&once), "{once}");
    fork.insert(0, value(1));
    assert_eq!(copies.load(Ordering::Relaxed), once);
}

#[test]
fn a_fork_costs_the_way_to_what_it_changes() {
    let main: Tree<u64, u64> = (0..200_000).map(|n| (n, n)).collect();
    let alone = nodes(&main);
    let mut forks: Vec<_> = (0..1000).map(|_| main.clone()).collect();
    assert_eq!(memory(forks.iter().chain([&main]), |_, _| 0).nodes, alone);
    for (fork, key) in forks.iter_mut().zip((0..).step_by(199)) {
        fork.insert(key, 0);
    }
    let together = memory(forks.iter().chain([&main]), |_, _| 0).nodes;
    assert!(together <= alone + 1000 * 6, "{alone} {together}");
    let weighed = memory([&main], |_, _| 3);
    assert_eq!((weighed.entries, weighed.entry_bytes), (200_000, 600_000));
    drop(forks);
    assert_eq!(nodes(&main), alone);
}

/// A value that counts how often it was compared.
#[derive(Clone)]
struct Compared(u64, Arc<AtomicUsize>);

impl PartialEq for Compared {
    fn eq(&self, other: &Self) -> bool {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0 == other.0
    }
}

impl Codec for Compared {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(_: &mut &[u8]) -> Option<Self> {
        None
    }
}

#[test]
fn a_diff_looks_at_what_changed() {
    let comparisons = Arc::<AtomicUsize>::default();
    let value = |n| Compared(n, Arc::clone(&comparisons));
    let main: Tree<u64, Compared> = (0..200_000).map(|n| (n, value(n))).collect();
    let mut fork = main.clone();
    for n in 0..50 {
        fork.insert(n * 3999, value(u64::MAX));
        fork.remove(&(n * 3999 + 1));
        fork.insert(300_000 + n, value(n));
    }
    assert_eq!(main.diff(&fork).count(), 150);
    assert!(comparisons.swap(0, Ordering::Relaxed) <= 50 * 2 * 32 + 32);
    // Trees that share no node, but whose nodes are known to hold the same.
    let twin = cowtree::from_sorted(main.iter().map(|(key, value)| (*key, value.clone()))).expect("sorted");
    assert_eq!(main.diff(&twin).count(), 0);
    assert_eq!(comparisons.swap(0, Ordering::Relaxed), 200_000);
    assert_eq!(main.hash(), twin.hash());
    assert_eq!(main.diff(&twin).count(), 0);
    assert_eq!(comparisons.swap(0, Ordering::Relaxed), 0);
}

#[test]
fn forks_of_forks_keep_to_themselves() {
    let mut line = vec![Tree::new()];
    for depth in 0..1000_u64 {
        let mut next = line[line.len() - 1].clone();
        next.insert(depth, depth);
        next.insert(depth / 2, u64::MAX);
        line.push(next);
    }
    for (depth, tree) in line.iter().enumerate() {
        assert_eq!(tree.len(), depth);
        assert_eq!(tree.last().map(|(key, _)| *key), (depth as u64).checked_sub(1));
        let changed = tree.iter().filter(|(_, value)| **value == u64::MAX).count();
        assert_eq!(changed, depth.div_ceil(2));
    }
    // Middle generations go first; the rest stands.
    let last = line.swap_remove(1000);
    line.truncate(3);
    assert_eq!((last.len(), line[2].len()), (1000, 2));
}

#[test]
fn a_large_tree_drops_on_a_small_stack() {
    let drops = || {
        let tree: Tree<u64, u64> = (0..3_000_000).map(|n| (n, n)).collect();
        let fork = tree.clone();
        drop(tree);
        assert_eq!(fork.len(), 3_000_000);
    };
    thread::Builder::new().stack_size(64 << 10).spawn(drops).expect("a thread").join().expect("no overflow");
}

#[test]
fn readers_of_clones_see_one_state_while_a_writer_goes_on() {
    const KEYS: u64 = 5000;
    let mut tree: Tree<u64, u64> = (0..KEYS).map(|key| (key, 0)).collect();
    let (to_readers, versions) = std::sync::mpsc::sync_channel::<(u64, Tree<u64, u64>)>(4);
    let versions = Arc::new(std::sync::Mutex::new(versions));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let versions = Arc::clone(&versions);
            thread::spawn(move || {
                let mut kept = Vec::new();
                loop {
                    let next = versions.lock().expect("no reader panics").recv();
                    let Ok((version, tree)) = next else { break };
                    // All keys were set to the version, hashed by several threads at once.
                    assert!(tree.iter().all(|(_, value)| *value == version));
                    kept.push((version, tree.hash(), tree));
                }
                for (version, hash, tree) in &kept {
                    assert!(tree.range(..100).chain(tree.range(4900..)).all(|(_, value)| value == version));
                    assert_eq!(tree.hash(), *hash);
                }
                kept.len()
            })
        })
        .collect();
    for version in 1..=200 {
        for key in 0..KEYS {
            tree.insert(key, version);
        }
        to_readers.send((version, tree.clone())).expect("readers wait");
        to_readers.send((version, tree.clone())).expect("readers wait");
    }
    drop(to_readers);
    let seen: usize = readers.into_iter().map(|reader| reader.join().expect("a reader that agrees")).sum();
    assert_eq!(seen, 400);
}

#[test]
fn a_tree_crosses_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Tree<u64, String>>();
    crosses::<cowtree::store::Store>();
}
