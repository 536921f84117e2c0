//! A TaskSet becomes the Job that makes it, and the volume that it is kept on.

use super::{COMPONENT, ValidatedTaskSet, claim_name};
use crate::job::{self, Mounted};
use crate::manifest::Manifests;
use crate::workload::{ConfigFile, DATA_DIR, Workload};
use crate::world;

/// Size of the volume: a million tasks as text.
const STORAGE: &str = "4Gi";

/// What a TaskSet becomes.
pub fn build(tasks: &ValidatedTaskSet) -> Manifests {
    let file = ConfigFile::spec("tasks", &tasks.spec);
    let input = Mounted::of_another(world::claim_name(&tasks.spec.world_ref.name), "world");
    let arguments = ["generate", "--spec", &file.path(), "--world", &input.path, "--output", DATA_DIR];
    let name = format!("{COMPONENT}-{}", tasks.name);
    let mut workload = Workload::that_ends(name, tasks.owner.clone(), tasks.image.clone(), COMPONENT);
    workload.args = arguments.map(str::to_owned).to_vec();
    workload.config = vec![file];
    workload.resources = tasks.spec.resources.clone();
    let claim = claim_name(&tasks.name);
    let mut manifests = Manifests::default();
    manifests.push(job::claim(&workload, &claim, STORAGE));
    manifests.append(job::build(&workload, &[Mounted::own(claim), input]));
    manifests
}
