//! ModelHub has no kind of its own: a stack builds it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use aistack_api::modelhub::{
    ClientTlsConfig, EngineConfig, KeysConfig, KvConfig, KvKind, ModelhubConfig, VectorConfig, VectorKind,
};
use aistack_crds::aistack::ModelHubSpec;
use aistack_crds::parts::{ClientTlsSpec, PodOverrides, ResourceSpec, SecretKeyRef};
use k8s_openapi::api::core::v1::Secret;

use super::meanwhile::Meanwhile;
use super::validate::{Kv, ValidatedStack, Vector};
use super::{HUB, HUB_ADMIN_KEY as ADMIN_KEY, HUB_ADMIN_SECRET as ADMIN_SECRET, HUB_PORT as HTTP_PORT};
use crate::ending::Ending;
use crate::gpu::Gpu;
use crate::inference_service::{ApiKey, ValidatedInferenceService};
use crate::manifest::{GENERATE_ANNOTATION, Manifests};
use crate::meta::{Image, Owner};
use crate::pod::{all_of, pod_name_env};
use crate::workload::{
    ADMIN_PORT as ADMIN, Claim, ConfigFile, DATA_DIR, ENTRY_ANNOTATION, Port, Probes, Reach, SecretFile,
    Workload,
};

/// Port of metrics and health.
const ADMIN_PORT: u16 = 8081;
/// Port of gRPC.
const GRPC_PORT: u16 = 8082;

/// Volumes of the key-value store's CA, client certificate and key.
pub(super) const KV_VOLUMES: [&str; 3] = ["kv-ca", "kv-cert", "kv-key"];
/// The same for the vector store.
const VECTOR_VOLUMES: [&str; 3] = ["vector-ca", "vector-cert", "vector-tls-key"];

/// The same for the engine that runs already: a stack has one at most.
const ENGINE_VOLUMES: [&str; 3] = ["engine-ca", "engine-cert", "engine-tls-key"];

/// A ModelHub that can be built.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HubShape {
    owner: Owner,
    replicas: u16,
    image: Image,
    claim: Claim,
    artefacts: String,
    /// Secret with the credentials for these.
    artefacts_secret: Option<String>,
    keys: Keys,
    resources: ResourceSpec,
    pod: PodOverrides,
}

/// Who may call the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keys {
    /// Everybody that reaches it.
    Open,
    /// Holders of a key; the administrator's is generated.
    Generated,
    /// Holders of a key; the administrator's is in a Secret of the user's.
    Given(SecretKeyRef),
}

/// Of one as of several, so that their number may change and no pod is made anew for it.
const ENDING: Ending = Ending::ONE_OF_SEVERAL;

/// Reads the hub's part of a stack.
pub(super) fn shape(hub: &ModelHubSpec, owner: Owner, image: Image, claim: Claim) -> HubShape {
    let keys = match (&hub.secret_ref, hub.require_keys) {
        (Some(secret), _) => Keys::Given(secret.clone()),
        (None, true) => Keys::Generated,
        (None, false) => Keys::Open,
    };
    HubShape {
        owner,
        replicas: u16::try_from(hub.replicas).unwrap_or(1),
        image,
        claim,
        artefacts: hub.artefacts.clone().unwrap_or_else(|| format!("{DATA_DIR}/artefacts")),
        artefacts_secret: hub.artefacts_secret_name.clone(),
        keys,
        resources: hub.resources.clone(),
        pod: hub.pod.clone(),
    }
}

/// What the hub becomes, in front of the rest of its stack.
pub(super) fn build(hub: &HubShape, stack: &ValidatedStack, meanwhile: &Meanwhile) -> Manifests {
    let mut manifests = Manifests::default();
    let mut secrets = Vec::new();
    if hub.keys == Keys::Generated {
        let mut metadata = hub.owner.metadata(ADMIN_SECRET);
        metadata.annotations = Some(BTreeMap::from([(GENERATE_ANNOTATION.to_owned(), ADMIN_KEY.to_owned())]));
        manifests.push(Secret { metadata, type_: Some("Opaque".to_owned()), ..Secret::default() });
    }
    let config = config(hub, stack, meanwhile, &mut secrets);
    let config = ConfigFile::yaml(HUB, &config);
    let workload = Workload {
        name: HUB.to_owned(),
        owner: hub.owner.clone(),
        replicas: hub.replicas,
        image: hub.image.clone(),
        command: vec![HUB.to_owned()],
        args: vec!["serve".to_owned(), "--config".to_owned(), config.path()],
        ports: vec![
            Port { name: "http", number: HTTP_PORT, reach: Reach::Clients },
            Port { name: "grpc", number: GRPC_PORT, reach: Reach::Clients },
            Port { name: ADMIN, number: ADMIN_PORT, reach: Reach::Node },
        ],
        config: vec![config],
        env: vec![pod_name_env("MODELHUB_SERVER__TELEMETRY__INSTANCE")],
        secrets,
        models: false,
        resources: hub.resources.clone(),
        gpu: Gpu::None,
        probes: Probes::admin(120),
        ending: ENDING,
        overrides: hub.pod.clone(),
        service_annotations: BTreeMap::from([(ENTRY_ANNOTATION.to_owned(), "http".to_owned())]),
    };
    let mut made = workload.stateful(&hub.claim);
    if let Some(secret) = &hub.artefacts_secret {
        for container in made.pods_mut().flat_map(|pod| &mut pod.containers) {
            container.env_from = Some(vec![all_of(secret)]);
        }
    }
    manifests.append(made);
    manifests
}

fn config(
    hub: &HubShape,
    stack: &ValidatedStack,
    meanwhile: &Meanwhile,
    secrets: &mut Vec<SecretFile>,
) -> ModelhubConfig {
    let any = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let kv = match &stack.kv {
        Kv::Absent => KvConfig::default(),
        Kv::Own(own) => KvConfig {
            endpoints: own.1.endpoints(),
            tls: own.1.client_tls().map(|tls| {
                let secret_name = meanwhile.kv_secret.clone().unwrap_or_else(|| tls.secret_name.clone());
                certificates(&KV_VOLUMES, &ClientTlsSpec { secret_name, ..tls }, secrets)
            }),
            ..KvConfig::default()
        },
        Kv::External(external) => KvConfig {
            kind: KvKind::Etcd,
            endpoints: external.endpoints.clone(),
            username: external.username.clone(),
            password_file: external.secret_ref.as_ref().map(|secret| mount("kv-password", secret, secrets)),
            tls: external.tls.as_ref().map(|tls| certificates(&KV_VOLUMES, tls, secrets)),
            ..KvConfig::default()
        },
    };
    let vector = match &stack.vector {
        Vector::Absent => None,
        Vector::Own(own) => {
            let port = crate::vector_collection::GRPC_PORT;
            Some(VectorConfig {
                kind: VectorKind::Qdrant,
                endpoint: format!("http://{}:{port}", own.0.name),
                api_key_file: None,
                tls: None,
            })
        }
        Vector::External(endpoint, external) => Some(VectorConfig {
            kind: VectorKind::Qdrant,
            endpoint: endpoint.clone(),
            api_key_file: external.secret_ref.as_ref().map(|secret| mount("vector-key", secret, secrets)),
            tls: external.tls.as_ref().map(|tls| certificates(&VECTOR_VOLUMES, tls, secrets)),
        }),
    };
    let mut engines: Vec<EngineConfig> =
        stack.services.iter().map(|service| engine(&service.validated, secrets)).collect();
    engines.extend(stack.services.iter().filter_map(|service| before(&service.validated, meanwhile)));
    let admin_key_file = match &hub.keys {
        Keys::Open => None,
        Keys::Generated => {
            let secret = SecretKeyRef { name: ADMIN_SECRET.to_owned(), key: ADMIN_KEY.to_owned() };
            Some(mount("admin-key", &secret, secrets))
        }
        Keys::Given(secret) => Some(mount("admin-key", secret, secrets)),
    };
    ModelhubConfig {
        server: ENDING.server(any(ADMIN_PORT)),
        listen: any(HTTP_PORT),
        listen_grpc: Some(any(GRPC_PORT)),
        kv,
        vector,
        engines,
        artefacts: hub.artefacts.clone(),
        keys: KeysConfig { required: hub.keys != Keys::Open, admin_key_file },
        ..ModelhubConfig::default()
    }
}

fn engine(service: &ValidatedInferenceService, secrets: &mut Vec<SecretFile>) -> EngineConfig {
    EngineConfig {
        name: service.name().to_owned(),
        endpoint: service.endpoint(),
        // Who runs here says which it serves, and its pods change their model one by one; a server of somebody else's may list another name.
        models: if service.is_external() { vec![service.model().to_owned()] } else { Vec::new() },
        task: service.engine_task(),
        api_key_file: match service.secret() {
            ApiKey::Open => None,
            ApiKey::Secret(secret) => Some(mount("engine-key", secret, secrets)),
        },
        tls: service.tls().map(|tls| certificates(&ENGINE_VOLUMES, tls, secrets)),
    }
}

/// The engine that a child has beside what it is to have, and that serves until that is ready.
fn before(service: &ValidatedInferenceService, meanwhile: &Meanwhile) -> Option<EngineConfig> {
    let endpoint =
        meanwhile.engines.get(service.name()).filter(|endpoint| **endpoint != service.endpoint())?;
    Some(EngineConfig {
        name: format!("{}-before", service.name()),
        endpoint: endpoint.clone(),
        models: Vec::new(),
        task: service.engine_task(),
        api_key_file: None,
        tls: None,
    })
}

/// Mounts certificates, and says where.
fn certificates(
    [ca, cert, key]: &[&'static str; 3],
    tls: &ClientTlsSpec,
    secrets: &mut Vec<SecretFile>,
) -> ClientTlsConfig {
    let mut file = |volume: &'static str, key: &str| {
        let secret = SecretKeyRef { name: tls.secret_name.clone(), key: key.to_owned() };
        mount(volume, &secret, secrets)
    };
    ClientTlsConfig {
        ca_file: Some(file(ca, "ca.crt")),
        cert_file: tls.client_certificate.then(|| file(cert, "tls.crt")),
        key_file: tls.client_certificate.then(|| file(key, "tls.key")),
        server_name: tls.server_name.clone(),
    }
}

/// Mounts a Secret's key, and says where.
fn mount(volume: &'static str, secret: &SecretKeyRef, secrets: &mut Vec<SecretFile>) -> PathBuf {
    let file = SecretFile { volume, secret: secret.name.clone(), key: secret.key.clone() };
    let path = PathBuf::from(file.path());
    if !secrets.contains(&file) {
        secrets.push(file);
    }
    path
}
