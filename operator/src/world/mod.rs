//! `World`: a generated company or shop, made once by a Job.

mod build;
mod control;
mod validate;

pub use build::build;
pub use control::WorldController;
pub use validate::{ValidatedWorld, validate};

/// Component and binary.
pub(crate) const COMPONENT: &str = "worldgen";

/// Name of the claim that a world is kept in.
pub(crate) fn claim_name(world: &str) -> String {
    format!("{world}-world")
}
