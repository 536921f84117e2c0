//! The routes of the OpenAI front.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};

use super::forward::{Call, Gateway};
use super::keys::{Admission, Caller, Keys};
use super::scan::scan;
use super::told::told;
use crate::error::ApiError;
use crate::json_body::{self, BodyError};

/// Paths that go to an engine as they are.
const FORWARDED: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/rerank",
    "/tokenize",
    "/detokenize",
];
/// Tokens that are reserved for an answer whose request does not limit it.
const UNLIMITED_ANSWER: u64 = 512;

/// What every door to the engines does with a request before it is forwarded.
#[derive(Debug, Clone)]
pub struct Front {
    /// The engines.
    pub gateway: Arc<Gateway>,
    /// Who may call them.
    pub keys: Arc<Keys>,
}

impl Front {
    /// Names the caller, or refuses.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        self.keys.caller(headers).map_err(|error| self.gateway.refuse("", error))
    }

    /// Lets a request in when its model is served here and its caller's limits allow it.
    pub fn let_in(
        &self,
        caller: &Caller,
        model: &str,
        body_bytes: usize,
        max_tokens: Option<u64>,
    ) -> Result<Option<Admission>, ApiError> {
        self.gateway.route(model)?;
        let reserve = body_bytes as u64 / 4 + max_tokens.unwrap_or(UNLIMITED_ANSWER);
        self.keys.admit(caller, reserve).map_err(|error| self.gateway.refuse(model, error))
    }
}

/// The routes.
pub fn router(front: Front) -> Router {
    let mut router = Router::new().route("/v1/models", get(models)).route("/v1/models/{*model}", get(model));
    for path in FORWARDED {
        router = router.route(path, post(infer));
    }
    router.layer(DefaultBodyLimit::disable()).with_state(front)
}

async fn infer(State(front): State<Front>, request: Request) -> Response {
    front.infer(request).await.unwrap_or_else(IntoResponse::into_response)
}

impl Front {
    async fn infer(&self, request: Request) -> Result<Response, ApiError> {
        let refuse = |error| self.gateway.refuse("", error);
        let caller = self.caller(request.headers())?;
        let limit = self.gateway.limits().max_request_bytes;
        let (parts, body) = request.into_parts();
        let body = json_body::read(&parts.headers, body, limit).await;
        let body = body.map_err(|error| refuse(unreadable(error, limit)))?;
        let scan = scan(&body).map_err(|e| refuse(ApiError::invalid("invalid_json", e.to_string())))?;
        let Some(model) = scan.model.as_deref() else {
            let message = "model is missing: name one of those that GET /v1/models lists";
            return Err(refuse(ApiError::invalid("model_missing", message)));
        };
        let admission = self.let_in(&caller, model, body.len(), scan.max_tokens)?;
        let path = parts.uri.path();
        let call = Call {
            path,
            model,
            headers: &parts.headers,
            body: body.clone(),
            stream: scan.stream,
            session: scan.session.as_deref(),
        };
        Ok(told(self.gateway.forward(call, admission).await?, model))
    }
}

fn unreadable(error: BodyError, limit: u64) -> ApiError {
    match error {
        BodyError::TooLarge => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request_too_large",
            format!("the request is larger than {limit} bytes (limits.max_request_bytes)"),
        ),
        BodyError::BrokeOff(why) => ApiError::invalid("body_broke_off", why),
    }
}

async fn models(State(front): State<Front>, headers: HeaderMap) -> Result<Response, ApiError> {
    front.keys.caller(&headers)?;
    let routes = front.gateway.engines.routes();
    let mut models: Vec<&String> = routes.keys().collect();
    models.sort_unstable();
    let data: Vec<serde_json::Value> = models.into_iter().map(|m| front.describe(m)).collect();
    Ok(axum::Json(serde_json::json!({"object": "list", "data": data})).into_response())
}

async fn model(
    State(front): State<Front>,
    headers: HeaderMap,
    Path(model): Path<String>,
) -> Result<Response, ApiError> {
    front.keys.caller(&headers)?;
    front.gateway.route(&model)?;
    Ok(axum::Json(front.describe(&model)).into_response())
}

impl Front {
    fn describe(&self, model: &str) -> serde_json::Value {
        let route = self.gateway.engines.route(model);
        let engines: Vec<serde_json::Value> = route
            .iter()
            .flat_map(|route| &route.engines)
            .map(|e| serde_json::json!({"name": e.name, "task": e.task, "ready": e.healthy()}))
            .collect();
        serde_json::json!({
            "id": model,
            "object": "model",
            "created": 0,
            "owned_by": "modelhub",
            "max_model_len": route.and_then(|route| route.context),
            "engines": engines,
        })
    }
}
