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
use super::version::Version;
use super::{ValidatedInferenceService, route, scaling};
use crate::gpu::DEVICE_CLASS;
use crate::hub::Hub;
use crate::kernel::ObjectName;
use crate::kernel::apply::{self, said as said_by};
use crate::kernel::child::{ChildKey, ChildKind, Pods, Progress};
use crate::kernel::cluster::Cluster;
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
    /// All children.
    pub(super) children: Vec<ChildKey>,
    /// Versions with a pod that is ready, and those whose Deployment wants no pods.
    ready: Vec<Version>,
    resting: Vec<Version>,
    /// Whether the present version's Deployment is there.
    is_built: bool,
    /// Whether pods of a former template may be there still.
    pub(super) is_rolling: bool,
    /// What keeps pods from being ready.
    pub(super) trouble: Trouble,
    /// What became of weights that are to be on nodes before pods are.
    pub(super) preloads: Vec<Preload>,
    /// Whether the cluster hands GPUs out by claims, where somebody has to know.
    pub(super) has_device_class: bool,
    /// Pods of the present version, and of those that the spec names no more and that are there still.
    present: Pods,
    outgoing: Vec<Pods>,
    /// Pods of the version before and of this one, where one takes the other's place.
    pub(super) change: Option<(Crew, Crew)>,
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
        // Before there is a route nobody can have asked: a new one begins asleep.
        if self.route == RouteFound::Absent {
            return was.unwrap_or(true);
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
    pub(super) fn is_outnumbered(&self) -> bool {
        let served = self.outgoing.iter().map(|pods| pods.ready).max().unwrap_or(0);
        self.present.ready < served.min(self.present.wanted)
    }

    /// How many pods a version begins with that takes the place of others, where an autoscaler is to have its say later.
    pub(super) fn begins_with(&self) -> Option<i32> {
        self.outgoing.iter().map(|pods| pods.wanted).max().filter(|_| !self.is_built)
    }

    /// Versions that requests must not be led to yet: none of their pods is ready, or somebody else's server does not answer.
    pub(super) fn awaited<'a>(&self, service: &'a ValidatedInferenceService) -> Vec<&'a Version> {
        let is_there = |version: &Version| match service.serving() {
            Some(_) => self.ready.contains(version),
            None => self.reached == Some(Reached::Yes),
        };
        service.answering().filter(|version| !is_there(version)).collect()
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
            self.is_rolling |= !pods.is_complete();
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

    /// Deployments of versions that the spec names no more.
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
                self.outgoing.push(pods);
            }
        }
        Ok(())
    }

    /// Counts the pods of both versions while one takes the other's place.
    async fn look_at_change(
        &mut self,
        cluster: &Cluster,
        service: &ValidatedInferenceService,
    ) -> Result<(), StepError> {
        if service.rollout != Rollout::InPlace || self.state().is_none() || self.is_routed(service) {
            return Ok(());
        }
        let former = self.former(service);
        let Some(old) = former.first() else { return Ok(()) };
        let new = ObjectName::new(old.object.namespace.as_str(), service.workload_name(&service.versions[0]));
        let (old, new) = (Crew::of(cluster, &old.object).await?, Crew::of(cluster, &new).await?);
        self.change = Some((old, new));
        Ok(())
    }
}

/// Whether the cluster has NVIDIA's class of devices. One that the operator may not look at it in, as a namespace's own may not, has
/// none for it.
async fn has_device_class(cluster: &Cluster) -> Result<bool, StepError> {
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
    use super::*;

    #[test]
    fn requests_move_when_as_many_pods_take_them_as_took_them_before() {
        let pods = |ready: i32, wanted: i32| Pods { wanted, ready, ..Pods::default() };
        let table = [
            ("one of four", pods(1, 4), vec![pods(4, 4)], true),
            ("all of them", pods(4, 4), vec![pods(4, 4)], false),
            ("as many as are left", pods(3, 4), vec![pods(3, 4)], false),
            ("all that are wanted of it", pods(2, 2), vec![pods(4, 4)], false),
            ("nobody served", pods(0, 4), vec![], false),
            ("it sleeps", pods(0, 0), vec![pods(1, 1)], false),
        ];
        for (what, present, outgoing, expected) in table {
            let found = Found { present, outgoing, is_built: true, ..Found::default() };
            assert_eq!((found.is_outnumbered(), found.begins_with()), (expected, None), "{what}");
        }
        let before = Found { outgoing: vec![pods(5, 7)], ..Found::default() };
        assert_eq!(before.begins_with(), Some(7));
    }
}
