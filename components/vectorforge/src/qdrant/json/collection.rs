//! Collections as requests describe them, and what of that the engine can honour.
//!
//! The request is kept with the collection as it came ([`Spec`] in the engine's annotations), so that its info can
//! show it again; what changes a result is either honoured or refused, placement hints are kept and shown.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::engine::{CollectionConfig, Distance, HnswParams, OptimizerParams, UNNAMED, VectorParams};
use crate::qdrant::error::DoorError;

/// Creates a collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CreateJson {
    pub(crate) vectors: Option<VectorsJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard_number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sharding_method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replication_factor: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) write_consistency_factor: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_disk_payload: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<PlacementJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id_tracker: Option<PlacementJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hnsw_config: Option<HnswJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wal_config: Option<WalJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) optimizers_config: Option<OptimizersJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quantization_config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sparse_vectors: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strict_mode_config: Option<StrictModeJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) init_from: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// A hint where something is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlacementJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<String>,
}

/// Strict mode: taken when it is off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrictModeJson {
    pub(crate) enabled: Option<bool>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// One unnamed vector field or several named ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum VectorsJson {
    Unnamed(Box<VectorJson>),
    Named(BTreeMap<String, VectorJson>),
}

impl<'de> Deserialize<'de> for VectorsJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::<String, Value>::deserialize(deserializer)?;
        let one = map.get("size").is_some_and(|size| !size.is_object()) || map.contains_key("distance");
        let value = Value::Object(map);
        if one {
            serde_json::from_value(value).map(Self::Unnamed).map_err(D::Error::custom)
        } else {
            serde_json::from_value(value).map(Self::Named).map_err(D::Error::custom)
        }
    }
}

/// A vector field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VectorJson {
    pub(crate) size: usize,
    pub(crate) distance: DistanceJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hnsw_config: Option<HnswJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quantization_config: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on_disk: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) datatype: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) multivector_config: Option<Value>,
}

/// The four distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DistanceJson {
    Cosine,
    Euclid,
    Dot,
    Manhattan,
}

impl From<DistanceJson> for Distance {
    fn from(distance: DistanceJson) -> Self {
        match distance {
            DistanceJson::Cosine => Self::Cosine,
            DistanceJson::Euclid => Self::Euclid,
            DistanceJson::Dot => Self::Dot,
            DistanceJson::Manhattan => Self::Manhattan,
        }
    }
}

impl From<Distance> for DistanceJson {
    fn from(distance: Distance) -> Self {
        match distance {
            Distance::Cosine => Self::Cosine,
            Distance::Euclid => Self::Euclid,
            Distance::Dot => Self::Dot,
            Distance::Manhattan => Self::Manhattan,
        }
    }
}

/// Graph parameters; thresholds in kB of vectors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HnswJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) m: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ef_construct: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) full_scan_threshold: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_indexing_threads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_disk: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload_m: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inline_storage: Option<bool>,
}

/// Log parameters: shown again, the engine sizes its log itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WalJson {
    #[serde(rename = "wal_capacity_mb", skip_serializing_if = "Option::is_none")]
    pub(crate) capacity_mb: Option<u64>,
    #[serde(rename = "wal_segments_ahead", skip_serializing_if = "Option::is_none")]
    pub(crate) segments_ahead: Option<u64>,
    #[serde(rename = "wal_retain_closed", skip_serializing_if = "Option::is_none")]
    pub(crate) retain_closed: Option<u64>,
}

/// Parameters of sealing and merging; sizes in kB of vectors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OptimizersJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deleted_threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vacuum_min_vector_number: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default_segment_number: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_segment_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memmap_threshold: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) indexing_threshold: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flush_interval_sec: Option<u64>,
    /// A number or `"auto"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_optimization_threads: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prevent_unoptimized: Option<bool>,
}

/// Changes of a living collection.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpdateJson {
    pub(crate) vectors: Option<BTreeMap<String, VectorDiffJson>>,
    pub(crate) optimizers_config: Option<OptimizersJson>,
    pub(crate) params: Option<ParamsDiffJson>,
    pub(crate) hnsw_config: Option<HnswJson>,
    pub(crate) quantization_config: Option<Value>,
    pub(crate) sparse_vectors: Option<Map<String, Value>>,
    pub(crate) strict_mode_config: Option<StrictModeJson>,
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// Changes of a vector field.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct VectorDiffJson {
    pub(crate) hnsw_config: Option<HnswJson>,
    pub(crate) quantization_config: Option<Value>,
    pub(crate) on_disk: Option<bool>,
    pub(crate) memory: Option<String>,
}

/// Changes of a collection's parameters.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ParamsDiffJson {
    pub(crate) replication_factor: Option<u32>,
    pub(crate) write_consistency_factor: Option<u32>,
    pub(crate) read_fan_out_factor: Option<u32>,
    pub(crate) read_fan_out_delay_ms: Option<u64>,
    pub(crate) on_disk_payload: Option<bool>,
    pub(crate) payload: Option<PlacementJson>,
    pub(crate) id_tracker: Option<PlacementJson>,
}

/// What this door keeps with a collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) request: CreateJson,
    /// RFC 3339, UTC.
    pub(crate) created_at: Option<String>,
}

impl Spec {
    /// The spec of a collection; of one that another door created, an empty one.
    pub(crate) fn of(config: &CollectionConfig) -> Self {
        config
            .annotations
            .get("qdrant")
            .and_then(|value| serde_json::from_value(value.clone()).ok())
            .unwrap_or_default()
    }

    pub(crate) fn annotations(&self) -> Value {
        serde_json::json!({"qdrant": self})
    }
}

fn one(what: &str, value: Option<u32>) -> Result<(), DoorError> {
    match value {
        None | Some(1) => Ok(()),
        Some(other) => Err(DoorError::unsupported(format!(
            "{what} {other}: this node keeps a collection in one shard with one copy"
        ))),
    }
}

fn full_precision(config: Option<&Value>) -> Result<(), DoorError> {
    match config {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(text)) if text == "Disabled" => Ok(()),
        Some(_) => {
            Err(DoorError::unsupported("quantization; vectors are kept and searched as 32-bit floats"))
        }
    }
}

fn strict_mode_off(config: Option<&StrictModeJson>) -> Result<(), DoorError> {
    match config {
        Some(config) if config.enabled == Some(true) => {
            Err(DoorError::unsupported("strict mode; limits are set in the server's configuration"))
        }
        _ => Ok(()),
    }
}

/// kB of vectors as a number of points of this size.
fn points_of_kb(kb: usize, dimension: usize) -> usize {
    kb.saturating_mul(1024) / (4 * dimension.max(1))
}

impl HnswJson {
    /// Qdrant's thresholds count kB; the engine counts points. `m: 0` turns the graph off, as a full scan always.
    pub(crate) fn over(&self, base: HnswParams, dimension: usize) -> HnswParams {
        let mut params = base;
        params.m = self.m.filter(|m| *m > 0).unwrap_or(params.m);
        params.ef_construct = self.ef_construct.unwrap_or(params.ef_construct);
        if let Some(kb) = self.full_scan_threshold {
            params.full_scan_points = points_of_kb(kb, dimension);
        }
        if self.m == Some(0) {
            params.full_scan_points = usize::MAX;
        }
        params
    }
}

impl OptimizersJson {
    pub(crate) fn over(&self, base: OptimizerParams, dimension: usize) -> OptimizerParams {
        let mut params = base;
        params.vacuum_fraction = self.deleted_threshold.unwrap_or(params.vacuum_fraction);
        if let Some(segments) = self.default_segment_number.filter(|segments| *segments > 0) {
            params.max_segments = segments;
        }
        match self.indexing_threshold {
            None => {}
            Some(0) => params.enabled = false,
            Some(kb) => {
                params.enabled = true;
                params.seal_points = points_of_kb(kb, dimension).clamp(1_000, 10_000_000);
            }
        }
        params
    }
}

/// The engine's defaults of a node, from its configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defaults {
    pub(crate) hnsw: HnswParams,
    pub(crate) optimizer: OptimizerParams,
    pub(crate) max_dimension: usize,
}

impl CreateJson {
    /// The engine's configuration of this collection, or what cannot be honoured.
    pub(crate) fn config(&self, defaults: &Defaults) -> Result<CollectionConfig, DoorError> {
        one("shard_number", self.shard_number)?;
        one("replication_factor", self.replication_factor)?;
        one("write_consistency_factor", self.write_consistency_factor)?;
        full_precision(self.quantization_config.as_ref())?;
        strict_mode_off(self.strict_mode_config.as_ref())?;
        if self.sharding_method.as_deref().is_some_and(|method| method != "auto") {
            return Err(DoorError::unsupported("sharding_method `custom`"));
        }
        if self.sparse_vectors.as_ref().is_some_and(|map| !map.is_empty()) {
            return Err(DoorError::unsupported("sparse vectors"));
        }
        if self.init_from.is_some() {
            return Err(DoorError::unsupported("`init_from`"));
        }
        let fields: BTreeMap<String, &VectorJson> = match &self.vectors {
            None => BTreeMap::new(),
            Some(VectorsJson::Unnamed(vector)) => BTreeMap::from([(UNNAMED.to_owned(), &**vector)]),
            Some(VectorsJson::Named(map)) => {
                map.iter().map(|(name, vector)| (name.clone(), vector)).collect()
            }
        };
        let dimension = fields.values().map(|vector| vector.size).max().unwrap_or(1);
        let empty = HnswJson::default();
        let hnsw = self.hnsw_config.as_ref().unwrap_or(&empty).over(defaults.hnsw, dimension);
        let optimizer = self
            .optimizers_config
            .as_ref()
            .map_or(defaults.optimizer, |config| config.over(defaults.optimizer, dimension));
        let vectors = fields
            .into_iter()
            .map(|(name, vector)| Ok((name.clone(), vector.params(&name, hnsw, defaults.max_dimension)?)))
            .collect::<Result<_, DoorError>>()?;
        Ok(CollectionConfig { vectors, hnsw, optimizer, annotations: Value::Null })
    }
}

impl VectorJson {
    /// A field of this size and distance, defaults elsewhere.
    pub(crate) fn plain(size: usize, distance: DistanceJson) -> Self {
        Self {
            size,
            distance,
            hnsw_config: None,
            quantization_config: None,
            on_disk: None,
            memory: None,
            datatype: None,
            multivector_config: None,
        }
    }

    fn params(&self, name: &str, hnsw: HnswParams, max_dimension: usize) -> Result<VectorParams, DoorError> {
        full_precision(self.quantization_config.as_ref())?;
        if self.multivector_config.as_ref().is_some_and(|config| !config.is_null()) {
            return Err(DoorError::unsupported("multivectors"));
        }
        match self.datatype.as_deref() {
            None | Some("float32" | "default") => {}
            Some(other) => {
                return Err(DoorError::unsupported(format!(
                    "datatype `{other}`; vectors are kept as float32"
                )));
            }
        }
        if self.size == 0 || self.size > max_dimension {
            let size = self.size;
            return Err(DoorError::input(format!(
                "vector `{name}`: size is {size}, allowed is 1 to {max_dimension}"
            )));
        }
        Ok(VectorParams {
            dimension: self.size,
            distance: self.distance.into(),
            hnsw: self.hnsw_config.as_ref().map(|config| config.over(hnsw, self.size)),
        })
    }
}

impl UpdateJson {
    /// The request of the collection as if it had been created with these changes, or what cannot be honoured.
    pub(crate) fn over(self, mut request: CreateJson) -> Result<CreateJson, DoorError> {
        full_precision(self.quantization_config.as_ref())?;
        strict_mode_off(self.strict_mode_config.as_ref())?;
        if self.sparse_vectors.is_some_and(|map| !map.is_empty()) {
            return Err(DoorError::unsupported("sparse vectors"));
        }
        for (name, change) in self.vectors.unwrap_or_default() {
            full_precision(change.quantization_config.as_ref())?;
            if change.hnsw_config.is_some() {
                return Err(DoorError::unsupported(
                    "changing `hnsw_config` of one vector; change the collection's",
                ));
            }
            let field = match &mut request.vectors {
                Some(VectorsJson::Unnamed(vector)) if name.is_empty() => Some(&mut **vector),
                Some(VectorsJson::Named(map)) => map.get_mut(&name),
                _ => None,
            };
            let field =
                field.ok_or_else(|| DoorError::input(format!("Not existing vector name error: {name}")))?;
            field.on_disk = change.on_disk.or(field.on_disk);
            field.memory = change.memory.or_else(|| field.memory.take());
        }
        if let Some(params) = self.params {
            one("replication_factor", params.replication_factor)?;
            one("write_consistency_factor", params.write_consistency_factor)?;
            request.on_disk_payload = params.on_disk_payload.or(request.on_disk_payload);
            request.payload = params.payload.or(request.payload);
            request.id_tracker = params.id_tracker.or(request.id_tracker);
        }
        merge(&mut request.hnsw_config, self.hnsw_config.as_ref());
        merge(&mut request.optimizers_config, self.optimizers_config.as_ref());
        if let Some(metadata) = self.metadata {
            request.metadata.get_or_insert_default().extend(metadata);
        }
        Ok(request)
    }
}

/// Overlays the fields that `change` names.
fn merge<T: Serialize + for<'de> Deserialize<'de> + Default>(into: &mut Option<T>, change: Option<&T>) {
    let Some(change) = change else { return };
    let object = |value: &T| serde_json::to_value(value).unwrap_or_default();
    let mut merged = object(&into.take().unwrap_or_default());
    if let (Value::Object(merged), Value::Object(change)) = (&mut merged, object(change)) {
        merged.extend(change);
    }
    *into = serde_json::from_value(merged).ok();
}
