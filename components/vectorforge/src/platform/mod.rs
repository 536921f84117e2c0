//! The door for the project's own contract: `platform.v1.VectorService`, thin, over the same operations as Qdrant's.

use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as WireValue};
use serde_json::{Map, Number, Value};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use wire::platform::v1::vector_service_server::{VectorService, VectorServiceServer};
use wire::platform::v1::{
    CreateCollectionRequest, CreateCollectionResponse, DeleteCollectionRequest, DeleteCollectionResponse,
    DeletePointsRequest, DeletePointsResponse, Distance as WireDistance, Point as WirePoint,
    PointId as WireId, ScoredPoint, SearchRequest, SearchResponse, UpsertRequest, UpsertResponse, point_id,
};

use crate::engine::{
    Condition, Filter, JsonPath, MatchValue, Payload, Point, PointId, Predicate, SearchParams, Selector,
    Vectors, With, WithPayload, WithVectors,
};
use crate::qdrant::{
    CreateJson, DistanceJson, Door, DoorError, Operation, QueryKind, QueryRequest, VectorJson, VectorsJson,
};

struct PlatformDoor(Arc<Door>);

type Reply<T> = Result<Response<T>, Status>;

/// `platform.v1.VectorService` added to `routes`.
pub(crate) fn add_services(routes: Routes, door: &Arc<Door>, max_message_bytes: usize) -> Routes {
    let service = VectorServiceServer::new(PlatformDoor(door.clone()))
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(usize::MAX);
    routes.add_service(service)
}

fn point_id(wire: Option<WireId>) -> Result<PointId, DoorError> {
    match wire.and_then(|id| id.id) {
        Some(point_id::Id::Number(number)) => Ok(PointId::Num(number)),
        Some(point_id::Id::Uuid(text)) => uuid::Uuid::parse_str(&text)
            .map(PointId::from)
            .map_err(|_| DoorError::input(format!("`{text}` is no UUID"))),
        None => Err(DoorError::input("a point id is missing")),
    }
}

fn wire_id(id: PointId) -> WireId {
    let id = match id {
        PointId::Num(number) => point_id::Id::Number(number),
        PointId::Uuid(_) => point_id::Id::Uuid(id.to_string()),
    };
    WireId { id: Some(id) }
}

/// A JSON value of `google.protobuf.Value`, whose only number is a double; whole ones become integers again.
fn value(wire: WireValue) -> Result<Value, DoorError> {
    Ok(match wire.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::NumberValue(number)) => {
            // Beyond 2^53 a double no longer tells neighbouring integers apart.
            if number.fract().abs() < f64::EPSILON && number.abs() < 9_007_199_254_740_992.0 {
                Value::from(number as i64)
            } else {
                let number = Number::from_f64(number);
                Value::Number(number.ok_or_else(|| DoorError::input("a payload number is not finite"))?)
            }
        }
        Some(Kind::ListValue(list)) => {
            Value::Array(list.values.into_iter().map(value).collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(inner)) => Value::Object(object(inner)?),
    })
}

fn object(wire: Struct) -> Result<Map<String, Value>, DoorError> {
    wire.fields.into_iter().map(|(key, field)| Ok((key, value(field)?))).collect()
}

fn wire_object(payload: Payload) -> Struct {
    Struct { fields: payload.into_iter().map(|(key, value)| (key, wire_value(value))).collect() }
}

fn wire_value(value: Value) -> WireValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(list) => {
            Kind::ListValue(ListValue { values: list.into_iter().map(wire_value).collect() })
        }
        Value::Object(map) => Kind::StructValue(wire_object(map)),
    };
    WireValue { kind: Some(kind) }
}

fn point(wire: WirePoint) -> Result<Point, DoorError> {
    Ok(Point {
        id: point_id(wire.id)?,
        vectors: Vectors::unnamed(wire.vector),
        payload: wire.payload.map(object).transpose()?.unwrap_or_default(),
    })
}

/// `match` of a search: each field equals its value, or one of them when it is a list.
fn match_filter(wire: Struct) -> Result<Filter, DoorError> {
    let conditions = object(wire)?.into_iter().map(|(key, value)| {
        let predicate = match value {
            Value::Array(list) => Predicate::Any(
                list.into_iter().map(|value| match_value(&key, value)).collect::<Result<_, _>>()?,
            ),
            single => Predicate::Is(match_value(&key, single)?),
        };
        let key: JsonPath = key.parse()?;
        Ok(Condition::Field { key, predicate })
    });
    Ok(Filter::must(conditions.collect::<Result<Vec<_>, DoorError>>()?))
}

fn match_value(key: &str, value: Value) -> Result<MatchValue, DoorError> {
    match value {
        Value::String(text) => Ok(MatchValue::Keyword(text)),
        Value::Bool(flag) => Ok(MatchValue::Bool(flag)),
        Value::Number(number) if number.is_i64() => {
            Ok(MatchValue::Integer(number.as_i64().unwrap_or_default()))
        }
        other => Err(DoorError::input(format!("match `{key}`: {other} is no string, integer or boolean"))),
    }
}

fn distance(wire: i32) -> Result<DistanceJson, DoorError> {
    match WireDistance::try_from(wire) {
        Ok(WireDistance::Cosine) => Ok(DistanceJson::Cosine),
        Ok(WireDistance::Dot) => Ok(DistanceJson::Dot),
        Ok(WireDistance::Euclid) => Ok(DistanceJson::Euclid),
        Ok(WireDistance::Manhattan) => Ok(DistanceJson::Manhattan),
        Ok(WireDistance::Unspecified) | Err(_) => {
            Err(DoorError::input("distance is one of cosine, dot, euclid, manhattan"))
        }
    }
}

#[tonic::async_trait]
impl VectorService for PlatformDoor {
    async fn create_collection(
        &self,
        request: Request<CreateCollectionRequest>,
    ) -> Reply<CreateCollectionResponse> {
        let wire = request.into_inner();
        let vector = VectorJson::plain(wire.dimension as usize, distance(wire.distance)?);
        let create =
            CreateJson { vectors: Some(VectorsJson::Unnamed(Box::new(vector))), ..CreateJson::default() };
        self.0.run(None, move |door| door.create(&wire.collection, create)).await?;
        Ok(Response::new(CreateCollectionResponse {}))
    }

    async fn delete_collection(
        &self,
        request: Request<DeleteCollectionRequest>,
    ) -> Reply<DeleteCollectionResponse> {
        let name = request.into_inner().collection;
        let deleted = self.0.run(None, move |door| Ok(door.engine.drop_collection(&name)?)).await?;
        Ok(Response::new(DeleteCollectionResponse { deleted }))
    }

    async fn upsert(&self, request: Request<UpsertRequest>) -> Reply<UpsertResponse> {
        let wire = request.into_inner();
        let upserted = wire.points.len() as u64;
        let points = wire.points.into_iter().map(point).collect::<Result<_, _>>()?;
        self.0.run(None, move |door| door.write(&wire.collection, Operation::Upsert(points), true)).await?;
        Ok(Response::new(UpsertResponse { upserted }))
    }

    async fn delete(&self, request: Request<DeletePointsRequest>) -> Reply<DeletePointsResponse> {
        let wire = request.into_inner();
        let ids = wire.ids.into_iter().map(|id| point_id(Some(id))).collect::<Result<Vec<_>, _>>()?;
        let deleted = self
            .0
            .run(None, move |door| {
                let present = door.get(&wire.collection, &ids, &With::default())?.len() as u64;
                door.write(&wire.collection, Operation::Delete(Selector::Ids(ids)), true)?;
                Ok(present)
            })
            .await?;
        Ok(Response::new(DeletePointsResponse { deleted }))
    }

    async fn search(&self, request: Request<SearchRequest>) -> Reply<SearchResponse> {
        let wire = request.into_inner();
        let query = QueryRequest {
            kind: Some(QueryKind::Vector(wire.vector)),
            using: String::new(),
            lookup: None,
            filter: wire.r#match.map(match_filter).transpose()?,
            params: SearchParams { exact: wire.exact, ..SearchParams::default() },
            score_threshold: wire.score_threshold,
            limit: wire.limit as usize,
            offset: 0,
            with: With { payload: WithPayload::All, vectors: WithVectors::None },
        };
        let name = wire.collection;
        let hits = self.0.run(None, move |door| door.query(&name, query)).await?;
        let points = hits.into_iter().map(|hit| ScoredPoint {
            id: Some(wire_id(hit.point.id)),
            score: hit.point.score,
            payload: hit.point.payload.map(wire_object),
        });
        Ok(Response::new(SearchResponse { points: points.collect() }))
    }
}
