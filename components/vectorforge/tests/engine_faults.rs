//! What must survive: killed processes, flipped bits, a full disk.
//!
//! `VF_CRASH_ROUNDS` sets the number of kill -9 rounds (20 unless set).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use vectorforge::engine::{
    Collection, CollectionConfig, ConfigChange, Distance, Engine, EngineError, EngineOptions, ErrorClass,
    FieldKind, HnswParams, OptimizerParams, Payload, Point, PointId, Query, Selector, Vectors, With,
    WithPayload, WithVectors,
};

const ALL: With = With { payload: WithPayload::All, vectors: WithVectors::All };
const WRITERS: u64 = 2;
/// Ids that one writer goes through again and again.
const IDS: u64 = 700;

fn config() -> CollectionConfig {
    let mut config = CollectionConfig::unnamed(8, Distance::Euclid);
    config.hnsw = HnswParams { m: 4, ef_construct: 16, ef_search: 16, full_scan_points: 100 };
    config.optimizer = OptimizerParams { seal_points: 150, ..OptimizerParams::default() };
    config
}

fn options() -> EngineOptions {
    EngineOptions { checkpoint_interval: Duration::from_millis(100), ..EngineOptions::default() }
}

fn payload(number: u64) -> Payload {
    Payload::from_iter([("n".to_owned(), json!(number))])
}

fn vector(number: u64) -> Vec<f32> {
    (0..8).map(|axis| (number % (axis + 7)) as f32).collect()
}

/// What a writer does as its operation `number`; on the model when there is no collection.
fn operate(
    writer: u64,
    number: u64,
    collection: Option<&Collection>,
    model: &mut BTreeMap<u64, u64>,
) -> Result<(), EngineError> {
    let id = writer * 1_000_000 + (number * 13) % IDS;
    let selector = Selector::Ids(vec![id.into()]);
    match number % 10 {
        9 => {
            collection.map_or(Ok(0), |collection| collection.delete(&selector, true))?;
            model.remove(&id);
        }
        8 if model.contains_key(&id) => {
            collection.map_or(Ok(0), |collection| {
                collection.overwrite_payload(&selector, &payload(number), true)
            })?;
            model.insert(id, number);
        }
        _ => {
            let point =
                Point { id: id.into(), vectors: Vectors::unnamed(vector(number)), payload: payload(number) };
            collection.map_or(Ok(0), |collection| collection.upsert(vec![point], true))?;
            model.insert(id, number);
        }
    }
    Ok(())
}

/// Not a test: what the parent starts and kills. It writes from where the parent says and reports each acknowledged
/// write on a line of its own.
#[test]
fn child_writer() {
    let Ok(dir) = std::env::var("VF_CRASH_DIR") else { return };
    let starts: Vec<u64> = std::env::var("VF_CRASH_STARTS")
        .expect("set together with the directory")
        .split(',')
        .map(|start| start.parse().expect("a number"))
        .collect();
    let engine = Engine::open(Path::new(&dir), options()).expect("a killed engine opens again");
    let collection = engine.collection("c").expect("the collection");
    std::thread::scope(|scope| {
        for (writer, start) in starts.into_iter().enumerate() {
            let collection = &collection;
            scope.spawn(move || {
                let mut model = BTreeMap::new();
                for number in 1.. {
                    let real = (number > start).then_some(&**collection);
                    operate(writer as u64, number, real, &mut model).expect("the disk is fine");
                    if number > start {
                        let line = format!("ack {writer} {number}\n");
                        std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent listens");
                    }
                }
            });
        }
    });
}

fn spawn(test: &str, environment: &[(&str, String)]) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture"])
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .stdout(Stdio::piped())
        .spawn()
        .expect("started")
}

/// The last operation of each writer that was acknowledged before the kill.
fn kill_after(mut child: Child, acks_before_kill: usize) -> Vec<Option<u64>> {
    let mut last = vec![None; WRITERS as usize];
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut seen = 0;
    for line in lines.map_while(Result::ok) {
        let mut words = line.split(' ');
        if words.next() == Some("ack") {
            let writer: usize = words.next().and_then(|word| word.parse().ok()).expect("a writer");
            // The line may be cut by the kill; only what ends in a number that grows counts.
            if let Some(number) = words.next().and_then(|word| word.parse().ok()) {
                last[writer] = last[writer].max(Some(number));
            }
            seen += 1;
            if seen == acks_before_kill {
                child.kill().expect("killed");
            }
        }
    }
    child.wait().expect("reaped");
    assert!(seen >= acks_before_kill, "the child ended by itself");
    last
}

fn holdings(collection: &Collection, writer: u64) -> BTreeMap<u64, u64> {
    let ids: Vec<PointId> = (0..IDS).map(|id| PointId::Num(writer * 1_000_000 + id)).collect();
    let records = collection.get(&ids, &ALL).expect("read");
    records
        .into_iter()
        .map(|record| {
            let id = record.id.to_string().parse().expect("only numbers were written");
            let number =
                record.payload.and_then(|payload| payload.get("n")?.as_u64()).expect("written with a number");
            (id, number)
        })
        .collect()
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let rounds: usize =
        std::env::var("VF_CRASH_ROUNDS").map_or(20, |rounds| rounds.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    {
        let engine = Engine::open(dir.path(), options()).expect("founded");
        engine.create_collection("c", config()).expect("created");
    }
    let mut rng = StdRng::seed_from_u64(1);
    let mut done = vec![0u64; WRITERS as usize];
    for round in 0..rounds {
        let starts = done.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let environment = [("VF_CRASH_DIR", dir.path().display().to_string()), ("VF_CRASH_STARTS", starts)];
        let acknowledged = kill_after(spawn("child_writer", &environment), rng.random_range(1..600));
        let engine = Engine::open(dir.path(), options()).expect("a killed engine opens again");
        let collection = engine.collection("c").expect("the collection");
        for writer in 0..WRITERS {
            let acknowledged = acknowledged[writer as usize].unwrap_or(done[writer as usize]);
            let mut model = BTreeMap::new();
            for number in 1..=acknowledged {
                operate(writer, number, None, &mut model).expect("a model never fails");
            }
            let held = holdings(&collection, writer);
            done[writer as usize] = acknowledged;
            if held != model {
                // The write under way when the process was killed may have been carried out.
                operate(writer, acknowledged + 1, None, &mut model).expect("a model never fails");
                done[writer as usize] = acknowledged + 1;
                assert_eq!(held, model, "round {round}, writer {writer}");
            }
        }
        let total: usize = (0..WRITERS).map(|writer| holdings(&collection, writer).len()).sum();
        assert_eq!(collection.info().points, total, "round {round}");
        let nearest = collection.search(&Query::nearest(vector(5), 10)).expect("searched");
        assert_eq!(nearest.len(), total.min(10), "round {round}");
        if round % 4 == 3 {
            engine.close().expect("closed");
        }
    }
    println!("{rounds} rounds, {} acknowledged writes", done.iter().sum::<u64>());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("listed") {
        let path = entry.expect("listed").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "LOCK") {
            found.push(path);
        }
    }
    found
}

#[test]
fn flipped_bits_are_found_in_every_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    {
        let engine = Engine::open(dir.path(), options()).expect("founded");
        let collection = engine.create_collection("c", config()).expect("created");
        collection
            .create_field_index(&"n".parse().expect("a path"), FieldKind::Integer.into())
            .expect("indexed");
        let mut model = BTreeMap::new();
        for number in 1..400 {
            operate(0, number, Some(&collection), &mut model).expect("written");
        }
        collection.optimize_now().expect("optimised");
        let optimizer = Some(OptimizerParams { enabled: false, ..config().optimizer });
        collection.update_config(ConfigChange { optimizer, ..ConfigChange::default() }).expect("changed");
        // 700 ids on, the same ids come round again.
        for number in 700..760 {
            operate(0, number, Some(&collection), &mut model).expect("written");
        }
        collection.checkpoint().expect("saved");
        for number in 760..780 {
            operate(0, number, Some(&collection), &mut model).expect("written");
        }
    }
    let still = EngineOptions { checkpoint_interval: Duration::from_hours(1), ..options() };
    let files = files(dir.path());
    let kinds = ["catalog", "manifest", ".wal", ".seg", ".overlay"];
    for kind in kinds {
        assert!(
            files.iter().any(|path| path.to_string_lossy().ends_with(kind)),
            "no {kind} file among {files:?}"
        );
    }
    let mut rng = StdRng::seed_from_u64(2);
    for path in files {
        let good = std::fs::read(&path).expect("read");
        for attempt in 0..60 {
            let bit = match attempt {
                0..40 => rng.random_range(0..good.len() * 8),
                // Headers and tails are short, and chance would miss them.
                40..50 => rng.random_range(0..good.len().min(64) * 8),
                _ => good.len() * 8 - 1 - rng.random_range(0..good.len().min(64) * 8),
            };
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).expect("written");
            let Err(error) = Engine::open(dir.path(), still.clone()) else {
                panic!("bit {bit} of {} went unnoticed", path.display())
            };
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            assert!(error.to_string().contains(&name), "{error} does not name {name}");
            assert_eq!(error.class(), ErrorClass::Internal);
        }
        std::fs::write(&path, &good).expect("written");
    }
    let engine = Engine::open(dir.path(), still).expect("all bits are back");
    let held = holdings(&engine.collection("c").expect("the collection"), 0);
    let mut model = BTreeMap::new();
    (1..400)
        .chain(700..780)
        .for_each(|number| operate(0, number, None, &mut model).expect("a model never fails"));
    assert_eq!(held, model);
}

/// Not a test: runs inside a mount namespace whose `VF_FULL_DIR` is a file system of a few MiB.
#[test]
fn child_on_a_small_disk() {
    let Ok(dir) = std::env::var("VF_FULL_DIR") else { return };
    let dir = Path::new(&dir);
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![1u8; 1 << 20]).expect("room for ballast");
    let data = dir.join("data");
    let engine = Engine::open(&data, options()).expect("founded");
    let collection = engine.create_collection("c", config()).expect("created");
    let mut model = BTreeMap::new();
    let mut number = 0;
    let error = loop {
        number += 1;
        assert!(number < 1_000_000, "the disk never filled up");
        let id = number;
        let text = "x".repeat(2000);
        let payload = Payload::from_iter([("n".to_owned(), json!(number)), ("text".to_owned(), json!(text))]);
        let point = Point { id: id.into(), vectors: Vectors::unnamed(vector(number)), payload };
        match collection.upsert(vec![point], true) {
            Ok(_) => drop(model.insert(id, number)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
    let check = |collection: &Collection| {
        let ids: Vec<PointId> = model.keys().map(|id| PointId::Num(*id)).collect();
        assert_eq!(collection.get(&ids, &ALL).expect("read").len(), model.len());
        assert_eq!(collection.info().points, model.len());
    };
    check(&collection);
    std::fs::remove_file(&ballast).expect("removed");
    collection.delete(&Selector::Ids(vec![1.into()]), true).expect("there is room again");
    model.remove(&1);
    let check = |collection: &Collection| {
        let ids: Vec<PointId> = model.keys().map(|id| PointId::Num(*id)).collect();
        assert_eq!(collection.get(&ids, &ALL).expect("read").len(), model.len());
        assert_eq!(collection.info().points, model.len());
    };
    check(&collection);
    drop((collection, engine));
    let engine = Engine::open(&data, options()).expect("reopened");
    check(&engine.collection("c").expect("the collection"));
    println!("survived {} writes", model.len());
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let script = "mount -t tmpfs -o size=6m tmpfs \"$VF_FULL_DIR\" || exit 77; exec \"$0\" --exact child_on_a_small_disk --nocapture";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().expect("this test"))
        .env("VF_FULL_DIR", dir.path())
        .output();
    match output {
        Ok(output) if output.status.code() != Some(77) && !output.stdout.is_empty() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("survived"), "{text}\n{complaint}");
            println!("{text}");
        }
        other => println!("not run: this machine does not let us mount a small file system ({other:?})"),
    }
}
