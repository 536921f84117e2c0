//! The controller of EnvPools.

use aistack_crds::{EnvPool, Kind};

use super::{COMPONENT, ValidatedEnvPool, build, validate};
use crate::kernel::Controller;
use crate::kernel::ObjectName;
use crate::kernel::apply::Applied;
use crate::kernel::child::{ChildKind, Pods, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Report, Scaled};
use crate::kernel::controller::StepError;
use crate::kernel::references::Reference;
use crate::manifest::Manifests;
use crate::problem::Problem;
use crate::{report, shipped};

/// The controller.
#[derive(Clone, Copy, Debug, Default)]
pub struct EnvController;

impl Controller for EnvController {
    type Object = EnvPool;
    type Found = ();
    type Validated = ValidatedEnvPool;

    const KIND: Kind = Kind::EnvPool;

    fn references(&self, object: &EnvPool) -> Vec<Reference> {
        let name = |name: &str| ObjectName::new(report::namespace(object), name);
        let tasks = object.spec.task_set_ref.iter();
        let tasks = tasks.map(|tasks| Reference::Object(Kind::TaskSet, name(&tasks.name)));
        tasks.chain([Reference::Object(Kind::World, name(&object.spec.world_ref.name))]).collect()
    }

    async fn dereference(&self, _: &Cluster, _: &EnvPool) -> Result<(), StepError> {
        Ok(())
    }

    fn validate(&self, object: &EnvPool, (): &()) -> Result<ValidatedEnvPool, Vec<Problem>> {
        validate(object)
    }

    fn build(&self, pool: &ValidatedEnvPool, (): &()) -> Option<Manifests> {
        shipped::is_shipped(COMPONENT).then(|| build(pool))
    }

    fn report(&self, pool: &ValidatedEnvPool, (): &(), applied: &Applied) -> Report {
        if !shipped::is_shipped(COMPONENT) {
            return shipped::missing(COMPONENT);
        }
        let pods = match applied.progress(ChildKind::StatefulSet, &format!("{COMPONENT}-{}", pool.name)) {
            Some(Progress::Pods(pods)) => pods.clone(),
            _ => Pods::default(),
        };
        let episodes = i64::from(pods.ready) * i64::from(pool.spec.episodes_per_replica);
        let summary = format!("{}/{} servers, {episodes} episodes at a time", pods.ready, pods.wanted);
        let mut report = report::of_pods(summary, &pods);
        report.scaled = Scaled {
            replicas: pods.replicas,
            ready_replicas: pods.ready,
            selector: Some(report::selector(&pool.owner)),
            version: (pods.is_complete() && pods.ready > 0).then(|| report::tag(&pool.image)),
            ..Scaled::default()
        };
        report
    }
}
