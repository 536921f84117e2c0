//! One reconciliation: the order of the steps, and what is said of each way that they end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aistack_crds::Kind;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde_json::json;
use tracing::Instrument as _;

use super::apply::{self, ApplyError, Tried};
use super::cluster::Cluster;
use super::conditions::{self, Report, Status};
use super::controller::{Controller, StepError, Typed};
use super::faults;
use super::held;
use super::images;
use super::key::{Key, ObjectName};
use super::parent::Parent;
use super::pending;
use super::queue::Outcome;
use super::references::Reference;
use super::stores;
use super::telemetry;
use super::watch::{self, Objects};
use crate::outside;

/// Annotation: nothing is done while it is `"true"`.
pub const PAUSED: &str = "platform.dev/paused";
/// Annotation of an object that is deleted: let it go although what it has outside Kubernetes could not be taken away.
pub const SKIP_CLEAN_UP: &str = "platform.dev/skip-cleanup";

/// When an object that nothing happened to is looked at again.
const RESYNC: Duration = Duration::from_mins(10);

/// Why a reconciliation ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReconcileError {
    /// A step of the kind's own.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A child, beside which the others and the kind's own steps went on.
    #[error("{source}")]
    Child {
        /// What went wrong first.
        source: ApplyError,
        /// When to look again at what goes on; `None`: nothing does.
        look_again: Option<Duration>,
    },
    /// The status could not be written.
    #[error("write the status: {}", apply::said(.0))]
    Status(#[source] Box<kube::Error>),
    /// A finalizer could not be set or taken away.
    #[error("change the finalizers: {}", apply::said(.0))]
    Finalizer(#[source] Box<kube::Error>),
}

impl ReconcileError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Step(step) => step.reason,
            Self::Child { source, .. } => source.reason(),
            Self::Status(_) => "StatusFailed",
            Self::Finalizer(_) => "FinalizerFailed",
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Child { look_again: Some(wait), .. } => Outcome::FailedInPart(*wait),
            _ => Outcome::Failed,
        }
    }
}

/// A controller of any kind.
pub(super) trait Reconciler: Send + Sync {
    /// One reconciliation of the object of this name.
    fn reconcile<'a>(&'a self, cluster: &'a Cluster, name: &'a ObjectName) -> BoxFuture<'a, Outcome>;
    /// Follows its kind.
    fn watch(&self, cluster: Arc<Cluster>) -> BoxFuture<'static, ()>;
    /// Names of its objects.
    fn names(&self) -> Vec<ObjectName>;
    /// Its kind.
    fn kind(&self) -> Kind;
}

impl<C: Controller> Reconciler for Typed<C> {
    fn reconcile<'a>(&'a self, cluster: &'a Cluster, name: &'a ObjectName) -> BoxFuture<'a, Outcome> {
        let span = tracing::info_span!("reconcile", kind = C::KIND.name(), namespace = %name.namespace, name = %name.name);
        self.measured(cluster, name).instrument(span).boxed()
    }

    fn watch(&self, cluster: Arc<Cluster>) -> BoxFuture<'static, ()> {
        watch::objects(C::KIND, cluster, self.objects.clone()).boxed()
    }

    fn names(&self) -> Vec<ObjectName> {
        self.objects.names()
    }

    fn kind(&self) -> Kind {
        C::KIND
    }
}

impl<C: Controller> Typed<C> {
    async fn measured(&self, cluster: &Cluster, name: &ObjectName) -> Outcome {
        let Some(object) = self.objects.get(name) else {
            self.repeats.ended(name);
            // A turn that ran while it was deleted may have noted them again.
            cluster.refers_no_more(&Key::new(C::KIND, name.clone()));
            return Outcome::Gone;
        };
        let began = Instant::now();
        cluster.metrics.began();
        let turn = Turn { cluster, controller: &self.controller, objects: &self.objects, object };
        let (outcome, result) = match turn.run().await {
            Ok(look_again) => {
                self.repeats.ended(name);
                (Outcome::Again(look_again), "success")
            }
            Err(error) => {
                if self.repeats.is_news(name, error.to_string(), Instant::now()) {
                    tracing::warn!(reason = error.reason(), %error, "not as it should be; it is tried again");
                }
                cluster.metrics.failed(C::KIND, error.reason());
                (error.outcome(), "error")
            }
        };
        cluster.metrics.ended(C::KIND, result, began.elapsed());
        outcome
    }
}

/// One object's turn.
struct Turn<'a, C: Controller> {
    cluster: &'a Cluster,
    controller: &'a C,
    objects: &'a Objects<C::Object>,
    object: Arc<C::Object>,
}

impl<C: Controller> Turn<'_, C> {
    async fn run(&self) -> Result<Duration, ReconcileError> {
        let meta = self.object.meta();
        if meta.deletion_timestamp.is_some() {
            return self.leave().await.map(|()| RESYNC);
        }
        if self.annotation(PAUSED) == Some("true") {
            self.say_paused().await?;
            return Ok(RESYNC);
        }
        if let Some(finalizer) = self.controller.finalizer(&self.object)
            && !self.object.finalizers().iter().any(|set| set == finalizer)
        {
            let mut finalizers = self.object.finalizers().to_vec();
            finalizers.push(finalizer.to_owned());
            self.set_finalizers(finalizers).await?;
        }
        let Ended { report, refused, failed } = self.steps().await;
        let look_again = report.look_again.unwrap_or(RESYNC);
        self.say(report).await?;
        if let Some(step) = failed {
            return Err(step.into());
        }
        let goes_on = faults::may_act(&refused).then_some(look_again);
        match refused.into_iter().next() {
            Some(source) => Err(ReconcileError::Child { source, look_again: goes_on }),
            None => Ok(look_again.mul_f64(0.9 + 0.2 * rand::random::<f64>())),
        }
    }

    /// The steps in their order.
    async fn steps(&self) -> Ended {
        let (cluster, controller, object) = (self.cluster, self.controller, self.object.as_ref());
        let references = controller.references(object);
        let mut missing = missing(cluster, &references);
        cluster.refers_also(&self.key(), &references);
        let found = controller.dereference(cluster, object).instrument(tracing::info_span!("dereference"));
        let found = match outside::step(found).await {
            Ok(found) => found,
            Err(step) => return self.failed(step),
        };
        let validated = match controller.validate(object, &found) {
            Ok(validated) => validated,
            // What runs keeps running: a mistake in an edit takes nothing away.
            Err(problems) => return Ended::of(faults::invalid(&problems, &self.status())),
        };
        let Tried { applied, refused, held } = match controller.build(&validated, &found) {
            Some(mut manifests) => {
                images::settle(&cluster.images, &mut manifests);
                telemetry::settle(cluster.pods_otlp_endpoint.as_deref(), &mut manifests);
                stores::settle(cluster.store_priority.as_deref(), &mut manifests);
                // What a Certificate is to bring is awaited with it.
                let brings = manifests.brings();
                missing.retain(|secret| !brings.contains(secret));
                self.refer(references, held::read_by(&mut manifests, &brings));
                let kept = controller.kept(&validated, &found);
                let parent = Parent { brings, ..self.parent() };
                let mut tried = apply::apply(cluster, &parent, &manifests, kept)
                    .instrument(tracing::info_span!("apply"))
                    .await;
                let are_seen = C::LOOKS_AT_PODS;
                let explained =
                    pending::explain(cluster, &parent, &manifests, &mut tried.applied, are_seen).await;
                tried.refused.extend(explained.err());
                tried
            }
            None => Tried::default(),
        };
        let mut failed = None;
        if faults::may_act(&refused) {
            let acted = controller.act(cluster, object, &validated, &found, &applied);
            failed = outside::step(acted.instrument(tracing::info_span!("act"))).await.err();
        }
        let mut report = controller.report(&validated, &found, &applied);
        if report.is_unseen {
            report = report.as_seen_last(&self.status());
        }
        let report = faults::lacking(report, missing, held);
        let report = faults::beside(report, &refused);
        Ended { report: failed.iter().fold(report, faults::undone), refused, failed }
    }

    /// Begins a turn when a Secret changes that the object or a pod of it refers to.
    fn refer(&self, mut references: Vec<Reference>, secrets: BTreeSet<String>) {
        let namespace = self.object.namespace().unwrap_or_default();
        let read =
            secrets.into_iter().map(|secret| Reference::Secret(ObjectName::new(namespace.as_str(), secret)));
        let read: Vec<Reference> = read.filter(|read| !references.contains(read)).collect();
        references.extend(read);
        self.cluster.refers(&self.key(), references);
    }

    /// A turn that could not see how the object fares.
    fn failed(&self, step: StepError) -> Ended {
        let report = Report::degraded(step.message.clone(), faults::because(&step));
        Ended { failed: Some(step), ..Ended::of(report.as_seen_last(&self.status())) }
    }

    fn key(&self) -> Key {
        Key::new(C::KIND, ObjectName::of(self.object.as_ref()))
    }

    fn parent(&self) -> Parent {
        let reference = self.object.controller_owner_ref(&()).expect("what a watch told of has name and uid");
        let namespace = self.object.namespace().unwrap_or_default();
        // A status that nobody wrote yet says -1.
        let is_new = self.status().observed_generation().is_none_or(|generation| generation < 0);
        let edition = Parent::edition(self.object.meta());
        Parent { namespace, reference, is_new, brings: Vec::new(), edition }
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.object.annotations().get(name).map(String::as_str)
    }

    fn api(&self) -> Api<C::Object> {
        Api::namespaced(self.cluster.client.clone(), &self.object.namespace().unwrap_or_default())
    }

    /// Takes away what is outside Kubernetes; the garbage collector takes the rest.
    async fn leave(&self) -> Result<(), ReconcileError> {
        let Some(finalizer) = self.controller.finalizer(&self.object) else { return Ok(()) };
        if !self.object.finalizers().iter().any(|set| set == finalizer) {
            return Ok(());
        }
        let cleaned = outside::step(self.controller.clean_up(self.cluster, &self.object)).await;
        if let Err(error) = cleaned {
            if self.annotation(SKIP_CLEAN_UP) != Some("true") {
                let note = format!(
                    "{}; to delete the object all the same: kubectl annotate {} {} -n {} {SKIP_CLEAN_UP}=true",
                    error.message,
                    C::KIND.name().to_lowercase(),
                    self.object.name_any(),
                    self.object.namespace().unwrap_or_default(),
                );
                self.cluster.tell(&self.about(), true, error.reason, note).await;
                return Err(error.into());
            }
            tracing::warn!(%error, "let go as its annotation asks, although not all was taken away");
        }
        let finalizers = self.object.finalizers().iter().filter(|set| *set != finalizer).cloned().collect();
        self.set_finalizers(finalizers).await
    }

    async fn set_finalizers(&self, finalizers: Vec<String>) -> Result<(), ReconcileError> {
        let meta = self.object.meta();
        // Others set finalizers too: the list is only replaced while it is the one that was read.
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": meta.resource_version}});
        let name = self.object.name_any();
        let patched = self.api().patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        match patched {
            Ok(object) => {
                self.objects.wrote(meta.resource_version.as_deref().unwrap_or_default(), object);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(ReconcileError::Finalizer(Box::new(error))),
        }
    }

    async fn say(&self, report: Report) -> Result<(), ReconcileError> {
        self.write(report).instrument(tracing::info_span!("status")).await
    }

    async fn write(&self, report: Report) -> Result<(), ReconcileError> {
        let before = self.status();
        let generation = self.object.meta().generation;
        if report.is_passing && before.observed_generation() == generation {
            return Ok(());
        }
        let conditions = conditions::conditions(&report, before.conditions(), generation, Timestamp::now());
        let status =
            <C::Object as kube::core::object::HasStatus>::Status::of(generation, conditions, &report);
        self.write_status(&before, &status).await?;
        self.tell_of_turn(before.conditions(), &report).await;
        Ok(())
    }

    async fn say_paused(&self) -> Result<(), ReconcileError> {
        let before = self.status();
        let generation = self.object.meta().generation;
        let conditions = conditions::paused(before.conditions(), generation, Timestamp::now());
        self.write_status(&before, &before.with_conditions(conditions)).await
    }

    fn status(&self) -> <C::Object as kube::core::object::HasStatus>::Status {
        use kube::core::object::HasStatus as _;
        // The object may have been written by us a moment ago, in an earlier step of this turn.
        let name = ObjectName::of(self.object.as_ref());
        let newest = self.objects.get(&name).unwrap_or_else(|| self.object.clone());
        newest.status().cloned().unwrap_or_default()
    }

    async fn write_status<S: Status>(&self, before: &S, status: &S) -> Result<(), ReconcileError> {
        if before == status {
            return Ok(());
        }
        let name = ObjectName::of(self.object.as_ref());
        let base = self.objects.get(&name).and_then(|object| object.resource_version()).unwrap_or_default();
        let patch = json!({
            "apiVersion": C::Object::api_version(&()),
            "kind": C::Object::kind(&()),
            "metadata": {"uid": self.object.meta().uid},
            "status": status,
        });
        match self.api().patch_status(&name.name, &apply::applying(), &Patch::Apply(&patch)).await {
            Ok(object) => {
                self.objects.said(&base, object);
                Ok(())
            }
            // It was deleted meanwhile: nobody is there to be told.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(ReconcileError::Status(Box::new(error))),
        }
    }

    /// An Event when it becomes ready or something is wrong, so that `kubectl describe` tells the story. What is merely under way
    /// is in the conditions; of steps that matter the kinds tell themselves.
    async fn tell_of_turn(
        &self,
        before: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
        report: &Report,
    ) {
        let (is_ready, because) = &report.ready;
        let earlier = before.iter().find(|condition| condition.type_ == "Ready");
        let word = if *is_ready { "True" } else { "False" };
        if earlier.is_some_and(|earlier| earlier.reason == because.reason && earlier.status == word) {
            return;
        }
        let is_bad = report.degraded.as_ref().is_some_and(|degraded| degraded.reason == because.reason);
        if !is_ready && !is_bad {
            return;
        }
        self.cluster.tell(&self.about(), is_bad, because.reason, because.message.clone()).await;
    }

    fn about(&self) -> ObjectReference {
        self.object.object_ref(&())
    }
}

/// How the steps of a turn ended.
struct Ended {
    report: Report,
    /// Children that are not as they should be.
    refused: Vec<ApplyError>,
    /// A step of the kind's own that failed.
    failed: Option<StepError>,
}

impl Ended {
    fn of(report: Report) -> Self {
        Self { report, refused: Vec::new(), failed: None }
    }
}

/// Secrets that are referred to and not there.
fn missing(cluster: &Cluster, references: &[Reference]) -> Vec<String> {
    let is_missing = |reference: &&Reference| match reference {
        Reference::Secret(secret) => !cluster.has_secret(secret),
        Reference::Object(..) => false,
    };
    let name = |reference: &Reference| match reference {
        Reference::Secret(name) | Reference::Object(_, name) => name.name.clone(),
    };
    references.iter().filter(is_missing).map(name).collect()
}
