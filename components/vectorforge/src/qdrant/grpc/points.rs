//! The `Points` service.

use std::sync::Arc;
use std::time::Instant;

use qdrant_client::qdrant::points_server::Points;
use qdrant_client::qdrant::{
    BatchResult, ClearPayloadPoints, CountPoints, CountResponse, CountResult, CreateFieldIndexCollection,
    CreateVectorNameRequest, DeleteFieldIndexCollection, DeletePayloadPoints, DeletePointVectors,
    DeletePoints, DeleteVectorNameRequest, DiscoverBatchPoints, DiscoverBatchResponse, DiscoverPoints,
    DiscoverResponse, FacetCounts, FacetHit, FacetResponse, FacetValue, GetPoints, GetResponse,
    OrderValue as WireOrderValue, PointsOperationResponse, QueryBatchPoints, QueryBatchResponse,
    QueryGroupsResponse, QueryPointGroups, QueryPoints, QueryResponse, RecommendBatchPoints,
    RecommendBatchResponse, RecommendGroupsResponse, RecommendPointGroups, RecommendPoints,
    RecommendResponse, RetrievedPoint, ScoredPoint as WireScored, ScrollPoints, ScrollResponse,
    SearchBatchPoints, SearchBatchResponse, SearchGroupsResponse, SearchMatrixOffsetsResponse,
    SearchMatrixPairsResponse, SearchMatrixPoints, SearchPointGroups, SearchPoints, SearchResponse,
    SetPayloadPoints, UpdateBatchPoints, UpdateBatchResponse, UpdatePointVectors, UpdateResult, UpdateStatus,
    UpsertPoints, facet_value, order_value,
};
use tonic::{Request, Response, Status};

use super::filter::{maybe, selector};
use super::index::schema;
use super::query::{DEFAULT_LIMIT, no_shard_key, query, scroll, search, with_payload, with_vectors};
use super::value::{ids, wire_id, wire_payload, wire_vectors};
use super::write;
use crate::engine::{MatchValue, OrderValue, Record, With, WithPayload};
use crate::qdrant::error::DoorError;
use crate::qdrant::ops::{Door, Hit, Operation, QueryRequest};

/// `qdrant.Points` over the door.
pub(crate) struct PointsDoor(pub(crate) Arc<Door>);

type Reply<T> = Result<Response<T>, Status>;

fn absent<T>(what: &str) -> Reply<T> {
    Err(DoorError::unsupported(what).into())
}

fn record(record: Record) -> RetrievedPoint {
    RetrievedPoint {
        id: Some(wire_id(record.id)),
        payload: wire_payload(record.payload),
        vectors: wire_vectors(record.vectors),
        shard_key: None,
        order_value: record.order_value.map(order_value),
    }
}

fn scored(hit: Hit) -> WireScored {
    WireScored {
        id: Some(wire_id(hit.point.id)),
        payload: wire_payload(hit.point.payload),
        score: hit.point.score,
        version: hit.point.version,
        vectors: wire_vectors(hit.point.vectors),
        shard_key: None,
        order_value: hit.order_value.map(order_value),
    }
}

fn order_value(value: OrderValue) -> WireOrderValue {
    let variant = match value {
        OrderValue::Int(value) => order_value::Variant::Int(value),
        OrderValue::Float(value) => order_value::Variant::Float(value),
    };
    WireOrderValue { variant: Some(variant) }
}

fn update_result(number: u64, wait: bool) -> UpdateResult {
    let status = if wait { UpdateStatus::Completed } else { UpdateStatus::Acknowledged };
    UpdateResult { operation_id: Some(number), status: status as i32 }
}

fn seconds(started: Instant) -> f64 {
    started.elapsed().as_secs_f64()
}

impl PointsDoor {
    async fn write(
        &self,
        name: String,
        wait: Option<bool>,
        timeout: Option<u64>,
        operation: Result<Operation, DoorError>,
    ) -> Reply<PointsOperationResponse> {
        let started = Instant::now();
        let wait = wait.unwrap_or(false);
        let operation = operation?;
        let number = self.0.run(timeout, move |door| door.write(&name, operation, wait)).await?;
        Ok(Response::new(PointsOperationResponse {
            result: Some(update_result(number, wait)),
            time: seconds(started),
            usage: None,
        }))
    }

    async fn hits(
        &self,
        name: String,
        timeout: Option<u64>,
        request: QueryRequest,
    ) -> Result<Vec<WireScored>, Status> {
        let hits = self.0.run(timeout, move |door| door.query(&name, request)).await?;
        Ok(hits.into_iter().map(scored).collect())
    }

    /// Every query of the batch must be about the batch's collection, or name none.
    async fn batches(
        &self,
        name: String,
        timeout: Option<u64>,
        requests: Vec<(String, QueryRequest)>,
    ) -> Result<Vec<BatchResult>, Status> {
        if let Some((other, _)) = requests.iter().find(|(other, _)| !other.is_empty() && *other != name) {
            let text = format!("a query of the batch names collection `{other}`, the batch `{name}`");
            return Err(DoorError::input(text).into());
        }
        let requests = requests.into_iter().map(|(_, request)| request).collect();
        let batches = self.0.run(timeout, move |door| door.query_batch(&name, requests)).await?;
        let result = |hits: Vec<Hit>| BatchResult { result: hits.into_iter().map(scored).collect() };
        Ok(batches.into_iter().map(result).collect())
    }
}

#[tonic::async_trait]
impl Points for PointsDoor {
    async fn upsert(&self, request: Request<UpsertPoints>) -> Reply<PointsOperationResponse> {
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        write::conditional(wire.update_filter.is_some(), wire.update_mode)?;
        self.write(wire.collection_name, wire.wait, wire.timeout, write::upsert(wire.points)).await
    }

    async fn delete(&self, request: Request<DeletePoints>) -> Reply<PointsOperationResponse> {
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        let operation = selector(wire.points).map(Operation::Delete);
        self.write(wire.collection_name, wire.wait, wire.timeout, operation).await
    }

    async fn get(&self, request: Request<GetPoints>) -> Reply<GetResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        let ids = ids(wire.ids)?;
        let with = With {
            payload: with_payload(wire.with_payload, WithPayload::All)?,
            vectors: with_vectors(wire.with_vectors),
        };
        let name = wire.collection_name;
        let records = self.0.run(wire.timeout, move |door| door.get(&name, &ids, &with)).await?;
        let result = records.into_iter().map(record).collect();
        Ok(Response::new(GetResponse { result, time: seconds(started), usage: None }))
    }

    async fn update_vectors(&self, request: Request<UpdatePointVectors>) -> Reply<PointsOperationResponse> {
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        write::conditional(wire.update_filter.is_some(), None)?;
        self.write(wire.collection_name, wire.wait, wire.timeout, write::update_vectors(wire.points)).await
    }

    async fn delete_vectors(&self, request: Request<DeletePointVectors>) -> Reply<PointsOperationResponse> {
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        let operation = write::delete_vectors(wire.points_selector, wire.vectors);
        self.write(wire.collection_name, wire.wait, wire.timeout, operation).await
    }

    async fn set_payload(&self, request: Request<SetPayloadPoints>) -> Reply<PointsOperationResponse> {
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        let operation = write::set_payload(wire.points_selector, wire.payload, wire.key.as_deref());
        self.write(wire.collection_name, wire.wait, wire.timeout, operation).await
    }

    async fn overwrite_payload(&self, request: Request<SetPayloadPoints>) -> Reply<PointsOperationResponse> {
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        let operation = write::overwrite_payload(wire.points_selector, wire.payload, wire.key.as_deref());
        self.write(wire.collection_name, wire.wait, wire.timeout, operation).await
    }

    async fn delete_payload(&self, request: Request<DeletePayloadPoints>) -> Reply<PointsOperationResponse> {
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        let operation = write::delete_payload(wire.points_selector, &wire.keys);
        self.write(wire.collection_name, wire.wait, wire.timeout, operation).await
    }

    async fn clear_payload(&self, request: Request<ClearPayloadPoints>) -> Reply<PointsOperationResponse> {
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        let operation = selector(wire.points).map(Operation::ClearPayload);
        self.write(wire.collection_name, wire.wait, wire.timeout, operation).await
    }

    async fn create_field_index(
        &self,
        request: Request<CreateFieldIndexCollection>,
    ) -> Reply<PointsOperationResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let schema = schema(wire.field_type, wire.field_index_params)?;
        let (name, key) = (wire.collection_name, wire.field_name);
        let number = self.0.run(wire.timeout, move |door| door.create_index(&name, &key, schema)).await?;
        let result = Some(update_result(number, true));
        Ok(Response::new(PointsOperationResponse { result, time: seconds(started), usage: None }))
    }

    async fn delete_field_index(
        &self,
        request: Request<DeleteFieldIndexCollection>,
    ) -> Reply<PointsOperationResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let (name, key) = (wire.collection_name, wire.field_name);
        let number = self.0.run(wire.timeout, move |door| door.delete_index(&name, &key)).await?;
        let result = Some(update_result(number, true));
        Ok(Response::new(PointsOperationResponse { result, time: seconds(started), usage: None }))
    }

    async fn search(&self, request: Request<SearchPoints>) -> Reply<SearchResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let (name, timeout) = (wire.collection_name.clone(), wire.timeout);
        let result = self.hits(name, timeout, search(wire)?).await?;
        Ok(Response::new(SearchResponse { result, time: seconds(started), usage: None }))
    }

    async fn search_batch(&self, request: Request<SearchBatchPoints>) -> Reply<SearchBatchResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let pair =
            |points: SearchPoints| Ok::<_, DoorError>((points.collection_name.clone(), search(points)?));
        let requests = wire.search_points.into_iter().map(pair).collect::<Result<_, _>>()?;
        let result = self.batches(wire.collection_name, wire.timeout, requests).await?;
        Ok(Response::new(SearchBatchResponse { result, time: seconds(started), usage: None }))
    }

    async fn scroll(&self, request: Request<ScrollPoints>) -> Reply<ScrollResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let (name, timeout) = (wire.collection_name.clone(), wire.timeout);
        let request = scroll(wire)?;
        let page = self.0.run(timeout, move |door| door.scroll(&name, &request)).await?;
        Ok(Response::new(ScrollResponse {
            next_page_offset: page.next.map(wire_id),
            result: page.points.into_iter().map(record).collect(),
            time: seconds(started),
            usage: None,
        }))
    }

    async fn count(&self, request: Request<CountPoints>) -> Reply<CountResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        let filter = maybe(wire.filter)?;
        let (name, exact) = (wire.collection_name, wire.exact.unwrap_or(true));
        let count = self.0.run(wire.timeout, move |door| door.count(&name, filter.as_ref(), exact)).await?;
        let result = Some(CountResult { count: count as u64 });
        Ok(Response::new(CountResponse { result, time: seconds(started), usage: None }))
    }

    async fn update_batch(&self, request: Request<UpdateBatchPoints>) -> Reply<UpdateBatchResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let wait = wire.wait.unwrap_or(false);
        let operations = wire.operations.into_iter().map(write::operation).collect::<Result<Vec<_>, _>>()?;
        let name = wire.collection_name;
        let numbers = self.0.run(wire.timeout, move |door| door.write_batch(&name, operations, wait)).await?;
        let result = numbers.into_iter().map(|number| update_result(number, wait)).collect();
        Ok(Response::new(UpdateBatchResponse { result, time: seconds(started), usage: None }))
    }

    async fn query(&self, request: Request<QueryPoints>) -> Reply<QueryResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let (name, timeout) = (wire.collection_name.clone(), wire.timeout);
        let result = self.hits(name, timeout, query(wire)?).await?;
        Ok(Response::new(QueryResponse { result, time: seconds(started), usage: None }))
    }

    async fn query_batch(&self, request: Request<QueryBatchPoints>) -> Reply<QueryBatchResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let pair = |points: QueryPoints| Ok::<_, DoorError>((points.collection_name.clone(), query(points)?));
        let requests = wire.query_points.into_iter().map(pair).collect::<Result<_, _>>()?;
        let result = self.batches(wire.collection_name, wire.timeout, requests).await?;
        Ok(Response::new(QueryBatchResponse { result, time: seconds(started), usage: None }))
    }

    async fn facet(&self, request: Request<FacetCounts>) -> Reply<FacetResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        no_shard_key(wire.shard_key_selector.as_ref())?;
        let filter = maybe(wire.filter)?;
        let limit = wire.limit.map_or(DEFAULT_LIMIT, |limit| limit as usize);
        let (name, key) = (wire.collection_name, wire.key);
        let values =
            self.0.run(wire.timeout, move |door| door.facet(&name, &key, filter.as_ref(), limit)).await?;
        let hits = values.into_iter().map(|(value, count)| facet_hit(value, count)).collect();
        Ok(Response::new(FacetResponse { hits, time: seconds(started), usage: None }))
    }

    // What is not there says so.

    async fn create_vector_name(
        &self,
        _: Request<CreateVectorNameRequest>,
    ) -> Reply<PointsOperationResponse> {
        absent("adding a vector field to a living collection")
    }

    async fn delete_vector_name(
        &self,
        _: Request<DeleteVectorNameRequest>,
    ) -> Reply<PointsOperationResponse> {
        absent("dropping a vector field of a living collection")
    }

    async fn search_groups(&self, _: Request<SearchPointGroups>) -> Reply<SearchGroupsResponse> {
        absent("grouped searches")
    }

    async fn recommend(&self, _: Request<RecommendPoints>) -> Reply<RecommendResponse> {
        absent("recommendation")
    }

    async fn recommend_batch(&self, _: Request<RecommendBatchPoints>) -> Reply<RecommendBatchResponse> {
        absent("recommendation")
    }

    async fn recommend_groups(&self, _: Request<RecommendPointGroups>) -> Reply<RecommendGroupsResponse> {
        absent("recommendation")
    }

    async fn discover(&self, _: Request<DiscoverPoints>) -> Reply<DiscoverResponse> {
        absent("discovery")
    }

    async fn discover_batch(&self, _: Request<DiscoverBatchPoints>) -> Reply<DiscoverBatchResponse> {
        absent("discovery")
    }

    async fn query_groups(&self, _: Request<QueryPointGroups>) -> Reply<QueryGroupsResponse> {
        absent("grouped queries")
    }

    async fn search_matrix_pairs(&self, _: Request<SearchMatrixPoints>) -> Reply<SearchMatrixPairsResponse> {
        absent("distance matrices")
    }

    async fn search_matrix_offsets(
        &self,
        _: Request<SearchMatrixPoints>,
    ) -> Reply<SearchMatrixOffsetsResponse> {
        absent("distance matrices")
    }
}

fn facet_hit(value: MatchValue, count: usize) -> FacetHit {
    let variant = match value {
        MatchValue::Keyword(text) => facet_value::Variant::StringValue(text),
        MatchValue::Integer(number) => facet_value::Variant::IntegerValue(number),
        MatchValue::Bool(flag) => facet_value::Variant::BoolValue(flag),
    };
    FacetHit { value: Some(FacetValue { variant: Some(variant) }), count: count as u64 }
}
