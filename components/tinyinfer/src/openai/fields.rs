//! A request's parameters, read one by one, so that every refusal names the parameter and says what it should be.
//!
//! Fields that nobody reads are tolerated, as OpenAI's clients send new ones before servers know them. `null` is the
//! same as absent.

use std::ops::RangeInclusive;

use axum::body::{Body, to_bytes};
use http::StatusCode;
use serde_json::{Map, Value};

use super::error::ApiError;

/// The JSON object of a request.
#[derive(Debug, Clone)]
pub struct Fields {
    map: Map<String, Value>,
    /// Bytes that it was read from.
    size: usize,
}

impl Fields {
    /// Reads a request's body of at most `limit` bytes.
    pub async fn read(body: Body, limit: usize) -> Result<Self, ApiError> {
        let bytes = to_bytes(body, limit).await.map_err(|error| {
            let mut causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
            if causes.any(|cause| cause.to_string().contains("length limit")) {
                let sentence = format!("the request's body is larger than {limit} bytes");
                ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE, &sentence)
            } else {
                ApiError::of_status(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive whole")
            }
        })?;
        Self::parse(&bytes)
    }

    /// Parses a request's body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self { map, size: bytes.len() }),
            Ok(other) => {
                Err(ApiError::invalid(format!("The body must be a JSON object, not {}.", kind(&other))))
            }
            Err(error) => {
                Err(ApiError::invalid(format!("We could not parse the JSON body of your request: {error}.")))
            }
        }
    }

    /// A value that is there and not null.
    pub fn given(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A number in a range.
    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong_type(name, "a number", value))?;
        if !range.contains(&number) {
            return Err(out_of_range(name, &number, range.start(), range.end()));
        }
        Ok(Some(number))
    }

    /// A whole number in a range.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let integer = whole(value).ok_or_else(|| wrong_type(name, "an integer", value))?;
        if !range.contains(&integer) {
            return Err(out_of_range(name, &integer, range.start(), range.end()));
        }
        Ok(Some(integer))
    }

    /// A count from `least` to `most`.
    pub fn count(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>, ApiError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        Ok(self.integer(name, least as i64..=most)?.map(|count| count as usize))
    }

    /// True or false; absent is `default`.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.given(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| wrong_type(name, "a boolean", value)),
        }
    }

    /// A string.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match self.given(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| wrong_type(name, "a string", value)),
        }
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.given(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { map: map.clone(), size: self.size })),
            Some(value) => Err(wrong_type(name, "an object", value)),
        }
    }

    /// The object's own map.
    pub fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// Bytes of the request's body.
    pub fn size(&self) -> usize {
        self.size
    }

    /// An array.
    pub fn array(&self, name: &str) -> Result<Option<&[Value]>, ApiError> {
        match self.given(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(value) => Err(wrong_type(name, "an array", value)),
        }
    }

    /// Token ids.
    pub fn tokens(&self, name: &str) -> Result<Option<Vec<u32>>, ApiError> {
        let Some(items) = self.array(name)? else { return Ok(None) };
        items
            .iter()
            .enumerate()
            .map(|(at, item)| token(&format!("{name}[{at}]"), item))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Refuses a parameter that asks for something this server does not do.
    pub fn refuse(&self, name: &str, sentence: &str) -> Result<(), ApiError> {
        let asks = match self.given(name) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        };
        if asks { Err(ApiError::unsupported(name, sentence)) } else { Ok(()) }
    }
}

/// A token id.
pub fn token(name: &str, value: &Value) -> Result<u32, ApiError> {
    let integer = whole(value).ok_or_else(|| wrong_type(name, "a token id", value))?;
    u32::try_from(integer).map_err(|_| out_of_range(name, &integer, &0, &u32::MAX))
}

/// A whole number, written as one or as `2.0`.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64))
}

/// 400: the value is of another type.
pub fn wrong_type(name: &str, expected: &str, value: &Value) -> ApiError {
    let message = format!("Invalid type for '{name}': expected {expected}, but got {} instead.", kind(value));
    ApiError::parameter(name, "invalid_type", message)
}

fn out_of_range<T: std::fmt::Display, U: std::fmt::Display>(
    name: &str,
    value: &T,
    least: &U,
    most: &U,
) -> ApiError {
    let message = format!("Invalid value for '{name}': {value} is not between {least} and {most}.");
    ApiError::parameter(name, "invalid_value", message)
}

/// 400: the value is of the right type and wrong.
pub fn wrong_value(name: &str, message: &str) -> ApiError {
    ApiError::parameter(name, "invalid_value", format!("Invalid value for '{name}': {message}."))
}

/// 400: a parameter that must be there.
pub fn missing(name: &str) -> ApiError {
    ApiError::parameter(name, "missing_required_parameter", format!("Missing required parameter: '{name}'."))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
