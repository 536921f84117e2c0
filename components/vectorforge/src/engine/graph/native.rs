//! Our own HNSW builder.
//!
//! All links lie in two flat arrays of atomics, allocated once. Readers take no lock: they may see a link list half
//! replaced, which costs a detour and nothing else. Writers of one node's list exclude one another by a striped lock.
//! Nodes are inserted by several threads in row order; with one thread the graph depends on the rows alone.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};

use super::search::{Near, Pool};
use super::visited::Visited;
use super::{BuildError, Graph, GraphBuilder, NONE, Seed};
use crate::engine::config::HnswParams;
use crate::engine::metric::{Matrix, Metric};
use crate::simd::prefetch;

const STRIPES: usize = 4096;
const MOST_LEVELS: usize = 15;
const CLAIM: usize = 64;

/// See the module.
pub struct NativeBuilder;

impl GraphBuilder for NativeBuilder {
    fn build(
        &self,
        rows: Matrix<'_>,
        metric: Metric,
        params: &HnswParams,
        threads: usize,
        seed: Option<&Seed<'_>>,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Graph, BuildError> {
        let count = rows.rows();
        if count == 0 {
            return Ok(Graph::assemble(0, NONE, params, |_| 0, |_, _, _| {}));
        }
        // Links of another width would not fit the lists.
        let seed = seed.filter(|seed| seed.graph.upper.width == params.m && seed.graph.upper.entry != NONE);
        let (work, pending) = Work::start(rows, metric, *params, seed);
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let insert_claimed = || {
            let mut scratch = Scratch::new(params);
            loop {
                let start = next.fetch_add(CLAIM, Relaxed);
                if start >= pending.len() || stop.load(Relaxed) {
                    return;
                }
                if cancelled() {
                    stop.store(true, Relaxed);
                    return;
                }
                for node in &pending[start..(start + CLAIM).min(pending.len())] {
                    work.insert(*node, &mut scratch);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(insert_claimed);
            }
            insert_claimed();
        });
        if stop.load(Relaxed) { Err(BuildError::Cancelled) } else { Ok(work.freeze()) }
    }
}

/// A graph being built.
struct Work<'a> {
    rows: Matrix<'a>,
    metric: Metric,
    params: HnswParams,
    /// Highest level of each node.
    tops: Vec<u8>,
    level0: Vec<AtomicU32>,
    /// Where a node's upper links begin, in units of `m` links; level l lies at `+ l - 1`.
    upper_at: Vec<u32>,
    upper: Vec<AtomicU32>,
    locks: Vec<Mutex<()>>,
    entry: RwLock<(u32, usize)>,
}

/// What one thread needs again and again.
struct Scratch {
    visited: Visited,
    fresh: Vec<u32>,
    kept: Vec<Near>,
    candidates: Vec<Near>,
    pool: Pool,
}

impl Scratch {
    fn new(params: &HnswParams) -> Self {
        Self {
            visited: Visited::default(),
            fresh: Vec::new(),
            kept: Vec::new(),
            candidates: Vec::new(),
            pool: Pool::new(params.ef_construct),
        }
    }
}

/// The level of a node: geometric with ratio 1/m, from a hash of its number, so that a build can be repeated.
fn level_of(node: u32, m: usize) -> usize {
    let mut hash = u64::from(node).wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let uniform = ((hash >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    ((-uniform.ln() / (m as f64).ln()) as usize).min(MOST_LEVELS)
}

impl<'a> Work<'a> {
    /// A graph that holds what the seed has, or one node, and the nodes that are to be inserted.
    fn start(
        rows: Matrix<'a>,
        metric: Metric,
        params: HnswParams,
        seed: Option<&Seed<'_>>,
    ) -> (Self, Vec<u32>) {
        let count = rows.rows();
        let mut tops: Vec<u8> = (0..count).map(|node| level_of(node as u32, params.m) as u8).collect();
        let Some(seed) = seed else {
            return (Self::new(rows, metric, params, tops), (1..count as u32).collect());
        };
        let mut missing = vec![true; count];
        let alive = |node: u32| Some(seed.moves[node as usize]).filter(|row| *row != NONE);
        for row in (0..seed.moves.len() as u32).filter_map(alive) {
            tops[row as usize] = 0;
            missing[row as usize] = false;
        }
        for (level, nodes) in seed.graph.upper.levels.iter().enumerate() {
            for row in nodes.nodes.iter().filter_map(|node| alive(*node)) {
                tops[row as usize] = level as u8 + 1;
            }
        }
        let work = Self::new(rows, metric, params, tops);
        for (node, links) in seed.graph.level0.chunks_exact(seed.graph.width).enumerate() {
            let Some(row) = alive(node as u32) else { continue };
            let links = links.iter().take_while(|link| **link != NONE);
            let had = links.clone().count();
            work.write_list(row, 0, links.filter_map(|link| alive(*link)));
            // A node that lost most of its neighbours is inserted again.
            missing[row as usize] = work.links(row, 0).count() * 2 < had;
        }
        for (level, slots) in seed.graph.upper.levels.iter().enumerate() {
            for (slot, node) in slots.nodes.iter().enumerate() {
                let links =
                    slots.links[slot * params.m..][..params.m].iter().take_while(|link| **link != NONE);
                if let Some(row) = alive(*node) {
                    work.write_list(
                        row,
                        level + 1,
                        links.filter_map(|link| alive(slots.nodes[*link as usize])),
                    );
                }
            }
        }
        let seeded = (0..seed.moves.len() as u32).filter_map(alive);
        let Some(entry) = seeded.max_by_key(|row| (work.tops[*row as usize], std::cmp::Reverse(*row))) else {
            return Self::start(rows, metric, params, None);
        };
        *work.entry.write() = (entry, usize::from(work.tops[entry as usize]));
        let pending = (0..count as u32).filter(|node| missing[*node as usize] && *node != entry).collect();
        (work, pending)
    }

    /// A graph of one node, the first.
    fn new(rows: Matrix<'a>, metric: Metric, params: HnswParams, tops: Vec<u8>) -> Self {
        let count = rows.rows();
        let mut upper_blocks = 0u32;
        let upper_at = tops
            .iter()
            .map(|top| {
                let at = upper_blocks;
                upper_blocks += u32::from(*top);
                at
            })
            .collect();
        let unused = |length: usize| (0..length).map(|_| AtomicU32::new(NONE)).collect();
        let entry = RwLock::new((0, usize::from(tops[0])));
        Self {
            rows,
            metric,
            params,
            tops,
            level0: unused(count * 2 * params.m),
            upper_at,
            upper: unused(upper_blocks as usize * params.m),
            locks: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            entry,
        }
    }

    #[inline]
    fn list(&self, node: u32, level: usize) -> &[AtomicU32] {
        let m = self.params.m;
        if level == 0 {
            &self.level0[node as usize * 2 * m..][..2 * m]
        } else {
            &self.upper[(self.upper_at[node as usize] as usize + level - 1) * m..][..m]
        }
    }

    fn links(&self, node: u32, level: usize) -> impl Iterator<Item = u32> {
        self.list(node, level).iter().map(|link| link.load(Relaxed)).take_while(|link| *link != NONE)
    }

    fn distance(&self, a: u32, b: u32) -> f32 {
        self.metric.distance(self.rows.row(a), self.rows.row(b))
    }

    fn insert(&self, node: u32, scratch: &mut Scratch) {
        let top = usize::from(self.tops[node as usize]);
        let (entry, entry_top) = *self.entry.read();
        // A node that rises above the entry becomes the entry, once it is linked; others wait for none of this.
        let rising = (top > entry_top).then(|| self.entry.write());
        let (entry, entry_top) = rising.as_deref().copied().unwrap_or((entry, entry_top));
        let mut nearest = Near { distance: self.distance(node, entry), node: entry };
        for level in (top + 1..=entry_top).rev() {
            nearest = self.step_greedily(node, nearest, level);
        }
        for level in (0..=top.min(entry_top)).rev() {
            self.beam(node, nearest, level, scratch);
            scratch.candidates.clear();
            scratch.candidates.extend(scratch.pool.nearest().iter().filter(|near| near.node != node));
            if let Some(first) = scratch.candidates.first() {
                nearest = *first;
            }
            self.select(&scratch.candidates, self.params.m, &mut scratch.kept);
            let chosen = std::mem::take(&mut scratch.kept);
            {
                let _own = self.locks[node as usize % STRIPES].lock();
                self.merge_own_list(node, level, &chosen, scratch);
            }
            for near in &chosen {
                self.link_back(*near, node, level, scratch);
            }
            scratch.kept = chosen;
        }
        if let Some(mut entry) = rising
            && top > entry.1
        {
            *entry = (node, top);
        }
    }

    /// Writes a new node's list; a thread that linked to it meanwhile keeps its link where there is room.
    fn merge_own_list(&self, node: u32, level: usize, chosen: &[Near], scratch: &mut Scratch) {
        scratch.fresh.clear();
        scratch.fresh.extend(chosen.iter().map(|near| near.node));
        let early: Vec<u32> = self.links(node, level).filter(|link| !scratch.fresh.contains(link)).collect();
        scratch.fresh.extend(early);
        self.write_list(node, level, scratch.fresh.iter().copied());
    }

    fn write_list(&self, node: u32, level: usize, links: impl Iterator<Item = u32>) {
        let list = self.list(node, level);
        let mut used = 0;
        for (slot, link) in list.iter().zip(links) {
            slot.store(link, Relaxed);
            used += 1;
        }
        list[used..].iter().for_each(|slot| slot.store(NONE, Relaxed));
    }

    fn step_greedily(&self, node: u32, mut nearest: Near, level: usize) -> Near {
        loop {
            let before = nearest.node;
            for link in self.links(before, level) {
                let distance = self.distance(node, link);
                if distance < nearest.distance {
                    nearest = Near { distance, node: link };
                }
            }
            if nearest.node == before {
                return nearest;
            }
        }
    }

    /// The `ef_construct` nearest nodes of a level, left in the scratch pool.
    fn beam(&self, node: u32, start: Near, level: usize, scratch: &mut Scratch) {
        let query = self.rows.row(node);
        let Scratch { visited, fresh, pool, .. } = scratch;
        visited.start(self.rows.rows());
        visited.insert(start.node);
        pool.clear();
        pool.insert(start);
        while let Some(at) = pool.next() {
            fresh.clear();
            for link in self.links(at, level) {
                if visited.insert(link) {
                    prefetch(self.rows.row(link));
                    fresh.push(link);
                }
            }
            let (fours, rest) = fresh.as_chunks::<4>();
            for four in fours {
                let distances = self.metric.distances(query, four.map(|link| self.rows.row(link)));
                for (link, distance) in four.iter().zip(distances) {
                    pool.insert(Near { distance, node: *link });
                }
            }
            for link in rest {
                pool.insert(Near { distance: self.distance(node, *link), node: *link });
            }
        }
    }

    /// Keeps a candidate when it is nearer to the node than to any candidate kept before it (algorithm 4 of the
    /// paper). `candidates` ascend.
    fn select(&self, candidates: &[Near], most: usize, kept: &mut Vec<Near>) {
        kept.clear();
        for candidate in candidates {
            if kept.len() == most {
                return;
            }
            if self.diverse(*candidate, kept) {
                kept.push(*candidate);
            }
        }
    }

    fn diverse(&self, candidate: Near, kept: &[Near]) -> bool {
        let row = self.rows.row(candidate.node);
        let (fours, rest) = kept.as_chunks::<4>();
        for four in fours {
            let distances = self.metric.distances(row, four.map(|near| self.rows.row(near.node)));
            if distances.iter().any(|distance| *distance <= candidate.distance) {
                return false;
            }
        }
        rest.iter().all(|near| self.distance(candidate.node, near.node) > candidate.distance)
    }

    /// Adds a link from `at` to `node`; a full list is selected anew.
    fn link_back(&self, at: Near, node: u32, level: usize, scratch: &mut Scratch) {
        let _own = self.locks[at.node as usize % STRIPES].lock();
        let list = self.list(at.node, level);
        let mut used = 0;
        for slot in list {
            match slot.load(Relaxed) {
                NONE => {
                    slot.store(node, Relaxed);
                    return;
                }
                link if link == node => return,
                _ => used += 1,
            }
        }
        debug_assert_eq!(used, list.len());
        let row = self.rows.row(at.node);
        let Scratch { fresh, candidates, kept, .. } = scratch;
        fresh.clear();
        fresh.extend(list.iter().map(|slot| slot.load(Relaxed)));
        candidates.clear();
        candidates.push(Near { distance: at.distance, node });
        let (fours, rest) = fresh.as_chunks::<4>();
        for four in fours {
            let distances = self.metric.distances(row, four.map(|link| self.rows.row(link)));
            candidates
                .extend(four.iter().zip(distances).map(|(link, distance)| Near { distance, node: *link }));
        }
        candidates
            .extend(rest.iter().map(|link| Near { distance: self.distance(at.node, *link), node: *link }));
        candidates.sort_unstable();
        self.select(candidates, list.len(), kept);
        self.write_list(at.node, level, kept.iter().map(|near| near.node));
    }

    fn freeze(self) -> Graph {
        let (entry, _) = *self.entry.read();
        Graph::assemble(
            self.rows.rows(),
            entry,
            &self.params,
            |node| usize::from(self.tops[node as usize]),
            |node, level, links| links.extend(self.links(node, level)),
        )
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::engine::config::Distance;
    use crate::engine::graph::search::Walk;
    use crate::simd::{LANE, Lane};

    /// Points near a sheet of six dimensions in a space of more: closer to real data than uniform noise.
    pub fn sheet(count: usize, dimension: usize, kind: Distance, seed: u64) -> Vec<Lane> {
        let mut rng = StdRng::seed_from_u64(99);
        let axes: Vec<Vec<f32>> =
            (0..6).map(|_| (0..dimension).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
        let mut rng = StdRng::seed_from_u64(seed);
        let metric = Metric::new(kind);
        let mut data = Vec::new();
        for _ in 0..count {
            let place: Vec<f32> = axes.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
            let vector: Vec<f32> = (0..dimension)
                .map(|at| {
                    axes.iter().zip(&place).map(|(axis, x)| axis[at] * x).sum::<f32>()
                        + rng.random_range(-0.1..0.1)
                })
                .collect();
            data.extend(metric.row_of(&vector));
        }
        data
    }

    #[test]
    fn recall_is_high_for_every_distance_and_number_of_threads() {
        let params = HnswParams { m: 12, ef_construct: 80, ef_search: 64, full_scan_points: 0 };
        for (kind, threads) in
            [(Distance::Cosine, 1), (Distance::Dot, 2), (Distance::Euclid, 2), (Distance::Manhattan, 1)]
        {
            let data = sheet(3000, 24, kind, 1);
            let queries = sheet(50, 24, kind, 2);
            let rows = Matrix::new(&data, 24usize.div_ceil(LANE));
            let metric = Metric::new(kind);
            let graph = NativeBuilder.build(rows, metric, &params, threads, None, &|| false).expect("built");
            let mut found = 0;
            let mut visited = Visited::default();
            for query in queries.chunks(rows.lanes()) {
                let mut exact: Vec<Near> = (0..3000)
                    .map(|node| Near { distance: metric.distance(query, rows.row(node)), node })
                    .collect();
                exact.sort_unstable();
                visited.start(3000);
                let walk = Walk { graph: graph.view(), rows, metric, query };
                let near = walk.nearest(64, &mut visited);
                assert!(near.is_sorted());
                found += near[..10].iter().filter(|near| exact[..10].contains(near)).count();
            }
            assert!(found >= 480, "{kind:?}: recall {}", found as f64 / 500.0);
        }
    }

    #[test]
    fn building_can_be_cancelled_and_repeated() {
        let data = sheet(500, 8, Distance::Euclid, 3);
        let rows = Matrix::new(&data, 1);
        let (metric, params) = (Metric::new(Distance::Euclid), HnswParams::default());
        assert!(matches!(
            NativeBuilder.build(rows, metric, &params, 2, None, &|| true),
            Err(BuildError::Cancelled)
        ));
        let build = || NativeBuilder.build(rows, metric, &params, 1, None, &|| false).expect("built");
        assert_eq!(build(), build());
    }

    #[test]
    fn a_graph_grows_from_an_older_one() {
        let params = HnswParams { m: 12, ef_construct: 80, ef_search: 64, full_scan_points: 0 };
        let (kind, metric) = (Distance::Euclid, Metric::new(Distance::Euclid));
        let data = sheet(3000, 24, kind, 1);
        let rows = Matrix::new(&data, 2);
        let older = NativeBuilder.build(Matrix::new(&data[..4000], 2), metric, &params, 1, None, &|| false);
        let older = older.expect("built");
        // Every 20th of the 2,000 old rows is gone, the others close ranks; the new rows follow.
        let mut moves = vec![NONE; 2000];
        let mut grown = Vec::new();
        for old in (0..2000u32).filter(|old| old % 20 != 0) {
            moves[old as usize] = (grown.len() / 2) as u32;
            grown.extend_from_slice(rows.row(old));
        }
        grown.extend_from_slice(&data[4000..]);
        let rows = Matrix::new(&grown, 2);
        let seed = Seed { graph: older.view(), moves: &moves };
        let graph = NativeBuilder.build(rows, metric, &params, 2, Some(&seed), &|| false).expect("built");
        let mut visited = Visited::default();
        let mut found = 0;
        for query in sheet(50, 24, kind, 2).chunks(2) {
            let near = |node: u32| Near { distance: metric.distance(query, rows.row(node)), node };
            let mut exact: Vec<Near> = (0..rows.rows() as u32).map(near).collect();
            exact.sort_unstable();
            visited.start(rows.rows());
            let near = Walk { graph: graph.view(), rows, metric, query }.nearest(64, &mut visited);
            found += near[..10].iter().filter(|near| exact[..10].contains(near)).count();
        }
        assert!(found >= 480, "recall {}", found as f64 / 500.0);
    }

    #[test]
    fn equal_points_and_tiny_graphs_work() {
        let metric = Metric::new(Distance::Euclid);
        for count in [0usize, 1, 2, 40] {
            let data = vec![Lane([1.0; LANE]); count];
            let rows = Matrix::new(&data, 1);
            let graph =
                NativeBuilder.build(rows, metric, &HnswParams::default(), 2, None, &|| false).expect("built");
            let mut visited = Visited::default();
            visited.start(count);
            let query = [Lane([0.0; LANE])];
            let near = Walk { graph: graph.view(), rows, metric, query: &query }.nearest(10, &mut visited);
            assert!(near.len() >= count.min(1));
        }
    }
}
