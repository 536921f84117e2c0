//! One accept loop for HTTP/1, HTTP/2 (with and without TLS) and gRPC.
//!
//! A connection counts against `max_connections`, and over it is told so; its first bytes, its headers and its bodies have deadlines; sockets have
//! `TCP_NODELAY`. When the process is asked to stop, the listener closes, running requests finish within
//! `drain_timeout_ms`, and what is left is cut.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aistack_api::server::Limits;
use axum::extract::{DefaultBodyLimit, Request};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router, middleware};
use http::{HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer as _, Service};

use crate::counted::Counted;
use crate::front::Front;
use crate::guard::{self, Guard};
use crate::preface::PrefaceDeadline;
use crate::rejected::Rejected;
use crate::turns::{Answering, Held, Turns};
use crate::{ApiKeys, AuthError, Ctx, process, tls};

pub use crate::admin::router as admin_routes;
pub use crate::front::{Ahead, Call, CallBody};
pub use crate::guard::ErrorBody;
pub use crate::tls::TlsError;

/// Why a listener could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of API keys.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// Opens a listener with an error that names the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    bind_with(address, false).await
}

/// The same; with `reuse_port` another process may listen on the address too, and the kernel shares connections out.
#[expect(clippy::unused_async, reason = "a socket needs the runtime, which awaiting makes sure of")]
pub async fn bind_with(address: SocketAddr, reuse_port: bool) -> Result<TcpListener, ServeError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(reuse_port)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| ServeError::Bind { address, source })
}

/// Serves `app` until shutdown; refusals carry `{"error": …}`.
pub async fn serve(listener: TcpListener, app: Router, ctx: &Ctx) -> Result<(), ServeError> {
    serve_with(listener, app, ctx, json_error).await
}

/// The same with calls that are taken `ahead` of the router: without its layers, spans and keys. Where there are keys or spans
/// are exported, all goes by the router.
pub async fn serve_ahead(
    listener: TcpListener,
    app: Router,
    ahead: Ahead,
    ctx: &Ctx,
) -> Result<(), ServeError> {
    serve_all(listener, app, Some(ahead), ctx, json_error).await
}

fn json_error(status: StatusCode, sentence: &str) -> Response {
    (status, Json(serde_json::json!({ "error": sentence }))).into_response()
}

/// Serves `app` until shutdown; `error` writes refusals (401, 413, 500, 503) in the protocol's own form.
pub async fn serve_with(
    listener: TcpListener,
    app: Router,
    ctx: &Ctx,
    error: ErrorBody,
) -> Result<(), ServeError> {
    serve_all(listener, app, None, ctx, error).await
}

async fn serve_all(
    listener: TcpListener,
    app: Router,
    ahead: Option<Ahead>,
    ctx: &Ctx,
    error: ErrorBody,
) -> Result<(), ServeError> {
    let limits = &ctx.server.limits;
    let tls = ctx.server.tls.as_ref().map(tls::Acceptors::new).transpose()?.map(Arc::new);
    let keys = ctx.server.auth.as_ref().map(|auth| ApiKeys::read(&auth.keys_file)).transpose()?;
    let guard_state = Arc::new(Guard {
        keys,
        permits: Arc::new(Semaphore::new(limits.max_concurrent_requests)),
        max_body_bytes: limits.max_body_bytes,
        body_timeout: Duration::from_millis(limits.body_timeout_ms),
        error,
        metrics: ctx.metrics.http().clone(),
        exports: ctx.server.telemetry.otlp_endpoint.is_some() || ctx.server.telemetry.otlp_file.is_some(),
    });
    let app = app
        .layer(DefaultBodyLimit::max(limits.max_body_bytes))
        .layer(middleware::from_fn_with_state(Arc::clone(&guard_state), guard::guard));
    let ahead = ahead.filter(|_| guard_state.keys.is_none() && !guard_state.exports);
    let acceptor = Acceptor {
        app,
        ahead,
        guard: guard_state,
        tls,
        allowed_hosts: ctx.server.tls.iter().flat_map(|tls| tls.allowed_client_hosts.clone()).collect(),
        limits: limits.clone(),
        header_timeout: Duration::from_millis(limits.header_timeout_ms),
        rejected: Arc::default(),
    };
    accept_loop(listener, acceptor, ctx).await;
    Ok(())
}

fn connection_builder(limits: &Limits, answering: Answering) -> auto::Builder<Answering> {
    const STREAM_WINDOW: u32 = 1 << 20;
    // Half of it is h2's budget for frames that no handler has read yet, of which each costs 256 bytes less its payload; over it the
    // whole connection is closed. So two streams may be full of gRPC's small messages (15 bytes) before their handlers run.
    const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;
    let mut builder = auto::Builder::new(answering);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.header_timeout_ms))
        .max_buf_size(limits.max_header_bytes.max(8 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(u32::try_from(limits.max_concurrent_requests).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Connections that the kernel holds until they are accepted, as far as `net.core.somaxconn` allows: over it a client's first
/// packet is dropped, and sent again only after a second.
const BACKLOG: u32 = 4096;
/// Connections over the limit that are told so at a time.
const REFUSALS: usize = 64;
/// Time in which such a connection must have asked and heard.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// What a new connection needs.
#[derive(Clone)]
struct Acceptor {
    app: Router,
    ahead: Option<Ahead>,
    guard: Arc<Guard>,
    tls: Option<Arc<tls::Acceptors>>,
    /// Hosts of which clients' certificates must be for one; none for any.
    allowed_hosts: Arc<[String]>,
    limits: Limits,
    header_timeout: Duration,
    rejected: Arc<Rejected>,
}

impl Acceptor {
    /// The same listener for connections over the limit: every request is refused in the protocol's own form.
    fn refusing(&self, most: usize) -> Self {
        let error = self.guard.error;
        let sentence: Arc<str> =
            format!("this server has {most} connections, its most (server.limits.max_connections); try again in a second")
                .into();
        let app = Router::new().fallback(move |request: Request| async move {
            let is_grpc = guard::is_grpc(request.headers());
            let mut response = guard::refusal(error, is_grpc, StatusCode::SERVICE_UNAVAILABLE, &sentence);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            if !is_grpc {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        });
        Self { app, ahead: None, header_timeout: REFUSAL_TIME, ..self.clone() }
    }
}

async fn accept_loop(listener: TcpListener, acceptor: Acceptor, ctx: &Ctx) {
    let limits = &ctx.server.limits;
    let most = process::connections_within(limits.max_connections);
    if most < limits.max_connections {
        let wanted = limits.max_connections;
        tracing::warn!(
            most,
            wanted,
            "fewer connections than configured: the limit of open files (ulimit -n) is low"
        );
    }
    let slots = Arc::new(Semaphore::new(most));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let refusing = acceptor.refusing(most);
    let graceful = GracefulShutdown::new();
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ctx.shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Ok(slot) = slots.clone().try_acquire_owned() {
                    connections.spawn(connection(acceptor.clone(), stream, slot, graceful.watcher()));
                } else if let Ok(slot) = refusals.clone().try_acquire_owned() {
                    let refusal = connection(refusing.clone(), stream, slot, graceful.watcher());
                    connections.spawn(tokio::time::timeout(REFUSAL_TIME, refusal));
                }
                // With that many refusals on their way, further connections are closed without a word.
            }
            Err(error) => {
                // Mostly "too many open files": the connections at hand must end before new ones can come.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    drain(graceful, connections, Duration::from_millis(limits.drain_timeout_ms)).await;
}

async fn drain(graceful: GracefulShutdown, connections: tokio_util::task::TaskTracker, limit: Duration) {
    let polite = async {
        graceful.shutdown().await;
        connections.wait().await;
    };
    if tokio::time::timeout(limit, polite).await.is_err() {
        tracing::warn!(limit_ms = limit.as_millis() as u64, "requests that did not finish in time were cut");
    }
}

async fn connection(acceptor: Acceptor, stream: TcpStream, slot: OwnedSemaphorePermit, watcher: Watcher) {
    let _ = stream.set_nodelay(true);
    let limit = acceptor.header_timeout;
    let from = stream.peer_addr().ok();
    match &acceptor.tls {
        None => http(&acceptor, acceptor.app.clone(), PrefaceDeadline::new(stream, limit), watcher).await,
        Some(tls) => match tokio::time::timeout(limit, tls.current().accept(stream)).await {
            Ok(Ok(stream)) => {
                if let Err(reason) = tls::is_allowed(stream.get_ref().1, &acceptor.allowed_hosts) {
                    acceptor
                        .rejected
                        .tell(from, &format_args!("client certificate authentication failed: {reason}"));
                    return;
                }
                let name = tls::client_name(stream.get_ref().1);
                let stream = PrefaceDeadline::new(stream, limit);
                match name {
                    None => http(&acceptor, acceptor.app.clone(), stream, watcher).await,
                    Some(name) => {
                        let app = axum::Extension(name).layer(acceptor.app.clone());
                        // Who it is comes with the request only by way of the router.
                        let acceptor = Acceptor { ahead: None, ..acceptor };
                        http(&acceptor, app, stream, watcher).await;
                    }
                }
            }
            Ok(Err(error)) => acceptor.rejected.tell(from, &error),
            Err(_) => acceptor.rejected.tell(from, &"its TLS handshake took too long"),
        },
    }
    drop(slot);
}

async fn http<A, S>(acceptor: &Acceptor, app: A, stream: S, watcher: Watcher)
where
    A: Service<http::Request<Incoming>, Response = Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    A::Future: Send,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let front = Arc::new(Front { app, ahead: acceptor.ahead.clone(), guard: Arc::clone(&acceptor.guard) });
    let service = hyper::service::service_fn(move |request| Arc::clone(&front).answer(request));
    let (stream, answering) =
        (Held::new(Counted::new(stream, acceptor.guard.metrics.bytes.clone())), Answering::default());
    let builder = connection_builder(&acceptor.limits, answering.clone());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream.clone()), service);
    let connection = watcher.watch(connection.into_owned());
    if let Err(error) = Turns::new(connection, stream, answering).await {
        tracing::debug!(%error, "connection");
    }
}
