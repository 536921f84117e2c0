//! Navigable graphs over the rows of one vector field (HNSW: Malkov and Yashunin 2016, arXiv 1603.09320).
//!
//! A builder turns rows into a [`Graph`]; a graph is frozen from then on and lives in a segment file. Level 0 is a
//! table of fixed width, so that a node's links are found by one multiplication and lie in whole cache lines. The
//! upper levels hold a sixteenth of the nodes and link by slot, each slot knowing its slot one level down, so that the
//! descent needs no lookup.

pub mod hnswrs;
pub mod native;
pub mod search;
pub mod visited;

use super::config::{BuilderKind, HnswParams};
use super::metric::{Matrix, Metric};
use super::storage::codec::{Malformed, Reader, Writer};

/// An unused link.
pub const NONE: u32 = u32::MAX;

/// Why a graph could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The builder ended without a graph.
    #[error("the {builder} builder failed: {reason}")]
    Failed {
        /// Its name.
        builder: &'static str,
        /// What it said.
        reason: String,
    },
    /// The engine is closing.
    #[error("building was cancelled")]
    Cancelled,
}

/// Builds graphs. Rows that are absent from a field are not passed in: row and node numbers are the same.
pub trait GraphBuilder: Send + Sync {
    /// Builds a graph over all rows with so many threads, starting from an older graph over some of them where there is
    /// one. `cancelled` is asked now and then.
    fn build(
        &self,
        rows: Matrix<'_>,
        metric: Metric,
        params: &HnswParams,
        threads: usize,
        seed: Option<&Seed<'_>>,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Graph, BuildError>;
}

/// An older graph over some of the rows.
#[derive(Clone, Copy)]
pub struct Seed<'a> {
    /// The graph.
    pub graph: GraphView<'a>,
    /// The row that each of its nodes has become; [`NONE`] where it is gone.
    pub moves: &'a [u32],
}

/// The builder of a kind.
pub fn builder(kind: BuilderKind) -> Box<dyn GraphBuilder> {
    match kind {
        BuilderKind::Native => Box::new(native::NativeBuilder),
        BuilderKind::HnswRs => Box::new(hnswrs::HnswRsBuilder),
    }
}

/// A built graph, owned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Links of level 0, `width` a node, unused ones [`NONE`] at the end.
    pub level0: Vec<u32>,
    /// Links a node has on level 0, a multiple of 16.
    pub width: usize,
    /// The levels above.
    pub upper: Upper,
}

/// The levels above 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upper {
    /// The node where a search starts; [`NONE`] in an empty graph.
    pub entry: u32,
    /// Links of a node on each of these levels.
    pub width: usize,
    /// Level 1 first.
    pub levels: Vec<Level>,
}

/// One upper level.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Level {
    /// The node of each slot.
    pub nodes: Vec<u32>,
    /// The slot of the same node one level down (on level 1: the node).
    pub down: Vec<u32>,
    /// Links by slot, unused ones [`NONE`] at the end.
    pub links: Vec<u32>,
}

/// A graph as a search sees it.
#[derive(Clone, Copy)]
pub struct GraphView<'a> {
    /// Links of level 0.
    pub level0: &'a [u32],
    /// Links a node on level 0.
    pub width: usize,
    /// The levels above.
    pub upper: &'a Upper,
}

impl Graph {
    /// The view of this graph.
    pub fn view(&self) -> GraphView<'_> {
        GraphView { level0: &self.level0, width: self.width, upper: &self.upper }
    }

    /// Assembles a graph from the links of each node by level, as builders collect them. `links(node, level)` gives
    /// the links of a node that reaches `level`; `top(node)` its highest level.
    pub fn assemble(
        nodes: usize,
        entry: u32,
        params: &HnswParams,
        top: impl Fn(u32) -> usize,
        mut links: impl FnMut(u32, usize, &mut Vec<u32>),
    ) -> Self {
        let width = (2 * params.m).next_multiple_of(16);
        let mut level0 = vec![NONE; nodes * width];
        let mut buffer = Vec::new();
        for (node, row) in level0.chunks_exact_mut(width).enumerate() {
            buffer.clear();
            links(node as u32, 0, &mut buffer);
            row.iter_mut().zip(&buffer).for_each(|(slot, link)| *slot = *link);
        }
        let mut levels: Vec<Level> = Vec::new();
        let mut below: Vec<u32> = (0..nodes as u32).collect();
        for level in 1.. {
            let slots: Vec<(u32, u32)> = below
                .iter()
                .enumerate()
                .filter(|(_, node)| top(**node) >= level)
                .map(|(slot, node)| (slot as u32, *node))
                .collect();
            if slots.is_empty() {
                break;
            }
            let nodes: Vec<u32> = slots.iter().map(|(_, node)| *node).collect();
            let mut table = vec![NONE; nodes.len() * params.m];
            for (row, node) in table.chunks_exact_mut(params.m).zip(&nodes) {
                buffer.clear();
                links(*node, level, &mut buffer);
                // Nodes ascend, so a node's slot is found by halving.
                let linked = buffer.iter().filter_map(|link| nodes.binary_search(link).ok());
                row.iter_mut().zip(linked).for_each(|(slot, link)| *slot = link as u32);
            }
            levels.push(Level {
                nodes: nodes.clone(),
                down: slots.iter().map(|(slot, _)| *slot).collect(),
                links: table,
            });
            below = nodes;
        }
        Self { level0, width, upper: Upper { entry, width: params.m, levels } }
    }
}

impl Upper {
    /// The upper levels as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.entry);
        out.u32(self.width as u32);
        out.u32(self.levels.len() as u32);
        for level in &self.levels {
            out.u32(level.nodes.len() as u32);
            for value in level.nodes.iter().chain(&level.down).chain(&level.links) {
                out.u32(*value);
            }
        }
        out.0
    }

    /// Reads what [`Self::encode`] wrote, for a graph over `nodes` nodes, and checks that every link leads somewhere.
    pub fn decode(bytes: &[u8], nodes: u32) -> Result<Self, Malformed> {
        let mut input = Reader(bytes);
        let (entry, width, count) = (input.u32()?, input.u32()? as usize, input.u32()?);
        let mut levels: Vec<Level> = Vec::new();
        for _ in 0..count {
            let slots = input.u32()? as usize;
            let mut list = |length: usize| {
                let (quads, _) = input.take(length.saturating_mul(4))?.as_chunks::<4>();
                Ok(quads.iter().map(|quad| u32::from_le_bytes(*quad)).collect::<Vec<u32>>())
            };
            let level =
                Level { nodes: list(slots)?, down: list(slots)?, links: list(slots.saturating_mul(width))? };
            let below = levels.last().map_or(nodes, |level| level.nodes.len() as u32);
            let sound = level.nodes.iter().all(|node| *node < nodes)
                && level.down.iter().all(|slot| *slot < below)
                && level.links.iter().all(|link| *link == NONE || (*link as usize) < slots);
            if !sound {
                return Err(Malformed("a graph link leads nowhere"));
            }
            levels.push(level);
        }
        input.finish()?;
        if entry >= nodes && nodes > 0 {
            return Err(Malformed("the graph's entry leads nowhere"));
        }
        Ok(Self { entry, width, levels })
    }
}
