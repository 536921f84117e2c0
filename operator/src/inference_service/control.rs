//! The controller of InferenceServices.

use std::sync::Arc;

use aistack_api::engine::base_url;
use aistack_api::traffic::{TrafficRoute, TrafficState};
use aistack_crds::inference_service::Rollout;
use aistack_crds::{AIStack, InferenceService, Kind};
use kube::Resource as _;

use super::build::{Surroundings, build_in};
use super::fetch::Registry;
use super::found::{Found, RouteFound};
use super::version::Version;
use super::{Engine, ValidatedInferenceService, report as said, rollout, route, scaling, sweep, validate};
use crate::aistack;
use crate::hub::{Hub, HubError};
use crate::kernel::apply::Applied;
use crate::kernel::child::{ChildKey, ChildKind, Holder, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::Report;
use crate::kernel::controller::StepError;
use crate::kernel::references::Reference;
use crate::kernel::watch::{Objects, holder};
use crate::kernel::{Controller, ObjectName};
use crate::manifest::Manifests;
use crate::probe;
use crate::problem::Problem;
use crate::report;

/// Name of the finalizer of a service that ModelHub has a route for.
const FINALIZER: &str = "platform.dev/inferenceservice";

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct InferenceController {
    stacks: Arc<Objects<AIStack>>,
    prometheus: Option<String>,
}

impl InferenceController {
    /// With the stacks whose ModelHubs lead requests, and the address at which KEDA finds Prometheus.
    pub fn new(stacks: Arc<Objects<AIStack>>, prometheus: Option<String>) -> Self {
        Self { stacks, prometheus }
    }

    fn stack(&self, object: &InferenceService) -> Option<Arc<AIStack>> {
        let stack = self.stacks.get(&ObjectName::new(report::namespace(object), stack_name(object)?))?;
        (object.spec.stack_ref.is_some() || is_child(object, &stack)).then_some(stack)
    }
}

/// Whether ModelHub may have a route of the service.
fn is_marked(object: &InferenceService) -> bool {
    object.metadata.finalizers.iter().flatten().any(|set| set == FINALIZER)
}

/// The stack whose ModelHub leads requests to a service: the one that it names, or that made it. A label says nothing: tools that
/// apply manifests set `part-of` for their own purposes.
fn stack_name(object: &InferenceService) -> Option<String> {
    let made_by = || maker(object).map(|stack| stack.name.clone());
    object.spec.stack_ref.as_ref().map(|stack| stack.name.clone()).or_else(made_by)
}

fn maker(object: &InferenceService) -> Option<Holder> {
    holder(&object.metadata).filter(|holder| holder.is(Kind::AIStack))
}

/// Whether the stack made the service.
fn is_child(object: &InferenceService, stack: &AIStack) -> bool {
    maker(object).is_some_and(|maker| Some(&maker.uid) == stack.metadata.uid.as_ref())
}

/// A model that the stack's hub leads to a child of the stack is nobody else's: a route would go before its configuration.
fn must_not_take(object: &InferenceService, model: &str, stack: &AIStack) -> Result<(), Problem> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let mut children = aistack::models(stack).into_iter().filter(|(_, own)| *own == model).peekable();
    if children.peek().is_none() || (is_child(object, stack) && children.any(|(child, _)| child == name)) {
        return Ok(());
    }
    let stack = stack.metadata.name.as_deref().unwrap_or_default();
    let what = format!("AIStack {stack} serves {model} itself, and requests for it would be led here");
    Err(Problem::new("spec.model.name", what, "give the model another name, or take it out of the stack"))
}

impl Controller for InferenceController {
    type Object = InferenceService;
    type Found = Found;
    type Validated = ValidatedInferenceService;

    const KIND: Kind = Kind::InferenceService;
    const LOOKS_AT_PODS: bool = true;

    fn references(&self, object: &InferenceService) -> Vec<Reference> {
        let name = |name: &str| ObjectName::new(report::namespace(object), name);
        let spec = &object.spec;
        let secrets = spec.secret_ref.iter().map(|key| &key.name);
        let secrets =
            secrets.chain(spec.tls.iter().map(|tls| &tls.secret_name)).chain(&spec.model.secret_name);
        let stack = stack_name(object);
        let stack = stack.iter().map(|stack| Reference::Object(Kind::AIStack, name(stack)));
        secrets.map(|secret| Reference::Secret(name(secret))).chain(stack).collect()
    }

    async fn dereference(&self, cluster: &Cluster, object: &InferenceService) -> Result<Found, StepError> {
        let mut found = Found::default();
        if let Some(endpoint) = &object.spec.endpoint {
            let url = format!("{}/v1/models", base_url(endpoint));
            let tls = object.spec.tls.as_ref();
            found.reached = Some(probe::http(cluster, &report::namespace(object), &url, tls).await);
        }
        found.hub = self.stack(object).and_then(|stack| Hub::of(&stack));
        if found.hub.is_none() && is_marked(object) {
            found.former_hub = self.hub_in(&report::namespace(object));
        }
        // What is wrong with it is said by the next step.
        if let Ok(service) = validate(object, "") {
            found.look(cluster, object, &service).await?;
            if let Some(hub) = found.any_hub().filter(|_| is_marked(object)) {
                found.left = sweep::look(cluster, hub, object, &service).await;
            }
        }
        Ok(found)
    }

    fn validate(
        &self,
        object: &InferenceService,
        found: &Found,
    ) -> Result<ValidatedInferenceService, Vec<Problem>> {
        let service = validate(object, "")?;
        if let Some(stack) = self.stack(object).filter(|_| service.needs_route()) {
            must_not_take(object, &service.model, &stack).map_err(|problem| vec![problem])?;
        }
        let scaling = object.spec.scaling.as_ref();
        if self.prometheus.is_none() && scaling.is_some_and(scaling::needs_prometheus) {
            return Err(vec![Problem::new(
                "spec.scaling.by",
                "is keda, which asks Prometheus for this metric, and the operator was not told where that is",
                "set the operator's prometheus_url (config.prometheus_url in the chart's values), or use metric: cpu, or leave by out",
            )]);
        }
        if !service.needs_route() || found.hub.is_some() {
            return Ok(service);
        }
        let spec = &object.spec;
        let path = match () {
            () if spec.canary.is_some() => "spec.canary",
            () if !spec.traffic.is_empty() => "spec.traffic",
            () if spec.model.version.is_some() => "spec.model.version",
            () if spec.stack_ref.is_some() => "spec.stackRef",
            () => "spec.scaling.minReplicas",
        };
        let what = match stack_name(object) {
            None => "needs a stack's ModelHub, which leads the requests and has the registry".to_owned(),
            Some(name) if self.stack(object).is_none() => {
                format!("needs ModelHub, and there is no AIStack {name} in this namespace")
            }
            Some(name) => format!("needs ModelHub, and AIStack {name} has none"),
        };
        let fix = "name an AIStack with a modelhub under spec.stackRef";
        let problem = Problem::new(path, what, fix);
        Err(vec![if stack_name(object).is_some() { problem.awaited() } else { problem }])
    }

    fn build(&self, service: &ValidatedInferenceService, found: &Found) -> Option<Manifests> {
        let registry = found.hub.as_ref().map(|hub| Registry {
            url: Hub::url_for_pods(),
            key: hub.key.clone(),
            image: hub.image.clone(),
        });
        let (is_asleep, has_device_class) = (found.is_asleep(service), found.has_device_class);
        let (begins_with, resting) = (found.begins_with(service), found.resting());
        let held = found.preloads.iter().filter(|preload| preload.is_awaited);
        let held = held.map(|preload| preload.version.clone()).collect();
        let autoscaled = found.children.iter().filter(|key| key.kind == ChildKind::HorizontalPodAutoscaler);
        let autoscaled = autoscaled.map(|key| key.object.name.clone()).collect();
        let prometheus = self.prometheus.clone();
        let around = Surroundings {
            registry,
            is_asleep,
            has_device_class,
            held,
            prometheus,
            autoscaled,
            resting,
            is_canary_under_way: found.is_canary_under_way(service),
            is_taking_over: found.is_taking_over(service),
            begins_with,
        };
        Some(build_in(service, &around))
    }

    /// What served until now stays until what is to serve takes over. Pods that nobody leads requests to, as those of a version that never
    /// started, hold no GPU meanwhile.
    fn kept(&self, service: &ValidatedInferenceService, found: &Found) -> Vec<ChildKey> {
        let (is_over, makes_room) = (found.has_taken_over(service), service.rollout == Rollout::InPlace);
        let is_idle = |key: &ChildKey| found.is_idle(service, &key.object.name);
        let stays = |key: &&ChildKey| match key.kind {
            ChildKind::Deployment => !is_over && !is_idle(key),
            // An autoscaler would call back what is to make room.
            ChildKind::HorizontalPodAutoscaler | ChildKind::ScaledObject => {
                !is_over && !makes_room && !is_idle(key)
            }
            _ => !is_over,
        };
        found.children.iter().filter(stays).cloned().collect()
    }

    async fn act(
        &self,
        cluster: &Cluster,
        object: &InferenceService,
        service: &ValidatedInferenceService,
        found: &Found,
        applied: &Applied,
    ) -> Result<(), StepError> {
        if let Some((old, new)) = found.change.as_ref().filter(|(old, new)| rollout::is_to_yield(old, new)) {
            rollout::give_way(cluster, &service.owner.namespace, old, new).await?;
            let told = format!("one pod fewer of {}: no node has room for one of {}", old.name, new.name);
            cluster.tell(&object.object_ref(&()), false, "MakingRoom", told).await;
        }
        let Some(hub) = found.any_hub() else { return Ok(()) };
        let is_renamed = found.is_renamed(service);
        // Under the name of before requests are led here until they are under the next one.
        if !is_renamed || (found.is_routed(service) && found.away(service).is_empty()) {
            settled(sweep::sweep(cluster, hub, &found.left).await)?;
        }
        let Some(wanted) = route::wanted(service).filter(|_| found.hub.is_some()) else { return Ok(()) };
        let before = match &found.route {
            RouteFound::NotAsked | RouteFound::Away(_) => return Ok(()),
            RouteFound::Absent => None,
            RouteFound::There(state) => Some(state.as_ref()),
        };
        let ours = before.filter(|_| found.taken_by(service).is_none());
        if let Some((state, rest)) =
            ours.and_then(|state| Some((state, route::without_stray(state, &wanted)?)))
        {
            return settled(hub.set(cluster, &service.model, &rest, Some(state)).await);
        }
        // Who sleeps has no pods before it is asked.
        let may_wait = wanted.hold.is_none() || !found.is_asleep(service);
        let is_early =
            found.is_outnumbered(service) || (is_renamed && may_wait && !is_rolled_out(service, applied));
        if found.is_routed(service) || found.taken_by(service).is_some() || is_early {
            return Ok(());
        }
        let awaited = found.awaited(service);
        let is_awaited = (before.is_some() || is_renamed) && !awaited.is_empty() && may_wait;
        let is_canary = |version: &&Version| {
            service.canary.as_ref().is_some_and(|canary| canary.version == version.target())
        };
        let wanted = match before {
            // The first route is there before the pods; its canary counts as away until it has some.
            None if !is_renamed && may_wait && awaited.iter().any(is_canary) => {
                route::but_canary(&TrafficRoute::default(), &wanted).unwrap_or(wanted)
            }
            _ if !is_awaited => wanted,
            Some(before) if awaited.iter().all(is_canary) => {
                let so_far = route::so_far(before, &wanted);
                let Some(others) = route::but_canary(&so_far, &wanted) else { return Ok(()) };
                others
            }
            _ => return Ok(()),
        };
        let led = match before.filter(|_| wanted.hold.is_none()) {
            Some(before) => lead_over(cluster, hub, &service.model, &wanted, before).await,
            None => hub.set(cluster, &service.model, &wanted, before).await,
        };
        settled(led)
    }

    fn report(&self, service: &ValidatedInferenceService, found: &Found, applied: &Applied) -> Report {
        let mut report = match &service.engine {
            Engine::External(endpoint) => said::external(service, endpoint, found),
            Engine::Tinyinfer(serving) | Engine::Vllm(serving) | Engine::Onnx(serving, _) => {
                said::of_versions(service, serving, found, applied)
            }
        };
        sweep::tell(&mut report, service, &found.left);
        report::with_gaps(report, service.gaps())
    }

    fn finalizer(&self, object: &InferenceService) -> Option<&'static str> {
        let needs = validate(object, "").is_ok_and(|service| service.needs_route());
        (needs || is_marked(object)).then_some(FINALIZER)
    }

    async fn clean_up(&self, cluster: &Cluster, object: &InferenceService) -> Result<(), StepError> {
        let namespace = report::namespace(object);
        let stack = self.stack(object).filter(|stack| stack.metadata.deletion_timestamp.is_none());
        // The spec may have named a stack before that it names no more.
        let hub = stack.and_then(|stack| Hub::of(&stack)).or_else(|| self.hub_in(&namespace));
        let Some(hub) = hub else { return Ok(()) };
        let server = ChildKey {
            kind: ChildKind::StatefulSet,
            object: ObjectName::new(namespace.as_str(), crate::aistack::HUB),
        };
        // A ModelHub that was never built has no routes.
        if cluster.children.meta(&server).is_none() {
            return Ok(());
        }
        let owner = route::owner(&namespace, object.metadata.name.as_deref().unwrap_or_default());
        let models = hub.models_of(cluster, &owner).await.map_err(|error| failed(&error))?;
        for model in models {
            hub.remove(cluster, &model).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// Whether all pods that are to answer are of this spec.
fn is_rolled_out(service: &ValidatedInferenceService, applied: &Applied) -> bool {
    let is_done = |version: &Version| {
        let child = applied.child(ChildKind::Deployment, &service.workload_name(version));
        child.is_some_and(|child| {
            child.is_as_wanted && matches!(&child.progress, Progress::Pods(pods) if pods.is_complete())
        })
    };
    service.serving().is_none() || service.answering().all(is_done)
}

/// Leads requests from what serves to what is to serve, once ModelHub reaches that: until then its new targets stand in the route beside
/// the old ones and get nothing.
async fn lead_over(
    cluster: &Cluster,
    hub: &Hub,
    model: &str,
    wanted: &TrafficRoute,
    before: &TrafficState,
) -> Result<(), HubError> {
    let now = match route::beside(&before.route, wanted) {
        None => Some(before.clone()),
        Some(both) => {
            hub.set(cluster, model, &both, Some(before)).await?;
            hub.route(cluster, model).await?
        }
    };
    let so_far = route::so_far(before, wanted);
    let gains = |(target, _): &(String, String)| route::gains(Some(&so_far), wanted, target);
    let reached = now.filter(|now| !route::away(now, wanted).iter().any(gains));
    match &reached {
        Some(now) => hub.set(cluster, model, wanted, Some(now)).await,
        None => Ok(()),
    }
}

impl InferenceController {
    /// The ModelHub of a namespace: there is one Service of that name.
    fn hub_in(&self, namespace: &str) -> Option<Hub> {
        let names = self.stacks.names().into_iter().filter(|name| name.namespace == namespace);
        let stacks = names.filter_map(|name| self.stacks.get(&name));
        let there = |stack: &Arc<AIStack>| stack.metadata.deletion_timestamp.is_none();
        stacks.filter(there).find_map(|stack| Hub::of(&stack))
    }
}

/// A ModelHub that is away is no failure of this turn: the report says so, and another turn comes.
fn settled(result: Result<(), HubError>) -> Result<(), StepError> {
    match result {
        Ok(()) | Err(HubError::Away(_) | HubError::Changed) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &HubError) -> StepError {
    let reason = match error {
        HubError::Away(_) => "GatewayAway",
        HubError::Refused(_) => "GatewayRefused",
        HubError::Changed => "RouteChanged",
    };
    StepError { reason, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stack(uid: &str) -> AIStack {
        let stack = json!({"apiVersion": "platform.dev/v1", "kind": "AIStack",
            "metadata": {"name": "prod", "namespace": "team", "uid": uid},
            "spec": {"tinyinfer": {"model": "base", "embedding": {"model": "small"}}, "modelhub": {}}});
        serde_json::from_value(stack).expect("an AIStack")
    }

    fn service(name: &str, meta: &Value, spec: &Value) -> InferenceService {
        let mut object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService", "metadata": meta, "spec": spec});
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("team");
        serde_json::from_value(object).expect("an InferenceService")
    }

    fn owned_by(api_version: &str, uid: &str) -> Value {
        json!({"ownerReferences": [{"apiVersion": api_version, "kind": "AIStack", "name": "prod", "uid": uid, "controller": true}]})
    }

    #[test]
    fn a_service_is_part_of_the_stack_that_made_it_or_that_it_names() {
        let stacks = Arc::<Objects<AIStack>>::default();
        stacks.insert(stack("u"));
        let controller = InferenceController::new(stacks, None);
        let spec = json!({"model": {"name": "m"}});
        let named = json!({"model": {"name": "m"}, "stackRef": {"name": "prod"}});
        let table = [
            (json!({"labels": {"app.kubernetes.io/part-of": "prod"}}), &spec, false),
            (owned_by("platform.dev/v1", "u"), &spec, true),
            (owned_by("platform.dev/v1", "an earlier one"), &spec, false),
            (owned_by("example.com/v1", "u"), &spec, false),
            (json!({}), &named, true),
        ];
        for (meta, spec, is_part) in table {
            let object = service("x", &meta, spec);
            assert_eq!(controller.stack(&object).is_some(), is_part, "{meta} {spec}");
        }
    }

    #[test]
    fn keda_is_not_asked_to_ask_nobody() {
        let told = Some("http://prometheus:9090".to_owned());
        let table = [
            ("keda", "concurrency", None, false),
            ("keda", "tokens", None, false),
            ("keda", "cpu", None, true),
            ("hpa", "concurrency", None, true),
            ("keda", "concurrency", told, true),
        ];
        for (by, metric, prometheus, may) in table {
            let controller = InferenceController::new(Arc::default(), prometheus);
            let spec = json!({"model": {"name": "m"}, "resources": {"cpu": "1"},
                "scaling": {"maxReplicas": 3, "by": by, "metric": metric}});
            let judged = controller.validate(&service("x", &json!({}), &spec), &Found::default());
            assert_eq!(judged.is_ok(), may, "{by} {metric}");
        }
    }

    #[test]
    fn nobody_takes_a_stacks_own_model() {
        let stack = stack("u");
        let ours = || owned_by("platform.dev/v1", "u");
        let table = [
            ("chat", ours(), "base", true),
            ("embed", ours(), "small", true),
            ("thief", json!({}), "base", false),
            ("thief", ours(), "base", false),
            ("chat", json!({}), "base", false),
            ("embed", ours(), "base", false),
            ("other", json!({}), "another", true),
        ];
        for (name, meta, model, may) in table {
            let object = service(name, &meta, &json!({"model": {"name": model}}));
            let judged = must_not_take(&object, model, &stack);
            assert_eq!(judged.is_ok(), may, "{name} {meta} {model}");
        }
    }
}
