//! From what an API server accepts to what `build` cannot fail on.

use aistack_crds::{TaskSet, TaskSetSpec};

use super::COMPONENT;
use crate::meta::{Image, Owner};
use crate::object;
use crate::problem::Problem;

/// A TaskSet that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedTaskSet {
    pub(super) owner: Owner,
    pub(super) name: String,
    pub(super) spec: TaskSetSpec,
    pub(super) image: Image,
}

/// Checks a TaskSet that passed its schema.
pub fn validate(tasks: &TaskSet) -> Result<ValidatedTaskSet, Vec<Problem>> {
    let name = object::name(tasks);
    if tasks.spec.levels.values().all(|count| count.0 == 0) {
        let problem =
            Problem::new("spec.levels", "asks for no task at all", "write for example {1: 200, 3: 50}");
        return Err(vec![problem.of(format!("TaskSet {name}"))]);
    }
    Ok(ValidatedTaskSet {
        owner: object::owner(tasks, COMPONENT, ""),
        name,
        spec: tasks.spec.clone(),
        image: Image::of(COMPONENT, &aistack_crds::parts::ImageSpec::default()),
    })
}
