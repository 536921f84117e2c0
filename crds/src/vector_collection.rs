//! `VectorCollection`: vectors and payloads, spoken to as Qdrant.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parts::{BYTES_PATTERN, GpuSpec, ImageSpec, ObjectRef, PodOverrides, ResourceSpec, one};
use crate::rules;
use crate::status::ScaledStatus;

/// Vectors with payloads that speak Qdrant: a collection on a stack's VectorForge, or a server of its own.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "platform.dev",
    version = "v1",
    kind = "VectorCollection",
    plural = "vectorcollections",
    namespaced,
    shortname = "vc",
    category = "aistack",
    selectable = ".spec.stackRef.name",
    status = "ScaledStatus",
    derive = "PartialEq",
    doc = "Vectors with payloads that speak Qdrant: a collection on a stack's VectorForge, or a server of its own.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Dimension", type_ = "integer", json_path = ".spec.dimension"),
    printcolumn(name = "Distance", type_ = "string", json_path = ".spec.distance"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name is longer than 40 characters; names of pods and Services are made from it"),
    validation = rules::service_name(),
    validation = Rule::new("self.metadata.name != 'vectorforge' || has(self.spec.stackRef)")
        .message("metadata.name is that of a stack's own server, whose Services would lead to this collection's pods too; give it another name, or name the stack under stackRef"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.stackRef) || !(has(self.storage) || has(self.replicas) || has(self.gpu))")
        .message("is set, so the collection lives on the stack's VectorForge; storage, replicas and gpu are set there")
        .field_path(".stackRef"),
    validation = Rule::new("has(self.stackRef) == has(oldSelf.stackRef)")
        .message("cannot be added or removed; create a new VectorCollection and copy the points")
        .field_path(".stackRef"),
    validation = Rule::new("self.replicationFactor <= (has(self.replicas) ? self.replicas : 1) || has(self.stackRef)")
        .message("is above replicas; each copy of a shard needs a server of its own")
        .field_path(".replicationFactor"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("cannot be added, changed or removed: the storage class of a volume is for ever; create a new VectorCollection and copy the points")
        .field_path(".storageClassName"),
    // Left out, it is 8Gi: neither that nor what takes its place may be smaller than what was.
    validation = Rule::new("has(self.storage) == has(oldSelf.storage) || has(self.stackRef) || quantity(has(self.storage) ? self.storage : '8Gi').compareTo(quantity(has(oldSelf.storage) ? oldSelf.storage : '8Gi')) >= 0")
        .message("would shrink, and left out it is 8Gi; a volume can grow but not shrink")
        .field_path(".storage"),
)]
pub struct VectorCollectionSpec {
    /// Numbers in a vector. Cannot change.
    #[schemars(range(min = 1, max = 65536))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("cannot change; create a new VectorCollection and re-embed into it"))]
    pub dimension: i32,
    /// How two vectors are compared. Cannot change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("cannot change; create a new VectorCollection and copy the points"))]
    #[serde(default)]
    pub distance: Distance,
    /// AIStack whose VectorForge holds the collection. Left out, the collection has a server of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack_ref: Option<ObjectRef>,
    /// Shards that the points are spread over.
    #[schemars(range(min = 1, max = 256))]
    #[serde(default = "one")]
    pub shards: i32,
    /// Copies of each shard.
    #[schemars(range(min = 1, max = 7))]
    #[serde(default = "one")]
    pub replication_factor: i32,
    /// Servers, of a collection that has its own. Left out: 1.
    #[schemars(range(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Shape of the proximity graph. Left out, a new collection has the engine's defaults, and one that is there keeps what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hnsw: Option<HnswSpec>,
    /// Compressed copies of the vectors for the first pass of a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<VectorQuantization>,
    /// Payload fields that filters use.
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["field".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub payload_indexes: Vec<PayloadIndex>,
    /// Volume of each server, of a collection that has its own. Left out: 8Gi.
    #[schemars(length(max = 24), regex(pattern = BYTES_PATTERN))]
    #[x_kube(validation = rules::size(), validation = Rule::new("quantity(self).compareTo(quantity(oldSelf)) >= 0").message("a volume can grow but not shrink"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// StorageClass of the volumes; left out, the cluster's default.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// VolumeAttributesClass of the volumes, such as one with more operations a second. It can change; Kubernetes 1.34 and newer.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_attributes_class_name: Option<String>,
    /// CPU and memory of each server.
    #[serde(default)]
    pub resources: ResourceSpec,
    /// GPUs that build and search the index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,
    /// Where the images come from.
    #[serde(default)]
    pub image: ImageSpec,
    /// Where the pods may run.
    #[serde(default)]
    pub pod: PodOverrides,
}

/// How two vectors are compared, in Qdrant's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Distance {
    /// Angle between the vectors.
    #[default]
    Cosine,
    /// Inner product.
    Dot,
    /// Straight line.
    Euclid,
    /// Sum of absolute differences.
    Manhattan,
}

/// Shape of the proximity graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HnswSpec {
    /// Edges of a node.
    #[schemars(range(min = 4, max = 64))]
    #[serde(default = "default_m")]
    pub m: i32,
    /// Candidates kept while the graph is built; more is slower to build and finds more.
    #[schemars(range(min = 16, max = 2000))]
    #[serde(default = "default_ef_construct")]
    pub ef_construct: i32,
    /// Points of a segment below which every vector is compared instead. Left out, the engine decides.
    #[schemars(range(min = 0, max = 10000000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_scan_threshold: Option<i32>,
}

/// Compressed copies of the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VectorQuantization {
    /// One byte a number.
    Scalar,
    /// A few bits a group of numbers.
    Product,
    /// One bit a number.
    Binary,
}

/// A payload field that filters use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PayloadIndex {
    /// Name of the field; nested ones with dots.
    #[schemars(length(min = 1, max = 256))]
    pub field: String,
    /// Type of its values.
    #[serde(rename = "type")]
    pub kind: PayloadType,
}

/// Type of a payload field's values, in Qdrant's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PayloadType {
    /// Whole strings.
    Keyword,
    /// Whole numbers.
    Integer,
    /// Numbers.
    Float,
    /// True or false.
    Bool,
    /// Words of a text.
    Text,
}

fn default_m() -> i32 {
    16
}

fn default_ef_construct() -> i32 {
    100
}
