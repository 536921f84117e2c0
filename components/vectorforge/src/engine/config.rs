//! Configuration of the engine and of collections, with the limits that are checked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::EngineError;
use super::point::UNNAMED;

/// Most components a vector may have.
pub const MAX_DIMENSION: usize = 65_536;
/// Most vector fields of a collection.
pub const MAX_VECTOR_FIELDS: usize = 64;
/// Most bytes of one payload, as JSON.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;
/// Most payload indexes of a collection.
pub const MAX_FIELD_INDEXES: usize = 256;

/// Options of the whole engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Threads that build graphs; at least one core stays with the searches when there is more than one.
    pub build_threads: usize,
    /// A checkpoint is taken this long after the last one when there are writes since.
    pub checkpoint_interval: Duration,
    /// A checkpoint is taken when the log holds this many bytes.
    pub checkpoint_wal_bytes: u64,
    /// Which implementation builds graphs.
    pub builder: BuilderKind,
    /// Copy vectors and graphs of sealed segments to anonymous memory (huge pages) instead of reading through mmap.
    pub preload: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            build_threads: cores.saturating_sub(1).max(1),
            checkpoint_interval: Duration::from_mins(1),
            checkpoint_wal_bytes: 64 << 20,
            builder: BuilderKind::Native,
            preload: false,
        }
    }
}

/// The implementations of graph building.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuilderKind {
    /// Our own HNSW builder.
    #[default]
    Native,
    /// The crate `hnsw_rs`, its graph exported into our frozen form.
    HnswRs,
}

/// What a vector field's scores mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// Cosine similarity; vectors are normalised on write and on query.
    Cosine,
    /// Dot product.
    Dot,
    /// Euclidean distance.
    Euclid,
    /// Manhattan (L1) distance.
    Manhattan,
}

impl Distance {
    /// Whether a larger score is nearer.
    pub fn larger_is_nearer(self) -> bool {
        matches!(self, Self::Cosine | Self::Dot)
    }
}

/// Parameters of a vector field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorParams {
    /// Components, 1 to [`MAX_DIMENSION`].
    pub dimension: usize,
    /// Meaning of the scores.
    pub distance: Distance,
    /// Overrides the collection's graph parameters for this field.
    #[serde(default)]
    pub hnsw: Option<HnswParams>,
}

/// Parameters of a graph (Malkov and Yashunin 2016, arXiv 1603.09320).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HnswParams {
    /// Links a node has on the upper levels; level 0 has twice as many. 4 to 64.
    pub m: usize,
    /// Candidates while inserting. 4 to 4096.
    pub ef_construct: usize,
    /// Candidates while searching, unless the query says otherwise. 1 to 65536.
    pub ef_search: usize,
    /// Segments with fewer points than this are scanned exactly and get no graph.
    pub full_scan_points: usize,
}

impl Default for HnswParams {
    fn default() -> Self {
        Self { m: 16, ef_construct: 128, ef_search: 256, full_scan_points: 10_000 }
    }
}

/// Parameters of sealing and merging.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerParams {
    /// The appendable segment is sealed at this many points.
    pub seal_points: usize,
    /// Segments are merged until at most this many remain.
    pub max_segments: usize,
    /// A segment is rewritten when this fraction of its points is deleted.
    pub vacuum_fraction: f64,
    /// False stops sealing into graphs; points stay searchable by exact scan.
    pub enabled: bool,
}

impl Default for OptimizerParams {
    fn default() -> Self {
        Self { seal_points: 20_000, max_segments: 2, vacuum_fraction: 0.2, enabled: true }
    }
}

/// What a collection is created with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectionConfig {
    /// Vector fields by name; the unnamed one is [`UNNAMED`].
    pub vectors: BTreeMap<String, VectorParams>,
    /// Graph parameters.
    pub hnsw: HnswParams,
    /// Sealing and merging.
    pub optimizer: OptimizerParams,
    /// Kept with the collection and given back untouched; a door stores here what its protocol must echo.
    #[serde(default)]
    pub annotations: serde_json::Value,
}

impl CollectionConfig {
    /// A collection with one unnamed vector and defaults elsewhere.
    pub fn unnamed(dimension: usize, distance: Distance) -> Self {
        Self {
            vectors: BTreeMap::from([(UNNAMED.to_owned(), VectorParams { dimension, distance, hnsw: None })]),
            hnsw: HnswParams::default(),
            optimizer: OptimizerParams::default(),
            annotations: serde_json::Value::Null,
        }
    }

    /// Checks every limit.
    pub fn validate(&self) -> Result<(), EngineError> {
        within("number of vector fields", self.vectors.len(), 0, MAX_VECTOR_FIELDS, "0 to 64")?;
        for params in self.vectors.values() {
            within("vector size", params.dimension, 1, MAX_DIMENSION, "1 to 65536")?;
            params.hnsw.map_or(Ok(()), |hnsw| hnsw.validate())?;
        }
        self.hnsw.validate()?;
        within("seal_points", self.optimizer.seal_points, 1, 10_000_000, "1 to 10000000")?;
        within("max_segments", self.optimizer.max_segments, 1, 1024, "1 to 1024")?;
        Ok(())
    }

    /// The graph parameters of a field.
    pub fn hnsw_of(&self, vector: &str) -> HnswParams {
        self.vectors.get(vector).and_then(|params| params.hnsw).unwrap_or(self.hnsw)
    }
}

impl HnswParams {
    fn validate(&self) -> Result<(), EngineError> {
        within("hnsw m", self.m, 4, 64, "4 to 64")?;
        within("hnsw ef_construct", self.ef_construct, 4, 4096, "4 to 4096")?;
        within("hnsw ef_search", self.ef_search, 1, 65_536, "1 to 65536")
    }
}

fn within(
    what: &'static str,
    got: usize,
    least: usize,
    most: usize,
    allowed: &'static str,
) -> Result<(), EngineError> {
    if (least..=most).contains(&got) {
        Ok(())
    } else {
        Err(EngineError::Limit { what, got: got as u64, allowed })
    }
}

/// A change of a living collection; `None` leaves the part as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigChange {
    /// New graph parameters, for graphs built from now on (`ef_search` acts at once).
    pub hnsw: Option<HnswParams>,
    /// New sealing and merging parameters.
    pub optimizer: Option<OptimizerParams>,
    /// New annotations.
    pub annotations: Option<serde_json::Value>,
}

/// Kinds of payload index. Datetime, UUID and geo indexes do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// Exact strings.
    Keyword,
    /// 64-bit integers: match and range.
    Integer,
    /// Floats: range.
    Float,
    /// true and false.
    Bool,
    /// Words of a text.
    Text,
}

/// A payload index to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldSchema {
    /// The kind.
    pub kind: FieldKind,
    /// How text becomes words; ignored by other kinds.
    #[serde(default)]
    pub text: TextParams,
}

impl From<FieldKind> for FieldSchema {
    fn from(kind: FieldKind) -> Self {
        Self { kind, text: TextParams::default() }
    }
}

/// How a text index makes words of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextParams {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Compare in lower case.
    pub lowercase: bool,
    /// Shorter words are dropped (characters).
    pub min_token_len: usize,
    /// Longer words are dropped (characters).
    pub max_token_len: usize,
}

impl Default for TextParams {
    fn default() -> Self {
        Self { tokenizer: Tokenizer::Word, lowercase: true, min_token_len: 0, max_token_len: usize::MAX }
    }
}

/// Tokenizers of text indexes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// Split at everything that is not alphanumeric.
    #[default]
    Word,
    /// Split at white space.
    Whitespace,
    /// Words and all their prefixes of at least `min_token_len` characters.
    Prefix,
}
