//! Requests about points: upsert, read, payload changes, batches of updates.

use serde::Deserialize;

use super::filter::FilterJson;
use super::id::Id;
use super::select::{NoShardKey, PayloadChoice, SelectorJson, VectorChoice, selector};
use super::vector::{BatchVectors, Dense, PointVectors};
use crate::engine::{Payload, Point, Selector, UNNAMED, Vectors};
use crate::qdrant::error::DoorError;

/// A point to upsert.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointJson {
    id: Id,
    vector: PointVectors,
    payload: Option<Payload>,
}

/// Points by columns.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchJson {
    ids: Vec<Id>,
    vectors: BatchVectors,
    payloads: Option<Vec<Option<Payload>>>,
}

/// `{"points": […]}` or `{"batch": {…}}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpsertJson {
    points: Option<Vec<PointJson>>,
    batch: Option<BatchJson>,
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
    update_filter: Option<FilterJson>,
    update_mode: Option<UpdateMode>,
}

/// Whether an upsert may create or replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UpdateMode {
    Upsert,
    InsertOnly,
    UpdateOnly,
}

impl UpsertJson {
    /// The points in rows, whichever form they came in.
    pub(crate) fn points(self) -> Result<Vec<Point>, DoorError> {
        refuse_conditional(self.update_filter.is_some(), self.update_mode)?;
        match (self.points, self.batch) {
            (Some(points), None) => Ok(points
                .into_iter()
                .map(|point| Point {
                    id: point.id.0,
                    vectors: point.vector.0,
                    payload: point.payload.unwrap_or_default(),
                })
                .collect()),
            (None, Some(batch)) => batch.points(),
            (None, None) => Err(DoorError::Format("missing field `points` (or `batch`)".to_owned())),
            (Some(_), Some(_)) => {
                Err(DoorError::Format("`points` and `batch` exclude each other".to_owned()))
            }
        }
    }
}

/// Conditional updates are not there yet; saying so is better than an unconditional one.
pub(crate) fn refuse_conditional(filter: bool, mode: Option<UpdateMode>) -> Result<(), DoorError> {
    if filter {
        return Err(DoorError::unsupported("`update_filter`"));
    }
    match mode {
        None | Some(UpdateMode::Upsert) => Ok(()),
        Some(UpdateMode::InsertOnly) => Err(DoorError::unsupported("update mode `insert_only`")),
        Some(UpdateMode::UpdateOnly) => Err(DoorError::unsupported("update mode `update_only`")),
    }
}

impl BatchJson {
    fn points(self) -> Result<Vec<Point>, DoorError> {
        let count = self.ids.len();
        let fits = |what: &str, length: usize| {
            if length == count {
                Ok(())
            } else {
                Err(DoorError::input(format!(
                    "batch: {length} {what} for {count} ids; there must be one for each id"
                )))
            }
        };
        let mut rows = vec![Vectors::default(); count];
        let mut fill = |name: &str, column: Vec<Dense>| {
            fits(if name.is_empty() { "vectors" } else { name }, column.len())?;
            for (row, vector) in rows.iter_mut().zip(column) {
                row.0.insert(name.to_owned(), vector.0);
            }
            Ok::<(), DoorError>(())
        };
        match self.vectors {
            BatchVectors::Unnamed(column) => fill(UNNAMED, column)?,
            BatchVectors::Named(columns) => {
                columns.into_iter().try_for_each(|(name, column)| fill(&name, column))?;
            }
        }
        let payloads = match self.payloads {
            None => vec![None; count],
            Some(payloads) => {
                fits("payloads", payloads.len())?;
                payloads
            }
        };
        let points = self.ids.into_iter().zip(rows).zip(payloads).map(|((id, vectors), payload)| Point {
            id: id.0,
            vectors,
            payload: payload.unwrap_or_default(),
        });
        Ok(points.collect())
    }
}

/// Reads points by id.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GetJson {
    pub(crate) ids: Vec<Id>,
    pub(crate) with_payload: Option<PayloadChoice>,
    pub(crate) with_vector: Option<VectorChoice>,
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
}

/// Counts points.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CountJson {
    #[serde(default)]
    pub(crate) filter: Option<FilterJson>,
    #[serde(default)]
    pub(crate) exact: Option<bool>,
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
}

/// `set` and `overwrite` of payloads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetPayloadJson {
    pub(crate) payload: Payload,
    points: Option<Vec<Id>>,
    filter: Option<FilterJson>,
    pub(crate) key: Option<String>,
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
}

impl SetPayloadJson {
    pub(crate) fn selector(&mut self) -> Result<Selector, DoorError> {
        selector(self.points.take(), self.filter.take())
    }
}

/// Deletes keys of payloads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeletePayloadJson {
    pub(crate) keys: Vec<String>,
    points: Option<Vec<Id>>,
    filter: Option<FilterJson>,
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
}

impl DeletePayloadJson {
    pub(crate) fn selector(&mut self) -> Result<Selector, DoorError> {
        selector(self.points.take(), self.filter.take())
    }
}

/// New vectors for one point.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointVectorsJson {
    pub(crate) id: Id,
    pub(crate) vector: PointVectors,
}

/// New vectors for points.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateVectorsJson {
    pub(crate) points: Vec<PointVectorsJson>,
    pub(crate) update_filter: Option<FilterJson>,
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
}

/// Deletes vectors of points by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteVectorsJson {
    points: Option<Vec<Id>>,
    filter: Option<FilterJson>,
    pub(crate) vector: Vec<String>,
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
}

impl DeleteVectorsJson {
    pub(crate) fn selector(&mut self) -> Result<Selector, DoorError> {
        selector(self.points.take(), self.filter.take())
    }
}

/// One operation of an update batch: an object with exactly one of these fields.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OperationJson {
    Upsert(UpsertJson),
    Delete(SelectorJson),
    SetPayload(SetPayloadJson),
    OverwritePayload(SetPayloadJson),
    DeletePayload(DeletePayloadJson),
    ClearPayload(SelectorJson),
    UpdateVectors(UpdateVectorsJson),
    DeleteVectors(DeleteVectorsJson),
}

/// A batch of updates, applied in order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateBatchJson {
    pub(crate) operations: Vec<OperationJson>,
}
