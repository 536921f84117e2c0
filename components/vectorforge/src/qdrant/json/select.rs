//! What comes back with each point, and which points a write means.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::filter::FilterJson;
use super::id::{Id, engine_ids};
use super::unknown_form;
use crate::engine::{JsonPath, Selector, WithPayload, WithVectors};
use crate::qdrant::error::DoorError;

/// `with_payload`: true, false, a list of paths, `{"include": […]}` or `{"exclude": […]}`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PayloadChoice(pub(crate) WithPayload);

impl<'de> Deserialize<'de> for PayloadChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let paths = |value: Value| -> Result<Vec<JsonPath>, D::Error> {
            let texts: Vec<String> = serde_json::from_value(value).map_err(D::Error::custom)?;
            texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
        };
        let choice = match value {
            Value::Bool(true) => WithPayload::All,
            Value::Bool(false) => WithPayload::None,
            Value::Array(_) => WithPayload::Include(paths(value)?),
            Value::Object(mut map) if map.len() == 1 && map.contains_key("include") => {
                WithPayload::Include(paths(map.remove("include").unwrap_or_default())?)
            }
            Value::Object(mut map) if map.len() == 1 && map.contains_key("exclude") => {
                WithPayload::Exclude(paths(map.remove("exclude").unwrap_or_default())?)
            }
            other => {
                let forms = ["true", "false", "a list of keys", "{\"include\": […]}", "{\"exclude\": […]}"];
                return Err(unknown_form("with_payload", &forms, &other));
            }
        };
        Ok(Self(choice))
    }
}

/// The choice, or what applies when a request makes none.
pub(crate) fn payload_or(choice: Option<PayloadChoice>, default: WithPayload) -> WithPayload {
    choice.map_or(default, |choice| choice.0)
}

/// `with_vector`: true, false, or a list of names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VectorChoice(pub(crate) WithVectors);

impl<'de> Deserialize<'de> for VectorChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(true) => Ok(Self(WithVectors::All)),
            Value::Bool(false) => Ok(Self(WithVectors::None)),
            Value::Array(names) => Ok(Self(WithVectors::Names(
                serde_json::from_value(Value::Array(names)).map_err(D::Error::custom)?,
            ))),
            other => Err(unknown_form("with_vector", &["true", "false", "a list of vector names"], &other)),
        }
    }
}

/// The choice, or none.
pub(crate) fn vectors_or_none(choice: Option<VectorChoice>) -> WithVectors {
    choice.map_or(WithVectors::None, |choice| choice.0)
}

/// `shard_key`: only its absence. VectorForge keeps a collection in one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NoShardKey;

impl<'de> Deserialize<'de> for NoShardKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(Self),
            _ => Err(D::Error::custom("shard keys are not supported by VectorForge; leave `shard_key` out")),
        }
    }
}

/// `{"points": [ids]}` or `{"filter": {…}}`: the selector of deletes and of clearing payloads.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SelectorJson {
    points: Option<Vec<Id>>,
    filter: Option<FilterJson>,
    #[serde(default, rename = "shard_key")]
    _shard_key: NoShardKey,
}

impl SelectorJson {
    pub(crate) fn selector(self) -> Result<Selector, DoorError> {
        selector(self.points, self.filter)
    }
}

/// Exactly one of ids and filter.
pub(crate) fn selector(points: Option<Vec<Id>>, filter: Option<FilterJson>) -> Result<Selector, DoorError> {
    match (points, filter) {
        (Some(ids), None) => Ok(Selector::Ids(engine_ids(ids))),
        (None, Some(filter)) => Ok(Selector::Filter(filter.0)),
        (None, None) => Err(DoorError::input("either `points` or `filter` must say which points are meant")),
        (Some(_), Some(_)) => {
            Err(DoorError::input("`points` and `filter` exclude each other; give one of them"))
        }
    }
}
