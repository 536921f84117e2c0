//! `InferenceService`: one model behind the OpenAI protocol.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parts::{
    ClientTlsSpec, GpuSpec, ImageSpec, MODEL_PATTERN, ObjectRef, PodOverrides, ResourceSpec, SecretKeyRef,
    URL_PATTERN, bounded_text, one,
};
use crate::rules;
use crate::status::ScaledStatus;

/// One model behind the OpenAI protocol: a Deployment per version, a Service, and a route in ModelHub.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "platform.dev",
    version = "v1",
    kind = "InferenceService",
    plural = "inferenceservices",
    namespaced,
    shortname = "isvc",
    category = "aistack",
    selectable = ".spec.model.name",
    selectable = ".spec.runtime",
    selectable = ".spec.stackRef.name",
    status = "ScaledStatus",
    derive = "PartialEq",
    doc = "One model behind the OpenAI protocol: a Deployment per version, a Service, and a route in ModelHub.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model.name"),
    printcolumn(name = "Runtime", type_ = "string", json_path = ".spec.runtime"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name is longer than 40 characters; names of pods and Services are made from it"),
    validation = rules::service_name(),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.replicas) && has(self.scaling))")
        .message("is set beside spec.scaling; the autoscaler owns the number of replicas, so give one of the two")
        .field_path(".replicas"),
    validation = Rule::new("self.runtime != 'external' || has(self.endpoint)")
        .message("is missing; runtime external routes to a server that already runs, so name its address")
        .field_path(".endpoint"),
    validation = Rule::new("self.runtime == 'external' || !has(self.endpoint)")
        .message("is set, but only runtime external has an address; set runtime: external or remove it")
        .field_path(".endpoint"),
    validation = Rule::new("self.runtime != 'external' || !(has(self.replicas) || has(self.scaling) || has(self.gpu))")
        .message("is external; replicas, scaling and gpu belong to whoever runs that server")
        .field_path(".runtime"),
    validation = Rule::new("!has(self.tls) || (has(self.endpoint) && self.endpoint.startsWith('https://'))")
        .message("is set, but endpoint is not an https:// address: its traffic would not be encrypted")
        .field_path(".tls"),
    validation = Rule::new("!has(self.traffic) || self.traffic.size() == 0 || has(self.model.version) || !self.traffic.all(t, t.shadow)")
        .message("gives shares to shadows only; name the version that answers, under model.version or with a percent")
        .field_path(".traffic"),
    validation = Rule::new("!has(self.traffic) || self.traffic.size() == 0 || !has(self.model.version) || (self.traffic.all(t, t.shadow) ? !self.traffic.exists(t, t.version == self.model.version) : self.traffic.exists(t, !t.shadow && t.version == self.model.version))")
        .message("is not one of those that traffic gives a share; name one of them, or leave it out")
        .field_path(".model.version"),
    validation = Rule::new("!has(self.canary) || has(self.model.version) || (has(self.traffic) && self.traffic.size() > 0)")
        .message("has nothing to take over from; name the present version under model.version, or several under traffic")
        .field_path(".canary"),
    validation = Rule::new("!has(self.canary) || !has(self.model.version) || self.canary.version != self.model.version")
        .message("is the version that is served already; name the new one, or remove canary")
        .field_path(".canary.version"),
    validation = Rule::new("!has(self.canary) || !has(self.traffic) || !self.traffic.exists(t, t.version == self.canary.version)")
        .message("is among traffic; its share is that of its step, so take it out of traffic")
        .field_path(".canary.version"),
    validation = Rule::new("self.runtime != 'onnx' || !has(self.contextLength)")
        .message("is no setting of runtime onnx, whose server cuts texts at the model's own length; remove it")
        .field_path(".contextLength"),
    validation = Rule::new("self.runtime != 'external' || !((has(self.traffic) && self.traffic.size() > 0) || has(self.canary) || has(self.modelCache))")
        .message("is external; traffic, canary and modelCache are of pods that run here")
        .field_path(".runtime"),
    validation = Rule::new("self.runtime != 'external' || !(has(self.model.version) || has(self.model.uri) || has(self.model.secretName))")
        .message("is external; version, uri and secretName are of weights that are fetched here, and that server has its own")
        .field_path(".model"),
    validation = Rule::new("self.runtime != 'external' || !has(self.stackRef) || !(has(self.secretRef) || has(self.tls))")
        .message("is set beside secretRef or tls, and ModelHub's routes carry neither; name that server under spec.inference of the AIStack, or remove stackRef")
        .field_path(".stackRef"),
    validation = Rule::new("!has(self.secretRef) || self.runtime == 'external'")
        .message("is the API key of a server that runs already, and only runtime external has one; pods that run here ask for none, ModelHub does (modelhub.requireKeys), so remove it")
        .field_path(".secretRef"),
    validation = Rule::new("!has(self.model.secretName) || has(self.model.uri) || self.runtime == 'external' || (self.runtime in ['vllm', 'onnx'] && !has(self.model.version) && !(has(self.traffic) && self.traffic.size() > 0) && !has(self.canary))")
        .message("is for weights that are fetched from model.uri, or by vllm or onnx by the model's name; versions come from ModelHub's registry, and tinyinfer looks in its cache, so remove it")
        .field_path(".model.secretName"),
    validation = Rule::new("!has(self.model.uri) || !((has(self.traffic) && self.traffic.size() > 0) || has(self.canary))")
        .message("is one file; traffic and canary are of versions in the registry, so push it with modelhub models push")
        .field_path(".model.uri"),
    validation = Rule::new("!has(self.modelCache) || !self.modelCache.preload || has(self.model.version) || has(self.model.uri) || (has(self.traffic) && self.traffic.size() > 0)")
        .message("is of a model that its engine looks for by name, and nobody else knows where that is; give model.version or model.uri, or remove preload")
        .field_path(".modelCache.preload"),
    validation = Rule::new("self.runtime != 'onnx' || self.task != 'embed' || has(self.pooling)")
        .message("is needed by runtime onnx, which would take the first token's vector whatever the model; write mean or cls, as the model's 1_Pooling/config.json says")
        .field_path(".pooling"),
    validation = Rule::new("!has(self.pooling) || self.runtime == 'onnx'")
        .message("is for runtime onnx; the others read it off the model, so remove it")
        .field_path(".pooling"),
    validation = Rule::new("self.runtime != 'onnx' || self.task == 'embed'")
        .message("needs task embed; write task: embed, or take another runtime to generate or rerank")
        .field_path(".runtime"),
    validation = Rule::new("self.runtime != 'onnx' || !has(self.model.uri)")
        .message("is one file, and runtime onnx needs the tokenizer beside the weights; push the folder with modelhub models push")
        .field_path(".model.uri"),
    validation = Rule::new("!has(self.scaling) || self.scaling.metric != 'cpu' || (has(self.resources) && has(self.resources.cpu))")
        .message("is a share of the CPU that a pod requests; set resources.cpu too")
        .field_path(".scaling.metric"),
    validation = Rule::new("!has(self.scaling) || self.runtime != 'onnx' || self.scaling.metric == 'cpu'")
        .message("is cpu for runtime onnx, whose server tells neither how many requests it has nor tokens; write metric: cpu and resources.cpu")
        .field_path(".scaling.metric"),
    validation = Rule::new("self.rollout != 'inPlace' || !((has(self.traffic) && self.traffic.size() > 0) || has(self.canary))")
        .message("is inPlace, and traffic and canary need several versions at a time; remove one of the two")
        .field_path(".rollout"),
    validation = Rule::new("!has(self.speculative) || self.task == 'chat'")
        .message("needs task chat; only generation can be speculated")
        .field_path(".speculative"),
)]
pub struct InferenceServiceSpec {
    /// What is served.
    pub model: ModelSpec,
    /// AIStack whose ModelHub leads requests here, to an external server's `endpoint` too, and in whose registry versions are looked
    /// up. Left out: the stack that it is a part of, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack_ref: Option<ObjectRef>,
    /// What clients use it for.
    #[serde(default)]
    pub task: Task,
    /// Engine that serves it.
    #[serde(default)]
    pub runtime: Runtime,
    /// How the vectors of a text's tokens become one; for runtime onnx, which cannot know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Address of a running OpenAI server, for runtime external only.
    #[schemars(length(max = 512), regex(pattern = URL_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// API key that the engine asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Certificates, for an `https://` endpoint. Left out: the CAs of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTlsSpec>,
    /// Pods of each version when no autoscaler owns the number. Left out with `scaling` left out too: 1.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Bounds and target of the autoscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingSpec>,
    /// CPU and memory of each pod.
    #[serde(default)]
    pub resources: ResourceSpec,
    /// GPUs of each pod. Left out, the model runs on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,
    /// Where model files are kept between pods. Left out: in each pod, fetched anew by each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_cache: Option<ModelCacheSpec>,
    /// Share of requests that each version gets.
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["version".into()]),
        validation = Rule::new("self.size() == 0 || self.all(t, t.shadow) || self.filter(t, !t.shadow).map(t, t.percent).sum() == 100")
            .message("must share exactly 100 percent among the versions that answer; shadows do not count"),
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
    /// How a new version takes over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySpec>,
    /// Where pods of a new version of the model find their place, and those of an edit where they hold GPUs.
    #[serde(default)]
    pub rollout: Rollout,
    /// Low-rank adapters served beside the base model, each under its own model name.
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterSpec>,
    /// Weight format to load or to convert to at load. Left out, the format of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<ModelQuantization>,
    /// Speculative decoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculative: Option<SpeculativeSpec>,
    /// Longest prompt plus answer, in tokens. Left out, the model's own context.
    #[schemars(range(min = 128, max = 10000000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<i32>,
    /// Where the images come from.
    #[serde(default)]
    pub image: ImageSpec,
    /// Where the pods may run.
    #[serde(default)]
    pub pod: PodOverrides,
}

/// Addresses that have a form of their own and that nobody fetches from.
pub(crate) const FETCHABLE: &str =
    "!has(self.uri) || !(self.uri.startsWith('hf://') || self.uri.startsWith('modelhub://'))";
/// What is said of them.
pub(crate) const NOT_FETCHED: &str = "cannot be fetched by this version; give the https:// address of the file with its sha256, or push the model to the registry (modelhub models push) and name its version";

/// A model in ModelHub's registry, or at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.version) && has(self.uri))")
        .message("names both version and uri; a version is looked up in the registry, a uri is fetched as it is, so give one"),
    validation = Rule::new("!has(self.sha256) || has(self.uri)")
        .message("is set without uri; the registry knows the digests of its versions itself")
        .field_path(".sha256"),
    validation = Rule::new(FETCHABLE).message(NOT_FETCHED).field_path(".uri"),
)]
pub struct ModelSpec {
    /// Name that clients put into `model`, and that the registry and the model cache know.
    #[schemars(length(min = 1, max = 128), regex(pattern = MODEL_PATTERN))]
    pub name: String,
    /// Version in the registry. Left out, the engine finds the model by its name, in its image or its cache.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::version())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where the weights are fetched from, such as `s3://bucket/model.gguf`.
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = "^(s3|gs|az|https?|file|hf|modelhub)://[^\\s]+$")
    )]
    #[x_kube(validation = rules::no_password())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// SHA-256 that the file at `uri` must have, in hex. Without it the file is taken as it comes, and a condition says so.
    #[schemars(length(equal = 64), regex(pattern = "^[0-9a-f]{64}$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Secret whose keys whoever fetches the weights sees as environment variables: the fetch from `uri` (`AWS_ACCESS_KEY_ID`, say), or
    /// vllm and onnx where they fetch a model by its name (`HF_TOKEN`).
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
}

/// Where model files are kept between pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.claimName) != has(self.hostPath)")
    .message("gives both or none of claimName and hostPath; give one"),
    validation = Rule::new("!self.preload || has(self.hostPath)")
        .message("is for hostPath; a claim is one place for all pods, and the first of them fetches for all; give hostPath, or remove preload")
        .field_path(".preload"))]
pub struct ModelCacheSpec {
    /// PersistentVolumeClaim that all pods mount; of a local volume, or one that many nodes may write.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_name: Option<String>,
    /// Folder of each node below `/var/lib/aistack` or `/var/cache/aistack`, writable for user 65532: each node fetches once.
    /// Namespaces that enforce the baseline or restricted Pod Security Standard refuse such pods.
    #[schemars(
        length(min = 2, max = 253),
        regex(pattern = "^/var/(lib|cache)/aistack(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    /// Have the weights of each version on every node that may run its pods, before the first of them comes. With `hostPath` only.
    #[serde(default)]
    pub preload: bool,
}

/// What a model is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Generate text: `/v1/chat/completions` and `/v1/completions`.
    #[default]
    Chat,
    /// Turn text into vectors: `/v1/embeddings`.
    Embed,
    /// Order passages by relevance: `/rerank`.
    Rerank,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one, of `[CLS]`.
    Cls,
}

/// Engine that serves a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Our engine.
    #[default]
    Tinyinfer,
    /// vLLM's own server image.
    Vllm,
    /// Infinity on ONNX Runtime, for embeddings.
    Onnx,
    /// A server that already runs at `endpoint`.
    External,
}

/// Bounds and target of the autoscaler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message("has minReplicas above maxReplicas; swap them or raise maxReplicas"))]
pub struct ScalingSpec {
    /// Fewest pods; 0 lets the service sleep while the gateway holds requests.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(default = "one")]
    pub min_replicas: i32,
    /// Most pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Who scales.
    #[serde(default)]
    pub by: Autoscaler,
    /// What the autoscaler looks at.
    #[serde(default)]
    pub metric: ScalingMetric,
    /// Requests in flight per pod that the autoscaler steers to, with metric concurrency.
    #[schemars(range(min = 1, max = 10000))]
    #[serde(default = "default_concurrency")]
    pub target_concurrency: i32,
    /// Tokens a second per pod that the autoscaler steers to, with metric tokens.
    #[schemars(range(min = 1, max = 100000000))]
    #[serde(default = "default_tokens")]
    pub target_tokens_per_second: i32,
    /// Percent of the requested CPU that the autoscaler steers to, with metric cpu.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default = "default_cpu_percent")]
    pub target_cpu_percent: i32,
    /// Seconds without a request after which a service with minReplicas 0 goes to sleep.
    #[schemars(range(min = 10, max = 86400))]
    #[serde(default = "default_idle_seconds")]
    pub idle_seconds: i32,
    /// Seconds that the gateway holds a request while the service wakes up; then 503 with `Retry-After`.
    #[schemars(range(min = 1, max = 3600))]
    #[serde(default = "default_hold_seconds")]
    pub hold_seconds: i32,
    /// Requests that each gateway holds at a time; the next one gets 503 with `Retry-After` at once.
    #[schemars(range(min = 1, max = 100000))]
    #[serde(default = "default_max_held")]
    pub max_held: i32,
}

/// Who scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Autoscaler {
    /// Kubernetes, by a HorizontalPodAutoscaler.
    #[default]
    Hpa,
    /// KEDA, by a ScaledObject: needs KEDA in the cluster. It asks Prometheus itself for concurrency and tokens, so no adapter is needed,
    /// and the operator's setting `prometheus_url` is.
    Keda,
}

/// What an autoscaler looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScalingMetric {
    /// Requests in flight: the pods' metric `aistack_requests_in_flight`, which needs an adapter for custom metrics.
    #[default]
    Concurrency,
    /// Tokens a second, read and written: the pods' metric `aistack_tokens_per_second`, which needs an adapter for custom metrics.
    Tokens,
    /// The CPU that pods use: needs metrics-server and no adapter.
    Cpu,
}

/// Share of requests that one version gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTarget {
    /// Version in the registry.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::version())]
    pub version: String,
    /// Percent of requests; of a shadow, percent of requests copied to it.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
    /// Requests with all of these headers go to this version whatever the percentages say.
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = bounded_text(1024)))]
    #[x_kube(validation = rules::header_names())]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Copy requests to this version and drop its answers.
    #[serde(default)]
    pub shadow: bool,
}

/// How a new version takes over: in steps, each judged before the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanarySpec {
    /// Version that takes over.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::version())]
    pub version: String,
    /// Percent of requests at each step, rising to 100.
    #[schemars(length(min = 1, max = 16), inner(range(min = 1, max = 100)))]
    #[x_kube(validation = Rule::new("self.isSorted() && self[self.size() - 1] == 100")
        .message("must rise and end at 100; for example [5, 25, 100]"))]
    #[serde(default = "default_steps")]
    pub steps: Vec<i32>,
    /// Seconds that each step is watched.
    #[schemars(range(min = 10, max = 86400))]
    #[serde(default = "default_step_seconds")]
    pub step_seconds: i32,
    /// Requests that each step must have seen before the next begins.
    #[schemars(range(min = 1, max = 1000000))]
    #[serde(default = "default_min_samples")]
    pub min_samples: i32,
    /// Failed requests per thousand above which the canary is rolled back.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(default = "default_error_permille")]
    pub max_error_permille: i32,
    /// 99th percentile of the time to the first token, in milliseconds, above which the canary is rolled back.
    #[schemars(range(min = 1, max = 600000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_first_token_ms: Option<i32>,
}

/// Where pods of a new version find their place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Rollout {
    /// Beside those of the old one, which all serve until the new ones do: for a while there are twice as many.
    #[default]
    Beside,
    /// In the place of old ones where there is no other: one old pod goes for each new one that no node has room for. Requests are led
    /// to the new version once it has as many pods as the old one; of a single pod, there is none for as long as the new one starts.
    /// With GPUs an edit too has each pod go before its successor comes, whether there is room or not.
    InPlace,
}

/// A low-rank adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterSpec {
    /// Model name that clients ask for.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Where the adapter's weights are fetched from.
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
}

/// Weight formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelQuantization {
    /// 16-bit floats.
    F16,
    /// 16-bit brain floats.
    Bf16,
    /// 8-bit floats.
    Fp8,
    /// 8-bit integers, a scale for each block of 32.
    #[serde(rename = "q8_0")]
    Q80,
    /// 4-bit integers, a scale for each block of 32.
    #[serde(rename = "q4_0")]
    Q40,
    /// 4-bit integers, a scale and an offset for each block of 32.
    #[serde(rename = "q4_1")]
    Q41,
    /// 4-bit super-blocks of 256.
    #[serde(rename = "q4_k")]
    Q4K,
    /// 4-bit weights with activation-aware scales.
    Awq,
    /// 4-bit weights by second-order rounding.
    Gptq,
}

/// Speculative decoding with a smaller model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpeculativeSpec {
    /// Name of the smaller model that drafts.
    #[schemars(length(min = 1, max = 128))]
    pub draft_model: String,
    /// Tokens drafted at a time.
    #[schemars(range(min = 1, max = 16))]
    #[serde(default = "default_draft_tokens")]
    pub tokens: i32,
}

fn default_concurrency() -> i32 {
    8
}

fn default_tokens() -> i32 {
    1000
}

fn default_cpu_percent() -> i32 {
    80
}

fn default_idle_seconds() -> i32 {
    300
}

fn default_hold_seconds() -> i32 {
    120
}

fn default_max_held() -> i32 {
    100
}

fn default_min_samples() -> i32 {
    20
}

fn default_steps() -> Vec<i32> {
    vec![5, 25, 50, 100]
}

fn default_step_seconds() -> i32 {
    300
}

fn default_error_permille() -> i32 {
    10
}

fn default_draft_tokens() -> i32 {
    4
}
