//! How a handler takes its inputs: refusals come in Qdrant's envelope and name what is wrong.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::qdrant::error::DoorError;
use crate::qdrant::json;

/// The error envelope for a status that the door itself did not choose.
pub(crate) fn refusal(status: StatusCode, sentence: &str) -> Response {
    (status, axum::Json(serde_json::json!({"status": {"error": sentence}, "time": 0.0}))).into_response()
}

/// A JSON body, parsed off the async threads when it is large.
pub(crate) struct JsonBody<T>(pub(crate) T);

/// Bodies up to this size are parsed where they arrive.
const PARSE_INLINE: usize = 64 << 10;

impl<S: Send + Sync, T: DeserializeOwned + Send + 'static> FromRequest<S> for JsonBody<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| refusal(rejection.status(), &rejection.body_text()))?;
        let parsed = if body.len() <= PARSE_INLINE {
            json::parse(&body)
        } else {
            tokio::task::spawn_blocking(move || json::parse(&body))
                .await
                .unwrap_or_else(|lost| Err(lost.into()))
        };
        parsed.map(Self).map_err(IntoResponse::into_response)
    }
}

/// The variable parts of the path.
pub(crate) struct UrlPath<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for UrlPath<T> {
    type Rejection = DoorError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, DoorError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(DoorError::input(format!("path: {}", rejection.body_text()))),
        }
    }
}

/// The parameters behind `?`.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = DoorError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, DoorError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(DoorError::input(format!("query parameters: {}", rejection.body_text()))),
        }
    }
}

/// Parameters of a write.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WriteParams {
    wait: bool,
    /// One node orders all writes of a collection; every ordering is met.
    #[serde(rename = "ordering")]
    _ordering: Option<Ordering>,
    pub(crate) timeout: Option<u64>,
}

impl WriteParams {
    pub(crate) fn wait(&self) -> bool {
        self.wait
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ordering {
    Weak,
    Medium,
    Strong,
}

/// Parameters of a read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ReadParams {
    /// One copy is all copies; every consistency is met.
    #[serde(rename = "consistency")]
    _consistency: Option<Consistency>,
    pub(crate) timeout: Option<u64>,
}

/// `majority`, `quorum`, `all`, or a number of copies.
#[derive(Debug, Clone, Copy)]
struct Consistency;

impl<'de> Deserialize<'de> for Consistency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = ["majority", "quorum", "all"].contains(&text.as_str());
        if known || text.parse::<u32>().is_ok_and(|factor| factor > 0) {
            return Ok(Self);
        }
        let sentence = format!("consistency `{text}`: expected majority, quorum, all or a number of copies");
        Err(serde::de::Error::custom(sentence))
    }
}

/// Parameters of changes to collections.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TimeoutParams {
    pub(crate) timeout: Option<u64>,
    /// Snapshots and the like take it; nothing here is deferred.
    #[serde(rename = "wait")]
    _wait: Option<bool>,
}
