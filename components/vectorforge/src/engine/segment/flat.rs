//! A segment in memory, in order of arrival: takes changes while it is the appendable one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::engine::config::{CollectionConfig, FieldSchema};
use crate::engine::index::live::LiveIndex;
use crate::engine::json_path::JsonPath;
use crate::engine::metric::{Matrix, Metric};
use crate::engine::point::{Payload, PointId, Vectors};
use crate::engine::row_set::RowSet;
use crate::simd::{LANE, Lane, lanes_of};

/// Vectors of one field, a row a point, zeros where a point has none.
#[derive(Clone)]
pub struct FlatField {
    name: String,
    dimension: usize,
    metric: Metric,
    lanes: usize,
    data: Vec<Lane>,
    present: RowSet,
}

/// The segment.
#[derive(Clone)]
pub struct Flat {
    ids: Vec<PointId>,
    versions: Vec<u64>,
    find: HashMap<PointId, u32>,
    fields: Vec<FlatField>,
    payloads: Vec<Arc<Payload>>,
    indexes: BTreeMap<JsonPath, LiveIndex>,
}

impl Flat {
    /// An empty segment for a collection.
    pub fn new(config: &CollectionConfig, schema: &BTreeMap<JsonPath, FieldSchema>) -> Self {
        let fields = config.vectors.iter().map(|(name, params)| FlatField {
            name: name.clone(),
            dimension: params.dimension,
            metric: Metric::new(params.distance),
            lanes: lanes_of(params.dimension),
            data: Vec::new(),
            present: RowSet::default(),
        });
        Self {
            ids: Vec::new(),
            versions: Vec::new(),
            find: HashMap::new(),
            fields: fields.collect(),
            payloads: Vec::new(),
            indexes: schema.iter().map(|(key, schema)| (key.clone(), LiveIndex::new(*schema))).collect(),
        }
    }

    /// Rows, dead ones included.
    pub fn rows(&self) -> u32 {
        self.ids.len() as u32
    }

    /// The id of a row.
    pub fn id(&self, row: u32) -> PointId {
        self.ids[row as usize]
    }

    /// The row of an id, if it was ever written here.
    pub fn find(&self, id: PointId) -> Option<u32> {
        self.find.get(&id).copied()
    }

    /// Number of the write that last touched a row.
    pub fn version(&self, row: u32) -> u64 {
        self.versions[row as usize]
    }

    /// The payload of a row.
    pub fn payload(&self, row: u32) -> &Arc<Payload> {
        &self.payloads[row as usize]
    }

    /// All rows of a field.
    pub fn matrix(&self, field: usize) -> Matrix<'_> {
        Matrix::new(&self.fields[field].data, self.fields[field].lanes)
    }

    /// The rows that have a vector in a field.
    pub fn present(&self, field: usize) -> &RowSet {
        &self.fields[field].present
    }

    /// The indexes.
    pub fn indexes(&self) -> &BTreeMap<JsonPath, LiveIndex> {
        &self.indexes
    }

    /// Appends a point or overwrites the row that its id has here. Returns the row.
    pub fn put(&mut self, id: PointId, version: u64, vectors: &Vectors, payload: Arc<Payload>) -> u32 {
        let row = match self.find(id) {
            Some(row) => {
                self.versions[row as usize] = version;
                self.replace_payload(row, version, payload);
                row
            }
            None => self.append(id, version, payload),
        };
        for field in &mut self.fields {
            field.set(row, vectors.get(&field.name));
        }
        row
    }

    fn append(&mut self, id: PointId, version: u64, payload: Arc<Payload>) -> u32 {
        let row = self.rows();
        self.ids.push(id);
        self.versions.push(version);
        self.find.insert(id, row);
        for (key, index) in &mut self.indexes {
            index.insert(key, row, &payload);
        }
        self.payloads.push(payload);
        for field in &mut self.fields {
            field.data.resize((row as usize + 1) * field.lanes, Lane([0.0; LANE]));
            field.present.grow(row + 1);
        }
        row
    }

    /// Replaces the payload of a row.
    pub fn replace_payload(&mut self, row: u32, version: u64, payload: Arc<Payload>) {
        let old = std::mem::replace(&mut self.payloads[row as usize], payload);
        self.versions[row as usize] = version;
        for (key, index) in &mut self.indexes {
            index.remove(key, row, &old);
            index.insert(key, row, &self.payloads[row as usize]);
        }
    }

    /// Takes a deleted row out of the indexes and drops its payload; the row itself stays, dead.
    pub fn bury(&mut self, row: u32) {
        self.replace_payload(row, self.versions[row as usize], Arc::default());
    }

    /// Builds an index over all rows.
    pub fn add_index(&mut self, key: &JsonPath, schema: FieldSchema) {
        let mut index = LiveIndex::new(schema);
        for (row, payload) in self.payloads.iter().enumerate() {
            index.insert(key, row as u32, payload);
        }
        self.indexes.insert(key.clone(), index);
    }

    /// Drops an index.
    pub fn drop_index(&mut self, key: &JsonPath) {
        self.indexes.remove(key);
    }

    /// Bytes that the vectors take.
    pub fn vector_bytes(&self) -> usize {
        self.fields.iter().map(|field| size_of_val(field.data.as_slice())).sum()
    }
}

impl FlatField {
    fn set(&mut self, row: u32, vector: Option<&[f32]>) {
        let place = &mut self.data[row as usize * self.lanes..][..self.lanes];
        if let Some(vector) = vector {
            debug_assert_eq!(vector.len(), self.dimension);
            self.metric.store(vector, place);
            self.present.insert(row);
        } else {
            place.fill(Lane([0.0; LANE]));
            self.present.remove(row);
        }
    }
}
