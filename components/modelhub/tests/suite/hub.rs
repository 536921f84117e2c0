//! A ModelHub in this process.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use aistack_api::modelhub::{EngineConfig, EngineTask, ModelhubConfig};
use aistack_api::server::ServerConfig;
use aistack_chassis::{Component, Ctx, Health, Metrics, Shutdown};
use serde_json::Value;

/// A running server; it stops when this is dropped.
pub struct Hub {
    pub url: String,
    /// URL of the gRPC door.
    pub grpc: String,
    pub client: reqwest::Client,
    pub metrics: Metrics,
    pub health: Health,
    shutdown: Shutdown,
    _artefacts: tempfile::TempDir,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

pub fn engine(name: &str, url: &str, task: EngineTask) -> EngineConfig {
    EngineConfig {
        name: name.into(),
        endpoint: url.into(),
        models: vec![],
        task,
        api_key_file: None,
        tls: None,
    }
}

/// Chooses the cryptography of this process; again is no error.
pub fn crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A port at which nobody listens, and which nobody in this process was given before. Below those that the system gives to connections: one
/// of them would be somebody's by the time that a server has started.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % u32::from(COUNT)).expect("less than the count");
    loop {
        let port = FIRST + (begin + GIVEN.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// For what must happen, however slow and busy the machine is.
pub const PATIENCE: Duration = Duration::from_mins(5);
/// For time-outs that no test waits for: a machine that stalls must not meet them.
pub const NEVER_MS: u64 = 600_000;

/// What the chassis hands to a server.
pub fn context(mut server: ServerConfig) -> Ctx {
    server.limits.header_timeout_ms = NEVER_MS;
    server.limits.body_timeout_ms = NEVER_MS;
    let component = Component { name: "modelhub", env_prefix: "MODELHUB_", version: "test" };
    let (shutdown, health, metrics) = (Shutdown::default(), Health::default(), Metrics::new(component));
    Ctx { component, shutdown, health, metrics, server }
}

impl Hub {
    /// Starts a server; `change` completes its configuration.
    pub async fn start(change: impl FnOnce(&mut ModelhubConfig)) -> Self {
        crypto();
        let artefacts = tempfile::tempdir().expect("a folder");
        let mut config = ModelhubConfig {
            listen: ([127, 0, 0, 1], free_port()).into(),
            listen_grpc: Some(([127, 0, 0, 1], free_port()).into()),
            artefacts: artefacts.path().join("artefacts").display().to_string(),
            ..ModelhubConfig::default()
        };
        config.limits.health_interval_ms = 100;
        config.limits.health_timeout_ms = NEVER_MS;
        config.limits.connect_timeout_ms = NEVER_MS;
        config.kv.timeout_ms = NEVER_MS;
        config.server = ServerConfig::with_admin(([127, 0, 0, 1], 0).into());
        change(&mut config);
        let ctx = context(config.server.clone());
        let url = format!("http://{}", config.listen);
        let grpc = config.listen_grpc.map_or_else(String::new, |address| format!("http://{address}"));
        let (shutdown, health, metrics) = (ctx.shutdown.clone(), ctx.health.clone(), ctx.metrics.clone());
        tokio::spawn(async move { modelhub::server::serve(config, ctx).await.expect("the server runs") });
        let client = reqwest::Client::builder().build().expect("a client");
        let hub = Self { url, grpc, client, metrics, health, shutdown, _artefacts: artefacts };
        // Ready it is with a store, which not every test has.
        eventually("the server listens", || async { hub.health.report().contains("[+]listener") }).await;
        hub
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(self.client.post(format!("{}{path}", self.url)).json(body)).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.client.get(format!("{}{path}", self.url))).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.send(self.client.delete(format!("{}{path}", self.url))).await
    }

    pub async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        self.send(self.client.put(format!("{}{path}", self.url)).body(body)).await
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.send().await.expect("the server answers");
        let status = response.status().as_u16();
        let body = response.bytes().await.expect("a whole body");
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Value of a metric's line, 0 where there is none.
    pub fn metric(&self, line_start: &str) -> u64 {
        self.series(line_start).unwrap_or(0)
    }

    /// Value of a metric's line, if there is one.
    pub fn series(&self, line_start: &str) -> Option<u64> {
        let text = self.metrics.encode();
        text.lines().find(|l| l.starts_with(line_start))?.rsplit(' ').next()?.parse().ok()
    }
}

/// Waits until a condition holds, for [`PATIENCE`] at most.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
