//! Searching a segment by the plan.

use super::narrow::{Scope, candidates, judge};
use super::planner::{Plan, Situation, choose};
use crate::engine::filter::Filter;
use crate::engine::graph::search::{Near, Walk};
use crate::engine::graph::visited::VisitedPool;
use crate::engine::metric::Metric;
use crate::engine::row_set::RowSet;
use crate::simd::{Lane, prefetch};

/// A query to one vector field of one segment.
#[derive(Clone, Copy)]
pub struct FieldQuery<'a> {
    /// Position of the field.
    pub field: usize,
    /// Its comparison.
    pub metric: Metric,
    /// The query vector in stored form.
    pub vector: &'a [Lane],
    /// Rows to find.
    pub limit: usize,
    /// Candidates kept while walking.
    pub ef: usize,
    /// Never walk.
    pub exact: bool,
    /// Only rows that pass.
    pub filter: Option<&'a Filter>,
}

/// Rows judged when the planner has to guess how many pass.
const SAMPLE: usize = 48;

/// The nearest passing rows, nearest first.
pub fn search(scope: Scope<'_>, query: &FieldQuery<'_>, pool: &VisitedPool) -> Vec<Near> {
    search_planned(scope, query, pool, None)
}

/// [`search`] with the plan forced, for benchmarks that fit the planner.
pub fn search_planned(
    scope: Scope<'_>,
    query: &FieldQuery<'_>,
    pool: &VisitedPool,
    forced: Option<Plan>,
) -> Vec<Near> {
    let view = scope.view;
    if query.limit == 0 || view.rows() == 0 {
        return Vec::new();
    }
    let graph = if query.exact { None } else { view.graph(query.field) };
    let whole = query.filter.is_none() && !view.has_deleted() && view.present(query.field).is_none();
    if whole && let Some(graph) = graph {
        // The common case: nothing to filter.
        let rows = view.rows() as usize;
        let situation = Situation {
            rows,
            candidates: rows,
            passing: rows as f64,
            ef: query.ef,
            width: graph.width,
            reads_payload: false,
        };
        if forced.unwrap_or_else(|| choose(&situation)) == Plan::Walk {
            let walk =
                Walk { graph, rows: view.matrix(query.field), metric: query.metric, query: query.vector };
            let mut found = pool.with(rows, |visited| walk.nearest(query.ef.max(query.limit), visited));
            found.truncate(query.limit);
            return found;
        }
    }
    let (mut rows, exact_filter) = candidates(scope, query.filter);
    if let Some(present) = view.present(query.field) {
        rows.intersect(present);
    }
    let unsure = query.filter.filter(|_| !exact_filter);
    let Some(graph) = graph else { return scan(scope, query, &rows, unsure) };
    let count = rows.count();
    let passing = unsure.map_or(count as f64, |filter| estimate(scope, &rows, count, filter));
    let situation = Situation {
        rows: view.rows() as usize,
        candidates: count,
        passing,
        ef: query.ef.max(query.limit),
        width: graph.width,
        reads_payload: unsure.is_some(),
    };
    let plan = forced.unwrap_or_else(|| choose(&situation));
    if plan == Plan::Scan {
        return scan(scope, query, &rows, unsure);
    }
    let walk = Walk { graph, rows: view.matrix(query.field), metric: query.metric, query: query.vector };
    let passes = |row: u32| rows.contains(row) && unsure.is_none_or(|filter| judge(scope, filter, row));
    // A walk that runs into a thicket gives up while the scan is still no more than half again as expensive.
    let most = (count / 4).max(4 * situation.ef);
    let (mut found, ended) = pool.with(view.rows() as usize, |visited| match plan {
        Plan::WalkTwoHop => {
            let seeds = seeds(&rows, unsure, scope);
            walk.nearest_two_hop(situation.ef, most, &seeds, passes, visited)
        }
        _ => walk.nearest_passing(situation.ef, most, passes, visited),
    });
    found.truncate(query.limit);
    let short = found.len() < query.limit && (found.len() as f64) < passing;
    if !ended || short {
        return scan(scope, query, &rows, unsure);
    }
    found
}

/// Passing rows spread over the segment, where a two-hop walk starts besides the descent.
fn seeds(rows: &RowSet, unsure: Option<&Filter>, scope: Scope<'_>) -> Vec<u32> {
    let stride = (scope.view.rows() / 8).max(1);
    (0..8)
        .filter_map(|part| rows.iter_from(part * stride).next())
        .filter(|row| unsure.is_none_or(|filter| judge(scope, filter, *row)))
        .collect()
}

/// How many candidates pass, from a sample spread over the rows.
pub fn estimate(scope: Scope<'_>, rows: &RowSet, count: usize, filter: &Filter) -> f64 {
    if count == 0 {
        return 0.0;
    }
    let stride = (scope.view.rows() as usize / SAMPLE).max(1);
    let sample = (0..SAMPLE).filter_map(|part| rows.iter_from((part * stride) as u32).next());
    let (mut passed, mut judged) = (0.5, 1.0);
    for row in sample {
        judged += 1.0;
        passed += f64::from(u8::from(judge(scope, filter, row)));
    }
    count as f64 * passed / judged
}

/// The best `limit` of what was offered.
struct Best {
    found: std::collections::BinaryHeap<Near>,
    limit: usize,
}

impl Best {
    fn beats(&self, distance: f32) -> bool {
        self.found.len() < self.limit || self.found.peek().is_some_and(|worst| distance < worst.distance)
    }

    fn take(&mut self, near: Near) {
        if self.found.len() == self.limit {
            self.found.pop();
        }
        self.found.push(near);
    }
}

/// Compares with every candidate. A row whose filter is unsure is judged only when it is near enough to matter.
fn scan(scope: Scope<'_>, query: &FieldQuery<'_>, rows: &RowSet, unsure: Option<&Filter>) -> Vec<Near> {
    const AHEAD: usize = 8;
    let matrix = scope.view.matrix(query.field);
    let mut best = Best {
        found: std::collections::BinaryHeap::with_capacity(query.limit.min(4096)),
        limit: query.limit,
    };
    let mut offer = |node: u32, distance: f32| {
        if best.beats(distance) && unsure.is_none_or(|filter| judge(scope, filter, node)) {
            best.take(Near { distance, node });
        }
    };
    let mut batch = [0u32; 64];
    let mut iter = rows.iter();
    loop {
        let mut filled = 0;
        for (slot, row) in batch.iter_mut().zip(&mut iter) {
            *slot = row;
            filled += 1;
        }
        if filled == 0 {
            break;
        }
        let (fours, rest) = batch[..filled].as_chunks::<4>();
        for (at, four) in fours.iter().enumerate() {
            if let Some(upcoming) = fours.get(at + AHEAD / 4) {
                for row in upcoming {
                    prefetch(matrix.row(*row));
                }
            }
            let distances = query.metric.distances(query.vector, four.map(|row| matrix.row(row)));
            four.iter().zip(distances).for_each(|(row, distance)| offer(*row, distance));
        }
        for row in rest {
            offer(*row, query.metric.distance(query.vector, matrix.row(*row)));
        }
    }
    best.found.into_sorted_vec()
}
