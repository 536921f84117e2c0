//! A file becomes manifests: parse, validate every object against the others, build.

use std::collections::BTreeMap;

use crate::document::{self, Object};
use crate::gap::{Gap, Outlet};
use crate::manifest::{Manifest, Manifests};
use crate::problem::{Problem, Refused};
use crate::vector_collection::Home;
use crate::{aistack, inference_service, kv_cluster, vector_collection};

/// What a file asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// Name of its stack, or of its first object when it holds none.
    pub name: String,
    /// Child objects of its stacks and the objects themselves, for a cluster that runs the operator.
    pub children: Manifests,
    /// StatefulSets, Deployments and all that goes with them.
    pub manifests: Manifests,
    /// What this version cannot do of it.
    pub gaps: Vec<Gap>,
}

impl Compiled {
    /// The gaps that matter at an outlet.
    pub fn gaps_at(&self, outlet: Outlet) -> Vec<&Gap> {
        self.gaps.iter().filter(|gap| gap.concerns(outlet)).collect()
    }
}

/// Reads, checks and builds a file. `file` is used in messages only.
pub fn compile(file: &str, text: &str) -> Result<Compiled, Refused> {
    let objects = document::parse(file, text)?;
    let mut compiled = Compiled {
        name: String::new(),
        children: Manifests::default(),
        manifests: Manifests::default(),
        gaps: Vec::new(),
    };
    let mut problems = Vec::new();
    let stacks: Vec<String> = objects
        .iter()
        .filter_map(|object| match object {
            Object::AIStack(stack) => Some(crate::object::name(stack.as_ref())),
            _ => None,
        })
        .collect();
    for object in &objects {
        if let Err(mut found) = add(object, &stacks, &mut compiled) {
            problems.append(&mut found);
        }
    }
    problems.extend(collisions(&compiled.manifests));
    if let [first, rest @ ..] = stacks.as_slice()
        && !rest.is_empty()
    {
        let what = format!(
            "the file holds {} stacks ({}), and a machine runs one of a file",
            stacks.len(),
            stacks.join(", ")
        );
        let instead = "give each a file of its own, and start them with --port";
        compiled.gaps.push(Gap::local("metadata.name", what, instead).of(&format!("AIStack {first}")));
    }
    if let Some(stack) = stacks.first() {
        compiled.name.clone_from(stack);
    }
    if problems.is_empty() { Ok(compiled) } else { Err(Refused { file: file.to_owned(), problems }) }
}

fn add(object: &Object, stacks: &[String], compiled: &mut Compiled) -> Result<(), Vec<Problem>> {
    let named = |name: String, compiled: &mut Compiled| {
        if compiled.name.is_empty() {
            compiled.name = name;
        }
    };
    match object {
        Object::AIStack(stack) => {
            let validated = aistack::validate(stack)?;
            let built = aistack::build(&validated);
            compiled.gaps.extend_from_slice(validated.gaps());
            compiled.children.append(built.children);
            compiled.children.append(built.own);
            compiled.manifests.append(built.flat);
        }
        Object::KVCluster(cluster) => {
            let validated = kv_cluster::validate(cluster, "")?;
            compiled.gaps.extend_from_slice(validated.gaps());
            compiled.manifests.append(kv_cluster::build(&validated));
            compiled.children.push(cluster.as_ref().clone());
            named(crate::object::name(cluster.as_ref()), compiled);
        }
        Object::InferenceService(service) => {
            let validated = inference_service::validate(service, "")?;
            compiled.gaps.extend_from_slice(validated.gaps());
            compiled.manifests.append(inference_service::build(&validated));
            compiled.children.push(service.as_ref().clone());
            named(crate::object::name(service.as_ref()), compiled);
        }
        Object::VectorCollection(collection) => {
            let validated = vector_collection::validate(collection, "")?;
            compiled.gaps.extend_from_slice(validated.gaps());
            if let Home::Stack(stack) = validated.home()
                && !stacks.contains(stack)
            {
                let name = crate::object::name(collection.as_ref());
                let what = format!("AIStack {stack} is not in this file");
                let gap = Gap::local("spec.stackRef", what, "put both into one file, or remove stackRef");
                compiled.gaps.push(gap.of(&format!("VectorCollection {name}")));
            }
            compiled.manifests.append(vector_collection::build(&validated));
            compiled.children.push(collection.as_ref().clone());
            named(crate::object::name(collection.as_ref()), compiled);
        }
        Object::World(world) => {
            return Err(later("World", &crate::object::name(world.as_ref()), "worlds are generated"));
        }
        Object::TaskSet(tasks) => {
            return Err(later("TaskSet", &crate::object::name(tasks.as_ref()), "tasks are made"));
        }
        Object::EnvPool(pool) => {
            return Err(later("EnvPool", &crate::object::name(pool.as_ref()), "environments are run"));
        }
    }
    Ok(())
}

fn later(kind: &str, name: &str, what: &str) -> Vec<Problem> {
    let fix = "the manifest itself is valid; take this object out of the file until then";
    vec![
        Problem::new("", format!("is valid, but {what} by a later version"), fix)
            .of(format!("{kind} {name}")),
    ]
}

/// Two objects of a file that would become one.
fn collisions(manifests: &Manifests) -> Vec<Problem> {
    let mut seen: BTreeMap<(String, String, String), &Manifest> = BTreeMap::new();
    let mut problems = Vec::new();
    for manifest in manifests {
        let namespace = manifest.metadata().namespace.clone().unwrap_or_default();
        let key = (namespace, manifest.kind().to_owned(), manifest.name().to_owned());
        if seen.insert(key, manifest).is_some()
            && matches!(manifest.kind(), "StatefulSet" | "Deployment" | "ConfigMap")
        {
            let what = format!("two objects of the file both become {} {}", manifest.kind(), manifest.name());
            problems.push(Problem::new("", what, "give one of them another name or namespace"));
        }
    }
    problems.dedup();
    problems
}
