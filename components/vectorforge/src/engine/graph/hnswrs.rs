//! The crate `hnsw_rs` as a builder: it inserts, we take its links and freeze them.
//!
//! It asserts that distances are not negative and panics on NaN, so a dot product is turned into a distance from the
//! largest dot product possible among the rows. Its rows are our lanes, so it measures with our kernels.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use hnsw_rs::prelude::{Distance as HnswDistance, Hnsw};

use super::{BuildError, Graph, GraphBuilder, NONE, Seed};
use crate::engine::config::HnswParams;
use crate::engine::metric::{Matrix, Metric};
use crate::simd::Lane;

const MOST_LEVELS: usize = 16;

/// See the module.
pub struct HnswRsBuilder;

/// A metric as `hnsw_rs` wants it: never negative, never NaN.
#[derive(Clone, Copy)]
pub struct ClampedDistance {
    metric: Metric,
    offset: f32,
}

impl ClampedDistance {
    /// The distance for these rows. Dot products lie within plus and minus the largest squared norm.
    pub fn new(rows: Matrix<'_>, metric: Metric) -> Self {
        let largest = (0..rows.rows() as u32)
            .map(|row| -metric.distance(rows.row(row), rows.row(row)))
            .filter(|square| square.is_finite())
            .fold(0.0, f32::max);
        Self { metric, offset: largest }
    }
}

impl HnswDistance<Lane> for ClampedDistance {
    fn eval(&self, a: &[Lane], b: &[Lane]) -> f32 {
        (self.metric.distance(a, b) + self.offset).clamp(0.0, f32::MAX)
    }
}

impl GraphBuilder for HnswRsBuilder {
    fn build(
        &self,
        rows: Matrix<'_>,
        metric: Metric,
        params: &HnswParams,
        threads: usize,
        _: Option<&Seed<'_>>,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Graph, BuildError> {
        let count = rows.rows();
        if count == 0 {
            return Ok(Graph::assemble(0, NONE, params, |_| 0, |_, _, _| {}));
        }
        let distance = ClampedDistance::new(rows, metric);
        let hnsw = Hnsw::new(params.m, count, MOST_LEVELS, params.ef_construct, distance);
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let insert_claimed = || {
            while !stop.load(Relaxed) {
                let row = next.fetch_add(1, Relaxed);
                if row >= count {
                    return;
                }
                if cancelled() {
                    stop.store(true, Relaxed);
                }
                hnsw.insert((rows.row(row as u32), row));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(insert_claimed);
            }
            insert_claimed();
        });
        if stop.load(Relaxed) {
            return Err(BuildError::Cancelled);
        }
        export(&hnsw, count, params)
    }
}

/// Takes the links out of a finished graph.
pub fn export(
    hnsw: &Hnsw<'_, Lane, ClampedDistance>,
    count: usize,
    params: &HnswParams,
) -> Result<Graph, BuildError> {
    let mut links: Vec<Vec<Vec<u32>>> = vec![Vec::new(); count];
    let mut tops = vec![0usize; count];
    for point in hnsw.get_point_indexation() {
        let node = point.get_origin_id();
        let missing =
            || BuildError::Failed { builder: "hnsw_rs", reason: format!("it made up point {node}") };
        *tops.get_mut(node).ok_or_else(missing)? = usize::from(point.get_point_id().0);
        links[node] = point
            .get_neighborhood_id()
            .into_iter()
            .map(|level| level.into_iter().map(|near| near.d_id as u32).collect())
            .collect();
    }
    let entry = (0..count as u32).max_by_key(|node| tops[*node as usize]).unwrap_or(NONE);
    Ok(Graph::assemble(
        count,
        entry,
        params,
        |node| tops[node as usize],
        |node, level, found| found.extend(links[node as usize].get(level).into_iter().flatten()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Distance;
    use crate::engine::graph::search::Walk;
    use crate::engine::graph::visited::Visited;

    #[test]
    fn its_graph_is_found_in_our_form() {
        let metric = Metric::new(Distance::Dot);
        // Negative and positive dot products of many sizes.
        let data: Vec<Lane> = (0..800u16)
            .flat_map(|row| {
                metric.row_of(&[
                    f32::from(row % 37) - 18.0,
                    f32::from(row % 11) - 5.0,
                    f32::from(row) / 100.0,
                ])
            })
            .collect();
        let rows = Matrix::new(&data, 1);
        let params = HnswParams { m: 8, ef_construct: 64, ef_search: 64, full_scan_points: 0 };
        let graph = HnswRsBuilder.build(rows, metric, &params, 2, None, &|| false).expect("built");
        let mut hits = 0;
        let mut visited = Visited::default();
        for query in 0..40 {
            let query = rows.row(query * 20);
            let nearest = (0..800)
                .map(|row| metric.distance(query, rows.row(row)))
                .min_by(f32::total_cmp)
                .expect("800 rows");
            visited.start(800);
            let found = Walk { graph: graph.view(), rows, metric, query }.nearest(64, &mut visited);
            hits += usize::from(found[0].distance <= nearest);
        }
        assert!(hits >= 36, "{hits} of 40");
    }
}
