//! Server-sent events: one `data:` line a chunk, `[DONE]` at the end.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use http::header;
use serde_json::Value;

use super::replies::{Replies, Totals};
use crate::engine::Event;

/// A comment keeps proxies from closing a connection on which a long prompt computes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Writes one endpoint's chunks.
pub trait Chunks: Send + 'static {
    /// Before any event.
    fn begin(&mut self) -> Vec<Value>;
    /// For an event of prompt `prompt`.
    fn event(&mut self, prompt: usize, event: Event) -> Vec<Value>;
    /// After the last event.
    fn end(&mut self, totals: &Totals) -> Vec<Value>;
}

enum State<C> {
    Begin(Replies, C),
    Running(Replies, C),
    Done,
}

/// Streams the replies. The client's leaving drops the body, which drops the replies, which cancels them.
pub fn respond<C: Chunks>(replies: Replies, chunks: C) -> Response {
    let stream = futures::stream::unfold(State::Begin(replies, chunks), |state| async {
        match state {
            State::Begin(replies, mut chunks) => {
                Some((lines(&chunks.begin()), State::Running(replies, chunks)))
            }
            State::Running(mut replies, mut chunks) => {
                let Ok(next) = tokio::time::timeout(KEEP_ALIVE, replies.next()).await else {
                    return Some((Bytes::from_static(b": keep-alive\n\n"), State::Running(replies, chunks)));
                };
                match next {
                    Ok(Some((prompt, event))) => {
                        let written = lines(&chunks.event(prompt, event));
                        Some((written, State::Running(replies, chunks)))
                    }
                    Ok(None) => Some((with_done(&chunks.end(&replies.totals)), State::Done)),
                    // The status is sent already, so the error comes as an event; clients raise it as theirs.
                    Err(error) => Some((with_done(&[error.body()]), State::Done)),
                }
            }
            State::Done => None,
        }
    });
    // An event can have nothing to show.
    let stream = stream.filter(|bytes| std::future::ready(!bytes.is_empty())).map(Ok::<_, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (http::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(stream)).into_response()
}

fn lines(chunks: &[Value]) -> Bytes {
    let mut text = String::new();
    for chunk in chunks {
        text.push_str("data: ");
        text.push_str(&chunk.to_string());
        text.push_str("\n\n");
    }
    Bytes::from(text)
}

fn with_done(chunks: &[Value]) -> Bytes {
    let mut text = lines(chunks).to_vec();
    text.extend_from_slice(b"data: [DONE]\n\n");
    Bytes::from(text)
}
