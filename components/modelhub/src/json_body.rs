//! A JSON request body whose errors have our form.

use axum::extract::{FromRequest, Request};
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Largest body of a management call.
const LIMIT: usize = 16 << 20;

/// The parsed body.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = Limited::new(request.into_body(), LIMIT).collect().await;
        let bytes = body
            .map_err(|e| {
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_unreadable", format!("the body: {e}"))
            })?
            .to_bytes();
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Self).map_err(|e| ApiError::invalid("invalid_json", format!("the body does not fit: {e}")))
    }
}
