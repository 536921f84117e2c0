//! `AIStack`: child objects, and the two servers that have no kind of their own.

mod build;
mod control;
mod modelhub;
mod validate;

pub use build::{StackManifests, build};
pub use control::StackController;
pub use validate::{ValidatedStack, validate};

/// Name of the stack's KVCluster.
pub(crate) const KV_NAME: &str = "tinykv";
/// Name of the stack's VectorForge.
pub(crate) const VECTOR_NAME: &str = "vectorforge";
/// Name of the chat model's InferenceService.
pub(crate) const CHAT_NAME: &str = "chat";
/// Name of the embedding model's InferenceService.
pub(crate) const EMBED_NAME: &str = "embed";
/// Component, binary and name of the hub.
pub(crate) const HUB: &str = "modelhub";
