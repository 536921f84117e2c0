//! Vectors: a list of numbers, or such lists by name.
//!
//! Parsed straight into `f32`, since vectors are most of the bytes of a request.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{UNNAMED, Vectors};

/// One dense vector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dense(pub(crate) Vec<f32>);

/// A component, finite as an `f32`.
struct Component(f32);

impl<'de> Deserialize<'de> for Component {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ComponentVisitor)
    }
}

struct ComponentVisitor;

impl<'de> Visitor<'de> for ComponentVisitor {
    type Value = Component;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Component, E> {
        let narrow = value as f32;
        if narrow.is_finite() {
            Ok(Component(narrow))
        } else {
            Err(E::custom(format!("{value} is not finite as a 32-bit float")))
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Component, E> {
        Ok(Component(value as f32))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Component, E> {
        Ok(Component(value as f32))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Component, A::Error> {
        Err(A::Error::custom("a list inside a vector: multivectors are not supported by VectorForge"))
    }
}

impl<'de> Deserialize<'de> for Dense {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DenseVisitor)
    }
}

struct DenseVisitor;

impl<'de> Visitor<'de> for DenseVisitor {
    type Value = Dense;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a vector: a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Dense, A::Error> {
        read_components(list).map(Dense)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Dense, A::Error> {
        let key: Option<String> = map.next_key()?;
        Err(A::Error::custom(not_dense(key.as_deref())))
    }
}

/// Why an object is no dense vector.
pub(crate) fn not_dense(key: Option<&str>) -> String {
    match key {
        Some("indices" | "values") => "sparse vectors are not supported by VectorForge".to_owned(),
        Some("text" | "image" | "object" | "model") => {
            "inference inside the database is not supported by VectorForge; send the embedding".to_owned()
        }
        _ => "a vector is a list of numbers".to_owned(),
    }
}

/// Reads the rest of a list as components.
pub(crate) fn read_components<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Vec<f32>, A::Error> {
    let mut components = Vec::with_capacity(list.size_hint().unwrap_or(0).min(4096));
    while let Some(Component(value)) = list.next_element()? {
        components.push(value);
    }
    Ok(components)
}

impl Serialize for Dense {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// The vectors of a point: the unnamed one, or several by name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PointVectors(pub(crate) Vectors);

impl<'de> Deserialize<'de> for PointVectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PointVectorsVisitor)
    }
}

struct PointVectorsVisitor;

impl<'de> Visitor<'de> for PointVectorsVisitor {
    type Value = PointVectors;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a vector (a list of numbers) or an object of named vectors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<PointVectors, A::Error> {
        Ok(PointVectors(Vectors::unnamed(read_components(list)?)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PointVectors, A::Error> {
        let mut vectors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let Dense(vector) = map.next_value()?;
            vectors.insert(name, vector);
        }
        Ok(PointVectors(Vectors(vectors)))
    }
}

impl Serialize for PointVectors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let vectors = &self.0.0;
        if vectors.len() == 1
            && let Some(unnamed) = vectors.get(UNNAMED)
        {
            return unnamed.serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(vectors.len()))?;
        for (name, vector) in vectors {
            map.serialize_entry(name, vector)?;
        }
        map.end()
    }
}

/// The vectors of a columnar batch: one list of vectors, or one by name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BatchVectors {
    /// Unnamed vectors in the order of the ids.
    Unnamed(Vec<Dense>),
    /// Columns by name.
    Named(BTreeMap<String, Vec<Dense>>),
}

impl<'de> Deserialize<'de> for BatchVectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BatchVisitor)
    }
}

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = BatchVectors;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of vectors or an object of such lists by name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<BatchVectors, A::Error> {
        let mut vectors = Vec::new();
        while let Some(vector) = list.next_element()? {
            vectors.push(vector);
        }
        Ok(BatchVectors::Unnamed(vectors))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BatchVectors, A::Error> {
        let mut columns = BTreeMap::new();
        while let Some((name, column)) = map.next_entry()? {
            columns.insert(name, column);
        }
        Ok(BatchVectors::Named(columns))
    }
}
