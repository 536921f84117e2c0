//! The operator beside the controllers of Kubernetes, on hollow nodes (tier two): what becomes of pods, claims and GPUs, and day two
//! of a KVCluster whose pods are processes of TinyKV.

mod clients;
mod crowd;
mod day_two;
mod faults;
mod monitor;
mod objects;
