//! Points: writes, and reads by id.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;

use super::extract::{JsonBody, Params, ReadParams, UrlPath, WriteParams};
use crate::engine::{JsonPath, PointId, With, WithPayload, WithVectors};
use crate::qdrant::error::DoorError;
use crate::qdrant::json::answer::{Answer, RecordJson, UpdateJson};
use crate::qdrant::json::id::engine_ids;
use crate::qdrant::json::points::{
    DeletePayloadJson, DeleteVectorsJson, GetJson, OperationJson, SetPayloadJson, UpdateBatchJson,
    UpdateVectorsJson, UpsertJson, refuse_conditional,
};
use crate::qdrant::json::select::{SelectorJson, payload_or, vectors_or_none};
use crate::qdrant::ops::{Door, Operation};

type Shared = State<Arc<Door>>;
type Reply<T> = Result<Answer<T>, DoorError>;

async fn write(
    door: &Arc<Door>,
    name: String,
    params: WriteParams,
    operation: Operation,
) -> Reply<UpdateJson> {
    let started = Instant::now();
    let wait = params.wait();
    let number = door.run(params.timeout, move |door| door.write(&name, operation, wait)).await?;
    Ok(Answer::new(started, UpdateJson::new(number, wait)))
}

pub(super) async fn upsert(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<UpsertJson>,
) -> Reply<UpdateJson> {
    write(&door, name, params, Operation::Upsert(request.points()?)).await
}

pub(super) async fn delete(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<SelectorJson>,
) -> Reply<UpdateJson> {
    write(&door, name, params, Operation::Delete(request.selector()?)).await
}

pub(super) async fn set_payload(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<SetPayloadJson>,
) -> Reply<UpdateJson> {
    write(&door, name, params, set_operation(request)?).await
}

pub(super) async fn overwrite_payload(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<SetPayloadJson>,
) -> Reply<UpdateJson> {
    write(&door, name, params, overwrite_operation(request)?).await
}

pub(super) async fn delete_payload(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<DeletePayloadJson>,
) -> Reply<UpdateJson> {
    write(&door, name, params, delete_payload_operation(request)?).await
}

pub(super) async fn clear_payload(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<SelectorJson>,
) -> Reply<UpdateJson> {
    write(&door, name, params, Operation::ClearPayload(request.selector()?)).await
}

pub(super) async fn update_vectors(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<UpdateVectorsJson>,
) -> Reply<UpdateJson> {
    write(&door, name, params, update_vectors_operation(request)?).await
}

pub(super) async fn delete_vectors(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<DeleteVectorsJson>,
) -> Reply<UpdateJson> {
    write(&door, name, params, delete_vectors_operation(request)?).await
}

pub(super) async fn update_batch(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<UpdateBatchJson>,
) -> Reply<Vec<UpdateJson>> {
    let started = Instant::now();
    let wait = params.wait();
    let operations = request.operations.into_iter().map(operation).collect::<Result<Vec<_>, _>>()?;
    let numbers = door.run(params.timeout, move |door| door.write_batch(&name, operations, wait)).await?;
    Ok(Answer::new(started, numbers.into_iter().map(|number| UpdateJson::new(number, wait)).collect()))
}

fn operation(request: OperationJson) -> Result<Operation, DoorError> {
    match request {
        OperationJson::Upsert(request) => Ok(Operation::Upsert(request.points()?)),
        OperationJson::Delete(request) => Ok(Operation::Delete(request.selector()?)),
        OperationJson::SetPayload(request) => set_operation(request),
        OperationJson::OverwritePayload(request) => overwrite_operation(request),
        OperationJson::DeletePayload(request) => delete_payload_operation(request),
        OperationJson::ClearPayload(request) => Ok(Operation::ClearPayload(request.selector()?)),
        OperationJson::UpdateVectors(request) => update_vectors_operation(request),
        OperationJson::DeleteVectors(request) => delete_vectors_operation(request),
    }
}

fn set_operation(mut request: SetPayloadJson) -> Result<Operation, DoorError> {
    let points = request.selector()?;
    let key = request.key.map(|key| key.parse::<JsonPath>()).transpose()?;
    Ok(Operation::SetPayload { points, payload: request.payload, key })
}

fn overwrite_operation(mut request: SetPayloadJson) -> Result<Operation, DoorError> {
    let points = request.selector()?;
    if request.key.is_some() {
        return Err(DoorError::input(
            "`key` belongs to setting a payload; overwriting replaces the whole of it",
        ));
    }
    Ok(Operation::OverwritePayload { points, payload: request.payload })
}

fn delete_payload_operation(mut request: DeletePayloadJson) -> Result<Operation, DoorError> {
    let points = request.selector()?;
    let keys = request.keys.iter().map(|key| key.parse()).collect::<Result<Vec<JsonPath>, _>>()?;
    Ok(Operation::DeletePayload { points, keys })
}

fn update_vectors_operation(request: UpdateVectorsJson) -> Result<Operation, DoorError> {
    refuse_conditional(request.update_filter.is_some(), None)?;
    Ok(Operation::UpdateVectors(
        request.points.into_iter().map(|point| (point.id.0, point.vector.0)).collect(),
    ))
}

fn delete_vectors_operation(mut request: DeleteVectorsJson) -> Result<Operation, DoorError> {
    let points = request.selector()?;
    Ok(Operation::DeleteVectors { points, names: request.vector })
}

pub(super) async fn get_many(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<ReadParams>,
    JsonBody(request): JsonBody<GetJson>,
) -> Reply<Vec<RecordJson>> {
    let started = Instant::now();
    let with = With {
        payload: payload_or(request.with_payload, WithPayload::All),
        vectors: vectors_or_none(request.with_vector),
    };
    let ids = engine_ids(request.ids);
    let records = door.run(params.timeout, move |door| door.get(&name, &ids, &with)).await?;
    Ok(Answer::new(started, records.into_iter().map(Into::into).collect()))
}

pub(super) async fn get_one(
    State(door): Shared,
    UrlPath((name, id)): UrlPath<(String, String)>,
    Params(params): Params<ReadParams>,
) -> Reply<RecordJson> {
    let started = Instant::now();
    let id: PointId = id
        .parse()
        .map_err(|_| DoorError::input(format!("`{id}` is no point id: an unsigned integer or a UUID")))?;
    let with = With { payload: WithPayload::All, vectors: WithVectors::All };
    let records = door.run(params.timeout, move |door| door.get(&name, &[id], &with)).await?;
    match records.into_iter().next() {
        Some(record) => Ok(Answer::new(started, record.into())),
        None => Err(DoorError::NotFound(format!("Point with id {id} does not exists!"))),
    }
}
