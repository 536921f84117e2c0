//! `KVCluster`: a TinyKV group.

pub(crate) mod backup;
mod build;
mod certificate;
mod control;
mod invariants;
mod members;
pub mod planner;
mod record;
mod seen;
mod steps;
mod validate;
pub mod wish;
mod words;

pub use build::build;
pub use control::KvController;
pub use validate::{Tls, ValidatedKvCluster, validate};

/// Component and binary.
pub(crate) const COMPONENT: &str = "tinykv";
/// Port of etcd's client protocol.
pub(crate) const CLIENT_PORT: u16 = 2379;
/// Port between members.
pub(crate) const PEER_PORT: u16 = 2380;
/// Port of metrics and health.
pub(crate) const ADMIN_PORT: u16 = 2381;
