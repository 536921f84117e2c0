//! The routes of the OpenAI door.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::forward::{Call, Gateway};
use super::keys::Keys;
use super::scan::scan;
use crate::error::ApiError;

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

#[derive(Debug, Clone)]
struct Door {
    gateway: Arc<Gateway>,
    keys: Arc<Keys>,
}

/// The routes.
pub fn router(gateway: Arc<Gateway>, keys: Arc<Keys>) -> Router {
    let mut router = Router::new().route("/v1/models", get(models)).route("/v1/models/{*model}", get(model));
    for path in FORWARDED {
        router = router.route(path, post(infer));
    }
    router.layer(DefaultBodyLimit::disable()).with_state(Door { gateway, keys })
}

async fn infer(State(door): State<Door>, request: Request) -> Response {
    door.infer(request).await.unwrap_or_else(IntoResponse::into_response)
}

impl Door {
    async fn infer(&self, request: Request) -> Result<Response, ApiError> {
        let refuse = |error| self.gateway.refuse("", error);
        let caller = self.keys.caller(request.headers()).map_err(refuse)?;
        let (parts, body) = request.into_parts();
        let body = self.read(&parts.headers, body).await.map_err(refuse)?;
        let scan = scan(&body).map_err(|e| refuse(ApiError::invalid("invalid_json", e.to_string())))?;
        let Some(model) = scan.model.as_deref() else {
            let message = "model is missing: name one of those that GET /v1/models lists";
            return Err(refuse(ApiError::invalid("model_missing", message)));
        };
        self.gateway.route(model)?;
        let reserve = body.len() as u64 / 4 + scan.max_tokens.unwrap_or(UNLIMITED_ANSWER);
        let admission =
            self.keys.admit(&caller, reserve).map_err(|error| self.gateway.refuse(model, error))?;
        let path = parts.uri.path();
        let call = Call { path, model, headers: &parts.headers, body: body.clone(), stream: scan.stream };
        self.gateway.forward(call, admission).await
    }

    async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
        let limit = self.gateway.limits().max_request_bytes;
        let too_large = || {
            let message = format!("the request is larger than {limit} bytes (limits.max_request_bytes)");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
        };
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        match Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(error) => {
                Err(ApiError::invalid("body_broke_off", format!("the request's body broke off: {error}")))
            }
        }
    }
}

async fn models(State(door): State<Door>, headers: HeaderMap) -> Result<Response, ApiError> {
    door.keys.caller(&headers)?;
    let routes = door.gateway.engines.routes();
    let mut models: Vec<&String> = routes.keys().collect();
    models.sort_unstable();
    let data: Vec<serde_json::Value> = models.into_iter().map(|m| door.describe(m)).collect();
    Ok(axum::Json(serde_json::json!({"object": "list", "data": data})).into_response())
}

async fn model(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(model): Path<String>,
) -> Result<Response, ApiError> {
    door.keys.caller(&headers)?;
    door.gateway.route(&model)?;
    Ok(axum::Json(door.describe(&model)).into_response())
}

impl Door {
    fn describe(&self, model: &str) -> serde_json::Value {
        let route = self.gateway.engines.route(model);
        let engines: Vec<serde_json::Value> = route
            .iter()
            .flat_map(|route| &route.engines)
            .map(|&i| &self.gateway.engines.list[i])
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
