//! The HTTP door: OpenAI's API with vLLM's additions, over the one model that this process serves.
//!
//! | endpoint | answers |
//! |---|---|
//! | `GET /v1/models`, `/v1/models/{id}` | the served model |
//! | `POST /v1/completions`, `/v1/chat/completions` | text, whole or streamed (generators) |
//! | `POST /v1/embeddings`, `/rerank`, `/v1/rerank`, `/v2/rerank` | vectors; documents by cosine (embedders) |
//! | `POST /tokenize`, `/detokenize` | tokens and text |
//! | `GET /health`, `/ping`, `/version`, `/metrics` | for probes, load balancers and Prometheus |
//!
//! An endpoint that does not fit the model answers 400 and says which model this is. What is not supported (tools,
//! structured output, images) is refused, not ignored; parameters that nobody knows are tolerated.

mod chat;
mod completions;
mod embeddings;
mod error;
mod fields;
mod logprobs;
mod params;
mod replies;
mod sse;
mod tokens;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{OriginalUri, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{Method, StatusCode};
use serde_json::{Value, json};

pub use error::{ApiError, chassis_error};
use fields::Fields;

use crate::served::{Generator, Model, Served, TextEmbedder};

/// Bodies from this size on are tokenized on a thread of their own.
const LONG_BODY: usize = 32 << 10;

/// What the handlers share.
#[derive(Clone)]
pub struct Door {
    /// The model.
    pub served: Arc<Served>,
    /// Largest request body.
    pub max_body_bytes: usize,
}

/// The routes. `/metrics` is the caller's to add, since the registry is the chassis'.
pub fn router(door: Door) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/embeddings", post(embeddings))
        .route("/rerank", post(rerank))
        .route("/v1/rerank", post(rerank))
        .route("/v2/rerank", post(rerank))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/health", get(health))
        .route("/ping", get(health).post(health))
        .route("/version", get(version))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(door)
}

impl Door {
    async fn read(&self, body: Body) -> Result<Fields, ApiError> {
        let fields = Fields::read(body, self.max_body_bytes).await?;
        // As with vLLM, who names no model means the one that is served.
        if let Some(asked) = fields.text("model")?
            && !self.served.names.iter().any(|name| name == asked)
        {
            return Err(ApiError::no_such_model(asked, &self.served.names));
        }
        Ok(fields)
    }

    /// Reads a request and does what its text needs doing, tokenizing above all; off the reactor where that takes long.
    async fn prepare<T: Send + 'static>(
        &self,
        body: Body,
        work: fn(&Self, &Fields) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let fields = self.read(body).await?;
        if fields.size() < LONG_BODY {
            return work(self, &fields);
        }
        let (door, span) = (self.clone(), tracing::Span::current());
        let task = tokio::task::spawn_blocking(move || span.in_scope(|| work(&door, &fields)));
        task.await.unwrap_or_else(|_| {
            let sentence = "internal error; the server's log has the details";
            Err(ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR, sentence))
        })
    }

    fn generator(&self, path: &str) -> Result<&Generator, ApiError> {
        match &self.served.model {
            Model::Generator(generator) => Ok(generator),
            Model::Embedder(_) => Err(self.does_not_fit("an embedding model", path, "/v1/embeddings")),
        }
    }

    fn embedder(&self, path: &str) -> Result<&TextEmbedder, ApiError> {
        match &self.served.model {
            Model::Embedder(embedder) => Ok(embedder),
            Model::Generator(_) => Err(self.does_not_fit("a text generator", path, "/v1/chat/completions")),
        }
    }

    fn does_not_fit(&self, kind: &str, path: &str, instead: &str) -> ApiError {
        let name = self.served.name();
        ApiError::invalid(format!("{name} is {kind} and does not answer {path}; use {instead}."))
            .about("model")
    }

    fn model_card(&self, name: &str) -> Value {
        json!({
            "id": name,
            "object": "model",
            "created": self.served.created,
            "owned_by": "tinyinfer",
            "root": self.served.name(),
            "parent": null,
            "max_model_len": self.served.max_tokens(),
        })
    }
}

async fn models(State(door): State<Door>) -> Json<Value> {
    let cards: Vec<Value> = door.served.names.iter().map(|name| door.model_card(name)).collect();
    Json(json!({"object": "list", "data": cards}))
}

async fn model(State(door): State<Door>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    if door.served.names.contains(&id) {
        Ok(Json(door.model_card(&id)))
    } else {
        Err(ApiError::no_such_model(&id, &door.served.names))
    }
}

async fn completions(State(door): State<Door>, body: Body) -> Result<Response, ApiError> {
    let running = door.prepare(body, |door, fields| {
        completions::start(&door.served, door.generator("/v1/completions")?, fields)
    });
    completions::answer(running.await?).await
}

async fn chat_completions(State(door): State<Door>, body: Body) -> Result<Response, ApiError> {
    let running = door.prepare(body, |door, fields| {
        chat::start(&door.served, door.generator("/v1/chat/completions")?, fields)
    });
    chat::answer(running.await?).await
}

async fn embeddings(State(door): State<Door>, body: Body) -> Result<Response, ApiError> {
    const PATH: &str = "/v1/embeddings";
    let request = door
        .prepare(body, |door, fields| embeddings::read(&door.served, door.embedder(PATH)?, fields))
        .await?;
    embeddings::answer(&door.served, door.embedder(PATH)?, request).await
}

async fn rerank(State(door): State<Door>, body: Body) -> Result<Response, ApiError> {
    const PATH: &str = "/v1/rerank";
    let request = door
        .prepare(body, |door, fields| embeddings::read_rerank(&door.served, door.embedder(PATH)?, fields));
    let request = request.await?;
    embeddings::answer_rerank(&door.served, door.embedder(PATH)?, request).await
}

async fn tokenize(State(door): State<Door>, body: Body) -> Result<Response, ApiError> {
    door.prepare(body, |door, fields| tokens::tokenize(&door.served, fields)).await
}

async fn detokenize(State(door): State<Door>, body: Body) -> Result<Response, ApiError> {
    door.prepare(body, |door, fields| tokens::detokenize(&door.served, fields)).await
}

async fn health(State(door): State<Door>) -> Response {
    if door.served.is_alive() {
        StatusCode::OK.into_response()
    } else {
        ApiError::of_status(StatusCode::SERVICE_UNAVAILABLE, "the engine has stopped").into_response()
    }
}

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn no_such_path(method: Method, uri: OriginalUri) -> ApiError {
    ApiError::no_such_path(&method, uri.path())
}

async fn wrong_method(method: Method, uri: OriginalUri) -> ApiError {
    ApiError::wrong_method(&method, uri.path())
}
