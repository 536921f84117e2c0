//! The operator beside the controllers of Kubernetes, on hollow nodes (tier two): what becomes of pods, claims and GPUs, and day two
//! of a KVCluster whose pods are processes of TinyKV.

mod cert_manager;
mod certificates;
mod clients;
mod crowd;
mod day_two;
mod drill;
mod faults;
#[path = "../inference/bed.rs"]
#[expect(dead_code, reason = "the other suite asks for more of it")]
mod hub;
mod in_place;
mod invariants;
mod logs;
mod monitor;
#[path = "../inference/names.rs"]
mod names;
mod objects;
mod preload;
mod stuck;
mod volumes;
