//! Bodies that nobody wants to the end.
//!
//! A server that refuses a request before it has read the body, and closes, may take the refusal from the client: bytes that arrive at a
//! closed socket are answered by a reset, which throws away what the client has not read yet (RFC 9112, section 9.6). So what is
//! left of a body is read and thrown away for a while after whoever had it let go of it, while the answer is on its way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use http::{Version, header};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long the rest of a body is read that nobody wants.
const LINGER: Duration = Duration::from_secs(5);

/// The same request, whose body is read on when it is let go of before its end.
///
/// Not with HTTP/2, which can refuse a stream without a word about the connection, and not for a client that waits to be
/// told whether to send its body at all.
pub fn lingering(request: Request) -> Request {
    let waits = request.headers().contains_key(header::EXPECT);
    if waits || request.version() >= Version::HTTP_2 || request.body().is_end_stream() {
        return request;
    }
    request.map(|body| Body::new(Lingering { body, has_ended: false }))
}

struct Lingering {
    body: Body,
    has_ended: bool,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        this.has_ended |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.has_ended || self.body.is_end_stream() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let mut body = std::mem::take(&mut self.body);
        runtime.spawn(timeout(LINGER, async move { while let Some(Ok(_)) = body.frame().await {} }));
    }
}
