//! An engine that misbehaves on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aistack_api::server::{ServerConfig, TlsConfig};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::Digest;

use crate::hub::{context, crypto};

/// What the engine does with a request.
#[derive(Debug, Clone)]
pub enum Manner {
    /// Answers with this text and token counts.
    Reply(&'static str),
    /// The same, after so many milliseconds.
    Slow(u64),
    /// Answers with a vector for each text: texts that share words are near each other.
    Embed,
    /// The same, but refuses a request with a text of more characters than this, as TinyInfer and vLLM do.
    EmbedUpTo(usize),
    /// Sends these pieces one by one.
    Pieces(Vec<&'static str>),
    /// Sends one event and then nothing, until the connection goes.
    Hang,
    /// Takes requests and gives nothing, checks included, until its manner is another.
    Mute,
    /// Answers with this status.
    Fail(u16),
    /// Sends half an event and breaks the connection.
    Break,
    /// Sends a whole event and breaks the connection.
    Die,
}

#[derive(Clone)]
pub struct Engine {
    pub url: String,
    pub seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    pub manner: Arc<Mutex<Manner>>,
    /// Requests whose reply is still being sent.
    pub open: Arc<AtomicUsize>,
    /// How often it was asked what it serves.
    pub checks: Arc<AtomicUsize>,
    is_deaf: Arc<AtomicBool>,
    model: &'static str,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Engine {
    pub async fn start(model: &'static str, manner: Manner) -> Self {
        Self::start_at(model, manner, 0).await
    }

    /// One at a given port of the loopback address.
    pub async fn start_at(model: &'static str, manner: Manner, port: u16) -> Self {
        Self::listen(model, manner, port, None).await
    }

    /// One that speaks TLS only.
    pub async fn start_tls(model: &'static str, manner: Manner, tls: TlsConfig) -> Self {
        Self::listen(model, manner, 0, Some(tls)).await
    }

    async fn listen(model: &'static str, manner: Manner, port: u16, tls: Option<TlsConfig>) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let engine = Self {
            url: format!("{scheme}://{}", listener.local_addr().expect("an address")),
            seen: Arc::default(),
            manner: Arc::new(Mutex::new(manner)),
            open: Arc::default(),
            checks: Arc::default(),
            is_deaf: Arc::default(),
            model,
        };
        let app = axum::Router::new()
            .route("/v1/models", get(models))
            .route("/v1/completions", post(infer))
            .route("/v1/chat/completions", post(infer))
            .route("/v1/embeddings", post(infer))
            .with_state(engine.clone());
        let mut server = ServerConfig::with_admin(([127, 0, 0, 1], 0).into());
        server.tls = tls;
        tokio::spawn(async move {
            crypto();
            aistack_chassis::serve::serve(listener, app, &context(server)).await.expect("the engine runs");
        });
        engine
    }

    pub fn set(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    /// From now on who asks what it serves gets no answer.
    pub fn deafen(&self) {
        self.is_deaf.store(true, Ordering::SeqCst);
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().len()
    }

    async fn mute(&self) {
        while matches!(*self.manner.lock(), Manner::Mute) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

async fn models(State(engine): State<Engine>) -> Response {
    engine.checks.fetch_add(1, Ordering::SeqCst);
    if engine.is_deaf.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    engine.mute().await;
    axum::Json(json!({"object": "list", "data": [{"id": engine.model, "max_model_len": 512}]}))
        .into_response()
}

async fn infer(State(engine): State<Engine>, headers: HeaderMap, body: Bytes) -> Response {
    engine.seen.lock().push((headers, body.clone()));
    engine.open.fetch_add(1, Ordering::SeqCst);
    let open = Open(engine.open.clone());
    engine.mute().await;
    let manner = engine.manner.lock().clone();
    let manner = match manner {
        Manner::Slow(ms) => {
            tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
            Manner::Reply("slow")
        }
        other => other,
    };
    match manner {
        Manner::Slow(_) | Manner::Mute => unreachable!("it waited already"),
        Manner::Reply(text) => axum::Json(json!({
            "choices": [{"message": {"role": "assistant", "content": text}, "text": text, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }))
        .into_response(),
        Manner::Embed => embeddings(&body).into_response(),
        Manner::EmbedUpTo(most) => {
            let too_long = texts(&body).iter().position(|text| text.chars().count() > most);
            let refusal = |i: usize| {
                let message = format!("This model's maximum context length is {most} tokens. However, input[{i}] resulted in more tokens.");
                (StatusCode::BAD_REQUEST, axum::Json(json!({"error": {"message": message}}))).into_response()
            };
            too_long.map_or_else(|| embeddings(&body).into_response(), refusal)
        }
        Manner::Fail(status) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, r#"{"error":{"message":"not now"}}"#).into_response()
        }
        Manner::Pieces(pieces) => stream(open, pieces, End::Done),
        Manner::Hang => {
            stream(open, vec!["data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"], End::Never)
        }
        Manner::Break => stream(open, vec!["data: {\"choices\""], End::Broken),
        Manner::Die => {
            stream(open, vec!["data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"], End::Broken)
        }
    }
}

/// Dimension of the vectors of [`Manner::Embed`].
pub const DIMENSION: usize = 64;

fn texts(body: &[u8]) -> Vec<String> {
    let body: Value = serde_json::from_slice(body).expect("JSON");
    match &body["input"] {
        Value::String(text) => vec![text.clone()],
        list => {
            list.as_array().expect("a list").iter().map(|t| t.as_str().expect("text").to_owned()).collect()
        }
    }
}

fn embeddings(body: &[u8]) -> axum::Json<Value> {
    let texts = texts(body);
    let tokens = texts.iter().map(|t| t.split_whitespace().count()).sum::<usize>();
    let item = |(index, text): (usize, &String)| json!({"index": index, "embedding": bag_of_words(text)});
    let data: Vec<Value> = texts.iter().enumerate().map(item).collect();
    axum::Json(json!({"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}))
}

fn bag_of_words(text: &str) -> Vec<f32> {
    let mut vector = vec![0.01_f32; DIMENSION];
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        let digest = sha2::Sha256::digest(word.to_lowercase());
        vector[digest[0] as usize % DIMENSION] += 1.0;
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

enum End {
    Done,
    Never,
    Broken,
}

fn stream(open: Open, pieces: Vec<&'static str>, end: End) -> Response {
    // The server writes what it has whenever the body lets it wait: pieces of their own on the wire, behind the headers.
    let pieces = futures::stream::iter(pieces).then(|piece| async move {
        tokio::task::yield_now().await;
        Ok::<_, std::io::Error>(Bytes::from(piece))
    });
    let tail = futures::stream::once(async move {
        let _open = open;
        tokio::task::yield_now().await;
        match end {
            End::Done => Ok(Bytes::new()),
            End::Never => std::future::pending().await,
            End::Broken => Err(std::io::Error::other("broken on purpose")),
        }
    });
    ([("content-type", "text/event-stream")], Body::from_stream(pieces.chain(tail))).into_response()
}
