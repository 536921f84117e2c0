//! An engine that misbehaves on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

/// What the engine does with a request.
#[derive(Debug, Clone)]
pub enum Manner {
    /// Answers with this text and token counts.
    Reply(&'static str),
    /// Sends these pieces one by one.
    Pieces(Vec<&'static str>),
    /// Sends one event and then nothing, until the connection goes.
    Hang,
    /// Answers with this status.
    Fail(u16),
    /// Sends half a reply and breaks the connection.
    Break,
}

#[derive(Clone)]
pub struct Engine {
    pub url: String,
    pub seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    pub manner: Arc<Mutex<Manner>>,
    /// Requests whose reply is still being sent.
    pub open: Arc<AtomicUsize>,
    model: &'static str,
    task: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Engine {
    pub async fn start(model: &'static str, manner: Manner) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let engine = Self {
            url: format!("http://{}", listener.local_addr().expect("an address")),
            seen: Arc::default(),
            manner: Arc::new(Mutex::new(manner)),
            open: Arc::default(),
            model,
            task: Arc::default(),
        };
        let app = axum::Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(infer))
            .route("/v1/embeddings", post(infer))
            .with_state(engine.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("the engine runs") });
        *engine.task.lock() = Some(task);
        engine
    }

    pub fn set(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().len()
    }
}

async fn models(State(engine): State<Engine>) -> Response {
    axum::Json(serde_json::json!({"object": "list", "data": [{"id": engine.model, "max_model_len": 512}]}))
        .into_response()
}

async fn infer(State(engine): State<Engine>, headers: HeaderMap, body: Bytes) -> Response {
    engine.seen.lock().push((headers, body));
    let manner = engine.manner.lock().clone();
    engine.open.fetch_add(1, Ordering::SeqCst);
    let open = Open(engine.open.clone());
    match manner {
        Manner::Reply(text) => axum::Json(serde_json::json!({
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }))
        .into_response(),
        Manner::Fail(status) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, r#"{"error":{"message":"not now"}}"#).into_response()
        }
        Manner::Pieces(pieces) => stream(open, pieces, End::Done),
        Manner::Hang => {
            stream(open, vec!["data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"], End::Never)
        }
        Manner::Break => stream(open, vec!["data: {\"choices\""], End::Broken),
    }
}

enum End {
    Done,
    Never,
    Broken,
}

fn stream(open: Open, pieces: Vec<&'static str>, end: End) -> Response {
    let pieces = futures::stream::iter(pieces).then(|piece| async move {
        // Pieces of their own on the wire.
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok::<_, std::io::Error>(Bytes::from(piece))
    });
    let tail = futures::stream::once(async move {
        let _open = open;
        match end {
            End::Done => Ok(Bytes::new()),
            End::Never => std::future::pending().await,
            End::Broken => Err(std::io::Error::other("broken on purpose")),
        }
    });
    ([("content-type", "text/event-stream")], Body::from_stream(pieces.chain(tail))).into_response()
}
