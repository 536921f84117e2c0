//! ModelHub: the door of the platform. An OpenAI-compatible gateway in front of many inference engines, a model registry, and
//! retrieval-augmented generation with citations; server and command line in one binary.
//!
//! It refuses to know what is behind its endpoints: metadata goes to any store that speaks etcd v3 (TinyKV, etcd), passages
//! to any that speaks Qdrant gRPC (VectorForge, Qdrant), inference to any OpenAI server (TinyInfer, vLLM, llama.cpp), artefacts to
//! any object store. Swapping one is a line of configuration.
//!
//! The pure parts can be used without any of them:
//!
//! ```
//! let file = "# Leave\n\nRequests are made at least ten working days before. Use the calendar.\n";
//! let document = modelhub::text::read("leave.md", file.as_bytes())?;
//! let limits = modelhub::text::Limits { words: 120, tokens: 256 };
//! let passages = modelhub::text::passages(&document, limits);
//! assert_eq!(passages[0].heading, ["Leave"]);
//! assert_eq!(passages[0].text, file[passages[0].bytes.clone()]);
//! assert_eq!(passages[0].lines, (3, 3));
//! # Ok::<(), modelhub::text::ReadError>(())
//! ```

pub mod cli;
mod client_tls;
pub mod error;
pub mod gateway;
mod grpc;
mod json_body;
pub mod kv;
pub mod rag;
pub mod registry;
mod renewal;
pub mod server;
pub mod sse;
pub mod text;

/// The time, in milliseconds since 1970.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// The innermost cause of an error, and what to do about it.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let cause = aistack_api::cause::innermost(error);
    let advice = client_tls::advice(&cause);
    cause + advice
}
