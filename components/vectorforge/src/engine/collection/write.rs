//! The write side: validate, decide, log, apply, and wait for the disk.

use std::sync::Arc;

use serde_json::Value;

use super::operation::Operation;
use super::state::{PreparedIndexes, State};
use super::{Collection, Inner};
use crate::engine::config::{CollectionConfig, FieldSchema, MAX_FIELD_INDEXES, MAX_PAYLOAD_BYTES};
use crate::engine::error::EngineError;
use crate::engine::json_path::JsonPath;
use crate::engine::point::{Payload, Point, PointId, Vectors};
use crate::engine::query::Selector;
use crate::engine::search::narrow::{candidates, judge};

/// Points applied to the state before waiting searches get their turn.
const POINTS_A_TURN: usize = 64;
/// Deepest nesting of a payload.
const MAX_DEPTH: usize = 100;

impl Collection {
    /// Writes points; existing ones are replaced as a whole. One bad vector refuses the whole batch.
    pub fn upsert(&self, points: Vec<Point>, wait: bool) -> Result<u64, EngineError> {
        let config = self.config();
        for point in &points {
            check_vectors(&config, &point.vectors)?;
            check_payload(&point.payload)?;
        }
        let operation = Operation::Upsert(points);
        let body = operation.encode();
        self.write(wait, |_| Ok((operation, body)))
    }

    /// Replaces the given vector fields of existing points, keeping other fields and the payload. An absent id is an
    /// error and refuses the whole batch.
    pub fn update_vectors(&self, vectors: Vec<(PointId, Vectors)>, wait: bool) -> Result<u64, EngineError> {
        let config = self.config();
        vectors.iter().try_for_each(|(_, vectors)| check_vectors(&config, vectors))?;
        self.write(wait, |state| {
            all_exist(state, vectors.iter().map(|(id, _)| *id))?;
            Ok(encoded(Operation::UpdateVectors(vectors)))
        })
    }

    /// Removes vector fields from points. Explicit ids must exist.
    pub fn delete_vectors(
        &self,
        points: &Selector,
        names: &[String],
        wait: bool,
    ) -> Result<u64, EngineError> {
        let config = self.config();
        if let Some(vector) = names.iter().find(|name| !config.vectors.contains_key(*name)) {
            return Err(EngineError::UnknownVector { vector: vector.clone() });
        }
        self.write(wait, |state| {
            Ok(encoded(Operation::DeleteVectors(select_existing(state, points)?, names.to_vec())))
        })
    }

    /// Deletes points.
    pub fn delete(&self, points: &Selector, wait: bool) -> Result<u64, EngineError> {
        self.write(wait, |state| Ok(encoded(Operation::Delete(select(state, points)))))
    }

    /// Merges `payload` key by key into the payload of points, or into the object at `key` inside it. Explicit ids
    /// must exist.
    pub fn set_payload(
        &self,
        points: &Selector,
        payload: &Payload,
        key: Option<&JsonPath>,
        wait: bool,
    ) -> Result<u64, EngineError> {
        check_payload(payload)?;
        self.write(wait, |state| {
            let ids = select_existing(state, points)?;
            Ok(encoded(Operation::SetPayload(ids, payload.clone(), key.cloned())))
        })
    }

    /// Replaces the whole payload of points. Explicit ids must exist.
    pub fn overwrite_payload(
        &self,
        points: &Selector,
        payload: &Payload,
        wait: bool,
    ) -> Result<u64, EngineError> {
        check_payload(payload)?;
        self.write(wait, |state| {
            let ids = select_existing(state, points)?;
            Ok(encoded(Operation::OverwritePayload(ids, payload.clone())))
        })
    }

    /// Removes keys from the payload of points. Explicit ids must exist.
    pub fn delete_payload(
        &self,
        points: &Selector,
        keys: &[JsonPath],
        wait: bool,
    ) -> Result<u64, EngineError> {
        self.write(wait, |state| {
            let ids = select_existing(state, points)?;
            Ok(encoded(Operation::DeletePayload(ids, keys.to_vec())))
        })
    }

    /// Empties the payload of points. Explicit ids must exist.
    pub fn clear_payload(&self, points: &Selector, wait: bool) -> Result<u64, EngineError> {
        self.write(wait, |state| Ok(encoded(Operation::ClearPayload(select_existing(state, points)?))))
    }

    /// Builds a payload index, or replaces the one on that key; searches use it when this returns.
    pub fn create_field_index(&self, key: &JsonPath, schema: FieldSchema) -> Result<u64, EngineError> {
        let inner = &self.inner;
        // No segment is swapped while its index is built; searches go on.
        let saved = inner.saved.lock();
        let writer = inner.writer.lock();
        let segments: Vec<_> = {
            let state = inner.state.read();
            if !state.schema.contains_key(key) && state.schema.len() >= MAX_FIELD_INDEXES {
                let got = state.schema.len() as u64 + 1;
                return Err(EngineError::Limit {
                    what: "number of payload indexes",
                    got,
                    allowed: "up to 256",
                });
            }
            state.segments.iter().map(|segment| (segment.number, Arc::clone(&segment.base))).collect()
        };
        let operation = Operation::CreateIndex(key.clone(), schema);
        let prepared = PreparedIndexes::of(&segments, key, schema);
        let number = inner.log(&operation.encode())?;
        inner.state.write().apply(number, operation, Some(prepared));
        drop((writer, saved));
        inner.wal.sync_to(&inner.name, number)?;
        Ok(number)
    }

    /// Drops a payload index, if there is one.
    pub fn delete_field_index(&self, key: &JsonPath) -> Result<u64, EngineError> {
        self.write(true, |_| Ok(encoded(Operation::DropIndex(key.clone()))))
    }

    fn write(
        &self,
        wait: bool,
        decide: impl FnOnce(&State) -> Result<(Operation, Vec<u8>), EngineError>,
    ) -> Result<u64, EngineError> {
        let inner = &self.inner;
        let (number, froze) = {
            let _one_writer = inner.writer.lock();
            let (operation, body) = decide(&inner.state.read())?;
            let number = inner.log(&body)?;
            let before = inner.state.read().segments.len();
            inner.apply_in_turns(number, operation);
            (number, inner.state.read().segments.len() > before)
        };
        if froze {
            inner.wake_worker();
        }
        if wait {
            inner.wal.sync_to(&inner.name, number)?;
        }
        Ok(number)
    }
}

impl Inner {
    fn log(&self, body: &[u8]) -> Result<u64, EngineError> {
        if self.is_closed() {
            return Err(EngineError::CollectionNotFound { name: self.name.clone() });
        }
        self.wal.append(&self.name, body)
    }

    /// Applies an operation; a long list of points lets searches in between.
    fn apply_in_turns(&self, number: u64, operation: Operation) {
        let Operation::Upsert(points) = operation else {
            self.state.write().apply(number, operation, None);
            return;
        };
        let mut points = points.into_iter();
        loop {
            let turn: Vec<Point> = points.by_ref().take(POINTS_A_TURN).collect();
            if turn.is_empty() {
                return;
            }
            self.state.write().apply(number, Operation::Upsert(turn), None);
        }
    }
}

fn encoded(operation: Operation) -> (Operation, Vec<u8>) {
    let body = operation.encode();
    (operation, body)
}

/// The points that a selector means now.
fn select(state: &State, points: &Selector) -> Vec<PointId> {
    match points {
        Selector::Ids(ids) => ids.clone(),
        Selector::Filter(filter) => {
            let mut ids = Vec::new();
            for scope in state.scopes() {
                let (rows, exact) = candidates(scope, Some(filter));
                let passing = rows.iter().filter(|row| exact || judge(scope, filter, *row));
                ids.extend(passing.map(|row| scope.view.id(row)));
            }
            ids
        }
    }
}

fn select_existing(state: &State, points: &Selector) -> Result<Vec<PointId>, EngineError> {
    let ids = select(state, points);
    if matches!(points, Selector::Ids(_)) {
        all_exist(state, ids.iter().copied())?;
    }
    Ok(ids)
}

fn all_exist(state: &State, mut ids: impl Iterator<Item = PointId>) -> Result<(), EngineError> {
    match ids.find(|id| state.find(*id).is_none()) {
        Some(id) => Err(EngineError::PointNotFound { id }),
        None => Ok(()),
    }
}

/// Checks names, dimensions and numbers of a point's vectors.
fn check_vectors(config: &CollectionConfig, vectors: &Vectors) -> Result<(), EngineError> {
    for (name, vector) in &vectors.0 {
        let params =
            config.vectors.get(name).ok_or_else(|| EngineError::UnknownVector { vector: name.clone() })?;
        check_vector(name, params.dimension, vector)?;
    }
    Ok(())
}

/// Checks dimension and numbers of one vector.
pub(super) fn check_vector(name: &str, dimension: usize, vector: &[f32]) -> Result<(), EngineError> {
    if vector.len() != dimension {
        return Err(EngineError::WrongDimension {
            vector: name.to_owned(),
            expected: dimension,
            got: vector.len(),
        });
    }
    match vector.iter().position(|component| !component.is_finite()) {
        Some(position) => Err(EngineError::NotFinite { vector: name.to_owned(), position }),
        None => Ok(()),
    }
}

/// Checks size and depth of a payload.
fn check_payload(payload: &Payload) -> Result<(), EngineError> {
    let mut bytes = 0;
    for (key, value) in payload {
        bytes += key.len() + weigh(value, 1)?;
    }
    if bytes > MAX_PAYLOAD_BYTES {
        let got = bytes as u64;
        return Err(EngineError::Limit { what: "payload size in bytes", got, allowed: "up to 16777216" });
    }
    Ok(())
}

/// About the bytes of a value as JSON.
fn weigh(value: &Value, depth: usize) -> Result<usize, EngineError> {
    if depth > MAX_DEPTH {
        return Err(EngineError::Limit { what: "payload depth", got: depth as u64, allowed: "up to 100" });
    }
    match value {
        Value::String(text) => Ok(text.len() + 2),
        Value::Array(items) => items.iter().try_fold(2, |sum, item| Ok(sum + weigh(item, depth + 1)?)),
        Value::Object(map) => {
            map.iter().try_fold(2, |sum, (key, item)| Ok(sum + key.len() + 3 + weigh(item, depth + 1)?))
        }
        _ => Ok(8),
    }
}
