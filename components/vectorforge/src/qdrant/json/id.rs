//! Point ids: an unsigned integer or a UUID as a string.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::PointId;

/// A point id on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) PointId);

/// The engine ids of a list.
pub(crate) fn engine_ids(ids: Vec<Id>) -> Vec<PointId> {
    ids.into_iter().map(|id| id.0).collect()
}

/// Reads a UUID in one of the spellings Qdrant accepts.
pub(crate) fn parse_uuid(text: &str) -> Result<PointId, String> {
    uuid::Uuid::parse_str(text)
        .map(PointId::from)
        .map_err(|_| format!("`{text}` is no point id: an id is an unsigned integer or a UUID"))
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = Id;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a point id: an unsigned integer or a UUID")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Id, E> {
        Ok(Id(PointId::Num(number)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Id, E> {
        parse_uuid(text).map(Id).map_err(E::custom)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            PointId::Num(number) => serializer.serialize_u64(number),
            PointId::Uuid(_) => serializer.collect_str(&self.0),
        }
    }
}
