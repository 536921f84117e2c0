//! The one reconcile kernel that all seven controllers stand on.
//!
//! A controller says what is its own: how an object is dereferenced, validated, built and reported
//! ([`controller::Controller`]). Everything else is here, once: watches and their caches ([`watch`]), the queue with its
//! priorities and back-off ([`queue`]), server-side apply that writes only what differs, prunes, and never touches what is
//! somebody else's ([`apply`]), conditions ([`conditions`]), Events, metrics, leader election ([`lease`]) and the life of the
//! process ([`manager`]).
//!
//! What holds throughout:
//! - At rest nothing is written: an object is applied when what is wanted changed or what is there was changed, and a status
//!   when it says something else.
//! - A restart writes nothing either: what was applied is read off the objects, not remembered.
//! - Nothing waits inside a reconciliation for the world to change; it ends, and a watch or a time begins another. Who waits for
//!   an answer from outside holds no worker.

mod absent;
pub mod apply;
pub mod backoff;
pub mod child;
pub(crate) mod claims;
pub mod cluster;
pub mod conditions;
pub mod controller;
pub mod covers;
mod created;
mod faults;
mod held;
mod images;
pub mod key;
mod lanes;
pub mod lease;
pub mod manager;
pub mod metrics;
mod parent;
mod patience;
pub mod queue;
pub mod references;
mod repeats;
mod replicas;
mod share;
mod stores;
#[cfg(test)]
pub(crate) mod stub;
mod telemetry;
mod turns;
pub mod watch;

pub(crate) mod pending;
pub(crate) mod reconcile;

pub use controller::Controller;
pub use key::{Key, ObjectName};
