//! VectorForge: a vector database that Qdrant's clients talk to, over REST and gRPC.
//!
//! `engine` keeps collections of points on disk and finds the nearest ones; `qdrant` and `platform` are doors that turn
//! wire types into the engine's and back. The engine knows no protocol, the doors know no file. VectorForge refuses to
//! know how text becomes a vector, and about other nodes: a collection is one shard on this node.
//!
//! ```no_run
//! use aistack_api::vectorforge::VectorforgeConfig;
//! use aistack_chassis::{CommonArgs, Component, run};
//!
//! const COMPONENT: Component = Component { name: "vectorforge", env_prefix: "VECTORFORGE_", version: "0.1.0" };
//!
//! fn main() -> std::process::ExitCode {
//!     let config = VectorforgeConfig::default(); // REST on 6333, gRPC on 6334
//!     run(COMPONENT, &CommonArgs::default(), config.server.clone(), |ctx| async move {
//!         vectorforge::Server::bind(config, ctx).await?.run().await
//!     })
//! }
//! ```

pub mod engine;
mod platform;
mod qdrant;
mod server;
mod simd;

pub use server::{Server, ServerError};
