//! # aistack-operator
//!
//! What the kinds of `platform.dev/v1` become: `validate` turns an object that an API server accepts into a type without
//! a question left open, and `build` turns that into Kubernetes objects. Both are pure: no client, no clock, no
//! randomness; `build` cannot fail. `aistack render` prints the result, `aistack up` runs it as processes, and the
//! controller of a later version applies it.
//!
//! It refuses to know how a component works. It knows a component's configuration by the very struct that the component
//! parses (`aistack-api`), so the two cannot drift.
//!
//! ```
//! let stack = "
//! apiVersion: platform.dev/v1
//! kind: AIStack
//! metadata: {name: laptop}
//! spec: {tinykv: {}}
//! ";
//! let compiled = aistack_operator::compile("stack.yaml", stack).unwrap();
//! let kinds: Vec<_> = compiled.manifests.iter().map(|manifest| manifest.kind()).collect();
//! assert_eq!(kinds, ["ConfigMap", "Service", "Service", "PodDisruptionBudget", "StatefulSet"]);
//! ```

pub mod aistack;
mod compile;
pub mod document;
pub mod gap;
pub mod gpu;
pub mod inference_service;
pub mod kv_cluster;
pub mod manifest;
pub mod meta;
mod object;
mod pod;
pub mod problem;
pub mod size;
pub mod vector_collection;
pub mod workload;

pub use compile::{Compiled, compile};
pub use gap::{Gap, Outlet};
pub use manifest::{Manifest, Manifests};
pub use problem::{Problem, Refused};
