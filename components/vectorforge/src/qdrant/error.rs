//! One error for both doors: what the client is told, and with which status.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use crate::engine::{EngineError, ErrorClass};

/// A request that was refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    /// The request does not parse; the text says where.
    #[error("Format error in JSON body: {0}")]
    Format(String),
    /// The request parses, but asks for something impossible.
    #[error("Wrong input: {0}")]
    Input(String),
    /// Part of Qdrant's interface that VectorForge does not have.
    #[error("Not supported by VectorForge: {0}")]
    Unsupported(String),
    /// Something named in the request is absent.
    #[error("Not found: {0}")]
    NotFound(String),
    /// The request's `timeout` passed.
    #[error("Timeout: the request did not finish within {seconds} s")]
    Timeout {
        /// The time allowed.
        seconds: u64,
    },
    /// The engine's refusal.
    #[error("{}", engine_text(.0))]
    Engine(#[from] EngineError),
    /// A request's task ended without an answer.
    #[error("Service internal error: the request's task was lost: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl DoorError {
    pub(crate) fn input(text: impl Into<String>) -> Self {
        Self::Input(text.into())
    }

    pub(crate) fn unsupported(text: impl Into<String>) -> Self {
        Self::Unsupported(text.into())
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Format(_) | Self::Input(_) => ErrorClass::BadInput,
            Self::Unsupported(_) => ErrorClass::Unsupported,
            Self::NotFound(_) => ErrorClass::NotFound,
            Self::Timeout { .. } => ErrorClass::Unavailable,
            Self::Engine(error) => error.class(),
            Self::Task(_) => ErrorClass::Internal,
        }
    }

    /// The status of a REST answer.
    pub(crate) fn http_status(&self) -> StatusCode {
        if matches!(self, Self::Timeout { .. }) {
            return StatusCode::REQUEST_TIMEOUT;
        }
        match self.class() {
            ErrorClass::BadInput => StatusCode::BAD_REQUEST,
            ErrorClass::NotFound => StatusCode::NOT_FOUND,
            ErrorClass::Conflict => StatusCode::CONFLICT,
            ErrorClass::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorClass::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Qdrant begins its messages with their class; clients look for these words.
fn engine_text(error: &EngineError) -> String {
    let text = error.to_string();
    let prefix = match error.class() {
        ErrorClass::BadInput | ErrorClass::Conflict => "Wrong input: ",
        ErrorClass::NotFound => "Not found: ",
        ErrorClass::Unsupported => "Not supported by VectorForge: ",
        ErrorClass::Unavailable => "Service unavailable: ",
        ErrorClass::Internal => "Service internal error: ",
    };
    let text =
        text.strip_prefix("wrong input: ").or_else(|| text.strip_prefix("not supported: ")).unwrap_or(&text);
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{prefix}{first}{}", letters.as_str())
}

impl IntoResponse for DoorError {
    fn into_response(self) -> Response {
        let status = self.http_status();
        if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            tracing::error!(error = %self, "request failed");
        }
        let body = json!({"status": {"error": self.to_string()}, "time": 0.0});
        (status, Json(body)).into_response()
    }
}

impl From<DoorError> for tonic::Status {
    fn from(error: DoorError) -> Self {
        let text = error.to_string();
        if matches!(error, DoorError::Timeout { .. }) {
            return Self::deadline_exceeded(text);
        }
        match error.class() {
            ErrorClass::BadInput => Self::invalid_argument(text),
            ErrorClass::NotFound => Self::not_found(text),
            ErrorClass::Conflict => Self::already_exists(text),
            ErrorClass::Unsupported => Self::unimplemented(text),
            ErrorClass::Unavailable => Self::unavailable(text),
            ErrorClass::Internal => {
                tracing::error!(error = %text, "request failed");
                Self::internal(text)
            }
        }
    }
}
