//! From what an API server accepts to what `build` cannot fail on.

use aistack_crds::{EnvPool, EnvPoolSpec};

use super::COMPONENT;
use crate::meta::{Image, Owner};
use crate::object;
use crate::problem::Problem;

/// An EnvPool that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedEnvPool {
    pub(super) owner: Owner,
    pub(super) name: String,
    pub(super) spec: EnvPoolSpec,
    pub(super) image: Image,
}

/// Checks an EnvPool that passed its schema.
pub fn validate(pool: &EnvPool) -> Result<ValidatedEnvPool, Vec<Problem>> {
    Ok(ValidatedEnvPool {
        owner: object::owner(pool, COMPONENT, ""),
        name: object::name(pool),
        spec: pool.spec.clone(),
        image: Image::of(COMPONENT, &pool.spec.image),
    })
}
