#![doc = include_str!("../README.md")]

pub mod aistack;
mod autoscaler;
pub mod certificate;
mod compile;
mod digest;
pub mod document;
pub mod ending;
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
mod outside;
pub mod plugin;
mod pod;
mod probe;
pub mod problem;
mod report;
pub mod run;
pub mod scaled_object;
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
