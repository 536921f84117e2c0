//! `AIStack`: a whole platform from one manifest.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::env_pool::InterfacesSpec;
use crate::inference_service::{FETCHABLE, ModelQuantization, NOT_FETCHED, Rollout, ScalingSpec};
use crate::kv_cluster::KVClusterSpec;
use crate::parts::{
    BYTES_PATTERN, ClientTlsSpec, ImageSpec, MODEL_PATTERN, PodOverrides, ResourceSpec, SecretKeyRef,
    URL_PATTERN, one,
};
use crate::rules;
use crate::status::BasicStatus;

/// A whole AI platform: each part is one of ours, or a server that already runs and speaks the same protocol.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "platform.dev",
    version = "v1",
    kind = "AIStack",
    plural = "aistacks",
    namespaced,
    shortname = "stack",
    category = "aistack",
    selectable = ".spec.retention",
    status = "BasicStatus",
    derive = "PartialEq",
    doc = "A whole AI platform: each part is one of ours, or a server that already runs and speaks the same protocol.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Summary", type_ = "string", json_path = ".status.summary"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 30")
        .message("metadata.name is longer than 30 characters; names of pods and Services are made from it"),
    validation = rules::service_name(),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.tinykv) && has(self.kvStore))")
        .message("is set beside spec.tinykv; a stack has one key-value store, so keep one of the two")
        .field_path(".kvStore"),
    validation = Rule::new("!(has(self.vectorforge) && has(self.vectorStore))")
        .message("is set beside spec.vectorforge; a stack has one vector database, so keep one of the two")
        .field_path(".vectorStore"),
    validation = Rule::new("!(has(self.tinyinfer) && has(self.inference))")
        .message("is set beside spec.tinyinfer; a stack has one inference engine, so keep one of the two")
        .field_path(".inference"),
    validation = Rule::new("!(has(self.minidb) && has(self.sql))")
        .message("is set beside spec.minidb; a stack has one SQL database, so keep one of the two")
        .field_path(".sql"),
    validation = Rule::new("!(has(self.modelhub) && has(self.modelHub))")
        .message("is set beside spec.modelhub; both name the same component, so keep one of the two")
        .field_path(".modelHub"),
    validation = Rule::new("!(has(self.envruntime) && has(self.envRuntime))")
        .message("is set beside spec.envruntime; both name the same component, so keep one of the two")
        .field_path(".envRuntime"),
    validation = Rule::new("!(has(self.modelhub) || has(self.modelHub)) || has(self.tinykv) || has(self.kvStore)")
        .message("has a model hub but no key-value store; add tinykv: {} or kvStore: {type: etcd, endpoints: [...]}"),
    validation = Rule::new("!(has(self.modelhub) || has(self.modelHub)) || has(self.vectorforge) || has(self.vectorStore)")
        .message("has a model hub but no vector database; add vectorforge: {} or vectorStore: {type: qdrant, endpoint: ...}"),
    validation = Rule::new("!(has(self.modelhub) || has(self.modelHub)) || has(self.tinyinfer) || has(self.inference)")
        .message("has a model hub but no inference engine; add tinyinfer: {model: ...} or inference: {type: vllm, model: ...}"),
    validation = Rule::new("has(self.tinykv) || has(self.kvStore) || has(self.vectorforge) || has(self.vectorStore) || has(self.tinyinfer) || has(self.inference) || has(self.modelhub) || has(self.modelHub) || has(self.minidb) || has(self.sql) || has(self.envruntime) || has(self.envRuntime)")
        .message("is empty; name at least one component, for example tinykv: {}"),
    validation = Rule::new("oldSelf.retention != 'Delete' || !has(oldSelf.tinykv) || has(self.tinykv)")
        .message("is taken away while spec.retention is Delete, and its volumes would go with it; set retention: Retain, wait until the stack is Ready, and take it away then")
        .field_path(".tinykv"),
    validation = Rule::new("oldSelf.retention != 'Delete' || !(has(oldSelf.modelhub) || has(oldSelf.modelHub)) || has(self.modelhub) || has(self.modelHub)")
        .message("is taken away while spec.retention is Delete, and its volumes would go with it; set retention: Retain, wait until the stack is Ready, and take it away then")
        .field_path(".modelhub"),
    validation = Rule::new("oldSelf.retention != 'Delete' || !has(oldSelf.vectorforge) || has(self.vectorforge)")
        .message("is taken away while spec.retention is Delete, and its volumes would go with it; set retention: Retain, wait until the stack is Ready, and take it away then")
        .field_path(".vectorforge"),
)]
pub struct AIStackSpec {
    /// Key-value store of ours: becomes a KVCluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tinykv: Option<KVClusterSpec>,
    /// Vector database of ours, shared by the stack's VectorCollections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vectorforge: Option<VectorForgeSpec>,
    /// Inference engine of ours: becomes an InferenceService `chat`, and `embed` beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tinyinfer: Option<TinyInferSpec>,
    /// Registry, gateway and RAG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modelhub: Option<ModelHubSpec>,
    /// Branchable SQL database of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minidb: Option<MiniDbSpec>,
    /// Environment runtime of ours: becomes an EnvPool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envruntime: Option<EnvRuntimeSpec>,
    /// Key-value store that already runs, in place of `tinykv`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_store: Option<KvStoreSpec>,
    /// Vector database that already runs, in place of `vectorforge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector_store: Option<VectorStoreSpec>,
    /// Another inference engine, in place of `tinyinfer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference: Option<InferenceSpec>,
    /// SQL database that already runs, in place of `minidb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<SqlSpec>,
    /// The same as `modelhub`, under the name that stands beside external services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_hub: Option<ModelHubSpec>,
    /// The same as `envruntime`, under the name that stands beside external services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_runtime: Option<EnvRuntimeSpec>,
    /// Images of all components.
    #[serde(default)]
    pub image: ImageSpec,
    /// Volumes when the stack is deleted. They are called after the namespace's components, not after the stack, so the next stack in the
    /// namespace, of whatever name, goes on with those that were left. With `Delete`, `tinykv`, `vectorforge` and
    /// `modelhub` stay as long as the stack does: to take one away, set `Retain` first. Set late, `Delete` takes those of the pods that there are; what a
    /// larger group left before stays.
    #[serde(default)]
    pub retention: Retention,
}

/// What happens to a stack's volumes when it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Retention {
    /// Volumes stay, and the next stack in the namespace finds the data of its components again.
    #[default]
    Retain,
    /// Volumes are deleted with the stack.
    Delete,
}

/// A stack's own VectorForge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("cannot be added, changed or removed: the storage class of a volume is for ever; create a new stack and copy the collections")
        .field_path(".storageClassName"),
)]
pub struct VectorForgeSpec {
    /// Servers.
    #[schemars(range(min = 1, max = 64))]
    #[serde(default = "one")]
    pub replicas: i32,
    /// Volume of each server. It can grow and never shrinks.
    #[schemars(length(max = 24), regex(pattern = BYTES_PATTERN))]
    #[x_kube(validation = rules::size(), validation = Rule::new("quantity(self).compareTo(quantity(oldSelf)) >= 0").message("a volume can grow but not shrink"))]
    #[serde(default = "default_storage")]
    pub storage: String,
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
    /// Where the pods may run.
    #[serde(default)]
    pub pod: PodOverrides,
}

/// A stack's own inference: the short form of one or two InferenceServices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.replicas) && has(self.scaling))")
        .message("is set beside scaling; the autoscaler owns the number of replicas, so give one of the two")
        .field_path(".replicas"),
    validation = Rule::new("!has(self.gpuCount) || has(self.gpu)")
        .message("is set without gpu; name the product too, for example gpu: nvidia-a100")
        .field_path(".gpuCount"),
    validation = Rule::new("!has(self.sha256) || has(self.uri)")
        .message("is set without uri; the registry knows the digests of its versions itself")
        .field_path(".sha256"),
    validation = Rule::new(FETCHABLE).message(NOT_FETCHED).field_path(".uri"),
    validation = Rule::new("!has(self.scaling) || self.scaling.metric != 'cpu' || (has(self.resources) && has(self.resources.cpu))")
        .message("has metric cpu, a share of the CPU that a pod requests; set resources.cpu too")
        .field_path(".scaling"),
)]
pub struct TinyInferSpec {
    /// Chat model, as the registry or the model cache names it.
    #[schemars(length(min = 1, max = 128), regex(pattern = MODEL_PATTERN))]
    pub model: String,
    /// Where its weights are fetched from. Left out, the registry and the model cache are asked.
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = "^(s3|gs|az|https?|file|hf|modelhub)://[^\\s]+$")
    )]
    #[x_kube(validation = rules::no_password_here())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// SHA-256 that the file at `uri` must have, in hex.
    #[schemars(length(equal = 64), regex(pattern = "^[0-9a-f]{64}$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Pods of the chat model. Left out with `scaling` left out too: 1.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Bounds and target of the autoscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingSpec>,
    /// GPU product of each pod, such as `nvidia-a100`. Left out, the model runs on the CPU.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// GPUs of each pod. Left out with `gpu` given: 1.
    #[schemars(range(min = 1, max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_count: Option<i32>,
    /// Where pods of an edit find their place; `inPlace` where there is no second GPU.
    #[serde(default)]
    pub rollout: Rollout,
    /// Weight format to load or to convert to at load. Left out, the format of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<ModelQuantization>,
    /// Longest prompt plus answer, in tokens. Left out, the model's own context.
    #[schemars(range(min = 128, max = 10000000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<i32>,
    /// CPU and memory of each pod of the chat model.
    #[serde(default)]
    pub resources: ResourceSpec,
    /// Embedding model beside it, for RAG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<EmbeddingSpec>,
    /// Where the pods may run.
    #[serde(default)]
    pub pod: PodOverrides,
}

/// Embedding model of a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.sha256) || has(self.uri)")
        .message("is set without uri; the registry knows the digests of its versions itself")
        .field_path(".sha256"),
    validation = Rule::new(FETCHABLE).message(NOT_FETCHED).field_path(".uri"),
)]
pub struct EmbeddingSpec {
    /// Embedding model, as the registry or the model cache names it.
    #[schemars(length(min = 1, max = 128), regex(pattern = MODEL_PATTERN))]
    pub model: String,
    /// Where its weights are fetched from. Left out, the registry and the model cache are asked.
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = "^(s3|gs|az|https?|file|hf|modelhub)://[^\\s]+$")
    )]
    #[x_kube(validation = rules::no_password_here())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// SHA-256 that the file at `uri` must have, in hex.
    #[schemars(length(equal = 64), regex(pattern = "^[0-9a-f]{64}$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Pods.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default = "one")]
    pub replicas: i32,
    /// CPU and memory of each pod.
    #[serde(default)]
    pub resources: ResourceSpec,
}

/// Registry, gateway and RAG.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("cannot be added, changed or removed: the storage class of a volume is for ever; create a new stack")
        .field_path(".storageClassName"),
)]
pub struct ModelHubSpec {
    /// `custom` is ours, the only one so far.
    #[serde(default, rename = "type")]
    pub kind: OwnType,
    /// Servers.
    #[schemars(range(min = 1, max = 64))]
    #[serde(default = "one")]
    pub replicas: i32,
    /// Volume of each server, for artefacts kept locally and for caches.
    #[schemars(length(max = 24), regex(pattern = BYTES_PATTERN))]
    #[x_kube(validation = rules::size(), validation = Rule::new("quantity(self).compareTo(quantity(oldSelf)) >= 0").message("a volume can grow but not shrink"))]
    #[serde(default = "default_storage")]
    pub storage: String,
    /// StorageClass of the volumes; left out, the cluster's default.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Object storage URL of model artefacts. Left out, the volume; more than one replica needs it.
    #[schemars(length(min = 5, max = 512), regex(pattern = "^(s3|gs|az|https?|file)://[^\\s]+$"))]
    #[x_kube(validation = rules::no_password_here())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artefacts: Option<String>,
    /// Secret with that storage's credentials as environment variables, such as `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artefacts_secret_name: Option<String>,
    /// Serve only callers with an API key. The administrator's is generated into the Secret `modelhub-admin`.
    #[serde(default)]
    pub require_keys: bool,
    /// Secret whose key holds the administrator's API key, in place of a generated one. Turns `requireKeys` on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// VolumeAttributesClass of the volumes, such as one with more operations a second. It can change; Kubernetes 1.34 and newer.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_attributes_class_name: Option<String>,
    /// CPU and memory of each server.
    #[serde(default)]
    pub resources: ResourceSpec,
    /// Where the pods may run.
    #[serde(default)]
    pub pod: PodOverrides,
}

/// SQL database of ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MiniDbSpec {
    /// Voters of its Raft group: 1, 3, 5 or 7.
    #[schemars(range(min = 1, max = 7))]
    #[x_kube(validation = Rule::new("self % 2 == 1")
        .message("is even; a Raft group survives no more failures than with one less, so use 1 (laptop) or 3, 5, 7"))]
    #[serde(default = "one")]
    pub replicas: i32,
    /// Volume of each member.
    #[schemars(length(max = 24), regex(pattern = BYTES_PATTERN))]
    #[serde(default = "default_storage")]
    pub storage: String,
    /// CPU and memory of each member.
    #[serde(default)]
    pub resources: ResourceSpec,
}

/// Environment runtime of ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvRuntimeSpec {
    /// `custom` is ours, the only one so far.
    #[serde(default, rename = "type")]
    pub kind: OwnType,
    /// Servers.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default = "one")]
    pub replicas: i32,
    /// Doors through which agents act.
    #[serde(default)]
    pub interfaces: InterfacesSpec,
    /// CPU and memory of each server.
    #[serde(default)]
    pub resources: ResourceSpec,
}

/// Says that a component is ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OwnType {
    /// Ours.
    #[default]
    Custom,
}

/// Key-value store that already runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.tls) || self.endpoints.all(e, e.startsWith('https://'))")
        .message("is set, but not every endpoint is an https:// address: its traffic would not be encrypted")
        .field_path(".tls"),
)]
pub struct KvStoreSpec {
    /// Protocol.
    #[serde(rename = "type")]
    pub kind: KvStoreType,
    /// Addresses of its members.
    #[schemars(length(min = 1, max = 16), inner(length(max = 512), regex(pattern = URL_PATTERN)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub endpoints: Vec<String>,
    /// User name, when the store asks for one.
    #[schemars(length(min = 1, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Secret with that user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Certificates, for `https://` endpoints. Left out: the CAs of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTlsSpec>,
}

/// Key-value protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvStoreType {
    /// etcd v3 over gRPC.
    Etcd,
}

/// Vector database that already runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.tls) || (has(self.grpcEndpoint) ? self.grpcEndpoint : self.endpoint).startsWith('https://')")
        .message("is set, but its gRPC address is not https://: its traffic would not be encrypted")
        .field_path(".tls"),
)]
pub struct VectorStoreSpec {
    /// Protocol.
    #[serde(rename = "type")]
    pub kind: VectorStoreType,
    /// Address of its REST port.
    #[schemars(length(max = 512), regex(pattern = URL_PATTERN))]
    pub endpoint: String,
    /// Address of its gRPC port. Left out, the same host at 6334.
    #[schemars(length(max = 512), regex(pattern = URL_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_endpoint: Option<String>,
    /// Secret with its API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Certificates, for an `https://` endpoint. Left out: the CAs of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTlsSpec>,
}

/// Vector protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VectorStoreType {
    /// Qdrant REST and gRPC.
    Qdrant,
}

/// Another inference engine: vLLM run for you, or any OpenAI server that already runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'vllm' || has(self.endpoint)")
        .message("is missing; type external routes to a server that already runs, so name its address")
        .field_path(".endpoint"),
    validation = Rule::new("!has(self.endpoint) || !(has(self.replicas) || has(self.gpu))")
        .message("is set, so the server already runs; replicas and gpu belong to whoever runs it")
        .field_path(".endpoint"),
    validation = Rule::new("!has(self.secretRef) || has(self.endpoint)")
        .message("is the API key of a server that runs already, and vllm without endpoint is run for you and asks for none; give endpoint, or remove it")
        .field_path(".secretRef"),
    validation = Rule::new("!has(self.tls) || (has(self.endpoint) && self.endpoint.startsWith('https://'))")
        .message("is set, but endpoint is not an https:// address: its traffic would not be encrypted")
        .field_path(".tls"),
)]
pub struct InferenceSpec {
    /// `vllm` without `endpoint` is run for you; everything else already runs at `endpoint`.
    #[serde(rename = "type")]
    pub kind: InferenceType,
    /// Chat model that it serves.
    #[schemars(length(min = 1, max = 128), regex(pattern = MODEL_PATTERN))]
    pub model: String,
    /// Address of the OpenAI server, up to but without `/v1`.
    #[schemars(length(max = 512), regex(pattern = URL_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Secret with its API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Certificates, for an `https://` endpoint. Left out: the CAs of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTlsSpec>,
    /// Pods, when it is run for you. Left out: 1.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// GPU product of each pod, when it is run for you.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Where pods of an edit find their place, when it is run for you; `inPlace` where there is no second GPU.
    #[serde(default)]
    pub rollout: Rollout,
    /// Embedding model beside it, served by TinyInfer, for RAG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<EmbeddingSpec>,
}

/// Inference engines other than ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InferenceType {
    /// vLLM.
    Vllm,
    /// Any OpenAI server.
    External,
}

/// SQL database that already runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqlSpec {
    /// Protocol.
    #[serde(rename = "type")]
    pub kind: SqlType,
    /// Address, such as `postgres://db.example.com:5432/platform`.
    #[schemars(length(max = 512), regex(pattern = "^postgres(ql)?://[^\\s]+$"))]
    #[x_kube(validation = rules::no_sql_password())]
    pub endpoint: String,
    /// Secret with its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
}

/// SQL protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SqlType {
    /// PostgreSQL wire protocol v3.
    Postgres,
}

fn default_storage() -> String {
    "8Gi".to_owned()
}
