//! Request bodies whose errors have our form.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Largest body of a management call.
const LIMIT: u64 = 16 << 20;

/// Why a body did not arrive.
#[derive(Debug)]
pub enum BodyError {
    /// It is larger than allowed.
    TooLarge,
    /// The client stopped sending.
    BrokeOff(String),
}

/// Reads a whole body; one that announces too much is refused before anything of it is read.
pub async fn read(headers: &HeaderMap, body: Body, limit: u64) -> Result<Bytes, BodyError> {
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(BodyError::TooLarge);
    }
    match Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge),
        Err(error) => Err(BodyError::BrokeOff(format!("the request's body broke off: {error}"))),
    }
}

/// The parsed body.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, LIMIT).await.map_err(|error| match error {
            BodyError::TooLarge => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("the request is larger than {LIMIT} bytes"),
            ),
            BodyError::BrokeOff(why) => ApiError::invalid("body_broke_off", why),
        })?;
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Self).map_err(|e| ApiError::invalid("invalid_json", format!("the body does not fit: {e}")))
    }
}
