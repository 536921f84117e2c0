//! `VectorCollection`: a collection on the stack's VectorForge, or a VectorForge of its own.

mod build;
mod control;
mod engine;
mod validate;

pub use build::build;
pub(crate) use build::{ServerShape, server};
pub use control::VectorController;
pub use validate::{Home, ValidatedVectorCollection, validate};

/// Component and binary.
pub(crate) const COMPONENT: &str = "vectorforge";
/// Port of Qdrant's REST.
pub(crate) const REST_PORT: u16 = 6333;
/// Port of Qdrant's gRPC.
pub(crate) const GRPC_PORT: u16 = 6334;
/// Port of metrics and health.
pub(crate) const ADMIN_PORT: u16 = 6335;
