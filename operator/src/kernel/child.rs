//! What the operator makes: the kinds, and what it keeps in mind of each object.

use aistack_crds::{InferenceService, KVCluster, Kind, VectorCollection};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::core::ApiResource;
use serde_json::Value;

use super::conditions::Because;
use super::key::{Key, ObjectName};
use crate::certificate::Certificate;
use crate::scaled_object::ScaledObject;

/// Annotation of a child with the hash of what was applied.
pub const APPLIED: &str = "platform.dev/applied";
/// Annotation of a child that makes pods with the hash of their template.
pub const PODS: &str = "platform.dev/pods";

/// Kinds of objects that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    /// Text that pods read.
    ConfigMap,
    /// Text that pods read and nobody else should.
    Secret,
    /// A name in front of pods.
    Service,
    /// How many pods may be away at a time.
    PodDisruptionBudget,
    /// How many pods there are, by what they do.
    HorizontalPodAutoscaler,
    /// The same, by KEDA.
    ScaledObject,
    /// Devices that each pod claims.
    ResourceClaimTemplate,
    /// What cert-manager is asked to have signed, into a Secret.
    Certificate,
    /// Pods with a name and a volume each.
    StatefulSet,
    /// Pods that are all alike.
    Deployment,
    /// A pod on every node.
    DaemonSet,
    /// Pods that end.
    Job,
    /// Jobs at their times.
    CronJob,
    /// A volume that outlives its pods.
    PersistentVolumeClaim,
    /// A child of an AIStack.
    KVCluster,
    /// A child of an AIStack.
    InferenceService,
    /// A child of an AIStack.
    VectorCollection,
}

impl ChildKind {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::ConfigMap,
        Self::Secret,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::HorizontalPodAutoscaler,
        Self::ScaledObject,
        Self::ResourceClaimTemplate,
        Self::Certificate,
        Self::StatefulSet,
        Self::Deployment,
        Self::DaemonSet,
        Self::Job,
        Self::CronJob,
        Self::PersistentVolumeClaim,
        Self::KVCluster,
        Self::InferenceService,
        Self::VectorCollection,
    ];

    /// Name of the kind as a manifest writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::ScaledObject => "ScaledObject",
            Self::ResourceClaimTemplate => "ResourceClaimTemplate",
            Self::Certificate => "Certificate",
            Self::StatefulSet => "StatefulSet",
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::KVCluster => "KVCluster",
            Self::InferenceService => "InferenceService",
            Self::VectorCollection => "VectorCollection",
        }
    }

    /// The kind that a manifest's `kind` names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Where the API server has it.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::HorizontalPodAutoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
            Self::ScaledObject => ApiResource::erase::<ScaledObject>(&()),
            Self::ResourceClaimTemplate => ApiResource::erase::<ResourceClaimTemplate>(&()),
            Self::Certificate => ApiResource::erase::<Certificate>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
            Self::Job => ApiResource::erase::<Job>(&()),
            Self::CronJob => ApiResource::erase::<CronJob>(&()),
            Self::PersistentVolumeClaim => ApiResource::erase::<PersistentVolumeClaim>(&()),
            Self::KVCluster => ApiResource::erase::<KVCluster>(&()),
            Self::InferenceService => ApiResource::erase::<InferenceService>(&()),
            Self::VectorCollection => ApiResource::erase::<VectorCollection>(&()),
        }
    }

    /// The kind of ours that it is, if it is one: those are watched already.
    pub fn of_ours(self) -> Option<Kind> {
        match self {
            Self::KVCluster => Some(Kind::KVCluster),
            Self::InferenceService => Some(Kind::InferenceService),
            Self::VectorCollection => Some(Kind::VectorCollection),
            _ => None,
        }
    }

    /// Whether what serves goes on serving without one of it: no client notices that it is not as it should be.
    pub fn is_aside(self) -> bool {
        matches!(
            self,
            Self::PodDisruptionBudget
                | Self::HorizontalPodAutoscaler
                | Self::ScaledObject
                | Self::CronJob
                | Self::Certificate
        )
    }

    /// Whether pods do not start without the one that their template names.
    pub fn is_read_by_pods(self) -> bool {
        matches!(self, Self::ConfigMap | Self::Secret | Self::Certificate | Self::ResourceClaimTemplate)
    }

    /// What to do where the cluster has no such kind.
    pub fn instead(self) -> &'static str {
        match self {
            Self::Certificate => {
                "install cert-manager, or name a Secret that has a certificate: spec.tls.secretName in place of issuerRef"
            }
            Self::ScaledObject => "install KEDA, or leave spec.scaling.by out",
            Self::ResourceClaimTemplate => {
                "use Kubernetes 1.34 or newer, or spec.gpu.allocation: devicePlugin"
            }
            _ => "install what brings it",
        }
    }

    /// The same, from the other side.
    pub fn from_ours(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|child| child.of_ours() == Some(kind))
    }
}

/// A child object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildKey {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub object: ObjectName,
}

impl std::fmt::Display for ChildKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.object.name)
    }
}

/// Whom an object belongs to by its controlling owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// API group of the reference.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Group of an `apiVersion`; the core group's is empty.
fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

impl From<&OwnerReference> for Holder {
    fn from(owner: &OwnerReference) -> Self {
        Self {
            group: group(&owner.api_version).to_owned(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }
    }
}

impl Holder {
    /// Whether it is an object of that kind of ours.
    pub fn is(&self, kind: Kind) -> bool {
        self.group == kind.resource().group && self.kind == kind.name()
    }

    /// Whether a reference is to an object of the same name, be it this one or an earlier one.
    pub fn is_of(&self, reference: &OwnerReference) -> bool {
        let group = group(&reference.api_version);
        (self.group.as_str(), &self.kind, &self.name) == (group, &reference.kind, &reference.name)
    }

    /// The object of ours that it is.
    pub fn key(&self, namespace: &str) -> Option<Key> {
        let kind = Kind::from_name(&self.kind).filter(|kind| self.is(*kind))?;
        Some(Key::new(kind, ObjectName::new(namespace, self.name.as_str())))
    }
}

/// What is kept in mind of a child: never the object itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its uid.
    pub uid: String,
    /// Its version when it was looked at.
    pub resource_version: String,
    /// Hash of what was applied to it.
    pub applied: String,
    /// Whether all that was applied is still so.
    pub is_as_applied: bool,
    /// How it fares, for what runs pods or is a kind of ours.
    pub progress: Progress,
}

/// How a child fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// It is there, and that is all there is to say.
    #[default]
    Present,
    /// It runs pods.
    Pods(Pods),
    /// A Job.
    Job(JobProgress),
    /// Jobs at their times, and since when none succeeded: the last one that did, or when its CronJob was made.
    Times(Times, Option<Timestamp>),
    /// A kind of ours, by its own conditions.
    Ours(OwnProgress),
    /// A certificate, as cert-manager says.
    Certificate(Issue),
    /// An autoscaler: why it does not scale, if it says so.
    Autoscaler(Option<String>),
    /// KEDA's, by its own condition: whether it scales, `None` before KEDA said so, and its words.
    ScaledObject(Option<bool>, String),
}

/// Pods of a StatefulSet, Deployment or DaemonSet, which wants one on each node that may have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// Whether the status is about the present spec.
    pub is_current: bool,
    /// Wanted.
    pub wanted: i32,
    /// There.
    pub replicas: i32,
    /// Ready.
    pub ready: i32,
    /// Of the newest template.
    pub updated: i32,
    /// Name of the newest template's revision, of a StatefulSet.
    pub update_revision: String,
    /// Ordinal of the first pod, of a StatefulSet.
    pub first: i32,
    /// Why no pods can be made, when the controller of the workload said so.
    pub failure: Option<String>,
    /// What keeps a pod from running, when somebody said so.
    pub trouble: Option<Because>,
}

impl Pods {
    /// Whether all that are wanted run the newest template and are ready.
    pub fn is_complete(&self) -> bool {
        self.is_current
            && self.replicas == self.wanted
            && self.ready == self.wanted
            && self.updated == self.wanted
    }

    /// What is waited for, in words.
    pub fn awaited(&self) -> String {
        if self.ready < self.wanted {
            self.counted()
        } else if !self.is_current {
            format!("{}, and Kubernetes has not seen the newest template yet", self.counted())
        } else if self.updated < self.wanted {
            format!("{} of {} pods are of the newest template", self.updated, self.wanted)
        } else {
            format!("{} pods are there, of which {} are to stay", self.replicas, self.wanted)
        }
    }

    /// How many serve, in words.
    pub fn counted(&self) -> String {
        format!("{} of {} pods are ready", self.ready, self.wanted)
    }
}

/// Jobs at their times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// None was due yet.
    #[default]
    NotYet,
    /// One runs; whether one succeeded before.
    Runs {
        /// Whether one did.
        after_success: bool,
    },
    /// The last one succeeded.
    Done,
    /// The last one failed.
    Failed,
}

/// A Job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobProgress {
    /// It succeeded.
    pub is_complete: bool,
    /// Why it failed for good.
    pub failure: Option<String>,
}

/// A kind of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnProgress {
    /// Ready, for the present spec.
    pub is_ready: bool,
    /// Clients are served, be it ready or not.
    pub is_available: bool,
    /// Nothing more will happen until somebody changes something.
    pub is_stalled: bool,
    /// What it says in its condition Ready.
    pub said: Said,
    /// What is under way, if anything is.
    pub progressing: Option<Said>,
    /// What is wrong, if anything is.
    pub degraded: Option<Said>,
    /// Where it serves, if it says so.
    pub endpoint: Option<String>,
}

/// A condition's reason and message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// In CamelCase; empty: nothing was said.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// A certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issue {
    /// Whether its Secret has it; `None` before anybody said so.
    pub is_issued: Option<bool>,
    /// The Secret that it is written to.
    pub secret: String,
    /// What cert-manager says of it, if anything.
    pub message: String,
    /// Why it could not be signed, or renewed, the last time.
    pub failure: Option<String>,
    /// When it was to be renewed, while it is being signed.
    pub due: Option<Timestamp>,
}

impl Progress {
    /// Reads it off an object.
    pub fn of(kind: ChildKind, object: &Value) -> Self {
        match kind {
            ChildKind::StatefulSet | ChildKind::Deployment => Self::Pods(pods(object)),
            ChildKind::DaemonSet => Self::Pods(a_node(object)),
            ChildKind::Job => Self::Job(job(object)),
            ChildKind::CronJob => Self::Times(last_time(object), none_since(object)),
            ChildKind::KVCluster | ChildKind::InferenceService | ChildKind::VectorCollection => {
                Self::Ours(own(object))
            }
            ChildKind::Certificate => Self::Certificate(issue(object)),
            ChildKind::HorizontalPodAutoscaler => Self::Autoscaler(idle_autoscaler(object)),
            ChildKind::ScaledObject => {
                let ready = condition(object, "Ready").filter(|ready| ready["status"] != "Unknown");
                let said = ready.and_then(|ready| ready["message"].as_str()).unwrap_or_default();
                Self::ScaledObject(ready.map(|ready| ready["status"] == "True"), said.to_owned())
            }
            ChildKind::ConfigMap
            | ChildKind::ResourceClaimTemplate
            | ChildKind::Secret
            | ChildKind::Service
            | ChildKind::PodDisruptionBudget
            | ChildKind::PersistentVolumeClaim => Self::Present,
        }
    }
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn is_true(condition: Option<&Value>) -> bool {
    condition.is_some_and(|condition| condition["status"] == "True")
}

fn count(object: &Value, pointer: &str) -> i32 {
    i32::try_from(number(object, pointer)).unwrap_or(i32::MAX)
}

fn is_current(object: &Value) -> bool {
    number(object, "/status/observedGeneration") == number(object, "/metadata/generation")
}

fn a_node(object: &Value) -> Pods {
    Pods {
        is_current: is_current(object),
        wanted: count(object, "/status/desiredNumberScheduled"),
        replicas: count(object, "/status/currentNumberScheduled"),
        ready: count(object, "/status/numberReady"),
        updated: count(object, "/status/updatedNumberScheduled"),
        ..Pods::default()
    }
}

fn pods(object: &Value) -> Pods {
    let count = |pointer: &str| count(object, pointer);
    let failure = condition(object, "ReplicaFailure")
        .filter(|condition| condition["status"] == "True")
        .and_then(|condition| condition["message"].as_str())
        .map(str::to_owned);
    Pods {
        is_current: is_current(object),
        wanted: object
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .and_then(|wanted| i32::try_from(wanted).ok())
            .unwrap_or(1),
        replicas: count("/status/replicas"),
        ready: count("/status/readyReplicas"),
        updated: count("/status/updatedReplicas"),
        update_revision: text(object, "/status/updateRevision").to_owned(),
        first: count("/spec/ordinals/start"),
        failure,
        trouble: None,
    }
}

/// What an autoscaler says when it cannot see what it is to scale by. That its target has no pods is none of that.
fn idle_autoscaler(object: &Value) -> Option<String> {
    let active = condition(object, "ScalingActive").filter(|condition| condition["status"] == "False")?;
    let reason = active["reason"].as_str().unwrap_or_default();
    (reason != "ScalingDisabled")
        .then(|| format!("{reason}: {}", active["message"].as_str().unwrap_or_default()))
}

fn issue(object: &Value) -> Issue {
    let message = |condition: &Value| condition["message"].as_str().unwrap_or_default().to_owned();
    let ready = condition(object, "Ready");
    let issuing = condition(object, "Issuing");
    let failed = issuing.filter(|issuing| issuing["reason"] == "Failed");
    let renewing = issuing.filter(|issuing| issuing["status"] == "True");
    Issue {
        is_issued: ready.map(|ready| ready["status"] == "True"),
        secret: text(object, "/spec/secretName").to_owned(),
        message: ready.map(message).unwrap_or_default(),
        failure: failed.map(message),
        due: renewing.and_then(|_| text(object, "/status/renewalTime").parse().ok()),
    }
}

fn job(object: &Value) -> JobProgress {
    let failed = condition(object, "Failed").filter(|condition| condition["status"] == "True");
    JobProgress {
        is_complete: is_true(condition(object, "Complete")),
        failure: failed
            .map(|condition| condition["message"].as_str().unwrap_or("its pods keep failing").to_owned()),
    }
}

/// How it went with what a CronJob was to do last.
fn last_time(object: &Value) -> Times {
    let at = |pointer: &str| Some(text(object, pointer)).filter(|text| !text.is_empty());
    let (scheduled, succeeded) = (at("/status/lastScheduleTime"), at("/status/lastSuccessfulTime"));
    let is_running =
        object.pointer("/status/active").and_then(Value::as_array).is_some_and(|it| !it.is_empty());
    // Times of one form are in the order of their text.
    match succeeded {
        // One that somebody began by hand counts, also before the first that was due.
        Some(succeeded) if scheduled.is_none_or(|scheduled| succeeded >= scheduled) => Times::Done,
        _ if scheduled.is_none() => Times::NotYet,
        _ if is_running => Times::Runs { after_success: succeeded.is_some() },
        _ => Times::Failed,
    }
}

fn none_since(object: &Value) -> Option<Timestamp> {
    let at = |pointer: &str| text(object, pointer).parse().ok();
    at("/status/lastSuccessfulTime").or_else(|| at("/metadata/creationTimestamp"))
}

fn own(object: &Value) -> OwnProgress {
    let said = |condition: &Value| {
        let field = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Said { reason: field("reason"), message: field("message") }
    };
    let while_so = |kind: &str| condition(object, kind).filter(|it| it["status"] == "True").map(said);
    let is_current = is_current(object);
    let ready = condition(object, "Ready");
    OwnProgress {
        is_ready: is_current && is_true(ready),
        is_available: is_true(condition(object, "Available").or(ready)),
        is_stalled: is_current && is_true(condition(object, "Stalled")),
        said: ready.map(said).unwrap_or_default(),
        progressing: while_so("Progressing"),
        degraded: while_so("Degraded"),
        endpoint: Some(text(object, "/status/endpoint").to_owned()).filter(|endpoint| !endpoint.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_found_by_their_names() {
        for kind in ChildKind::ALL {
            assert_eq!(ChildKind::from_name(kind.name()), Some(kind));
            assert_eq!(kind.resource().kind, kind.name());
        }
    }

    #[test]
    fn pods_are_complete_when_the_newest_are_ready() {
        let object = |observed: i64, updated: i64| {
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 3},
                "status": {"observedGeneration": observed, "replicas": 3, "readyReplicas": 3, "updatedReplicas": updated}})
        };
        for (observed, updated, is_complete) in [(2, 3, true), (1, 3, false), (2, 2, false)] {
            let Progress::Pods(pods) = Progress::of(ChildKind::StatefulSet, &object(observed, updated))
            else {
                panic!("a StatefulSet runs pods");
            };
            assert_eq!(pods.is_complete(), is_complete, "{observed} {updated}");
        }
    }

    #[test]
    fn what_pods_are_awaited_for_is_not_what_they_are() {
        let all = Pods { is_current: true, wanted: 2, replicas: 2, ready: 2, updated: 2, ..Pods::default() };
        let table = [
            (Pods { ready: 1, updated: 0, ..all.clone() }, "1 of 2 pods are ready"),
            (
                Pods { is_current: false, ..all.clone() },
                "2 of 2 pods are ready, and Kubernetes has not seen the newest template yet",
            ),
            (Pods { updated: 1, ..all.clone() }, "1 of 2 pods are of the newest template"),
            (Pods { replicas: 3, ..all }, "3 pods are there, of which 2 are to stay"),
        ];
        for (pods, expected) in table {
            assert!(!pods.is_complete());
            assert_eq!(pods.awaited(), expected);
        }
    }

    #[test]
    fn a_status_of_another_generation_says_nothing() {
        let object = |generation: i64| {
            json!({"metadata": {"generation": generation}, "status": {"observedGeneration": 1, "conditions": [
                {"type": "Ready", "status": "True", "reason": "Ready", "message": "all voters answer"}]}})
        };
        for (generation, is_ready) in [(1, true), (2, false)] {
            let Progress::Ours(own) = Progress::of(ChildKind::KVCluster, &object(generation)) else {
                panic!("a kind of ours");
            };
            assert_eq!(own.is_ready, is_ready, "{generation}");
        }
    }

    #[test]
    fn what_was_due_was_done_or_not() {
        let table = [
            (json!({}), Times::NotYet),
            (json!({"lastSuccessfulTime": "2026-01-02T00:00:09Z"}), Times::Done),
            (
                json!({"lastScheduleTime": "2026-01-02T00:00:00Z", "active": [{}]}),
                Times::Runs { after_success: false },
            ),
            (json!({"lastScheduleTime": "2026-01-02T00:00:00Z"}), Times::Failed),
            (
                json!({"lastScheduleTime": "2026-01-02T00:00:00Z", "lastSuccessfulTime": "2026-01-02T00:00:09Z"}),
                Times::Done,
            ),
            (
                json!({"lastScheduleTime": "2026-01-03T00:00:00Z", "lastSuccessfulTime": "2026-01-02T00:00:09Z"}),
                Times::Failed,
            ),
            (
                json!({"lastScheduleTime": "2026-01-03T00:00:00Z", "lastSuccessfulTime": "2026-01-02T00:00:09Z", "active": [{}]}),
                Times::Runs { after_success: true },
            ),
        ];
        for (status, expected) in table {
            assert_eq!(last_time(&json!({"status": status})), expected, "{status}");
        }
    }

    #[test]
    fn since_when_none_was_done() {
        let at = |since: &str| since.parse::<Timestamp>().ok();
        let made = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(
            Progress::of(ChildKind::CronJob, &made),
            Progress::Times(Times::NotYet, at("2026-01-01T00:00:00Z"))
        );
        let mut done = made;
        done["status"] =
            json!({"lastScheduleTime": "2026-01-02T00:00:00Z", "lastSuccessfulTime": "2026-01-02T00:00:09Z"});
        assert_eq!(
            Progress::of(ChildKind::CronJob, &done),
            Progress::Times(Times::Done, at("2026-01-02T00:00:09Z"))
        );
    }
}
