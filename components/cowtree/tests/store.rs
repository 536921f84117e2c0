//! Trees on the disk: what comes back, what is written, and what is refused.

mod disk;

use std::collections::BTreeMap;

use bytes::Bytes;
use cowtree::Tree;
use cowtree::store::{Store, StoreError};
use disk::{Disk, Random};

type Rows = Tree<Bytes, (u64, Option<String>)>;

fn row(n: u64) -> (Bytes, (u64, Option<String>)) {
    let text = (!n.is_multiple_of(3)).then(|| format!("row {n}"));
    (Bytes::from(format!("/registry/pods/{:08}", n * 7919 % 100_000_007)), (n, text))
}

fn open(disk: &Disk) -> Result<Store, StoreError> {
    Store::open_in(Box::new(disk.clone()))
}

#[test]
fn what_was_committed_comes_back() -> Result<(), StoreError> {
    let directory = tempfile::tempdir().expect("a place for files");
    for size in [0, 1, 31, 32, 33, 600, 20_000] {
        let tree: Rows = (0..size).map(row).collect();
        let mut store = Store::open(directory.path().join("store"))?;
        let mut checkpoint = store.checkpoint()?;
        checkpoint.put("rows", &tree)?;
        checkpoint.commit(format!("size {size}").as_bytes())?;
        assert_eq!(store.load::<Bytes, (u64, Option<String>)>("rows")?, tree);
        drop(store);
        let store = Store::open(directory.path().join("store"))?;
        let mut loaded: Rows = store.load("rows")?;
        assert_eq!(store.note(), format!("size {size}").as_bytes());
        assert_eq!(loaded, tree);
        assert_eq!(loaded.hash(), tree.hash());
        assert_eq!(store.roots()["rows"].hash, tree.hash());
        assert_eq!(tree.diff(&loaded).count(), 0);
        // It takes changes as any other tree.
        loaded.extend((size..size + 100).map(row));
        assert_eq!(loaded, (0..size + 100).map(row).collect());
    }
    Ok(())
}

#[test]
fn a_checkpoint_writes_new_nodes_only() -> Result<(), StoreError> {
    let disk = Disk::default();
    let mut store = open(&disk)?;
    let mut tree: Rows = (0..50_000).map(row).collect();
    let save = |store: &mut Store, tree: &Rows, name: &str| {
        let mut checkpoint = store.checkpoint()?;
        checkpoint.put(name, tree)?;
        checkpoint.commit(b"").map(|written| written.nodes)
    };
    let all = save(&mut store, &tree, "main")?;
    assert!(all > 1500, "{all}");
    assert_eq!(save(&mut store, &tree, "main")?, 0);
    // A fork costs nothing until it changes, and then the nodes on the way.
    let mut fork = tree.clone();
    assert_eq!(save(&mut store, &fork, "fork")?, 0);
    fork.insert(row(7).0, (0, None));
    let some = save(&mut store, &fork, "fork")?;
    assert!((2..8).contains(&some), "{some}");
    // A tree that was loaded knows what the store has.
    let mut loaded: Rows = open(&disk)?.load("main")?;
    assert_eq!(save(&mut store, &loaded, "loaded")?, 0);
    loaded.insert(row(8).0, (0, None));
    assert!(save(&mut store, &loaded, "loaded")? < 8);
    // Equal nodes of an unrelated tree are found by what they hold.
    let entries: Vec<_> = tree.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let twin = || cowtree::from_sorted(entries.clone()).expect("a tree is sorted");
    assert!(save(&mut store, &twin(), "twin")? < all);
    assert_eq!(save(&mut store, &twin(), "another twin")?, 0);
    tree.insert(row(9).0, (0, None));
    assert!(save(&mut store, &tree, "main")? < 8);
    Ok(())
}

#[test]
fn forks_share_their_nodes_again_after_loading() -> Result<(), StoreError> {
    let disk = Disk::default();
    let mut store = open(&disk)?;
    let main: Rows = (0..20_000).map(row).collect();
    let mut forks = BTreeMap::from([("main".to_owned(), main.clone())]);
    for n in 0..100 {
        let mut fork = main.clone();
        fork.insert(row(n).0, (n, Some("changed".to_owned())));
        forks.insert(format!("fork {n}"), fork);
    }
    let mut checkpoint = store.checkpoint()?;
    for (name, fork) in &forks {
        checkpoint.put(name, fork)?;
    }
    checkpoint.commit(b"")?;
    let loaded: Vec<Rows> = open(&disk)?.load_all(forks.keys().map(String::as_str))?;
    assert!(loaded.iter().eq(forks.values()));
    let together = cowtree::memory(&loaded, |_, _| 0).nodes;
    assert_eq!(together, cowtree::memory(forks.values(), |_, _| 0).nodes);
    assert!(together < 2 * cowtree::memory([&main], |_, _| 0).nodes);
    Ok(())
}

#[test]
fn names_change_together_and_collection_keeps_what_they_need() -> Result<(), StoreError> {
    let disk = Disk::default();
    let mut store = open(&disk)?;
    let mut random = Random(11);
    let mut live: BTreeMap<String, Rows> = BTreeMap::new();
    let mut main: Rows = (0..3000).map(row).collect();
    for round in 0..40_u64 {
        let mut checkpoint = store.checkpoint()?;
        for _ in 0..20 {
            main.insert(row(random.below(4000) as u64).0, (round, None));
            main.remove(&row(random.below(4000) as u64).0);
        }
        let name = format!("tree {}", random.below(6));
        checkpoint.put(&name, &main)?;
        live.insert(name, main.clone());
        let gone = format!("tree {}", random.below(6));
        assert_eq!(checkpoint.remove(&gone), live.remove(&gone).is_some());
        if round % 7 == 3 {
            // Given up: nothing of it shows.
            let before: Vec<_> = checkpoint.remove("tree 0").then_some(()).into_iter().collect();
            drop((checkpoint, before));
            live = store
                .roots()
                .keys()
                .map(|name| Ok((name.clone(), store.load(name)?)))
                .collect::<Result<_, StoreError>>()?;
        } else {
            checkpoint.commit(&round.to_le_bytes())?;
        }
        if round % 9 == 8 {
            let collected = store.collect()?;
            assert!(collected.after <= collected.before && store.size() == collected.after);
        }
        if round % 4 == 0 {
            store = open(&disk)?;
        }
        store.verify()?;
        assert!(store.roots().keys().eq(live.keys()));
        for (name, tree) in &live {
            assert_eq!(&store.load::<_, (u64, Option<String>)>(name)?, tree, "round {round}, {name}");
        }
    }
    Ok(())
}

/// A store whose two packs and manifest hold nothing that a load of `rows` does not need.
fn small() -> (Disk, Rows, Vec<String>) {
    let disk = Disk::default();
    let mut store = open(&disk).expect("a new store");
    let mut tree: Rows = (0..40).map(row).collect();
    let mut checkpoint = store.checkpoint().expect("a sound store");
    checkpoint.put("older", &tree).expect("a sound disk");
    checkpoint.commit(b"first").expect("a sound disk");
    tree.remove(&row(3).0);
    let mut checkpoint = store.checkpoint().expect("a sound store");
    checkpoint.put("rows", &tree).expect("a sound disk");
    checkpoint.commit(b"second").expect("a sound disk");
    let names = cowtree::store::Files::list(&disk).expect("a sound disk");
    assert_eq!(names.len(), 3, "{names:?}");
    (disk, tree, names)
}

/// Opens and loads all; a refusal has to name the file.
fn refuses(disk: &Disk, name: &str, what: &str) {
    let outcome = open(disk).and_then(|store| {
        store.load::<Bytes, (u64, Option<String>)>("older")?;
        store.load::<Bytes, (u64, Option<String>)>("rows")
    });
    let refused = outcome.expect_err(&format!("{name}: {what} went unnoticed"));
    assert!(refused.to_string().contains(name), "{name}: {what}: {refused}");
}

#[test]
fn every_flipped_bit_is_refused_with_the_name_of_its_file() {
    let (disk, _, names) = small();
    for name in &names {
        let bytes = disk.read(name);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                refuses(&disk.with(name, flipped), name, &format!("bit {bit} of byte {at}"));
            }
        }
    }
}

#[test]
fn every_truncation_is_refused_with_the_name_of_its_file() {
    let (disk, _, names) = small();
    for name in &names {
        let bytes = disk.read(name);
        for len in 0..bytes.len() {
            refuses(&disk.with(name, bytes[..len].to_vec()), name, &format!("cut to {len} bytes"));
        }
        let longer = [&bytes[..], b"\0"].concat();
        refuses(&disk.with(name, longer), name, "a byte more");
    }
}

#[test]
fn packs_that_trade_places_or_lose_their_manifest_are_refused() -> Result<(), StoreError> {
    let (disk, _, names) = small();
    let packs: Vec<_> = names.iter().filter(|name| name.contains("pack")).collect();
    refuses(&disk.with(packs[0], disk.read(packs[1])), packs[0], "the other pack in its place");
    for name in &names {
        let without = disk.with(name, disk.read(name));
        cowtree::store::Files::remove(&without, name).expect("it is there");
        refuses(&without, name, "its absence");
    }
    // Trees of other types are no corruption, but they are refused.
    let store = open(&disk)?;
    assert!(matches!(store.load::<u64, u64>("rows"), Err(StoreError::Foreign { .. })));
    assert!(matches!(store.load::<u64, u64>("none"), Err(StoreError::NoSuchRoot { name }) if name == "none"));
    Ok(())
}

#[test]
fn a_directory_serves_one_store_at_a_time() {
    let directory = tempfile::tempdir().expect("a place for files");
    let first = Store::open(directory.path()).expect("a new store");
    let refused = Store::open(directory.path()).err().expect("the first holds the lock");
    assert!(matches!(refused, StoreError::Io { operation: "open", .. }), "{refused}");
    drop(first);
    Store::open(directory.path()).expect("the lock went with the first");
}
