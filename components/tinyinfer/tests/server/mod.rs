//! A real server in this process, on free ports, with a real model from the model cache.

#![allow(dead_code, clippy::panic)] // each test file uses its share; failing is what tests do

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aistack_api::tinyinfer::TinyinferConfig;
use aistack_chassis::{Component, Ctx, Health, Metrics, Shutdown};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub const CHAT: &str = "smollm2-135m-instruct";
pub const EMBED: &str = "all-minilm-l6-v2";

/// For what must happen, however slow and busy the machine is.
pub const PATIENCE: Duration = Duration::from_mins(10);
const NEVER_MS: u64 = 3_600_000;

pub struct Server {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub shutdown: Shutdown,
    pub health: Health,
    pub task: JoinHandle<Result<(), tinyinfer::server::RunError>>,
    client: reqwest::Client,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub async fn start(model: &str, change: impl FnOnce(&mut TinyinferConfig)) -> Self {
        let mut config =
            TinyinferConfig { model: model.to_owned(), threads: 2, ..TinyinferConfig::default() };
        // No time-out that a test does not wait for: a machine that stalls must not meet one.
        config.server.limits.header_timeout_ms = NEVER_MS;
        config.server.limits.body_timeout_ms = NEVER_MS;
        config.server.limits.drain_timeout_ms = NEVER_MS;
        config.request_timeout_ms = NEVER_MS;
        change(&mut config);
        config.validate().expect("a valid configuration");
        let http = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let grpc = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let component = Component { name: "tinyinfer", env_prefix: "TINYINFER_", version: "test" };
        let ctx = Ctx {
            component,
            shutdown: Shutdown::default(),
            health: Health::default(),
            metrics: Metrics::new(component),
            server: config.server.clone(),
        };
        let (shutdown, health) = (ctx.shutdown.clone(), ctx.health.clone());
        let addresses = (http.local_addr().expect("bound"), grpc.local_addr().expect("bound"));
        let task = tokio::spawn(tinyinfer::server::run_on(http, grpc, config, ctx));
        // Another test of this process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
        let server = Self { http: addresses.0, grpc: addresses.1, shutdown, health, task, client };
        server
            .until("ready (are the models there? cargo xtask models)", async || server.health.is_ready())
            .await;
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Posts JSON; the status and the body.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response =
            self.client.post(self.url(path)).body(body.to_string()).send().await.expect("an answer");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or_else(|_| json!({ "text": text })))
    }

    /// Posts JSON that is accepted.
    pub async fn ok(&self, path: &str, body: &Value) -> Value {
        let (status, reply) = self.post(path, body).await;
        assert_eq!(status, 200, "{reply}");
        reply
    }

    /// Posts JSON and reads the stream to its end: the chunks, without `[DONE]`.
    pub async fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let response =
            self.client.post(self.url(path)).body(body.to_string()).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        chunks(&response.text().await.expect("a body"))
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self.client.get(self.url(path)).send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    /// The value of a gauge or counter.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        let line = line.unwrap_or_else(|| panic!("no metric {name} in\n{text}"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }

    pub async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let begun = Instant::now();
        while !condition().await {
            assert!(!self.task.is_finished(), "the server ended while waiting: {what}");
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The chunks of a stream that came whole, without `[DONE]`.
pub fn chunks(stream: &str) -> Vec<Value> {
    let mut lines: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"), "{stream}");
    lines.into_iter().map(|line| serde_json::from_str(line).expect("a chunk is JSON")).collect()
}

/// A chat request with one message.
pub fn ask(question: &str) -> Value {
    json!({"messages": [{"role": "user", "content": question}]})
}

/// `base` with the fields of `over`.
pub fn with(base: &Value, over: &Value) -> Value {
    let mut all = base.clone();
    for (key, value) in over.as_object().expect("an object") {
        all[key] = value.clone();
    }
    all
}

/// The text of a chat reply.
pub fn text(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().expect("a reply has text")
}
