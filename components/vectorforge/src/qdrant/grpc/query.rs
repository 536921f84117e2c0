//! Searches, queries and scrolls from protobuf to the door's.

use qdrant_client::qdrant::query::Variant as WireQuery;
use qdrant_client::qdrant::start_from::Value as WireStart;
use qdrant_client::qdrant::vector_input::Variant as WireInput;
use qdrant_client::qdrant::with_payload_selector::SelectorOptions as PayloadOptions;
use qdrant_client::qdrant::with_vectors_selector::SelectorOptions as VectorOptions;
use qdrant_client::qdrant::{
    LookupLocation, OrderBy as WireOrderBy, Query, QueryPoints, Sample, ScrollPoints,
    SearchParams as WireParams, SearchPoints, ShardKeySelector, VectorInput, WithPayloadSelector,
    WithVectorsSelector,
};

use super::filter::maybe;
use super::value::id;
use crate::engine::{Direction, JsonPath, OrderBy, Scroll, SearchParams, With, WithPayload, WithVectors};
use crate::qdrant::error::DoorError;
use crate::qdrant::json::query::QueryKind;
use crate::qdrant::json::vector::not_dense;
use crate::qdrant::ops::QueryRequest;

/// Results when a request names no limit.
pub(crate) const DEFAULT_LIMIT: usize = 10;

/// A collection is one shard; a shard key would be lost.
pub(crate) fn no_shard_key(selector: Option<&ShardKeySelector>) -> Result<(), DoorError> {
    match selector {
        None => Ok(()),
        Some(_) => Err(DoorError::unsupported("shard keys; leave the selector out")),
    }
}

/// Which parts of the payload to return.
pub(crate) fn with_payload(
    wire: Option<WithPayloadSelector>,
    default: WithPayload,
) -> Result<WithPayload, DoorError> {
    let paths = |fields: Vec<String>| -> Result<Vec<JsonPath>, DoorError> {
        fields.iter().map(|field| Ok(field.parse()?)).collect()
    };
    match wire.and_then(|selector| selector.selector_options) {
        None => Ok(default),
        Some(PayloadOptions::Enable(true)) => Ok(WithPayload::All),
        Some(PayloadOptions::Enable(false)) => Ok(WithPayload::None),
        Some(PayloadOptions::Include(include)) => Ok(WithPayload::Include(paths(include.fields)?)),
        Some(PayloadOptions::Exclude(exclude)) => Ok(WithPayload::Exclude(paths(exclude.fields)?)),
    }
}

/// Which vectors to return.
pub(crate) fn with_vectors(wire: Option<WithVectorsSelector>) -> WithVectors {
    match wire.and_then(|selector| selector.selector_options) {
        None | Some(VectorOptions::Enable(false)) => WithVectors::None,
        Some(VectorOptions::Enable(true)) => WithVectors::All,
        Some(VectorOptions::Include(include)) => WithVectors::Names(include.names),
    }
}

/// How to search. Quantization and ACORN settings are met by searching the full vectors with the planner.
fn params(wire: Option<WireParams>) -> Result<SearchParams, DoorError> {
    let Some(wire) = wire else { return Ok(SearchParams::default()) };
    if wire.idf.is_some() {
        return Err(DoorError::unsupported("`params.idf` (sparse vectors)"));
    }
    Ok(SearchParams {
        ef: wire.hnsw_ef.map(|ef| ef as usize),
        exact: wire.exact.unwrap_or(false),
        indexed_only: wire.indexed_only.unwrap_or(false),
    })
}

fn lookup(wire: Option<LookupLocation>) -> Result<Option<(String, Option<String>)>, DoorError> {
    let Some(wire) = wire else { return Ok(None) };
    no_shard_key(wire.shard_key_selector.as_ref())?;
    Ok(Some((wire.collection_name, wire.vector_name)))
}

fn nearest(wire: Option<VectorInput>) -> Result<QueryKind, DoorError> {
    match wire.and_then(|input| input.variant) {
        None => Err(DoorError::input("`nearest` is empty; it is a vector or a point id")),
        Some(WireInput::Id(point)) => Ok(QueryKind::Id(id(Some(point))?)),
        Some(WireInput::Dense(dense)) => Ok(QueryKind::Vector(dense.data)),
        Some(WireInput::Sparse(_)) => Err(DoorError::Unsupported(not_dense(Some("indices")))),
        Some(WireInput::MultiDense(_)) => Err(DoorError::unsupported("multivectors")),
        Some(WireInput::Document(_) | WireInput::Image(_) | WireInput::Object(_)) => {
            Err(DoorError::Unsupported(not_dense(Some("model"))))
        }
    }
}

/// `order_by` of a query or a scroll.
pub(crate) fn order_by(wire: WireOrderBy) -> Result<OrderBy, DoorError> {
    let start_from = match wire.start_from.and_then(|start| start.value) {
        None => None,
        Some(WireStart::Float(value)) if value.is_finite() => Some(value),
        Some(WireStart::Float(_)) => return Err(DoorError::input("order_by: start_from is not finite")),
        Some(WireStart::Integer(value)) => Some(value as f64),
        Some(WireStart::Timestamp(_) | WireStart::Datetime(_)) => {
            return Err(DoorError::unsupported("dates in `order_by.start_from`; store a number"));
        }
    };
    let direction = match wire.direction {
        None | Some(0) => Direction::Ascending,
        Some(1) => Direction::Descending,
        Some(other) => return Err(DoorError::input(format!("order_by: unknown direction {other}"))),
    };
    Ok(OrderBy { key: wire.key.parse()?, direction, start_from })
}

fn kind(wire: Query) -> Result<QueryKind, DoorError> {
    Ok(match wire.variant {
        None => return Err(DoorError::input("the query is empty")),
        Some(WireQuery::Nearest(input)) => nearest(Some(input))?,
        Some(WireQuery::NearestWithMmr(input)) if input.mmr.is_none() => nearest(input.nearest)?,
        Some(WireQuery::NearestWithMmr(_)) => QueryKind::Unsupported("mmr"),
        Some(WireQuery::OrderBy(order)) => QueryKind::OrderBy(order_by(order)?),
        Some(WireQuery::Sample(which)) if which == Sample::Random as i32 => QueryKind::Sample,
        Some(WireQuery::Sample(other)) => return Err(DoorError::input(format!("unknown sample {other}"))),
        Some(WireQuery::Recommend(_)) => QueryKind::Unsupported("recommend"),
        Some(WireQuery::Discover(_)) => QueryKind::Unsupported("discover"),
        Some(WireQuery::Context(_)) => QueryKind::Unsupported("context"),
        Some(WireQuery::Fusion(_)) => QueryKind::Unsupported("fusion"),
        Some(WireQuery::Rrf(_)) => QueryKind::Unsupported("rrf"),
        Some(WireQuery::Formula(_)) => QueryKind::Unsupported("formula"),
        Some(WireQuery::RelevanceFeedback(_)) => QueryKind::Unsupported("relevance_feedback"),
        Some(WireQuery::Text(_)) => QueryKind::Unsupported("text"),
    })
}

/// A universal query.
pub(crate) fn query(wire: QueryPoints) -> Result<QueryRequest, DoorError> {
    no_shard_key(wire.shard_key_selector.as_ref())?;
    if !wire.prefetch.is_empty() {
        return Err(DoorError::unsupported("`prefetch`; send one query at a time"));
    }
    Ok(QueryRequest {
        kind: wire.query.map(kind).transpose()?,
        using: wire.using.unwrap_or_default(),
        lookup: lookup(wire.lookup_from)?,
        filter: maybe(wire.filter)?,
        params: params(wire.params)?,
        score_threshold: wire.score_threshold,
        limit: wire.limit.map_or(DEFAULT_LIMIT, |limit| limit as usize),
        offset: wire.offset.unwrap_or(0) as usize,
        with: With {
            payload: with_payload(wire.with_payload, WithPayload::None)?,
            vectors: with_vectors(wire.with_vectors),
        },
    })
}

/// A search of older clients.
pub(crate) fn search(wire: SearchPoints) -> Result<QueryRequest, DoorError> {
    no_shard_key(wire.shard_key_selector.as_ref())?;
    if wire.sparse_indices.is_some() {
        return Err(DoorError::Unsupported(not_dense(Some("indices"))));
    }
    Ok(QueryRequest {
        kind: Some(QueryKind::Vector(wire.vector)),
        using: wire.vector_name.unwrap_or_default(),
        lookup: None,
        filter: maybe(wire.filter)?,
        params: params(wire.params)?,
        score_threshold: wire.score_threshold,
        limit: wire.limit as usize,
        offset: wire.offset.unwrap_or(0) as usize,
        with: With {
            payload: with_payload(wire.with_payload, WithPayload::None)?,
            vectors: with_vectors(wire.with_vectors),
        },
    })
}

/// A page of points.
pub(crate) fn scroll(wire: ScrollPoints) -> Result<Scroll, DoorError> {
    no_shard_key(wire.shard_key_selector.as_ref())?;
    Ok(Scroll {
        filter: maybe(wire.filter)?,
        limit: wire.limit.map_or(DEFAULT_LIMIT, |limit| limit as usize),
        offset: wire.offset.map(|offset| id(Some(offset))).transpose()?,
        order_by: wire.order_by.map(order_by).transpose()?,
        with: With {
            payload: with_payload(wire.with_payload, WithPayload::All)?,
            vectors: with_vectors(wire.with_vectors),
        },
    })
}
