//! Routes that are set at run time: which version of a model answers whom, how a new one takes over, and where requests wait
//! while none is there.
//!
//! Routes and the course of canaries live in the key-value store, so all gateways do the same and a restart changes nothing.
//! Deciding is pure (`split`, `canary`); `routes` carries it out.

mod canary;
mod door;
mod known;
mod metrics;
mod room;
mod routes;
mod split;
mod target;

pub use canary::Ending;
pub use door::router;
pub use metrics::TrafficMetrics;
pub use room::{InFlight, Waiting};
pub use routes::Traffic;
pub use split::SESSION_HEADER;
pub use target::{Split, TargetStats};
