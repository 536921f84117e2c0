//! From what is wanted to what is there: server-side apply that writes only what differs, prunes, and keeps its hands off
//! what is somebody else's.

use std::collections::BTreeSet;
use std::time::Instant;

use aistack_crds::{GROUP, Kind};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{
    Api, DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::DynamicObject;
use kube::core::Status as ApiStatus;
use serde_json::{Value, json};

use super::absent::is_unknown;
use super::child::{APPLIED, ChildKey, ChildKind, Holder, Observed, PODS, Progress};
use super::claims::{self, Template};
use super::cluster::Cluster;
use super::controller::StepError;
use super::covers::covers;
use super::created;
use super::held::{self, Lack};
use super::key::ObjectName;
use super::parent::Parent;
use super::patience::Hold;
use super::replicas;
use super::watch::{ADOPT, ChildMeta, adopter, holder};
use crate::digest::digest;
use crate::manifest::{GENERATE_ANNOTATION, Manifests};
use crate::meta::MANAGER;

/// Why a child is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It could not be read.
    #[error("read {child}: {source}")]
    Read {
        /// Which.
        child: ChildKey,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server would not have it.
    #[error("apply {child}: {source}")]
    Write {
        /// Which.
        child: ChildKey,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server would not have it larger.
    #[error("grow {child}: {source}")]
    Grow {
        /// Which claim.
        child: ChildKey,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The cluster has no such kind.
    #[error(
        "{child} cannot be made: this cluster has no kind {} of {}; {}",
        .child.kind.name(),
        .child.kind.resource().api_version,
        .child.kind.instead()
    )]
    NoKind {
        /// Which.
        child: ChildKey,
    },
    /// Somebody else changes it back each time.
    #[error(
        "{child} is changed back by somebody else each time that it is applied: another operator of ours that sees this namespace with other \
         settings, or another controller; kubectl get {child} --show-managed-fields -o yaml tells who. It is tried again less and less often, up to \
         six hours apart, and at once when this object is edited"
    )]
    Contested {
        /// Which.
        child: ChildKey,
    },
    /// It could not be deleted.
    #[error("delete {child}: {source}")]
    Delete {
        /// Which.
        child: ChildKey,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Its name is taken by something that is not ours.
    #[error(
        "{child} is there already and belongs to {holder}; delete or rename it, or give this object another name"
    )]
    Taken {
        /// Which.
        child: ChildKey,
        /// Whom it belongs to.
        holder: String,
    },
    /// Its name is taken by something that belongs to nobody.
    #[error(
        "{child} is there already and belongs to nobody; delete or rename it, or let {parent} take it over: \
         kubectl annotate {}/{} {ADOPT}={parent}",
        .child.kind.name(),
        .child.object.name
    )]
    Unowned {
        /// Which.
        child: ChildKey,
        /// What may take it over, as `Kind/name`.
        parent: String,
    },
    /// An object of the same name is on its way out.
    #[error("{child} of an earlier object of this name is still being deleted")]
    Leaving {
        /// Which.
        child: ChildKey,
    },
}

impl ApplyError {
    /// Reason of the condition and label of the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "ReadFailed",
            Self::Write { .. } => "ApplyFailed",
            Self::NoKind { .. } => "KindMissing",
            Self::Grow { .. } => "ClaimRefused",
            Self::Delete { .. } => "DeleteFailed",
            Self::Taken { .. } | Self::Unowned { .. } => "NameTaken",
            Self::Leaving { .. } => "StillDeleting",
            Self::Contested { .. } => "Contested",
        }
    }

    /// Whether somebody has to change something.
    pub fn is_stalled(&self) -> bool {
        matches!(self, Self::Taken { .. } | Self::Unowned { .. })
    }

    /// Which child it is about.
    pub fn child(&self) -> &ChildKey {
        match self {
            Self::Read { child, .. }
            | Self::Write { child, .. }
            | Self::Grow { child, .. }
            | Self::Delete { child, .. }
            | Self::NoKind { child }
            | Self::Contested { child }
            | Self::Taken { child, .. }
            | Self::Unowned { child, .. }
            | Self::Leaving { child } => child,
        }
    }

    /// Whether what serves goes on serving as the spec asks for, without it.
    pub fn is_aside(&self) -> bool {
        matches!(self, Self::Grow { .. }) || self.child().kind.is_aside()
    }

    /// Whether what bears the child's name is not ours, or not for long: nothing may be done by way of it.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Taken { .. } | Self::Unowned { .. } | Self::Leaving { .. })
    }

    /// Whether it was changed between the look and the write.
    fn is_conflict(&self) -> bool {
        let Self::Write { source, .. } = self else { return false };
        matches!(&**source, kube::Error::Api(status) if status.code == 409)
    }

    /// Whether nobody answered: then there is no use in asking on.
    fn is_silence(&self) -> bool {
        match self {
            Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Grow { source, .. }
            | Self::Delete { source, .. } => !matches!(**source, kube::Error::Api(_)),
            Self::NoKind { .. }
            | Self::Contested { .. }
            | Self::Taken { .. }
            | Self::Unowned { .. }
            | Self::Leaving { .. } => false,
        }
    }

    /// A sentence that stays the same while the failure does: without versions and times that an answer may carry.
    pub fn message(&self) -> String {
        match self {
            Self::Read { child, source } => format!("{child} could not be read: {}", said(source)),
            Self::Write { child, source } => format!("{child} was refused: {}", said(source)),
            Self::Grow { child, source } => format!("{child} cannot grow: {}", said(source)),
            Self::Delete { child, source } => format!("{child} could not be deleted: {}", said(source)),
            Self::NoKind { .. }
            | Self::Contested { .. }
            | Self::Taken { .. }
            | Self::Unowned { .. }
            | Self::Leaving { .. } => self.to_string(),
        }
    }
}

/// What the API server said, or that it did not answer.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => aistack_api::cause::innermost(other),
    }
}

/// A child that is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedChild {
    /// Which.
    pub key: ChildKey,
    /// How it fares.
    pub progress: Progress,
    /// Whether it was written as it is wanted; else it is as it was before.
    pub is_as_wanted: bool,
}

/// All children of an object, as they are after they were applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied(pub Vec<AppliedChild>);

impl Applied {
    /// How one of them fares.
    pub fn progress(&self, kind: ChildKind, name: &str) -> Option<&Progress> {
        self.child(kind, name).map(|child| &child.progress)
    }

    /// One of them.
    pub fn child(&self, kind: ChildKind, name: &str) -> Option<&AppliedChild> {
        self.0.iter().find(|child| child.key.kind == kind && child.key.object.name == name)
    }

    /// Whether no pod of a former template is there, or may come.
    fn runs_as_wanted(&self) -> bool {
        let runs = |child: &AppliedChild| match &child.progress {
            Progress::Pods(pods) => pods.is_complete(),
            _ => true,
        };
        self.0.iter().all(runs)
    }

    /// Those of a kind.
    pub fn of_kind(&self, kind: ChildKind) -> impl Iterator<Item = &AppliedChild> {
        self.0.iter().filter(move |child| child.key.kind == kind)
    }
}

/// What came of applying: a child that is refused keeps none of the others from being applied.
#[derive(Debug, Default)]
pub struct Tried {
    /// The children that are there: as they should be, or as they were before a change was refused.
    pub applied: Applied,
    /// What went wrong.
    pub refused: Vec<ApplyError>,
    /// What changes that are held back wait for.
    pub held: Vec<Lack>,
}

/// Makes the children of `parent` what `wanted` says, and deletes those that are neither wanted nor `kept`. What served goes
/// only when all that may take its place is there: nothing while a change is held back, and what pods read only once all are new.
pub async fn apply(cluster: &Cluster, parent: &Parent, wanted: &Manifests, kept: Vec<ChildKey>) -> Tried {
    let mut tried = Tried::default();
    let mut kept: BTreeSet<ChildKey> = kept.into_iter().collect();
    for manifest in wanted {
        let kind = ChildKind::from_name(manifest.kind()).expect("every manifest is of a kind of children");
        let key = ChildKey { kind, object: ObjectName::new(parent.namespace.as_str(), manifest.name()) };
        let value = serde_json::to_value(manifest).expect("Kubernetes objects are plain data");
        kept.insert(key.clone());
        let settled = one(cluster, parent, &key, value).await;
        let is_as_wanted = settled.failure.is_none() && settled.held.is_empty();
        let child = settled.progress.map(|progress| AppliedChild { key, progress, is_as_wanted });
        tried.applied.0.extend(child);
        let is_silence = settled.failure.as_ref().is_some_and(ApplyError::is_silence);
        tried.refused.extend(settled.failure);
        tried.held.extend(settled.held);
        if is_silence {
            return tried;
        }
    }
    if tried.held.is_empty() && tried.refused.iter().all(ApplyError::is_aside) {
        let unwanted = cluster.children.of(&parent.namespace, &parent.reference.uid);
        let unwanted = unwanted.into_iter().filter(|(key, _)| !kept.contains(key));
        let goes = |key: &ChildKey| !key.kind.is_read_by_pods() || tried.applied.runs_as_wanted();
        let unwanted = unwanted.filter(|(key, _)| goes(key)).collect();
        tried.refused.extend(prune(cluster, unwanted).await.err());
    }
    tried
}

/// What came of one child.
struct Settled {
    /// How it fares, where it is there.
    progress: Option<Progress>,
    failure: Option<ApplyError>,
    /// It stays as it is for now, for want of these.
    held: Vec<Lack>,
}

impl Settled {
    fn well(progress: Progress) -> Self {
        Self { progress: Some(progress), failure: None, held: Vec::new() }
    }

    fn failed(failure: ApplyError) -> Self {
        Self { progress: None, failure: Some(failure), held: Vec::new() }
    }
}

async fn one(cluster: &Cluster, parent: &Parent, key: &ChildKey, value: Value) -> Settled {
    let child = Child::new(cluster, parent, key, value);
    if let Some(observed) = cluster.children.observed(key)
        && observed.is_as_applied
        && observed.applied == child.hash
    {
        return Settled::well(observed.progress);
    }
    child.settle().await
}

/// How a child of `owner` fares, whatever is wanted of it; `None` when there is none.
pub async fn look<K: kube::Resource>(
    cluster: &Cluster,
    owner: &K,
    key: &ChildKey,
) -> Result<Option<Progress>, StepError> {
    let found = find(cluster, key, |holder| Some(&holder.uid) == owner.meta().uid.as_ref()).await?;
    Ok(found.map(|(progress, read)| {
        if let Some(live) = read {
            cluster.children.keep_read(key, live);
        }
        progress
    }))
}

/// How a child of the object of that kind and name fares, which another turn looks after; `None` when there is none.
pub async fn look_at_anothers(
    cluster: &Cluster,
    owner: (Kind, &str),
    key: &ChildKey,
) -> Result<Option<Progress>, StepError> {
    let is_theirs =
        |holder: &Holder| holder.group == GROUP && holder.kind == owner.0.name() && holder.name == owner.1;
    Ok(find(cluster, key, is_theirs).await?.map(|(progress, _)| progress))
}

/// How a child of whoever `is_of` says fares, and what was read for it. Nothing was read of one that has not changed since a turn looked;
/// after a restart none has.
async fn find(
    cluster: &Cluster,
    key: &ChildKey,
    is_of: impl Fn(&Holder) -> bool,
) -> Result<Option<(Progress, Option<Value>)>, StepError> {
    if let Some(observed) = cluster.children.observed(key) {
        let known = cluster.children.meta(key).and_then(|meta| meta.holder);
        return Ok(known.is_some_and(|holder| is_of(&holder)).then_some((observed.progress, None)));
    }
    let live = read_in_step(cluster, key).await?;
    let live = live.filter(|live| holder(&meta(live)).is_some_and(|holder| is_of(&holder)));
    Ok(live.map(|live| (Progress::of(key.kind, &live), Some(live))))
}

/// [`read`], for a step of a kind's own.
pub(crate) async fn read_in_step(cluster: &Cluster, key: &ChildKey) -> Result<Option<Value>, StepError> {
    read(cluster, key).await.map_err(|error| StepError {
        reason: "ReadFailed",
        message: format!("{key} could not be read: {}", said(&error)),
    })
}

/// What is there, at least as new as what is known of it: so the API server may answer from memory.
pub(crate) async fn read(cluster: &Cluster, key: &ChildKey) -> Result<Option<Value>, kube::Error> {
    let api = api_of(cluster, key);
    let known = GetParams { resource_version: cluster.children.newest(key) };
    let found = match api.get_with(&key.object.name, &known).await {
        // It never was that new: the cluster's store was set back to an earlier state.
        Err(kube::Error::Api(status)) if status.code == 504 && known.resource_version.is_some() => {
            api.get(&key.object.name).await
        }
        found => found,
    };
    match found {
        Ok(object) => Ok(Some(serde_json::to_value(object).expect("it came as JSON"))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

fn api_of(cluster: &Cluster, key: &ChildKey) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client.clone(), &key.object.namespace, &key.kind.resource())
}

fn meta(live: &Value) -> ObjectMeta {
    serde_json::from_value(live["metadata"].clone()).expect("every object has metadata")
}

/// How all is applied. What is sent is made of types, so that nobody needs to look for misspelt fields in it.
pub(super) fn applying() -> PatchParams {
    PatchParams::apply(MANAGER).force().validation_ignore()
}

/// How often a write begins anew because what it was to be written over changed meanwhile.
const CONFLICTS: usize = 3;

/// A child before anything is written to it.
enum Found {
    There(Value),
    Created(Value),
}

/// A child on its way to what is wanted of it.
struct Child<'a> {
    cluster: &'a Cluster,
    parent: &'a Parent,
    key: &'a ChildKey,
    wanted: Value,
    hash: String,
    /// What is tried: the same for the same edit of its object is no other attempt.
    attempt: String,
    /// What is wanted of the claims that it makes.
    claims: Vec<Template>,
}

impl<'a> Child<'a> {
    fn new(cluster: &'a Cluster, parent: &'a Parent, key: &'a ChildKey, mut wanted: Value) -> Self {
        // What a kind of ours says of itself is its own controller's.
        if let Some(object) = wanted.as_object_mut() {
            object.remove("status");
        }
        let meta = &mut wanted["metadata"];
        meta["namespace"] = json!(parent.namespace);
        meta["ownerReferences"] = json!([parent.reference]);
        if let Some(template) = wanted.pointer("/spec/template") {
            wanted["metadata"]["annotations"][PODS] = json!(hash(template));
        }
        let hash = hash(&wanted);
        wanted["metadata"]["annotations"][APPLIED] = json!(hash);
        let claims = claims::templates(&wanted);
        let attempt = format!("{hash} {}", parent.edition);
        Self { cluster, parent, key, wanted, hash, attempt, claims }
    }

    /// Reads what is there, and writes when it has to.
    async fn settle(mut self) -> Settled {
        let live = match self.find_or_create().await {
            Ok(Found::There(live)) => live,
            Ok(Found::Created(made)) => return Settled::well(self.observe(&made, true)),
            Err(error) => return Settled::failed(error),
        };
        if let Err(error) = self.must_be_ours(&live) {
            return Settled::failed(error);
        }
        if self.key.kind == ChildKind::Job {
            // What it runs cannot change, and what it has made stays made when the operator's version is another.
            return Settled::well(self.observe(&live, true));
        }
        claims::keep_templates(&mut self.wanted, &live);
        let is_so = annotation(&live, APPLIED) == Some(self.hash.as_str()) && covers(&live, &self.wanted);
        let now = if is_so && has_generated(&live, &self.wanted) {
            live
        } else {
            let progress = Progress::of(self.key.kind, &live);
            let held = if self.makes_pods_anew(&live) {
                held::back(self.cluster, self.parent, &self.wanted, &progress).await
            } else {
                Vec::new()
            };
            if !held.is_empty() {
                return Settled { held, ..Settled::well(progress) };
            }
            match self.write(live).await {
                Ok(written) => written,
                Err(error) => return Settled { failure: Some(error), ..Settled::well(progress) },
            }
        };
        let grown = claims::grow(self.cluster, self.parent, self.key, &now, &self.claims).await;
        let progress = self.observe(&now, matches!(grown, Ok(true)));
        Settled { failure: grown.err(), ..Settled::well(progress) }
    }

    /// Whether pods are made anew by it: another template than was applied, or one that somebody changed.
    fn makes_pods_anew(&self, live: &Value) -> bool {
        annotation(live, PODS) != annotation(&self.wanted, PODS)
            || !covers(&live["spec"]["template"], &self.wanted["spec"]["template"])
    }

    /// What is there; what no watch told of is hardly there, so it is made without a look.
    async fn find_or_create(&self) -> Result<Found, ApplyError> {
        if let Some(live) = self.cluster.children.take_read(self.key) {
            return Ok(Found::There(live));
        }
        if self.cluster.children.newest(self.key).is_none()
            && let Some(made) = self.create().await?
        {
            return Ok(Found::Created(made));
        }
        let live = read(self.cluster, self.key).await;
        let live =
            live.map_err(|source| ApplyError::Read { child: self.key.clone(), source: Box::new(source) })?;
        if let Some(live) = live {
            return Ok(Found::There(live));
        }
        // Somebody made one just now: another turn sees whose it is.
        let made = self.create().await?;
        made.map(Found::Created).ok_or_else(|| ApplyError::Leaving { child: self.key.clone() })
    }

    fn must_be_ours(&self, live: &Value) -> Result<(), ApplyError> {
        let meta = meta(live);
        let child = || self.key.clone();
        match holder(&meta) {
            Some(holder) if holder.uid == self.parent.reference.uid => {
                if meta.deletion_timestamp.is_some() {
                    return Err(ApplyError::Leaving { child: child() });
                }
                Ok(())
            }
            // The garbage collector is about to take what an earlier object of this name left.
            Some(holder) if holder.is_of(&self.parent.reference) => {
                Err(ApplyError::Leaving { child: child() })
            }
            Some(holder) => {
                Err(ApplyError::Taken { child: child(), holder: format!("{} {}", holder.kind, holder.name) })
            }
            None if meta.deletion_timestamp.is_some() => Err(ApplyError::Leaving { child: child() }),
            None => {
                let OwnerReference { kind, name, .. } = &self.parent.reference;
                match adopter(&meta) {
                    Some(asked) if asked == (kind.as_str(), name.as_str()) => Ok(()),
                    _ => Err(ApplyError::Unowned { child: child(), parent: format!("{kind}/{name}") }),
                }
            }
        }
    }

    /// Makes it; `None` when there is one of that name.
    async fn create(&self) -> Result<Option<Value>, ApplyError> {
        self.may_try()?;
        let is_there = self.parent.is_there(self.cluster).await;
        if !is_there
            .map_err(|source| ApplyError::Read { child: self.key.clone(), source: Box::new(source) })?
        {
            return Err(ApplyError::Leaving { child: self.key.clone() });
        }
        let mut wanted = created::marked(&self.wanted);
        fill_generated(&mut wanted, None);
        let object: DynamicObject = serde_json::from_value(wanted).expect("every object has metadata");
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let api = api_of(self.cluster, self.key);
        match api.create(&params, &object).await {
            Ok(made) => {
                tracing::info!(child = %self.key, "created");
                self.cluster.absent.has_come(self.key.kind);
                Ok(Some(serde_json::to_value(made).expect("it came as JSON")))
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
            Err(source) => Err(self.refused(source)),
        }
    }

    /// Writes it over what is there. Some writes hold for one version only, and pods that come and go make new ones.
    async fn write(&self, mut live: Value) -> Result<Value, ApplyError> {
        self.may_try()?;
        for _ in 0..CONFLICTS {
            match self.write_over(&live).await {
                Err(error) if error.is_conflict() => {
                    let Ok(newer) = api_of(self.cluster, self.key).get(&self.key.object.name).await else {
                        return Err(error);
                    };
                    live = serde_json::to_value(newer).expect("it came as JSON");
                    self.must_be_ours(&live)?;
                }
                written => return written,
            }
        }
        self.write_over(&live).await
    }

    async fn write_over(&self, live: &Value) -> Result<Value, ApplyError> {
        let mut wanted = self.wanted.clone();
        // Another object that takes this name meanwhile is refused rather than written over.
        wanted["metadata"]["uid"] = live["metadata"]["uid"].clone();
        fill_generated(&mut wanted, Some(live));
        if matches!(self.key.kind, ChildKind::StatefulSet | ChildKind::Deployment) {
            replicas::carry(live, &mut wanted);
        }
        let (api, name) = (api_of(self.cluster, self.key), &self.key.object.name);
        if let Some(patch) = created::hand_over(live, &self.wanted) {
            let handed = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            handed.map_err(|source| self.refused(source))?;
        }
        let written = api.patch(name, &applying(), &Patch::Apply(&wanted)).await;
        let written = written.map_err(|source| self.refused(source))?;
        tracing::info!(child = %self.key, "applied");
        self.cluster.patience.wrote(self.key, &self.attempt, Instant::now());
        Ok(serde_json::to_value(written).expect("it came as JSON"))
    }

    /// Not soon after just that was refused, or changed back by somebody else.
    fn may_try(&self) -> Result<(), ApplyError> {
        let child = || self.key.clone();
        match self.cluster.patience.hold(self.key, &self.attempt, Instant::now()) {
            None => Ok(()),
            Some(Hold::Refused(status)) if is_unknown(&status) => Err(ApplyError::NoKind { child: child() }),
            Some(Hold::Refused(status)) => {
                Err(ApplyError::Write { child: child(), source: Box::new(kube::Error::Api(status)) })
            }
            Some(Hold::Contested) => Err(ApplyError::Contested { child: child() }),
        }
    }

    fn refused(&self, source: kube::Error) -> ApplyError {
        let child = self.key.clone();
        if let kube::Error::Api(status) = &source {
            self.cluster.patience.refused(self.key, &self.attempt, status, Instant::now());
        }
        match source {
            kube::Error::Api(status) if is_unknown(&status) => ApplyError::NoKind { child },
            source => ApplyError::Write { child, source: Box::new(source) },
        }
    }

    fn observe(&self, live: &Value, is_as_applied: bool) -> Progress {
        let progress = Progress::of(self.key.kind, live);
        let text =
            |pointer: &str| live.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let observed = Observed {
            uid: text("/metadata/uid"),
            resource_version: text("/metadata/resourceVersion"),
            applied: self.hash.clone(),
            is_as_applied,
            progress: progress.clone(),
        };
        self.cluster.children.observe(self.key, observed);
        progress
    }
}

/// Deletes children that nobody wants.
async fn prune(cluster: &Cluster, unwanted: Vec<(ChildKey, ChildMeta)>) -> Result<(), ApplyError> {
    for (key, meta) in unwanted.into_iter().filter(|(_, meta)| !meta.is_leaving) {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid: Some(meta.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let api = api_of(cluster, &key);
        match api.delete(&key.object.name, &params).await {
            Ok(_) => tracing::info!(child = %key, "deleted: it is wanted no more"),
            Err(kube::Error::Api(status)) if is_gone(&status) => {}
            Err(source) => return Err(ApplyError::Delete { child: key, source: Box::new(source) }),
        }
    }
    Ok(())
}

/// Deleted already, or another object of that name by now.
fn is_gone(status: &ApiStatus) -> bool {
    status.code == 404 || status.code == 409
}

fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}

fn hash(wanted: &Value) -> String {
    let text = serde_json::to_string(wanted).expect("JSON is text");
    digest(&text, 10)
}

fn generated(wanted: &Value) -> Vec<String> {
    let keys = wanted["metadata"]["annotations"][GENERATE_ANNOTATION].as_str().unwrap_or_default();
    keys.split(',').filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

/// Whether nobody took one of those keys away.
fn has_generated(live: &Value, wanted: &Value) -> bool {
    generated(wanted).iter().all(|key| live["data"][key].is_string())
}

/// A Secret that asks for it gets random text under the keys that it names: once, and the same ever after.
fn fill_generated(wanted: &mut Value, live: Option<&Value>) {
    for key in generated(wanted) {
        let kept = live.and_then(|live| live["data"].get(&key)).filter(|value| value.is_string()).cloned();
        // Not as stringData, which server-side apply does not keep track of.
        wanted["data"][&key] =
            kept.unwrap_or_else(|| json!(BASE64_STANDARD.encode(hex::encode(rand::random::<[u8; 32]>()))));
    }
}

#[cfg(test)]
mod tests {
    use super::super::stub;
    use super::*;

    #[tokio::test]
    async fn what_a_stack_has_is_known_before_its_own_turn_comes() {
        let owner = |name: &str| json!([{"apiVersion": "platform.dev/v1", "kind": "AIStack", "name": name, "uid": "1", "controller": true}]);
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "vectorforge", "namespace": "n",
            "generation": 1, "ownerReferences": owner("stack")}, "spec": {"replicas": 1},
            "status": {"replicas": 1, "readyReplicas": 1, "observedGeneration": 1}});
        let (cluster, _) = stub::cluster(200, &set);
        let key = ChildKey { kind: ChildKind::StatefulSet, object: ObjectName::new("n", "vectorforge") };
        for (stack, ready) in [("stack", Some(1)), ("another", None)] {
            let found = look_at_anothers(&cluster, (Kind::AIStack, stack), &key).await.expect("it is read");
            let pods = found
                .and_then(|found| if let Progress::Pods(pods) = found { Some(pods.ready) } else { None });
            assert_eq!(pods, ready, "{stack}");
        }
    }

    #[tokio::test]
    async fn what_only_scales_makes_no_pod_anew() {
        let (cluster, _) = stub::cluster(200, &json!({}));
        let parent = Parent {
            namespace: "n".to_owned(),
            reference: OwnerReference::default(),
            is_new: false,
            brings: Vec::new(),
            edition: String::new(),
        };
        let key = ChildKey { kind: ChildKind::StatefulSet, object: ObjectName::new("n", "kv") };
        let set = |change: &str, value: Value| {
            let mut set = json!({"metadata": {"name": "kv"}, "spec": {"ordinals": {"start": 1}, "replicas": 3,
                "template": {"spec": {"containers": [{"name": "c", "image": "a"}]}}, "updateStrategy": {"type": "OnDelete"}}});
            *set.pointer_mut(change).expect("a field") = value;
            set
        };
        let child = |wanted: Value| Child::new(&cluster, &parent, &key, wanted);
        let image = "/spec/template/spec/containers/0/image";
        let live = child(set("/spec/replicas", json!(3))).wanted;
        let table = [
            ("/spec/replicas", json!(5), false),
            ("/spec/ordinals", Value::Null, false),
            ("/spec/updateStrategy/type", json!("RollingUpdate"), false),
            (image, json!("b"), true),
            ("/spec/template/spec", json!({"containers": []}), true),
        ];
        for (change, value, expected) in table {
            assert_eq!(child(set(change, value)).makes_pods_anew(&live), expected, "{change}");
        }
        let mut edited = live.clone();
        *edited.pointer_mut(image).expect("a field") = json!("somebody's");
        assert!(child(set("/spec/replicas", json!(5))).makes_pods_anew(&edited), "it would be changed back");
        let mut of_before = live;
        of_before["metadata"]["annotations"].as_object_mut().expect("annotations").shift_remove(PODS);
        assert!(child(set("/spec/replicas", json!(5))).makes_pods_anew(&of_before), "nobody knows");
    }

    #[test]
    fn generated_text_is_made_once() {
        let wanted = || json!({"metadata": {"annotations": {GENERATE_ANNOTATION: "admin-key,other"}}});
        let mut first = wanted();
        fill_generated(&mut first, None);
        let text = first["data"]["admin-key"].as_str().expect("text");
        assert_eq!(BASE64_STANDARD.decode(text).expect("base64").len(), 64);
        assert_ne!(first["data"]["other"], first["data"]["admin-key"]);
        let mut second = wanted();
        fill_generated(&mut second, Some(&json!({"data": {"admin-key": "a2VwdA=="}})));
        assert_eq!(second["data"]["admin-key"], "a2VwdA==");
        assert!(second["data"]["other"].is_string());
        let mut none = json!({"metadata": {}});
        fill_generated(&mut none, None);
        assert!(none.get("data").is_none());
    }

    #[test]
    fn the_hash_is_of_what_is_wanted() {
        assert_eq!(hash(&json!({"a": 1})), hash(&json!({"a": 1})));
        assert_ne!(hash(&json!({"a": 1})), hash(&json!({"a": 2})));
    }
}
