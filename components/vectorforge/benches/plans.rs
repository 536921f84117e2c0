//! What each plan costs and finds, by fraction of passing rows: what the planner's constants are fitted on.
//!
//! ```text
//! cargo bench -p vectorforge --bench plans -- <segment file> [ef]
//! ```
//!
//! The segment file is the one that `--bench vector` leaves in the cache. Rows pass by a hash of their number; the
//! queries are rows, found among the others. Times are processor time of the thread.

use std::fmt::Write;
use std::path::Path;

use vectorforge::engine::Distance;
use vectorforge::engine::graph::search::{Near, Walk};
use vectorforge::engine::graph::visited::Visited;
use vectorforge::engine::metric::Metric;
use vectorforge::engine::row_set::RowSet;
use vectorforge::engine::segment::sealed::Sealed;

const QUERIES: u32 = 200;
const TOP: usize = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let path = arguments.next().ok_or("name a segment file")?;
    let ef: usize = arguments.next().map_or(Ok(128), |ef| ef.parse())?;
    let (sealed, _) = Sealed::open(Path::new(&path), arguments.next().is_some())?;
    let count = sealed.meta().rows;
    let rows = sealed.matrix(0);
    let graph = sealed.graph(0).ok_or("the segment has no graph")?;
    let metric = Metric::new(Distance::Cosine);
    let mut visited = Visited::default();
    println!("{count} rows, width {}, ef {ef}", graph.width);
    for permille in [1000u64, 900, 700, 500, 300, 200, 100, 50, 20, 10, 5, 2, 1] {
        let mut passing = RowSet::empty(count);
        let passes =
            |row: &u32| (u64::from(*row).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % 1000 < permille;
        passing.insert_all((0..count).filter(passes));
        let queries = (0..QUERIES).map(|query| query * (count / QUERIES) + 7);
        let mut truth = Vec::new();
        let mut report = format!("{:5.1} %", permille as f64 / 10.0);
        for plan in ["scan", "filtered", "two-hop", "walk"] {
            let (mut hits, mut micros, mut ended) = (0, 0.0, 0);
            for (at, query) in queries.clone().enumerate() {
                let walk = Walk { graph, rows, metric, query: rows.row(query) };
                let before = thread_micros();
                visited.start(count as usize);
                let (found, done) = match plan {
                    "scan" => (scan(&passing, &walk), true),
                    "filtered" => {
                        walk.nearest_passing(ef, usize::MAX, |row| passing.contains(row), &mut visited)
                    }
                    "two-hop" => walk.nearest_two_hop(
                        ef,
                        usize::MAX / 16,
                        &[],
                        |row| passing.contains(row),
                        &mut visited,
                    ),
                    _ => (walk.nearest(ef, &mut visited), true),
                };
                micros += thread_micros() - before;
                ended += usize::from(done);
                if plan == "scan" {
                    truth.push(found);
                    hits += TOP;
                } else {
                    let truth: &Vec<Near> = &truth[at];
                    hits += found
                        .iter()
                        .take(TOP)
                        .filter(|near| truth.iter().any(|true_one| true_one.node == near.node))
                        .count();
                    hits += TOP - truth.len();
                }
            }
            let recall = hits as f64 / f64::from(QUERIES) / TOP as f64;
            write!(report, "   {plan} {:8.1} us {recall:.3} {ended}", micros / f64::from(QUERIES))?;
        }
        println!("{report}");
    }
    Ok(())
}

fn scan(passing: &RowSet, walk: &Walk<'_>) -> Vec<Near> {
    let mut best: Vec<Near> = Vec::new();
    for row in passing.iter() {
        let near = Near { distance: walk.metric.distance(walk.query, walk.rows.row(row)), node: row };
        if best.len() < TOP || near < best[TOP - 1] {
            best.insert(best.partition_point(|held| *held < near), near);
            best.truncate(TOP);
        }
    }
    best
}

fn thread_micros() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default() / 1e3
}
