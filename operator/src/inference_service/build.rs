//! A model becomes a Deployment of its engine; an external one becomes nothing but a route.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use aistack_api::engine::EngineTask;
use aistack_api::server::ServerConfig;
use aistack_api::tinyinfer::TinyinferConfig;
use aistack_crds::inference_service::Task;
use k8s_openapi::api::core::v1::EnvVar;

use super::validate::Serving;
use super::{ADMIN_PORT, COMPONENT, Engine, GRPC_PORT, HTTP_PORT, ValidatedInferenceService};
use crate::gpu::Gpu;
use crate::manifest::Manifests;
use crate::pod::pod_name_env;
use crate::workload::{
    ADMIN_PORT as ADMIN, ClientsReach, ConfigFile, MODELS_DIR, Port, Probes, Reach, Workload,
};

/// What an InferenceService becomes.
pub fn build(service: &ValidatedInferenceService) -> Manifests {
    match &service.engine {
        Engine::Tinyinfer(serving) => tinyinfer(service, serving).stateless(),
        Engine::Vllm(serving) => vllm(service, serving).stateless(),
        Engine::External(_) => Manifests::default(),
    }
}

fn tinyinfer(service: &ValidatedInferenceService, serving: &Serving) -> Workload {
    let any = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let config = TinyinferConfig {
        server: ServerConfig::with_admin(any(ADMIN_PORT)),
        listen_http: any(HTTP_PORT),
        listen_grpc: any(GRPC_PORT),
        model: service.model.clone(),
        task: Some(match service.task {
            Task::Chat => EngineTask::Chat,
            Task::Embed | Task::Rerank => EngineTask::Embed,
        }),
        served_names: vec![service.model.clone()],
        max_context: service.context_tokens,
        ..TinyinferConfig::default()
    };
    let config = ConfigFile::yaml(COMPONENT, &config);
    Workload {
        name: service.workload_name(),
        owner: service.owner.clone(),
        replicas: serving.replicas,
        image: serving.image.clone(),
        command: vec![COMPONENT.to_owned()],
        args: vec!["--config".to_owned(), config.path()],
        ports: vec![
            Port { name: "http", number: HTTP_PORT, reach: Reach::Clients },
            Port { name: "grpc", number: GRPC_PORT, reach: Reach::Clients },
            Port { name: ADMIN, number: ADMIN_PORT, reach: Reach::Node },
        ],
        config: vec![config],
        env: vec![
            EnvVar {
                name: "AISTACK_MODELS".to_owned(),
                value: Some(MODELS_DIR.to_owned()),
                value_from: None,
            },
            pod_name_env("TINYINFER_SERVER__TELEMETRY__INSTANCE"),
        ],
        secrets: Vec::new(),
        models: true,
        resources: serving.resources.clone(),
        gpu: serving.gpu.clone(),
        // Large weights are read and warmed before the first request.
        probes: Probes::admin(1800),
        grace_seconds: 60,
        overrides: serving.pod.clone(),
        service_annotations: BTreeMap::new(),
        clients_reach: ClientsReach::EveryPod,
    }
}

fn vllm(service: &ValidatedInferenceService, serving: &Serving) -> Workload {
    let mut args = vec![
        "--model".to_owned(),
        service.model.clone(),
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
    let mut owner = service.owner.clone();
    "vllm".clone_into(&mut owner.component);
    Workload {
        name: service.workload_name(),
        owner,
        replicas: serving.replicas,
        image: serving.image.clone(),
        // The image's own entry point is the server.
        command: Vec::new(),
        args,
        ports: vec![Port { name: "http", number: HTTP_PORT, reach: Reach::Clients }],
        config: Vec::new(),
        // The root is read-only: everything that vLLM writes goes to the scratch volume or the model cache.
        env: vec![
            EnvVar { name: "HOME".to_owned(), value: Some("/tmp".to_owned()), value_from: None },
            EnvVar { name: "HF_HOME".to_owned(), value: Some(MODELS_DIR.to_owned()), value_from: None },
        ],
        secrets: Vec::new(),
        models: true,
        resources: serving.resources.clone(),
        gpu: serving.gpu.clone(),
        probes: Probes { port: "http", live: "/health", ready: "/health", start_seconds: 1800 },
        grace_seconds: 60,
        overrides: serving.pod.clone(),
        service_annotations: BTreeMap::new(),
        clients_reach: ClientsReach::EveryPod,
    }
}
