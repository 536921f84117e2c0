//! The controller of Worlds.

use aistack_crds::{Kind, World};

use super::{COMPONENT, ValidatedWorld, build, validate};
use crate::kernel::Controller;
use crate::kernel::apply::Applied;
use crate::kernel::child::ChildKind;
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::Report;
use crate::kernel::controller::StepError;
use crate::kernel::references::Reference;
use crate::manifest::Manifests;
use crate::problem::Problem;
use crate::{report, shipped};

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
        report::of_job(applied.progress(ChildKind::Job, &format!("{COMPONENT}-{}", world.name)), "the world")
    }
}
