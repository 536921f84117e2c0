//! The door for Qdrant's clients: REST and gRPC.
//!
//! What each door does is the same, so it stands once, in [`ops`]; `json` and `grpc` only turn wire types into the
//! engine's and back. Unknown fields are refused by name; parts of Qdrant that are not here are refused by name as well.

mod error;
mod grpc;
mod json;
mod limits;
mod ops;
mod rest;

pub(crate) use error::DoorError;
pub(crate) use grpc::add_services;
pub(crate) use json::collection::Defaults;
pub(crate) use json::collection::{CreateJson, DistanceJson, VectorJson, VectorsJson};
pub(crate) use json::query::QueryKind;
pub(crate) use ops::{Door, Operation, QueryRequest};
pub(crate) use rest::{refusal, router};

/// Clients ask for it before they talk.
const TITLE: &str = "qdrant - vector search engine";
/// The version of Qdrant's interface that is spoken here; clients compare it with their own.
const VERSION: &str = "1.20.0";
/// The commit this was built from, 40 hexadecimal digits; zeros when the build did not say.
const COMMIT: &str = match option_env!("AISTACK_COMMIT") {
    Some(commit) => commit,
    None => "0000000000000000000000000000000000000000",
};
