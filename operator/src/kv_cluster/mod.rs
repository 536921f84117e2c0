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
mod sent_away;
mod steps;
mod trust;
mod validate;
pub mod wish;
mod words;

use aistack_crds::kv_cluster::MOST_MEMBERS;

pub use build::build;
pub use control::KvController;
pub use validate::{Tls, ValidatedKvCluster, validate};

/// Ordinal of the pod that a member is called like. Names come from whoever reaches a client port: those that no pod of the schema's
/// most may have are none.
pub(crate) fn ordinal_of(cluster: &str, name: &str) -> Option<u16> {
    let written = name.strip_prefix(cluster)?.strip_prefix('-')?;
    let ordinal = written.parse().ok().filter(|ordinal: &u16| *ordinal < MOST_MEMBERS)?;
    (ordinal.to_string() == written).then_some(ordinal)
}

/// Component and binary.
pub(crate) const COMPONENT: &str = "tinykv";
/// Port of etcd's client protocol.
pub(crate) const CLIENT_PORT: u16 = 2379;
/// Port between members.
pub(crate) const PEER_PORT: u16 = 2380;
/// Port of metrics and health.
pub(crate) const ADMIN_PORT: u16 = 2381;
