//! The REST routes of the registry and of API keys.

use std::sync::Arc;

use aistack_api::registry::{
    Deleted, FileInfo, FileLink, KeyCreate, KeyCreated, KeyInfo, KeyList, Labels, Limits, ModelCreate,
    ModelInfo, ModelList, Update, VersionCreate, VersionInfo, VersionList,
};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::Registry;
use crate::error::ApiError;
use crate::gateway::{KeyLimits, Keys};
use crate::json_body::JsonBody;

#[derive(Debug, Clone)]
struct Door {
    registry: Registry,
    keys: Arc<Keys>,
}

/// The routes.
pub fn router(registry: Registry, keys: Arc<Keys>) -> Router {
    let file = get(download).put(upload).post(link);
    Router::new()
        .route("/api/v1/models", post(create).get(list))
        .route("/api/v1/models/{name}", get(one).patch(update).delete(remove))
        .route("/api/v1/models/{name}/versions", post(create_version).get(versions))
        .route(
            "/api/v1/models/{name}/versions/{version}",
            get(version).patch(update_version).delete(remove_version),
        )
        .route("/api/v1/models/{name}/versions/{version}/files/{*path}", file)
        .route("/api/v1/keys", post(create_key).get(list_keys))
        .route("/api/v1/keys/{id}", delete(revoke_key))
        .layer(DefaultBodyLimit::disable())
        .with_state(Door { registry, keys })
}

type Reply<T> = Result<Json<T>, ApiError>;
type Created<T> = Result<(StatusCode, Json<T>), ApiError>;

async fn create(
    State(door): State<Door>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ModelCreate>,
) -> Created<ModelInfo> {
    door.keys.require_admin(&headers)?;
    Ok((StatusCode::CREATED, Json(door.registry.create(body).await?)))
}

/// `?label=team=search&label=…` narrows the list.
async fn list(
    State(door): State<Door>,
    headers: HeaderMap,
    Query(query): Query<Vec<(String, String)>>,
) -> Reply<ModelList> {
    door.keys.caller(&headers)?;
    let mut wanted = Labels::new();
    for (name, value) in query {
        let ("label", Some((label, value))) = (name.as_str(), value.split_once('=')) else {
            let message = format!("{name}={value} is no filter: give  label=NAME=VALUE");
            return Err(ApiError::invalid("invalid_filter", message));
        };
        wanted.insert(label.to_owned(), value.to_owned());
    }
    door.registry.list(&wanted).await.map(Json)
}

async fn one(State(door): State<Door>, headers: HeaderMap, Path(name): Path<String>) -> Reply<ModelInfo> {
    door.keys.caller(&headers)?;
    door.registry.get(&name).await.map(Json)
}

async fn update(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<Update>,
) -> Reply<ModelInfo> {
    door.keys.require_admin(&headers)?;
    door.registry.update(&name, body).await.map(Json)
}

async fn remove(State(door): State<Door>, headers: HeaderMap, Path(name): Path<String>) -> Reply<Deleted> {
    door.keys.require_admin(&headers)?;
    door.registry.delete(&name).await.map(Json)
}

async fn create_version(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<VersionCreate>,
) -> Created<VersionInfo> {
    door.keys.require_admin(&headers)?;
    Ok((StatusCode::CREATED, Json(door.registry.create_version(&name, body).await?)))
}

async fn versions(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Reply<VersionList> {
    door.keys.caller(&headers)?;
    door.registry.versions(&name).await.map(Json)
}

async fn version(
    State(door): State<Door>,
    headers: HeaderMap,
    Path((name, version)): Path<(String, String)>,
) -> Reply<VersionInfo> {
    door.keys.caller(&headers)?;
    door.registry.version(&name, &version).await.map(Json)
}

async fn update_version(
    State(door): State<Door>,
    headers: HeaderMap,
    Path((name, version)): Path<(String, String)>,
    JsonBody(body): JsonBody<Update>,
) -> Reply<VersionInfo> {
    door.keys.require_admin(&headers)?;
    let version = door.registry.version(&name, &version).await?.version;
    door.registry.update_version(&name, version, body).await.map(Json)
}

async fn remove_version(
    State(door): State<Door>,
    headers: HeaderMap,
    Path((name, version)): Path<(String, String)>,
) -> Reply<Deleted> {
    door.keys.require_admin(&headers)?;
    let version = door.registry.version(&name, &version).await?.version;
    door.registry.delete_version(&name, version).await.map(Json)
}

async fn upload(
    State(door): State<Door>,
    Path((name, version, path)): Path<(String, String, String)>,
    request: Request,
) -> Reply<FileInfo> {
    door.keys.require_admin(request.headers())?;
    let version = door.registry.version(&name, &version).await?.version;
    let announced = match request.headers().get("x-checksum-sha256") {
        Some(value) => Some(digest(value.to_str().unwrap_or_default())?),
        None => None,
    };
    let body = request.into_body().into_data_stream();
    let registry = door.registry.clone();
    // A task of its own: when the client leaves, the body ends with an error and what was written is cleaned up.
    let work = async move { registry.upload(&name, version, &path, body, announced.as_deref()).await };
    let done = tokio::spawn(work).await;
    let done =
        done.map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "upload_failed", e.to_string()))?;
    done.map(Json)
}

async fn link(
    State(door): State<Door>,
    headers: HeaderMap,
    Path((name, version, path)): Path<(String, String, String)>,
    JsonBody(body): JsonBody<FileLink>,
) -> Reply<FileInfo> {
    door.keys.require_admin(&headers)?;
    let version = door.registry.version(&name, &version).await?.version;
    door.registry.link(&name, version, &path, &digest(&body.sha256)?).await.map(Json)
}

fn digest(text: &str) -> Result<String, ApiError> {
    let lower = text.to_ascii_lowercase();
    if lower.len() == 64 && lower.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(lower);
    }
    Err(ApiError::invalid("invalid_checksum", format!("{text:?} is no SHA-256: give 64 hex digits")))
}

async fn download(
    State(door): State<Door>,
    headers: HeaderMap,
    Path((name, version, path)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    door.keys.caller(&headers)?;
    let (file, object) = door.registry.download(&name, &version, &path).await?;
    let etag = format!("\"{}\"", file.sha256);
    if headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()) == Some(etag.as_str()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let mut response = Response::new(Body::from_stream(object.into_stream()));
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    out.insert(header::CONTENT_LENGTH, HeaderValue::from(file.bytes));
    if let (Ok(etag), Ok(sha256)) = (HeaderValue::from_str(&etag), HeaderValue::from_str(&file.sha256)) {
        out.insert(header::ETAG, etag);
        out.insert("x-checksum-sha256", sha256);
    }
    Ok(response)
}

async fn create_key(
    State(door): State<Door>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<KeyCreate>,
) -> Created<KeyCreated> {
    door.keys.require_admin(&headers)?;
    let limits = KeyLimits {
        requests_per_minute: body.limits.requests_per_minute,
        tokens_per_minute: body.limits.tokens_per_minute,
        concurrency: body.limits.concurrency,
    };
    let (key, record) = door.keys.create(&body.name, limits).await?;
    Ok((StatusCode::CREATED, Json(KeyCreated { key, id: record.id, name: record.name })))
}

async fn list_keys(State(door): State<Door>, headers: HeaderMap) -> Reply<KeyList> {
    door.keys.require_admin(&headers)?;
    let mut keys: Vec<KeyInfo> = door.keys.list().await?.into_iter().map(key_info).collect();
    keys.sort_by_key(|k| k.created_ms);
    Ok(Json(KeyList { keys }))
}

fn key_info((record, usage): (crate::gateway::KeyRecord, crate::gateway::KeyUsage)) -> KeyInfo {
    KeyInfo {
        id: record.id,
        name: record.name,
        limits: Limits {
            requests_per_minute: record.limits.requests_per_minute,
            tokens_per_minute: record.limits.tokens_per_minute,
            concurrency: record.limits.concurrency,
        },
        requests: usage.requests,
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        created_ms: record.created_ms,
    }
}

async fn revoke_key(State(door): State<Door>, headers: HeaderMap, Path(id): Path<String>) -> Reply<Deleted> {
    door.keys.require_admin(&headers)?;
    let record = door.keys.revoke(&id).await?;
    Ok(Json(Deleted { deleted: record.id, freed_bytes: 0 }))
}
