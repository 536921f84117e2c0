//! Errors in OpenAI's form, and the one place where causes become status codes.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::chat::ChatError;
use crate::engine::{EmbedError, EngineError};
use crate::served::RoomError;
use crate::tokenizer::TokenizerError;

/// A refusal or a failure, as clients of the OpenAI API read it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// 400 about the request as a whole.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400 about one parameter.
    pub fn parameter(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), code: Some(code), ..Self::invalid(message) }
    }

    /// 400: a parameter that asks for something this server does not do.
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self::parameter(param, "unsupported_parameter", message)
    }

    /// 404 for a model, with the names that are served.
    pub fn no_such_model(asked: &str, served: &[String]) -> Self {
        let closest = closest_first(asked, served);
        let message =
            format!("The model `{asked}` does not exist. This server serves: {}.", closest.join(", "));
        Self {
            param: Some("model".to_owned()),
            code: Some("model_not_found"),
            ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
        }
    }

    /// 404 for a path.
    pub fn no_such_path(method: &http::Method, path: &str) -> Self {
        let message = format!("Invalid URL ({method} {path})");
        Self {
            code: Some("unknown_url"),
            ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
        }
    }

    /// 405.
    pub fn wrong_method(method: &http::Method, path: &str) -> Self {
        let message = format!("{path} does not answer {method}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self { code: Some("method_not_allowed"), ..Self::new(status, "invalid_request_error", message) }
    }

    /// An error of any status: what the chassis refuses.
    pub fn of_status(status: StatusCode, message: &str) -> Self {
        let (kind, code) = match status {
            StatusCode::UNAUTHORIZED => ("authentication_error", Some("invalid_api_key")),
            StatusCode::PAYLOAD_TOO_LARGE => ("invalid_request_error", Some("request_too_large")),
            StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", Some("rate_limit_exceeded")),
            status if status.is_server_error() => ("server_error", None),
            _ => ("invalid_request_error", None),
        };
        Self { code, ..Self::new(status, kind, message) }
    }

    /// Names the parameter that caused it, where the cause does not know.
    #[must_use]
    pub fn about(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// The body's `error` object.
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil() as u64));
        }
        // Clients repeat 5xx by themselves; what failed by its own doing would only fail again.
        if matches!(self.status, StatusCode::GATEWAY_TIMEOUT | StatusCode::INTERNAL_SERVER_ERROR) {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}

/// What the chassis calls to write its refusals.
pub fn chassis_error(status: StatusCode, sentence: &str) -> Response {
    ApiError::of_status(status, sentence).into_response()
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::Busy { retry_after, .. } => Self {
                retry_after: Some(retry_after),
                ..Self::of_status(StatusCode::TOO_MANY_REQUESTS, &message)
            },
            EngineError::NeverFits { .. } => {
                Self { code: Some("context_length_exceeded"), ..Self::invalid(message) }
            }
            EngineError::TimedOut { .. } => {
                Self { code: Some("timeout"), ..Self::of_status(StatusCode::GATEWAY_TIMEOUT, &message) }
            }
            EngineError::Model { .. } => Self::of_status(StatusCode::INTERNAL_SERVER_ERROR, &message),
            EngineError::Stopped => Self::of_status(StatusCode::SERVICE_UNAVAILABLE, &message),
        }
    }
}

impl From<EmbedError> for ApiError {
    fn from(error: EmbedError) -> Self {
        let message = error.to_string();
        match error {
            EmbedError::Busy { .. } => Self {
                retry_after: Some(Duration::from_secs(1)),
                ..Self::of_status(StatusCode::TOO_MANY_REQUESTS, &message)
            },
            EmbedError::TimedOut => {
                Self { code: Some("timeout"), ..Self::of_status(StatusCode::GATEWAY_TIMEOUT, &message) }
            }
            EmbedError::Model { .. } => Self::of_status(StatusCode::INTERNAL_SERVER_ERROR, &message),
            EmbedError::Stopped => Self::of_status(StatusCode::SERVICE_UNAVAILABLE, &message),
        }
    }
}

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        let message = error.to_string();
        match error {
            RoomError::Prompt { .. } | RoomError::Text { .. } | RoomError::Reply { .. } => {
                Self { code: Some("context_length_exceeded"), ..Self::invalid(message) }
            }
            RoomError::Empty | RoomError::UnknownToken { .. } => {
                Self { code: Some("invalid_value"), ..Self::invalid(message) }
            }
        }
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> Self {
        Self::parameter("messages", "invalid_value", error.to_string())
    }
}

impl From<TokenizerError> for ApiError {
    fn from(error: TokenizerError) -> Self {
        Self::of_status(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
    }
}

/// Names by their distance from what was asked for.
fn closest_first<'a>(asked: &str, served: &'a [String]) -> Vec<&'a str> {
    let mut names: Vec<&str> = served.iter().map(String::as_str).collect();
    names.sort_by_key(|name| edit_distance(&asked.to_lowercase(), &name.to_lowercase()));
    names
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(256).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, c) in a.chars().take(256).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_model_is_answered_with_the_closest_names() {
        let served = ["all-minilm".to_owned(), "smollm2-135m".to_owned()];
        let body = ApiError::no_such_model("smolm2-135M", &served).body();
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("serves: smollm2-135m, all-minilm"), "{message}");
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
