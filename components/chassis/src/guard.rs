//! What stands before every request: limits, API keys, the trace, the last resort for a panic.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt as _;
use http::{HeaderMap, StatusCode, header};
use http_body_util::Limited;
use hyper::body::{Frame, SizeHint};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::timeout::TimeoutBody;
use tracing::{Instrument as _, Span, field};

use crate::counted::ByteCounts;
use crate::linger::lingering;
use crate::{ApiKeys, trace};

/// Turns a refusal into the protocol's own error body.
pub type ErrorBody = fn(StatusCode, &str) -> Response;

/// Paths that probes ask for and that no key guards.
const OPEN_PATHS: &[&str] = &["/healthz", "/readyz", "/livez", "/health", "/ping"];

/// HTTP figures of all listeners of a process.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    /// Of all connections.
    pub bytes: ByteCounts,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: u16,
}

impl HttpMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let requests = Family::default();
        let bounds =
            [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let seconds = Histogram::new(bounds);
        registry.register("aistack_http_requests", "Requests by status code", requests.clone());
        registry.register(
            "aistack_http_request_duration_seconds",
            "Time to the response's headers",
            seconds.clone(),
        );
        let bytes = ByteCounts::default();
        registry.register(
            "aistack_http_received_bytes",
            "Bytes from clients, headers included",
            bytes.received.clone(),
        );
        registry.register(
            "aistack_http_sent_bytes",
            "Bytes to clients, headers included",
            bytes.sent.clone(),
        );
        Self { requests, seconds, bytes }
    }

    /// Counts a request that began then, once its answer's headers are there.
    pub fn observe(&self, status: StatusCode, started: Instant) {
        self.requests.get_or_create(&RequestLabels { code: status.as_u16() }).inc();
        self.seconds.observe(started.elapsed().as_secs_f64());
    }
}

/// The state of one listener's guard.
#[derive(Debug)]
pub struct Guard {
    pub keys: Option<ApiKeys>,
    pub permits: Arc<Semaphore>,
    pub max_body_bytes: usize,
    pub body_timeout: Duration,
    pub error: ErrorBody,
    pub metrics: HttpMetrics,
    /// Whether spans are exported.
    pub exports: bool,
}

/// What a client learns of a panic.
pub const INTERNAL_ERROR: &str = "internal error; the server's log has the details";

impl Guard {
    /// The answer when no more requests can be taken.
    pub fn too_many(&self, is_grpc: bool) -> Response {
        let sentence = "too many requests in progress on this server; try again in a second";
        let mut response = refusal(self.error, is_grpc, StatusCode::SERVICE_UNAVAILABLE, sentence);
        response.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        response
    }
}

/// The middleware.
pub async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let span = request_span(&request, guard.exports);
    let response = admit(&guard, lingering(request), next, &span).instrument(span.clone()).await;
    let code = response.status().as_u16();
    span.record("status", code);
    if code >= 500 {
        span.record("otel.status_code", "ERROR");
    }
    guard.metrics.observe(response.status(), started);
    response
}

fn request_span(request: &Request, exports: bool) -> Span {
    // A span costs as much as all else that is done for a small call; so it is made where somebody reads it.
    if !exports && is_grpc(request.headers()) && !request.headers().contains_key("traceparent") {
        return Span::none();
    }
    let span = tracing::info_span!(
        "request",
        otel.name = %SpanName(request),
        otel.kind = "server",
        otel.status_code = field::Empty,
        method = %request.method(),
        path = %request.uri().path(),
        status = field::Empty,
        trace_id = field::Empty,
    );
    trace::adopt(&span, request.headers());
    if let Some(id) = trace::trace_id(&span) {
        span.record("trace_id", id);
    }
    span
}

/// What a request is called in a trace: `POST /api/v1/rag/{name}/query`, `etcdserverpb.KV/Range`. Never a path that
/// clients made up, so that a search by name finds all requests of a kind.
struct SpanName<'a>(&'a Request);

impl std::fmt::Display for SpanName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let route = self.0.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        match route {
            Some(_) if is_grpc(self.0.headers()) => f.write_str(self.0.uri().path().trim_start_matches('/')),
            Some(route) => write!(f, "{} {route}", self.0.method()),
            None => f.write_str(self.0.method().as_str()),
        }
    }
}

async fn admit(guard: &Guard, mut request: Request, next: Next, span: &Span) -> Response {
    let is_grpc = is_grpc(request.headers());
    let refuse = |status, sentence: &str| refusal(guard.error, is_grpc, status, sentence);
    let Ok(permit) = guard.permits.clone().try_acquire_owned() else { return guard.too_many(is_grpc) };
    if let Some(keys) = &guard.keys
        && !OPEN_PATHS.contains(&request.uri().path())
    {
        match keys.check(request.headers()) {
            Some(name) => {
                request.extensions_mut().insert(name);
            }
            None => {
                return refuse(StatusCode::UNAUTHORIZED, "an API key is needed: Authorization: Bearer <key>");
            }
        }
    }
    if declared_length(request.headers()).is_some_and(|length| length > guard.max_body_bytes as u64) {
        let sentence = format!("the request's body is larger than {} bytes", guard.max_body_bytes);
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, &sentence);
    }
    let request = if is_grpc { request } else { request.map(|body| bounded(body, guard)) };
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response.map(|body| Body::new(Held { body, _permit: permit, span: span.clone() })),
        Err(_) => {
            // The panic hook has printed where; the client learns only that it is our fault.
            refuse(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
        }
    }
}

fn bounded(body: Body, guard: &Guard) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::new(Limited::new(TimeoutBody::new(guard.body_timeout, body), guard.max_body_bytes))
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// A refusal in the protocol's own form.
pub fn refusal(error: ErrorBody, is_grpc: bool, status: StatusCode, sentence: &str) -> Response {
    if !is_grpc {
        return error(status, sentence);
    }
    let code = match status {
        StatusCode::UNAUTHORIZED => tonic::Code::Unauthenticated,
        StatusCode::PAYLOAD_TOO_LARGE => tonic::Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => tonic::Code::Unavailable,
        _ => tonic::Code::Internal,
    };
    tonic::Status::new(code, sentence).into_http()
}

/// Keeps the request's permit and span until its response is sent or dropped.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
    span: Span,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        // A span ends with its last exit: a streamed reply's ends with its last frame.
        let _in_span = this.span.enter();
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
