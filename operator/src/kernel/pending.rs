//! Pods that do not run: what the scheduler says of them, whoever starts their containers, who looks for their Secrets, and who may not make
//! them.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Event, Pod, PodSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ListParams};

use super::apply::{Applied, AppliedChild, ApplyError};
use super::child::{ChildKey, ChildKind, Progress};
use super::cluster::Cluster;
use super::conditions::Because;
use super::held;
use super::parent::Parent;
use crate::manifest::{Manifest, Manifests};

/// Asks why pods are not there yet, of each child that waits for some. `are_seen`: whoever asks looks at the pods that there are itself.
pub(super) async fn explain(
    cluster: &Cluster,
    parent: &Parent,
    wanted: &Manifests,
    applied: &mut Applied,
    are_seen: bool,
) -> Result<(), ApplyError> {
    for manifest in wanted {
        let is_it = |child: &&mut AppliedChild| {
            child.key.kind.name() == manifest.kind() && child.key.object.name == manifest.name()
        };
        // One that was refused is not there.
        let Some(child) = applied.0.iter_mut().find(is_it) else { continue };
        let Progress::Pods(waiting) = &mut child.progress else { continue };
        if !waiting.is_current || waiting.ready >= waiting.wanted {
            continue;
        }
        let Some((selector, pod)) = pods_of(manifest) else { continue };
        if !are_seen {
            let there = pods(cluster, &parent.namespace, &selector).await;
            let there = there
                .map_err(|source| ApplyError::Read { child: child.key.clone(), source: Box::new(source) })?;
            waiting.trouble = there.iter().find_map(trouble);
        }
        // Of volumes that cannot be mounted the kubelet says nothing in a pod.
        if waiting.trouble.is_none() {
            waiting.trouble = lacking(cluster, parent, pod).await;
        }
        let is_short = child.key.kind == ChildKind::StatefulSet && waiting.replicas < waiting.wanted;
        if waiting.trouble.is_none() && is_short {
            waiting.trouble = refused(cluster, &child.key).await;
        }
    }
    Ok(())
}

/// Pods that a selector finds, from the API server's memory: what is not there yet is seen when it is asked again.
pub(crate) async fn pods(
    cluster: &Cluster,
    namespace: &str,
    selector: &str,
) -> Result<Vec<Pod>, kube::Error> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    Ok(api.list(&ListParams::default().labels(selector).match_any()).await?.items)
}

/// For how long an Event tells of what is: who makes pods tries again after a quarter of an hour at most.
const TELLS: SignedDuration = SignedDuration::from_mins(20);

/// Why pods of a StatefulSet may not be made (a quota, a policy, a webhook): the one who makes them says so in Events alone.
async fn refused(cluster: &Cluster, set: &ChildKey) -> Option<Because> {
    let uid = cluster.children.meta(set)?.uid;
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), &set.object.namespace);
    let said = ListParams::default().fields(&format!("involvedObject.uid={uid},reason=FailedCreate"));
    // What cannot be looked at is told by nobody: that pods are not there is told anyhow.
    let events = api.list(&said).await.ok()?.items;
    newest(events, Timestamp::now()).map(|said| Because::new("PodsRefused", said))
}

fn newest(events: Vec<Event>, now: Timestamp) -> Option<String> {
    let told = |event: &Event| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
        let once = series.or(event.event_time.as_ref()).map(|time| time.0);
        event.last_timestamp.as_ref().map(|time| time.0).max(once)
    };
    let events = events.into_iter().filter_map(|event| Some((told(&event)?, event.message?)));
    let (at, said) = events.max_by_key(|(at, _)| *at)?;
    (now.duration_since(at) < TELLS).then_some(said)
}

/// What pods read of Secrets and do not find.
async fn lacking(cluster: &Cluster, parent: &Parent, pod: &PodSpec) -> Option<Because> {
    let lacks = held::lacks(cluster, parent, pod).await;
    let said: Vec<String> = lacks.iter().map(ToString::to_string).collect();
    (!said.is_empty()).then(|| Because::new("SecretMissing", said.join(", ")))
}

/// By what the pods of a workload are found, and what they are.
fn pods_of(manifest: &Manifest) -> Option<(String, &PodSpec)> {
    let (selector, template) = match manifest {
        Manifest::StatefulSet(set) => (&set.spec.selector, &set.spec.template),
        Manifest::Deployment(deployment) => (&deployment.spec.selector, &deployment.spec.template),
        _ => return None,
    };
    let labels = selector.match_labels.as_ref()?.iter().map(|(key, value)| format!("{key}={value}"));
    Some((labels.collect::<Vec<_>>().join(","), template.spec.as_ref()?))
}

/// What the scheduler says of a pod; what it says of preemption is about others.
pub(crate) fn without_preemption(said: &str) -> &str {
    said.split(". preemption").next().unwrap_or(said).trim_end_matches('.')
}

/// Why no node takes a pod, when the scheduler said so.
pub(crate) fn unschedulable(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    if scheduled.status != "False" {
        return None;
    }
    let said = without_preemption(scheduled.message.as_deref().unwrap_or("the scheduler does not say why"));
    let name = pod.metadata.name.as_deref().unwrap_or("a pod");
    Some(format!("{name} fits on no node: {said}"))
}

/// Why a container does not run. One that did what it was to do once failed in vain at most.
pub(crate) fn ended(container: &ContainerStatus) -> Option<Because> {
    let state = container.state.as_ref()?;
    if state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0) {
        return None;
    }
    let waiting = state.waiting.as_ref();
    let terminated = |state: &Option<ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.clone()).filter(|ended| ended.exit_code != 0)
    };
    let last = terminated(&container.state).or_else(|| terminated(&container.last_state));
    let words = last.map(|ended| {
        let words = ended.message.unwrap_or_default();
        let words = words.trim().lines().last().unwrap_or_default().trim().to_owned();
        if words.is_empty() { format!("it ended with exit code {}", ended.exit_code) } else { words }
    });
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull") => {
            let said = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
            Some(Because::new("ImageMissing", not_pulled(&container.image, said)))
        }
        Some("CreateContainerConfigError") => {
            let message = waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_default();
            Some(Because::new("ContainerRefused", message))
        }
        _ => words.map(|words| Because::new("EngineFailed", words)),
    }
}

/// In the node's own words: whether there is no such image, or the registry does not know who asks. While it waits to try again it
/// repeats what was wrong.
fn not_pulled(image: &str, said: &str) -> String {
    const WORDS: usize = 400;
    let said = said.split_once("ErrImagePull: ").map_or(said, |(_, said)| said);
    if said.is_empty() {
        return format!("the image {image} cannot be pulled");
    }
    let said: String = said.chars().take(WORDS).collect();
    format!("the image {image} cannot be pulled: {said}")
}

/// What keeps a pod from running, as far as Kubernetes says so: the scheduler, or whoever starts its containers.
pub(crate) fn trouble(pod: &Pod) -> Option<Because> {
    let containers = || {
        let status = pod.status.as_ref()?;
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let because = all.filter(|container| !container.ready).find_map(ended)?;
        let name = pod.metadata.name.as_deref().unwrap_or("a pod");
        Some(Because::new(because.reason, format!("{name}: {}", because.message)))
    };
    unschedulable(pod).map(|why| Because::new("Unschedulable", why)).or_else(containers)
}

/// The same in words.
pub(crate) fn kept_away(pod: &Pod) -> Option<String> {
    trouble(pod).map(|because| because.message)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use serde_json::{Value, json};

    use super::super::child::Pods;
    use super::super::key::ObjectName;
    use super::super::stub;
    use super::*;

    /// What is said of a StatefulSet whose only pod is like that.
    async fn told(pod: Value, brings: &[&str], is_seen: bool) -> Option<Because> {
        let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [pod]});
        let (cluster, _) = stub::cluster(200, &list);
        let set = json!({"metadata": {"name": "modelhub"}, "spec": {"serviceName": "modelhub",
            "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [],
            "volumes": [{"name": "key", "secret": {"secretName": "mistyped"}}]}}}});
        let mut wanted = Manifests::default();
        wanted.push(
            serde_json::from_value::<k8s_openapi::api::apps::v1::StatefulSet>(set).expect("a StatefulSet"),
        );
        let parent = Parent {
            namespace: "n".to_owned(),
            reference: OwnerReference::default(),
            is_new: false,
            brings: brings.iter().map(|secret| (*secret).to_owned()).collect(),
            edition: String::new(),
        };
        let key = ChildKey { kind: ChildKind::StatefulSet, object: ObjectName::new("n", "modelhub") };
        let progress = Progress::Pods(Pods { is_current: true, wanted: 1, ..Pods::default() });
        let mut applied = Applied(vec![AppliedChild { key, progress, is_as_wanted: true }]);
        explain(&cluster, &parent, &wanted, &mut applied, is_seen).await.expect("it is asked");
        match applied.0.remove(0).progress {
            Progress::Pods(pods) => pods.trouble,
            _ => None,
        }
    }

    #[tokio::test]
    async fn whatever_keeps_pods_of_a_stack_away_is_told() {
        let pod = |state: Value| {
            json!({"metadata": {"name": "modelhub-0"}, "spec": {"containers": []}, "status": {"phase": "Running",
                "containerStatuses": [{"name": "modelhub", "image": "x/modelhub:9", "imageID": "", "ready": false,
                "restartCount": 3, "state": {"waiting": {"reason": state}},
                "lastState": {"terminated": {"exitCode": 1, "message": "error: no key"}}}]}})
        };
        let starting = json!({"metadata": {"name": "modelhub-0"}, "spec": {"containers": []}, "status": {"phase": "Pending"}});
        let table = [
            (pod(json!("CrashLoopBackOff")), vec![], false, "EngineFailed: modelhub-0: error: no key"),
            (starting.clone(), vec![], false, "SecretMissing: Secret mistyped is not in this namespace"),
            (starting.clone(), vec![], true, "SecretMissing: Secret mistyped is not in this namespace"),
            (starting, vec!["mistyped"], false, ""),
        ];
        for (pod, brings, is_seen, expected) in table {
            let told = told(pod.clone(), &brings, is_seen).await;
            let told = told.map_or(String::new(), |told| format!("{}: {}", told.reason, told.message));
            assert_eq!(told, expected, "{pod}");
        }
        let image = told(pod(json!("ImagePullBackOff")), &[], false).await;
        assert_eq!(image.map(|because| because.reason), Some("ImageMissing"));
    }

    #[test]
    fn of_what_was_said_of_pods_that_may_not_be_made_the_newest_counts() {
        let event = |at: &str, said: &str| -> Event {
            serde_json::from_value(
                json!({"metadata": {}, "involvedObject": {}, "lastTimestamp": at, "message": said}),
            )
            .expect("an Event")
        };
        let events = || {
            vec![event("2026-01-01T00:10:00Z", "exceeded quota"), event("2026-01-01T00:05:00Z", "forbidden")]
        };
        let at = |now: &str| newest(events(), now.parse().expect("a time"));
        assert_eq!(at("2026-01-01T00:12:00Z").as_deref(), Some("exceeded quota"));
        assert_eq!(at("2026-01-01T00:31:00Z"), None, "it may be so no more");
    }

    #[test]
    fn why_an_image_is_not_there_is_told_in_the_nodes_words() {
        let unknown = "failed to authorize: 401 Unauthorized";
        let waiting = |reason: &str, message: &str| -> ContainerStatus {
            serde_json::from_value(json!({"name": "c", "image": "r/x:1", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}))
            .expect("a container")
        };
        let backs_off = format!("Back-off pulling image \"r/x:1\": ErrImagePull: {unknown}");
        for (reason, message) in [("ErrImagePull", unknown), ("ImagePullBackOff", backs_off.as_str())] {
            let because = ended(&waiting(reason, message)).expect("a reason");
            assert_eq!(because.reason, "ImageMissing");
            assert_eq!(because.message, format!("the image r/x:1 cannot be pulled: {unknown}"));
        }
        let never = "Container image \"r/x:1\" is not present with pull policy of Never";
        let because = ended(&waiting("ErrImageNeverPull", never)).expect("a reason");
        assert!(because.message.ends_with(never), "{because:?}");
    }

    #[test]
    fn what_the_scheduler_says_is_told() {
        let pod = |status: &str, message: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"conditions": [
                {"type": "PodScheduled", "status": status, "reason": "Unschedulable", "message": message}]}}))
            .expect("a pod")
        };
        let message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: none.";
        let told = unschedulable(&pod("False", message));
        assert_eq!(
            told.as_deref(),
            Some("p fits on no node: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
        );
        assert_eq!(unschedulable(&pod("True", "")), None);
    }

    #[test]
    fn what_keeps_a_pod_from_running_is_told() {
        let told = |state: serde_json::Value, is_ready: bool| {
            let pod = json!({"metadata": {"name": "kv-2"}, "status": {"containerStatuses": [{"name": "tinykv",
                "image": "x/tinykv:9", "imageID": "", "ready": is_ready, "restartCount": 0, "state": state}]}});
            kept_away(&serde_json::from_value(pod).expect("a pod"))
        };
        let waits = |reason: &str| json!({"waiting": {"reason": reason}});
        let pull = Some("kv-2: the image x/tinykv:9 cannot be pulled".to_owned());
        assert_eq!(told(waits("ErrImagePull"), false), pull);
        assert_eq!(told(waits("ImagePullBackOff"), false), pull, "it says the same all the time");
        assert_eq!(told(waits("ContainerCreating"), false), None);
        assert_eq!(told(json!({"running": {}}), true), None);
        let ended = json!({"terminated": {"exitCode": 1, "message": "starting\nerror: no key\n"}});
        assert_eq!(told(ended, false).as_deref(), Some("kv-2: error: no key"));
    }
}
