//! A stream of events that breaks off says so in an event of its own. OpenAI's clients raise the error that an event carries; a
//! connection that is merely cut looks to them like trouble of the network.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use hyper::body::Frame;

use crate::error::ApiError;

/// Lets a reply through; one that streams events (`text/event-stream`, not compressed) ends with an error event should it break off.
pub fn told(response: Response, model: &str) -> Response {
    let headers = response.headers();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("text/event-stream") || headers.contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let model = model.to_owned();
    response.map(|inner| Body::new(ToldBody { inner, model, tail: *b"\n\n\n\n", over: false }))
}

struct ToldBody {
    inner: Body,
    model: String,
    /// The last bytes that went through. Half an event cannot be completed, so after one there is nothing to say.
    tail: [u8; 4],
    over: bool,
}

impl ToldBody {
    fn see(&mut self, data: &[u8]) {
        for &byte in &data[data.len().saturating_sub(4)..] {
            self.tail.rotate_left(1);
            self.tail[3] = byte;
        }
    }

    fn between_events(&self) -> bool {
        self.tail.ends_with(b"\n\n") || self.tail.ends_with(b"\r\n\r\n")
    }
}

impl hyper::body::Body for ToldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            self.see(data);
        }
        Poll::Ready(match frame {
            Some(Err(error)) if self.between_events() => {
                self.over = true;
                let message = format!("{} broke off: {}", self.model, crate::innermost(&error));
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "engine_broke_off", message);
                Some(Ok(Frame::data(format!("data: {}\n\n", error.body()).into())))
            }
            other => other,
        })
    }
}
