//! `TaskSet`: tasks in a world, made once by a Job.

mod build;
mod control;
mod validate;

pub use build::build;
pub use control::TaskController;
pub use validate::{ValidatedTaskSet, validate};

/// Component and binary.
pub(crate) const COMPONENT: &str = "taskforge";

/// Name of the claim that tasks are kept in.
pub(crate) fn claim_name(tasks: &str) -> String {
    format!("{tasks}-tasks")
}
