//! Writing segment files from living rows.

use std::collections::BTreeMap;
use std::path::Path;

use super::file::{FileWriter, Kind};
use super::sealed::{FieldMeta, Meta};
use super::view::View;
use crate::engine::config::{CollectionConfig, FieldSchema};
use crate::engine::error::EngineError;
use crate::engine::graph::{BuildError, GraphBuilder, Seed};
use crate::engine::index::frozen::FrozenIndex;
use crate::engine::index::live::LiveIndex;
use crate::engine::json_path::JsonPath;
use crate::engine::metric::{Matrix, Metric};
use crate::engine::point::PointId;
use crate::engine::row_set::RowSet;
use crate::engine::storage::map::Map;
use crate::simd::lanes_of;

/// How graphs of a new segment are built.
pub struct GraphPlan<'a> {
    /// The builder.
    pub builder: &'a dyn GraphBuilder,
    /// Threads to build with.
    pub threads: usize,
    /// Asked now and then.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

/// Where each row of each source went; `u32::MAX` for dead rows.
pub type Moves = Vec<Vec<u32>>;

/// Living rows of several segments in order of id, each as (source, row).
fn in_order(sources: &[View<'_>]) -> Vec<(u32, u32)> {
    let mut rows: Vec<(PointId, u32, u32)> = Vec::new();
    for (source, view) in sources.iter().enumerate() {
        let living = (0..view.rows()).filter(|row| view.lives(*row));
        rows.extend(living.map(|row| (view.id(row), source as u32, row)));
    }
    rows.sort_unstable();
    rows.into_iter().map(|(_, source, row)| (source, row)).collect()
}

/// Writes the living rows of `sources` into the segment file `path`, with graphs when there is a plan for them.
/// Durable when it returns.
pub fn seal(
    path: &Path,
    config: &CollectionConfig,
    schema: &BTreeMap<JsonPath, FieldSchema>,
    sources: &[View<'_>],
    graphs: Option<&GraphPlan<'_>>,
) -> Result<Moves, SealError> {
    let mut file = FileWriter::create(path)?;
    match write(&mut file, config, schema, sources, graphs) {
        Ok(moves) => {
            file.finish()?;
            Ok(moves)
        }
        Err(error) => {
            file.abandon();
            Err(error)
        }
    }
}

/// Why a segment could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file.
    #[error(transparent)]
    File(#[from] EngineError),
    /// The graph.
    #[error(transparent)]
    Graph(#[from] BuildError),
}

fn write(
    file: &mut FileWriter,
    config: &CollectionConfig,
    schema: &BTreeMap<JsonPath, FieldSchema>,
    sources: &[View<'_>],
    graphs: Option<&GraphPlan<'_>>,
) -> Result<Moves, SealError> {
    let order = in_order(sources);
    let view = |source: u32| sources[source as usize];
    let mut moves: Moves = sources.iter().map(|view| vec![u32::MAX; view.rows() as usize]).collect();
    for (new, (source, row)) in order.iter().enumerate() {
        moves[*source as usize][*row as usize] = new as u32;
    }
    let (mut numeric, mut uuids, mut versions) = (Vec::new(), Vec::new(), Vec::new());
    for (source, row) in &order {
        match view(*source).id(*row) {
            PointId::Num(number) => numeric.extend_from_slice(&number.to_le_bytes()),
            PointId::Uuid(uuid) => uuids.extend_from_slice(&uuid.to_le_bytes()),
        }
        versions.extend_from_slice(&view(*source).version(*row).to_le_bytes());
    }
    file.section(Kind::NumericIds, 0, &numeric)?;
    file.section(Kind::Uuids, 0, &uuids)?;
    file.section(Kind::Versions, 0, &versions)?;
    write_payloads(file, sources, &order)?;
    write_indexes(file, schema, sources, &order)?;
    let mut meta = Meta {
        rows: order.len() as u32,
        numeric: (numeric.len() / 8) as u32,
        fields: Vec::new(),
        indexes: schema.iter().map(|(key, schema)| (key.to_string(), *schema)).collect(),
    };
    for (index, (name, params)) in config.vectors.iter().enumerate() {
        let mut present = RowSet::empty(meta.rows);
        file.begin(Kind::Vectors, index);
        for (new, (source, row)) in order.iter().enumerate() {
            file.write(bytemuck::cast_slice(view(*source).matrix(index).row(*row)))?;
            if view(*source).has_vector(index, *row) {
                present.insert(new as u32);
            }
        }
        let vectors = file.end()?;
        let with_vector = present.count();
        if with_vector < order.len() {
            let mut bytes = Vec::new();
            present.to_roaring().serialize_into(&mut bytes).expect("a Vec takes every byte");
            file.section(Kind::Present, index, &bytes)?;
        }
        let hnsw = config.hnsw_of(name);
        let mut field = FieldMeta {
            name: name.clone(),
            dimension: params.dimension,
            distance: params.distance,
            graph_width: 0,
        };
        // A field that most rows lack is scanned: its graph would consist of zeros.
        if let Some(plan) = graphs
            && with_vector >= hnsw.full_scan_points.max(1)
            && with_vector * 2 >= order.len()
        {
            file.flush()?;
            let map = Map::open(file.aside(), false)?;
            let rows = Matrix::new(bytemuck::cast_slice(&map.bytes()[vectors]), lanes_of(params.dimension));
            let metric = Metric::new(params.distance);
            let seed = seed(sources, &moves, index, order.len());
            let graph =
                plan.builder.build(rows, metric, &hnsw, plan.threads, seed.as_ref(), plan.cancelled)?;
            file.section(Kind::GraphLevel0, index, bytemuck::cast_slice(&graph.level0))?;
            file.section(Kind::GraphUpper, index, &graph.upper.encode())?;
            field.graph_width = graph.width;
        }
        meta.fields.push(field);
    }
    let meta = serde_json::to_vec(&meta).expect("plain data");
    file.section(Kind::Meta, 0, &meta)?;
    Ok(moves)
}

/// The graph of the source that brings most of the rows, if that is worth starting from: few of its rows dead, and at
/// least a third of all rows its own.
fn seed<'a>(sources: &[View<'a>], moves: &'a Moves, field: usize, rows: usize) -> Option<Seed<'a>> {
    let (source, moves) = sources.iter().zip(moves).max_by_key(|(view, _)| view.living())?;
    let graph = source.graph(field)?;
    let worth = source.living() * 3 >= rows && source.living() * 10 >= source.rows() as usize * 9;
    worth.then_some(Seed { graph, moves })
}

fn write_payloads(
    file: &mut FileWriter,
    sources: &[View<'_>],
    order: &[(u32, u32)],
) -> Result<(), EngineError> {
    let mut offsets = Vec::with_capacity((order.len() + 1) * 8);
    let mut at = 0u64;
    offsets.extend_from_slice(&at.to_le_bytes());
    file.begin(Kind::Payloads, 0);
    for (source, row) in order {
        let json = sources[*source as usize].payload_json(*row);
        file.write(&json)?;
        at += json.len() as u64;
        offsets.extend_from_slice(&at.to_le_bytes());
    }
    file.end()?;
    file.section(Kind::PayloadOffsets, 0, &offsets)?;
    Ok(())
}

fn write_indexes(
    file: &mut FileWriter,
    schema: &BTreeMap<JsonPath, FieldSchema>,
    sources: &[View<'_>],
    order: &[(u32, u32)],
) -> Result<(), EngineError> {
    if schema.is_empty() {
        return Ok(());
    }
    let mut indexes: Vec<(&JsonPath, LiveIndex)> =
        schema.iter().map(|(key, schema)| (key, LiveIndex::new(*schema))).collect();
    for (new, (source, row)) in order.iter().enumerate() {
        let payload = sources[*source as usize].payload(*row);
        for (key, index) in &mut indexes {
            index.insert(key, new as u32, &payload);
        }
    }
    for (position, (_, index)) in indexes.into_iter().enumerate() {
        let frozen = FrozenIndex::freeze(index, order.len() as u32);
        file.section(Kind::PayloadIndex, position, &frozen.encode())?;
    }
    Ok(())
}
