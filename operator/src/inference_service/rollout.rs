//! A new version, or runtime, in the place of the old one, where there is no room for both: an old pod goes for each new one that no node
//! takes.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::kernel::ObjectName;
use crate::kernel::apply::said;
use crate::kernel::cluster::Cluster;
use crate::kernel::controller::StepError;
use crate::kernel::pending::unschedulable;

/// Annotation of the new version's Deployment: in whose place it comes, and how many pods that had, as `NAME=PODS`.
const IN_PLACE_OF: &str = "platform.dev/in-place-of";

/// The pods of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crew {
    /// Its Deployment.
    pub name: String,
    /// How many its Deployment asks for.
    wanted: i32,
    /// Ready.
    pub ready: usize,
    /// No node has room for them.
    homeless: usize,
    /// No node takes them, however much room there were.
    refused: usize,
    /// On a node, and not ready.
    starting: usize,
    /// On their way out: what they hold is not free yet.
    leaving: usize,
    /// In whose place it comes, and how many pods that had.
    instead: Option<(String, i32)>,
}

impl Crew {
    /// Looks at the pods of a Deployment; one that is not there has none.
    pub async fn of(cluster: &Cluster, deployment: &ObjectName) -> Result<Self, StepError> {
        let unread = |what: &str, error: &kube::Error| StepError {
            reason: "ReadFailed",
            message: format!("{what} of {} could not be read: {}", deployment.name, said(error)),
        };
        let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), &deployment.namespace);
        let live = api.get_opt(&deployment.name).await.map_err(|error| unread("the Deployment", &error))?;
        let Some(live) = live else { return Ok(Self::default()) };
        let labels = live.spec.selector.match_labels.unwrap_or_default();
        let labels: Vec<String> = labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &deployment.namespace);
        let list = api.list(&ListParams::default().labels(&labels.join(","))).await;
        let pods = list.map_err(|error| unread("the pods", &error))?.items;
        let crew = Self {
            name: deployment.name.clone(),
            wanted: live.spec.replicas.unwrap_or(1),
            instead: live.metadata.annotations.as_ref().and_then(|all| instead(all.get(IN_PLACE_OF)?)),
            ..Self::default()
        };
        Ok(pods.iter().fold(crew, Self::with))
    }

    fn with(mut self, pod: &Pod) -> Self {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is = |kind: &str, word: &str| {
            conditions.clone().any(|condition| condition.type_ == kind && condition.status == word)
        };
        match () {
            () if pod.metadata.deletion_timestamp.is_some() => self.leaving += 1,
            () if is("Ready", "True") => self.ready += 1,
            () if is("PodScheduled", "False") && lacks_room(pod) => self.homeless += 1,
            () if is("PodScheduled", "False") => self.refused += 1,
            () => self.starting += 1,
        }
        self
    }

    /// Those that are there to stay.
    fn present(&self) -> i32 {
        i32::try_from(self.ready + self.starting + self.homeless + self.refused).unwrap_or(i32::MAX)
    }

    /// Those that have a node.
    fn placed(&self) -> i32 {
        i32::try_from(self.ready + self.starting).unwrap_or(i32::MAX)
    }

    /// How many pods there were when the old version began to go.
    fn replaces(&self, old: &Self) -> i32 {
        let noted = self.instead.as_ref().filter(|(name, _)| *name == old.name);
        // Those that have a node came in the place of others that went before, or needed no place.
        noted.map_or(old.wanted + self.placed(), |(_, pods)| *pods)
    }
}

/// By which words of the scheduler (1.37) a pod waits for what others hold.
const ROOM: [&str; 4] = ["Insufficient ", "Too many pods", "cannot allocate all claims", "free ports"];

/// Whether a pod would find a node if another went. One with a selector that no node has would not.
fn lacks_room(pod: &Pod) -> bool {
    unschedulable(pod).is_some_and(|said| ROOM.iter().any(|room| said.contains(room)))
}

fn instead(text: &str) -> Option<(String, i32)> {
    let (name, pods) = text.split_once('=')?;
    Some((name.to_owned(), pods.parse().ok()?))
}

/// Whether one of the old pods is to go: a new one finds no node, nothing is under way that may change that, and each place that was
/// given up has been taken.
pub fn is_to_yield(old: &Crew, new: &Crew) -> bool {
    let is_settled = old.leaving == 0 && old.present() <= old.wanted && new.starting == 0 && new.leaving == 0;
    is_settled && old.wanted > 0 && new.homeless > 0 && old.wanted + new.placed() >= new.replaces(old)
}

/// Has one pod less of the old version, and notes how many there were.
pub async fn give_way(cluster: &Cluster, namespace: &str, old: &Crew, new: &Crew) -> Result<(), StepError> {
    let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
    let note = format!("{}={}", old.name, new.replaces(old));
    let noted = json!({"metadata": {"annotations": {IN_PLACE_OF: note}}});
    let fewer = json!({"spec": {"replicas": old.wanted - 1}});
    for (name, patch) in [(&new.name, noted), (&old.name, fewer)] {
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.map_err(|error| StepError {
            reason: "RolloutRefused",
            message: format!("a pod of {} could not be taken away: {}", old.name, said(&error)),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_for_each_that_finds_no_node_and_one_at_a_time() {
        let old = |wanted, ready, leaving| Crew {
            name: "old".to_owned(),
            wanted,
            ready,
            leaving,
            ..Crew::default()
        };
        let new = |noted: Option<i32>, ready, homeless, starting| Crew {
            instead: noted.map(|pods| ("old".to_owned(), pods)),
            ready,
            homeless,
            starting,
            ..Crew::default()
        };
        let table = [
            ("there is room for both", old(2, 2, 0), new(None, 0, 0, 2), false),
            ("there is none", old(2, 2, 0), new(None, 0, 2, 0), true),
            ("nobody has told the one that goes yet", old(1, 2, 0), new(Some(2), 0, 2, 0), false),
            ("the one that goes holds its place still", old(1, 1, 1), new(Some(2), 0, 2, 0), false),
            ("its place is not taken yet", old(1, 1, 0), new(Some(2), 0, 2, 0), false),
            ("the first new one starts", old(1, 1, 0), new(Some(2), 0, 1, 1), false),
            ("it is ready, the next finds no node", old(1, 1, 0), new(Some(2), 1, 1, 0), true),
            ("none is left to go", old(0, 0, 0), new(Some(2), 1, 1, 0), false),
            ("all have come", old(1, 1, 0), new(Some(2), 2, 0, 0), false),
            ("another old one is the next", old(2, 2, 0), new(None, 1, 2, 0), true),
            ("the place that it gave up is not taken yet", old(1, 1, 0), new(Some(3), 1, 2, 0), false),
        ];
        for (what, old, new, expected) in table {
            assert_eq!(is_to_yield(&old, &new), expected, "{what}");
        }
        let of_another = Crew { instead: Some(("older".to_owned(), 9)), homeless: 1, ..Crew::default() };
        assert!(is_to_yield(&old(1, 1, 0), &of_another), "what was noted of another version says nothing");
        assert_eq!(instead("vllm-talk-v1=3"), Some(("vllm-talk-v1".to_owned(), 3)));
    }

    #[test]
    fn pods_count_as_what_they_hold() {
        let pod = |status: serde_json::Value, leaving: Option<&str>| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "p", "deletionTimestamp": leaving}, "status": status}),
            )
            .expect("a pod")
        };
        let scheduled = |word: &str, ready: &str, said: &str| json!({"conditions": [{"type": "PodScheduled", "status": word, "message": said}, {"type": "Ready", "status": ready}]});
        let pods = [
            pod(scheduled("True", "True", ""), None),
            pod(scheduled("True", "False", ""), None),
            pod(scheduled("False", "False", "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."), None),
            pod(
                scheduled(
                    "False",
                    "False",
                    "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
                ),
                None,
            ),
            pod(scheduled("True", "True", ""), Some("2026-01-01T00:00:00Z")),
            // Nobody has looked for a node yet.
            pod(json!({}), None),
        ];
        let crew = pods.iter().fold(Crew::default(), Crew::with);
        assert_eq!((crew.ready, crew.starting, crew.homeless, crew.refused, crew.leaving), (1, 2, 1, 1, 1));
    }
}
