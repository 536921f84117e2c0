//! Requests that search, walk or tally: query, search, scroll, facet.

use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::filter::FilterJson;
use super::id::{Id, parse_uuid};
use super::select::{NoShardKey, PayloadChoice, VectorChoice};
use super::vector::{Dense, not_dense, read_components};
use crate::engine::{Direction, OrderBy, PointId, SearchParams};

/// `params` of a search. Quantization is not there, so its settings must not ask for it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParamsJson {
    hnsw_ef: Option<usize>,
    exact: Option<bool>,
    indexed_only: Option<bool>,
    /// Searches run on the full vectors; every setting of quantization is met by that.
    #[serde(rename = "quantization")]
    _quantization: Option<QuantizationParamsJson>,
    /// The planner picks the walk by selectivity; ACORN is a hint that it does not need.
    #[serde(rename = "acorn")]
    _acorn: Option<AcornJson>,
    idf: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuantizationParamsJson {
    #[serde(rename = "ignore")]
    _ignore: Option<bool>,
    #[serde(rename = "rescore")]
    _rescore: Option<bool>,
    #[serde(rename = "oversampling")]
    _oversampling: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct AcornJson {
    #[serde(rename = "enable")]
    _enable: Option<bool>,
    #[serde(rename = "max_selectivity")]
    _max_selectivity: Option<f64>,
}

impl ParamsJson {
    pub(crate) fn engine(&self) -> Result<SearchParams, String> {
        if self.idf.is_some() {
            return Err("`params.idf` (sparse vectors)".to_owned());
        }
        Ok(SearchParams {
            ef: self.hnsw_ef,
            exact: self.exact.unwrap_or(false),
            indexed_only: self.indexed_only.unwrap_or(false),
        })
    }
}

/// What a query looks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum QueryKind {
    /// Nearest to a vector.
    Vector(Vec<f32>),
    /// Nearest to a point's vector, the point itself left out.
    Id(PointId),
    /// By a payload value.
    OrderBy(OrderBy),
    /// A random sample.
    Sample,
    /// Something that VectorForge refuses, by name.
    Unsupported(&'static str),
}

const UNSUPPORTED: &[&str] =
    &["recommend", "discover", "context", "fusion", "rrf", "formula", "relevance_feedback", "text"];

impl<'de> Deserialize<'de> for QueryKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QueryVisitor)
    }
}

struct QueryVisitor;

impl<'de> Visitor<'de> for QueryVisitor {
    type Value = QueryKind;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a vector, a point id, or an object such as {\"nearest\": …}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<QueryKind, A::Error> {
        read_components(list).map(QueryKind::Vector)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<QueryKind, E> {
        Ok(QueryKind::Id(PointId::Num(number)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<QueryKind, E> {
        parse_uuid(text).map(QueryKind::Id).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<QueryKind, A::Error> {
        let Some(key) = map.next_key::<String>()? else {
            return Err(A::Error::custom(
                "an empty object is no query; expected nearest, order_by or sample",
            ));
        };
        let kind = match key.as_str() {
            "nearest" => {
                let kind: QueryKind = map.next_value()?;
                if !matches!(kind, QueryKind::Vector(_) | QueryKind::Id(_)) {
                    return Err(A::Error::custom("`nearest` is a vector or a point id"));
                }
                kind
            }
            "order_by" => QueryKind::OrderBy(map.next_value::<OrderByJson>()?.0),
            "sample" => {
                let which: String = map.next_value()?;
                if which != "random" {
                    return Err(A::Error::custom(format!("unknown sample `{which}`, expected `random`")));
                }
                QueryKind::Sample
            }
            other => match UNSUPPORTED.iter().find(|name| **name == other) {
                Some(name) => {
                    let _: Value = map.next_value()?;
                    while map.next_entry::<String, Value>()?.is_some() {}
                    return Ok(QueryKind::Unsupported(name));
                }
                None if ["indices", "values", "model", "image", "object"].contains(&other) => {
                    return Err(A::Error::custom(not_dense(Some(other))));
                }
                None => {
                    return Err(A::Error::custom(format!(
                        "unknown query `{other}`, expected a vector, a point id, nearest, order_by or sample"
                    )));
                }
            },
        };
        while let Some((extra, value)) = map.next_entry::<String, Value>()? {
            match extra.as_str() {
                "mmr" if value.is_null() => {}
                "mmr" => return Ok(QueryKind::Unsupported("mmr")),
                _ => return Err(A::Error::custom(format!("unknown field `{extra}` beside `{key}`"))),
            }
        }
        Ok(kind)
    }
}

/// `order_by`: a key, or an object with key, direction and start.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OrderByJson(pub(crate) OrderBy);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderByFields {
    key: String,
    direction: Option<DirectionJson>,
    start_from: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum DirectionJson {
    Asc,
    Desc,
}

impl<'de> Deserialize<'de> for OrderByJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = match Value::deserialize(deserializer)? {
            Value::String(key) => OrderByFields { key, direction: None, start_from: None },
            other => serde_json::from_value(other).map_err(D::Error::custom)?,
        };
        let start_from = match fields.start_from {
            None | Some(Value::Null) => None,
            Some(Value::Number(number)) => number.as_f64(),
            Some(_) => {
                return Err(D::Error::custom(
                    "start_from is a number; dates are not supported by VectorForge",
                ));
            }
        };
        let direction = match fields.direction {
            None | Some(DirectionJson::Asc) => Direction::Ascending,
            Some(DirectionJson::Desc) => Direction::Descending,
        };
        let key = fields.key.parse().map_err(D::Error::custom)?;
        Ok(Self(OrderBy { key, direction, start_from }))
    }
}

/// Where to look up the vector of a query by id.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookupJson {
    pub(crate) collection: String,
    pub(crate) vector: Option<String>,
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
}

/// The universal query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryJson {
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
    pub(crate) prefetch: Option<Value>,
    pub(crate) query: Option<QueryKind>,
    pub(crate) using: Option<String>,
    pub(crate) filter: Option<FilterJson>,
    pub(crate) params: Option<ParamsJson>,
    pub(crate) score_threshold: Option<f32>,
    pub(crate) limit: Option<usize>,
    pub(crate) offset: Option<usize>,
    pub(crate) with_vector: Option<VectorChoice>,
    pub(crate) with_payload: Option<PayloadChoice>,
    pub(crate) lookup_from: Option<LookupJson>,
}

/// A batch of queries.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryBatchJson {
    pub(crate) searches: Vec<QueryJson>,
}

/// The vector of a search of older clients: a list, or `{"name": …, "vector": […]}`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NamedQueryVector {
    pub(crate) name: Option<String>,
    pub(crate) vector: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedFields {
    name: String,
    vector: Dense,
}

impl<'de> Deserialize<'de> for NamedQueryVector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = NamedQueryVector;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of numbers or {\"name\": …, \"vector\": […]}")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<NamedQueryVector, A::Error> {
                Ok(NamedQueryVector { name: None, vector: read_components(list)? })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NamedQueryVector, A::Error> {
                let fields = NamedFields::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(NamedQueryVector { name: Some(fields.name), vector: fields.vector.0 })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `points/search`, which Qdrant dropped in 1.19 and older clients still send.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchJson {
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
    pub(crate) vector: NamedQueryVector,
    pub(crate) filter: Option<FilterJson>,
    pub(crate) params: Option<ParamsJson>,
    pub(crate) limit: usize,
    pub(crate) offset: Option<usize>,
    pub(crate) with_payload: Option<PayloadChoice>,
    pub(crate) with_vector: Option<VectorChoice>,
    pub(crate) score_threshold: Option<f32>,
}

/// A batch of such searches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchBatchJson {
    pub(crate) searches: Vec<SearchJson>,
}

/// A page of points.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScrollJson {
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
    pub(crate) offset: Option<Id>,
    pub(crate) limit: Option<usize>,
    pub(crate) filter: Option<FilterJson>,
    pub(crate) with_payload: Option<PayloadChoice>,
    pub(crate) with_vector: Option<VectorChoice>,
    pub(crate) order_by: Option<OrderByJson>,
}

/// The values of a key and how many points have each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FacetJson {
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
    pub(crate) key: String,
    pub(crate) limit: Option<usize>,
    pub(crate) filter: Option<FilterJson>,
    /// Counts are always exact.
    #[serde(rename = "exact")]
    _exact: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_a_vector_an_id_or_a_named_kind() {
        let parse = |text: &str| serde_json::from_str::<QueryKind>(text).map_err(|error| error.to_string());
        assert_eq!(parse("[1, 2.5, -3]"), Ok(QueryKind::Vector(vec![1.0, 2.5, -3.0])));
        assert_eq!(parse("7"), Ok(QueryKind::Id(PointId::Num(7))));
        assert_eq!(parse(r#"{"nearest": [1]}"#), Ok(QueryKind::Vector(vec![1.0])));
        assert_eq!(parse(r#"{"sample": "random"}"#), Ok(QueryKind::Sample));
        assert_eq!(parse(r#"{"fusion": "rrf"}"#), Ok(QueryKind::Unsupported("fusion")));
        assert_eq!(
            parse(r#"{"nearest": [1], "mmr": {"diversity": 0.5}}"#),
            Ok(QueryKind::Unsupported("mmr"))
        );
        for (text, expected) in [
            ("[[1]]", "multivectors"),
            ("[1e99]", "not finite"),
            ("-1", "a vector, a point id"),
            (r#"{"indices": [1], "values": [1.0]}"#, "sparse vectors"),
            (r#"{"near": [1]}"#, "unknown query `near`"),
            (r#"{"nearest": [1], "limt": 1}"#, "unknown field `limt`"),
            (r#"{"order_by": {"key": "a", "dir": 1}}"#, "unknown field `dir`"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
