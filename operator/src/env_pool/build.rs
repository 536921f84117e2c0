//! An EnvPool becomes a StatefulSet of environments on forks of its world.

use aistack_crds::EnvPoolSpec;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde_json::Value;

use super::{ADMIN_PORT, COMPONENT, HTTP_PORT, ValidatedEnvPool};
use crate::job::Mounted;
use crate::manifest::{Manifest, Manifests};
use crate::workload::{ADMIN_PORT as ADMIN, ConfigFile, Port, Probes, Reach, Workload};
use crate::{autoscaler, task_set, world};

/// What an EnvPool becomes.
pub fn build(pool: &ValidatedEnvPool) -> Manifests {
    let file = ConfigFile::spec("pool", &of_every_server(&pool.spec));
    let mut inputs = vec![Mounted::of_another(world::claim_name(&pool.spec.world_ref.name), "world")];
    if let Some(tasks) = &pool.spec.task_set_ref {
        inputs.push(Mounted::of_another(task_set::claim_name(&tasks.name), "tasks"));
    }
    let mut arguments = vec!["serve".to_owned(), "--spec".to_owned(), file.path()];
    for input in &inputs {
        arguments.extend([format!("--{}", input.volume), input.path.clone()]);
    }
    let name = format!("{COMPONENT}-{}", pool.name);
    let mut workload = Workload::that_ends(name, pool.owner.clone(), pool.image.clone(), COMPONENT);
    let most = pool.spec.scaling.as_ref().map_or(pool.spec.replicas, |scaling| scaling.max_replicas);
    workload.replicas = u16::try_from(most).unwrap_or(1);
    workload.args = arguments;
    workload.config = vec![file];
    workload.resources = pool.spec.resources.clone();
    workload.overrides = pool.spec.pod.clone();
    workload.ports = vec![
        Port { name: "http", number: HTTP_PORT, reach: Reach::Clients },
        Port { name: ADMIN, number: ADMIN_PORT, reach: Reach::Node },
    ];
    workload.probes = Probes::admin(600);
    let mut manifests = workload.stateful_without_volumes();
    for manifest in &mut manifests.0 {
        if let Manifest::StatefulSet(set) = manifest {
            mount(&mut set.spec.template, &inputs);
            if pool.spec.scaling.is_some() {
                set.spec.replicas = None;
            }
        }
    }
    if let Some(scaling) = &pool.spec.scaling {
        let metric = autoscaler::of_cpu(scaling.target_cpu_percent);
        let bounds = scaling.min_replicas..=scaling.max_replicas;
        manifests.push(autoscaler::of(&workload, "StatefulSet", bounds, metric));
    }
    manifests
}

/// What is the same for every server. How many there are, and where, ends no episode of those that stay.
fn of_every_server(spec: &EnvPoolSpec) -> Value {
    let mut told = serde_json::to_value(spec).expect("a spec is plain data");
    if let Some(fields) = told.as_object_mut() {
        fields.retain(|field, _| {
            !["replicas", "scaling", "image", "pod", "resources"].contains(&field.as_str())
        });
    }
    told
}

fn mount(template: &mut PodTemplateSpec, inputs: &[Mounted]) {
    let spec: &mut PodSpec = template.spec.get_or_insert_default();
    spec.volumes.get_or_insert_default().extend(inputs.iter().map(Mounted::volume));
    for container in &mut spec.containers {
        container.volume_mounts.get_or_insert_default().extend(inputs.iter().map(Mounted::mount));
    }
}
