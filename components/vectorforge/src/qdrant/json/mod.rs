//! Qdrant's JSON: what REST requests and answers look like. Unknown fields are refused by name, with their path.

pub(crate) mod answer;
pub(crate) mod collection;
pub(crate) mod filter;
pub(crate) mod id;
pub(crate) mod index;
pub(crate) mod points;
pub(crate) mod query;
pub(crate) mod select;
pub(crate) mod vector;

use serde::de::DeserializeOwned;

use super::error::DoorError;

/// Parses a request body. The error names the place: `points[3].vector[2]: invalid type …`.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, DoorError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        DoorError::Format(if path == "." { inner.to_string() } else { format!("{path}: {inner}") })
    })?;
    reader.end().map_err(|error| DoorError::Format(error.to_string()))?;
    Ok(value)
}

/// A value that a union type does not know: which forms there are.
pub(crate) fn unknown_form<E: serde::de::Error>(what: &str, forms: &[&str], got: &serde_json::Value) -> E {
    let got = match got {
        serde_json::Value::Object(map) => {
            format!(
                "an object with {}",
                map.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
            )
        }
        other => other.to_string(),
    };
    E::custom(format!("{what} is one of {}; got {got}", forms.join(", ")))
}
