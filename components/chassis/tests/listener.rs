//! A listener before hostile and merely unlucky clients, over real sockets.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aistack_api::server::{AuthConfig, Limits, ServerConfig, TlsConfig};
use aistack_chassis::{Component, Ctx, Health, Metrics, Shutdown, serve};
use axum::Router;
use axum::routing::{get, post};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, date_time_ymd,
};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const COMPONENT: Component = Component { name: "test", env_prefix: "TEST_", version: "0" };
// SHA-256 of "secret".
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// For what must happen, however slow and busy the machine is.
const PATIENCE: Duration = Duration::from_mins(5);
/// For what must not happen while a test runs.
const NEVER_MS: u64 = 3_600_000;
/// For time-outs that a test waits for.
const SOON_MS: u64 = 300;

/// Holds the requests to `/held` until a test lets them go.
#[derive(Default)]
struct Gate {
    arrived: Notify,
    released: Notify,
}

struct Server {
    address: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<()>,
    metrics: Metrics,
    gate: Arc<Gate>,
}

impl Server {
    async fn start(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut server = ServerConfig::with_admin(([127, 0, 0, 1], 0).into());
        server.limits = Limits {
            max_body_bytes: 1_000,
            header_timeout_ms: NEVER_MS,
            body_timeout_ms: NEVER_MS,
            drain_timeout_ms: NEVER_MS,
            ..Limits::default()
        };
        change(&mut server);
        let ctx = Ctx {
            component: COMPONENT,
            shutdown: Shutdown::default(),
            health: Health::default(),
            metrics: Metrics::new(COMPONENT),
            server,
        };
        let listener = serve::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, metrics) = (ctx.shutdown.clone(), ctx.metrics.clone());
        let gate = Arc::<Gate>::default();
        let app = app(gate.clone());
        let task = tokio::spawn(async move { serve::serve(listener, app, &ctx).await.unwrap() });
        Self { address, shutdown, task, metrics, gate }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn app(gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/echo", post(|body: String| async { body }))
        .route("/panic", get(boom))
        .route(
            "/held",
            get(|| async move {
                gate.arrived.notify_one();
                gate.released.notified().await;
                "held"
            }),
        )
}

async fn boom() -> &'static str {
    panic!("boom")
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The answer to a request on a connection over the limit. The server holds such a connection for two seconds only, which a
/// machine that stalls may miss: then again.
async fn told(request: impl Fn() -> reqwest::RequestBuilder) -> reqwest::Response {
    let begun = Instant::now();
    loop {
        match request().send().await {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "never told: {error}"),
        }
    }
}

#[tokio::test]
async fn a_silent_connection_and_a_slow_header_are_closed() {
    let server = Server::start(|config| config.limits.header_timeout_ms = SOON_MS).await;
    for start in ["", "PRI * HT", "GET / HTTP/1.1\r\nx: "] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // On a machine that stalls here the connection is gone already; a reset is as good an end as a close.
        let _ = stream.write_all(start.as_bytes()).await;
        let mut answer = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "`{start}` still held its connection after {PATIENCE:?}");
    }
}

#[tokio::test]
async fn a_slow_body_is_cut() {
    let server = Server::start(|config| config.limits.body_timeout_ms = SOON_MS).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nab").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn refusals_are_clear_and_the_server_goes_on() {
    let server = Server::start(|config| config.limits.max_header_bytes = 8 << 10).await;
    let client = client();
    let large = client.post(server.url("/echo")).body("x".repeat(2_000)).send().await.unwrap();
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(large.text().await.unwrap().contains("larger than 1000 bytes"));

    let chunks = futures::stream::iter((0..50).map(|_| Ok::<_, std::io::Error>("x".repeat(100))));
    let chunked =
        client.post(server.url("/echo")).body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    assert_eq!(chunked.status(), StatusCode::PAYLOAD_TOO_LARGE);

    let panicked = client.get(server.url("/panic")).send().await.unwrap();
    assert_eq!(panicked.status(), StatusCode::INTERNAL_SERVER_ERROR);

    let headers = client.get(server.url("/healthz")).header("x", "y".repeat(20_000)).send().await.unwrap();
    assert_eq!(headers.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);

    let good = client.post(server.url("/echo")).body("héllo").send().await.unwrap();
    assert_eq!(good.text().await.unwrap(), "héllo");
    let metrics = server.metrics.encode();
    for line in
        [r#"aistack_http_requests_total{code="413"} 2"#, r#"aistack_http_requests_total{code="500"} 1"#]
    {
        assert!(metrics.contains(line), "{metrics}");
    }
}

/// The answer to a request whose client reads only when it has sent everything, long after it was refused.
async fn after_all_is_sent(server: &Server, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(format!("POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n").as_bytes())
        .await
        .unwrap();
    let (before, after) = body.split_at(body.len().min(1 << 16));
    stream.write_all(before).await.unwrap();
    tokio::time::timeout(PATIENCE, stream.readable()).await.unwrap().unwrap();
    stream.write_all(after).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn who_is_refused_may_send_to_the_end_and_then_read_why() {
    let server = Server::start(|_| {}).await;
    let large = vec![b'x'; 4 << 20];
    let declared = format!("content-length: {}\r\n", large.len());
    let answer = after_all_is_sent(&server, &declared, &large).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    let mut chunked = format!("{:x}\r\n", large.len()).into_bytes();
    chunked.extend_from_slice(&large);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let answer = after_all_is_sent(&server, "transfer-encoding: chunked\r\n", &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn who_asks_whether_to_send_is_refused_at_once_and_not_asked_to() {
    let server = Server::start(|_| {}).await;
    let answer = after_all_is_sent(&server, "expect: 100-continue\r\ncontent-length: 4000000\r\n", b"").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn over_the_limit_of_requests_the_answer_is_503_with_retry_after() {
    let server = Server::start(|config| config.limits.max_concurrent_requests = 1).await;
    let client = client();
    let held = tokio::spawn(client.get(server.url("/held")).send());
    server.gate.arrived.notified().await;
    let refused = client.get(server.url("/healthz")).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    server.gate.released.notify_one();
    assert_eq!(held.await.unwrap().unwrap().text().await.unwrap(), "held");
    // The place is free again once the response has been sent, which its reader may learn a moment before the server.
    eventually("the place is free again", async || {
        client.get(server.url("/healthz")).send().await.unwrap().status() == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn keys_guard_all_but_health() {
    let folder = tempfile::tempdir().unwrap();
    let keys_file = folder.path().join("keys");
    std::fs::write(&keys_file, format!("sha256:{SECRET}  alice\n")).unwrap();
    let server = Server::start(|config| config.auth = Some(AuthConfig { keys_file })).await;
    let client = client();
    let status = async |path: &str, key: &str| {
        client.post(server.url(path)).header("api-key", key).body("x").send().await.unwrap().status()
    };
    assert_eq!(status("/echo", "secret").await, StatusCode::OK);
    assert_eq!(status("/echo", "wrong").await, StatusCode::UNAUTHORIZED);
    assert_eq!(client.get(server.url("/healthz")).send().await.unwrap().status(), StatusCode::OK);

    // gRPC learns it in its own words.
    let grpc =
        client.post(server.url("/x.Y/Z")).header("content-type", "application/grpc").send().await.unwrap();
    assert_eq!(grpc.status(), StatusCode::OK);
    assert_eq!(grpc.headers()["grpc-status"], "16");
}

#[tokio::test]
async fn a_running_request_finishes_while_the_server_stops() {
    let server = Server::start(|_| {}).await;
    let client = client();
    let held = tokio::spawn(client.get(server.url("/held")).send());
    server.gate.arrived.notified().await;
    server.shutdown.trigger();
    eventually("the listener is closed", async || TcpStream::connect(server.address).await.is_err()).await;
    assert!(!held.is_finished() && !server.task.is_finished(), "the request is still at work");
    server.gate.released.notify_one();
    assert_eq!(held.await.unwrap().unwrap().text().await.unwrap(), "held");
    tokio::time::timeout(PATIENCE, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn tls_serves_both_http_versions() {
    let folder = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert_file, signed.cert.pem()).unwrap();
    std::fs::write(&key_file, signed.signing_key.serialize_pem()).unwrap();
    let server = Server::start(|config| config.tls = Some(TlsConfig::of(cert_file, key_file))).await;
    let ca = reqwest::Certificate::from_pem(signed.cert.pem().as_bytes()).unwrap();
    for http1 in [false, true] {
        let mut builder =
            reqwest::Client::builder().tls_certs_only([ca.clone()]).resolve("localhost", server.address);
        if http1 {
            builder = builder.http1_only();
        }
        let url = format!("https://localhost:{}/healthz", server.address.port());
        let answer = builder.build().unwrap().get(url).send().await.unwrap();
        let expected = if http1 { reqwest::Version::HTTP_11 } else { reqwest::Version::HTTP_2 };
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, expected));
    }
}

/// A CA that issues certificates with serial numbers from 1, and revokes them.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    /// Chain and key, as PEM.
    fn issue(&self, serial: u64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.serial_number = Some(serial.into());
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2026, 1, 8),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

#[tokio::test]
async fn a_client_whose_certificate_is_revoked_is_turned_away_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let authority = Authority::new();
    let (cert, key) = authority.issue(1);
    let tls = TlsConfig {
        client_ca_file: Some(file("ca.pem", &authority.1)),
        client_crl_file: Some(file("revoked.pem", &authority.revoke(&[]))),
        ..TlsConfig::of(file("cert.pem", &cert), file("key.pem", &key))
    };
    let server = Server::start(|config| config.tls = Some(tls)).await;
    let ca = reqwest::Certificate::from_pem(authority.1.as_bytes()).unwrap();
    let call = async |(cert, key): &(String, String)| {
        let identity = reqwest::Identity::from_pem(format!("{cert}{key}").as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([ca.clone()])
            .identity(identity)
            .resolve("localhost", server.address)
            .build()
            .unwrap();
        let url = format!("https://localhost:{}/healthz", server.address.port());
        client.get(url).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
    };
    let (one, other) = (authority.issue(2), authority.issue(3));
    assert!(call(&one).await && call(&other).await);
    file("revoked.pem", &authority.revoke(&[2]));
    assert!(!call(&one).await && call(&other).await);
    file("revoked.pem", &authority.revoke(&[3]));
    assert!(call(&one).await && !call(&other).await);
}

#[tokio::test]
async fn many_idle_connections_leave_room_for_a_request() {
    let server = Server::start(|_| {}).await;
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert_eq!(client().get(server.url("/healthz")).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn over_the_limit_of_connections_a_client_is_told_so() {
    let server = Server::start(|config| config.limits.max_connections = 2).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let refused = told(|| client().get(server.url("/healthz"))).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["connection"], "close");
    let sentence = refused.text().await.unwrap();
    assert!(sentence.contains("has 2 connections, its most"), "{sentence}");

    let grpc = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let call = told(|| grpc.post(server.url("/x.Y/Z")).header("content-type", "application/grpc")).await;
    assert_eq!(call.headers()["grpc-status"], "14", "UNAVAILABLE");

    idle.clear();
    eventually("the slots of closed connections come back", async || {
        let answer = client().get(server.url("/healthz")).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    })
    .await;
}
