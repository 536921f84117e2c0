//! Writes from protobuf to the door's operations.

use std::collections::HashMap;

use qdrant_client::qdrant::points_update_operation::Operation as WireOperation;
use qdrant_client::qdrant::{
    PointStruct, PointVectors, PointsSelector, PointsUpdateOperation, UpdateMode as WireMode,
    Value as WireValue, VectorsSelector,
};

use super::filter::selector;
use super::query::no_shard_key;
use super::value::{id, payload, point_vectors};
use crate::engine::{JsonPath, Point, PointId, Vectors};
use crate::qdrant::error::DoorError;
use crate::qdrant::json::points::{UpdateMode, refuse_conditional};
use crate::qdrant::ops::Operation;

/// Points of an upsert.
pub(crate) fn upsert(points: Vec<PointStruct>) -> Result<Operation, DoorError> {
    let points = points.into_iter().map(|point| {
        Ok(Point {
            id: id(point.id)?,
            vectors: point_vectors(point.vectors)?,
            payload: payload(point.payload)?,
        })
    });
    points.collect::<Result<_, DoorError>>().map(Operation::Upsert)
}

/// Conditions on an upsert, none of which is there yet.
pub(crate) fn conditional(filter: bool, mode: Option<i32>) -> Result<(), DoorError> {
    let mode = match mode.map(WireMode::try_from) {
        None => None,
        Some(Ok(WireMode::Upsert)) => Some(UpdateMode::Upsert),
        Some(Ok(WireMode::InsertOnly)) => Some(UpdateMode::InsertOnly),
        Some(Ok(WireMode::UpdateOnly)) => Some(UpdateMode::UpdateOnly),
        Some(Err(unknown)) => return Err(DoorError::input(format!("update mode: {unknown}"))),
    };
    refuse_conditional(filter, mode)
}

/// Sets a payload, or the object at `key` in it.
pub(crate) fn set_payload(
    points: Option<PointsSelector>,
    fields: HashMap<String, WireValue>,
    key: Option<&str>,
) -> Result<Operation, DoorError> {
    let key = key.map(str::parse::<JsonPath>).transpose()?;
    Ok(Operation::SetPayload { points: selector(points)?, payload: payload(fields)?, key })
}

/// Replaces a payload as a whole.
pub(crate) fn overwrite_payload(
    points: Option<PointsSelector>,
    fields: HashMap<String, WireValue>,
    key: Option<&str>,
) -> Result<Operation, DoorError> {
    if key.is_some() {
        return Err(DoorError::input(
            "`key` belongs to setting a payload; overwriting replaces the whole of it",
        ));
    }
    Ok(Operation::OverwritePayload { points: selector(points)?, payload: payload(fields)? })
}

/// Deletes keys of a payload.
pub(crate) fn delete_payload(
    points: Option<PointsSelector>,
    keys: &[String],
) -> Result<Operation, DoorError> {
    let keys = keys.iter().map(|key| Ok(key.parse()?)).collect::<Result<_, DoorError>>()?;
    Ok(Operation::DeletePayload { points: selector(points)?, keys })
}

/// Replaces vectors of points.
pub(crate) fn update_vectors(points: Vec<PointVectors>) -> Result<Operation, DoorError> {
    let pair = |point: PointVectors| -> Result<(PointId, Vectors), DoorError> {
        Ok((id(point.id)?, point_vectors(point.vectors)?))
    };
    points.into_iter().map(pair).collect::<Result<_, _>>().map(Operation::UpdateVectors)
}

/// Removes vectors of points.
pub(crate) fn delete_vectors(
    points: Option<PointsSelector>,
    names: Option<VectorsSelector>,
) -> Result<Operation, DoorError> {
    let names = names.map(|names| names.names).unwrap_or_default();
    Ok(Operation::DeleteVectors { points: selector(points)?, names })
}

/// One operation of a batch.
#[allow(deprecated)]
pub(crate) fn operation(wire: PointsUpdateOperation) -> Result<Operation, DoorError> {
    let Some(operation) = wire.operation else {
        return Err(DoorError::input("an operation of the batch is empty"));
    };
    match operation {
        WireOperation::Upsert(list) => {
            no_shard_key(list.shard_key_selector.as_ref())?;
            conditional(list.update_filter.is_some(), list.update_mode)?;
            upsert(list.points)
        }
        WireOperation::DeleteDeprecated(points) => Ok(Operation::Delete(selector(Some(points))?)),
        WireOperation::DeletePoints(delete) => {
            no_shard_key(delete.shard_key_selector.as_ref())?;
            Ok(Operation::Delete(selector(delete.points)?))
        }
        WireOperation::SetPayload(set) => {
            no_shard_key(set.shard_key_selector.as_ref())?;
            set_payload(set.points_selector, set.payload, set.key.as_deref())
        }
        WireOperation::OverwritePayload(set) => {
            no_shard_key(set.shard_key_selector.as_ref())?;
            overwrite_payload(set.points_selector, set.payload, set.key.as_deref())
        }
        WireOperation::DeletePayload(delete) => {
            no_shard_key(delete.shard_key_selector.as_ref())?;
            delete_payload(delete.points_selector, &delete.keys)
        }
        WireOperation::ClearPayloadDeprecated(points) => Ok(Operation::ClearPayload(selector(Some(points))?)),
        WireOperation::ClearPayload(clear) => {
            no_shard_key(clear.shard_key_selector.as_ref())?;
            Ok(Operation::ClearPayload(selector(clear.points)?))
        }
        WireOperation::UpdateVectors(update) => {
            no_shard_key(update.shard_key_selector.as_ref())?;
            conditional(update.update_filter.is_some(), None)?;
            update_vectors(update.points)
        }
        WireOperation::DeleteVectors(delete) => {
            no_shard_key(delete.shard_key_selector.as_ref())?;
            delete_vectors(delete.points_selector, delete.vectors)
        }
    }
}
