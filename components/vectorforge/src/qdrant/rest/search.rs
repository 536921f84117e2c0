//! Search, query, scroll, count, facet.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use serde_json::{Value, json};

use super::extract::{JsonBody, Params, ReadParams, UrlPath};
use crate::engine::{Scroll, With, WithPayload};
use crate::qdrant::error::DoorError;
use crate::qdrant::json::answer::{Answer, RecordJson, ScoredJson, facet_value};
use crate::qdrant::json::id::Id;
use crate::qdrant::json::points::CountJson;
use crate::qdrant::json::query::{
    FacetJson, ParamsJson, QueryBatchJson, QueryJson, QueryKind, ScrollJson, SearchBatchJson, SearchJson,
};
use crate::qdrant::json::select::{payload_or, vectors_or_none};
use crate::qdrant::ops::{Door, Hit, QueryRequest};

type Shared = State<Arc<Door>>;
type Reply<T> = Result<Answer<T>, DoorError>;

/// Results when a request names no limit.
const DEFAULT_LIMIT: usize = 10;

fn scored(hits: Vec<Hit>) -> Vec<ScoredJson> {
    hits.into_iter().map(Into::into).collect()
}

fn engine_params(params: Option<ParamsJson>) -> Result<crate::engine::SearchParams, DoorError> {
    params.unwrap_or_default().engine().map_err(DoorError::Unsupported)
}

fn has_items(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    }
}

fn query_request(request: QueryJson) -> Result<QueryRequest, DoorError> {
    if has_items(request.prefetch.as_ref()) {
        return Err(DoorError::unsupported("`prefetch`; send one query at a time"));
    }
    Ok(QueryRequest {
        kind: request.query,
        using: request.using.unwrap_or_default(),
        lookup: request.lookup_from.map(|lookup| (lookup.collection, lookup.vector)),
        filter: request.filter.map(|filter| filter.0),
        params: engine_params(request.params)?,
        score_threshold: request.score_threshold,
        limit: request.limit.unwrap_or(DEFAULT_LIMIT),
        offset: request.offset.unwrap_or(0),
        with: With {
            payload: payload_or(request.with_payload, WithPayload::None),
            vectors: vectors_or_none(request.with_vector),
        },
    })
}

fn search_request(request: SearchJson) -> Result<QueryRequest, DoorError> {
    Ok(QueryRequest {
        kind: Some(QueryKind::Vector(request.vector.vector)),
        using: request.vector.name.unwrap_or_default(),
        lookup: None,
        filter: request.filter.map(|filter| filter.0),
        params: engine_params(request.params)?,
        score_threshold: request.score_threshold,
        limit: request.limit,
        offset: request.offset.unwrap_or(0),
        with: With {
            payload: payload_or(request.with_payload, WithPayload::None),
            vectors: vectors_or_none(request.with_vector),
        },
    })
}

pub(super) async fn query(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<ReadParams>,
    JsonBody(request): JsonBody<QueryJson>,
) -> Reply<Value> {
    let started = Instant::now();
    let request = query_request(request)?;
    let hits = door.run(params.timeout, move |door| door.query(&name, request)).await?;
    Ok(Answer::new(started, json!({ "points": scored(hits) })))
}

pub(super) async fn query_batch(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<ReadParams>,
    JsonBody(request): JsonBody<QueryBatchJson>,
) -> Reply<Vec<Value>> {
    let started = Instant::now();
    let requests = request.searches.into_iter().map(query_request).collect::<Result<Vec<_>, _>>()?;
    let batches = door.run(params.timeout, move |door| door.query_batch(&name, requests)).await?;
    Ok(Answer::new(started, batches.into_iter().map(|hits| json!({ "points": scored(hits) })).collect()))
}

pub(super) async fn search(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<ReadParams>,
    JsonBody(request): JsonBody<SearchJson>,
) -> Reply<Vec<ScoredJson>> {
    let started = Instant::now();
    let request = search_request(request)?;
    let hits = door.run(params.timeout, move |door| door.query(&name, request)).await?;
    Ok(Answer::new(started, scored(hits)))
}

pub(super) async fn search_batch(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<ReadParams>,
    JsonBody(request): JsonBody<SearchBatchJson>,
) -> Reply<Vec<Vec<ScoredJson>>> {
    let started = Instant::now();
    let requests = request.searches.into_iter().map(search_request).collect::<Result<Vec<_>, _>>()?;
    let batches = door.run(params.timeout, move |door| door.query_batch(&name, requests)).await?;
    Ok(Answer::new(started, batches.into_iter().map(scored).collect()))
}

pub(super) async fn scroll(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<ReadParams>,
    JsonBody(request): JsonBody<ScrollJson>,
) -> Reply<Value> {
    let started = Instant::now();
    let scroll = Scroll {
        filter: request.filter.map(|filter| filter.0),
        limit: request.limit.unwrap_or(DEFAULT_LIMIT),
        offset: request.offset.map(|id| id.0),
        order_by: request.order_by.map(|order| order.0),
        with: With {
            payload: payload_or(request.with_payload, WithPayload::All),
            vectors: vectors_or_none(request.with_vector),
        },
    };
    let page = door.run(params.timeout, move |door| door.scroll(&name, &scroll)).await?;
    let points: Vec<RecordJson> = page.points.into_iter().map(Into::into).collect();
    Ok(Answer::new(started, json!({"points": points, "next_page_offset": page.next.map(Id)})))
}

pub(super) async fn count(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<ReadParams>,
    JsonBody(request): JsonBody<CountJson>,
) -> Reply<Value> {
    let started = Instant::now();
    let filter = request.filter.map(|filter| filter.0);
    let exact = request.exact.unwrap_or(true);
    let count = door.run(params.timeout, move |door| door.count(&name, filter.as_ref(), exact)).await?;
    Ok(Answer::new(started, json!({ "count": count })))
}

pub(super) async fn facet(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<ReadParams>,
    JsonBody(request): JsonBody<FacetJson>,
) -> Reply<Value> {
    let started = Instant::now();
    let filter = request.filter.map(|filter| filter.0);
    let limit = request.limit.unwrap_or(DEFAULT_LIMIT);
    let hits =
        door.run(params.timeout, move |door| door.facet(&name, &request.key, filter.as_ref(), limit)).await?;
    let hits: Vec<Value> =
        hits.into_iter().map(|(value, count)| json!({"value": facet_value(value), "count": count})).collect();
    Ok(Answer::new(started, json!({ "hits": hits })))
}
