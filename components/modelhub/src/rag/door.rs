//! The REST routes of RAG.

use std::convert::Infallible;
use std::sync::Arc;

use aistack_api::rag::{
    Answer, FileIngested, Passages, QueryEvent, RagCreate, RagDeleted, RagInfo, RagList, RagQuery, SyncPlan,
    SyncRequest,
};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use futures::StreamExt;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument;

use super::Rag;
use super::query::{assemble, question_tokens};
use crate::error::ApiError;
use crate::gateway::Keys;
use crate::json_body::{self, BodyError, JsonBody};

/// Events that may wait for a slow reader before the writer waits too.
const PENDING_EVENTS: usize = 64;

#[derive(Debug, Clone)]
struct Door {
    rag: Rag,
    keys: Arc<Keys>,
}

/// The routes.
pub fn router(rag: Rag, keys: Arc<Keys>) -> Router {
    Router::new()
        .route("/api/v1/rag", post(create).get(list))
        .route("/api/v1/rag/{name}", get(one).delete(remove))
        .route("/api/v1/rag/{name}/sync", post(sync))
        .route("/api/v1/rag/{name}/files/{*path}", put(ingest))
        .route("/api/v1/rag/{name}/files/{*path}", delete(remove_file))
        .route("/api/v1/rag/{name}/rebuild", post(rebuild))
        .route("/api/v1/rag/{name}/search", post(search))
        .route("/api/v1/rag/{name}/query", post(query))
        .layer(DefaultBodyLimit::disable())
        .with_state(Door { rag, keys })
}

type Reply<T> = Result<Json<T>, ApiError>;

async fn create(
    State(door): State<Door>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<RagCreate>,
) -> Reply<RagInfo> {
    door.keys.require_admin(&headers)?;
    door.rag.create(body).await.map(Json)
}

async fn list(State(door): State<Door>, headers: HeaderMap) -> Reply<RagList> {
    door.keys.caller(&headers)?;
    door.rag.list().await.map(Json)
}

async fn one(State(door): State<Door>, headers: HeaderMap, Path(name): Path<String>) -> Reply<RagInfo> {
    door.keys.caller(&headers)?;
    door.rag.get(&name).await.map(Json)
}

async fn remove(State(door): State<Door>, headers: HeaderMap, Path(name): Path<String>) -> Reply<RagDeleted> {
    door.keys.require_admin(&headers)?;
    door.rag.delete(&name).await.map(Json)
}

async fn sync(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<SyncRequest>,
) -> Reply<SyncPlan> {
    door.keys.require_admin(&headers)?;
    door.rag.sync(&name, body).await.map(Json)
}

#[derive(Debug, serde::Deserialize)]
struct Origin {
    source: Option<String>,
}

async fn ingest(
    State(door): State<Door>,
    Path((name, path)): Path<(String, String)>,
    Query(origin): Query<Origin>,
    request: Request,
) -> Reply<FileIngested> {
    door.keys.require_admin(request.headers())?;
    let limit = door.rag.defaults.max_file_bytes;
    let (parts, body) = request.into_parts();
    let bytes = json_body::read(&parts.headers, body, limit).await.map_err(|error| match error {
        BodyError::TooLarge => {
            let message = format!("{path}: a file may have {limit} bytes (rag.max_file_bytes)");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "file_too_large", message)
        }
        BodyError::BrokeOff(why) => ApiError::invalid("body_broke_off", format!("{path}: {why}")),
    })?;
    door.rag.ingest_file(&name, &path, bytes, origin.source).await.map(Json)
}

async fn remove_file(
    State(door): State<Door>,
    headers: HeaderMap,
    Path((name, path)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    door.keys.require_admin(&headers)?;
    door.rag.delete_file(&name, &path).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rebuild(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    door.keys.require_admin(&headers)?;
    door.rag.get(&name).await?;
    let (events, receiver) = mpsc::channel(PENDING_EVENTS);
    let rag = door.rag.clone();
    let span = tracing::Span::current();
    tokio::spawn(async move { rag.rebuild(&name, events).await }.instrument(span));
    let lines = ReceiverStream::new(receiver).map(|event| {
        let mut line = serde_json::to_string(&event).unwrap_or_default();
        line.push('\n');
        Ok::<_, Infallible>(line)
    });
    let response = ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines));
    Ok(response.into_response())
}

async fn search(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<RagQuery>,
) -> Reply<Passages> {
    let caller = door.keys.caller(&headers)?;
    super::check_min_score(body.min_score)?;
    let admission = door.keys.admit(&caller, question_tokens(&body))?;
    let mut retrieved = door.rag.retrieve(&name, body).await?;
    retrieved.count_for(admission);
    Ok(Json(retrieved.passages()))
}

async fn query(
    State(door): State<Door>,
    headers: HeaderMap,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<RagQuery>,
) -> Result<Response, ApiError> {
    let caller = door.keys.caller(&headers)?;
    super::check_min_score(body.min_score)?;
    let answer = u64::from(body.max_tokens.unwrap_or(door.rag.defaults.max_answer_tokens));
    let admission = door.keys.admit(&caller, question_tokens(&body) + answer)?;
    let stream = body.stream;
    let mut retrieved = door.rag.retrieve(&name, body).await?;
    retrieved.count_for(admission);
    let model = door.rag.answering_model(&retrieved)?;
    let (events, receiver) = mpsc::channel(PENDING_EVENTS);
    let rag = door.rag.clone();
    let work = async move { rag.answer(retrieved, model, events).await };
    let task = tokio::spawn(work.instrument(tracing::Span::current()));
    if !stream {
        // A client that leaves drops the receiver, which ends the task.
        let events: Vec<QueryEvent> = ReceiverStream::new(receiver).collect().await;
        drop(task);
        let answer: Answer = assemble(events)?;
        return Ok(Json(answer).into_response());
    }
    let events = ReceiverStream::new(receiver).map(|event| {
        let data = event.data().unwrap_or_default();
        Ok::<_, Infallible>(Event::default().event(event.name()).data(data))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}
