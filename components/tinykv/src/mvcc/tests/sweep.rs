//! What compactions leave, totals of the past, and views of a moment.

use super::*;

#[test]
fn a_sweep_leaves_every_readable_revision_as_it_was() {
    let mut engine = Engine::new();
    for round in 0..6 {
        for key in ["a", "b", "c"] {
            if (round + key.len()) % 3 == 2 && key == "b" {
                engine.delete(Span::Key(bytes(key)));
            } else {
                engine.put(key, &format!("{key}{round}"));
            }
        }
    }
    let last = engine.keyspace.revision();
    for compacted in [4, 9, last] {
        engine.apply(&Command::Compact(compacted)).expect("compacts");
        let answers = |engine: &Engine| -> Vec<_> {
            (compacted..=last).map(|revision| engine.query(&Query { revision, ..Query::of(all()) })).collect()
        };
        let before = answers(&engine);
        let mut next = None;
        loop {
            let stale = engine.keyspace.view().stale(next.as_ref(), 2);
            let mut keys = stale.keys.iter();
            while !keys.as_slice().is_empty() {
                let dropped = engine.keyspace.prune(&mut keys, 1);
                assert!(dropped.len() <= 1);
                for (key, revision) in dropped {
                    assert!(engine.disk.0.borrow_mut().remove(&(key.copied(), revision)).is_some());
                }
            }
            next = stale.next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!(answers(&engine), before);
    }
    let live: u64 = engine
        .query(&Query::of(all()))
        .expect("answered")
        .kvs
        .iter()
        .map(|kv| kv.key.len() as u64 + kv.value.len() as u64 + 64)
        .sum();
    assert!(engine.keyspace.bytes() - live <= 130, "all but a deletion at the compaction is gone");
}

/// The totals of some spans at every revision of `revisions`: as they are told, and as a walk over the keys finds them.
fn totals(view: &View, revisions: impl Iterator<Item = i64>) -> Vec<[i64; 2]> {
    let spans = [("", "l"), ("k05", "k2"), ("k1234", "k1235"), ("k2399", "l"), ("none", "other")];
    let total = |query: &Query| view.select(query).expect("selected").count();
    let mut totals = Vec::new();
    for revision in revisions {
        for (from, to) in spans {
            let query = Query { revision, limit: 3, ..Query::of(Span::Between(bytes(from), bytes(to))) };
            // Without a limit all keys are selected, so that they can be counted.
            let whole = Query { limit: 0, ..query.clone() };
            let walked = view.select(&whole).expect("selected").selected() as i64;
            totals.push([total(&query), walked]);
        }
    }
    totals
}

#[test]
fn totals_at_past_revisions_are_those_of_a_walk_wherever_the_first_page_was_read() {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    for seed in 0..8 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut engine = Engine::new();
        for n in 0..2_000 {
            engine.put(&format!("k{n:04}"), "v");
        }
        for round in 0..12 {
            for _ in 0..rng.random_range(1..150) {
                let key = format!("k{:04}", rng.random_range(0..2_400));
                let command = match rng.random_range(0..4) {
                    0 => Command::Delete(Delete { span: Span::Key(bytes(&key)), prev_kv: false }),
                    1 => {
                        let to = bytes(&format!("{key}~"));
                        let delete = Delete { span: Span::Between(bytes(&key), to), prev_kv: false };
                        // One revision in which keys come and go.
                        let put = Op::Put(put(&format!("l{key}"), "x"));
                        Command::Txn(Txn { success: vec![put, Op::Delete(delete)], ..Txn::default() })
                    }
                    _ => Command::Put(put(&key, "w")),
                };
                engine.apply(&command).expect("applied");
            }
            let view = engine.keyspace.view();
            let last = view.revision;
            let revisions = (0..6).map(|_| rng.random_range(2_001..=last)).collect::<Vec<_>>();
            if round % 4 != 3 {
                // A list begins here. In the other rounds it began at another member.
                view.select(&Query { limit: 10, ..Query::of(all()) }).expect("selected");
            }
            for [told, walked] in totals(&view, revisions.into_iter()) {
                assert_eq!(told, walked, "seed {seed}, round {round}");
            }
        }
        let revision = engine.keyspace.revision() - 100;
        engine.apply(&Command::Compact(revision)).expect("compacted");
        let view = engine.keyspace.view();
        for [told, walked] in totals(&view, revision..=view.revision) {
            assert_eq!(told, walked, "seed {seed}, compacted");
        }
        engine.keyspace.pages.clear();
        for [told, walked] in totals(&engine.keyspace.view(), revision..=view.revision) {
            assert_eq!(told, walked, "seed {seed}, without pages");
        }
    }
}

#[test]
fn only_the_last_turns_are_remembered_and_totals_before_them_are_walked() {
    let mut engine = Engine::new();
    // Names so long that few of them fill the memory for turns.
    let name = |n: usize| format!("{n:06}{}", "x".repeat(50_000));
    for n in 0..200 {
        engine.put(&name(n), "v");
    }
    let view = engine.keyspace.view();
    let told = |revision| view.pages.count(&view.index, &all(), revision);
    assert_eq!((told(2), told(100)), (None, None), "forgotten");
    assert_eq!((told(150), told(201)), (Some(149), Some(200)));
    for revision in [2, 100, 150, 201] {
        let query = Query { revision, limit: 1, ..Query::of(all()) };
        assert_eq!(view.select(&query).expect("selected").count(), revision - 1);
    }
}

#[test]
fn a_view_shows_its_moment_and_what_is_restored_answers_the_same() {
    let mut engine = Engine::new();
    for round in 0..40 {
        engine.put("often", &round.to_string());
        engine.put(&format!("k{}", round % 3), "v");
    }
    engine.delete(Span::Key(bytes("k1")));
    let view = engine.keyspace.view();
    let queries: Vec<Query> =
        (1..=engine.keyspace.revision()).map(|revision| Query { revision, ..Query::of(all()) }).collect();
    let of_view = |query: &Query| {
        let answer = view.select(query).expect("selected").load(query, &engine.disk).expect("the disk works");
        (answer.kvs, answer.count)
    };
    let before: Vec<_> = queries.iter().map(of_view).collect();
    // What the store would tell at a start: keys ascending, versions of a key newest first.
    let mut stored: Vec<_> = engine.disk.0.borrow().keys().cloned().collect();
    stored.sort_by(|a, b| (&a.0, b.1).cmp(&(&b.0, a.1)));
    let mut restored = Restored::default();
    for (key, revision) in stored {
        let change = engine.changes.iter().find(|change| change.kv.mod_revision == revision);
        let kv = &change.expect("every version was a change").kv;
        let version = Version {
            mod_revision: revision,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: 0,
            size: kv.value.len() as u32,
            value: None,
        };
        restored.add(&key, version);
    }
    let mut again = Keyspace::new(0, 2);
    again.restore(restored).expect("keys ascend");
    assert_eq!((again.bytes(), again.keys()), (engine.keyspace.bytes(), engine.keyspace.keys()));
    engine.put("k1", "again");
    engine.delete(Span::Key(bytes("often")));
    for (query, expected) in queries.iter().zip(&before) {
        let of_view =
            view.select(query).expect("selected").load(query, &engine.disk).expect("the disk works");
        assert_eq!(&(of_view.kvs, of_view.count), expected);
        let of_restored = again.query(query, &engine.disk).expect("the disk works").expect("answered");
        assert_eq!(&(of_restored.kvs, of_restored.count), expected);
    }
}
