//! Weights: fetched by ModelHub's own program before the engine starts, verified, and kept where the manifest says.

use std::collections::BTreeMap;

use aistack_crds::parts::SecretKeyRef;
use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, HostPathVolumeSource, PersistentVolumeClaimVolumeSource, PodSpec,
    ResourceRequirements, SecretKeySelector, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::ValidatedInferenceService;
use super::validate::{Serving, Source};
use super::version::Version;
use crate::digest::digest;
use crate::meta::Image;
use crate::pod::{all_of, pull_secrets};
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
    /// What fetches from it. Of the stack and not of the InferenceService: it is handed the key.
    pub image: Image,
}

/// Folder of the model cache that holds the weights; `None` when the engine finds them by name. Caches may be shared: names that
/// read alike stay apart, and so do namespaces, whose registries have models of the same name and version.
pub fn place(service: &ValidatedInferenceService, serving: &Serving, version: &Version) -> Option<String> {
    let plain: String = service
        .model
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .collect();
    let (readable, told) = match &serving.source {
        Source::Engine { .. } => return None,
        // Another file of the same model has another digest; one that nobody gave a digest for is told by its address.
        Source::File { uri, sha256, .. } => (plain, sha256.as_ref().unwrap_or(uri).clone()),
        Source::Registry => (format!("{plain}{}", version.suffix()), version.target().to_owned()),
    };
    let whose = format!("{}\n{}\n{told}", service.owner.namespace, service.model);
    Some(format!("{readable}-{}", digest(&whose, 6)))
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
    if let (Source::Engine { secret: Some(secret) }, Some(engine)) =
        (&serving.source, pod.containers.first_mut())
    {
        engine.env_from = Some(vec![all_of(secret)]);
    }
    let Some(place) = place(service, serving, version) else { return };
    let Some(engine) = pod.containers.first() else { return };
    let mut image = &serving.fetcher;
    let (mut args, mut env, mut env_from) = (vec!["fetch".to_owned()], Vec::new(), None);
    let mut arg = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
    match &serving.source {
        Source::Engine { .. } => return,
        Source::File { uri, sha256, secret } => {
            arg("--from", uri);
            if let Some(sha256) = sha256 {
                arg("--sha256", sha256);
            }
            env_from = secret.as_deref().map(|secret| vec![all_of(secret)]);
        }
        Source::Registry => {
            arg("--from", &format!("modelhub://{}/{}", service.model, version.target()));
            if let Some(registry) = registry {
                image = &registry.image;
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
    pod.image_pull_secrets = pull_secrets(&[&serving.fetcher, image]);
    pod.init_containers = Some(vec![Container {
        name: FETCH.to_owned(),
        image: Some(image.reference.clone()),
        image_pull_policy: Some(image.pull_policy.to_owned()),
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

#[cfg(test)]
mod tests {
    use aistack_crds::InferenceService;
    use k8s_openapi::api::core::v1::Container;
    use serde_json::json;

    use super::*;
    use crate::inference_service::build::{Surroundings, build_in};
    use crate::inference_service::validate;
    use crate::manifest::Manifest;

    fn of(namespace: &str, model: &str) -> ValidatedInferenceService {
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService",
            "metadata": {"name": "chat", "namespace": namespace},
            "spec": {"model": {"name": model, "version": "1"}, "image": {"repository": "evil.example.com/x"}}});
        let object: InferenceService = serde_json::from_value(object).expect("an InferenceService");
        validate(&object, "").expect("valid")
    }

    fn pod(service: &ValidatedInferenceService, around: &Surroundings) -> PodSpec {
        let built = build_in(service, around);
        let deployment = built.0.into_iter().find_map(|manifest| match manifest {
            Manifest::Deployment(deployment) => Some(deployment),
            _ => None,
        });
        deployment.expect("a Deployment").spec.template.spec.expect("a pod")
    }

    fn fetcher(around: &Surroundings) -> Container {
        pod(&of("team", "m"), around).init_containers.expect("it fetches").remove(0)
    }

    #[test]
    fn credentials_go_to_whoever_fetches() {
        let of = |runtime: &str, model: serde_json::Value| {
            let mut spec = json!({"runtime": runtime, "model": model});
            spec["model"]["name"] = json!("org/gated");
            spec["model"]["secretName"] = json!("token");
            let object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService",
                "metadata": {"name": "chat"}, "spec": spec});
            let object: InferenceService = serde_json::from_value(object).expect("an InferenceService");
            let pod = pod(&validate(&object, "").expect("valid"), &Surroundings::default());
            let reads = |container: &Container| {
                let sources = container.env_from.iter().flatten();
                sources.filter_map(|it| it.secret_ref.as_ref()).any(|secret| secret.name == "token")
            };
            (pod.init_containers.iter().flatten().any(reads), pod.containers.iter().any(reads))
        };
        assert_eq!(of("vllm", json!({})), (false, true));
        assert_eq!(of("vllm", json!({"uri": "https://example.com/w"})), (true, false));
        assert_eq!(of("tinyinfer", json!({"uri": "s3://b/w"})), (true, false));
        assert_eq!(of("tinyinfer", json!({})), (false, false), "the API server refuses it");
    }

    #[test]
    fn the_registrys_key_is_never_handed_to_an_image_of_the_services_own() {
        let key = SecretKeyRef { name: "modelhub-admin".to_owned(), key: "admin-key".to_owned() };
        let image = Image {
            reference: "ours/modelhub:1".to_owned(),
            pull_policy: "IfNotPresent",
            pull_secrets: vec!["hubs".to_owned()],
        };
        let registry = Registry { url: "http://modelhub:8080".to_owned(), key: Some(key), image };
        let fetch = fetcher(&Surroundings { registry: Some(registry), ..Surroundings::default() });
        assert!(fetch.env.iter().flatten().any(|env| env.name == "AISTACK_API_KEY"));
        assert_eq!(fetch.image.as_deref(), Some("ours/modelhub:1"));
        let alone = fetcher(&Surroundings::default());
        assert_eq!(alone.env, None);
        assert!(alone.image.is_some_and(|image| image.starts_with("evil.example.com/x/")));
    }

    #[test]
    fn folders_of_a_shared_cache_stay_apart() {
        let folder = |namespace: &str, model: &str| {
            let service = of(namespace, model);
            place(&service, service.serving().expect("pods"), &service.versions[0]).expect("a folder")
        };
        let all = [folder("a", "org/model"), folder("a", "org-model"), folder("b", "org/model")];
        assert!(all.iter().all(|folder| folder.starts_with("org-model-v1-")), "{all:?}");
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2], "{all:?}");
        assert_eq!(folder("a", "org/model"), all[0]);
    }
}
