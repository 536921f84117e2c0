//! Weights: fetched by ModelHub's own program before the engine starts, verified, and kept where the manifest says.

use std::collections::BTreeMap;

use aistack_crds::parts::SecretKeyRef;
use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EnvVarSource, HostPathVolumeSource, PersistentVolumeClaimVolumeSource,
    PodSpec, ResourceRequirements, SecretEnvSource, SecretKeySelector, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::ValidatedInferenceService;
use super::validate::{Serving, Source};
use super::version::Version;
use crate::workload::{MODELS_DIR, MODELS_VOLUME};

/// Name of the container that fetches.
pub const FETCH: &str = "fetch";

/// The registry that versions are fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Its URL as pods see it.
    pub url: String,
    /// Key that it asks for.
    pub key: Option<SecretKeyRef>,
}

/// Folder of the model cache that holds the weights; `None` when the engine finds them by name.
pub fn place(service: &ValidatedInferenceService, serving: &Serving, version: &Version) -> Option<String> {
    let plain: String = service
        .model
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .collect();
    match &serving.source {
        Source::Engine => None,
        // Another file of the same model has another digest; one that nobody gave a digest for is told by its address.
        Source::File { uri, sha256, .. } => {
            let told = sha256.clone().unwrap_or_else(|| digest(uri));
            Some(format!("{plain}-{}", &told[..12]))
        }
        Source::Registry => Some(format!("{plain}{}", version.suffix())),
    }
}

fn digest(text: &str) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(text.as_bytes()))
}

/// Gives a pod the cache that the manifest names, and a container that fills it before the engine starts.
pub fn add(
    service: &ValidatedInferenceService,
    serving: &Serving,
    version: &Version,
    registry: Option<&Registry>,
    pod: &mut PodSpec,
) {
    if let Some(cache) = &serving.cache {
        for volume in pod.volumes.iter_mut().flatten().filter(|volume| volume.name == MODELS_VOLUME) {
            *volume = Volume {
                name: MODELS_VOLUME.to_owned(),
                persistent_volume_claim: cache.claim_name.as_ref().map(|claim| {
                    PersistentVolumeClaimVolumeSource { claim_name: claim.clone(), read_only: None }
                }),
                host_path: cache.host_path.as_ref().map(|path| HostPathVolumeSource {
                    path: path.clone(),
                    type_: Some("DirectoryOrCreate".to_owned()),
                }),
                ..Volume::default()
            };
        }
    }
    let Some(place) = place(service, serving, version) else { return };
    let Some(engine) = pod.containers.first() else { return };
    let (mut args, mut env, mut env_from) = (vec!["fetch".to_owned()], Vec::new(), None);
    let mut arg = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
    match &serving.source {
        Source::Engine => return,
        Source::File { uri, sha256, secret } => {
            arg("--from", uri);
            if let Some(sha256) = sha256 {
                arg("--sha256", sha256);
            }
            env_from = secret.as_ref().map(|name| {
                let secret = SecretEnvSource { name: name.clone(), optional: None };
                vec![EnvFromSource { secret_ref: Some(secret), ..EnvFromSource::default() }]
            });
        }
        Source::Registry => {
            arg("--from", &format!("modelhub://{}/{}", service.model, version.target()));
            if let Some(registry) = registry {
                arg("--url", &registry.url);
                env.extend(registry.key.as_ref().map(key));
            }
        }
    }
    arg("--into", &format!("{MODELS_DIR}/{place}"));
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    pod.init_containers = Some(vec![Container {
        name: FETCH.to_owned(),
        image: Some(serving.fetcher.reference.clone()),
        image_pull_policy: Some(serving.fetcher.pull_policy.to_owned()),
        command: Some(vec!["modelhub".to_owned()]),
        args: Some(args),
        env: (!env.is_empty()).then_some(env),
        env_from,
        resources: Some(ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), Quantity("100m".to_owned())),
                ("memory".to_owned(), Quantity("64Mi".to_owned())),
            ])),
            ..ResourceRequirements::default()
        }),
        volume_mounts: Some(vec![mount("tmp", "/tmp"), mount(MODELS_VOLUME, MODELS_DIR)]),
        security_context: engine.security_context.clone(),
        // Why it failed is the last thing that it says.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }]);
}

fn key(secret: &SecretKeyRef) -> EnvVar {
    EnvVar {
        name: "AISTACK_API_KEY".to_owned(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.name.clone(),
                key: secret.key.clone(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}
