//! The tree against `BTreeMap`: every operation, in any order, with forks in between.

use std::collections::BTreeMap;
use std::ops::Bound;

use cowtree::{Change, ContentHash, Tree};
use proptest::prelude::*;

type Model = BTreeMap<u16, u32>;

#[derive(Debug, Clone)]
enum Step {
    Insert(u16, u32),
    /// Keys one after another, as row numbers come.
    Append(u16, u8),
    Remove(u16),
    /// A whole range goes, so that nodes run empty and merge.
    RemoveAll(u16, u16),
    Change(u16, u32),
    GetOrInsert(u16, u32),
    /// Puts a clone aside.
    Fork,
    /// Goes on with one that was put aside.
    Switch(usize),
    /// Seals what there is, so that later changes have seals to break.
    Hash,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..3000_u16;
    prop_oneof![
        6 => (key(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
        2 => (key(), any::<u8>()).prop_map(|(key, many)| Step::Append(key, many)),
        4 => key().prop_map(Step::Remove),
        1 => (key(), 0..400_u16).prop_map(|(from, many)| Step::RemoveAll(from, many)),
        2 => (key(), any::<u32>()).prop_map(|(key, value)| Step::Change(key, value)),
        1 => (key(), any::<u32>()).prop_map(|(key, value)| Step::GetOrInsert(key, value)),
        1 => Just(Step::Fork),
        1 => any::<usize>().prop_map(Step::Switch),
        1 => Just(Step::Hash),
    ]
}

fn apply(step: &Step, tree: &mut Tree<u16, u32>, model: &mut Model) {
    match *step {
        Step::Insert(key, value) => assert_eq!(tree.insert(key, value), model.insert(key, value)),
        Step::Append(from, many) => {
            for key in from..from.saturating_add(many.into()) {
                assert_eq!(tree.insert(key, 7), model.insert(key, 7));
            }
        }
        Step::Remove(key) => assert_eq!(tree.remove(&key), model.remove(&key)),
        Step::RemoveAll(from, many) => {
            for key in from..from + many {
                assert_eq!(tree.remove_entry(&key), model.remove_entry(&key));
            }
        }
        Step::Change(key, value) => {
            let (mine, theirs) = (tree.get_mut(&key), model.get_mut(&key));
            assert_eq!(mine, theirs);
            if let (Some(mine), Some(theirs)) = (mine, theirs) {
                *mine ^= value;
                *theirs ^= value;
            }
        }
        Step::GetOrInsert(key, value) => {
            *tree.get_or_insert_with(key, || value) += 1;
            *model.entry(key).or_insert(value) += 1;
        }
        Step::Fork | Step::Switch(_) => {}
        Step::Hash => drop(tree.hash()),
    }
}

fn check(tree: &Tree<u16, u32>, model: &Model) {
    assert_eq!(tree.len(), model.len());
    assert_eq!(tree.is_empty(), model.is_empty());
    assert!(tree.iter().eq(model.iter()));
    assert!(tree.iter().rev().eq(model.iter().rev()));
    assert_eq!(tree.first(), model.first_key_value());
    assert_eq!(tree.last(), model.last_key_value());
    for (rank, (key, value)) in model.iter().enumerate() {
        assert_eq!(tree.get(key), Some(value));
        assert_eq!(tree.rank(key), rank);
        assert_eq!(tree.nth(rank), Some((key, value)));
    }
    assert_eq!(tree.nth(model.len()), None);
    // From another order of changes, and in another shape.
    let sorted =
        cowtree::from_sorted(model.iter().map(|(key, value)| (*key, *value))).expect("a map is sorted");
    let reversed: Tree<u16, u32> = model.iter().rev().map(|(key, value)| (*key, *value)).collect();
    assert_eq!(tree.hash(), sorted.hash());
    assert_eq!(tree.hash(), reversed.hash());
    assert_eq!(tree, &sorted);
    assert_eq!(tree.diff(&sorted).count(), 0);
    assert_eq!(tree.diff(&reversed).count(), 0);
}

fn bounds_of(low: (u8, u16), high: (u8, u16)) -> (Bound<u16>, Bound<u16>) {
    let bound = |(kind, key)| match kind % 3 {
        0 => Bound::Unbounded,
        1 => Bound::Included(key),
        _ => Bound::Excluded(key),
    };
    (bound(low), bound(high))
}

/// What `BTreeMap::range` answers, and nothing where it would panic.
fn model_range(model: &Model, bounds: (Bound<u16>, Bound<u16>)) -> Vec<(&u16, &u32)> {
    let keys = |bound| match bound {
        Bound::Included(key) | Bound::Excluded(key) => Some(key),
        Bound::Unbounded => None,
    };
    let upside_down = match (keys(bounds.0), keys(bounds.1)) {
        (Some(low), Some(high)) => {
            low > high || (low == high && !matches!(bounds, (Bound::Included(_), Bound::Included(_))))
        }
        _ => false,
    };
    if upside_down { Vec::new() } else { model.range(bounds).collect() }
}

/// The differences, found by looking at everything.
fn naive_diff<'a>(old: &'a Model, new: &'a Model) -> Vec<Change<'a, u16, u32>> {
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter_map(|key| match (old.get_key_value(key), new.get_key_value(key)) {
            (None, Some((key, value))) => Some(Change::Added(key, value)),
            (Some((key, value)), None) => Some(Change::Removed(key, value)),
            (Some((_, old)), Some((key, new))) if old != new => Some(Change::Changed { key, old, new }),
            _ => None,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_operation_answers_as_the_model_does(
        steps in prop::collection::vec(step(), 1..400),
        ranges in prop::collection::vec(((any::<u8>(), 0..3000_u16), (any::<u8>(), 0..3000_u16)), 20),
        skips in prop::collection::vec((0..200_usize, any::<bool>()), 12),
    ) {
        let mut tree = Tree::new();
        let mut model = Model::new();
        let mut aside: Vec<(Tree<u16, u32>, Model)> = Vec::new();
        for step in &steps {
            apply(step, &mut tree, &mut model);
            match step {
                Step::Fork => aside.push((tree.clone(), model.clone())),
                Step::Switch(which) if !aside.is_empty() => {
                    let which = which % aside.len();
                    (tree, model) = aside[which].clone();
                }
                _ => {}
            }
        }
        aside.push((tree.clone(), model.clone()));
        // What happened to one fork has not touched the others.
        for (tree, model) in &aside {
            check(tree, model);
        }
        for (old_tree, old) in &aside {
            let changes: Vec<_> = old_tree.diff(&tree).collect();
            prop_assert_eq!(&changes, &naive_diff(old, &model));
            let mut patched = old_tree.clone();
            for change in changes {
                match change {
                    Change::Added(key, value) | Change::Changed { key, new: value, .. } => {
                        patched.insert(*key, *value);
                    }
                    Change::Removed(key, _) => drop(patched.remove(key)),
                }
            }
            prop_assert_eq!(patched.hash(), tree.hash());
        }
        for (low, high) in ranges {
            let bounds = bounds_of(low, high);
            let wanted = model_range(&model, bounds);
            prop_assert_eq!(tree.count(bounds), wanted.len());
            prop_assert_eq!(tree.range(bounds).collect::<Vec<_>>(), wanted.clone());
            prop_assert_eq!(tree.range(bounds).rev().collect::<Vec<_>>(), wanted.iter().rev().copied().collect::<Vec<_>>());
            let alone: Tree<u16, u32> = wanted.iter().map(|(key, value)| (**key, **value)).collect();
            prop_assert_eq!(tree.hash_range(bounds), alone.hash());
            // Both ends at once, with skips, meet without losing or repeating anything.
            let (mut mine, mut theirs) = (tree.range(bounds), wanted.into_iter());
            for (skip, from_front) in &skips {
                if *from_front {
                    prop_assert_eq!(mine.nth(*skip), theirs.nth(*skip));
                } else {
                    prop_assert_eq!(mine.nth_back(*skip), theirs.nth_back(*skip));
                }
                prop_assert_eq!(mine.len(), theirs.len());
            }
            prop_assert!(mine.eq(theirs));
        }
    }

    #[test]
    fn a_prefix_selects_the_keys_that_start_with_it(
        keys in prop::collection::btree_set(prop::collection::vec(prop_oneof![Just(0), Just(7), Just(255)], 0..6), 0..300),
        prefix in prop::collection::vec(prop_oneof![Just(0_u8), Just(7), Just(255)], 0..5),
    ) {
        let tree: Tree<Vec<u8>, ()> = keys.iter().map(|key| (key.clone(), ())).collect();
        let wanted: Vec<_> = keys.iter().filter(|key| key.starts_with(&prefix)).collect();
        prop_assert_eq!(tree.prefix(&prefix).len(), wanted.len());
        prop_assert!(tree.prefix(&prefix).map(|(key, ())| key).eq(wanted));
    }

    #[test]
    fn hashes_of_neighbouring_ranges_add_up(keys in prop::collection::btree_set(any::<u16>(), 0..2000), cut: u16) {
        let tree: Tree<u16, u32> = keys.iter().map(|key| (*key, 1)).collect();
        prop_assert_eq!(tree.hash_range(..cut).plus(tree.hash_range(cut..)), tree.hash());
    }
}

#[test]
fn contents_that_differ_in_one_place_hash_differently() {
    let tree: Tree<u64, u64> = (0..10_000).map(|n| (n, 0)).collect();
    let mut seen = std::collections::HashSet::from([tree.hash(), ContentHash::default()]);
    for key in (0..10_000).step_by(97) {
        let mut other = tree.clone();
        *other.get_mut(&key).expect("the key is there") = 1;
        assert!(seen.insert(other.hash()), "value of {key}");
        other.remove(&key);
        assert!(seen.insert(other.hash()), "absence of {key}");
    }
    // Two values that trade places leave the same keys and the same values.
    let mut one: Tree<u64, u64> = (0..100).map(|n| (n, n)).collect();
    let before = one.hash();
    one.insert(3, 4);
    one.insert(4, 3);
    assert_ne!(one.hash(), before);
}

#[test]
fn a_sorted_load_refuses_what_is_not_sorted() {
    for (keys, at) in [(vec![1, 2, 2], 2), (vec![2, 1], 1), ((0..5000).chain([7]).collect(), 5000)] {
        let refused = cowtree::from_sorted(keys.into_iter().map(|key| (key, ()))).map(|tree| tree.len());
        assert_eq!(refused, Err(cowtree::Unsorted { at }));
    }
    assert!(cowtree::from_sorted(std::iter::empty::<(u8, u8)>()).is_ok_and(|tree| tree.is_empty()));
}

#[test]
fn a_loaded_tree_of_any_size_counts_and_takes_changes() {
    for size in (0..200).chain([1023, 1024, 1025, 1056, 1057, 32 * 32 * 32, 32 * 32 * 32 + 1]) {
        let mut tree = cowtree::from_sorted((0..size).map(|n| (2 * n, n))).expect("sorted");
        let mut model: BTreeMap<u32, u32> = (0..size).map(|n| (2 * n, n)).collect();
        assert!(tree.iter().eq(&model), "{size}");
        for key in (0..2 * size + 2).step_by(1 + size as usize / 50) {
            assert_eq!(tree.count(..key), model.range(..key).count());
            if key % 3 == 0 {
                assert_eq!(tree.remove(&key), model.remove(&key));
            } else {
                assert_eq!(tree.insert(key, 0), model.insert(key, 0));
            }
        }
        assert!(tree.iter().eq(&model), "{size}");
        while let Some((key, _)) = model.pop_last() {
            assert!(tree.remove(&key).is_some());
        }
        assert!(tree.is_empty() && tree.first().is_none() && tree.ptr_eq(&Tree::new()));
    }
}
