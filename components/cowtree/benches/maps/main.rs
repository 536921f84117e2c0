//! B0: this tree beside `imbl::OrdMap`, `rpds::RedBlackTreeMapSync` and `std::collections::BTreeMap`, interleaved.
//!
//! ```text
//! cargo bench -p cowtree --bench maps -- [--keys 1000000] [--rounds 5] [--record]
//! ```
//!
//! Keys are 32 bytes with a common prefix, as arrays and as `Bytes`; values are `u64`. Times are processor time of the
//! thread, since neighbours on the machine make wall time meaningless. Every map does the same work in every round, in
//! turn; figures are medians. `--record` appends to `docs/benchmarks/cowtree.jsonl`.

mod peers;

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use cowtree::Tree;
use cowtree::store::Store;
use cpu_time::ThreadTime;
use peers::{Imbl, Key, Map, Rpds, Std};
use serde_json::json;

type Error = Box<dyn std::error::Error>;

/// Forks in a round of the fork workloads.
const FORKS: usize = 20_000;
/// Changes between the two trees of a diff.
const CHANGES: usize = 100;
/// Entries of the ranges that are counted.
const COUNTED: usize = 1_000;

struct Options {
    keys: usize,
    rounds: usize,
    record: bool,
}

fn main() -> Result<(), Error> {
    let options = parse(std::env::args().skip(1))?;
    let mut lines = Vec::new();
    println!("{} keys, {}", options.keys, machine());
    compare::<[u8; 32]>(&options, "arrays of 32 B", &mut lines);
    compare::<Bytes>(&options, "Bytes of 32 B", &mut lines);
    own(&options, &mut lines)?;
    if options.record {
        record(&lines)?;
    }
    Ok(())
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, Error> {
    let mut options = Options { keys: 1_000_000, rounds: 5, record: false };
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut number =
            || arguments.next().ok_or("a number is missing")?.parse::<usize>().map_err(Error::from);
        match argument.as_str() {
            "--keys" => options.keys = number()?,
            "--rounds" => options.rounds = number()?,
            "--record" => options.record = true,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

/// Nanoseconds an operation of each workload, by workload, for one map and round.
type Round = Vec<(&'static str, f64)>;

fn compare<K: Key>(options: &Options, keys: &str, lines: &mut Vec<serde_json::Value>) {
    let sorted: Vec<K> = (0..options.keys).map(|n| K::numbered(scatter(n as u64) >> 4)).collect();
    let mut shuffled = sorted.clone();
    let mut order = 7;
    for at in (1..shuffled.len()).rev() {
        order = scatter(order);
        shuffled.swap(at, (order % (at as u64 + 1)) as usize);
    }
    let mut sorted = sorted;
    sorted.sort_unstable();
    let (mut ours, mut imbl, mut rpds, mut std) = (vec![], vec![], vec![], vec![]);
    for _ in 0..options.rounds {
        ours.push(round::<K, Tree<K, u64>>(&sorted, &shuffled));
        imbl.push(round::<K, Imbl<K>>(&sorted, &shuffled));
        rpds.push(round::<K, Rpds<K>>(&sorted, &shuffled));
        std.push(round::<K, Std<K>>(&sorted, &shuffled));
    }
    println!("\n{keys}: ns an operation (ratio: ours over the peer's)");
    println!("{:44} {:>9} {:>17} {:>17} {:>17}", "", "cowtree", "imbl 7.0", "rpds 1.2", "std");
    for (at, (what, _)) in ours[0].iter().enumerate() {
        let mine = median(&ours, at);
        print!("{what:44} {mine:9.1}");
        for (peer, version) in
            [(&imbl, "imbl 7.0.2 OrdMap"), (&rpds, "rpds 1.2.1 RedBlackTreeMapSync"), (&std, "std BTreeMap")]
        {
            let theirs = median(peer, at);
            print!(" {theirs:9.1} ({:.3})", mine / theirs);
            lines.push(json!({
                "id": "B0", "what": format!("{what}, {} keys, {keys}", options.keys), "ours": round3(mine),
                "peer": round3(theirs), "unit": "ns CPU", "ratio": round3(mine / theirs),
                "peer_version": version, "machine": machine(), "commit": said_by("git", &["rev-parse", "--short", "HEAD"]),
                "date": said_by("date", &["+%F"]), "runs": options.rounds,
            }));
        }
        println!();
    }
}

fn round<K: Key, M: Map<K>>(sorted: &[K], shuffled: &[K]) -> Round {
    let keys = sorted.len();
    let mut round = Round::new();
    let mut map = M::default();
    round.push((
        "insert, random order, an entry",
        timed(keys, || {
            shuffled.iter().enumerate().for_each(|(at, key)| map.put(key.clone(), at as u64));
        }),
    ));
    let built = map;
    let mut map = built.clone();
    round.push((
        "insert, ascending order, an entry",
        timed(keys, || {
            map = M::default();
            sorted.iter().enumerate().for_each(|(at, key)| map.put(key.clone(), at as u64));
        }),
    ));
    drop(map);
    round.push((
        "get, random, a key",
        timed(keys, || {
            black_box(
                sorted.iter().enumerate().filter(|(at, _)| built.find(&shuffled[*at]).is_some()).count(),
            );
        }),
    ));
    round.push((
        "iterate over all, an entry",
        timed(keys, || {
            black_box(built.entries().fold(0, |sum, (_, value)| sum ^ value));
        }),
    ));
    let counts = keys / COUNTED;
    round.push((
        "count of a range of 1,000, a range",
        timed(counts, || {
            for low in 0..counts - 1 {
                let low = (scatter(low as u64) % (keys - COUNTED) as u64) as usize;
                assert_eq!(black_box(built.count_between(&sorted[low], &sorted[low + COUNTED])), COUNTED);
            }
        }),
    ));
    let forks = if M::FORKS_ARE_COPIES { 2 } else { FORKS };
    round.push((
        "clone, change 1 of all, drop, a fork",
        timed(forks, || {
            for key in &shuffled[..forks] {
                let mut fork = built.clone();
                fork.put(key.clone(), 1);
                black_box(&fork);
            }
        }),
    ));
    round.push((
        "clone, change 1 of 1,000 keys, drop, a fork",
        timed(forks, || {
            for at in 0..forks {
                let mut fork = built.clone();
                fork.put(sorted[keys / 2 + at % COUNTED.min(keys / 2)].clone(), 1);
                black_box(&fork);
            }
        }),
    ));
    let mut changed = built.clone();
    for (at, key) in shuffled.iter().rev().take(CHANGES).enumerate() {
        if at % 4 == 0 {
            changed.cut(key);
        } else {
            changed.put(key.clone(), u64::MAX);
        }
    }
    let diffs = if M::FORKS_ARE_COPIES || !M::DIFFS { 2 } else { 50 };
    round.push((
        "diff of a fork with 100 changes, a diff",
        timed(diffs, || {
            for _ in 0..diffs {
                assert_eq!(black_box(built.differences(&changed)), CHANGES);
            }
        }),
    ));
    drop(changed);
    let mut map = built;
    round.push((
        "replace, not shared, random, an entry",
        timed(keys, || {
            shuffled.iter().rev().for_each(|key| map.put(key.clone(), 5));
        }),
    ));
    round.push((
        "remove, random, an entry",
        timed(keys, || {
            for key in shuffled {
                map.cut(key);
            }
        }),
    ));
    round
}

/// What the peers have no counterpart for.
fn own(options: &Options, lines: &mut Vec<serde_json::Value>) -> Result<(), Error> {
    let mut figures = vec![Vec::new(); 9];
    let mut bytes = 0.0;
    for _ in 0..options.rounds {
        let random: Tree<[u8; 32], u64> =
            (0..options.keys).map(|n| (Key::numbered(scatter(n as u64) >> 4), n as u64)).collect();
        let entries: Vec<_> = random.iter().map(|(key, value)| (*key, *value)).collect();
        let mut loaded = Tree::new();
        figures[0].push(timed(options.keys, || loaded = cowtree::from_sorted(entries).unwrap_or_default()));
        figures[1].push(timed(options.keys, || _ = black_box(random.hash())));
        assert_eq!(random.hash(), loaded.hash());
        let mut changed = random.clone();
        figures[2].push(timed(FORKS, || {
            for n in 0..FORKS {
                changed.insert(Key::numbered(scatter(n as u64) >> 4), 0);
                black_box(changed.hash());
            }
        }));
        let small = {
            let mut small = loaded.clone();
            for n in 0..CHANGES {
                small.insert(Key::numbered(scatter(n as u64) >> 4), u64::MAX);
            }
            small.hash();
            small
        };
        figures[3].push(timed(20, || {
            for _ in 0..20 {
                assert_eq!(black_box(random.diff(&small).count()), CHANGES);
            }
        }));
        figures[4].push(timed(FORKS, || {
            for n in 0..FORKS {
                black_box(loaded.nth(scatter(n as u64) as usize % options.keys));
            }
        }));
        bytes = cowtree::memory([&random], |_, _| 0).node_bytes as f64 / options.keys as f64;
        figures[5].push(cowtree::memory([&loaded], |_, _| 0).node_bytes as f64 / options.keys as f64);
        let directory = tempfile::tempdir()?;
        let mut store = Store::open(directory.path())?;
        let mut save = |tree: &Tree<[u8; 32], u64>| {
            let mut checkpoint = store.checkpoint()?;
            checkpoint.put("tree", tree)?;
            checkpoint.commit(b"")
        };
        let mut outcomes = Vec::new();
        figures[6].push(timed(options.keys, || outcomes.push(save(&random))));
        let mut fork = random.clone();
        for n in 0..CHANGES {
            fork.insert(Key::numbered(scatter(n as u64) >> 4), u64::MAX);
        }
        figures[7].push(timed(1, || outcomes.push(save(&fork))));
        outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut read = Ok(Tree::new());
        figures[8].push(timed(options.keys, || read = store.load::<[u8; 32], u64>("tree")));
        assert_eq!(read?.hash(), fork.hash());
    }
    println!();
    let whats = [
        ("load from sorted input, an entry", "ns CPU"),
        ("content hash of a tree that has none yet, an entry", "ns CPU"),
        ("change an entry of a sole owner and hash the whole, a change", "ns CPU"),
        ("diff of trees that share nothing, 100 changes, a diff", "ns CPU"),
        ("n-th key, a key", "ns CPU"),
        ("memory after a sorted load, an entry of 40 B", "B"),
        ("checkpoint of a tree that is not on the disk yet, an entry", "ns CPU"),
        ("checkpoint of a fork with 100 changes", "ns CPU"),
        ("load from the disk, an entry", "ns CPU"),
    ];
    for ((what, unit), figure) in whats.iter().zip(&mut figures) {
        figure.sort_by(f64::total_cmp);
        let ours = figure[figure.len() / 2];
        println!("{what:62} {ours:12.1} {unit}");
        lines.push(line(options, what, ours, unit));
    }
    println!("{:62} {bytes:12.1} B", "memory after inserts in random order, an entry of 40 B");
    lines.push(line(options, "memory after inserts in random order, an entry of 40 B", bytes, "B"));
    Ok(())
}

fn line(options: &Options, what: &str, ours: f64, unit: &str) -> serde_json::Value {
    json!({
        "id": "B0", "what": format!("{what}, {} keys, arrays of 32 B", options.keys), "ours": round3(ours),
        "peer": null, "unit": unit, "ratio": null, "peer_version": null, "machine": machine(),
        "commit": said_by("git", &["rev-parse", "--short", "HEAD"]), "date": said_by("date", &["+%F"]),
        "runs": options.rounds,
    })
}

/// Spreads a number over all of `u64` (SplitMix64).
fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Processor time of this thread, in nanoseconds an operation.
fn timed(operations: usize, work: impl FnOnce()) -> f64 {
    let start = ThreadTime::now();
    work();
    start.elapsed().as_nanos() as f64 / operations as f64
}

fn median(rounds: &[Round], at: usize) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(|round| round[at].1).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn round3(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

fn record(lines: &[serde_json::Value]) -> Result<(), Error> {
    use std::io::Write;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarks/cowtree.jsonl");
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    lines.iter().try_for_each(|line| writeln!(file, "{line}"))?;
    Ok(())
}

fn machine() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, load {}, {}", load.split(' ').next().unwrap_or("?"), std::env::consts::ARCH)
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
