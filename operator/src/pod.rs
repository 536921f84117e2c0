//! Pods: restricted Pod Security in full, read-only root, probes, and nothing that a component does not need.

use std::collections::BTreeMap;

use aistack_crds::parts::GpuAllocation;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvFromSource,
    EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, LocalObjectReference, ObjectFieldSelector,
    PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretEnvSource, SecretVolumeSource, SecurityContext,
    TopologySpreadConstraint, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::ending::Ending;
use crate::gpu::{Gpu, GpuClaim};
use crate::meta::Image;
use crate::workload::{CONFIG_DIR, DATA_DIR, MODELS_DIR, MODELS_VOLUME, SecretFile, Workload};

/// Name of a pod's own volume.
pub(crate) const DATA_VOLUME: &str = "data";
/// Name of what goes with a pod.
const SCRATCH_VOLUME: &str = "tmp";
/// The `nonroot` user of distroless images.
const USER: i64 = 65532;

/// Whether pods have a volume of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataVolume {
    /// From the StatefulSet's claim template.
    Claim,
    /// None.
    None,
}

/// Pods of which there may be several: they keep apart from one another. However many there are now, for a template that went by their
/// number would have all of them made anew when it changes.
pub(crate) fn kept_apart(workload: &Workload, data: DataVolume) -> PodTemplateSpec {
    let mut template = template(workload, data);
    if let Some(spec) = template.spec.as_mut().filter(|_| workload.ending != Ending::ALONE) {
        spec.affinity.get_or_insert_default().pod_anti_affinity = Some(apart(workload));
        spec.topology_spread_constraints = Some(vec![spread(workload)]);
    }
    template
}

/// The pods of a workload.
pub(crate) fn template(workload: &Workload, data: DataVolume) -> PodTemplateSpec {
    let overrides = &workload.overrides;
    let mut tolerations = overrides.tolerations.clone();
    if workload.gpu != Gpu::None {
        tolerations.push(GpuClaim::toleration());
    }
    let affinity = match &workload.gpu {
        Gpu::None => None,
        Gpu::Claim(claim) => claim.affinity(),
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(workload.owner.pod_labels()),
            annotations: (!overrides.annotations.is_empty()).then(|| overrides.annotations.clone()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            image_pull_secrets: pull_secrets(&[&workload.image]),
            containers: vec![container(workload, data)],
            volumes: Some(volumes(workload)),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(i64::from(workload.ending.grace())),
            node_selector: (!overrides.node_selector.is_empty()).then(|| overrides.node_selector.clone()),
            tolerations: (!tolerations.is_empty()).then_some(tolerations),
            priority_class_name: overrides.priority_class_name.clone(),
            affinity,
            ..PodSpec::default()
        }),
    }
}

/// Pods of a kind rather go to zones that have none of it. Not by a second constraint of spread: the scheduler passes over all of them
/// on nodes that lack one's label, and many clusters have no zones.
fn apart(workload: &Workload) -> PodAntiAffinity {
    let term = PodAffinityTerm {
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        label_selector: Some(workload.owner.label_selector()),
        ..PodAffinityTerm::default()
    };
    PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
            weight: 100,
            pod_affinity_term: term,
        }]),
        required_during_scheduling_ignored_during_execution: None,
    }
}

/// What nodes pull a pod's images with, each named once.
pub(crate) fn pull_secrets(images: &[&Image]) -> Option<Vec<LocalObjectReference>> {
    let mut names: Vec<&String> = Vec::new();
    for name in images.iter().flat_map(|image| &image.pull_secrets) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    (!names.is_empty())
        .then(|| names.into_iter().map(|name| LocalObjectReference { name: name.clone() }).collect())
}

fn spread(workload: &Workload) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(workload.owner.label_selector()),
        ..TopologySpreadConstraint::default()
    }
}

fn container(workload: &Workload, data: DataVolume) -> Container {
    let ports = workload
        .ports
        .iter()
        .map(|port| ContainerPort {
            name: Some(port.name.to_owned()),
            container_port: i32::from(port.number),
            ..ContainerPort::default()
        })
        .collect();
    let (startup, live, ready) = probes(workload);
    Container {
        name: workload.owner.component.clone(),
        image: Some(workload.image.reference.clone()),
        image_pull_policy: Some(workload.image.pull_policy.to_owned()),
        command: (!workload.command.is_empty()).then(|| workload.command.clone()),
        args: Some(workload.args.clone()),
        env: (!workload.env.is_empty()).then(|| workload.env.clone()),
        ports: Some(ports),
        resources: resources(workload),
        volume_mounts: Some(mounts(workload, data)),
        startup_probe: Some(startup),
        liveness_probe: Some(live),
        readiness_probe: Some(ready),
        lifecycle: workload.ending.lifecycle(),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        // Why it ended is the last thing that it says; doctor tells it.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// An environment variable.
pub(crate) fn env(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

/// All keys of a Secret, as environment variables.
pub(crate) fn all_of(secret: &str) -> EnvFromSource {
    let secret = SecretEnvSource { name: secret.to_owned(), optional: None };
    EnvFromSource { secret_ref: Some(secret), ..EnvFromSource::default() }
}

/// An environment variable with the pod's own name.
pub(crate) fn pod_name_env(name: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: "metadata.name".to_owned(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn probes(workload: &Workload) -> (Probe, Probe, Probe) {
    let probe = |path: &str, period: i32, failures: i32| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(workload.probes.port.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    let start_failures = i32::from(workload.probes.start_seconds.max(1));
    (
        probe(workload.probes.live, 1, start_failures),
        probe(workload.probes.live, 10, 3),
        probe(workload.probes.ready, 2, 2),
    )
}

fn resources(workload: &Workload) -> Option<ResourceRequirements> {
    let spec = &workload.resources;
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    if let Some(cpu) = &spec.cpu {
        requests.insert("cpu".to_owned(), Quantity(cpu.clone()));
    }
    if let Some(memory) = &spec.memory {
        requests.insert("memory".to_owned(), Quantity(memory.clone()));
        limits.insert("memory".to_owned(), Quantity(memory.clone()));
    }
    if let Some(cpu) = &spec.cpu_limit {
        limits.insert("cpu".to_owned(), Quantity(cpu.clone()));
    }
    if let Gpu::Claim(claim) = &workload.gpu
        && claim.allocation != GpuAllocation::Dra
    {
        limits.insert(claim.resource.clone(), Quantity(claim.count.to_string()));
    }
    (!requests.is_empty() || !limits.is_empty()).then(|| ResourceRequirements {
        requests: (!requests.is_empty()).then_some(requests),
        limits: (!limits.is_empty()).then_some(limits),
        ..ResourceRequirements::default()
    })
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn mounts(workload: &Workload, data: DataVolume) -> Vec<VolumeMount> {
    let mut mounts = vec![mount(SCRATCH_VOLUME, "/tmp", false)];
    if !workload.config.is_empty() {
        mounts.push(mount("config", CONFIG_DIR, true));
    }
    if data == DataVolume::Claim {
        mounts.push(mount(DATA_VOLUME, DATA_DIR, false));
    }
    if workload.models {
        mounts.push(mount(MODELS_VOLUME, MODELS_DIR, false));
    }
    if several_gpus(workload) {
        mounts.push(mount("shm", "/dev/shm", false));
    }
    mounts.extend(
        secrets_by_volume(workload).values().map(|files| mount(files[0].volume, &files[0].folder(), true)),
    );
    mounts
}

/// Keys of one Secret share a volume.
fn secrets_by_volume(workload: &Workload) -> BTreeMap<&'static str, Vec<&SecretFile>> {
    let mut volumes: BTreeMap<&'static str, Vec<&SecretFile>> = BTreeMap::new();
    for file in &workload.secrets {
        volumes.entry(file.volume).or_default().push(file);
    }
    volumes
}

/// Processes that share a model over several GPUs exchange data through shared memory.
fn several_gpus(workload: &Workload) -> bool {
    matches!(&workload.gpu, Gpu::Claim(claim) if claim.count > 1)
}

/// What a pod may put into `/tmp` before it has to go: more would be taken from others on its node.
pub(crate) fn limit_scratch(spec: &mut PodSpec, most: Quantity) {
    let mut volumes = spec.volumes.iter_mut().flatten();
    let scratch = volumes.find(|volume| volume.name == SCRATCH_VOLUME);
    if let Some(source) = scratch.and_then(|volume| volume.empty_dir.as_mut()) {
        source.size_limit = Some(most);
    }
}

fn volumes(workload: &Workload) -> Vec<Volume> {
    let scratch = |name: &str, medium: Option<&str>| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![scratch(SCRATCH_VOLUME, None)];
    if !workload.config.is_empty() {
        volumes.push(Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: workload.config_name(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    if workload.models {
        volumes.push(scratch(MODELS_VOLUME, None));
    }
    if several_gpus(workload) {
        volumes.push(scratch("shm", Some("Memory")));
    }
    volumes.extend(secrets_by_volume(workload).into_iter().map(|(name, files)| {
        Volume {
            name: name.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(files[0].secret.clone()),
                items: Some(
                    files
                        .iter()
                        .map(|file| KeyToPath {
                            key: file.key.clone(),
                            path: file.key.clone(),
                            ..KeyToPath::default()
                        })
                        .collect(),
                ),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }
    }));
    volumes
}
