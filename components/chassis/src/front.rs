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

use crate::guard::{self, Guard};

/// A gRPC call under way.
pub type Call = BoxFuture<'static, Result<http::Response<tonic::body::Body>, Infallible>>;
/// Takes gRPC calls that are many and small; gives back what is for the router.
pub type Ahead = Arc<dyn Fn(Request<Incoming>) -> Result<Call, Box<Request<Incoming>>> + Send + Sync>;

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
        let request = match self.call(request) {
            Ok(call) => return Ok(self.admit(call).await),
            Err(request) => request,
        };
        let response = Box::pin(self.app.clone().oneshot(*request)).await?;
        Ok(response.map(FrontBody::App))
    }

    /// Keys and traces are the router's business.
    fn call(&self, request: Request<Incoming>) -> Result<Call, Box<Request<Incoming>>> {
        let headers = request.headers();
        match &self.ahead {
            Some(ahead) if guard::is_grpc(headers) && !headers.contains_key("traceparent") => ahead(request),
            _ => Err(Box::new(request)),
        }
    }

    /// What [`guard::guard`] does, for a call that needs less of it.
    async fn admit(&self, call: Call) -> http::Response<FrontBody> {
        let started = Instant::now();
        let response = match self.guard.permits.clone().try_acquire_owned() {
            Err(_) => self.guard.too_many(true).map(FrontBody::App),
            Ok(permit) => match AssertUnwindSafe(call).catch_unwind().await {
                Ok(response) => {
                    let response = response.unwrap_or_else(|never| match never {});
                    response.map(|body| FrontBody::Ahead { body, _permit: permit })
                }
                Err(_) => guard::refusal(
                    self.guard.error,
                    true,
                    StatusCode::INTERNAL_SERVER_ERROR,
                    guard::INTERNAL_ERROR,
                )
                .map(FrontBody::App),
            },
        };
        self.guard.metrics.observe(response.status(), started);
        response
    }
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
