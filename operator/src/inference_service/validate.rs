//! From what an API server accepts to what `build` cannot fail on.

use aistack_crds::InferenceService;
use aistack_crds::inference_service::{Runtime, Task};
use aistack_crds::parts::{ClientTlsSpec, PodOverrides, ResourceSpec, SecretKeyRef};

use super::{COMPONENT, HTTP_PORT};
use crate::gap::Gap;
use crate::gpu::Gpu;
use crate::meta::{Image, Owner};
use crate::object;
use crate::problem::Problem;

/// vLLM's own server image, when a manifest names no repository.
const VLLM_IMAGE: &str = "vllm/vllm-openai";
const VLLM_TAG: &str = "v0.24.0";

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
    gaps: Vec<Gap>,
}

/// Who serves the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Engine {
    /// TinyInfer, run here.
    Tinyinfer(Box<Serving>),
    /// vLLM, run here.
    Vllm(Box<Serving>),
    /// A server that already runs at this address.
    External(String),
}

/// Pods that serve a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Serving {
    pub(super) replicas: u16,
    pub(super) image: Image,
    pub(super) resources: ResourceSpec,
    pub(super) gpu: Gpu,
    pub(super) pod: PodOverrides,
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

    /// Name of the Deployment and of the Service in front of it.
    pub(super) fn workload_name(&self) -> String {
        let engine = match &self.engine {
            Engine::Vllm(_) => "vllm",
            Engine::Tinyinfer(_) | Engine::External(_) => COMPONENT,
        };
        format!("{engine}-{}", self.name)
    }

    /// URL of the OpenAI server, without `/v1`.
    pub fn endpoint(&self) -> String {
        match &self.engine {
            Engine::External(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            Engine::Tinyinfer(_) | Engine::Vllm(_) => format!("http://{}:{HTTP_PORT}", self.workload_name()),
        }
    }
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
    let fewest = spec.scaling.as_ref().map(|scaling| scaling.min_replicas);
    let replicas = spec.replicas.or(fewest).unwrap_or(1);
    let serving = |image: Image| {
        Box::new(Serving {
            replicas: u16::try_from(replicas).unwrap_or(1),
            image,
            resources: spec.resources.clone(),
            gpu: gpu.clone(),
            pod: spec.pod.clone(),
        })
    };
    let engine = match spec.runtime {
        Runtime::Tinyinfer => Engine::Tinyinfer(serving(Image::of(COMPONENT, &spec.image))),
        Runtime::Vllm => {
            // A stack's repository holds our components; vLLM's image is taken from there only when a tag is given too.
            let image = match (&spec.image.repository, &spec.image.tag) {
                (Some(repository), Some(tag)) => format!("{repository}/vllm-openai:{tag}"),
                _ => format!("{VLLM_IMAGE}:{VLLM_TAG}"),
            };
            Engine::Vllm(serving(Image::named(image, spec.image.pull_policy)))
        }
        Runtime::External => Engine::External(spec.endpoint.clone().unwrap_or_default()),
        Runtime::Onnx => {
            return Err(refuse(Problem::new(
                "spec.runtime",
                "no ONNX server is part of this version",
                "use tinyinfer or vllm, or run one yourself and use runtime: external with its endpoint",
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
    })
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
    if spec.runtime == Runtime::Vllm {
        gaps.push(Gap::local(
            "spec.runtime",
            format!("aistack up runs our own programs, and vLLM for {model} is a container image"),
            "start vLLM yourself and give its address as endpoint, or use tinyinfer",
        ));
    }
    if ours && spec.runtime != Runtime::External {
        gaps.push(Gap::cluster(
            "spec.model",
            format!("the weights of {model} are not fetched on a cluster in this version"),
            "put them into the volume `models` of the pods, for example with an init container in a kustomize patch",
        ));
    }
    let later: [(bool, &str, &str); 8] = [
        (spec.model.uri.is_some(), "spec.model.uri", "weights are looked up in the model cache only"),
        (spec.model.version.is_some(), "spec.model.version", "versions are not looked up in the registry"),
        (spec.scaling.is_some(), "spec.scaling", "the number of pods stays at minReplicas"),
        (!spec.traffic.is_empty(), "spec.traffic", "traffic is not split between versions"),
        (spec.canary.is_some(), "spec.canary", "versions are not rolled out in steps"),
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
