//! Answers: the envelope, points, and the info of a collection.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::collection::{CreateJson, PlacementJson, Spec, VectorJson, VectorsJson};
use super::id::Id;
use super::index::IndexInfoJson;
use super::vector::PointVectors;
use crate::engine::{
    CollectionConfig, CollectionInfo, CollectionStatus, MatchValue, OrderValue, Payload, Record, ScoredPoint,
    UNNAMED,
};

/// `{"result": …, "status": "ok", "time": seconds}`.
pub(crate) struct Answer<T> {
    result: T,
    started: Instant,
}

impl<T> Answer<T> {
    pub(crate) fn new(started: Instant, result: T) -> Self {
        Self { result, started }
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Envelope<T> {
            result: T,
            status: &'static str,
            time: f64,
        }
        let time = self.started.elapsed().as_secs_f64();
        Json(Envelope { result: self.result, status: "ok", time }).into_response()
    }
}

/// A stored point.
#[derive(Debug, Serialize)]
pub(crate) struct RecordJson {
    id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<PointVectors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_value: Option<OrderValueJson>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OrderValueJson {
    Int(i64),
    Float(f64),
}

impl From<OrderValue> for OrderValueJson {
    fn from(value: OrderValue) -> Self {
        match value {
            OrderValue::Int(value) => Self::Int(value),
            OrderValue::Float(value) => Self::Float(value),
        }
    }
}

impl From<Record> for RecordJson {
    fn from(record: Record) -> Self {
        Self {
            id: Id(record.id),
            payload: record.payload,
            vector: record.vectors.map(PointVectors),
            order_value: record.order_value.map(Into::into),
        }
    }
}

/// A found point.
#[derive(Debug, Serialize)]
pub(crate) struct ScoredJson {
    id: Id,
    version: u64,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<PointVectors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_value: Option<OrderValueJson>,
}

impl From<ScoredPoint> for ScoredJson {
    fn from(point: ScoredPoint) -> Self {
        Self {
            id: Id(point.id),
            version: point.version,
            score: point.score,
            payload: point.payload,
            vector: point.vectors.map(PointVectors),
            order_value: None,
        }
    }
}

impl From<crate::qdrant::ops::Hit> for ScoredJson {
    fn from(hit: crate::qdrant::ops::Hit) -> Self {
        Self { order_value: hit.order_value.map(Into::into), ..Self::from(hit.point) }
    }
}

/// The outcome of a write.
#[derive(Debug, Serialize)]
pub(crate) struct UpdateJson {
    pub(crate) operation_id: u64,
    pub(crate) status: &'static str,
}

impl UpdateJson {
    /// `completed` when the write is on disk, `acknowledged` when the request did not wait for that.
    pub(crate) fn new(operation_id: u64, wait: bool) -> Self {
        Self { operation_id, status: if wait { "completed" } else { "acknowledged" } }
    }
}

/// A value of a facet.
pub(crate) fn facet_value(value: MatchValue) -> Value {
    match value {
        MatchValue::Keyword(text) => Value::String(text),
        MatchValue::Integer(number) => Value::from(number),
        MatchValue::Bool(flag) => Value::Bool(flag),
    }
}

/// What is known of a collection, in Qdrant's words.
#[derive(Debug, Serialize)]
pub(crate) struct InfoJson {
    pub(crate) status: &'static str,
    pub(crate) optimizer_status: Value,
    pub(crate) indexed_vectors_count: usize,
    pub(crate) points_count: usize,
    pub(crate) segments_count: usize,
    pub(crate) config: ConfigJson,
    pub(crate) payload_schema: BTreeMap<String, IndexInfoJson>,
    update_queue: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<String>,
}

/// The configuration in force.
#[derive(Debug, Serialize)]
pub(crate) struct ConfigJson {
    pub(crate) params: ParamsJson,
    pub(crate) hnsw_config: HnswInfoJson,
    pub(crate) optimizer_config: OptimizerInfoJson,
    pub(crate) wal_config: WalInfoJson,
    pub(crate) quantization_config: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// Vectors, shards and copies.
#[derive(Debug, Serialize)]
pub(crate) struct ParamsJson {
    pub(crate) vectors: VectorsJson,
    pub(crate) shard_number: u32,
    pub(crate) replication_factor: u32,
    pub(crate) write_consistency_factor: u32,
    pub(crate) on_disk_payload: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<PlacementJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id_tracker: Option<PlacementJson>,
}

/// Graph parameters in force; the threshold in kB.
#[derive(Debug, Serialize)]
pub(crate) struct HnswInfoJson {
    pub(crate) m: usize,
    pub(crate) ef_construct: usize,
    pub(crate) full_scan_threshold: usize,
    pub(crate) max_indexing_threads: usize,
    pub(crate) on_disk: bool,
}

/// Optimiser parameters in force; sizes in kB.
#[derive(Debug, Serialize)]
pub(crate) struct OptimizerInfoJson {
    pub(crate) deleted_threshold: f64,
    pub(crate) vacuum_min_vector_number: usize,
    pub(crate) default_segment_number: usize,
    pub(crate) max_segment_size: Option<usize>,
    pub(crate) memmap_threshold: Option<usize>,
    pub(crate) indexing_threshold: usize,
    pub(crate) flush_interval_sec: u64,
    pub(crate) max_optimization_threads: Option<usize>,
}

/// Log parameters as asked for.
#[derive(Debug, Serialize)]
pub(crate) struct WalInfoJson {
    #[serde(rename = "wal_capacity_mb")]
    pub(crate) capacity_mb: u64,
    #[serde(rename = "wal_segments_ahead")]
    pub(crate) segments_ahead: u64,
    #[serde(rename = "wal_retain_closed")]
    pub(crate) retain_closed: u64,
}

impl From<CollectionInfo> for InfoJson {
    fn from(info: CollectionInfo) -> Self {
        let spec = Spec::of(&info.config);
        let (status, optimizer_status) = match &info.status {
            CollectionStatus::Green => ("green", json!("ok")),
            CollectionStatus::Yellow => ("yellow", json!("ok")),
            CollectionStatus::Grey => ("grey", json!("ok")),
            CollectionStatus::Red(message) => ("red", json!({ "error": message })),
        };
        Self {
            status,
            optimizer_status,
            indexed_vectors_count: info.indexed_vectors,
            points_count: info.points,
            segments_count: info.segments,
            config: ConfigJson::new(&info.config, spec.request),
            payload_schema: info.fields.iter().map(|(key, field)| (key.clone(), field.into())).collect(),
            update_queue: json!({ "length": 0 }),
            created_at: spec.created_at,
        }
    }
}

impl ConfigJson {
    fn new(config: &CollectionConfig, request: CreateJson) -> Self {
        let dimension = config.vectors.values().map(|vector| vector.dimension).max().unwrap_or(1);
        let kb = |points: usize| points.saturating_mul(4 * dimension) / 1024;
        let never = config.hnsw.full_scan_points == usize::MAX;
        let asked_hnsw = request.hnsw_config.unwrap_or_default();
        let asked = request.optimizers_config.unwrap_or_default();
        let wal = request.wal_config.unwrap_or_default();
        Self {
            params: ParamsJson {
                vectors: request.vectors.unwrap_or_else(|| vectors_of(config)),
                shard_number: 1,
                replication_factor: 1,
                write_consistency_factor: 1,
                on_disk_payload: request.on_disk_payload.unwrap_or(false),
                payload: request.payload,
                id_tracker: request.id_tracker,
            },
            hnsw_config: HnswInfoJson {
                m: if never { 0 } else { config.hnsw.m },
                ef_construct: config.hnsw.ef_construct,
                full_scan_threshold: asked_hnsw
                    .full_scan_threshold
                    .unwrap_or_else(|| if never { 0 } else { kb(config.hnsw.full_scan_points) }),
                max_indexing_threads: asked_hnsw.max_indexing_threads.unwrap_or(0),
                on_disk: asked_hnsw.on_disk.unwrap_or(false),
            },
            optimizer_config: OptimizerInfoJson {
                deleted_threshold: config.optimizer.vacuum_fraction,
                vacuum_min_vector_number: asked.vacuum_min_vector_number.unwrap_or(1000),
                default_segment_number: config.optimizer.max_segments,
                max_segment_size: asked.max_segment_size,
                memmap_threshold: asked.memmap_threshold,
                indexing_threshold: match asked.indexing_threshold {
                    Some(kb) => kb,
                    None if config.optimizer.enabled => kb(config.optimizer.seal_points),
                    None => 0,
                },
                flush_interval_sec: asked.flush_interval_sec.unwrap_or(5),
                max_optimization_threads: asked
                    .max_optimization_threads
                    .and_then(|threads| threads.as_u64())
                    .map(|threads| threads as usize),
            },
            wal_config: WalInfoJson {
                capacity_mb: wal.capacity_mb.unwrap_or(32),
                segments_ahead: wal.segments_ahead.unwrap_or(0),
                retain_closed: wal.retain_closed.unwrap_or(1),
            },
            quantization_config: None,
            metadata: request.metadata,
        }
    }
}

/// The vectors of a collection that another door created.
fn vectors_of(config: &CollectionConfig) -> VectorsJson {
    let field =
        |params: &crate::engine::VectorParams| VectorJson::plain(params.dimension, params.distance.into());
    match config.vectors.get(UNNAMED) {
        Some(params) if config.vectors.len() == 1 => VectorsJson::Unnamed(Box::new(field(params))),
        _ => VectorsJson::Named(
            config.vectors.iter().map(|(name, params)| (name.clone(), field(params))).collect(),
        ),
    }
}
