//! From what an API server accepts to what `build` cannot fail on.

use aistack_crds::VectorCollection;
use aistack_crds::parts::{PodOverrides, ResourceSpec};
use aistack_crds::vector_collection::{Distance, HnswSpec, PayloadIndex};

use super::COMPONENT;
use crate::gap::Gap;
use crate::gpu::Gpu;
use crate::meta::{Image, Owner};
use crate::object;
use crate::problem::Problem;
use crate::workload::{Claim, StorageClass};

const DEFAULT_STORAGE: &str = "8Gi";

/// A VectorCollection that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedVectorCollection {
    pub(super) owner: Owner,
    pub(super) name: String,
    pub(super) dimension: u32,
    pub(super) distance: Distance,
    pub(super) hnsw: Hnsw,
    pub(super) payload_indexes: Vec<PayloadIndex>,
    pub(super) home: Home,
    gaps: Vec<Gap>,
}

/// Where the collection lives.
#[derive(Clone, Debug, PartialEq)]
pub enum Home {
    /// On the VectorForge of the stack of this name.
    Stack(String),
    /// On servers of its own.
    Own(Box<OwnServer>),
}

/// Servers of a collection's own.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnServer {
    pub(super) claim: Claim,
    pub(super) image: Image,
    pub(super) resources: ResourceSpec,
    pub(super) pod: PodOverrides,
}

/// Shape of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hnsw {
    /// The engine's defaults.
    Engine,
    /// A given one.
    Given(HnswSpec),
}

impl ValidatedVectorCollection {
    /// What this version cannot do of it.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Where it lives.
    pub fn home(&self) -> &Home {
        &self.home
    }
}

/// Checks a VectorCollection that passed its schema. `part_of` is the stack it belongs to, or empty.
pub fn validate(
    collection: &VectorCollection,
    part_of: &str,
) -> Result<ValidatedVectorCollection, Vec<Problem>> {
    let name = object::name(collection);
    let title = format!("VectorCollection {name}");
    let spec = &collection.spec;
    let mut problems = Vec::new();
    let storage = spec.storage.as_deref().unwrap_or(DEFAULT_STORAGE);
    let storage = object::size("spec.storage", storage, &mut problems);
    problems.extend(Gpu::validate(spec.gpu.as_ref(), "spec.gpu").err());
    let (Some(storage), true) = (storage, problems.is_empty()) else {
        return Err(problems.into_iter().map(|problem| problem.of(&title)).collect());
    };
    let home = match &spec.stack_ref {
        Some(stack) => Home::Stack(stack.name.clone()),
        None => Home::Own(Box::new(OwnServer {
            claim: Claim {
                size: storage,
                class: StorageClass::of(spec.storage_class_name.as_ref()),
                attributes: spec.volume_attributes_class_name.clone(),
                deleted_with_owner: object::deletes_volumes(collection),
            },
            image: Image::of(COMPONENT, &spec.image),
            resources: spec.resources.clone(),
            pod: spec.pod.clone(),
        })),
    };
    let part_of = match &home {
        Home::Stack(stack) => stack,
        Home::Own(_) => part_of,
    };
    Ok(ValidatedVectorCollection {
        owner: object::owner(collection, COMPONENT, part_of),
        gaps: gaps(collection).into_iter().map(|gap| gap.of(&title)).collect(),
        name,
        dimension: u32::try_from(spec.dimension).unwrap_or(1),
        distance: spec.distance,
        hnsw: spec.hnsw.clone().map_or(Hnsw::Engine, Hnsw::Given),
        payload_indexes: spec.payload_indexes.clone(),
        home,
    })
}

fn gaps(collection: &VectorCollection) -> Vec<Gap> {
    let spec = &collection.spec;
    let mut gaps = Vec::new();
    let wants = |wanted: bool, path: &str, what: String, instead: &str, gaps: &mut Vec<Gap>| {
        if wanted {
            gaps.push(Gap::everywhere(path, what, instead));
        }
    };
    let replicas = spec.replicas.unwrap_or(1);
    wants(
        replicas > 1,
        "spec.replicas",
        format!("servers of this version do not share collections, so one runs, not {replicas}"),
        "use replicas: 1",
        &mut gaps,
    );
    wants(
        spec.shards > 1,
        "spec.shards",
        format!("a collection has one shard in this version, not {}", spec.shards),
        "use shards: 1; segments already search in parallel",
        &mut gaps,
    );
    wants(
        spec.replication_factor > 1,
        "spec.replicationFactor",
        format!("a shard has one copy in this version, not {}", spec.replication_factor),
        "use replicationFactor: 1, and take snapshots",
        &mut gaps,
    );
    wants(
        spec.quantization.is_some(),
        "spec.quantization",
        "vectors are kept as they are in this version".to_owned(),
        "remove quantization",
        &mut gaps,
    );
    wants(
        spec.gpu.is_some(),
        "spec.gpu",
        "VectorForge runs on the CPU in this version".to_owned(),
        "remove gpu",
        &mut gaps,
    );
    gaps
}
