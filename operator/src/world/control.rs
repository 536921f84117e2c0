//! The controller of Worlds.

use aistack_crds::{Kind, World};

use super::{COMPONENT, ValidatedWorld, build, validate};
use crate::kernel::Controller;
use crate::kernel::apply::Applied;
use crate::kernel::child::{ChildKind, JobProgress, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Report};
use crate::kernel::controller::StepError;
use crate::kernel::references::Reference;
use crate::manifest::Manifests;
use crate::problem::Problem;
use crate::shipped;

/// The controller.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorldController;

impl Controller for WorldController {
    type Object = World;
    type Found = ();
    type Validated = ValidatedWorld;

    const KIND: Kind = Kind::World;

    fn references(&self, _: &World) -> Vec<Reference> {
        Vec::new()
    }

    async fn dereference(&self, _: &Cluster, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    fn validate(&self, object: &World, (): &()) -> Result<ValidatedWorld, Vec<Problem>> {
        validate(object)
    }

    fn build(&self, world: &ValidatedWorld, (): &()) -> Option<Manifests> {
        shipped::is_shipped(COMPONENT).then(|| build(world))
    }

    fn report(&self, world: &ValidatedWorld, (): &(), applied: &Applied) -> Report {
        if !shipped::is_shipped(COMPONENT) {
            return shipped::missing(COMPONENT);
        }
        of_job(applied.progress(ChildKind::Job, &format!("{COMPONENT}-{}", world.name)), "the world")
    }
}

/// How a Job fares that makes something.
pub(crate) fn of_job(progress: Option<&Progress>, what: &str) -> Report {
    let job = match progress {
        Some(Progress::Job(job)) => job.clone(),
        _ => JobProgress::default(),
    };
    match job {
        JobProgress { failure: Some(failure), .. } => {
            Report::stalled(format!("{what} could not be made"), Because::new("JobFailed", failure))
        }
        JobProgress { is_complete: true, .. } => {
            let said = format!("{what} is made");
            Report::ready(said.clone(), Because::new("Ready", said))
        }
        JobProgress { .. } => {
            let said = format!("{what} is being made");
            Report::progressing(said.clone(), Because::new("Generating", said))
        }
    }
}
