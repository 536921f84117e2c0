//! What answers first on a connection: calls that a component takes itself, without a way through the router; then the router.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tower::{Service, ServiceExt as _};
use tower_http::timeout::TimeoutBody;

use crate::guard::{self, Guard};

/// A gRPC call under way.
pub type Call = BoxFuture<'static, Result<http::Response<tonic::body::Body>, Infallible>>;
/// The body of such a call, which may pause no longer than the listener's limit.
pub type CallBody = TimeoutBody<Incoming>;

type Takes = dyn Fn(&Request<Incoming>) -> bool + Send + Sync;
type Calls = dyn Fn(Request<CallBody>) -> Call + Send + Sync;

/// gRPC calls that are many and small.
#[derive(Clone)]
pub struct Ahead {
    /// Whether a request is one of them; the others are for the router.
    pub takes: Arc<Takes>,
    /// Answers it.
    pub call: Arc<Calls>,
}

/// The first to be asked.
pub struct Front<A> {
    pub app: A,
    pub ahead: Option<Ahead>,
    pub guard: Arc<Guard>,
}

impl<A> Front<A>
where
    A: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone,
{
    /// Answers a request.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<http::Response<FrontBody>, Infallible> {
        if let Some(ahead) = self.ahead.as_ref().filter(|ahead| is_ahead(ahead, &request)) {
            return Ok(self.admit(ahead, request).await);
        }
        let response = Box::pin(self.app.clone().oneshot(request)).await?;
        Ok(response.map(FrontBody::App))
    }

    /// What [`guard::guard`] does, for a call that needs less of it.
    async fn admit(&self, ahead: &Ahead, request: Request<Incoming>) -> http::Response<FrontBody> {
        let started = Instant::now();
        let response = match self.guard.permits.clone().try_acquire_owned() {
            Err(_) => self.guard.too_many(true).map(FrontBody::App),
            Ok(permit) => self.run(ahead, request, permit).await,
        };
        self.guard.metrics.observe(response.status(), started);
        response
    }

    async fn run(
        &self,
        ahead: &Ahead,
        request: Request<Incoming>,
        permit: OwnedSemaphorePermit,
    ) -> http::Response<FrontBody> {
        let request = request.map(|body| TimeoutBody::new(self.guard.body_timeout, body));
        let Ok(response) = AssertUnwindSafe((ahead.call)(request)).catch_unwind().await else {
            let (status, sentence) = (StatusCode::INTERNAL_SERVER_ERROR, guard::INTERNAL_ERROR);
            return guard::refusal(self.guard.error, true, status, sentence).map(FrontBody::App);
        };
        let response = response.unwrap_or_else(|never| match never {});
        response.map(|body| FrontBody::Ahead { body, _permit: permit })
    }
}

/// Keys and traces are the router's business.
fn is_ahead(ahead: &Ahead, request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    guard::is_grpc(headers) && !headers.contains_key("traceparent") && (ahead.takes)(request)
}

/// The body of an answer.
pub enum FrontBody {
    /// The router's.
    App(Body),
    /// That of a call taken ahead of it.
    Ahead {
        /// Its messages and trailers.
        body: tonic::body::Body,
        /// Held until it is sent or dropped.
        _permit: OwnedSemaphorePermit,
    },
}

impl HttpBody for FrontBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::App(body) => Pin::new(body).poll_frame(cx),
            Self::Ahead { body, .. } => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(axum::Error::new)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::App(body) => body.is_end_stream(),
            Self::Ahead { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::App(body) => body.size_hint(),
            Self::Ahead { body, .. } => body.size_hint(),
        }
    }
}
