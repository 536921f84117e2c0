//! The REST routes of traffic.

use std::sync::Arc;

use aistack_api::traffic::{CanaryCommand, TrafficDeleted, TrafficList, TrafficRoute, TrafficState};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, header};

use super::routes::{Expected, Traffic};
use crate::error::ApiError;
use crate::gateway::Keys;
use crate::json_body::JsonBody;

#[derive(Debug, Clone)]
struct Door {
    traffic: Arc<Traffic>,
    keys: Arc<Keys>,
}

/// The routes.
pub fn router(traffic: Arc<Traffic>, keys: Arc<Keys>) -> Router {
    Router::new()
        .route("/api/v1/traffic", get(list))
        .route("/api/v1/traffic/{*model}", get(one).put(put).post(command).delete(remove))
        .with_state(Door { traffic, keys })
}

async fn list(State(door): State<Door>, headers: HeaderMap) -> Result<Json<TrafficList>, ApiError> {
    door.keys.require_admin(&headers)?;
    Ok(Json(TrafficList { routes: door.traffic.states().await? }))
}

async fn one(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(model): Path<String>,
) -> Result<Response, ApiError> {
    door.keys.require_admin(&headers)?;
    door.shown(&model).await
}

async fn put(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(model): Path<String>,
    JsonBody(route): JsonBody<TrafficRoute>,
) -> Result<Response, ApiError> {
    door.keys.require_admin(&headers)?;
    door.traffic.put(&model, route, expected(&headers)?).await?;
    door.shown(&model).await
}

async fn command(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(model): Path<String>,
    JsonBody(command): JsonBody<CanaryCommand>,
) -> Result<Response, ApiError> {
    door.keys.require_admin(&headers)?;
    door.traffic.command(&model, command.canary).await?;
    door.shown(&model).await
}

async fn remove(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(model): Path<String>,
) -> Result<Json<TrafficDeleted>, ApiError> {
    door.keys.require_admin(&headers)?;
    Ok(Json(door.traffic.remove(&model, expected(&headers)?).await?))
}

impl Door {
    async fn shown(&self, model: &str) -> Result<Response, ApiError> {
        let state: TrafficState = self.traffic.state(model).await?;
        let tag = HeaderValue::from_str(&format!("\"{}\"", state.revision));
        let mut response = Json(state).into_response();
        if let Ok(tag) = tag {
            response.headers_mut().insert(header::ETAG, tag);
        }
        Ok(response)
    }
}

/// What the conditional headers ask for.
fn expected(headers: &HeaderMap) -> Result<Expected, ApiError> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default().trim());
    if let Some(none) = text(header::IF_NONE_MATCH) {
        if none == "*" {
            return Ok(Expected::Absent);
        }
        return Err(ApiError::invalid("invalid_condition", "If-None-Match is understood as * only"));
    }
    match text(header::IF_MATCH) {
        None | Some("*") => Ok(Expected::Any),
        Some(tag) => tag.trim_matches('"').parse().map(Expected::At).map_err(|_| {
            let message = format!("If-Match is the revision that GET shows, such as \"17\", not {tag}");
            ApiError::invalid("invalid_condition", message)
        }),
    }
}
