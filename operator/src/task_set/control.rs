//! The controller of TaskSets.

use aistack_crds::{Kind, TaskSet};

use super::{COMPONENT, ValidatedTaskSet, build, validate};
use crate::kernel::Controller;
use crate::kernel::ObjectName;
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
pub struct TaskController;

impl Controller for TaskController {
    type Object = TaskSet;
    type Found = ();
    type Validated = ValidatedTaskSet;

    const KIND: Kind = Kind::TaskSet;

    fn references(&self, object: &TaskSet) -> Vec<Reference> {
        let world = ObjectName::new(report::namespace(object), object.spec.world_ref.name.as_str());
        vec![Reference::Object(Kind::World, world)]
    }

    async fn dereference(&self, _: &Cluster, _: &TaskSet) -> Result<(), StepError> {
        Ok(())
    }

    fn validate(&self, object: &TaskSet, (): &()) -> Result<ValidatedTaskSet, Vec<Problem>> {
        validate(object)
    }

    fn build(&self, tasks: &ValidatedTaskSet, (): &()) -> Option<Manifests> {
        shipped::is_shipped(COMPONENT).then(|| build(tasks))
    }

    fn report(&self, tasks: &ValidatedTaskSet, (): &(), applied: &Applied) -> Report {
        if !shipped::is_shipped(COMPONENT) {
            return shipped::missing(COMPONENT);
        }
        report::of_job(
            applied.progress(ChildKind::Job, &format!("{COMPONENT}-{}", tasks.name)),
            "the set of tasks",
        )
    }
}
