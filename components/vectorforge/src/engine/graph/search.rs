//! Walks over a frozen graph: plain, filtered on the way, and over passing nodes only.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::visited::Visited;
use super::{GraphView, NONE};
use crate::engine::metric::{Matrix, Metric};
use crate::simd::{Lane, prefetch};

/// A node at a distance; ordered by distance, then by node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// Smaller is nearer.
    pub distance: f32,
    /// The node, which is the row.
    pub node: u32,
}

impl Eq for Near {}
impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.node.cmp(&other.node))
    }
}

/// What a walk needs to know besides where it may go.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// The graph.
    pub graph: GraphView<'a>,
    /// The rows it was built over.
    pub rows: Matrix<'a>,
    /// How they are compared.
    pub metric: Metric,
    /// The query, in stored form.
    pub query: &'a [Lane],
}

impl Walk<'_> {
    fn distance(&self, node: u32) -> f32 {
        self.metric.distance(self.query, self.rows.row(node))
    }

    /// Descends the upper levels greedily to a node of level 0.
    fn descend(&self) -> Option<Near> {
        let upper = self.graph.upper;
        if upper.entry == NONE {
            return None;
        }
        let Some(top) = upper.levels.last() else {
            return Some(Near { distance: self.distance(upper.entry), node: upper.entry });
        };
        let mut slot = top.nodes.binary_search(&upper.entry).unwrap_or(0) as u32;
        let mut best = Near { distance: self.distance(upper.entry), node: upper.entry };
        for level in upper.levels.iter().rev() {
            loop {
                let links = &level.links[slot as usize * upper.width..][..upper.width];
                let before = slot;
                for link in links.iter().take_while(|link| **link != NONE) {
                    let node = level.nodes[*link as usize];
                    let distance = self.distance(node);
                    if distance < best.distance {
                        best = Near { distance, node };
                        slot = *link;
                    }
                }
                if slot == before {
                    break;
                }
            }
            slot = level.down[slot as usize];
        }
        Some(best)
    }

    fn links(&self, node: u32) -> &[u32] {
        &self.graph.level0[node as usize * self.graph.width..][..self.graph.width]
    }

    /// Distances of the nodes in `fresh`, four at a time, each given to `found`.
    #[inline]
    fn measure(&self, fresh: &[u32], mut found: impl FnMut(Near)) {
        let (fours, rest) = fresh.as_chunks::<4>();
        for four in fours {
            let distances = self.metric.distances(self.query, four.map(|node| self.rows.row(node)));
            for (node, distance) in four.iter().zip(distances) {
                found(Near { distance, node: *node });
            }
        }
        for node in rest {
            found(Near { distance: self.distance(*node), node: *node });
        }
    }

    /// The links of a node not yet seen, marked as seen and on their way into the cache.
    #[inline]
    fn take_fresh(&self, node: u32, visited: &mut Visited, fresh: &mut Vec<u32>) {
        fresh.clear();
        for link in self.links(node).iter().take_while(|link| **link != NONE) {
            if visited.insert(*link) {
                prefetch(self.rows.row(*link));
                fresh.push(*link);
            }
        }
    }

    /// The `ef` nearest nodes found by walking the whole graph, nearest first.
    pub fn nearest(&self, ef: usize, visited: &mut Visited) -> Vec<Near> {
        let Some(start) = self.descend() else { return Vec::new() };
        visited.insert(start.node);
        let mut pool = Pool::new(ef);
        pool.insert(start);
        let mut fresh = Vec::with_capacity(self.graph.width);
        while let Some(node) = pool.next() {
            if let Some(upcoming) = pool.peek() {
                prefetch(self.links(upcoming));
            }
            self.take_fresh(node, visited, &mut fresh);
            self.measure(&fresh, |near| pool.insert(near));
        }
        pool.into_nearest()
    }

    /// The `ef` nearest nodes that pass, found by walking over all nodes: good where most pass. Stops after `most`
    /// measured distances with what it has, and says whether it ended by itself.
    pub fn nearest_passing(
        &self,
        ef: usize,
        most: usize,
        mut passes: impl FnMut(u32) -> bool,
        visited: &mut Visited,
    ) -> (Vec<Near>, bool) {
        let Some(start) = self.descend() else { return (Vec::new(), true) };
        let mut best = BinaryHeap::with_capacity(ef + 1);
        let mut open = BinaryHeap::new();
        let mut measured = 0;
        visited.insert(start.node);
        open.push(std::cmp::Reverse(start));
        if passes(start.node) {
            best.push(start);
        }
        let mut fresh = Vec::with_capacity(self.graph.width);
        while let Some(std::cmp::Reverse(near)) = open.pop() {
            if best.len() >= ef && best.peek().is_some_and(|worst: &Near| near.distance > worst.distance) {
                break;
            }
            if measured > most {
                return (best.into_sorted_vec(), false);
            }
            self.take_fresh(near.node, visited, &mut fresh);
            measured += fresh.len();
            self.measure(&fresh, |near| {
                if best.len() < ef || best.peek().is_some_and(|worst| near < *worst) {
                    open.push(std::cmp::Reverse(near));
                    if passes(near.node) {
                        best.push(near);
                        if best.len() > ef {
                            best.pop();
                        }
                    }
                }
            });
        }
        (best.into_sorted_vec(), true)
    }

    /// The `ef` nearest nodes that pass, found by walking over passing nodes only, across up to one failing node in
    /// between (ACORN-1: Patel et al. 2024, arXiv 2403.04871): good where a middling fraction passes. `seeds` are
    /// passing nodes to start from besides the descent. Stops after `most` measured distances or 16 times as many
    /// looked-at links, and says whether it ended by itself.
    pub fn nearest_two_hop(
        &self,
        ef: usize,
        most: usize,
        seeds: &[u32],
        mut passes: impl FnMut(u32) -> bool,
        visited: &mut Visited,
    ) -> (Vec<Near>, bool) {
        let Some(start) = self.descend() else { return (Vec::new(), true) };
        let mut pool = Pool::new(ef);
        let mut fresh = Vec::with_capacity(self.graph.width * 8);
        visited.insert(start.node);
        if passes(start.node) {
            pool.insert(start);
        }
        fresh.extend(seeds.iter().filter(|seed| visited.insert(**seed)));
        self.expand_two_hop(start.node, &mut passes, visited, &mut fresh);
        let (mut measured, mut looked) = (0, 0);
        loop {
            measured += fresh.len();
            self.measure(&fresh, |near| pool.insert(near));
            let Some(node) = pool.next() else { return (pool.into_nearest(), true) };
            if measured > most || looked > most.saturating_mul(16) {
                return (pool.into_nearest(), false);
            }
            fresh.clear();
            looked += self.expand_two_hop(node, &mut passes, visited, &mut fresh);
        }
    }

    /// Collects passing nodes not yet seen among the links of `node` and, across failing ones, the links of those.
    fn expand_two_hop(
        &self,
        node: u32,
        passes: &mut impl FnMut(u32) -> bool,
        visited: &mut Visited,
        fresh: &mut Vec<u32>,
    ) -> usize {
        let enough = self.graph.width;
        let mut looked = 0;
        let mut failing = [0u32; 128];
        let mut failures = 0;
        for link in self.links(node).iter().take_while(|link| **link != NONE) {
            looked += 1;
            if passes(*link) {
                if visited.insert(*link) {
                    prefetch(self.rows.row(*link));
                    fresh.push(*link);
                }
            } else if visited.insert(*link) && failures < failing.len() {
                // A failing node is crossed once in a walk: whoever comes first takes what lies behind it.
                prefetch(self.links(*link));
                failing[failures] = *link;
                failures += 1;
            }
        }
        for bridge in &failing[..failures] {
            if fresh.len() >= 2 * enough {
                break;
            }
            for link in self.links(*bridge).iter().take_while(|link| **link != NONE) {
                looked += 1;
                if !visited.contains(*link) && passes(*link) {
                    visited.insert(*link);
                    prefetch(self.rows.row(*link));
                    fresh.push(*link);
                }
            }
        }
        looked
    }
}

/// The best nodes so far in order of distance, each expanded once. One sorted array is faster than two heaps at the
/// sizes used here, because insertions near the end move little.
pub(super) struct Pool {
    entries: Vec<Near>,
    expanded: Vec<bool>,
    capacity: usize,
    cursor: usize,
}

impl Pool {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            entries: Vec::with_capacity(capacity + 1),
            expanded: Vec::with_capacity(capacity + 1),
            capacity,
            cursor: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.expanded.clear();
        self.cursor = 0;
    }

    #[inline]
    pub(super) fn insert(&mut self, near: Near) {
        if self.entries.len() == self.capacity {
            if near >= self.entries[self.capacity - 1] {
                return;
            }
            self.entries.pop();
            self.expanded.pop();
        }
        let at = self.entries.partition_point(|held| *held < near);
        self.entries.insert(at, near);
        self.expanded.insert(at, false);
        self.cursor = self.cursor.min(at);
    }

    /// The nearest node not yet expanded, marked as expanded.
    #[inline]
    pub(super) fn next(&mut self) -> Option<u32> {
        while self.cursor < self.entries.len() {
            let at = self.cursor;
            self.cursor += 1;
            if !self.expanded[at] {
                self.expanded[at] = true;
                return Some(self.entries[at].node);
            }
        }
        None
    }

    /// The node that [`Self::next`] would give if nothing nearer came.
    #[inline]
    fn peek(&self) -> Option<u32> {
        (self.cursor..self.entries.len()).find(|at| !self.expanded[*at]).map(|at| self.entries[at].node)
    }

    pub(super) fn nearest(&self) -> &[Near] {
        &self.entries
    }

    fn into_nearest(self) -> Vec<Near> {
        self.entries
    }
}
