//! From what an API server accepts to what `build` cannot fail on.

use aistack_api::engine::{EngineTask, base_url};
use aistack_crds::InferenceService;
use aistack_crds::inference_service::{
    CanarySpec, ModelCacheSpec, Pooling, Rollout, Runtime, ScalingSpec, Task, TrafficTarget,
};
use aistack_crds::parts::{ClientTlsSpec, PodOverrides, ResourceSpec, SecretKeyRef};

use super::version::Version;
use super::{COMPONENT, HTTP_PORT};
use crate::gap::Gap;
use crate::gpu::Gpu;
use crate::meta::{Image, Owner};
use crate::object;
use crate::problem::Problem;

/// vLLM's own server image, when a manifest names no repository.
const VLLM_IMAGE: &str = "vllm/vllm-openai";
const VLLM_TAG: &str = "v0.24.0";

/// Infinity's server image, whose `optimum` engine is ONNX Runtime.
const INFINITY_IMAGE: &str = "michaelf34/infinity";
const INFINITY_CPU: &str = "0.0.77-cpu";
const INFINITY_CUDA: &str = "0.0.77-trt-onnx";

/// An InferenceService that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedInferenceService {
    pub(super) owner: Owner,
    pub(super) name: String,
    pub(super) model: String,
    pub(super) task: Task,
    pub(super) engine: Engine,
    /// Longest prompt plus answer in tokens; 0 is the model's own.
    pub(super) context_tokens: usize,
    pub(super) secret: ApiKey,
    pub(super) tls: Option<ClientTlsSpec>,
    /// Whether a stack's ModelHub is to lead requests here that does not know of it by its configuration.
    pub(super) is_joined: bool,
    /// Versions that run, the one that is served at rest first. One without a name when the manifest names none.
    pub(super) versions: Vec<Version>,
    /// Shares that the manifest gives.
    pub(super) traffic: Vec<TrafficTarget>,
    pub(super) canary: Option<CanarySpec>,
    pub(super) rollout: Rollout,
    gaps: Vec<Gap>,
}

/// Who serves the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Engine {
    /// TinyInfer, run here.
    Tinyinfer(Box<Serving>),
    /// vLLM, run here.
    Vllm(Box<Serving>),
    /// Infinity on ONNX Runtime, run here; for embeddings.
    Onnx(Box<Serving>, Pooling),
    /// A server that already runs at this address.
    External(String),
}

impl Engine {
    /// What its workloads are called, and its label.
    pub(super) fn component(&self) -> &'static str {
        match self {
            Self::Vllm(_) => "vllm",
            Self::Onnx(..) => "infinity",
            Self::Tinyinfer(_) | Self::External(_) => COMPONENT,
        }
    }
}

/// Pods that serve a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Serving {
    pub(super) scale: Scale,
    /// Where the weights come from.
    pub(super) source: Source,
    pub(super) cache: Option<ModelCacheSpec>,
    /// Image of ModelHub, whose program fetches them.
    pub(super) fetcher: Image,
    pub(super) image: Image,
    pub(super) resources: ResourceSpec,
    pub(super) gpu: Gpu,
    pub(super) pod: PodOverrides,
}

/// How many pods each version has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scale {
    /// So many.
    Fixed(u16),
    /// As many as an autoscaler finds right.
    Auto(ScalingSpec),
}

impl Scale {
    /// Most pods there may be.
    pub(super) fn most(&self) -> u16 {
        match self {
            Self::Fixed(replicas) => *replicas,
            Self::Auto(scaling) => u16::try_from(scaling.max_replicas).unwrap_or(u16::MAX),
        }
    }

    /// The bounds, of a service that may sleep.
    pub(super) fn sleeps(&self) -> Option<&ScalingSpec> {
        match self {
            Self::Auto(scaling) if scaling.min_replicas == 0 => Some(scaling),
            _ => None,
        }
    }
}

/// Where weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The engine finds them by the model's name.
    Engine {
        /// Secret with credentials, of one that fetches them itself.
        secret: Option<String>,
    },
    /// One file.
    File {
        /// Where.
        uri: String,
        /// What it must be.
        sha256: Option<String>,
        /// Secret with credentials.
        secret: Option<String>,
    },
    /// The registry, by version.
    Registry,
}

/// API key that an engine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiKey {
    /// None.
    Open,
    /// Key of a Secret.
    Secret(SecretKeyRef),
}

impl ApiKey {
    /// Reads the optional field of a spec.
    pub fn of(secret: Option<&SecretKeyRef>) -> Self {
        secret.map_or(Self::Open, |secret| Self::Secret(secret.clone()))
    }
}

impl ValidatedInferenceService {
    /// What this version cannot do of it.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Model name that clients ask for.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What it is for.
    pub fn task(&self) -> Task {
        self.task
    }

    /// What its engine does: who orders passages compares texts as an embedder does, and writes none.
    pub fn engine_task(&self) -> EngineTask {
        match self.task {
            Task::Chat => EngineTask::Chat,
            Task::Embed | Task::Rerank => EngineTask::Embed,
        }
    }

    /// Name of the service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// API key that the engine asks for.
    pub fn secret(&self) -> &ApiKey {
        &self.secret
    }

    /// Certificates towards an engine that runs already.
    pub fn tls(&self) -> Option<&ClientTlsSpec> {
        self.tls.as_ref()
    }

    /// Whether it is a server of somebody else's.
    pub fn is_external(&self) -> bool {
        self.serving().is_none()
    }

    /// Pods of its own, unless somebody else runs it.
    pub(super) fn serving(&self) -> Option<&Serving> {
        match &self.engine {
            Engine::Tinyinfer(serving) | Engine::Vllm(serving) | Engine::Onnx(serving, _) => Some(serving),
            Engine::External(_) => None,
        }
    }

    /// The versions that answer, a canary's among them: all but shadows.
    pub(super) fn answering(&self) -> impl Iterator<Item = &Version> {
        let is_shadow = |version: &&Version| {
            self.traffic.iter().any(|target| target.shadow && target.version == version.target())
        };
        self.versions.iter().filter(move |version| !is_shadow(version))
    }

    /// Whether a pod that holds a GPU goes before the one that takes its place comes.
    pub(super) fn gives_way(&self) -> bool {
        self.rollout == Rollout::InPlace && self.has_gpu()
    }

    /// Whether its pods hold GPUs.
    pub(super) fn has_gpu(&self) -> bool {
        self.serving().is_some_and(|serving| serving.gpu != Gpu::None)
    }

    /// Whether requests must go through ModelHub's routes: a Service alone does not split, and does not hold.
    pub(super) fn needs_route(&self) -> bool {
        let sleeps = self.serving().is_some_and(|serving| serving.scale.sleeps().is_some());
        sleeps || self.is_joined || self.versions.iter().any(|version| !version.is_unnamed())
    }

    /// Name of a version's Deployment and of the Service in front of it.
    pub(super) fn workload_name(&self, version: &Version) -> String {
        format!("{}-{}{}", self.engine.component(), self.name, version.suffix())
    }

    /// URL of a version's OpenAI server, without `/v1`.
    pub(super) fn endpoint_of(&self, version: &Version) -> String {
        match &self.engine {
            Engine::External(endpoint) => base_url(endpoint).to_owned(),
            _ => url_of(&self.workload_name(version)),
        }
    }

    /// URL of the OpenAI server, without `/v1`.
    pub fn endpoint(&self) -> String {
        self.endpoint_of(&self.versions[0])
    }
}

/// URL of the OpenAI server of a workload, by its name, without `/v1`.
pub(super) fn url_of(workload: &str) -> String {
    format!("http://{workload}:{HTTP_PORT}")
}

/// Checks an InferenceService that passed its schema. `part_of` is the stack it belongs to, or empty.
pub fn validate(
    service: &InferenceService,
    part_of: &str,
) -> Result<ValidatedInferenceService, Vec<Problem>> {
    let name = object::name(service);
    let title = format!("InferenceService {name}");
    let spec = &service.spec;
    let refuse = |problem: Problem| vec![problem.of(&title)];
    let gpu = Gpu::validate(spec.gpu.as_ref(), "spec.gpu").map_err(refuse)?;
    let source = source(service).map_err(refuse)?;
    let scale = match &spec.scaling {
        Some(scaling) => Scale::Auto(scaling.clone()),
        None => Scale::Fixed(u16::try_from(spec.replicas.unwrap_or(1)).unwrap_or(1)),
    };
    let serving = |image: Image| {
        Box::new(Serving {
            scale: scale.clone(),
            source: source.clone(),
            cache: spec.model_cache.clone(),
            fetcher: Image::of("modelhub", &spec.image),
            image,
            resources: spec.resources.clone(),
            gpu: gpu.clone(),
            pod: spec.pod.clone(),
        })
    };
    let engine = match spec.runtime {
        Runtime::Tinyinfer => Engine::Tinyinfer(serving(Image::of(COMPONENT, &spec.image))),
        Runtime::Vllm => Engine::Vllm(serving(of_theirs(service, VLLM_IMAGE, VLLM_TAG))),
        Runtime::External => Engine::External(spec.endpoint.clone().unwrap_or_default()),
        Runtime::Onnx if spec.task == Task::Embed => {
            let tag = if gpu == Gpu::None { INFINITY_CPU } else { INFINITY_CUDA };
            let pooling = spec.pooling.unwrap_or(Pooling::Mean);
            Engine::Onnx(serving(of_theirs(service, INFINITY_IMAGE, tag)), pooling)
        }
        Runtime::Onnx => {
            return Err(refuse(Problem::new(
                "spec.runtime",
                "ONNX Runtime serves embeddings here, and no text",
                "use task: embed, or runtime: tinyinfer or vllm, or run a server yourself and use runtime: external",
            )));
        }
    };
    Ok(ValidatedInferenceService {
        owner: object::owner(service, COMPONENT, part_of),
        gaps: gaps(service).into_iter().map(|gap| gap.of(&title)).collect(),
        name,
        model: spec.model.name.clone(),
        task: spec.task,
        engine,
        context_tokens: spec.context_length.and_then(|tokens| usize::try_from(tokens).ok()).unwrap_or(0),
        secret: ApiKey::of(spec.secret_ref.as_ref()),
        tls: spec.tls.clone(),
        is_joined: spec.stack_ref.is_some(),
        versions: versions(service),
        traffic: spec.traffic.clone(),
        canary: spec.canary.clone(),
        rollout: spec.rollout,
    })
}

/// A server image of somebody else's. A stack's repository holds our components; theirs is taken from there only when a tag is given too.
fn of_theirs(service: &InferenceService, name: &str, tag: &str) -> Image {
    let given = &service.spec.image;
    let last = name.rsplit('/').next().unwrap_or(name);
    let reference = match (&given.repository, &given.tag) {
        (Some(repository), Some(tag)) => format!("{repository}/{last}:{tag}"),
        _ => format!("{name}:{tag}"),
    };
    Image::named(reference, given)
}

/// The versions that run: those that get requests at rest, then the one that is to take over.
fn versions(service: &InferenceService) -> Vec<Version> {
    let spec = &service.spec;
    let mut names: Vec<&str> = Vec::new();
    if spec.traffic.iter().all(|target| target.shadow) {
        names.extend(spec.model.version.as_deref());
    }
    names.extend(spec.traffic.iter().map(|target| target.version.as_str()));
    if let Some(canary) = &spec.canary
        && !names.contains(&canary.version.as_str())
    {
        names.push(&canary.version);
    }
    if names.is_empty() { vec![Version::unnamed()] } else { names.into_iter().map(Version::named).collect() }
}

fn source(service: &InferenceService) -> Result<Source, Problem> {
    let spec = &service.spec;
    match &spec.model.uri {
        Some(uri) if uri.starts_with("hf://") || uri.starts_with("modelhub://") => Err(Problem::new(
            "spec.model.uri",
            format!("`{uri}` cannot be fetched by this version"),
            "give the https:// address of the file with its sha256, or push the model to the registry (modelhub models push) and name its version",
        )),
        Some(uri) => Ok(Source::File {
            uri: uri.clone(),
            sha256: spec.model.sha256.clone(),
            secret: spec.model.secret_name.clone(),
        }),
        None if is_versioned(service) => Ok(Source::Registry),
        None => {
            let fetches = matches!(spec.runtime, Runtime::Vllm | Runtime::Onnx);
            Ok(Source::Engine { secret: spec.model.secret_name.clone().filter(|_| fetches) })
        }
    }
}

fn is_versioned(service: &InferenceService) -> bool {
    let spec = &service.spec;
    spec.model.version.is_some() || !spec.traffic.is_empty() || spec.canary.is_some()
}

fn gaps(service: &InferenceService) -> Vec<Gap> {
    let spec = &service.spec;
    let mut gaps = Vec::new();
    let ours = spec.runtime == Runtime::Tinyinfer;
    let model = &spec.model.name;
    if let (true, Some(gpu)) = (ours, &spec.gpu) {
        let product = gpu.product.as_deref().unwrap_or("any product");
        gaps.push(Gap::everywhere(
            "spec.gpu",
            format!("model {model} asks for a GPU ({product}); TinyInfer computes on the CPU in this version"),
            "on a cluster the pods will be scheduled on nodes labelled nvidia.com/gpu.product; here, remove gpu and try model: smollm2-135m-instruct",
        ));
    }
    let theirs = match spec.runtime {
        Runtime::Vllm => Some("vLLM"),
        Runtime::Onnx => Some("Infinity"),
        Runtime::Tinyinfer | Runtime::External => None,
    };
    if let Some(server) = theirs {
        gaps.push(Gap::local(
            "spec.runtime",
            format!("aistack up runs our own programs, and {server} for {model} is a container image"),
            format!("start {server} yourself and give its address as endpoint, or use tinyinfer"),
        ));
    }
    let is_found = spec.model.uri.is_some() || spec.model_cache.is_some() || is_versioned(service);
    if ours && !is_found {
        gaps.push(Gap::doubt(
            "spec.model",
            format!("nothing says where a pod finds the weights of {model}, unless its image ships them"),
            "push the model and give its version, or give a uri with its sha256, or a modelCache that holds it",
        ));
    }
    let local: [(bool, &str, &str); 5] = [
        (spec.model.uri.is_some(), "spec.model.uri", "looks weights up in the model cache only"),
        (spec.model.version.is_some(), "spec.model.version", "does not look versions up in the registry"),
        (spec.scaling.is_some(), "spec.scaling", "runs one process of it"),
        (!spec.traffic.is_empty(), "spec.traffic", "does not split traffic between versions"),
        (spec.canary.is_some(), "spec.canary", "does not roll versions out in steps"),
    ];
    for (asked, path, what) in local {
        if asked {
            gaps.push(Gap::local(path, format!("aistack up {what}"), "remove the field"));
        }
    }
    let later: [(bool, &str, &str); 3] = [
        (!spec.adapters.is_empty(), "spec.adapters", "adapters are not loaded"),
        (ours && spec.quantization.is_some(), "spec.quantization", "weights keep the format of their file"),
        (spec.speculative.is_some(), "spec.speculative", "decoding is not speculative"),
    ];
    for (asked, path, what) in later {
        if asked {
            gaps.push(Gap::everywhere(path, format!("{what} in this version"), "remove the field"));
        }
    }
    gaps
}
