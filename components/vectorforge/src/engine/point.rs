//! Points: ids, vectors, payloads.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A JSON object attached to a point.
pub type Payload = serde_json::Map<String, serde_json::Value>;

/// The name of the one unnamed vector of a collection.
pub const UNNAMED: &str = "";

/// A point's id. Numbers sort before UUIDs, each kind in its natural order; scrolling follows this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PointId {
    /// An unsigned integer.
    Num(u64),
    /// A UUID, as its 128 bits.
    Uuid(u128),
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Num(number) => write!(f, "{number}"),
            Self::Uuid(bits) => write!(f, "{}", Uuid::from_u128(*bits)),
        }
    }
}

impl From<u64> for PointId {
    fn from(number: u64) -> Self {
        Self::Num(number)
    }
}

impl From<Uuid> for PointId {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid.as_u128())
    }
}

impl FromStr for PointId {
    type Err = uuid::Error;

    /// Reads a decimal number or a UUID in any of its usual spellings.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<u64>() {
            Ok(number) => Ok(Self::Num(number)),
            Err(_) => Ok(Self::from(Uuid::parse_str(text)?)),
        }
    }
}

/// The vectors of one point by field name ([`UNNAMED`] for the unnamed one). A point may lack some fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors(pub BTreeMap<String, Vec<f32>>);

impl Vectors {
    /// One unnamed vector.
    pub fn unnamed(vector: Vec<f32>) -> Self {
        Self(BTreeMap::from([(UNNAMED.to_owned(), vector)]))
    }

    /// The vector of a field.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

impl FromIterator<(String, Vec<f32>)> for Vectors {
    fn from_iter<I: IntoIterator<Item = (String, Vec<f32>)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// A point to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The id; an existing point of that id is replaced as a whole.
    pub id: PointId,
    /// Its vectors. Cosine fields are normalised on write.
    pub vectors: Vectors,
    /// Its payload.
    pub payload: Payload,
}

/// A point as read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The id.
    pub id: PointId,
    /// The payload, as far as it was asked for.
    pub payload: Option<Payload>,
    /// The vectors, as far as they were asked for.
    pub vectors: Option<Vectors>,
    /// The value it was sorted by, when scrolling with an order.
    pub order_value: Option<OrderValue>,
}

/// A point found by a search.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredPoint {
    /// The id.
    pub id: PointId,
    /// Number of the last write that touched this point.
    pub version: u64,
    /// Cosine and Dot: similarity, larger is nearer. Euclid and Manhattan: distance, smaller is nearer.
    pub score: f32,
    /// The payload, as far as it was asked for.
    pub payload: Option<Payload>,
    /// The vectors, as far as they were asked for.
    pub vectors: Option<Vectors>,
}

/// A number that points were ordered by.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum OrderValue {
    /// From an integer index.
    Int(i64),
    /// From a float index.
    Float(f64),
}

impl OrderValue {
    /// The value as a float, for comparisons across kinds.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}
