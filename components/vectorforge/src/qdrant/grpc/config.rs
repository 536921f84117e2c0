//! Collections' configurations between protobuf and the door's own form (that of REST).

use std::collections::{BTreeMap, HashMap};

use qdrant_client::qdrant::max_optimization_threads::Variant as ThreadsVariant;
use qdrant_client::qdrant::{
    CollectionConfig as WireConfig, CollectionInfo as WireInfo, CollectionParams, CollectionParamsDiff,
    CollectionStatus as WireStatus, CreateCollection, Datatype, Distance as WireDistance, HnswConfigDiff,
    IdTrackerParams, MaxOptimizationThreads, Memory, OptimizerStatus, OptimizersConfigDiff,
    PayloadStorageParams, QuantizationConfig, QuantizationConfigDiff, ShardingMethod, StrictModeConfig,
    UpdateCollection, UpdateQueueInfo, Value as WireValue, VectorParams, VectorParamsDiff, VectorParamsMap,
    VectorsConfig, VectorsConfigDiff, WalConfigDiff, quantization_config_diff, vectors_config,
    vectors_config_diff,
};
use serde_json::{Map, Value, json};

use super::index::schema_info;
use super::value::{payload, wire_value};
use crate::engine::{CollectionInfo, CollectionStatus};
use crate::qdrant::error::DoorError;
use crate::qdrant::json::answer::InfoJson;
use crate::qdrant::json::collection::{
    CreateJson, DistanceJson, HnswJson, OptimizersJson, ParamsDiffJson, PlacementJson, StrictModeJson,
    UpdateJson, VectorDiffJson, VectorJson, VectorsJson, WalJson,
};

fn memory(wire: Option<i32>) -> Option<String> {
    match Memory::try_from(wire?) {
        Ok(Memory::Cold) => Some("cold".to_owned()),
        Ok(Memory::Cached) => Some("cached".to_owned()),
        Ok(Memory::Pinned) => Some("pinned".to_owned()),
        Ok(Memory::Unknown) | Err(_) => None,
    }
}

fn wire_memory(name: Option<&str>) -> Option<i32> {
    match name? {
        "cold" => Some(Memory::Cold as i32),
        "cached" => Some(Memory::Cached as i32),
        "pinned" => Some(Memory::Pinned as i32),
        _ => None,
    }
}

fn count(number: Option<u64>) -> Option<usize> {
    number.map(|number| number as usize)
}

#[allow(deprecated)]
fn hnsw(wire: &HnswConfigDiff) -> HnswJson {
    HnswJson {
        m: count(wire.m),
        ef_construct: count(wire.ef_construct),
        full_scan_threshold: count(wire.full_scan_threshold),
        max_indexing_threads: count(wire.max_indexing_threads),
        on_disk: wire.on_disk,
        memory: memory(wire.memory),
        payload_m: count(wire.payload_m),
        inline_storage: wire.inline_storage,
    }
}

#[allow(deprecated)]
fn wire_hnsw(config: &HnswJson) -> HnswConfigDiff {
    let count = |number: Option<usize>| number.map(|number| number as u64);
    HnswConfigDiff {
        m: count(config.m),
        ef_construct: count(config.ef_construct),
        full_scan_threshold: count(config.full_scan_threshold),
        max_indexing_threads: count(config.max_indexing_threads),
        on_disk: config.on_disk,
        payload_m: count(config.payload_m),
        inline_storage: config.inline_storage,
        memory: wire_memory(config.memory.as_deref()),
    }
}

fn optimizers(wire: &OptimizersConfigDiff) -> OptimizersJson {
    let threads = |threads: &MaxOptimizationThreads| match threads.variant {
        Some(ThreadsVariant::Value(threads)) => json!(threads),
        Some(ThreadsVariant::Setting(_)) | None => json!("auto"),
    };
    OptimizersJson {
        deleted_threshold: wire.deleted_threshold,
        vacuum_min_vector_number: count(wire.vacuum_min_vector_number),
        default_segment_number: count(wire.default_segment_number),
        max_segment_size: count(wire.max_segment_size),
        memmap_threshold: count(wire.memmap_threshold),
        indexing_threshold: count(wire.indexing_threshold),
        flush_interval_sec: wire.flush_interval_sec,
        max_optimization_threads: wire.max_optimization_threads.as_ref().map(threads),
        prevent_unoptimized: wire.prevent_unoptimized,
    }
}

fn wal(wire: WalConfigDiff) -> WalJson {
    WalJson {
        capacity_mb: wire.wal_capacity_mb,
        segments_ahead: wire.wal_segments_ahead,
        retain_closed: wire.wal_retain_closed,
    }
}

/// Any quantization is refused further on; what matters is that it was asked for.
fn quantization(wire: Option<QuantizationConfig>) -> Option<Value> {
    wire.and_then(|config| config.quantization).map(|_| json!("asked for"))
}

fn quantization_diff(wire: Option<QuantizationConfigDiff>) -> Option<Value> {
    match wire?.quantization? {
        quantization_config_diff::Quantization::Disabled(_) => None,
        _ => Some(json!("asked for")),
    }
}

fn strict_mode(wire: &StrictModeConfig) -> StrictModeJson {
    StrictModeJson { enabled: wire.enabled, rest: Map::new() }
}

#[allow(deprecated)]
fn vector(wire: VectorParams) -> Result<VectorJson, DoorError> {
    let distance = match WireDistance::try_from(wire.distance) {
        Ok(WireDistance::Cosine) => DistanceJson::Cosine,
        Ok(WireDistance::Euclid) => DistanceJson::Euclid,
        Ok(WireDistance::Dot) => DistanceJson::Dot,
        Ok(WireDistance::Manhattan) => DistanceJson::Manhattan,
        Ok(WireDistance::UnknownDistance) | Err(_) => {
            return Err(DoorError::input("distance is one of Cosine, Euclid, Dot, Manhattan"));
        }
    };
    let datatype = match wire.datatype.map(Datatype::try_from) {
        None | Some(Ok(Datatype::Default)) => None,
        Some(Ok(kind)) => Some(kind.as_str_name().to_lowercase()),
        Some(Err(unknown)) => return Err(DoorError::input(format!("datatype: {unknown}"))),
    };
    Ok(VectorJson {
        size: wire.size as usize,
        distance,
        hnsw_config: wire.hnsw_config.as_ref().map(hnsw),
        quantization_config: quantization(wire.quantization_config),
        on_disk: wire.on_disk,
        memory: memory(wire.memory),
        datatype,
        multivector_config: wire.multivector_config.map(|_| json!("asked for")),
    })
}

#[allow(deprecated)]
fn wire_vector(config: &VectorJson) -> VectorParams {
    let distance = match config.distance {
        DistanceJson::Cosine => WireDistance::Cosine,
        DistanceJson::Euclid => WireDistance::Euclid,
        DistanceJson::Dot => WireDistance::Dot,
        DistanceJson::Manhattan => WireDistance::Manhattan,
    };
    VectorParams {
        size: config.size as u64,
        distance: distance as i32,
        hnsw_config: config.hnsw_config.as_ref().map(wire_hnsw),
        on_disk: config.on_disk,
        memory: wire_memory(config.memory.as_deref()),
        datatype: config.datatype.as_ref().map(|_| Datatype::Float32 as i32),
        ..VectorParams::default()
    }
}

fn vectors(wire: VectorsConfig) -> Result<Option<VectorsJson>, DoorError> {
    match wire.config {
        None => Ok(None),
        Some(vectors_config::Config::Params(params)) => {
            Ok(Some(VectorsJson::Unnamed(Box::new(vector(params)?))))
        }
        Some(vectors_config::Config::ParamsMap(map)) => {
            let named = map.map.into_iter().map(|(name, params)| Ok((name, vector(params)?)));
            Ok(Some(VectorsJson::Named(named.collect::<Result<BTreeMap<_, _>, DoorError>>()?)))
        }
    }
}

fn placement(wire: Option<i32>) -> PlacementJson {
    PlacementJson { memory: memory(wire) }
}

/// `metadata`, absent when empty.
fn metadata(wire: HashMap<String, WireValue>) -> Result<Option<Map<String, Value>>, DoorError> {
    if wire.is_empty() { Ok(None) } else { payload(wire).map(Some) }
}

/// A request to create a collection, in the form that REST has it.
#[allow(deprecated)]
pub(crate) fn create(wire: CreateCollection) -> Result<CreateJson, DoorError> {
    let custom = wire.sharding_method == Some(ShardingMethod::Custom as i32);
    let sparse = wire.sparse_vectors_config.filter(|config| !config.map.is_empty());
    Ok(CreateJson {
        vectors: wire.vectors_config.map(vectors).transpose()?.flatten(),
        shard_number: wire.shard_number,
        sharding_method: custom.then(|| "custom".to_owned()),
        replication_factor: wire.replication_factor,
        write_consistency_factor: wire.write_consistency_factor,
        on_disk_payload: wire.on_disk_payload,
        payload: wire.payload.map(|payload| placement(payload.memory)),
        id_tracker: wire.id_tracker.map(|tracker| placement(tracker.memory)),
        hnsw_config: wire.hnsw_config.as_ref().map(hnsw),
        wal_config: wire.wal_config.map(wal),
        optimizers_config: wire.optimizers_config.as_ref().map(optimizers),
        quantization_config: quantization(wire.quantization_config),
        sparse_vectors: sparse.map(|config| config.map.into_keys().map(|name| (name, Value::Null)).collect()),
        strict_mode_config: wire.strict_mode_config.as_ref().map(strict_mode),
        init_from: None,
        metadata: metadata(wire.metadata)?,
    })
}

#[allow(deprecated)]
fn params_diff(wire: &CollectionParamsDiff) -> ParamsDiffJson {
    ParamsDiffJson {
        replication_factor: wire.replication_factor,
        write_consistency_factor: wire.write_consistency_factor,
        read_fan_out_factor: wire.read_fan_out_factor,
        read_fan_out_delay_ms: wire.read_fan_out_delay_ms,
        on_disk_payload: wire.on_disk_payload,
        payload: wire.payload.map(|payload| placement(payload.memory)),
        id_tracker: wire.id_tracker.map(|tracker| placement(tracker.memory)),
    }
}

#[allow(deprecated)]
fn vector_diff(wire: VectorParamsDiff) -> VectorDiffJson {
    VectorDiffJson {
        hnsw_config: wire.hnsw_config.as_ref().map(hnsw),
        quantization_config: quantization_diff(wire.quantization_config),
        on_disk: wire.on_disk,
        memory: memory(wire.memory),
    }
}

fn vectors_diff(wire: VectorsConfigDiff) -> BTreeMap<String, VectorDiffJson> {
    match wire.config {
        None => BTreeMap::new(),
        Some(vectors_config_diff::Config::Params(params)) => {
            BTreeMap::from([(String::new(), vector_diff(params))])
        }
        Some(vectors_config_diff::Config::ParamsMap(map)) => {
            map.map.into_iter().map(|(name, params)| (name, vector_diff(params))).collect()
        }
    }
}

/// Changes of a collection, in the form that REST has them.
pub(crate) fn update(wire: UpdateCollection) -> Result<UpdateJson, DoorError> {
    let sparse = wire.sparse_vectors_config.filter(|config| !config.map.is_empty());
    Ok(UpdateJson {
        vectors: wire.vectors_config.map(vectors_diff),
        optimizers_config: wire.optimizers_config.as_ref().map(optimizers),
        params: wire.params.as_ref().map(params_diff),
        hnsw_config: wire.hnsw_config.as_ref().map(hnsw),
        quantization_config: quantization_diff(wire.quantization_config),
        sparse_vectors: sparse.map(|config| config.map.into_keys().map(|name| (name, Value::Null)).collect()),
        strict_mode_config: wire.strict_mode_config.as_ref().map(strict_mode),
        metadata: metadata(wire.metadata)?,
    })
}

/// What is known of a collection.
pub(crate) fn info(engine: CollectionInfo) -> WireInfo {
    let (status, error) = match &engine.status {
        CollectionStatus::Green => (WireStatus::Green, String::new()),
        CollectionStatus::Yellow => (WireStatus::Yellow, String::new()),
        CollectionStatus::Grey => (WireStatus::Grey, String::new()),
        CollectionStatus::Red(message) => (WireStatus::Red, message.clone()),
    };
    let payload_schema = engine.fields.iter().map(|(key, field)| (key.clone(), schema_info(field))).collect();
    let json = InfoJson::from(engine);
    let created_at = json
        .created_at
        .as_deref()
        .and_then(|text| humantime::parse_rfc3339(text).ok())
        .map(prost_types::Timestamp::from);
    WireInfo {
        status: status as i32,
        optimizer_status: Some(OptimizerStatus { ok: error.is_empty(), error }),
        segments_count: json.segments_count as u64,
        points_count: Some(json.points_count as u64),
        indexed_vectors_count: Some(json.indexed_vectors_count as u64),
        config: Some(config(json)),
        payload_schema,
        warnings: Vec::new(),
        update_queue: Some(UpdateQueueInfo { length: 0, deferred_points: None }),
        created_at,
    }
}

#[allow(deprecated)]
fn config(info: InfoJson) -> WireConfig {
    let config = info.config;
    let (params, hnsw, optimizer, wal) =
        (config.params, config.hnsw_config, config.optimizer_config, config.wal_config);
    let vectors = match &params.vectors {
        VectorsJson::Unnamed(vector) => vectors_config::Config::Params(wire_vector(vector)),
        VectorsJson::Named(map) => vectors_config::Config::ParamsMap(VectorParamsMap {
            map: map.iter().map(|(name, vector)| (name.clone(), wire_vector(vector))).collect(),
        }),
    };
    let count = |number: Option<usize>| number.map(|number| number as u64);
    WireConfig {
        params: Some(CollectionParams {
            shard_number: params.shard_number,
            on_disk_payload: params.on_disk_payload,
            vectors_config: Some(VectorsConfig { config: Some(vectors) }),
            replication_factor: Some(params.replication_factor),
            write_consistency_factor: Some(params.write_consistency_factor),
            payload: params
                .payload
                .map(|place| PayloadStorageParams { memory: wire_memory(place.memory.as_deref()) }),
            id_tracker: params
                .id_tracker
                .map(|place| IdTrackerParams { memory: wire_memory(place.memory.as_deref()) }),
            ..CollectionParams::default()
        }),
        hnsw_config: Some(HnswConfigDiff {
            m: Some(hnsw.m as u64),
            ef_construct: Some(hnsw.ef_construct as u64),
            full_scan_threshold: Some(hnsw.full_scan_threshold as u64),
            max_indexing_threads: Some(hnsw.max_indexing_threads as u64),
            on_disk: Some(hnsw.on_disk),
            ..HnswConfigDiff::default()
        }),
        optimizer_config: Some(OptimizersConfigDiff {
            deleted_threshold: Some(optimizer.deleted_threshold),
            vacuum_min_vector_number: Some(optimizer.vacuum_min_vector_number as u64),
            default_segment_number: Some(optimizer.default_segment_number as u64),
            max_segment_size: count(optimizer.max_segment_size),
            memmap_threshold: count(optimizer.memmap_threshold),
            indexing_threshold: Some(optimizer.indexing_threshold as u64),
            flush_interval_sec: Some(optimizer.flush_interval_sec),
            max_optimization_threads: optimizer.max_optimization_threads.map(|threads| {
                MaxOptimizationThreads { variant: Some(ThreadsVariant::Value(threads as u64)) }
            }),
            ..OptimizersConfigDiff::default()
        }),
        wal_config: Some(WalConfigDiff {
            wal_capacity_mb: Some(wal.capacity_mb),
            wal_segments_ahead: Some(wal.segments_ahead),
            wal_retain_closed: Some(wal.retain_closed),
        }),
        quantization_config: None,
        strict_mode_config: None,
        metadata: config
            .metadata
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, wire_value(value)))
            .collect(),
    }
}
