//! A segment file as it is read: rows in order of id, vectors and graph straight from the map.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::file::{Kind, Sections};
use crate::engine::config::{Distance, FieldSchema};
use crate::engine::error::EngineError;
use crate::engine::graph::{GraphView, NONE, Upper};
use crate::engine::index::frozen::FrozenIndex;
use crate::engine::json_path::JsonPath;
use crate::engine::metric::Matrix;
use crate::engine::point::{Payload, PointId};
use crate::engine::row_set::RowSet;
use crate::engine::storage::map::Map;
use crate::simd::{LANE, lanes_of};

/// The description in the segment itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// Rows.
    pub rows: u32,
    /// Rows with numeric ids; they come first.
    pub numeric: u32,
    /// Vector fields in the collection's order.
    pub fields: Vec<FieldMeta>,
    /// Payload indexes, each with its key.
    pub indexes: Vec<(String, FieldSchema)>,
}

/// A vector field of a segment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FieldMeta {
    /// Its name.
    pub name: String,
    /// Its components.
    pub dimension: usize,
    /// Its comparison.
    pub distance: Distance,
    /// Links a node on level 0; 0 without a graph.
    pub graph_width: usize,
}

struct Field {
    lanes: usize,
    vectors: Range<usize>,
    present: Option<RowSet>,
    graph: Option<(Range<usize>, usize, Upper)>,
}

/// The segment.
pub struct Sealed {
    path: PathBuf,
    map: Map,
    meta: Meta,
    numeric: Range<usize>,
    uuids: Range<usize>,
    versions: Range<usize>,
    payload_offsets: Range<usize>,
    payloads: Range<usize>,
    fields: Vec<Field>,
}

/// Indexes read from a segment.
pub type Indexes = BTreeMap<JsonPath, Arc<FrozenIndex>>;

impl Sealed {
    /// Opens a segment file and verifies all of it.
    pub fn open(path: &Path, preload: bool) -> Result<(Self, Indexes), EngineError> {
        let map = Map::open(path, preload)?;
        let bytes = map.bytes();
        let sections = Sections::read(path, bytes)?;
        let fault = |detail: String| EngineError::corrupt(path, detail);
        let find = |kind: Kind, index: usize| {
            sections.find(kind, index).ok_or_else(|| fault(format!("section {kind:?} {index} is missing")))
        };
        let meta: Meta = serde_json::from_slice(&bytes[find(Kind::Meta, 0)?])
            .map_err(|error| fault(format!("its description does not parse: {error}")))?;
        let rows = meta.rows as usize;
        let sized = |kind: Kind, index: usize, length: usize| {
            find(kind, index).and_then(|range| {
                let fits = range.len() == length;
                fits.then_some(range)
                    .ok_or_else(|| fault(format!("section {kind:?} {index} has a wrong length")))
            })
        };
        let mut fields = Vec::new();
        for (index, field) in meta.fields.iter().enumerate() {
            let lanes = lanes_of(field.dimension);
            let vectors = sized(Kind::Vectors, index, rows * lanes * LANE * 4)?;
            let present = match sections.find(Kind::Present, index) {
                None => None,
                Some(range) => {
                    let bitmap = roaring::RoaringBitmap::deserialize_from(&bytes[range])
                        .map_err(|error| fault(format!("a bitmap does not parse: {error}")))?;
                    Some(RowSet::from_roaring(&bitmap, meta.rows))
                }
            };
            let graph = match field.graph_width {
                0 => None,
                width => {
                    let level0 = sized(Kind::GraphLevel0, index, rows * width * 4)?;
                    let links: &[u32] = bytemuck::cast_slice(&bytes[level0.clone()]);
                    if links.iter().any(|link| *link != NONE && *link >= meta.rows) {
                        return Err(fault("a graph link leads nowhere".to_owned()));
                    }
                    let upper = Upper::decode(&bytes[find(Kind::GraphUpper, index)?], meta.rows)
                        .map_err(|malformed| fault(malformed.to_string()))?;
                    Some((level0, width, upper))
                }
            };
            fields.push(Field { lanes, vectors, present, graph });
        }
        let numeric = meta.numeric as usize;
        let (numeric, uuids) = (
            sized(Kind::NumericIds, 0, numeric * 8)?,
            sized(Kind::Uuids, 0, rows.saturating_sub(numeric) * 16)?,
        );
        let versions = sized(Kind::Versions, 0, rows * 8)?;
        let payload_offsets = sized(Kind::PayloadOffsets, 0, (rows + 1) * 8)?;
        let payloads = find(Kind::Payloads, 0)?;
        let offsets: &[u64] = bytemuck::cast_slice(&bytes[payload_offsets.clone()]);
        if !offsets.is_sorted() || offsets.last() != Some(&(payloads.len() as u64)) {
            return Err(fault("payload offsets are out of order".to_owned()));
        }
        let mut indexes = Indexes::new();
        for (position, (key, schema)) in meta.indexes.iter().enumerate() {
            let bytes = &bytes[find(Kind::PayloadIndex, position)?];
            let index = FrozenIndex::decode(*schema, meta.rows, bytes)
                .map_err(|malformed| fault(malformed.to_string()))?;
            indexes.insert(key.parse()?, Arc::new(index));
        }
        let path = path.to_path_buf();
        let sealed = Self { path, map, meta, numeric, uuids, versions, payload_offsets, payloads, fields };
        Ok((sealed, indexes))
    }

    /// The description.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> usize {
        self.map.bytes().len()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn numbers(&self) -> &[u64] {
        bytemuck::cast_slice(&self.map.bytes()[self.numeric.clone()])
    }

    fn uuids(&self) -> &[u128] {
        bytemuck::cast_slice(&self.map.bytes()[self.uuids.clone()])
    }

    /// The id of a row.
    pub fn id(&self, row: u32) -> PointId {
        let numbers = self.numbers();
        match numbers.get(row as usize) {
            Some(number) => PointId::Num(*number),
            None => PointId::Uuid(self.uuids()[row as usize - numbers.len()]),
        }
    }

    /// The row of an id.
    pub fn find(&self, id: PointId) -> Option<u32> {
        let row = self.first_at_or_after(id);
        (row < self.meta.rows && self.id(row) == id).then_some(row)
    }

    /// The first row whose id is not smaller.
    pub fn first_at_or_after(&self, id: PointId) -> u32 {
        match id {
            PointId::Num(number) => self.numbers().partition_point(|held| *held < number) as u32,
            PointId::Uuid(uuid) => {
                self.meta.numeric + self.uuids().partition_point(|held| *held < uuid) as u32
            }
        }
    }

    /// Number of the write that last touched a row.
    pub fn version(&self, row: u32) -> u64 {
        bytemuck::cast_slice::<u8, u64>(&self.map.bytes()[self.versions.clone()])[row as usize]
    }

    /// The payload of a row as JSON; nothing for an empty one.
    pub fn payload_json(&self, row: u32) -> &[u8] {
        let bytes = self.map.bytes();
        let offsets: &[u64] = bytemuck::cast_slice(&bytes[self.payload_offsets.clone()]);
        &bytes[self.payloads.clone()][offsets[row as usize] as usize..offsets[row as usize + 1] as usize]
    }

    /// The payload of a row.
    pub fn payload(&self, row: u32) -> Payload {
        match self.payload_json(row) {
            [] => Payload::new(),
            json => serde_json::from_slice(json).expect("checked when the segment was opened, by checksum"),
        }
    }

    /// All rows of a field.
    pub fn matrix(&self, field: usize) -> Matrix<'_> {
        let field = &self.fields[field];
        Matrix::new(bytemuck::cast_slice(&self.map.bytes()[field.vectors.clone()]), field.lanes)
    }

    /// The rows that have a vector in a field; `None` when all have.
    pub fn present(&self, field: usize) -> Option<&RowSet> {
        self.fields[field].present.as_ref()
    }

    /// The graph of a field.
    pub fn graph(&self, field: usize) -> Option<GraphView<'_>> {
        self.fields[field].graph.as_ref().map(|(level0, width, upper)| GraphView {
            level0: bytemuck::cast_slice(&self.map.bytes()[level0.clone()]),
            width: *width,
            upper,
        })
    }
}
