//! A model becomes a Deployment of its engine for each version; an external one becomes nothing but a route.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use aistack_api::tinyinfer::TinyinferConfig;
use aistack_crds::inference_service::{Autoscaler, Pooling};
use aistack_crds::parts::GpuAllocation;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PodResourceClaim, ResourceClaim};
use k8s_openapi::api::resource::v1::{
    DeviceClaim, ResourceClaimSpec, ResourceClaimTemplate, ResourceClaimTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::fetch::{self, Registry};
use super::preload;
use super::scaling::{self, Keda};
use super::validate::{Scale, Serving};
use super::version::Version;
use super::{ADMIN_PORT, COMPONENT, Engine, GRPC_PORT, HTTP_PORT, ValidatedInferenceService};
use crate::digest::digest;
use crate::ending::Ending;
use crate::gpu::Gpu;
use crate::manifest::{Manifest, Manifests};
use crate::meta::Owner;
use crate::pod::{env, pod_name_env};
use crate::workload::{ADMIN_PORT as ADMIN, ConfigFile, MODELS_DIR, Port, Probes, Reach, Workload};

/// What is known beside the spec when a service is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The registry that versions are fetched from.
    pub(super) registry: Option<Registry>,
    /// Whether the service sleeps.
    pub(super) is_asleep: bool,
    /// Whether the cluster hands GPUs out by claims.
    pub(super) has_device_class: bool,
    /// Versions whose pods are not to be there yet: their weights are on no node.
    pub(super) held: Vec<Version>,
    /// Where KEDA finds Prometheus.
    pub(super) prometheus: Option<String>,
    /// Deployments with an autoscaler of Kubernetes': KEDA takes none that has one.
    pub(super) autoscaled: Vec<String>,
    /// Versions whose Deployments want no pods.
    pub(super) resting: Vec<Version>,
    /// Whether ModelHub leads requests over to a canary, and may lead all of them back at any time.
    pub(super) is_canary_under_way: bool,
    /// Whether the present version is to take the place of one that serves: nobody asks it yet, and it needs its pods all the same.
    pub(super) is_taking_over: bool,
    /// How many pods it is to have for that, where it has fewer and an autoscaler is to have its say later.
    pub(super) begins_with: Option<i32>,
}

/// What an InferenceService becomes.
pub fn build(service: &ValidatedInferenceService) -> Manifests {
    build_in(service, &Surroundings::default())
}

/// The same, with what a cluster adds.
pub(super) fn build_in(service: &ValidatedInferenceService, around: &Surroundings) -> Manifests {
    let mut manifests = Manifests::default();
    let Some(serving) = service.serving() else { return manifests };
    let gpu = serving.gpu.handed_out(around.has_device_class);
    let serving = &Serving { gpu, ..serving.clone() };
    for version in &service.versions {
        let workload = match &service.engine {
            Engine::Vllm(_) => vllm(service, serving, version),
            Engine::Onnx(_, pooling) => infinity(service, serving, version, *pooling),
            Engine::Tinyinfer(_) | Engine::External(_) => tinyinfer(service, serving, version),
        };
        let claims = claims(&workload);
        let mut built = workload.stateless();
        for manifest in &mut built.0 {
            if let Manifest::Deployment(deployment) = manifest {
                finish(service, serving, version, around, deployment);
                manifests.0.extend(preload::build(service, serving, version, deployment).map(Manifest::from));
            }
        }
        let is_held = around.held.contains(version);
        built.0.retain(|manifest| !(is_held && matches!(manifest, Manifest::Deployment(_))));
        // A template is there before the pods that claim by it.
        manifests.append(claims);
        manifests.append(built);
        if let (Scale::Auto(bounds), false) = (&serving.scale, is_held) {
            let keda = Keda { prometheus: around.prometheus.as_deref(), is_asleep: around.is_asleep };
            let is_taken = bounds.by == Autoscaler::Keda && around.autoscaled.contains(&workload.name);
            let is_canary = service.canary.as_ref().is_some_and(|canary| canary.version == version.target());
            let is_way_back = around.is_canary_under_way && !is_canary;
            let keeps_pods = is_way_back || (around.is_taking_over && *version == service.versions[0]);
            let scaler = scaling::autoscaler(&workload, bounds, keda, keeps_pods).filter(|_| !is_taken);
            manifests.0.extend(scaler);
        }
    }
    manifests
}

/// What only models have: no number of pods where an autoscaler owns it, a fetch before the engine, claims of devices.
fn finish(
    service: &ValidatedInferenceService,
    serving: &Serving,
    version: &Version,
    around: &Surroundings,
    deployment: &mut Deployment,
) {
    let spec = &mut deployment.spec;
    spec.replicas = match &serving.scale {
        _ if around.is_asleep => Some(0),
        Scale::Fixed(replicas) => Some(i32::from(*replicas)),
        Scale::Auto(bounds) => {
            let least = bounds.min_replicas.max(1);
            let first = around.begins_with.filter(|_| *version == service.versions[0]);
            let first = first.map(|pods| pods.clamp(least, bounds.max_replicas.max(1)));
            // No autoscaler begins from none, as where a version made room for another and is to serve again.
            first.or_else(|| around.resting.contains(version).then_some(least))
        }
    };
    let rolling = spec.strategy.as_mut().and_then(|strategy| strategy.rolling_update.as_mut());
    if let (Some(rolling), true) = (rolling, service.gives_way()) {
        (rolling.max_surge, rolling.max_unavailable) = (Some(IntOrString::Int(0)), Some(IntOrString::Int(1)));
    }
    let Some(pod) = &mut spec.template.spec else { return };
    fetch::add(service, serving, version, around.registry.as_ref(), pod);
    if let Gpu::Claim(claim) = &serving.gpu
        && claim.allocation == GpuAllocation::Dra
    {
        pod.resource_claims = Some(vec![PodResourceClaim {
            name: GPU_CLAIM.to_owned(),
            resource_claim_template_name: Some(claim_name(&service.workload_name(version), &claim.devices())),
            ..PodResourceClaim::default()
        }]);
        let claim = ResourceClaim { name: GPU_CLAIM.to_owned(), request: None };
        pod.containers[0].resources.get_or_insert_default().claims = Some(vec![claim]);
    }
}

/// Name of the claim in a pod.
const GPU_CLAIM: &str = "gpu";

/// Name of a template: one that is there cannot be changed, so what asks for something else is another.
fn claim_name(workload: &str, devices: &DeviceClaim) -> String {
    let text = serde_json::to_string(devices).expect("JSON is text");
    format!("{workload}-gpu-{}", digest(&text, 4))
}

fn claims(workload: &Workload) -> Manifests {
    let mut manifests = Manifests::default();
    if let Gpu::Claim(claim) = &workload.gpu
        && claim.allocation == GpuAllocation::Dra
    {
        let devices = claim.devices();
        let name = claim_name(&workload.name, &devices);
        let spec = ResourceClaimSpec { devices: Some(devices) };
        manifests.push(ResourceClaimTemplate {
            metadata: workload.owner.metadata(name),
            spec: Some(ResourceClaimTemplateSpec { metadata: None, spec: Some(spec) }),
        });
    }
    manifests
}

/// Whom a version's objects belong to: each version has pods of its own, so labels of its own.
pub(super) fn owner_of(service: &ValidatedInferenceService, version: &Version) -> Owner {
    let mut owner = service.owner.clone();
    owner.instance += &version.suffix();
    service.engine.component().clone_into(&mut owner.component);
    owner
}

fn tinyinfer(service: &ValidatedInferenceService, serving: &Serving, version: &Version) -> Workload {
    let any = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let config = TinyinferConfig {
        server: Ending::ONE_OF_SEVERAL.server(any(ADMIN_PORT)),
        listen_http: any(HTTP_PORT),
        listen_grpc: any(GRPC_PORT),
        model: fetch::place(service, serving, version).unwrap_or_else(|| service.model.clone()),
        task: Some(service.engine_task()),
        served_names: vec![service.model.clone()],
        max_context: service.context_tokens,
        ..TinyinferConfig::default()
    };
    let config = ConfigFile::yaml(COMPONENT, &config);
    Workload {
        name: service.workload_name(version),
        owner: owner_of(service, version),
        replicas: serving.scale.most(),
        image: serving.image.clone(),
        command: vec![COMPONENT.to_owned()],
        args: vec!["--config".to_owned(), config.path()],
        ports: vec![
            Port { name: "http", number: HTTP_PORT, reach: Reach::Clients },
            Port { name: "grpc", number: GRPC_PORT, reach: Reach::Clients },
            Port { name: ADMIN, number: ADMIN_PORT, reach: Reach::Node },
        ],
        config: vec![config],
        env: vec![env("AISTACK_MODELS", MODELS_DIR), pod_name_env("TINYINFER_SERVER__TELEMETRY__INSTANCE")],
        secrets: Vec::new(),
        models: true,
        resources: serving.resources.clone(),
        gpu: serving.gpu.clone(),
        // Large weights are read and warmed before the first request.
        probes: Probes::admin(1800),
        ending: Ending::ONE_OF_SEVERAL,
        overrides: serving.pod.clone(),
        service_annotations: BTreeMap::new(),
    }
}

/// <https://docs.vllm.ai/en/latest/cli/serve.html>
fn vllm(service: &ValidatedInferenceService, serving: &Serving, version: &Version) -> Workload {
    let place = fetch::place(service, serving, version).map(|place| format!("{MODELS_DIR}/{place}"));
    let mut args = vec![
        "--model".to_owned(),
        place.unwrap_or_else(|| service.model.clone()),
        "--served-model-name".to_owned(),
        service.model.clone(),
        "--port".to_owned(),
        HTTP_PORT.to_string(),
    ];
    if service.context_tokens > 0 {
        args.extend(["--max-model-len".to_owned(), service.context_tokens.to_string()]);
    }
    if let Gpu::Claim(claim) = &serving.gpu
        && claim.count > 1
    {
        args.extend(["--tensor-parallel-size".to_owned(), claim.count.to_string()]);
    }
    theirs(service, serving, version, args)
}

/// Embeddings by ONNX Runtime. The program of a model's repository is not run, and nobody is told of it.
/// <https://michaelfeil.eu/infinity/latest/cli_v2/>
fn infinity(
    service: &ValidatedInferenceService,
    serving: &Serving,
    version: &Version,
    pooling: Pooling,
) -> Workload {
    let place = fetch::place(service, serving, version).map(|place| format!("{MODELS_DIR}/{place}"));
    let device = if serving.gpu == Gpu::None { "cpu" } else { "cuda" };
    let mut args = vec!["v2".to_owned()];
    for (flag, value) in [
        ("--model-id", place.as_deref().unwrap_or(&service.model)),
        ("--served-model-name", &service.model),
        ("--engine", "optimum"),
        ("--pooling-method", if pooling == Pooling::Mean { "mean" } else { "cls" }),
        ("--device", device),
        ("--url-prefix", "/v1"),
        ("--port", &HTTP_PORT.to_string()),
    ] {
        args.extend([flag.to_owned(), value.to_owned()]);
    }
    args.extend(["--no-trust-remote-code", "--no-vector-disk-cache"].map(str::to_owned));
    let mut workload = theirs(service, serving, version, args);
    workload.env.push(env("DO_NOT_TRACK", "1"));
    workload
}

/// The root is read-only: everything that a server writes goes to the scratch volume or the model cache. PyTorch asks who runs it, and the
/// image has no entry for our user.
const THEIR_ENV: [(&str, &str); 6] = [
    ("HOME", "/tmp"),
    ("HF_HOME", MODELS_DIR),
    ("XDG_CACHE_HOME", "/tmp/cache"),
    ("TORCHINDUCTOR_CACHE_DIR", "/tmp/cache/inductor"),
    ("USER", "aistack"),
    ("LOGNAME", "aistack"),
];

/// A server of somebody else's, in its own image.
fn theirs(
    service: &ValidatedInferenceService,
    serving: &Serving,
    version: &Version,
    args: Vec<String>,
) -> Workload {
    Workload {
        name: service.workload_name(version),
        owner: owner_of(service, version),
        replicas: serving.scale.most(),
        image: serving.image.clone(),
        // The image's own entry point is the server.
        command: Vec::new(),
        args,
        ports: vec![Port { name: "http", number: HTTP_PORT, reach: Reach::Clients }],
        config: Vec::new(),
        env: THEIR_ENV.map(|(name, value)| env(name, value)).to_vec(),
        secrets: Vec::new(),
        models: true,
        resources: serving.resources.clone(),
        gpu: serving.gpu.clone(),
        probes: Probes { port: "http", live: "/health", ready: "/health", start_seconds: 1800 },
        ending: Ending::ONE_OF_SEVERAL,
        overrides: serving.pod.clone(),
        service_annotations: BTreeMap::new(),
    }
}
