//! `AIStack`: child objects, and the two servers that have no kind of their own.

mod build;
mod control;
mod meanwhile;
mod modelhub;
mod validate;

use aistack_crds::AIStack;

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
/// Port of its OpenAI front, registry, traffic and RAG.
pub(crate) const HUB_PORT: u16 = 8080;
/// Name of the Secret with its generated administrator's key.
pub(crate) const HUB_ADMIN_SECRET: &str = "modelhub-admin";
/// Its key.
pub(crate) const HUB_ADMIN_KEY: &str = "admin-key";

/// Models that the stack's hub leads requests to by its configuration: the child that serves each, and the model's name.
pub(crate) fn models(stack: &AIStack) -> Vec<(&'static str, &str)> {
    let spec = &stack.spec;
    let (own, other) = (spec.tinyinfer.iter(), spec.inference.iter());
    let chat = own.clone().map(|own| &own.model).chain(other.clone().map(|other| &other.model));
    let embed = own.map(|own| &own.embedding).chain(other.map(|other| &other.embedding)).flatten();
    let chat = chat.map(|model| (CHAT_NAME, model.as_str()));
    chat.chain(embed.map(|embed| (EMBED_NAME, embed.model.as_str()))).collect()
}
