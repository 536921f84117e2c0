//! A World becomes the Job that makes it, and the volume that it is kept on.

use super::validate::Kept;
use super::{COMPONENT, ValidatedWorld, claim_name};
use crate::job::{self, Mounted};
use crate::manifest::Manifests;
use crate::workload::{ConfigFile, DATA_DIR, Workload};

/// What a World becomes.
pub fn build(world: &ValidatedWorld) -> Manifests {
    let file = ConfigFile::spec("world", &world.spec);
    let output = match &world.kept {
        Kept::Volume(_) => DATA_DIR.to_owned(),
        Kept::Url(url) => url.clone(),
    };
    let arguments = ["generate", "--spec", &file.path(), "--output", &output].map(str::to_owned);
    let name = format!("{COMPONENT}-{}", world.name);
    let mut workload = Workload::that_ends(name, world.owner.clone(), world.image.clone(), COMPONENT);
    workload.args = arguments.to_vec();
    workload.config = vec![file];
    workload.resources = world.spec.resources.clone();
    let mut manifests = Manifests::default();
    let schema = world.spec.schema.config_map.clone().map(|name| Mounted::config_map(name, "schema"));
    if let Some(schema) = &schema {
        workload.args.extend(["--schema".to_owned(), format!("{}/schema.sql", schema.path)]);
    }
    let mut mounted: Vec<Mounted> = schema.into_iter().collect();
    if let Kept::Volume(size) = &world.kept {
        let claim = claim_name(&world.name);
        manifests.push(job::claim(&workload, &claim, size.as_str()));
        mounted.push(Mounted::own(claim));
    }
    manifests.append(job::build(&workload, &mounted));
    manifests
}
