//! # aistack-crds
//!
//! The seven kinds of `platform.dev/v1` as Rust types, and nothing else: `AIStack`, `InferenceService`,
//! `VectorCollection`, `KVCluster`, `World`, `TaskSet` and `EnvPool`. Schemas, CEL rules, printer columns and the
//! files in `crds/generated/` all come from these types; [`check`] runs the same schema and the same rules without a
//! cluster.
//!
//! It refuses to know how a kind is carried out: no client, no pods, no component. That is `aistack-operator`.
//!
//! ```
//! use aistack_crds::{Kind, check};
//!
//! let stack = serde_json::json!({
//!     "apiVersion": "platform.dev/v1", "kind": "AIStack",
//!     "metadata": {"name": "laptop"}, "spec": {"tinykv": {"replicas": 2}},
//! });
//! let problems = check::check(&Kind::AIStack.crd(), &stack).unwrap_err();
//! assert_eq!(problems[0].path, "spec.tinykv.replicas");
//! assert!(problems[0].message.starts_with("2 is even; a Raft cluster of 2 survives no failure"));
//! ```

pub mod aistack;
pub mod check;
pub mod env_pool;
pub mod inference_service;
pub mod kv_cluster;
pub mod parts;
pub mod reasons;
mod rules;
pub mod status;
pub mod task_set;
pub mod vector_collection;
pub mod world;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use kube::core::ApiResource;

pub use aistack::{AIStack, AIStackSpec};
pub use env_pool::{EnvPool, EnvPoolSpec};
pub use inference_service::{InferenceService, InferenceServiceSpec};
pub use kv_cluster::{KVCluster, KVClusterSpec};
pub use task_set::{TaskSet, TaskSetSpec};
pub use vector_collection::{VectorCollection, VectorCollectionSpec};
pub use world::{World, WorldSpec};

/// API group of every kind.
pub const GROUP: &str = "platform.dev";
/// The one served version.
pub const VERSION: &str = "v1";
/// `apiVersion` of every object of ours.
pub const API_VERSION: &str = "platform.dev/v1";

/// The seven kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A whole platform.
    AIStack,
    /// One model behind the OpenAI protocol.
    InferenceService,
    /// Vectors with payloads.
    VectorCollection,
    /// A key-value store.
    KVCluster,
    /// A generated world.
    World,
    /// Tasks in a world.
    TaskSet,
    /// Environments that agents act in.
    EnvPool,
}

impl Kind {
    /// All kinds, in the order of the architecture's table.
    pub const ALL: [Self; 7] = [
        Self::AIStack,
        Self::InferenceService,
        Self::VectorCollection,
        Self::KVCluster,
        Self::World,
        Self::TaskSet,
        Self::EnvPool,
    ];

    /// Name of the kind as a manifest writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AIStack => "AIStack",
            Self::InferenceService => "InferenceService",
            Self::VectorCollection => "VectorCollection",
            Self::KVCluster => "KVCluster",
            Self::World => "World",
            Self::TaskSet => "TaskSet",
            Self::EnvPool => "EnvPool",
        }
    }

    /// The kind that a manifest's `kind` names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Where an API server has it.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::AIStack => AIStack::api_resource(),
            Self::InferenceService => InferenceService::api_resource(),
            Self::VectorCollection => VectorCollection::api_resource(),
            Self::KVCluster => KVCluster::api_resource(),
            Self::World => World::api_resource(),
            Self::TaskSet => TaskSet::api_resource(),
            Self::EnvPool => EnvPool::api_resource(),
        }
    }

    /// Its CustomResourceDefinition.
    pub fn crd(self) -> CustomResourceDefinition {
        let mut crd = match self {
            Self::AIStack => AIStack::crd(),
            Self::InferenceService => InferenceService::crd(),
            Self::VectorCollection => VectorCollection::crd(),
            Self::KVCluster => KVCluster::crd(),
            Self::World => World::crd(),
            Self::TaskSet => TaskSet::crd(),
            Self::EnvPool => EnvPool::crd(),
        };
        // Whoever waits by kstatus, as Flux does, takes an object without a status for one that is as it should be. With this one it
        // is in progress from its first moment on.
        for version in &mut crd.spec.versions {
            let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
            let properties = schema.and_then(|schema| schema.properties.as_mut());
            if let Some(status) = properties.and_then(|properties| properties.get_mut("status")) {
                status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
            }
        }
        crd
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The CustomResourceDefinitions of all kinds.
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    Kind::ALL.into_iter().map(Kind::crd).collect()
}

/// Files of `crds/generated/`: name and content. `cargo xtask gen` writes them; a test fails when they have drifted.
pub fn generated() -> Vec<(String, String)> {
    all_crds()
        .into_iter()
        .map(|crd| {
            let yaml = serde_yaml_ng::to_string(&crd).expect("a CustomResourceDefinition is plain data");
            let name = format!("{}.{}.yaml", crd.spec.names.plural, crd.spec.group);
            (name, format!("# Generated from crds/src by `cargo xtask gen`. Do not edit.\n{yaml}"))
        })
        .collect()
}
