//! What both doors do: limits are checked, names resolved, the engine is called off the async threads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aistack_api::vectorforge::VectorforgeRequestLimits;
use rand::seq::IndexedRandom;

use super::error::DoorError;
use super::json::collection::{CreateJson, Defaults, Spec, UpdateJson};
use super::json::query::QueryKind;
use super::limits;
use crate::engine::{
    Collection, Condition, ConfigChange, Engine, FieldSchema, Filter, JsonPath, MatchValue, OrderBy,
    OrderValue, Payload, Point, PointId, Query, Record, ScoredPoint, Scroll, ScrollPage, SearchParams,
    Selector, Vectors, With, WithPayload, WithVectors,
};

/// What every request needs. Shared by all of them.
pub(crate) struct Door {
    pub(crate) engine: Arc<Engine>,
    pub(crate) limits: VectorforgeRequestLimits,
    pub(crate) defaults: Defaults,
    /// Tells this process from others in telemetry.
    pub(crate) instance: uuid::Uuid,
    /// When this process started, RFC 3339.
    pub(crate) startup: String,
}

/// A query, from whichever door.
#[derive(Debug, Clone)]
pub(crate) struct QueryRequest {
    /// What to look for; nothing means points in id order.
    pub(crate) kind: Option<QueryKind>,
    /// The vector field, empty for the unnamed one.
    pub(crate) using: String,
    /// Collection and vector field that a query by id takes its vector from, when not this one.
    pub(crate) lookup: Option<(String, Option<String>)>,
    pub(crate) filter: Option<Filter>,
    pub(crate) params: SearchParams,
    pub(crate) score_threshold: Option<f32>,
    pub(crate) limit: usize,
    pub(crate) offset: usize,
    pub(crate) with: With,
}

/// A point of a query's answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hit {
    pub(crate) point: ScoredPoint,
    pub(crate) order_value: Option<OrderValue>,
}

/// One operation of an update batch.
#[derive(Debug)]
pub(crate) enum Operation {
    Upsert(Vec<Point>),
    Delete(Selector),
    SetPayload { points: Selector, payload: Payload, key: Option<JsonPath> },
    OverwritePayload { points: Selector, payload: Payload },
    DeletePayload { points: Selector, keys: Vec<JsonPath> },
    ClearPayload(Selector),
    UpdateVectors(Vec<(PointId, Vectors)>),
    DeleteVectors { points: Selector, names: Vec<String> },
}

impl Door {
    pub(crate) fn new(engine: Arc<Engine>, limits: VectorforgeRequestLimits, defaults: Defaults) -> Self {
        let startup = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        Self { engine, limits, defaults, instance: uuid::Uuid::new_v4(), startup }
    }

    /// Runs `work` on a thread that may block, for at most `timeout` seconds.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        timeout: Option<u64>,
        work: impl FnOnce(&Self) -> Result<T, DoorError> + Send + 'static,
    ) -> Result<T, DoorError> {
        let door = Arc::clone(self);
        let span = tracing::Span::current();
        let task = tokio::task::spawn_blocking(move || span.in_scope(|| work(&door)));
        match timeout {
            None => task.await?,
            Some(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), task).await {
                Ok(result) => result?,
                Err(_) => Err(DoorError::Timeout { seconds }),
            },
        }
    }

    pub(crate) fn collection(&self, name: &str) -> Result<Arc<Collection>, DoorError> {
        Ok(self.engine.collection(name)?)
    }

    // Collections

    pub(crate) fn create(&self, name: &str, request: CreateJson) -> Result<bool, DoorError> {
        let mut config = request.config(&self.defaults)?;
        let now = std::time::SystemTime::now();
        let spec = Spec { request, created_at: Some(humantime::format_rfc3339_seconds(now).to_string()) };
        config.annotations = spec.annotations();
        self.engine.create_collection(name, config)?;
        Ok(true)
    }

    pub(crate) fn update(&self, name: &str, change: UpdateJson) -> Result<bool, DoorError> {
        let collection = self.collection(name)?;
        let before = collection.config();
        let mut spec = Spec::of(&before);
        spec.request = change.over(spec.request)?;
        let after = spec.request.config(&self.defaults)?;
        collection.update_config(ConfigChange {
            hnsw: (after.hnsw != before.hnsw).then_some(after.hnsw),
            optimizer: (after.optimizer != before.optimizer).then_some(after.optimizer),
            annotations: Some(spec.annotations()),
        })?;
        Ok(true)
    }

    /// Whether a collection or alias of that name is there.
    pub(crate) fn exists(&self, name: &str) -> bool {
        self.engine.collection(name).is_ok()
    }

    /// The aliases of a collection, each with its name.
    pub(crate) fn aliases_of(&self, name: &str) -> Result<Vec<(String, String)>, DoorError> {
        let collection = self.collection(name)?;
        let aliases = self.engine.aliases();
        Ok(aliases.into_iter().filter(|(_, target)| target == collection.name()).collect())
    }

    // Writes: each returns the number of the operation.

    pub(crate) fn write(&self, name: &str, operation: Operation, wait: bool) -> Result<u64, DoorError> {
        self.check_write(&operation)?;
        apply(self.collection(name)?.as_ref(), operation, wait)
    }

    /// Checks every operation, then applies them in order; the first failure ends the batch.
    pub(crate) fn write_batch(
        &self,
        name: &str,
        operations: Vec<Operation>,
        wait: bool,
    ) -> Result<Vec<u64>, DoorError> {
        limits::batch(&self.limits, "operations", operations.len())?;
        let collection = self.collection(name)?;
        operations.iter().try_for_each(|operation| self.check_write(operation))?;
        operations.into_iter().map(|operation| apply(&collection, operation, wait)).collect()
    }

    fn check_write(&self, operation: &Operation) -> Result<(), DoorError> {
        let selector = |points| limits::selector(&self.limits, points);
        match operation {
            Operation::Upsert(points) => limits::batch(&self.limits, "points", points.len()),
            Operation::UpdateVectors(vectors) => limits::batch(&self.limits, "points", vectors.len()),
            Operation::Delete(points)
            | Operation::ClearPayload(points)
            | Operation::DeletePayload { points, .. }
            | Operation::SetPayload { points, .. }
            | Operation::OverwritePayload { points, .. } => selector(points),
            Operation::DeleteVectors { points, names } => {
                if names.is_empty() {
                    return Err(DoorError::input("no vector names to delete"));
                }
                selector(points)
            }
        }
    }

    pub(crate) fn create_index(&self, name: &str, key: &str, schema: FieldSchema) -> Result<u64, DoorError> {
        Ok(self.collection(name)?.create_field_index(&key.parse()?, schema)?)
    }

    pub(crate) fn delete_index(&self, name: &str, key: &str) -> Result<u64, DoorError> {
        Ok(self.collection(name)?.delete_field_index(&key.parse()?)?)
    }

    // Reads

    pub(crate) fn get(&self, name: &str, ids: &[PointId], with: &With) -> Result<Vec<Record>, DoorError> {
        limits::ids(&self.limits, ids.len())?;
        Ok(self.collection(name)?.get(ids, with)?)
    }

    pub(crate) fn count(&self, name: &str, filter: Option<&Filter>, exact: bool) -> Result<usize, DoorError> {
        limits::filter(&self.limits, filter)?;
        Ok(self.collection(name)?.count(filter, exact)?)
    }

    pub(crate) fn scroll(&self, name: &str, scroll: &Scroll) -> Result<ScrollPage, DoorError> {
        limits::page(&self.limits, scroll.limit, 0)?;
        limits::filter(&self.limits, scroll.filter.as_ref())?;
        if scroll.order_by.is_some() && scroll.offset.is_some() {
            return Err(DoorError::input(
                "`offset` and `order_by` exclude each other; use `order_by.start_from`",
            ));
        }
        Ok(self.collection(name)?.scroll(scroll)?)
    }

    pub(crate) fn facet(
        &self,
        name: &str,
        key: &str,
        filter: Option<&Filter>,
        limit: usize,
    ) -> Result<Vec<(MatchValue, usize)>, DoorError> {
        limits::page(&self.limits, limit, 0)?;
        limits::filter(&self.limits, filter)?;
        Ok(self.collection(name)?.facet(&key.parse()?, filter, limit)?)
    }

    pub(crate) fn query(&self, name: &str, request: QueryRequest) -> Result<Vec<Hit>, DoorError> {
        let collection = self.collection(name)?;
        match self.plan(&collection, request)? {
            Plan::Nearest(query) => Ok(hits(collection.search(&query)?)),
            Plan::Walk(walk) => walk.hits(&collection),
        }
    }

    /// Several queries; the first that is refused refuses them all.
    pub(crate) fn query_batch(
        &self,
        name: &str,
        requests: Vec<QueryRequest>,
    ) -> Result<Vec<Vec<Hit>>, DoorError> {
        limits::searches(&self.limits, requests.len())?;
        let collection = self.collection(name)?;
        let plans = requests
            .into_iter()
            .map(|request| self.plan(&collection, request))
            .collect::<Result<Vec<_>, _>>()?;
        let queries: Option<Vec<Query>> = plans
            .iter()
            .map(|plan| match plan {
                Plan::Nearest(query) => Some(query.clone()),
                Plan::Walk(_) => None,
            })
            .collect();
        if let Some(queries) = queries {
            return Ok(collection.search_batch(&queries)?.into_iter().map(hits).collect());
        }
        plans
            .into_iter()
            .map(|plan| match plan {
                Plan::Nearest(query) => Ok(hits(collection.search(&query)?)),
                Plan::Walk(walk) => walk.hits(&collection),
            })
            .collect()
    }

    /// Checks a query and resolves ids to vectors.
    fn plan(&self, collection: &Collection, request: QueryRequest) -> Result<Plan, DoorError> {
        let QueryRequest { kind, using, lookup, mut filter, params, score_threshold, limit, offset, with } =
            request;
        limits::page(&self.limits, limit, offset)?;
        limits::params(&self.limits, &params)?;
        limits::threshold(score_threshold)?;
        limits::filter(&self.limits, filter.as_ref())?;
        let walk = |order, filter, with| Plan::Walk(Walk { order, filter, limit, offset, with });
        let vector = match kind {
            Some(QueryKind::Vector(vector)) => vector,
            Some(QueryKind::Id(id)) => {
                let vector = self.vector_of(collection, id, &using, lookup.as_ref())?;
                if lookup.is_none_or(|(name, _)| name == collection.name()) {
                    filter = Some(without(id, filter));
                }
                vector
            }
            Some(QueryKind::OrderBy(order)) => return Ok(walk(Order::By(order), filter, with)),
            Some(QueryKind::Sample) => return Ok(walk(Order::Random, filter, with)),
            Some(QueryKind::Unsupported(name)) => {
                return Err(DoorError::unsupported(format!(
                    "`{name}` queries; it has nearest, order_by and sample"
                )));
            }
            None => return Ok(walk(Order::Id, filter, with)),
        };
        finite(&vector)?;
        Ok(Plan::Nearest(Query { vector, using, filter, limit, offset, params, score_threshold, with }))
    }

    /// The vector of a point, from this collection or the one looked up.
    fn vector_of(
        &self,
        collection: &Collection,
        id: PointId,
        using: &str,
        lookup: Option<&(String, Option<String>)>,
    ) -> Result<Vec<f32>, DoorError> {
        let (records, field) = match lookup {
            None => (get_vector(collection, id, using)?, using),
            Some((name, field)) => {
                let field = field.as_deref().unwrap_or(using);
                (get_vector(self.collection(name)?.as_ref(), id, field)?, field)
            }
        };
        let Some(record) = records.into_iter().next() else {
            return Err(DoorError::NotFound(format!("No point with id {id} found")));
        };
        let vector = record.vectors.and_then(|mut vectors| vectors.0.remove(field));
        vector.ok_or_else(|| DoorError::NotFound(format!("Point {id} has no vector `{field}`")))
    }
}

fn get_vector(collection: &Collection, id: PointId, field: &str) -> Result<Vec<Record>, DoorError> {
    let with = With { payload: WithPayload::None, vectors: WithVectors::Names(vec![field.to_owned()]) };
    Ok(collection.get(&[id], &with)?)
}

/// gRPC and floats of JSON can carry what no score compares with.
pub(crate) fn finite(vector: &[f32]) -> Result<(), DoorError> {
    match vector.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(position) => Err(DoorError::input(format!(
            "the query vector has a component that is not finite, at position {position}"
        ))),
    }
}

/// The filter, and not this point.
fn without(id: PointId, filter: Option<Filter>) -> Filter {
    Filter {
        must: filter.map(Condition::Filter).into_iter().collect(),
        must_not: vec![Condition::HasId(BTreeSet::from([id]))],
        ..Filter::default()
    }
}

fn apply(collection: &Collection, operation: Operation, wait: bool) -> Result<u64, DoorError> {
    let number = match operation {
        Operation::Upsert(points) => collection.upsert(points, wait),
        Operation::Delete(points) => collection.delete(&points, wait),
        Operation::SetPayload { points, payload, key } => {
            collection.set_payload(&points, &payload, key.as_ref(), wait)
        }
        Operation::OverwritePayload { points, payload } => {
            collection.overwrite_payload(&points, &payload, wait)
        }
        Operation::DeletePayload { points, keys } => collection.delete_payload(&points, &keys, wait),
        Operation::ClearPayload(points) => collection.clear_payload(&points, wait),
        Operation::UpdateVectors(vectors) => collection.update_vectors(vectors, wait),
        Operation::DeleteVectors { points, names } => collection.delete_vectors(&points, &names, wait),
    };
    Ok(number?)
}

enum Plan {
    Nearest(Query),
    Walk(Walk),
}

/// An answer that compares no vectors.
struct Walk {
    order: Order,
    filter: Option<Filter>,
    limit: usize,
    offset: usize,
    with: With,
}

enum Order {
    Id,
    By(OrderBy),
    Random,
}

impl Walk {
    fn hits(self, collection: &Collection) -> Result<Vec<Hit>, DoorError> {
        let order_by = match self.order {
            Order::Random => return self.sample(collection),
            Order::Id => None,
            Order::By(order) => Some(order),
        };
        let limit = self.limit + self.offset;
        let scroll = Scroll { filter: self.filter, limit, offset: None, order_by, with: self.with };
        let page = collection.scroll(&scroll)?;
        Ok(page.points.into_iter().skip(self.offset).map(Hit::listed).collect())
    }

    /// `limit` points drawn evenly. Every passing id is listed once, so this takes time with the collection's size.
    fn sample(self, collection: &Collection) -> Result<Vec<Hit>, DoorError> {
        let scroll = Scroll { filter: self.filter, limit: usize::MAX, ..Scroll::default() };
        let ids: Vec<PointId> =
            collection.scroll(&scroll)?.points.into_iter().map(|record| record.id).collect();
        let drawn: Vec<PointId> = ids.sample(&mut rand::rng(), self.limit + self.offset).copied().collect();
        let records = collection.get(&drawn, &self.with)?;
        Ok(records.into_iter().skip(self.offset).map(Hit::listed).collect())
    }
}

impl Hit {
    /// A point that no vector was compared with: Qdrant gives such points the score 1.
    fn listed(record: Record) -> Self {
        let Record { id, payload, vectors, order_value } = record;
        Self { point: ScoredPoint { id, version: 0, score: 1.0, payload, vectors }, order_value }
    }
}

fn hits(points: Vec<ScoredPoint>) -> Vec<Hit> {
    points.into_iter().map(|point| Hit { point, order_value: None }).collect()
}
