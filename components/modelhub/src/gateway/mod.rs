//! The OpenAI door: one name for many engines.
//!
//! A request's body is read once, scanned for `model`, and forwarded as it came; a reply's body goes through untouched while its
//! tokens are counted. Retries happen only before the first byte of a reply, within a budget.

mod door;
mod engine;
mod engines;
mod forward;
mod heard;
mod keys;
mod metrics;
mod quota;
mod reply;
mod rotation;
mod route;
mod scan;
mod told;
mod traffic;
mod usage;

pub use door::{Front, router};
pub use engine::EngineError;
pub use engines::Engines;
pub use forward::{Call, Gateway, engine_error};
pub use keys::{Admission, Caller, KeyRecord, KeyUsage, Keys};
pub use metrics::GatewayMetrics;
pub use quota::KeyLimits;
pub use route::closest;
pub use traffic::{Traffic, TrafficMetrics, router as traffic_router};
pub use usage::Usage;
