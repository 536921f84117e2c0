//! A segment as a reader sees it: its rows with the overlay applied.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::flat::Flat;
use super::overlay::Overlay;
use super::sealed::Sealed;
use crate::engine::config::FieldSchema;
use crate::engine::filter::Predicate;
use crate::engine::graph::GraphView;
use crate::engine::index::frozen::FrozenIndex;
use crate::engine::index::{Answer, Lookup, answer};
use crate::engine::json_path::JsonPath;
use crate::engine::metric::Matrix;
use crate::engine::point::{Payload, PointId};
use crate::engine::row_set::RowSet;

/// A segment, appendable or not.
#[derive(Clone, Copy)]
pub struct View<'a> {
    rows: Rows<'a>,
    overlay: &'a Overlay,
}

#[derive(Clone, Copy)]
enum Rows<'a> {
    Flat(&'a Flat),
    Sealed(&'a Sealed, &'a BTreeMap<JsonPath, Arc<FrozenIndex>>),
}

impl<'a> View<'a> {
    /// A segment in memory.
    pub fn of_flat(flat: &'a Flat, overlay: &'a Overlay) -> Self {
        Self { rows: Rows::Flat(flat), overlay }
    }

    /// A segment file.
    pub fn of_sealed(
        sealed: &'a Sealed,
        indexes: &'a BTreeMap<JsonPath, Arc<FrozenIndex>>,
        overlay: &'a Overlay,
    ) -> Self {
        Self { rows: Rows::Sealed(sealed, indexes), overlay }
    }

    /// Rows, dead ones included.
    pub fn rows(&self) -> u32 {
        match self.rows {
            Rows::Flat(flat) => flat.rows(),
            Rows::Sealed(sealed, _) => sealed.meta().rows,
        }
    }

    /// Rows that are alive.
    pub fn living(&self) -> usize {
        self.rows() as usize - self.overlay.deleted_count
    }

    /// Dead rows.
    pub fn deleted(&self) -> &'a RowSet {
        &self.overlay.deleted
    }

    /// Whether any row is dead.
    pub fn has_deleted(&self) -> bool {
        self.overlay.deleted_count > 0
    }

    /// Whether a row is alive.
    pub fn lives(&self, row: u32) -> bool {
        !self.overlay.deleted.contains(row)
    }

    /// The id of a row.
    pub fn id(&self, row: u32) -> PointId {
        match self.rows {
            Rows::Flat(flat) => flat.id(row),
            Rows::Sealed(sealed, _) => sealed.id(row),
        }
    }

    /// The living row of an id.
    pub fn find(&self, id: PointId) -> Option<u32> {
        let row = match self.rows {
            Rows::Flat(flat) => flat.find(id),
            Rows::Sealed(sealed, _) => sealed.find(id),
        }?;
        self.lives(row).then_some(row)
    }

    /// Number of the write that last touched a row.
    pub fn version(&self, row: u32) -> u64 {
        match (self.rows, self.overlay.changed.get(&row)) {
            (_, Some(changed)) => changed.version,
            (Rows::Flat(flat), None) => flat.version(row),
            (Rows::Sealed(sealed, _), None) => sealed.version(row),
        }
    }

    /// The payload of a row.
    pub fn payload(&self, row: u32) -> Cow<'a, Payload> {
        match (self.rows, self.overlay.changed.get(&row)) {
            (_, Some(changed)) => Cow::Borrowed(&*changed.payload),
            (Rows::Flat(flat), None) => Cow::Borrowed(&**flat.payload(row)),
            (Rows::Sealed(sealed, _), None) => Cow::Owned(sealed.payload(row)),
        }
    }

    /// The payload of a row as JSON; may be nothing for an empty one.
    pub fn payload_json(&self, row: u32) -> Cow<'a, [u8]> {
        let encode = |payload: &Payload| {
            if payload.is_empty() {
                return Vec::new();
            }
            serde_json::to_vec(payload).expect("JSON came from JSON")
        };
        match (self.rows, self.overlay.changed.get(&row)) {
            (_, Some(changed)) => Cow::Owned(encode(&changed.payload)),
            (Rows::Flat(flat), None) => Cow::Owned(encode(flat.payload(row))),
            (Rows::Sealed(sealed, _), None) => Cow::Borrowed(sealed.payload_json(row)),
        }
    }

    /// All rows of a vector field; rows without a vector are zeros.
    pub fn matrix(&self, field: usize) -> Matrix<'a> {
        match self.rows {
            Rows::Flat(flat) => flat.matrix(field),
            Rows::Sealed(sealed, _) => sealed.matrix(field),
        }
    }

    /// The rows that have a vector in a field; `None` when all have.
    pub fn present(&self, field: usize) -> Option<&'a RowSet> {
        match self.rows {
            Rows::Flat(flat) => Some(flat.present(field)),
            Rows::Sealed(sealed, _) => sealed.present(field),
        }
    }

    /// Whether a row has a vector in a field.
    pub fn has_vector(&self, field: usize, row: u32) -> bool {
        self.present(field).is_none_or(|present| present.contains(row))
    }

    /// The graph of a field.
    pub fn graph(&self, field: usize) -> Option<GraphView<'a>> {
        match self.rows {
            Rows::Flat(_) => None,
            Rows::Sealed(sealed, _) => sealed.graph(field),
        }
    }

    /// The schema of the index on a key.
    pub fn schema(&self, key: &JsonPath) -> Option<FieldSchema> {
        self.overlay.indexes.get(key).map(Lookup::schema)
    }

    /// The rows whose overlay payload is in force.
    pub fn outdated(&self) -> &'a RowSet {
        &self.overlay.outdated
    }

    /// The index over the rows themselves, and the one over changed payloads.
    pub fn index(&self, key: &JsonPath) -> Option<(&'a dyn Lookup, &'a dyn Lookup)> {
        let above = self.overlay.indexes.get(key)?;
        let below: &dyn Lookup = match self.rows {
            Rows::Flat(flat) => flat.indexes().get(key)?,
            Rows::Sealed(_, indexes) => &**indexes.get(key)?,
        };
        Some((below, above))
    }

    /// The rows that can pass a predicate, by index; dead rows may be among them.
    pub fn answer(&self, key: &JsonPath, predicate: &Predicate) -> Option<Answer> {
        let (below, above) = self.index(key)?;
        let mut found = answer(below, predicate, self.rows())?;
        if !self.overlay.changed.is_empty() {
            let changed = answer(above, predicate, self.rows())?;
            found.rows.subtract(&self.overlay.outdated);
            found.rows.union(&changed.rows);
            found.exact &= changed.exact;
        }
        Some(found)
    }

    /// Living rows in order of id, from `first` on.
    pub fn in_id_order(&self, first: Option<PointId>) -> Box<dyn Iterator<Item = u32> + 'a> {
        let view = *self;
        match self.rows {
            Rows::Flat(flat) => {
                let mut rows: Vec<u32> = (0..flat.rows())
                    .filter(|row| view.lives(*row) && first.is_none_or(|first| flat.id(*row) >= first))
                    .collect();
                rows.sort_unstable_by_key(|row| flat.id(*row));
                Box::new(rows.into_iter())
            }
            Rows::Sealed(sealed, _) => {
                let start = first.map_or(0, |first| sealed.first_at_or_after(first));
                Box::new((start..sealed.meta().rows).filter(move |row| view.lives(*row)))
            }
        }
    }
}
