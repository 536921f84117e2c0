//! # aistack-operator
//!
//! What the kinds of `platform.dev/v1` become: `validate` turns an object that an API server accepts into a type without a
//! question left open, and `build` turns that into Kubernetes objects. Both are pure: no client, no clock, no randomness;
//! `build` cannot fail. `aistack render` prints the result, `aistack up` runs it as processes, and the controllers of the binary
//! `aistack-operator` apply it.
//!
//! A kind has a folder, with `dereference → validate → build → apply → report` in its `control.rs`; all seven stand on one reconcile
//! kernel (`kernel/`), which holds the watches and the queue, applies and prunes, writes conditions, and elects a leader.
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
//! assert_eq!(kinds, ["ConfigMap", "ConfigMap", "Service", "Service", "StatefulSet"]);
//! ```

pub mod aistack;
mod compile;
pub mod document;
pub mod env_pool;
pub mod gap;
pub mod gpu;
mod hub;
pub mod inference_service;
mod job;
pub mod kernel;
pub mod kv_cluster;
pub mod manifest;
pub mod meta;
mod object;
pub mod plugin;
mod pod;
mod probe;
pub mod problem;
mod report;
pub mod run;
mod shipped;
pub mod size;
pub mod task_set;
pub mod vector_collection;
pub mod workload;
pub mod world;

pub use compile::{Compiled, compile};
pub use gap::{Gap, Outlet};
pub use manifest::{Manifest, Manifests};
pub use problem::{Problem, Refused};
