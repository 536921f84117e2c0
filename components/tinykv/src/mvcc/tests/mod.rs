//! The engine against what etcd does, as tables and stories. That etcd really does so is held
//! by the differential test in `e2e/peers/etcd`.

mod sweep;

use super::*;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

/// Remembers every value, like the store.
#[derive(Default)]
struct Disk(RefCell<HashMap<(Bytes, i64), Bytes>>);

impl Values for Disk {
    fn value(&self, key: &[u8], revision: i64) -> io::Result<Bytes> {
        let found = self.0.borrow().get(&(Bytes::copy_from_slice(key), revision)).cloned();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct Engine {
    keyspace: Keyspace,
    disk: Disk,
    changes: Vec<Change>,
}

impl Engine {
    fn new() -> Self {
        // No value stays in memory: every read of an old one goes to the disk.
        Self { keyspace: Keyspace::new(0, 2), disk: Disk::default(), changes: Vec::new() }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let bytes = encode(&Origin::Anyone, command);
        assert_eq!(decode(&bytes), Ok((Origin::Anyone, command.clone())), "commands survive the log");
        let mut changes = Vec::new();
        let outcome =
            self.keyspace.apply(&Origin::Anyone, command, &self.disk, &mut changes).expect("the disk works");
        for change in &changes {
            self.disk
                .0
                .borrow_mut()
                .insert((change.kv.key.clone(), change.kv.mod_revision), change.kv.value.clone());
        }
        self.keyspace.stored();
        self.changes.extend(changes);
        outcome
    }

    fn put(&mut self, key: &str, value: &str) -> i64 {
        match self.apply(&Command::Put(put(key, value))) {
            Ok(Answer::Put { revision, .. }) => revision,
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, span: Span) -> (i64, i64) {
        match self.apply(&Command::Delete(Delete { span, prev_kv: false })) {
            Ok(Answer::Delete { revision, deleted, .. }) => (revision, deleted),
            other => panic!("{other:?}"),
        }
    }

    fn query(&self, query: &Query) -> Result<QueryAnswer, Refusal> {
        self.keyspace.query(query, &self.disk).expect("the disk works")
    }

    fn keys(&self, query: &Query) -> String {
        let answer = self.query(query).expect("answered");
        let keys: Vec<_> =
            answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
        format!("{} count={} more={}", keys.join(","), answer.count, answer.more)
    }

    fn get(&self, key: &str, revision: i64) -> Option<KeyValue> {
        let query = Query { revision, ..Query::of(Span::Key(bytes(key))) };
        self.query(&query).expect("answered").kvs.pop()
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Put {
    Put { key: bytes(key), value: bytes(value), ..Put::default() }
}

fn all() -> Span {
    Span::From(Bytes::from_static(&[0]))
}

fn is(key: &str, target: Target, relation: Relation) -> Compare {
    Compare { span: Span::Key(bytes(key)), target, relation }
}

#[test]
fn revisions_move_by_one_for_each_write_that_changes_something() {
    let mut engine = Engine::new();
    assert_eq!(engine.keyspace.revision(), 1);
    assert_eq!(engine.put("a", "1"), 2);
    assert_eq!(engine.delete(Span::Key(bytes("none"))), (2, 0), "nothing deleted, nothing moved");
    assert_eq!(engine.put("b", "1"), 3);
    assert_eq!(engine.delete(all()), (4, 2), "two keys, one revision");
    let read = Txn { success: vec![Op::Query(Query::of(all()))], ..Txn::default() };
    engine.apply(&Command::Txn(read)).expect("applied");
    assert_eq!(engine.keyspace.revision(), 4, "a reading transaction moves nothing");
    let ops = ["x", "y", "z"].map(|key| Op::Put(put(key, "1"))).to_vec();
    engine.apply(&Command::Txn(Txn { success: ops, ..Txn::default() })).expect("applied");
    assert_eq!(engine.keyspace.revision(), 5);
    let at: Vec<i64> = engine.changes.iter().map(|change| change.kv.mod_revision).collect();
    assert_eq!(at, [2, 3, 4, 4, 5, 5, 5]);
}

#[test]
fn a_version_starts_again_after_a_deletion() {
    let mut engine = Engine::new();
    engine.put("k", "1");
    engine.put("k", "2");
    engine.delete(Span::Key(bytes("k")));
    engine.put("k", "3");
    let versions: Vec<_> = (1..=5)
        .map(|revision| engine.get("k", revision).map(|kv| (kv.version, kv.create_revision, kv.mod_revision)))
        .collect();
    assert_eq!(versions, [None, Some((1, 2, 2)), Some((2, 2, 3)), None, Some((1, 5, 5))]);
}

#[test]
fn counts_ignore_limits_and_bounds() {
    let mut engine = Engine::new();
    for key in ["a", "b", "c", "d"] {
        engine.put(key, key);
    }
    let of = |query: Query| engine.keys(&query);
    let whole = Query::of(all());
    let table = [
        (whole.clone(), "a,b,c,d count=4 more=false"),
        (Query { limit: 2, ..whole.clone() }, "a,b count=4 more=true"),
        (Query { limit: 4, ..whole.clone() }, "a,b,c,d count=4 more=false"),
        (Query { mod_bounds: (4, 0), ..whole.clone() }, "c,d count=4 more=false"),
        (Query { create_bounds: (0, 3), limit: 1, ..whole.clone() }, "a count=4 more=true"),
        (Query { sort: Some((SortBy::Key, true)), limit: 1, ..whole.clone() }, "d count=4 more=true"),
        (
            Query { sort: Some((SortBy::Key, true)), limit: 2, limit_first: true, ..whole.clone() },
            "c,b count=4 more=true",
        ),
        (
            Query { sort: Some((SortBy::Value, true)), keys_only: true, ..whole.clone() },
            "d,c,b,a count=4 more=false",
        ),
        (Query { count_only: true, ..whole.clone() }, " count=4 more=false"),
        (Query { revision: 3, ..whole.clone() }, "a,b count=2 more=false"),
        (Query::of(Span::Between(bytes("b"), bytes("d"))), "b,c count=2 more=false"),
        (Query::of(Span::Between(bytes("d"), bytes("b"))), " count=0 more=false"),
    ];
    for (query, expected) in table {
        assert_eq!(of(query.clone()), expected, "{query:?}");
    }
}

#[test]
fn revisions_out_of_reach_are_refused() {
    let mut engine = Engine::new();
    for value in ["1", "2", "3"] {
        engine.put("k", value);
    }
    let at = |engine: &Engine, revision| engine.query(&Query { revision, ..Query::of(all()) }).map(|_| ());
    assert_eq!(at(&engine, 5), Err(Refusal::FutureRevision));
    assert_eq!(engine.apply(&Command::Compact(5)), Err(Refusal::FutureRevision));
    engine.apply(&Command::Compact(3)).expect("compacts");
    assert_eq!(engine.apply(&Command::Compact(3)), Err(Refusal::Compacted));
    assert_eq!(at(&engine, 2), Err(Refusal::Compacted));
    assert_eq!(at(&engine, 3), Ok(()), "the compacted revision itself stays readable");
    let read = Op::Query(Query { revision: 2, ..Query::of(all()) });
    let txn = Txn { success: vec![Op::Put(put("new", "1")), read], ..Txn::default() };
    assert_eq!(engine.apply(&Command::Txn(txn)), Err(Refusal::Compacted));
    assert_eq!(engine.get("new", 0), None, "a refused transaction writes nothing");
}

#[test]
fn transactions_decide_once_on_the_state_before() {
    let mut engine = Engine::new();
    engine.put("k", "old");
    let inner = Txn {
        compares: vec![is("k", Target::Value(bytes("old")), Relation::Equal)],
        success: vec![Op::Put(put("inner", "then"))],
        failure: vec![Op::Put(put("inner", "else"))],
    };
    let txn = Txn {
        compares: vec![is("k", Target::Mod(2), Relation::Equal)],
        success: vec![
            Op::Query(Query::of(Span::Key(bytes("k")))),
            Op::Put(put("k", "new")),
            Op::Query(Query::of(Span::Key(bytes("k")))),
            Op::Txn(inner),
        ],
        failure: vec![],
    };
    let Ok(Answer::Txn(answer)) = engine.apply(&Command::Txn(txn)) else { panic!("applied") };
    assert!(answer.succeeded);
    let seen: Vec<_> = answer
        .answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::Query(answer) => Some((answer.kvs[0].value.clone(), answer.revision)),
            _ => None,
        })
        .collect();
    assert_eq!(seen, [(bytes("old"), 2), (bytes("new"), 3)], "a step sees the steps before it");
    assert_eq!(
        engine.get("inner", 0).expect("written").value,
        "then",
        "the nested condition saw the old value"
    );
}

#[test]
fn comparisons_as_a_table() {
    let mut engine = Engine::new();
    engine.put("k", "v");
    engine.put("k", "v");
    let table = [
        (is("k", Target::Version(2), Relation::Equal), true),
        (is("k", Target::Version(2), Relation::NotEqual), false),
        (is("k", Target::Create(1), Relation::Greater), true),
        (is("k", Target::Mod(4), Relation::Less), true),
        (is("k", Target::Lease(0), Relation::Equal), true),
        (is("k", Target::Value(bytes("u")), Relation::Greater), true),
        (is("none", Target::Create(0), Relation::Equal), true),
        (is("none", Target::Version(0), Relation::Greater), false),
        (is("none", Target::Value(bytes("")), Relation::Equal), false),
        (is("none", Target::Value(bytes("x")), Relation::NotEqual), false),
        (Compare { span: all(), target: Target::Mod(3), relation: Relation::Equal }, true),
    ];
    for (compare, holds) in table {
        let txn = Txn { compares: vec![compare.clone()], ..Txn::default() };
        let answer = engine
            .keyspace
            .read_txn(&Origin::Anyone, &txn, &engine.disk)
            .expect("the disk works")
            .expect("answered");
        assert_eq!(answer.succeeded, holds, "{compare:?}");
    }
}

#[test]
fn keeping_a_value_or_lease_needs_one() {
    let mut engine = Engine::new();
    let keep = Put { keep_value: true, prev_kv: true, ..put("k", "") };
    assert_eq!(engine.apply(&Command::Put(keep.clone())), Err(Refusal::KeyNotFound));
    assert_eq!(engine.apply(&Command::Put(Put { lease: 9, ..put("k", "v") })), Err(Refusal::LeaseNotFound));
    engine.apply(&Command::LeaseGrant { id: 9, ttl: 60 }).expect("granted");
    engine.apply(&Command::Put(Put { lease: 9, ..put("k", "v") })).expect("written");
    engine.apply(&Command::Put(Put { keep_lease: true, ..put("k", "w") })).expect("written");
    engine.apply(&Command::Put(Put { lease: 9, ..keep })).expect("written");
    let kv = engine.get("k", 0).expect("there");
    assert_eq!((kv.value, kv.lease, kv.version), (bytes("w"), 9, 3));
}

#[test]
fn the_end_of_a_lease_deletes_its_keys_at_one_revision() {
    let mut engine = Engine::new();
    assert_eq!(engine.apply(&Command::LeaseGrant { id: 0, ttl: 60 }), Err(Refusal::LeaseNotFound));
    let Ok(Answer::Granted { ttl, .. }) = engine.apply(&Command::LeaseGrant { id: 7, ttl: 1 }) else {
        panic!()
    };
    assert_eq!(ttl, 2, "short leases are lengthened");
    assert_eq!(engine.apply(&Command::LeaseGrant { id: 7, ttl: 60 }), Err(Refusal::LeaseExists));
    for key in ["b", "a", "moved"] {
        engine.apply(&Command::Put(Put { lease: 7, ..put(key, "v") })).expect("written");
    }
    engine.put("moved", "free");
    let before = engine.keyspace.revision();
    engine.changes.clear();
    engine.apply(&Command::LeaseRevoke(7)).expect("revoked");
    let ended: Vec<_> =
        engine.changes.iter().map(|change| (change.kv.key.clone(), change.kv.mod_revision)).collect();
    assert_eq!(ended, [(bytes("a"), before + 1), (bytes("b"), before + 1)]);
    assert_eq!(engine.keys(&Query::of(all())), "moved count=1 more=false");
    assert_eq!(engine.apply(&Command::LeaseRevoke(7)), Err(Refusal::LeaseNotFound));
}

#[test]
fn without_space_only_what_shrinks_goes_on() {
    let mut engine = Engine::new();
    engine.put("k", "v");
    engine.apply(&Command::AlarmRaise(1, Alarm::NoSpace)).expect("raised");
    let txn = |op| Command::Txn(Txn { success: vec![op], ..Txn::default() });
    assert_eq!(engine.apply(&Command::Put(put("k", "w"))), Err(Refusal::NoSpace));
    assert_eq!(engine.apply(&Command::LeaseGrant { id: 1, ttl: 60 }), Err(Refusal::NoSpace));
    assert_eq!(engine.apply(&txn(Op::Put(put("k", "w")))), Err(Refusal::NoSpace));
    engine.apply(&txn(Op::Delete(Delete { span: all(), prev_kv: false }))).expect("deletions free space");
    engine.apply(&Command::Compact(2)).expect("compaction frees space");
    engine.apply(&Command::AlarmClear(1, Alarm::NoSpace)).expect("cleared");
    engine.put("k", "w");
}

#[test]
fn a_cluster_goes_back_to_one_release_at_a_time_and_writes_go_on() {
    let mut engine = Engine::new();
    let before = Release::OWN.before();
    assert_eq!((engine.keyspace.downgrade(), engine.keyspace.release()), (None, Release::OWN));
    engine.apply(&Command::Downgrade(None)).expect("nothing to cancel, and no harm in it");
    engine.apply(&Command::Downgrade(Some(before))).expect("enabled");
    assert_eq!((engine.keyspace.downgrade(), engine.keyspace.release()), (Some(before), before));
    assert_eq!(engine.apply(&Command::Downgrade(Some(before.before()))), Err(Refusal::Downgrading));
    assert_eq!(engine.keyspace.release(), before, "a refused command changes nothing");
    engine.put("k", "v");
    engine.apply(&Command::Downgrade(None)).expect("cancelled");
    assert_eq!(engine.keyspace.release(), Release::OWN);
}

#[test]
fn the_same_commands_come_to_the_same_state_whatever_memory_keeps() {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    let mut rng = StdRng::seed_from_u64(42);
    let mut small = Engine::new();
    let mut large = Engine { keyspace: Keyspace::new(usize::MAX, 2), ..Engine::new() };
    for _ in 0..3_000 {
        let key = format!("k{}", rng.random_range(0..20));
        let command = match rng.random_range(0..10) {
            0..5 => {
                Command::Put(Put { prev_kv: rng.random(), ..put(&key, &rng.random::<u32>().to_string()) })
            }
            5 => Command::Put(Put { keep_value: true, ..put(&key, "") }),
            6 => Command::Delete(Delete { span: Span::Between(bytes(&key), bytes("k5")), prev_kv: true }),
            7 => Command::Txn(Txn {
                compares: vec![is(&key, Target::Value(bytes("5")), Relation::Less)],
                success: vec![Op::Query(Query::of(all())), Op::Put(put(&key, "t"))],
                failure: vec![Op::Delete(Delete { span: Span::Key(bytes(&key)), prev_kv: true })],
            }),
            8 => Command::LeaseGrant { id: rng.random_range(1..4), ttl: 60 },
            _ => Command::LeaseRevoke(rng.random_range(1..4)),
        };
        assert_eq!(small.apply(&command), large.apply(&command));
    }
    for revision in [0, 2, small.keyspace.revision() / 2] {
        let query = Query { revision, ..Query::of(all()) };
        assert_eq!(small.query(&query), large.query(&query));
    }
}

#[test]
fn damaged_commands_are_refused_and_never_panic() {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    let txn = Txn {
        compares: vec![is("k", Target::Value(bytes("v")), Relation::Equal)],
        success: vec![Op::Txn(Txn { success: vec![Op::Put(put("k", "v"))], ..Txn::default() })],
        failure: vec![Op::Query(Query { sort: Some((SortBy::Mod, true)), ..Query::of(all()) })],
    };
    let whole = encode(&Origin::Anyone, &Command::Txn(txn));
    for end in 0..whole.len() {
        assert!(decode(&whole.slice(..end)).is_err());
    }
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..20_000 {
        let mut bytes = whole.to_vec();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        let _ = decode(&bytes.into());
    }
}
