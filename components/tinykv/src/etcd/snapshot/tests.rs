//! States written as etcd's snapshots and read back; what etcd's own tools say of them is asked in
//! `e2e/peers/etcd/snapshot`.

use super::*;
use crate::membership::Description;
use crate::mvcc::auth::{Access, Permission, Role, User};
use crate::mvcc::{Alarm, Auth, Change, KeyValue, Release};
use crate::store::{Db, Loaded, NewState, Still};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A history of a few keys: one to three changes a revision, deletions among them.
fn history(revisions: i64) -> Vec<(u32, Change)> {
    let mut draw = 1_u64;
    let mut chance = |end: u64| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (draw >> 33) % end
    };
    let mut live: BTreeMap<Bytes, (i64, i64)> = BTreeMap::new();
    let mut changes = Vec::new();
    for revision in 2..=revisions {
        let keys: BTreeSet<u64> = (0..=chance(3)).map(|_| chance(12)).collect();
        for (number, key) in keys.into_iter().enumerate() {
            let name = Bytes::from(format!("k\0{key}"));
            let kv = KeyValue { key: name.clone(), mod_revision: revision, ..KeyValue::default() };
            let change = if live.contains_key(&name) && chance(4) == 0 {
                live.remove(&name);
                Change { kv, is_deletion: true, prev: None }
            } else {
                let (create_revision, version) =
                    live.get(&name).map_or((revision, 1), |(at, n)| (*at, n + 1));
                live.insert(name, (create_revision, version));
                let value = Bytes::from(vec![b'v'; chance(3_000) as usize]);
                let lease = if chance(5) == 0 { 7 } else { 0 };
                Change {
                    kv: KeyValue { value, create_revision, version, lease, ..kv },
                    is_deletion: false,
                    prev: None,
                }
            };
            changes.push((number as u32, change));
        }
    }
    changes
}

/// Which of them a compaction leaves, by the rule as etcd's documentation has it.
fn left(changes: &[(u32, Change)], compacted: i64) -> Vec<Change> {
    let stands = |change: &Change| {
        let (key, revision) = (&change.kv.key, change.kv.mod_revision);
        let is_last = !changes.iter().any(|(_, other)| {
            other.kv.key == key && (revision + 1..=compacted).contains(&other.kv.mod_revision)
        });
        revision > compacted || (is_last && (!change.is_deletion || revision == compacted))
    };
    let mut left: Vec<_> = changes.iter().map(|(_, change)| change.clone()).filter(stands).collect();
    left.sort_by(|one, other| {
        (one.kv.mod_revision, &one.kv.key).cmp(&(other.kv.mod_revision, &other.kv.key))
    });
    left
}

fn rest(revision: i64, compacted: i64) -> Loaded {
    let user =
        User { password: "hash".into(), no_password: false, roles: BTreeSet::from(["root".to_owned()]) };
    let permission =
        |key: &'static str| Permission { access: Access::Write, key: key.into(), range_end: "z".into() };
    let role = Role { permissions: vec![permission("b"), permission("a")] };
    let users = BTreeMap::from([
        ("root".to_owned(), user),
        ("by certificate".to_owned(), User { no_password: true, ..User::default() }),
    ]);
    Loaded {
        revision,
        compacted,
        leases: vec![(7, 600), (i64::MAX, 1)],
        alarms: vec![(5, Alarm::NoSpace), (5, Alarm::Corrupt)],
        auth: Auth::restore(true, 9, users, BTreeMap::from([("r".to_owned(), role)])),
        downgrade: Some(Release::OWN.before()),
    }
}

fn snapshot(dir: &Path, changes: &[(u32, Change)], rest: &Loaded) -> (PathBuf, u64) {
    let (state, path) = (dir.join("state"), dir.join("snapshot.db"));
    let mut new = NewState::create(&state).expect("a state");
    changes.iter().try_for_each(|(number, change)| new.put(*number, change.clone())).expect("written");
    new.finish(rest, b"position").expect("written");
    let db = Db::open(&state, 1 << 20).expect("a state");
    let still = Still::of(&db).expect("a state");
    let member = Description {
        name: "a".to_owned(),
        peer_urls: vec!["http://a:1".to_owned()],
        ..Description::default()
    };
    let about = About { members: BTreeMap::from([(3, member)]), index: 100, term: 2 };
    let (_, length) = write(&still, &about, fs::File::create(&path).expect("created")).expect("written");
    drop(still);
    drop(db);
    fs::remove_dir_all(state).expect("removed");
    (path, length)
}

#[test]
fn a_state_reads_back_as_its_compaction_left_it() {
    let dir = tempfile::tempdir().expect("dir");
    let changes = history(120);
    for compacted in [-1, 1, 2, 50, 51, 52, 53, 119, 120] {
        let rest = rest(120, compacted);
        let (path, length) = snapshot(dir.path(), &changes, &rest);
        let mut found = Vec::new();
        let mut order = Vec::new();
        let contents = read(&path, length, |number, change| {
            order.push((change.kv.mod_revision, number));
            found.push(change);
            Ok(())
        });
        let contents = contents.expect("whole");
        assert!(order.is_sorted_by(|one, other| one < other), "{order:?}");
        found.sort_by(|one, other| {
            (one.kv.mod_revision, &one.kv.key).cmp(&(other.kv.mod_revision, &other.kv.key))
        });
        assert_eq!(found, left(&changes, compacted), "compacted at {compacted}");
        let again = &contents.rest;
        assert_eq!((again.revision, again.compacted, &again.leases), (120, compacted, &rest.leases));
        assert_eq!(again.alarms, rest.alarms);
        assert_eq!(again.downgrade, rest.downgrade);
        assert_eq!((again.auth.enabled(), again.auth.revision()), (true, 9));
        assert_eq!(again.auth.user("root"), rest.auth.user("root"));
        assert_eq!(again.auth.user("by certificate"), rest.auth.user("by certificate"));
        let keys: Vec<_> =
            again.auth.role("r").expect("a role").permissions.iter().map(|it| it.key.clone()).collect();
        assert_eq!(keys, ["a", "b"], "etcd searches permissions by key");
    }
}

#[test]
fn a_revision_at_which_nothing_was_written_is_kept() {
    let dir = tempfile::tempdir().expect("dir");
    let (path, length) = snapshot(dir.path(), &history(20), &rest(5_000, -1));
    let contents = read(&path, length, |_, _| Ok(())).expect("whole");
    assert_eq!(contents.rest.revision, 5_000);
}

#[test]
fn no_damage_passes_the_digest_and_none_is_answered_by_a_panic_without_it() {
    let dir = tempfile::tempdir().expect("dir");
    let (path, length) = snapshot(dir.path(), &history(60), &rest(60, 30));
    let mut whole = fs::read(&path).expect("a file");
    let digest = unseal(&path, true).expect("no digest is asked for").digest;
    assert!(matches!(unseal(&path, false), Err(SnapshotError::Unsealed { .. })));
    whole.extend_from_slice(&digest);
    fs::write(&path, &whole).expect("written");
    assert_eq!(unseal(&path, false).expect("sealed"), Sealed { length, digest });
    for cut in [0, 1, 511, 4_096, whole.len() - 1, whole.len() - 32] {
        fs::write(&path, &whole[..cut]).expect("written");
        assert!(unseal(&path, false).is_err(), "cut at {cut}");
    }
    let mut at = 0;
    while at < whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).expect("written");
        assert!(matches!(unseal(&path, false), Err(SnapshotError::Changed { .. })), "flipped at {at}");
        // Whatever this says, it says it.
        if let Err(error) = read(&path, length, |_, _| Ok(())) {
            assert!(error.to_string().contains("snapshot.db"), "{error}");
        }
        at += 53;
    }
}

#[test]
fn keys_of_versions_read_back_and_others_are_refused() {
    for key in [(1, 0, false), (7, 3, true), (i64::MAX, i64::MAX, false)] {
        assert_eq!(parse_revision_key(&revision_key(key.0, key.1, key.2)), Some(key));
    }
    let good = revision_key(2, 0, true);
    for bad in
        [&good[..16], &[&good[..], b"t"].concat(), &[&good[..17], b"x"].concat(), &[0xFF; 17], &[0; 17]]
    {
        assert_eq!(parse_revision_key(bad), None, "{bad:?}");
    }
}
