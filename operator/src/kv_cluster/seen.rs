//! A group as Kubernetes has it: its StatefulSet, its pods and their claims.

use std::collections::{BTreeMap, BTreeSet};

use aistack_crds::KVCluster;
use aistack_crds::kv_cluster::MOST_MEMBERS;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod as KubePod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::certificate::Identity;
use super::invariants::Process;
use super::planner::{Claim, Kept, Pod};
use super::{COMPONENT, ValidatedKvCluster};
use crate::kernel::apply::{self, said};
use crate::kernel::child::{ChildKey, ChildKind, Pods, Progress};
use crate::kernel::claims;
use crate::kernel::cluster::Cluster;
use crate::kernel::controller::StepError;
use crate::kernel::key::ObjectName;
use crate::kernel::pending::kept_away;
use crate::kernel::watch::holder;
use crate::pod::DATA_VOLUME;

/// Label that a StatefulSet's pods carry with the revision that they were made from.
const REVISION: &str = "controller-revision-hash";
/// Annotation of a claim whose data is to go.
pub(super) const CONDEMNED: &str = "platform.dev/condemned";

/// A pod that is not ready for longer than this will hardly become so by itself.
const LONG: SignedDuration = SignedDuration::from_mins(2);
/// What is not gone after this much more than the time that it was given hardly goes by itself.
const MORE: SignedDuration = SignedDuration::from_mins(1);
/// Why a container that is about to run waits.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What was seen, by ordinal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub pods: BTreeMap<u16, SeenPod>,
    /// Pods of a member's name that another made: mostly an earlier StatefulSet.
    pub strays: BTreeSet<u16>,
    pub claims: BTreeMap<u16, Claim>,
    /// Which claims those are: another of the same name is not the one that was looked at.
    pub claim_uids: BTreeMap<u16, String>,
    /// Whether there is a StatefulSet.
    pub has_set: bool,
    /// Which pods it keeps.
    pub kept: Option<Kept>,
    /// A pod or a claim that was to be gone long ago.
    pub overdue: Option<Overdue>,
}

/// What was to be gone long ago: mostly its node is lost, and nobody is there to end the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overdue {
    /// Its kind and name.
    pub what: String,
    /// The node of a pod.
    pub node: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenPod {
    pub pod: Pod,
    pub address: Option<String>,
    pub uid: String,
    /// Its process, while it runs and stays.
    pub process: Option<Process>,
    /// What keeps it from running, as far as Kubernetes says so.
    pub kept_away: Option<String>,
    /// By which certificate the others know it.
    pub identity: Option<Identity>,
}

impl Seen {
    /// Where the pods are reached.
    pub fn addresses(&self) -> BTreeMap<u16, String> {
        let address = |(ordinal, pod): (&u16, &SeenPod)| Some((*ordinal, pod.address.clone()?));
        self.pods.iter().filter_map(address).collect()
    }

    /// By which certificates they know one another.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.pods.values().filter_map(|pod| pod.identity.as_ref())
    }

    /// Looks at the claims of the members' volumes too, which [`look`] leaves out.
    pub async fn look_at_claims(
        &mut self,
        cluster: &Cluster,
        object: &KVCluster,
        kv: &ValidatedKvCluster,
    ) -> Result<(), StepError> {
        let claims = claims(cluster, kv, !self.has_set).await?;
        if kv.restore.is_some() && !self.has_set {
            has_nothing_left(object, claims.values())?;
        }
        // Pods first: claims go after them.
        if self.overdue.is_none() {
            self.overdue = overdue_claim(claims.values(), Timestamp::now());
        }
        let uids = claims.iter().filter_map(|(ordinal, claim)| Some((*ordinal, claim.uid()?)));
        self.claim_uids = uids.collect();
        self.claims = claims.iter().map(|(ordinal, claim)| (*ordinal, of_claim(claim))).collect();
        Ok(())
    }

    /// Why a pod does not run, as far as Kubernetes says so.
    pub fn why_away(&self, ordinal: u16) -> Option<&str> {
        self.pods.get(&ordinal)?.kept_away.as_deref()
    }

    /// The same of the first that does not.
    pub fn why_any_is_away(&self) -> Option<&str> {
        self.pods.values().find_map(|pod| pod.kept_away.as_deref())
    }
}

/// Looks at all but the claims.
pub(super) async fn look(
    cluster: &Cluster,
    object: &KVCluster,
    kv: &ValidatedKvCluster,
) -> Result<Seen, StepError> {
    let name = ObjectName::new(kv.owner.namespace.as_str(), kv.name.as_str());
    let key = ChildKey { kind: ChildKind::StatefulSet, object: name };
    let set = match apply::look(cluster, object, &key).await? {
        Some(Progress::Pods(set)) => Some(set),
        _ => None,
    };
    let newest = set.as_ref().map(|set| set.update_revision.clone()).unwrap_or_default();
    let uid = cluster.children.meta(&key).map(|meta| meta.uid);
    let (pods, strays) = pods(cluster, kv, uid.as_deref()).await?;
    Ok(Seen {
        overdue: overdue_pod(pods.values(), Timestamp::now()),
        pods: pods.iter().map(|(ordinal, pod)| (*ordinal, of_pod(pod, &newest))).collect(),
        strays: strays.into_keys().collect(),
        kept: set.as_ref().and_then(kept),
        has_set: set.is_some(),
        ..Seen::default()
    })
}

fn kept(set: &Pods) -> Option<Kept> {
    let first = u16::try_from(set.first).ok()?;
    Some(Kept { first, end: first.checked_add(u16::try_from(set.wanted).ok()?)? })
}

fn selected(kv: &ValidatedKvCluster) -> ListParams {
    let selector: Vec<String> =
        kv.owner.selector().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    ListParams::default().labels(&selector.join(","))
}

fn unread(what: &'static str) -> impl Fn(kube::Error) -> StepError {
    move |error| StepError {
        reason: "ReadFailed",
        message: format!("the {what} could not be read: {}", said(&error)),
    }
}

/// Pods of a member's name: those that the StatefulSet made, and others.
async fn pods(
    cluster: &Cluster,
    kv: &ValidatedKvCluster,
    set: Option<&str>,
) -> Result<(BTreeMap<u16, KubePod>, BTreeMap<u16, KubePod>), StepError> {
    let api: Api<KubePod> = Api::namespaced(cluster.client.clone(), &kv.owner.namespace);
    let list = api.list(&selected(kv)).await.map_err(unread("pods"))?;
    let ordinal = |pod: &KubePod| super::ordinal_of(&kv.name, &pod.name_any());
    let named = list.items.into_iter().filter_map(|pod| Some((ordinal(&pod)?, pod)));
    Ok(named.partition(|(_, pod)| is_of(pod, &kv.name, set)))
}

/// Whether the StatefulSet made the pod. Labels and a name are anybody's to choose, and what a member says is believed.
fn is_of(pod: &KubePod, name: &str, set: Option<&str>) -> bool {
    holder(&pod.metadata).is_some_and(|holder| {
        let is_set = holder.group == "apps" && holder.kind == "StatefulSet" && holder.name == name;
        is_set && set.is_none_or(|uid| uid == holder.uid)
    })
}

fn of_pod(pod: &KubePod, newest: &str) -> SeenPod {
    let status = pod.status.as_ref();
    let is_ready = condition(pod, "Ready").is_some_and(|ready| ready.status == "True");
    SeenPod {
        pod: Pod {
            is_ready,
            is_newest: newest.is_empty()
                || pod.labels().get(REVISION).is_none_or(|revision| revision == newest),
            is_leaving: pod.metadata.deletion_timestamp.is_some(),
            is_stuck: !is_ready && is_stuck(pod),
            is_unaware: false,
        },
        address: status.and_then(|status| status.pod_ip.clone()),
        uid: pod.uid().unwrap_or_default(),
        process: process(pod),
        kept_away: if is_ready { None } else { kept_away(pod) },
        identity: Identity::of(pod),
    }
}

/// The process of a pod that runs and is to stay.
fn process(pod: &KubePod) -> Option<Process> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let member = containers.iter().find(|container| container.name == COMPONENT)?;
    member.state.as_ref()?.running.as_ref()?;
    Some(Process { pod: pod.uid()?, restarts: member.restart_count })
}

fn is_late(meta: &ObjectMeta, now: Timestamp) -> bool {
    meta.deletion_timestamp.as_ref().is_some_and(|due| now.duration_since(due.0) > MORE)
}

fn overdue_pod<'a>(mut pods: impl Iterator<Item = &'a KubePod>, now: Timestamp) -> Option<Overdue> {
    let late = pods.find(|pod| is_late(&pod.metadata, now))?;
    let node = late.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Some(Overdue { what: format!("pod {}", late.name_any()), node })
}

fn overdue_claim<'a>(
    mut claims: impl Iterator<Item = &'a PersistentVolumeClaim>,
    now: Timestamp,
) -> Option<Overdue> {
    let late = claims.find(|claim| is_late(&claim.metadata, now))?;
    Some(Overdue { what: format!("claim {}", late.name_any()), node: None })
}

fn condition<'a>(pod: &'a KubePod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// A pod that no node takes, whose container does not run, or that has not been ready for long. What runs before a member, such as what fetches
/// a large backup, may take its time.
fn is_stuck(pod: &KubePod) -> bool {
    let refused = condition(pod, "PodScheduled").is_some_and(|scheduled| scheduled.status == "False");
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut states = containers.filter_map(|container| container.state.as_ref());
    let does_not_run = states.any(|state| {
        let waits = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
        state.terminated.is_some() || waits.is_some_and(|reason| !STARTING.contains(&reason))
    });
    let since = condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    let for_long = since.is_some_and(|since| Timestamp::now().duration_since(since.0) > LONG);
    let mut before = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let is_prepared = before.any(|it| it.state.as_ref().is_some_and(|state| state.running.is_some()));
    refused || does_not_run || (for_long && !is_prepared)
}

/// Claims of the members. Before there is a StatefulSet, one of a member's name that is not ours is told of: it would be used.
async fn claims(
    cluster: &Cluster,
    kv: &ValidatedKvCluster,
    is_new: bool,
) -> Result<BTreeMap<u16, PersistentVolumeClaim>, StepError> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), &kv.owner.namespace);
    let asked = if is_new { ListParams::default() } else { selected(kv) };
    let list = api.list(&asked).await.map_err(unread("claims of the volumes"))?;
    let ordinal = |claim: &PersistentVolumeClaim| {
        claims::ordinal(&claim.name_any(), DATA_VOLUME, &kv.name).filter(|ordinal| *ordinal < MOST_MEMBERS)
    };
    let named = list.items.into_iter().filter_map(|claim| Some((ordinal(&claim)?, claim)));
    let named: BTreeMap<u16, PersistentVolumeClaim> = named.collect();
    match named.values().find(|claim| !carries(claim, &kv.owner.selector())) {
        None => Ok(named),
        Some(foreign) => Err(StepError {
            reason: "NameTaken",
            message: format!(
                "PersistentVolumeClaim {} is there already and is none of this cluster's; delete or rename it, or give this object another name",
                foreign.name_any()
            ),
        }),
    }
}

/// A volume with data is never restored over: members that found one would go on with it, and the backup would be forgotten.
fn has_nothing_left<'a>(
    object: &KVCluster,
    claims: impl Iterator<Item = &'a PersistentVolumeClaim>,
) -> Result<(), StepError> {
    let since = object.metadata.creation_timestamp.as_ref();
    let is_older = |claim: &&PersistentVolumeClaim| claim.metadata.creation_timestamp.as_ref() < since;
    let left: Vec<String> = claims.filter(is_older).map(ResourceExt::name_any).collect();
    if left.is_empty() {
        return Ok(());
    }
    let message = format!(
        "spec.restore asks for a backup, and volumes of an earlier cluster of this name are there, whose data the members would go on with. If \
         that is to go: kubectl delete pvc {}; if it is to stay: take spec.restore away, or restore under another name",
        left.join(" ")
    );
    Err(StepError { reason: "RestoreRefused", message })
}

fn carries(claim: &PersistentVolumeClaim, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| claim.labels().get(key) == Some(value))
}

fn of_claim(claim: &PersistentVolumeClaim) -> Claim {
    Claim {
        is_condemned: claim.annotations().contains_key(CONDEMNED),
        is_leaving: claim.metadata.deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_that_is_slow_is_not_stuck() {
        let since = |since: &str| json!([{"type": "Ready", "status": "False", "lastTransitionTime": since}]);
        let (now, long_ago) = (Timestamp::now().to_string(), "2026-01-01T00:00:00Z");
        let waiting = |reason: &str| {
            json!([{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 1, "state": {"waiting": {"reason": reason}}}])
        };
        let table: [(Value, Value, bool); 5] = [
            (since(&now), json!([]), false),
            (since(long_ago), json!([]), true),
            (since(&now), waiting("ContainerCreating"), false),
            (since(&now), waiting("CrashLoopBackOff"), true),
            (json!([{"type": "PodScheduled", "status": "False"}]), json!([]), true),
        ];
        let is_stuck = |status: Value| {
            let pod = json!({"metadata": {"name": "kv-0"}, "status": status});
            of_pod(&serde_json::from_value(pod).expect("a pod"), "").pod.is_stuck
        };
        for (conditions, containers, expected) in table {
            let found = is_stuck(json!({"conditions": conditions, "containerStatuses": containers}));
            assert_eq!(found, expected, "{conditions} {containers}");
        }
        let state = |state: Value| json!([{"name": "restore", "image": "i", "imageID": "", "ready": false, "restartCount": 1, "state": state}]);
        let table = [
            (state(json!({"running": {"startedAt": long_ago}})), false),
            (state(json!({"waiting": {"reason": "CrashLoopBackOff"}})), true),
        ];
        for (first, expected) in table {
            let found = is_stuck(json!({"conditions": since(long_ago), "initContainerStatuses": first,
                "containerStatuses": waiting("PodInitializing")}));
            assert_eq!(found, expected, "{first}: a backup that takes long to fetch is not begun again");
        }
    }

    #[test]
    fn what_does_not_go_is_told_with_its_node() {
        let due: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let meta = |name: &str| json!({"name": name, "deletionTimestamp": due.to_string()});
        let pod: KubePod = serde_json::from_value(
            json!({"metadata": meta("kv-2"), "spec": {"nodeName": "b", "containers": []}}),
        )
        .expect("a pod");
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": meta("data-kv-2")})).expect("a claim");
        let after = |seconds| due.checked_add(SignedDuration::from_secs(seconds)).expect("a time");
        let told = |what: &str, node: Option<&str>| {
            Some(Overdue { what: what.to_owned(), node: node.map(str::to_owned) })
        };
        assert_eq!(overdue_pod([&pod].into_iter(), after(59)), None);
        assert_eq!(overdue_pod([&pod].into_iter(), after(61)), told("pod kv-2", Some("b")));
        assert_eq!(overdue_claim([&claim].into_iter(), after(61)), told("claim data-kv-2", None));
    }

    #[test]
    fn a_backup_is_not_restored_over_what_an_earlier_cluster_left() {
        let claim = |name: &str, created: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created}}))
                .expect("a claim")
        };
        let object: KVCluster =
            serde_json::from_value(json!({"apiVersion": "platform.dev/v1", "kind": "KVCluster",
            "metadata": {"name": "kv", "creationTimestamp": "2026-01-02T00:00:00Z"}, "spec": {}}))
            .expect("a KVCluster");
        let own = claim("data-kv-0", "2026-01-02T00:00:00Z");
        let left = [claim("data-kv-1", "2026-01-01T23:59:59Z"), claim("data-kv-2", "2025-01-01T00:00:00Z")];
        assert!(has_nothing_left(&object, [&own].into_iter()).is_ok());
        let refused = has_nothing_left(&object, left.iter().chain([&own])).expect_err("two are left");
        assert!(refused.message.contains("kubectl delete pvc data-kv-1 data-kv-2;"), "{}", refused.message);
    }

    #[test]
    fn a_set_that_somebody_scaled_beyond_all_is_told_anew_what_to_keep() {
        let set = |first, wanted| Pods { wanted, first, ..Pods::default() };
        assert_eq!(kept(&set(1, 3)), Some(Kept { first: 1, end: 4 }));
        assert_eq!(kept(&set(1, 65_535)), None);
    }

    #[test]
    fn a_pod_that_only_looks_like_a_members_is_none() {
        let owner = |api_version: &str, kind: &str, name: &str, uid: &str, controller: bool| json!([{"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": controller}]);
        let table = [
            (owner("apps/v1", "StatefulSet", "kv", "u", true), true),
            (json!([]), false),
            (owner("apps/v1", "StatefulSet", "kv", "u", false), false),
            (owner("apps/v1", "StatefulSet", "kv", "another", true), false),
            (owner("apps/v1", "StatefulSet", "other", "u", true), false),
            (owner("example.com/v1", "StatefulSet", "kv", "u", true), false),
            (owner("apps/v1", "ReplicaSet", "kv", "u", true), false),
        ];
        for (owners, expected) in table {
            let pod = json!({"metadata": {"name": "kv-0", "ownerReferences": owners}});
            let pod: KubePod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(is_of(&pod, "kv", Some("u")), expected, "{owners}");
        }
    }
}
