//! One collection: what a door may ask of it.

use super::config::{CollectionConfig, ConfigChange, FieldSchema};
use super::error::EngineError;
use super::filter::Filter;
use super::json_path::JsonPath;
use super::point::{Payload, Point, PointId, Record, ScoredPoint, Vectors};
use super::query::{CollectionInfo, Query, Scroll, ScrollPage, Selector, With};

/// A collection of points. Cheap to share; all methods take `&self`.
///
/// Every write returns its operation number. With `wait` it is on disk when the call returns; without, it is visible
/// at once and on disk with the next group commit.
pub struct Collection {}

fn absent<T>(what: &str) -> Result<T, EngineError> {
    Err(EngineError::Unsupported { what: what.to_owned() })
}

impl Collection {
    /// The name it was created with.
    pub fn name(&self) -> &str {
        ""
    }

    /// The configuration in force.
    pub fn config(&self) -> CollectionConfig {
        CollectionConfig::unnamed(1, super::Distance::Dot)
    }

    /// Writes points; existing ones are replaced as a whole. One bad vector refuses the whole batch.
    pub fn upsert(&self, _points: Vec<Point>, _wait: bool) -> Result<u64, EngineError> {
        absent("upsert")
    }

    /// Replaces the given vector fields of existing points, keeping other fields and the payload. An absent id is an
    /// error and refuses the whole batch.
    pub fn update_vectors(&self, _vectors: Vec<(PointId, Vectors)>, _wait: bool) -> Result<u64, EngineError> {
        absent("update_vectors")
    }

    /// Removes vector fields from points.
    pub fn delete_vectors(&self, _points: &Selector, _names: &[String], _wait: bool) -> Result<u64, EngineError> {
        absent("delete_vectors")
    }

    /// Deletes points.
    pub fn delete(&self, _points: &Selector, _wait: bool) -> Result<u64, EngineError> {
        absent("delete")
    }

    /// Merges `payload` key by key into the payload of points, or into the object at `key` inside it. Explicit ids
    /// must exist.
    pub fn set_payload(
        &self,
        _points: &Selector,
        _payload: &Payload,
        _key: Option<&JsonPath>,
        _wait: bool,
    ) -> Result<u64, EngineError> {
        absent("set_payload")
    }

    /// Replaces the whole payload of points.
    pub fn overwrite_payload(&self, _points: &Selector, _payload: &Payload, _wait: bool) -> Result<u64, EngineError> {
        absent("overwrite_payload")
    }

    /// Removes keys from the payload of points.
    pub fn delete_payload(&self, _points: &Selector, _keys: &[JsonPath], _wait: bool) -> Result<u64, EngineError> {
        absent("delete_payload")
    }

    /// Empties the payload of points.
    pub fn clear_payload(&self, _points: &Selector, _wait: bool) -> Result<u64, EngineError> {
        absent("clear_payload")
    }

    /// Builds a payload index, or replaces the one on that key; searches use it when this returns.
    pub fn create_field_index(&self, _key: &JsonPath, _schema: FieldSchema) -> Result<u64, EngineError> {
        absent("create_field_index")
    }

    /// Drops a payload index, if there is one.
    pub fn delete_field_index(&self, _key: &JsonPath) -> Result<u64, EngineError> {
        absent("delete_field_index")
    }

    /// The points of these ids that exist, in the order asked for.
    pub fn get(&self, _ids: &[PointId], _with: &With) -> Result<Vec<Record>, EngineError> {
        absent("get")
    }

    /// A page of points in id order, or in the order of a payload value.
    pub fn scroll(&self, _scroll: &Scroll) -> Result<ScrollPage, EngineError> {
        absent("scroll")
    }

    /// How many points pass; an estimate unless `exact`.
    pub fn count(&self, _filter: Option<&Filter>, _exact: bool) -> Result<usize, EngineError> {
        absent("count")
    }

    /// The nearest points, best first. A limit of 0 gives none.
    pub fn search(&self, _query: &Query) -> Result<Vec<ScoredPoint>, EngineError> {
        absent("search")
    }

    /// Several searches at one state of the collection; the first error refuses the batch.
    pub fn search_batch(&self, _queries: &[Query]) -> Result<Vec<Vec<ScoredPoint>>, EngineError> {
        absent("search_batch")
    }

    /// Values of a payload key (strings, integers, booleans) with the number of passing points that have each, most
    /// frequent first.
    pub fn facet(
        &self,
        _key: &JsonPath,
        _filter: Option<&Filter>,
        _limit: usize,
    ) -> Result<Vec<(super::MatchValue, usize)>, EngineError> {
        absent("facet")
    }

    /// State, counts, schema.
    pub fn info(&self) -> CollectionInfo {
        unreachable!()
    }

    /// Changes the configuration; on disk when this returns.
    pub fn update_config(&self, _change: ConfigChange) -> Result<(), EngineError> {
        absent("update_config")
    }

    /// Waits until every write so far is on disk.
    pub fn flush(&self) -> Result<(), EngineError> {
        absent("flush")
    }

    /// Takes a checkpoint: the state goes to segment files and the log is cut. Makes the next start fast.
    pub fn checkpoint(&self) -> Result<(), EngineError> {
        absent("checkpoint")
    }

    /// Seals and merges until nothing is left to optimise. For tests, benchmarks and bulk loads.
    pub fn optimize_now(&self) -> Result<(), EngineError> {
        absent("optimize_now")
    }
}
