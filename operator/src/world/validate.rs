//! From what an API server accepts to what `build` cannot fail on.

use aistack_crds::{World, WorldSpec};

use super::COMPONENT;
use crate::meta::{Image, Owner};
use crate::object;
use crate::problem::Problem;
use crate::size::Size;

/// A World that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedWorld {
    pub(super) owner: Owner,
    pub(super) name: String,
    pub(super) spec: WorldSpec,
    pub(super) kept: Kept,
    pub(super) image: Image,
}

/// Where a world is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// On a volume of this size.
    Volume(Size),
    /// In object storage.
    Url(String),
}

/// Checks a World that passed its schema.
pub fn validate(world: &World) -> Result<ValidatedWorld, Vec<Problem>> {
    let name = object::name(world);
    let mut problems = Vec::new();
    let output = &world.spec.output;
    let kept = match &output.url {
        Some(url) => Some(Kept::Url(url.clone())),
        None => object::size("spec.output.storage", &output.storage, &mut problems).map(Kept::Volume),
    };
    let Some(kept) = kept else {
        let title = format!("World {name}");
        return Err(problems.into_iter().map(|problem| problem.of(&title)).collect());
    };
    Ok(ValidatedWorld {
        owner: object::owner(world, COMPONENT, ""),
        name,
        spec: world.spec.clone(),
        kept,
        image: Image::of(COMPONENT, &aistack_crds::parts::ImageSpec::default()),
    })
}
