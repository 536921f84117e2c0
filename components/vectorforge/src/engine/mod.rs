//! The vector engine: collections of points on one data directory.
//!
//! It knows nothing of any wire protocol, of async, or of who calls. Every call is synchronous and may touch the disk:
//! an async door calls it from `spawn_blocking`. All types are `Send + Sync`; a [`Collection`] is shared as an `Arc`.
//!
//! ```no_run
//! use vectorforge::engine::{CollectionConfig, Distance, Engine, EngineOptions, Point, Query, Vectors};
//! # fn main() -> Result<(), vectorforge::engine::EngineError> {
//! let engine = Engine::open("data".as_ref(), EngineOptions::default())?;
//! let books = engine.create_collection("books", CollectionConfig::unnamed(2, Distance::Cosine))?;
//! let point = Point { id: 1.into(), vectors: Vectors::unnamed(vec![0.6, 0.8]), payload: Default::default() };
//! books.upsert(vec![point], true)?; // on disk when this returns
//! let nearest = books.search(&Query::nearest(vec![1.0, 0.0], 10))?;
//! assert_eq!(nearest[0].id, 1.into());
//! engine.close()
//! # }
//! ```

mod catalog;
mod collection;
pub mod config;
pub mod error;
pub mod filter;
pub mod graph;
pub mod index;
pub mod json_path;
pub mod metric;
pub mod point;
pub mod query;
pub mod row_set;
pub mod search;
pub mod segment;
pub mod storage;

pub use catalog::Engine;
pub use collection::Collection;
pub use config::{
    BuilderKind, CollectionConfig, ConfigChange, Distance, EngineOptions, FieldKind, FieldSchema, HnswParams,
    OptimizerParams, TextParams, Tokenizer, VectorParams,
};
pub use error::{EngineError, ErrorClass};
pub use filter::{Condition, Filter, MatchValue, MinShould, Predicate, Range};
pub use json_path::JsonPath;
pub use point::{OrderValue, Payload, Point, PointId, Record, ScoredPoint, UNNAMED, Vectors};
pub use query::{
    AliasChange, CollectionInfo, CollectionStatus, Direction, FieldInfo, OrderBy, Query, Scroll, ScrollPage,
    SearchParams, Selector, With, WithPayload, WithVectors,
};
