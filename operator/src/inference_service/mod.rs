//! `InferenceService`: one model behind the OpenAI protocol.

mod build;
mod control;
mod fetch;
mod found;
mod pods;
mod preload;
mod report;
mod rollout;
mod route;
mod scaling;
mod sweep;
mod validate;
mod version;

pub use build::build;
pub use control::InferenceController;
pub(crate) use preload::PRELOAD;
pub use scaling::IN_FLIGHT;
pub use validate::{ApiKey, Engine, ValidatedInferenceService, validate};

/// Our engine's component and binary.
pub(crate) const COMPONENT: &str = "tinyinfer";
/// Port of the OpenAI protocol.
pub(crate) const HTTP_PORT: u16 = 8000;
/// Port of gRPC.
pub(crate) const GRPC_PORT: u16 = 8001;
/// Port of metrics and health.
pub(crate) const ADMIN_PORT: u16 = 8002;
