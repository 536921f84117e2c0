//! VectorForge: a vector database that Qdrant's clients talk to, over REST and gRPC.
//!
//! `engine` keeps collections of points on disk and finds the nearest ones; `qdrant` and `platform` are doors that turn
//! wire types into the engine's and back. The engine knows no protocol, the doors know no file. VectorForge refuses to
//! know how text becomes a vector, and about other nodes: a collection is one shard on this node.
//!
//! Served, over REST and gRPC alike: collections (create, change, info, list, delete, exists), aliases, named dense
//! vectors with Cosine, Dot, Euclid and Manhattan, points (upsert by rows or columns, get, delete, scroll, count, facet),
//! vectors and payloads of points (set, overwrite, delete, clear), batches of updates, queries by vector, by id, by payload
//! order and at random, searches of older clients, filters (must, should, must_not, min_should; match, range,
//! values_count, is_empty, is_null, has_id, has_vector, nested), indexes on keywords, integers, floats, booleans and text.
//! Beside Qdrant's paths, `POST /collections/{name}/search`, `/query`, `/scroll`, `/count`, `/upsert` and `/delete` do what
//! the same word under `/collections/{name}/points` does. `platform.v1.VectorService` is on the gRPC port.
//!
//! Refused by name (REST 501, gRPC `UNIMPLEMENTED`; inside a filter 400): sparse and multi vectors, quantization, shards
//! and replicas, prefetch and fusion, recommend, discover, grouping, geo and date conditions, conditional updates,
//! snapshots by request.
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
