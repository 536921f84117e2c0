//! Requests and answers of the read side, and selectors of the write side.

use std::collections::BTreeMap;

use super::config::{CollectionConfig, FieldSchema};
use super::filter::Filter;
use super::json_path::JsonPath;
use super::point::{PointId, Record};

/// Which points a write means.
#[derive(Clone, Debug, PartialEq)]
pub enum Selector {
    /// These; absent ids are skipped.
    Ids(Vec<PointId>),
    /// All that pass the filter when the write is ordered.
    Filter(Filter),
}

/// Which parts of the payload to return.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum WithPayload {
    /// Nothing.
    #[default]
    None,
    /// All of it.
    All,
    /// These paths only.
    Include(Vec<JsonPath>),
    /// All but these paths.
    Exclude(Vec<JsonPath>),
}

/// Which vectors to return.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum WithVectors {
    /// None.
    #[default]
    None,
    /// All fields.
    All,
    /// These fields; unknown names are an error.
    Names(Vec<String>),
}

/// What comes back with each point.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct With {
    /// Payload.
    pub payload: WithPayload,
    /// Vectors.
    pub vectors: WithVectors,
}

/// How to search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchParams {
    /// Candidates kept while walking the graph; the collection's default when absent.
    pub ef: Option<usize>,
    /// Compare with every point instead of walking the graph.
    pub exact: bool,
    /// Skip segments that have no graph yet (answers may miss fresh points).
    pub indexed_only: bool,
}

/// A nearest-neighbour query.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The query vector.
    pub vector: Vec<f32>,
    /// The vector field, empty for the unnamed one.
    pub using: String,
    /// Only points that pass.
    pub filter: Option<Filter>,
    /// Points to return.
    pub limit: usize,
    /// Best points to skip first.
    pub offset: usize,
    /// How to search.
    pub params: SearchParams,
    /// Drop points with a worse score (below for Cosine and Dot, above for Euclid and Manhattan).
    pub score_threshold: Option<f32>,
    /// What comes back with each point.
    pub with: With,
}

impl Query {
    /// The `limit` nearest points, ids and scores only.
    pub fn nearest(vector: Vec<f32>, limit: usize) -> Self {
        Self {
            vector,
            using: String::new(),
            filter: None,
            limit,
            offset: 0,
            params: SearchParams::default(),
            score_threshold: None,
            with: With::default(),
        }
    }
}

/// Direction of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Smallest first.
    #[default]
    Ascending,
    /// Largest first.
    Descending,
}

/// Scroll by a payload value instead of by id. Needs an integer or float index on the key.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderBy {
    /// The payload key.
    pub key: JsonPath,
    /// The direction.
    pub direction: Direction,
    /// Skip values before this one (after it, when descending).
    pub start_from: Option<f64>,
}

/// Walks over the points of a collection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scroll {
    /// Only points that pass.
    pub filter: Option<Filter>,
    /// Points a page.
    pub limit: usize,
    /// First id of the page, inclusive. Not allowed together with `order_by`.
    pub offset: Option<PointId>,
    /// Order by a payload value; points without one are left out, points with several come several times.
    pub order_by: Option<OrderBy>,
    /// What comes back with each point.
    pub with: With,
}

/// A page of a scroll.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrollPage {
    /// The points.
    pub points: Vec<Record>,
    /// `offset` of the next page; absent at the end and with `order_by`.
    pub next: Option<PointId>,
}

/// State of a collection, in the words of its status light.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectionStatus {
    /// All is well and optimised.
    Green,
    /// The optimiser is at work.
    Yellow,
    /// Work for the optimiser is pending, but it is disabled.
    Grey,
    /// The optimiser or the log failed; the message says how. Reads go on.
    Red(String),
}

/// A payload index and how many points have a value in it.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldInfo {
    /// The schema it was created with.
    pub schema: FieldSchema,
    /// Points with at least one indexed value.
    pub points: usize,
}

/// What is known of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionInfo {
    /// The status light.
    pub status: CollectionStatus,
    /// Living points.
    pub points: usize,
    /// Vectors reachable through a graph.
    pub indexed_vectors: usize,
    /// Segments, the appendable one included.
    pub segments: usize,
    /// The configuration in force.
    pub config: CollectionConfig,
    /// Payload indexes by key.
    pub fields: BTreeMap<String, FieldInfo>,
    /// Number of the last write.
    pub last_operation: u64,
    /// Bytes of the collection on disk: segments and log.
    pub disk_bytes: u64,
}

/// One change of the alias table; a batch is applied as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasChange {
    /// Points `alias` at `collection`, replacing what it pointed at.
    Create {
        /// The alias.
        alias: String,
        /// The collection it names.
        collection: String,
    },
    /// Renames an alias.
    Rename {
        /// The present name.
        from: String,
        /// The new name.
        to: String,
    },
    /// Deletes an alias.
    Delete {
        /// The alias.
        alias: String,
    },
}
