//! The one shape of a component on Kubernetes: config file, Services, disruption budget, and hardened pods.
//!
//! Every component of ours is described by a [`Workload`] and becomes either a StatefulSet (a name and a volume a pod)
//! or a Deployment. Nothing here can fail: what could be wrong was refused by `validate`.

use std::collections::BTreeMap;

use aistack_crds::parts::{PodOverrides, ResourceSpec};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet,
    StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, EnvVar, PersistentVolumeClaim, PersistentVolumeClaimSpec, Service, ServicePort, ServiceSpec,
    VolumeResourceRequirements,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::digest::digest;
use crate::ending::Ending;
use crate::gpu::Gpu;
use crate::manifest::Manifests;
use crate::meta::{Image, Owner};
use crate::pod;
use crate::size::Size;

/// Folder that holds a component's config file.
pub const CONFIG_DIR: &str = "/etc/aistack";
/// Folder of a component's volume.
pub const DATA_DIR: &str = "/var/lib/aistack";
/// Folder of the model cache.
pub const MODELS_DIR: &str = "/var/cache/aistack/models";
/// Volume name of the model cache.
pub const MODELS_VOLUME: &str = "models";
/// Annotation of the Service that people open: its value names the port.
pub const ENTRY_ANNOTATION: &str = "platform.dev/entry";
/// Name of the port with `/metrics`, `/healthz` and `/readyz`.
pub const ADMIN_PORT: &str = "admin";

/// Name of the port by which the members of a StatefulSet know one another.
pub const MEMBERS_PORT: &str = "peer";

/// Name of the Service that gives the pods of a StatefulSet their names.
pub fn headless_name(workload: &str) -> String {
    format!("{workload}-members")
}

/// A port of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name, such as `client`.
    pub name: &'static str,
    /// Number, the same in the container and on the Service.
    pub number: u16,
    /// Who reaches it.
    pub reach: Reach,
}

/// Who reaches a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Clients, through the Service.
    Clients,
    /// Other members, by pod name through the headless Service.
    Members,
    /// The kubelet and Prometheus, at the pod.
    Node,
}

/// A component's config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Name of the file in [`CONFIG_DIR`].
    pub name: String,
    /// Its text.
    pub text: String,
}

impl ConfigFile {
    /// Serialises the very struct that the component parses. What is as the component has it anyway is left out, so
    /// that a person can read the file and a later version's better default reaches stacks that did not choose.
    pub fn yaml<C: Serialize + Default>(component: &str, config: &C) -> Self {
        let value = |config: &C| serde_json::to_value(config).expect("configuration structs are plain data");
        let chosen =
            difference(value(config), &value(&C::default())).unwrap_or_else(|| Value::Object(Map::new()));
        let text = serde_yaml_ng::to_string(&chosen).expect("JSON is YAML");
        Self { name: format!("{component}.yaml"), text }
    }

    /// A spec as it is, for components that read the kind's own words.
    pub(crate) fn spec<S: Serialize>(name: &str, spec: &S) -> Self {
        let text = serde_json::to_string_pretty(spec).expect("a spec is plain data");
        Self { name: format!("{name}.json"), text }
    }

    /// Path in the container.
    pub fn path(&self) -> String {
        format!("{CONFIG_DIR}/{}", self.name)
    }
}

/// What of `value` is not as in `default`; `None` when all of it is.
fn difference(value: Value, default: &Value) -> Option<Value> {
    if value == *default {
        return None;
    }
    let Value::Object(fields) = value else { return Some(value) };
    let chosen: Map<String, Value> = fields
        .into_iter()
        .filter_map(|(name, field)| {
            let default = default.get(&name).unwrap_or(&Value::Null);
            Some((name, difference(field, default)?))
        })
        .collect();
    Some(Value::Object(chosen))
}

/// A Secret's key as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// Name of the volume.
    pub volume: &'static str,
    /// Name of the Secret.
    pub secret: String,
    /// Key in the Secret, and name of the file.
    pub key: String,
}

impl SecretFile {
    /// Folder that the Secret is mounted at.
    pub fn folder(&self) -> String {
        format!("/etc/aistack-secrets/{}", self.volume)
    }

    /// Path of the file in the container.
    pub fn path(&self) -> String {
        format!("{}/{}", self.folder(), self.key)
    }
}

/// A volume a pod, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Size.
    pub size: Size,
    /// StorageClass.
    pub class: StorageClass,
    /// VolumeAttributesClass, if one is named.
    pub attributes: Option<String>,
    /// Whether it is deleted with its owner.
    pub deleted_with_owner: bool,
}

impl Claim {
    fn retention(&self) -> StatefulSetPersistentVolumeClaimRetentionPolicy {
        let policy = if self.deleted_with_owner { "Delete" } else { "Retain" };
        StatefulSetPersistentVolumeClaimRetentionPolicy {
            when_deleted: Some(policy.to_owned()),
            when_scaled: Some("Retain".to_owned()),
        }
    }
}

/// Which StorageClass a volume uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageClass {
    /// The cluster's default.
    Default,
    /// A named one.
    Named(String),
}

impl StorageClass {
    /// Reads the optional field of a spec.
    pub fn of(name: Option<&String>) -> Self {
        name.map_or(Self::Default, |name| Self::Named(name.clone()))
    }
}

/// A component, described.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Name of the StatefulSet or Deployment and of the client Service.
    pub name: String,
    /// Whom it belongs to.
    pub owner: Owner,
    /// Pods.
    pub replicas: u16,
    /// Image.
    pub image: Image,
    /// Program in the image.
    pub command: Vec<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Its config files; may be none for somebody else's image.
    pub config: Vec<ConfigFile>,
    /// Its environment.
    pub env: Vec<EnvVar>,
    /// Secrets that it reads.
    pub secrets: Vec<SecretFile>,
    /// Whether it reads the model cache.
    pub models: bool,
    /// CPU and memory.
    pub resources: ResourceSpec,
    /// GPUs.
    pub gpu: Gpu,
    /// Port and path of its probes.
    pub probes: Probes,
    /// How its pods end.
    pub ending: Ending,
    /// Where it may run.
    pub overrides: PodOverrides,
    /// Annotations of the client Service.
    pub service_annotations: BTreeMap<String, String>,
}

/// How a component's health is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    /// Name of the port.
    pub port: &'static str,
    /// Path that answers when the process lives.
    pub live: &'static str,
    /// Path that answers when clients may come.
    pub ready: &'static str,
    /// Seconds it may take to start.
    pub start_seconds: u16,
}

impl Probes {
    /// `/healthz` and `/readyz` on the admin port, as every server of ours has them.
    pub fn admin(start_seconds: u16) -> Self {
        Self { port: ADMIN_PORT, live: "/healthz", ready: "/readyz", start_seconds }
    }
}

impl Workload {
    /// One pod of a component, without ports.
    pub(crate) fn that_ends(name: String, owner: Owner, image: Image, component: &str) -> Self {
        Self {
            name,
            owner,
            replicas: 1,
            image,
            command: vec![component.to_owned()],
            args: Vec::new(),
            ports: Vec::new(),
            config: Vec::new(),
            env: Vec::new(),
            secrets: Vec::new(),
            models: false,
            resources: ResourceSpec::default(),
            gpu: Gpu::None,
            probes: Probes::admin(60),
            ending: Ending::MEMBER,
            overrides: PodOverrides::default(),
            service_annotations: BTreeMap::new(),
        }
    }

    /// As a StatefulSet: a stable name and a volume for each pod.
    pub fn stateful(&self, claim: &Claim) -> Manifests {
        self.named_pods(Some(claim))
    }

    /// The same without volumes: a stable name for each pod.
    pub(crate) fn stateful_without_volumes(&self) -> Manifests {
        self.named_pods(None)
    }

    fn named_pods(&self, claim: Option<&Claim>) -> Manifests {
        let headless = headless_name(&self.name);
        let mut manifests = self.configuration();
        manifests.push(self.headless_service(&headless));
        manifests.push(self.client_service());
        manifests.push(StatefulSet {
            metadata: self.owner.metadata(&self.name),
            spec: StatefulSetSpec {
                replicas: Some(i32::from(self.replicas)),
                selector: self.owner.label_selector(),
                service_name: Some(headless),
                // Members find one another; waiting for the one before would only slow a start.
                pod_management_policy: Some("Parallel".to_owned()),
                update_strategy: Some(StatefulSetUpdateStrategy {
                    type_: Some("RollingUpdate".to_owned()),
                    ..StatefulSetUpdateStrategy::default()
                }),
                persistent_volume_claim_retention_policy: claim.map(Claim::retention),
                volume_claim_templates: claim.map(|claim| vec![self.claim_template(claim)]),
                template: pod::kept_apart(
                    self,
                    claim.map_or(pod::DataVolume::None, |_| pod::DataVolume::Claim),
                ),
                ..StatefulSetSpec::default()
            },
            ..StatefulSet::default()
        });
        self.push_disruption_budget(&mut manifests);
        manifests
    }

    /// As a Deployment: pods that are all alike.
    pub fn stateless(&self) -> Manifests {
        let mut manifests = self.configuration();
        manifests.push(self.client_service());
        manifests.push(Deployment {
            metadata: self.owner.metadata(&self.name),
            spec: DeploymentSpec {
                replicas: Some(i32::from(self.replicas)),
                selector: self.owner.label_selector(),
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".to_owned()),
                    rolling_update: Some(RollingUpdateDeployment {
                        // A mistake in an edit takes nothing away.
                        max_surge: Some(IntOrString::Int(1)),
                        max_unavailable: Some(IntOrString::Int(0)),
                    }),
                }),
                template: pod::kept_apart(self, pod::DataVolume::None),
                ..DeploymentSpec::default()
            },
            ..Deployment::default()
        });
        self.push_disruption_budget(&mut manifests);
        manifests
    }

    /// Name of the ConfigMap with the config files. Other files are another ConfigMap: a pod of before that starts anew, on another node or
    /// after its process ended, reads what it was made with.
    pub fn config_name(&self) -> String {
        let texts = self.config.iter().flat_map(|file| [file.name.as_str(), file.text.as_str()]);
        format!("{}-config-{}", self.name, digest(&texts.collect::<Vec<_>>().join("\0"), 4))
    }

    fn configuration(&self) -> Manifests {
        let mut manifests = Manifests::default();
        if !self.config.is_empty() {
            let data = self.config.iter().map(|file| (file.name.clone(), file.text.clone())).collect();
            manifests.push(ConfigMap {
                metadata: self.owner.metadata(self.config_name()),
                data: Some(data),
                ..ConfigMap::default()
            });
        }
        manifests
    }

    fn client_service(&self) -> Service {
        let mut metadata = self.owner.metadata(&self.name);
        if !self.service_annotations.is_empty() {
            metadata.annotations = Some(self.service_annotations.clone());
        }
        let ports = self.service_ports(|port| port.reach == Reach::Clients);
        self.service(metadata, ports, ServiceSpec::default())
    }

    fn headless_service(&self, name: &str) -> Service {
        let ports = self.service_ports(|port| port.reach != Reach::Node);
        let spec = ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // Members must find one another before they are ready, or none ever is.
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        };
        self.service(self.owner.metadata(name), ports, spec)
    }

    fn service(&self, metadata: ObjectMeta, ports: Vec<ServicePort>, spec: ServiceSpec) -> Service {
        let spec = ServiceSpec { selector: Some(self.owner.selector()), ports: Some(ports), ..spec };
        Service { metadata, spec: Some(spec), ..Service::default() }
    }

    fn service_ports(&self, wanted: impl Fn(&Port) -> bool) -> Vec<ServicePort> {
        self.ports
            .iter()
            .filter(|port| wanted(port))
            .map(|port| ServicePort {
                name: Some(port.name.to_owned()),
                port: i32::from(port.number),
                target_port: Some(IntOrString::String(port.name.to_owned())),
                ..ServicePort::default()
            })
            .collect()
    }

    /// Of one pod, a budget that never blocks a drain would say nothing. It comes after the pods: whoever asks for more waits for these.
    fn push_disruption_budget(&self, manifests: &mut Manifests) {
        if self.replicas < 2 {
            return;
        }
        manifests.push(PodDisruptionBudget {
            metadata: self.owner.metadata(&self.name),
            spec: Some(PodDisruptionBudgetSpec {
                // One at a time keeps every quorum and never blocks a drain for ever.
                max_unavailable: Some(IntOrString::Int(1)),
                selector: Some(self.owner.label_selector()),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        });
    }

    fn claim_template(&self, claim: &Claim) -> PersistentVolumeClaim {
        let class = match &claim.class {
            StorageClass::Default => None,
            StorageClass::Named(name) => Some(name.clone()),
        };
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(pod::DATA_VOLUME.to_owned()),
                labels: Some(self.owner.selector()),
                ..ObjectMeta::default()
            },
            spec: Some(PersistentVolumeClaimSpec {
                access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
                storage_class_name: class,
                volume_attributes_class_name: claim.attributes.clone(),
                resources: Some(VolumeResourceRequirements {
                    requests: Some(BTreeMap::from([(
                        "storage".to_owned(),
                        Quantity(claim.size.as_str().to_owned()),
                    )])),
                    ..VolumeResourceRequirements::default()
                }),
                ..PersistentVolumeClaimSpec::default()
            }),
            ..PersistentVolumeClaim::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use aistack_api::{
        modelhub::{EngineConfig, EngineTask, ModelhubConfig},
        tinyinfer::TinyinferConfig,
        tinykv::TinykvConfig,
        vectorforge::VectorforgeConfig,
    };
    use serde::de::DeserializeOwned;

    use super::*;

    #[track_caller]
    fn survives<C: Serialize + DeserializeOwned + Default + PartialEq + Debug>(change: impl FnOnce(&mut C)) {
        let mut config = C::default();
        change(&mut config);
        let file = ConfigFile::yaml("x", &config);
        assert_eq!(
            serde_yaml_ng::from_str::<C>(&file.text).expect("its own struct"),
            config,
            "{}",
            file.text
        );
    }

    #[test]
    fn a_component_reads_the_very_config_that_was_meant() {
        let admin = "0.0.0.0:9".parse().expect("an address");
        survives::<TinykvConfig>(|_| {});
        survives::<TinykvConfig>(|config| {
            config.server.admin_listen = admin;
            config.raft.heartbeat_ms = 7;
        });
        survives::<VectorforgeConfig>(|config| {
            config.server.admin_listen = admin;
            config.engine.hnsw_m = 32;
        });
        survives::<TinyinferConfig>(|config| {
            config.server.admin_listen = admin;
            config.served_names = vec!["a".to_owned()];
        });
        survives::<ModelhubConfig>(|config| {
            config.server.admin_listen = admin;
            config.engines = vec![EngineConfig {
                name: "chat".to_owned(),
                endpoint: "http://tinyinfer-chat:8000".to_owned(),
                models: vec!["m".to_owned()],
                task: EngineTask::Chat,
                api_key_file: None,
                tls: None,
            }];
        });
    }
}
