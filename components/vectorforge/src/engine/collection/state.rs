//! The points of a collection in memory, and what each operation does to them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::operation::Operation;
use crate::engine::config::{CollectionConfig, FieldSchema};
use crate::engine::index::frozen::FrozenIndex;
use crate::engine::index::live::LiveIndex;
use crate::engine::json_path::{JsonPath, merge_payload};
use crate::engine::point::{Payload, Point, PointId, Vectors};
use crate::engine::search::narrow::Scope;
use crate::engine::segment::flat::Flat;
use crate::engine::segment::overlay::Overlay;
use crate::engine::segment::view::View;
use crate::engine::segment::{Base, Segment};
use crate::simd::floats;

/// All points, and how they are indexed.
pub struct State {
    /// The configuration in force.
    pub config: CollectionConfig,
    /// Names of the vector fields, in the order segments keep them.
    pub fields: Vec<String>,
    /// Payload indexes.
    pub schema: BTreeMap<JsonPath, FieldSchema>,
    /// Where new points go.
    pub appendable: Flat,
    /// Which of its rows are dead.
    pub appendable_overlay: Overlay,
    /// Counts changes of the appendable segment, so that a checkpoint knows whether to write it.
    pub appendable_changes: u64,
    /// Everything else, oldest first.
    pub segments: Vec<Segment>,
    /// Number for the next segment.
    pub next_segment: u64,
}

/// Where a point lies.
#[derive(Clone, Copy)]
enum Place {
    Appendable(u32),
    Segment(usize, u32),
}

impl State {
    /// A collection without points.
    pub fn new(config: CollectionConfig, schema: BTreeMap<JsonPath, FieldSchema>, next_segment: u64) -> Self {
        Self {
            fields: config.vectors.keys().cloned().collect(),
            appendable: Flat::new(&config, &schema),
            appendable_overlay: Overlay::new(0, &schema),
            appendable_changes: 0,
            segments: Vec::new(),
            next_segment,
            config,
            schema,
        }
    }

    /// Every segment, the appendable one last.
    pub fn views(&self) -> impl Iterator<Item = View<'_>> {
        let appendable = View::of_flat(&self.appendable, &self.appendable_overlay);
        self.segments.iter().map(Segment::view).chain(std::iter::once(appendable))
    }

    /// Every segment with the names of the vector fields.
    pub fn scopes(&self) -> impl Iterator<Item = Scope<'_>> {
        self.views().map(|view| Scope { view, fields: &self.fields })
    }

    /// Living points.
    pub fn living(&self) -> usize {
        self.views().map(|view| view.living()).sum()
    }

    /// The segment and row of a point.
    pub fn find(&self, id: PointId) -> Option<(View<'_>, u32)> {
        self.place(id).map(|place| self.at(place))
    }

    fn place(&self, id: PointId) -> Option<Place> {
        let appendable = View::of_flat(&self.appendable, &self.appendable_overlay);
        if let Some(row) = appendable.find(id) {
            return Some(Place::Appendable(row));
        }
        let mut found = self.segments.iter().enumerate().rev();
        found.find_map(|(index, segment)| segment.view().find(id).map(|row| Place::Segment(index, row)))
    }

    fn at(&self, place: Place) -> (View<'_>, u32) {
        match place {
            Place::Appendable(row) => (View::of_flat(&self.appendable, &self.appendable_overlay), row),
            Place::Segment(index, row) => (self.segments[index].view(), row),
        }
    }

    /// The vectors of a row, all fields.
    pub fn vectors(&self, view: View<'_>, row: u32) -> Vectors {
        let fields = self.config.vectors.iter().enumerate().filter(|(field, _)| view.has_vector(*field, row));
        fields
            .map(|(field, (name, params))| {
                (name.clone(), floats(view.matrix(field).row(row), params.dimension).to_vec())
            })
            .collect()
    }

    /// Carries out an operation that was validated before it was logged. Payload indexes of sealed rows take long to
    /// build: the caller may bring them along.
    pub fn apply(&mut self, number: u64, operation: Operation, prepared: Option<PreparedIndexes>) {
        match operation {
            Operation::Upsert(points) => points.into_iter().for_each(|point| self.upsert(number, point)),
            Operation::Delete(ids) => ids.into_iter().for_each(|id| self.delete(id)),
            Operation::UpdateVectors(updates) => {
                for (id, vectors) in updates {
                    self.rewrite_vectors(number, id, |held| held.0.extend(vectors.0));
                }
            }
            Operation::DeleteVectors(ids, names) => {
                for id in ids {
                    self.rewrite_vectors(number, id, |held| held.0.retain(|name, _| !names.contains(name)));
                }
            }
            Operation::SetPayload(ids, payload, key) => {
                self.rewrite_payloads(number, &ids, |held| match &key {
                    Some(key) => key.merge_into(held, &payload),
                    None => merge_payload(held, &payload),
                });
            }
            Operation::OverwritePayload(ids, payload) => {
                self.rewrite_payloads(number, &ids, |held| held.clone_from(&payload));
            }
            Operation::DeletePayload(ids, keys) => self.rewrite_payloads(number, &ids, |held| {
                for key in &keys {
                    key.remove_from(held);
                }
            }),
            Operation::ClearPayload(ids) => self.rewrite_payloads(number, &ids, Payload::clear),
            Operation::CreateIndex(key, schema) => {
                let prepared = prepared.unwrap_or_else(|| PreparedIndexes::build(self, &key, schema));
                self.create_index(key, schema, prepared);
            }
            Operation::DropIndex(key) => self.drop_index(&key),
        }
    }

    /// Puts back a point of the appendable segment that a checkpoint saved.
    pub fn restore(&mut self, id: PointId, version: u64, vectors: &Vectors, payload: Payload) {
        let row = self.appendable.put(id, version, vectors, Arc::new(payload));
        self.appendable_overlay.deleted.grow(row + 1);
        self.appendable_overlay.outdated.grow(row + 1);
    }

    fn upsert(&mut self, number: u64, point: Point) {
        if let Some(Place::Segment(index, row)) = self.place(point.id) {
            self.segments[index].overlay.delete(row);
        }
        let row = self.appendable.put(point.id, number, &point.vectors, Arc::new(point.payload));
        let overlay = &mut self.appendable_overlay;
        overlay.deleted.grow(row + 1);
        overlay.outdated.grow(row + 1);
        if overlay.deleted.remove(row) {
            overlay.deleted_count -= 1;
        }
        self.appendable_changes += 1;
        if self.appendable.rows() as usize >= self.config.optimizer.seal_points {
            self.freeze();
        }
    }

    /// Puts the appendable segment behind the others and starts a new one.
    pub fn freeze(&mut self) {
        if self.appendable.rows() == 0 {
            return;
        }
        let flat = std::mem::replace(&mut self.appendable, Flat::new(&self.config, &self.schema));
        let mut overlay = std::mem::replace(&mut self.appendable_overlay, Overlay::new(0, &self.schema));
        overlay.dirty = true;
        self.appendable_changes += 1;
        self.segments.push(Segment {
            number: self.next_segment,
            base: Arc::new(Base::Flat(flat)),
            indexes: BTreeMap::new(),
            overlay,
        });
        self.next_segment += 1;
    }

    fn delete(&mut self, id: PointId) {
        match self.place(id) {
            Some(Place::Appendable(row)) => {
                self.appendable.bury(row);
                self.appendable_overlay.delete(row);
                self.appendable_changes += 1;
            }
            Some(Place::Segment(index, row)) => self.segments[index].overlay.delete(row),
            None => {}
        }
    }

    fn rewrite_vectors(&mut self, number: u64, id: PointId, change: impl FnOnce(&mut Vectors)) {
        let Some((view, row)) = self.find(id) else { return };
        let mut vectors = self.vectors(view, row);
        let payload = view.payload(row).into_owned();
        change(&mut vectors);
        self.upsert(number, Point { id, vectors, payload });
    }

    fn rewrite_payloads(&mut self, number: u64, ids: &[PointId], change: impl Fn(&mut Payload)) {
        for id in ids {
            let Some(place) = self.place(*id) else { continue };
            let (view, row) = self.at(place);
            let mut payload = Cow::into_owned(view.payload(row));
            change(&mut payload);
            let payload = Arc::new(payload);
            match place {
                Place::Appendable(row) => {
                    self.appendable.replace_payload(row, number, payload);
                    self.appendable_changes += 1;
                }
                Place::Segment(index, row) => self.segments[index].overlay.change(row, number, payload),
            }
        }
    }

    fn create_index(&mut self, key: JsonPath, schema: FieldSchema, mut prepared: PreparedIndexes) {
        self.appendable.add_index(&key, schema);
        self.appendable_overlay.add_index(&key, schema);
        for segment in &mut self.segments {
            segment.overlay.add_index(&key, schema);
            match prepared.0.remove(&segment.number) {
                Some(Prepared::Frozen(index)) => {
                    segment.indexes.insert(key.clone(), index);
                }
                Some(Prepared::Flat(flat)) => segment.base = flat,
                None => {}
            }
        }
        self.schema.insert(key, schema);
    }

    fn drop_index(&mut self, key: &JsonPath) {
        self.schema.remove(key);
        self.appendable.drop_index(key);
        self.appendable_overlay.indexes.remove(key);
        for segment in &mut self.segments {
            segment.overlay.indexes.remove(key);
            segment.indexes.remove(key);
        }
    }
}

/// An index over the rows of one immutable segment.
enum Prepared {
    Frozen(Arc<FrozenIndex>),
    /// A flat segment with its index added.
    Flat(Arc<Base>),
}

/// Indexes over the rows of all immutable segments, by segment number.
pub struct PreparedIndexes(BTreeMap<u64, Prepared>);

impl PreparedIndexes {
    /// Builds them. Immutable rows do not change meanwhile; what changed above them is indexed by the overlay.
    pub fn build(state: &State, key: &JsonPath, schema: FieldSchema) -> Self {
        let segments = state.segments.iter().map(|segment| (segment.number, Arc::clone(&segment.base)));
        Self::of(&segments.collect::<Vec<_>>(), key, schema)
    }

    /// Puts the index of one sealed segment among its others.
    pub fn add_to(self, indexes: &mut BTreeMap<JsonPath, Arc<FrozenIndex>>, key: &JsonPath) {
        for prepared in self.0.into_values() {
            if let Prepared::Frozen(index) = prepared {
                indexes.insert(key.clone(), index);
            }
        }
    }

    /// Builds them without holding on to the state.
    pub fn of(segments: &[(u64, Arc<Base>)], key: &JsonPath, schema: FieldSchema) -> Self {
        let prepare = |base: &Base| match base {
            Base::Flat(flat) => {
                let mut flat = flat.clone();
                flat.add_index(key, schema);
                Prepared::Flat(Arc::new(Base::Flat(flat)))
            }
            Base::Sealed(sealed) => {
                let mut index = LiveIndex::new(schema);
                for row in 0..sealed.meta().rows {
                    index.insert(key, row, &sealed.payload(row));
                }
                Prepared::Frozen(Arc::new(FrozenIndex::freeze(index, sealed.meta().rows)))
            }
        };
        Self(segments.iter().map(|(number, base)| (*number, prepare(base))).collect())
    }
}
