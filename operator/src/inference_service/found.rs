//! What is there beside an InferenceService: its versions' pods, what ModelHub does with requests, and what a change waits for.

use aistack_api::traffic::{CanaryPhase, TrafficState};
use aistack_crds::InferenceService;
use aistack_crds::inference_service::Rollout;
use k8s_openapi::api::resource::v1::DeviceClass;
use kube::Api;

use super::build::owner_of;
use super::pods::{self, Trouble};
use super::preload::{self, Preload};
use super::rollout::Crew;
use super::sweep::Left;
use super::validate::{Scale, url_of};
use super::version::Version;
use super::{ValidatedInferenceService, route, scaling};
use crate::gpu::DEVICE_CLASS;
use crate::hub::Hub;
use crate::kernel::ObjectName;
use crate::kernel::apply::{self, said as said_by};
use crate::kernel::child::{ChildKey, ChildKind, Pods, Progress};
use crate::kernel::cluster::{Cluster, Scope};
use crate::kernel::controller::StepError;
use crate::probe::Reached;
use crate::report;

/// What is there beside the object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Whether a server of somebody else's answers.
    pub(super) reached: Option<Reached>,
    /// The ModelHub that leads requests here.
    pub(super) hub: Option<Hub>,
    /// The one that may have led them here before the spec named no stack any more.
    pub(super) former_hub: Option<Hub>,
    /// What it does with them.
    pub(super) route: RouteFound,
    /// What it does with them still by an earlier spec.
    pub(super) left: Left,
    /// All children.
    pub(super) children: Vec<ChildKey>,
    /// Versions with a pod that is ready, and those whose Deployment wants no pods.
    ready: Vec<Version>,
    resting: Vec<Version>,
    /// Whether the present version's Deployment is there.
    is_built: bool,
    /// What keeps pods from being ready.
    pub(super) trouble: Trouble,
    /// What became of weights that are to be on nodes before pods are.
    pub(super) preloads: Vec<Preload>,
    /// Whether the cluster hands GPUs out by claims, where somebody has to know.
    pub(super) has_device_class: bool,
    /// Pods of the present version, and of what the spec names no more and that is there still.
    present: Pods,
    outgoing: Vec<Former>,
    /// Where it was served when it was told last.
    served_at: Option<String>,
    /// Pods of what was there before and of what is to serve, where one takes the other's place.
    pub(super) change: Option<(Crew, Crew)>,
}

/// A version, or a runtime, that the spec names no more and whose Deployment is there still.
#[derive(Clone, Debug, Default, PartialEq)]
struct Former {
    name: String,
    pods: Pods,
}

/// A route, as ModelHub has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RouteFound {
    /// Nobody was asked.
    #[default]
    NotAsked,
    /// Nobody answered.
    Away(String),
    /// There is none.
    Absent,
    /// There is one.
    There(Box<TrafficState>),
}

impl Found {
    /// The ModelHub that may have routes of the service.
    pub(super) fn any_hub(&self) -> Option<&Hub> {
        self.hub.as_ref().or(self.former_hub.as_ref())
    }

    fn state(&self) -> Option<&TrafficState> {
        match &self.route {
            RouteFound::There(state) => Some(state),
            _ => None,
        }
    }

    /// Whether the service is to have no pods.
    pub(super) fn is_asleep(&self, service: &ValidatedInferenceService) -> bool {
        let Some(bounds) = service.serving().and_then(|serving| serving.scale.sleeps()) else { return false };
        let was = self.is_built.then(|| self.resting.contains(&service.versions[0]));
        match &self.route {
            // Before there is a route nobody can have asked: a new one begins asleep.
            RouteFound::Absent => return was.unwrap_or(true),
            // ModelHub tells of requests once it may hold them.
            RouteFound::There(state) if state.route.hold.is_none() => return was.unwrap_or(false),
            _ => {}
        }
        scaling::is_to_sleep(was, self.state(), bounds.idle_seconds)
    }

    /// Whether ModelHub does with requests what it is to do.
    pub(super) fn is_routed(&self, service: &ValidatedInferenceService) -> bool {
        match route::wanted(service) {
            None => true,
            Some(wanted) => self.state().is_some_and(|state| state.route == wanted),
        }
    }

    /// Versions that are to answer and that ModelHub does not reach, with its words; of a service that may sleep none: it has no pods on
    /// purpose.
    pub(super) fn away(&self, service: &ValidatedInferenceService) -> Vec<(String, String)> {
        let (Some(state), Some(wanted)) = (self.state(), route::wanted(service)) else { return Vec::new() };
        if wanted.hold.is_some() || self.taken_by(service).is_some() {
            return Vec::new();
        }
        route::away(state, &wanted)
    }

    /// Somebody else's route for the same model.
    pub(super) fn taken_by(&self, service: &ValidatedInferenceService) -> Option<&str> {
        let wanted = route::wanted(service)?;
        self.state().map(|state| state.route.owner.as_str()).filter(|owner| *owner != wanted.owner)
    }

    /// Whether what served until now has more pods than the version that takes its place, which is to have more.
    pub(super) fn is_outnumbered(&self, service: &ValidatedInferenceService) -> bool {
        let served = self.outgoing.iter().map(|former| former.pods.ready).max().unwrap_or(0);
        let to_come = if self.present.wanted == 0 { None } else { self.succeeds(service) };
        self.present.ready < served.min(self.present.wanted.max(to_come.unwrap_or(0)))
    }

    /// How many pods the present version is to have before it takes the place of those that serve, where an autoscaler decides: as many as
    /// they have. A canary that has everything has what it needs.
    fn succeeds(&self, service: &ValidatedInferenceService) -> Option<i32> {
        let Some(Scale::Auto(bounds)) = service.serving().map(|serving| &serving.scale) else { return None };
        let has_everything = self.state().is_some_and(|state| {
            let target = state.route.canary.as_ref().map(|plan| plan.target.as_str());
            let phase = state.canary.as_ref().map(|canary| canary.phase);
            phase == Some(CanaryPhase::Succeeded) && target == Some(service.versions[0].target())
        });
        let served =
            self.serving(service).map(|former| former.pods.wanted).max().filter(|_| !has_everything)?;
        let least = bounds.min_replicas.max(1);
        Some(served.clamp(least, bounds.max_replicas.max(least)))
    }

    /// Whether the present version is to take the place of one that serves still.
    pub(super) fn is_taking_over(&self, service: &ValidatedInferenceService) -> bool {
        self.succeeds(service).is_some() && !self.has_taken_over(service)
    }

    /// Whether ModelHub leads requests over to a canary, and may lead all of them back at any time. While it does not say, one that the spec
    /// has may be under way.
    pub(super) fn is_canary_under_way(&self, service: &ValidatedInferenceService) -> bool {
        match &self.route {
            RouteFound::Away(_) => service.canary.is_some(),
            RouteFound::There(state) if self.taken_by(service).is_none() => {
                state.canary.as_ref().is_some_and(|canary| canary.phase == CanaryPhase::Running)
            }
            _ => false,
        }
    }

    /// Whether what is to serve does, so that what served before may go. Without a route nobody leads requests over: the new
    /// Service's name is told once its pods are ready.
    pub(super) fn has_taken_over(&self, service: &ValidatedInferenceService) -> bool {
        if route::wanted(service).is_some() {
            return self.is_routed(service);
        }
        self.serving(service).next().is_none()
            || (self.awaited(service).is_empty() && !self.is_outnumbered(service))
    }

    /// Whether a workload is of a version, or a runtime, that the spec names no more, and requests are led elsewhere.
    pub(super) fn is_idle(&self, service: &ValidatedInferenceService, workload: &str) -> bool {
        self.outgoing.iter().any(|former| former.name == workload)
            && self.serving(service).all(|former| former.name != workload)
    }

    /// What the spec names no more and still gets requests, as far as is known.
    fn serving(&self, service: &ValidatedInferenceService) -> impl Iterator<Item = &Former> {
        let wanted = route::wanted(service);
        self.outgoing.iter().filter(move |former| match (&wanted, self.state()) {
            (None, _) => self.served_at.as_deref() == Some(&url_of(&former.name)),
            (Some(wanted), Some(state)) if state.route.owner == wanted.owner => {
                route::leads_to(&state.route, &url_of(&former.name))
            }
            (Some(_), _) => true,
        })
    }

    /// What serves with ready pods until what is to serve takes over.
    pub(super) fn meanwhile(&self, service: &ValidatedInferenceService) -> Option<&str> {
        let is_led = !service.needs_route() || (self.state().is_some() && self.taken_by(service).is_none());
        let serving = self.serving(service).filter(|former| is_led && former.pods.ready > 0);
        serving.map(|former| former.name.as_str()).min().filter(|_| !self.has_taken_over(service))
    }

    /// Where it is served: where it was, until what is to serve takes over.
    pub(super) fn endpoint(&self, service: &ValidatedInferenceService) -> String {
        let is_there = |at: &&String| self.outgoing.iter().any(|former| url_of(&former.name) == **at);
        let before = self.served_at.as_ref().filter(is_there).filter(|_| !self.has_taken_over(service));
        before.cloned().unwrap_or_else(|| service.endpoint())
    }

    /// How many pods the version is given that takes the place of others and has fewer, where an autoscaler is to have its say later.
    pub(super) fn begins_with(&self, service: &ValidatedInferenceService) -> Option<i32> {
        let pods = self.succeeds(service).filter(|_| !self.has_taken_over(service))?;
        (!self.is_built || self.present.wanted < pods).then_some(pods)
    }

    /// Versions that requests must not be led to yet: none of their pods is ready, or somebody else's server does not answer. What they get
    /// already they may keep: a route away from one that died does not wait for it.
    pub(super) fn awaited<'a>(&self, service: &'a ValidatedInferenceService) -> Vec<&'a Version> {
        let is_there = |version: &Version| match service.serving() {
            Some(_) => self.ready.contains(version),
            None => self.reached == Some(Reached::Yes),
        };
        let wanted = route::wanted(service);
        let before = self.state().filter(|_| self.taken_by(service).is_none());
        let gains = |version: &Version| {
            wanted.as_ref().is_none_or(|wanted| {
                let so_far = before.map(|state| route::so_far(state, wanted));
                route::gains(so_far.as_ref(), wanted, version.target())
            })
        };
        service.answering().filter(|version| gains(version) && !is_there(version)).collect()
    }

    /// Whether the service's model has another name than before, under which requests are led here still, or may be.
    pub(super) fn is_renamed(&self, service: &ValidatedInferenceService) -> bool {
        let is_left = matches!(self.left, Left::Models(_) | Left::Away(_));
        is_left && service.needs_route() && self.hub.is_some()
    }

    /// Versions that are there and whose Deployments want no pods.
    pub(super) fn resting(&self) -> Vec<Version> {
        self.resting.clone()
    }

    /// What the canary came to.
    pub(super) fn canary(&self, service: &ValidatedInferenceService) -> Option<CanaryPhase> {
        service.canary.as_ref()?;
        self.is_routed(service).then(|| self.state()?.canary.as_ref().map(|state| state.phase)).flatten()
    }

    /// Looks at the versions' pods, at what is on nodes for them, and at what ModelHub does.
    pub(super) async fn look(
        &mut self,
        cluster: &Cluster,
        object: &InferenceService,
        service: &ValidatedInferenceService,
    ) -> Result<(), StepError> {
        let namespace = report::namespace(object);
        let uid = object.metadata.uid.clone().unwrap_or_default();
        self.children = cluster.children.of(&namespace, &uid).into_iter().map(|(key, _)| key).collect();
        self.served_at = object.status.as_ref().and_then(|status| status.endpoint.clone());
        for (i, version) in service.versions.iter().enumerate() {
            let name = ObjectName::new(namespace.as_str(), service.workload_name(version));
            let key = ChildKey { kind: ChildKind::Deployment, object: name };
            if !self.children.contains(&key) {
                continue;
            }
            let Some(Progress::Pods(pods)) = apply::look(cluster, object, &key).await? else { continue };
            if i == 0 {
                (self.is_built, self.present) = (true, pods.clone());
            }
            if pods.ready > 0 {
                self.ready.push(version.clone());
            }
            if pods.wanted == 0 {
                self.resting.push(version.clone());
            } else if !pods.is_complete() {
                let owner = owner_of(service, version);
                self.trouble = pods::ask(cluster, &owner).await?.or(std::mem::take(&mut self.trouble));
            }
        }
        self.look_at_outgoing(cluster, object, service).await?;
        let is_built = |version: &Version| {
            let name = service.workload_name(version);
            self.children.iter().any(|key| key.kind == ChildKind::Deployment && key.object.name == name)
        };
        self.preloads = preload::look(cluster, object, service, is_built).await?;
        if service.serving().is_some_and(|serving| serving.gpu.is_open()) {
            self.has_device_class = has_device_class(cluster).await?;
        }
        if let Some(hub) = self.hub.as_ref().filter(|_| service.needs_route()) {
            self.route = match hub.route(cluster, &service.model).await {
                Ok(Some(state)) => RouteFound::There(Box::new(state)),
                Ok(None) => RouteFound::Absent,
                Err(error) => RouteFound::Away(error.to_string()),
            };
        }
        self.look_at_change(cluster, service).await
    }

    /// Deployments of versions, or of a runtime, that the spec names no more.
    fn former(&self, service: &ValidatedInferenceService) -> Vec<ChildKey> {
        let names: Vec<String> =
            service.versions.iter().map(|version| service.workload_name(version)).collect();
        let is_former =
            |key: &&ChildKey| key.kind == ChildKind::Deployment && !names.contains(&key.object.name);
        self.children.iter().filter(is_former).cloned().collect()
    }

    async fn look_at_outgoing(
        &mut self,
        cluster: &Cluster,
        object: &InferenceService,
        service: &ValidatedInferenceService,
    ) -> Result<(), StepError> {
        for key in &self.former(service) {
            if let Some(Progress::Pods(pods)) = apply::look(cluster, object, key).await? {
                self.outgoing.push(Former { name: key.object.name.clone(), pods });
            }
        }
        Ok(())
    }

    /// What is to give way next: of what still gets requests and has pods, those without a ready one first.
    fn next_to_go(&self, service: &ValidatedInferenceService) -> Option<&str> {
        let with_pods = self.serving(service).filter(|former| former.pods.wanted > 0);
        with_pods
            .min_by_key(|former| (former.pods.ready > 0, &former.name))
            .map(|former| former.name.as_str())
    }

    /// Counts the pods of both while one takes the other's place.
    async fn look_at_change(
        &mut self,
        cluster: &Cluster,
        service: &ValidatedInferenceService,
    ) -> Result<(), StepError> {
        let is_unknown = service.needs_route() && self.state().is_none();
        if service.rollout != Rollout::InPlace || is_unknown || self.has_taken_over(service) {
            return Ok(());
        }
        let Some(old) = self.next_to_go(service) else { return Ok(()) };
        let name = |name: String| ObjectName::new(service.owner.namespace.as_str(), name);
        let (old, new) = (name(old.to_owned()), name(service.workload_name(&service.versions[0])));
        self.change = Some((Crew::of(cluster, &old).await?, Crew::of(cluster, &new).await?));
        Ok(())
    }
}

/// Whether the cluster has NVIDIA's class of devices. One that the operator may not look at it in has none for it; an operator of one
/// namespace does not ask, since no Role can let it.
async fn has_device_class(cluster: &Cluster) -> Result<bool, StepError> {
    if matches!(cluster.scope, Scope::Namespace(_)) {
        return Ok(false);
    }
    let api: Api<DeviceClass> = Api::all(cluster.client.clone());
    match api.get_opt(DEVICE_CLASS).await {
        Ok(class) => Ok(class.is_some()),
        Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => Ok(false),
        Err(error) => Err(StepError {
            reason: "ReadFailed",
            message: format!("the DeviceClass {DEVICE_CLASS} could not be read: {}", said_by(&error)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use aistack_api::traffic::{CanaryPlan, CanaryState, HoldPolicy, TrafficRoute, TrafficTarget};
    use serde_json::{Value, json};

    use super::*;
    use crate::inference_service::{InferenceController, validate};
    use crate::kernel::{Controller as _, stub};

    fn service(spec: &Value) -> ValidatedInferenceService {
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService",
            "metadata": {"name": "one", "namespace": "team"}, "spec": spec});
        let object: InferenceService = serde_json::from_value(object).expect("an InferenceService");
        validate(&object, "").expect("valid")
    }

    fn pods(ready: i32, wanted: i32) -> Pods {
        Pods { wanted, ready, is_current: true, ..Pods::default() }
    }

    fn former(name: &str, ready: i32, wanted: i32) -> Former {
        Former { name: name.to_owned(), pods: pods(ready, wanted) }
    }

    /// What is kept of a service with these Deployments that the spec names no more.
    fn kept(service: &ValidatedInferenceService, found: &Found) -> Vec<String> {
        let key = |kind, name: &str| ChildKey { kind, object: ObjectName::new("team", name) };
        let of = |former: &Former| {
            [key(ChildKind::Deployment, &former.name), key(ChildKind::Service, &former.name)]
        };
        let children = found.outgoing.iter().flat_map(of).collect();
        let kept = InferenceController::default().kept(service, &Found { children, ..found.clone() });
        kept.iter().map(|key| format!("{} {}", key.kind.name(), key.object.name)).collect()
    }

    #[test]
    fn a_runtime_stays_until_the_next_one_has_as_many_ready_pods() {
        let service = service(&json!({"model": {"name": "m"}, "runtime": "vllm", "replicas": 2}));
        let all = ["Deployment tinyinfer-one", "Service tinyinfer-one"];
        let (old, new) = ("http://tinyinfer-one:8000", "http://vllm-one:8000");
        for (ready, kept_of_it, at) in [(0, &all[..], old), (1, &all, old), (2, &[], new)] {
            let found = Found {
                outgoing: vec![former("tinyinfer-one", 2, 2)],
                served_at: Some(old.to_owned()),
                is_built: true,
                present: pods(ready, 2),
                ready: service.versions.iter().take(usize::from(ready > 0)).cloned().collect(),
                ..Found::default()
            };
            assert_eq!(kept(&service, &found), kept_of_it, "{ready} of 2");
            assert_eq!(found.endpoint(&service), at, "{ready} of 2");
            let serves = (at == old).then_some("tinyinfer-one");
            assert_eq!(found.meanwhile(&service), serves, "{ready} of 2");
        }
    }

    #[test]
    fn a_server_of_somebody_elses_takes_over_once_it_answers() {
        let spec =
            json!({"model": {"name": "m"}, "runtime": "external", "endpoint": "https://llm.example.com"});
        let service = service(&spec);
        let found = |reached| Found {
            outgoing: vec![former("tinyinfer-one", 1, 1)],
            served_at: Some("http://tinyinfer-one:8000".to_owned()),
            reached: Some(reached),
            ..Found::default()
        };
        assert_eq!(kept(&service, &found(Reached::No("it is away".to_owned()))).len(), 2);
        let answers = found(Reached::Yes);
        assert!(kept(&service, &answers).is_empty());
        assert_eq!(answers.endpoint(&service), "https://llm.example.com");
    }

    fn led_to(targets: &[(&str, u32)]) -> RouteFound {
        let target = |(version, weight): &(&str, u32)| TrafficTarget {
            name: (*version).to_owned(),
            endpoint: url_of(&format!("vllm-one-v{version}")),
            weight: *weight,
            ..TrafficTarget::default()
        };
        let targets = targets.iter().map(target).collect();
        let route = TrafficRoute {
            targets,
            owner: "InferenceService team/one".to_owned(),
            ..TrafficRoute::default()
        };
        let (model, revision, held) = ("m".to_owned(), 1, 0);
        let state =
            TrafficState { model, revision, route, targets: Vec::new(), canary: None, held, idle_ms: None };
        RouteFound::There(Box::new(state))
    }

    #[test]
    fn requests_are_led_away_from_a_version_that_died() {
        let service = |first: i32| {
            service(&json!({"model": {"name": "m"}, "runtime": "vllm",
                "traffic": [{"version": "1", "percent": first}, {"version": "2", "percent": 100 - first}]}))
        };
        let route = led_to(&[("1", 50), ("2", 50)]);
        let found = Found { ready: vec![Version::named("2")], route, ..Found::default() };
        for (first, awaited) in [(0, ""), (20, ""), (50, ""), (60, "1")] {
            let service = service(first);
            let told: Vec<&str> = found.awaited(&service).into_iter().map(Version::target).collect();
            assert_eq!(told.join(" "), awaited, "{first} percent");
        }
        let anew = Found { route: RouteFound::Absent, ..found };
        assert_eq!(anew.awaited(&service(50)), [&Version::named("1")], "the first route");
    }

    #[test]
    fn a_version_that_never_served_makes_room_for_its_correction() {
        let spec = json!({"model": {"name": "m", "version": "3"}, "runtime": "vllm", "rollout": "inPlace",
            "gpu": {"count": 1}});
        let service = service(&spec);
        let (first, second) = (former("vllm-one-v1", 0, 0), former("vllm-one-v2", 0, 1));
        for outgoing in [vec![first.clone(), second.clone()], vec![second, first]] {
            // ModelHub looked whether it reaches the second.
            for route in [led_to(&[("1", 100)]), led_to(&[("1", 100), ("2", 0)])] {
                let found = Found { outgoing: outgoing.clone(), route, ..Found::default() };
                let mut kept = kept(&service, &found);
                kept.sort();
                let all = ["Deployment vllm-one-v1", "Service vllm-one-v1", "Service vllm-one-v2"];
                assert_eq!(kept, all, "the second one holds the GPU no more");
            }
            let away = RouteFound::Away("it is away".to_owned());
            let found = Found { outgoing: outgoing.clone(), route: away, ..Found::default() };
            assert_eq!(kept(&service, &found).len(), 4, "nobody knows who gets requests");
            let both = led_to(&[("1", 50), ("2", 50)]);
            let found = Found { outgoing, route: both, ..Found::default() };
            assert_eq!(found.next_to_go(&service), Some("vllm-one-v2"), "the first has no pods");
        }
        let outgoing = vec![former("vllm-one-v1", 1, 1), former("vllm-one-v2", 0, 1)];
        let both = led_to(&[("1", 50), ("2", 50)]);
        let found = Found { outgoing, route: both, ..Found::default() };
        assert_eq!(found.next_to_go(&service), Some("vllm-one-v2"), "it serves nobody");
        assert_eq!(found.meanwhile(&service), Some("vllm-one-v1"));
    }

    #[tokio::test]
    async fn an_operator_of_one_namespace_asks_for_no_class_of_devices() {
        for (scope, asked) in [(Scope::Cluster, 1), (Scope::Namespace("team".to_owned()), 0)] {
            let refused = json!({"kind": "Status", "status": "Failure", "code": 403, "message": "no", "reason": "Forbidden"});
            let (mut cluster, calls) = stub::cluster(403, &refused);
            cluster.scope = scope;
            assert!(!has_device_class(&cluster).await.expect("an answer"));
            assert_eq!(calls.lock().len(), asked, "{:?}", cluster.scope);
        }
    }

    #[test]
    fn requests_move_when_as_many_pods_take_them_as_took_them_before() {
        let fixed = service(&json!({"model": {"name": "m"}, "runtime": "vllm", "replicas": 4}));
        let table = [
            ("one of four", pods(1, 4), vec![pods(4, 4)], true),
            ("all of them", pods(4, 4), vec![pods(4, 4)], false),
            ("as many as are left", pods(3, 4), vec![pods(3, 4)], false),
            ("all that are wanted of it", pods(2, 2), vec![pods(4, 4)], false),
            ("nobody served", pods(0, 4), vec![], false),
            ("it sleeps", pods(0, 0), vec![pods(1, 1)], false),
        ];
        for (what, present, outgoing, expected) in table {
            let outgoing = outgoing.into_iter().map(|pods| Former { pods, ..Former::default() }).collect();
            let found = Found { present, outgoing, is_built: true, ..Found::default() };
            assert_eq!((found.is_outnumbered(&fixed), found.begins_with(&fixed)), (expected, None), "{what}");
        }
    }

    #[test]
    fn what_an_autoscaler_made_few_is_given_as_many_pods_as_what_it_replaces() {
        let scaled = |most: i32| {
            service(
                &json!({"model": {"name": "m", "version": "2"}, "runtime": "vllm", "stackRef": {"name": "s"},
                "scaling": {"minReplicas": 1, "maxReplicas": most}}),
            )
        };
        let found = |phase, present: Option<Pods>| {
            let mut route = led_to(&[("1", 100), ("2", 0)]);
            if let RouteFound::There(state) = &mut route {
                state.route.canary = Some(CanaryPlan {
                    target: "2".to_owned(),
                    steps: vec![100],
                    step_seconds: 1,
                    min_samples: 1,
                    max_error_permille: 1,
                    max_first_byte_ms: None,
                });
                state.canary = Some(of_phase(phase));
            }
            let (is_built, present) = (present.is_some(), present.unwrap_or_default());
            Found {
                outgoing: vec![former("vllm-one-v1", 5, 7)],
                route,
                is_built,
                present,
                ..Found::default()
            }
        };
        use CanaryPhase::{Running, Succeeded};
        let table = [
            ("it is not there yet", Running, None, 9, Some(7), false),
            ("no more than may be", Running, None, 3, Some(3), false),
            ("a canary with one pod is promoted", Running, Some(pods(1, 1)), 9, Some(7), true),
            ("its pods come", Running, Some(pods(4, 7)), 9, None, true),
            ("as many as serve", Running, Some(pods(5, 7)), 9, None, false),
            ("it takes everything already", Succeeded, Some(pods(1, 1)), 9, None, false),
        ];
        for (what, phase, present, most, begins_with, is_outnumbered) in table {
            let (service, found) = (scaled(most), found(phase, present));
            assert_eq!(found.begins_with(&service), begins_with, "{what}");
            assert_eq!(found.is_outnumbered(&service), is_outnumbered, "{what}");
            assert_eq!(found.is_taking_over(&service), phase == Running, "{what}");
        }
        let alone = Found { outgoing: Vec::new(), ..found(Running, Some(pods(1, 1))) };
        assert!(!alone.is_taking_over(&scaled(9)), "there is nothing to replace");
    }

    fn of_phase(phase: CanaryPhase) -> CanaryState {
        CanaryState { phase, step: 0, since_ms: 0, begun_ms: 0, reason: String::new() }
    }

    #[test]
    fn a_canary_is_under_way_as_long_as_nobody_says_that_it_is_not() {
        let of = |canary: bool| {
            let canary = canary.then(|| json!({"version": "2"}));
            service(
                &json!({"model": {"name": "m", "version": "1"}, "runtime": "vllm", "stackRef": {"name": "s"}, "canary": canary}),
            )
        };
        let there = |phase, owner: &str| {
            let mut route = led_to(&[("1", 100), ("2", 0)]);
            if let RouteFound::There(state) = &mut route {
                state.canary = Some(of_phase(phase));
                owner.clone_into(&mut state.route.owner);
            }
            route
        };
        let ours = "InferenceService team/one";
        let table = [
            ("it runs", there(CanaryPhase::Running, ours), true, true),
            (
                "the spec has it no more, and another route waits",
                there(CanaryPhase::Running, ours),
                false,
                true,
            ),
            ("it went back", there(CanaryPhase::RolledBack, ours), true, false),
            ("somebody else's", there(CanaryPhase::Running, "x"), true, false),
            ("nobody answers", RouteFound::Away(String::new()), true, true),
            ("nobody answers, and there is none", RouteFound::Away(String::new()), false, false),
            ("it has not begun", RouteFound::Absent, true, false),
        ];
        for (what, route, canary, expected) in table {
            let found = Found { route, ..Found::default() };
            assert_eq!(found.is_canary_under_way(&of(canary)), expected, "{what}");
        }
    }

    #[test]
    fn who_may_sleep_from_now_on_stays_awake_until_modelhub_tells_of_requests() {
        let service = service(&json!({"model": {"name": "m"}, "runtime": "vllm", "stackRef": {"name": "s"},
            "scaling": {"minReplicas": 0, "maxReplicas": 3}}));
        let with = |hold: Option<HoldPolicy>| {
            let mut route = led_to(&[("current", 100)]);
            if let RouteFound::There(state) = &mut route {
                state.route.hold = hold;
            }
            Found { is_built: true, route, ..Found::default() }
        };
        assert!(!with(None).is_asleep(&service));
        assert!(
            with(Some(HoldPolicy { deadline_ms: 1, max_requests: 1 })).is_asleep(&service),
            "nobody asked"
        );
    }
}
