//! Weights on the nodes before pods need them: for each version a pod a node that fetches them as the engine's pod would, into the same
//! folder, and then only holds its place. A version's first pods wait until one node has its weights, so that no GPU idles meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use aistack_crds::InferenceService;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, Deployment, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::{Affinity, Container, PodSpec, PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::ValidatedInferenceService;
use super::build::owner_of;
use super::pods::{self, Trouble};
use super::validate::Serving;
use super::version::Version;
use crate::kernel::ObjectName;
use crate::kernel::apply::{self, Applied};
use crate::kernel::child::{ChildKey, ChildKind, Pods, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Extra, Report};
use crate::kernel::controller::StepError;
use crate::meta::Owner;
use crate::workload::MODELS_VOLUME;

/// Its pods' component. Services, disruption budgets and autoscalers of the engine select none of them.
pub const PRELOAD: &str = "preload";
/// Pods that nobody made by then are refused, and the engine's own will tell by whom.
const REFUSED_AFTER: Duration = Duration::from_secs(10);

/// What became of the preload of a version.
#[derive(Clone, Debug, PartialEq)]
pub struct Preload {
    pub version: Version,
    /// What keeps it from nodes.
    trouble: Trouble,
    /// Whether the version's pods wait for it.
    pub is_awaited: bool,
}

/// Whether weights are to be on the nodes before pods are.
fn is_wanted(serving: &Serving) -> bool {
    serving.cache.as_ref().is_some_and(|cache| cache.preload)
}

fn owner(service: &ValidatedInferenceService, version: &Version) -> Owner {
    Owner { component: PRELOAD.to_owned(), ..owner_of(service, version) }
}

fn name(service: &ValidatedInferenceService, version: &Version) -> String {
    format!("{}-preload", service.workload_name(version))
}

/// A pod on each node that may run the Deployment's, with the fetch of that one and nothing else of it.
pub fn build(
    service: &ValidatedInferenceService,
    serving: &Serving,
    version: &Version,
    deployment: &Deployment,
) -> Option<DaemonSet> {
    let engines = deployment.spec.template.spec.as_ref().filter(|_| is_wanted(serving))?;
    let mut fetch = engines.init_containers.as_ref()?.first()?.clone();
    fetch.resources = Some(requests("10m", "32Mi"));
    let hold = Container {
        name: "wait".to_owned(),
        image: fetch.image.clone(),
        image_pull_policy: fetch.image_pull_policy.clone(),
        command: Some(vec!["modelhub".to_owned()]),
        args: Some(vec!["wait".to_owned()]),
        resources: Some(requests("1m", "16Mi")),
        security_context: fetch.security_context.clone(),
        ..Container::default()
    };
    let is_ours = |name: &str| name == "tmp" || name == MODELS_VOLUME;
    let volumes = engines.volumes.iter().flatten().filter(|volume| is_ours(&volume.name)).cloned().collect();
    let node_affinity = engines.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let pod = PodSpec {
        image_pull_secrets: engines.image_pull_secrets.clone(),
        init_containers: Some(vec![fetch]),
        containers: vec![hold],
        volumes: Some(volumes),
        security_context: engines.security_context.clone(),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(5),
        node_selector: engines.node_selector.clone(),
        tolerations: engines.tolerations.clone(),
        priority_class_name: engines.priority_class_name.clone(),
        affinity: node_affinity.map(|node| Affinity { node_affinity: Some(node), ..Affinity::default() }),
        ..PodSpec::default()
    };
    let owner = owner(service, version);
    let annotations = Some(serving.pod.annotations.clone()).filter(|all| !all.is_empty());
    Some(DaemonSet {
        metadata: owner.metadata(name(service, version)),
        spec: DaemonSetSpec {
            selector: owner.label_selector(),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(owner.pod_labels()),
                    annotations,
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    // They serve nobody: all may be made anew at a time.
                    max_unavailable: Some(IntOrString::String("100%".to_owned())),
                    max_surge: None,
                }),
            }),
            ..DaemonSetSpec::default()
        },
        ..DaemonSet::default()
    })
}

fn requests(cpu: &str, memory: &str) -> ResourceRequirements {
    let requests = [("cpu", cpu), ("memory", memory)];
    ResourceRequirements {
        requests: Some(BTreeMap::from(
            requests.map(|(what, much)| (what.to_owned(), Quantity(much.to_owned()))),
        )),
        ..ResourceRequirements::default()
    }
}

/// Looks at the preloads of a service, whose versions `is_built` tells to have pods already.
pub async fn look(
    cluster: &Cluster,
    object: &InferenceService,
    service: &ValidatedInferenceService,
    is_built: impl Fn(&Version) -> bool,
) -> Result<Vec<Preload>, StepError> {
    let Some(serving) = service.serving().filter(|serving| is_wanted(serving)) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for version in &service.versions {
        let key = ChildKey {
            kind: ChildKind::DaemonSet,
            object: ObjectName::new(service.owner.namespace.as_str(), name(service, version)),
        };
        let nodes = match cluster.children.meta(&key) {
            Some(_) => apply::look(cluster, object, &key).await?,
            None => None,
        };
        let nodes = if let Some(Progress::Pods(nodes)) = nodes { Some(nodes) } else { None };
        let trouble = match &nodes {
            Some(nodes) if !nodes.is_complete() => pods::ask(cluster, &owner(service, version)).await?,
            _ => Trouble::default(),
        };
        // One that sleeps has a Deployment without pods, for a request to wake.
        let may_wait = !is_built(version) && serving.scale.sleeps().is_none();
        let is_awaited = may_wait && is_to_wait(nodes.as_ref(), &trouble, is_late(object));
        found.push(Preload { version: version.clone(), trouble, is_awaited });
    }
    Ok(found)
}

/// Whether pods wait: some node is about to have the weights, and none has them yet. Where no node takes a preload, or nobody may make
/// one, the engine's pods are to say so themselves.
fn is_to_wait(nodes: Option<&Pods>, trouble: &Trouble, is_late: bool) -> bool {
    let is_coming = nodes.is_none_or(|nodes| {
        !nodes.is_current || (nodes.wanted > 0 && nodes.ready == 0 && (nodes.replicas > 0 || !is_late))
    });
    is_coming && trouble.unschedulable.is_none()
}

/// Whether the preload has been under way for longer than it takes to make pods.
fn is_late(object: &InferenceService) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let under_way = conditions.filter(|it| it.type_ == "ModelPreloaded" && it.status == "Unknown");
    let limit = i64::try_from(REFUSED_AFTER.as_secs()).unwrap_or(i64::MAX);
    let is_old = |at: Timestamp| Timestamp::now().as_second() - at.as_second() >= limit;
    under_way.into_iter().any(|it| is_old(it.last_transition_time.0))
}

/// Says on how many nodes the weights are. Whether all is well.
pub fn tell(
    report: &mut Report,
    service: &ValidatedInferenceService,
    found: &[Preload],
    applied: &Applied,
) -> bool {
    if found.is_empty() {
        return true;
    }
    let nodes_of =
        |preload: &Preload| match applied.progress(ChildKind::DaemonSet, &name(service, &preload.version)) {
            Some(Progress::Pods(nodes)) if nodes.is_current => nodes.clone(),
            _ => Pods::default(),
        };
    let each: Vec<(&Preload, Pods)> = found.iter().map(|preload| (preload, nodes_of(preload))).collect();
    let because = summary(&each);
    let is_so = match because.reason {
        "Preloaded" => Some(true),
        "Preloading" => None,
        _ => Some(false),
    };
    let is_awaited = found.iter().any(|preload| preload.is_awaited);
    if is_awaited && !report.ready.0 {
        report.ready.1 = because.clone();
    }
    if because.reason == "FetchFailed" {
        report.degraded.get_or_insert_with(|| because.clone());
    } else if is_awaited {
        report.progressing = Some(because.clone());
    }
    report.extra.push(Extra { kind: "ModelPreloaded", is_so, because });
    is_so == Some(true)
}

fn summary(each: &[(&Preload, Pods)]) -> Because {
    let said: Vec<String> = each
        .iter()
        .map(|(preload, nodes)| {
            let of = if preload.version.is_unnamed() {
                String::new()
            } else {
                format!(" have version {}", preload.version.target())
            };
            format!("{} of {} nodes{of}", nodes.ready, nodes.wanted)
        })
        .collect();
    let said = said.join(", ");
    let trouble =
        each.iter().map(|(preload, _)| preload.trouble.clone()).fold(Trouble::default(), Trouble::or);
    let (reason, why) = match (trouble.fetch, trouble.unschedulable) {
        (Some(why), _) => ("FetchFailed", why),
        (None, Some(why)) => ("Unschedulable", why),
        (None, None) if each.iter().all(|(_, nodes)| nodes.wanted > 0 && nodes.is_complete()) => {
            return Because::new("Preloaded", said);
        }
        (None, None) if each.iter().any(|(_, nodes)| nodes.is_current && nodes.wanted == 0) => {
            return Because::new("NoNodes", "no node may run its pods");
        }
        (None, None) => return Because::new("Preloading", said),
    };
    Because::new(reason, format!("{said}: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::inference_service::build::{Surroundings, build_in};
    use crate::inference_service::validate;
    use crate::manifest::{Manifest, Manifests};

    fn service(spec: &Value) -> ValidatedInferenceService {
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService",
            "metadata": {"name": "chat", "namespace": "team"}, "spec": spec});
        let object: InferenceService = serde_json::from_value(object).expect("an InferenceService");
        validate(&object, "").expect("valid")
    }

    fn specs(manifests: &Manifests, kind: &str) -> Vec<(String, Value)> {
        let of_kind = manifests.iter().filter(|manifest| manifest.kind() == kind);
        let plain = |manifest: &Manifest| serde_json::to_value(manifest).expect("plain data")["spec"].clone();
        of_kind.map(|manifest| (manifest.name().to_owned(), plain(manifest))).collect()
    }

    #[test]
    fn a_preload_goes_where_its_versions_pods_go_and_does_what_their_fetch_does() {
        let service = service(&json!({"model": {"name": "m", "version": "1"}, "canary": {"version": "2"},
            "runtime": "vllm", "gpu": {"product": "nvidia-l4"}, "modelCache": {"hostPath": "/var/cache/aistack", "preload": true},
            "pod": {"nodeSelector": {"pool": "a"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}}));
        let built = build_in(&service, &Surroundings::default());
        let (sets, deployments) = (specs(&built, "DaemonSet"), specs(&built, "Deployment"));
        assert_eq!(
            sets.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["vllm-chat-v1-preload", "vllm-chat-v2-preload"]
        );
        for ((_, set), (_, deployment)) in sets.iter().zip(&deployments) {
            let (pod, engines) = (&set["template"]["spec"], &deployment["template"]["spec"]);
            for same in ["/nodeSelector", "/tolerations", "/affinity/nodeAffinity", "/securityContext"] {
                let found = pod.pointer(same).unwrap_or_else(|| panic!("{same}: {pod}"));
                assert_eq!(Some(found), engines.pointer(same), "{same}");
            }
            for same in ["image", "args", "volumeMounts", "securityContext", "command"] {
                assert_eq!(pod["initContainers"][0][same], engines["initContainers"][0][same], "{same}");
            }
            let cache = |pod: &Value| {
                let volumes = pod["volumes"].as_array().expect("volumes").clone();
                volumes.into_iter().find(|volume| volume["name"] == MODELS_VOLUME).expect("a cache")
            };
            assert_eq!(cache(pod), cache(engines));
            // It holds no GPU, and no Service leads anybody there.
            assert_eq!(pod["containers"][0]["args"], json!(["wait"]));
            assert_eq!(
                pod["containers"][0]["resources"],
                json!({"requests": {"cpu": "1m", "memory": "16Mi"}})
            );
            assert_ne!(set["selector"]["matchLabels"], deployment["selector"]["matchLabels"]);
            let (labels, selected) =
                (&set["template"]["metadata"]["labels"], &deployment["selector"]["matchLabels"]);
            assert_ne!(labels["app.kubernetes.io/name"], selected["app.kubernetes.io/name"]);
        }
        assert!(!sets[0].1.to_string().contains("nvidia.com/gpu\":"), "{}", sets[0].1);
    }

    #[test]
    fn pods_of_a_version_that_is_preloaded_first_are_not_there_yet() {
        let spec = json!({"model": {"name": "m", "version": "1"}, "scaling": {"minReplicas": 1, "maxReplicas": 3},
            "modelCache": {"hostPath": "/var/cache/aistack", "preload": true}});
        let service = service(&spec);
        let held = Surroundings { held: service.versions.clone(), ..Surroundings::default() };
        let built = build_in(&service, &held);
        let count = |kind: &str| specs(&built, kind).len();
        assert_eq!((count("DaemonSet"), count("Deployment"), count("HorizontalPodAutoscaler")), (1, 0, 0));
        assert_eq!(count("Service"), 1);
    }

    #[test]
    fn pods_wait_for_weights_that_come_and_for_no_others() {
        let nodes = |wanted: i32, replicas: i32, ready: i32, is_current: bool| {
            Some(Pods { is_current, wanted, replicas, ready, updated: replicas, ..Pods::default() })
        };
        let table = [
            (None, false, true),
            (nodes(0, 0, 0, false), false, true),
            (nodes(3, 3, 0, true), false, true),
            (nodes(3, 3, 0, true), true, true),
            (nodes(3, 3, 1, true), false, false),
            // No node may run its pods: they say so themselves.
            (nodes(0, 0, 0, true), false, false),
            // Nobody makes the pods, as where host paths are forbidden.
            (nodes(3, 0, 0, true), false, true),
            (nodes(3, 0, 0, true), true, false),
        ];
        for (i, (nodes, is_late, waits)) in table.into_iter().enumerate() {
            assert_eq!(is_to_wait(nodes.as_ref(), &Trouble::default(), is_late), waits, "row {i}");
        }
        let homeless = Trouble { unschedulable: Some("0/3 nodes".to_owned()), ..Trouble::default() };
        assert!(!is_to_wait(nodes(3, 3, 0, true).as_ref(), &homeless, false));
    }
}
