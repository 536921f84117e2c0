//! A stack on this machine: the StatefulSets and Deployments that `build` yields, as processes.

mod backoff;
pub mod board;
mod collections;
pub mod members;
pub mod plan;
pub mod pod;
pub mod ports;
mod probe;
pub mod programs;
mod proxy;
pub mod rewrite;
pub mod shim;
pub mod state;
pub mod supervise;
pub mod tail;
