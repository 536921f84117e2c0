//! What happened to the rows of an immutable segment since it was written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::engine::config::FieldSchema;
use crate::engine::error::EngineError;
use crate::engine::index::frozen::decode_bitmap;
use crate::engine::index::live::LiveIndex;
use crate::engine::json_path::JsonPath;
use crate::engine::point::Payload;
use crate::engine::row_set::RowSet;
use crate::engine::storage::codec::{Malformed, Reader, Writer};
use crate::engine::storage::durable;

const MAGIC: [u8; 8] = *b"VFOVL001";

/// A payload that replaces the one in the segment.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Number of the write that changed it.
    pub version: u64,
    /// The payload in force.
    pub payload: Arc<Payload>,
}

/// Deleted rows and changed payloads.
#[derive(Clone)]
pub struct Overlay {
    /// Rows that are dead.
    pub deleted: RowSet,
    /// Number of dead rows.
    pub deleted_count: usize,
    /// Payloads in force instead of the segment's.
    pub changed: BTreeMap<u32, Changed>,
    /// The rows of `changed`: what an index of the segment says about them is out of date.
    pub outdated: RowSet,
    /// Indexes over `changed`.
    pub indexes: BTreeMap<JsonPath, LiveIndex>,
    /// Whether there are changes since the last checkpoint.
    pub dirty: bool,
}

impl Overlay {
    /// Nothing happened to `rows` rows.
    pub fn new(rows: u32, schema: &BTreeMap<JsonPath, FieldSchema>) -> Self {
        Self {
            deleted: RowSet::empty(rows),
            deleted_count: 0,
            changed: BTreeMap::new(),
            outdated: RowSet::empty(rows),
            indexes: schema.iter().map(|(key, schema)| (key.clone(), LiveIndex::new(*schema))).collect(),
            dirty: false,
        }
    }

    /// Marks a row as dead.
    pub fn delete(&mut self, row: u32) {
        self.deleted_count += usize::from(self.deleted.insert(row));
        self.dirty = true;
        if let Some(old) = self.changed.remove(&row) {
            for (key, index) in &mut self.indexes {
                index.remove(key, row, &old.payload);
            }
        }
    }

    /// Puts a payload above a row's own.
    pub fn change(&mut self, row: u32, version: u64, payload: Arc<Payload>) {
        self.dirty = true;
        self.outdated.insert(row);
        let old = self.changed.remove(&row);
        for (key, index) in &mut self.indexes {
            if let Some(old) = &old {
                index.remove(key, row, &old.payload);
            }
            index.insert(key, row, &payload);
        }
        self.changed.insert(row, Changed { version, payload });
    }

    /// Builds an index over the changed payloads.
    pub fn add_index(&mut self, key: &JsonPath, schema: FieldSchema) {
        let mut index = LiveIndex::new(schema);
        for (row, changed) in &self.changed {
            index.insert(key, *row, &changed.payload);
        }
        self.indexes.insert(key.clone(), index);
    }

    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        self.deleted_count == 0 && self.changed.is_empty()
    }

    /// Saves the overlay. Durable when it returns.
    pub fn save(&self, path: &Path) -> Result<(), EngineError> {
        let mut out = Writer::default();
        let mut deleted = Vec::new();
        self.deleted.to_roaring().serialize_into(&mut deleted).expect("a Vec takes every byte");
        out.u32(self.deleted.universe());
        out.bytes(&deleted);
        out.u32(self.changed.len() as u32);
        for (row, changed) in &self.changed {
            out.u32(*row);
            out.u64(changed.version);
            out.bytes(&serde_json::to_vec(&changed.payload).expect("JSON came from JSON"));
        }
        durable::replace(path, MAGIC, &out.0)
    }

    /// Loads what [`Self::save`] wrote for a segment of `rows` rows.
    pub fn load(
        path: &Path,
        rows: u32,
        schema: &BTreeMap<JsonPath, FieldSchema>,
    ) -> Result<Self, EngineError> {
        let body = durable::read(path, MAGIC)?;
        let mut overlay = Self::new(rows, schema);
        overlay.fill(&body).map_err(|malformed| EngineError::corrupt(path, malformed.to_string()))?;
        overlay.dirty = false;
        Ok(overlay)
    }

    fn fill(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let mut input = Reader(body);
        let rows = input.u32()?;
        if rows != self.deleted.universe() {
            return Err(Malformed("the overlay belongs to another segment"));
        }
        self.deleted = RowSet::from_roaring(&decode_bitmap(&mut input)?, rows);
        self.deleted_count = self.deleted.count();
        for _ in 0..input.u32()? {
            let (row, version) = (input.u32()?, input.u64()?);
            let payload =
                serde_json::from_slice(input.bytes()?).map_err(|_| Malformed("a payload does not parse"))?;
            if row >= rows {
                return Err(Malformed("a changed row lies beyond the segment"));
            }
            self.change(row, version, Arc::new(payload));
        }
        input.finish()
    }
}
