//! The inference engines behind the gateway: their state, their health checks, and the connections to them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aistack_api::modelhub::{EngineConfig, EngineTask, GatewayLimits};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Notify;

use super::metrics::{GatewayMetrics, ModelMetrics};
use super::traffic::Split;
use crate::client_tls::{ClientTlsError, explained, rustls_config, server_name};

/// An engine out of rotation is looked at so many times as often: whoever waits for one to start wants to ask it then.
const AWAY: u32 = 8;

/// Why an engine cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The endpoint is not an address that can be called.
    #[error("engines: {name}: endpoint {endpoint} is not a URL that can be called: {reason}")]
    Endpoint {
        /// The engine.
        name: String,
        /// As configured.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// The key file cannot be read, or holds what cannot be a header.
    #[error("engines: {name}: api_key_file: {reason}")]
    Key {
        /// The engine.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
}

type Connections = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A model that an engine serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineModel {
    /// Its name.
    pub id: String,
    /// Tokens that a prompt and its answer may have together, when the engine says so.
    pub context: Option<u64>,
}

/// One engine.
#[derive(Debug)]
pub struct Engine {
    /// Name from the configuration.
    pub name: String,
    /// Base URL from the configuration.
    pub endpoint: String,
    /// What it is for.
    pub task: EngineTask,
    client: Connections,
    scheme_and_authority: (http::uri::Scheme, http::uri::Authority),
    base_path: String,
    host: HeaderValue,
    key: Option<HeaderValue>,
    healthy: AtomicBool,
    /// Requests that it is working on.
    running: AtomicUsize,
    configured: Vec<String>,
    models: ArcSwap<Vec<EngineModel>>,
    /// Why the last check failed.
    trouble: ArcSwap<String>,
    /// Since when it is out of rotation.
    away_since: Mutex<Option<Instant>>,
}

impl Engine {
    /// Prepares an engine and its connections; nothing is called yet.
    pub fn new(config: &EngineConfig, connect_timeout: Duration) -> Result<Self, EngineError> {
        let wrong = |reason: &str| EngineError::Endpoint {
            name: config.name.clone(),
            endpoint: config.endpoint.clone(),
            reason: reason.to_owned(),
        };
        let uri: Uri = config.endpoint.parse().map_err(|e: http::uri::InvalidUri| wrong(&e.to_string()))?;
        let parts = uri.into_parts();
        let scheme = parts.scheme.ok_or_else(|| wrong("no scheme"))?;
        if scheme != http::uri::Scheme::HTTP && scheme != http::uri::Scheme::HTTPS {
            return Err(wrong("only http:// and https:// engines can be reached"));
        }
        let authority = parts.authority.ok_or_else(|| wrong("no host"))?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|e| wrong(&e.to_string()))?;
        let base_path =
            parts.path_and_query.map(|p| p.path().trim_end_matches('/').to_owned()).unwrap_or_default();
        // People paste the base URL that OpenAI clients want; ours is the one before it.
        let base_path = base_path.strip_suffix("/v1").unwrap_or(&base_path).to_owned();
        Ok(Self {
            name: config.name.clone(),
            endpoint: config.endpoint.clone(),
            task: config.task,
            client: connections(config, scheme == http::uri::Scheme::HTTPS, connect_timeout)?,
            scheme_and_authority: (scheme, authority),
            base_path,
            host,
            key: read_key(config)?,
            healthy: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            configured: config.models.clone(),
            models: ArcSwap::from_pointee(
                config.models.iter().map(|id| EngineModel { id: id.clone(), context: None }).collect(),
            ),
            trouble: ArcSwap::from_pointee("it was not checked yet".to_owned()),
            away_since: Mutex::new(Some(Instant::now())),
        })
    }

    /// Whether its last check passed.
    pub fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// For how long it has been out of rotation.
    pub fn away(&self) -> Option<Duration> {
        self.away_since.lock().map(|since| since.elapsed())
    }

    /// Why it is not healthy.
    pub fn trouble(&self) -> Arc<String> {
        self.trouble.load_full()
    }

    /// What it serves, as far as known.
    pub fn models(&self) -> Arc<Vec<EngineModel>> {
        self.models.load_full()
    }

    /// Sends it a request.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        self.client.request(request).await
    }

    /// Notes a request until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    /// Takes it out of rotation until a check passes again.
    pub fn fail(&self, why: String) {
        if self.healthy.swap(false, Ordering::Relaxed) {
            tracing::warn!(engine = self.name, endpoint = self.endpoint, why, "engine out of rotation");
            *self.away_since.lock() = Some(Instant::now());
        }
        self.trouble.store(Arc::new(why));
    }

    /// The address of `path` on this engine.
    pub fn uri(&self, path: &str) -> Result<Uri, http::Error> {
        let (scheme, authority) = &self.scheme_and_authority;
        let path = if self.base_path.is_empty() {
            PathAndQuery::try_from(path)?
        } else {
            PathAndQuery::try_from(format!("{}{path}", self.base_path))?
        };
        Uri::builder().scheme(scheme.clone()).authority(authority.clone()).path_and_query(path).build()
    }

    /// Puts the engine's own `host` and key into an outgoing request.
    pub fn sign(&self, headers: &mut http::HeaderMap) {
        headers.insert(header::HOST, self.host.clone());
        if let Some(key) = &self.key {
            headers.insert(header::AUTHORIZATION, key.clone());
        }
    }
}

/// A request that an engine is working on.
#[derive(Debug)]
pub struct Running(Arc<Engine>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An engine's own pool of connections: its certificates are nobody else's.
fn connections(
    config: &EngineConfig,
    encrypted: bool,
    connect_timeout: Duration,
) -> Result<Connections, EngineError> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    tcp.enforce_http(false);
    let field = format!("engines[{}].tls", config.name);
    let tls = config.tls.clone().unwrap_or_default();
    let builder = HttpsConnectorBuilder::new();
    let mut connector = if encrypted {
        builder.with_tls_config(rustls_config(&field, &tls)?).https_only()
    } else {
        // Never used: the scheme is http. An empty one needs no CA on this machine.
        let roots = rustls::RootCertStore::empty();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unused = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| ClientTlsError::Rustls { field: field.clone(), source })?;
        builder.with_tls_config(unused.with_root_certificates(roots).with_no_client_auth()).https_or_http()
    };
    if let Some(name) = server_name(&field, &tls)? {
        connector = connector.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_mins(1))
        .pool_max_idle_per_host(512)
        .build(connector.enable_http1().wrap_connector(tcp)))
}

fn read_key(config: &EngineConfig) -> Result<Option<HeaderValue>, EngineError> {
    let Some(path) = &config.api_key_file else { return Ok(None) };
    let wrong = |reason: String| EngineError::Key { name: config.name.clone(), reason };
    let key = std::fs::read_to_string(path).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
        .map_err(|_| wrong(format!("{}: not one line of printable characters", path.display())))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The engines that serve one model.
#[derive(Debug)]
pub struct ModelRoute {
    /// Name of the model.
    pub model: String,
    /// The engines.
    pub engines: Vec<Arc<Engine>>,
    /// How requests are shared among them, when a route says so; its targets are the engines, in order.
    pub split: Option<Arc<Split>>,
    /// Whose turn it is.
    pub turn: AtomicUsize,
    /// Tokens of context, when an engine says so: the smallest.
    pub context: Option<u64>,
    /// What is counted.
    pub metrics: Arc<ModelMetrics>,
}

/// All engines and the routes to them.
#[derive(Debug)]
pub struct Engines {
    /// In the order of the configuration.
    configured: Vec<Arc<Engine>>,
    /// Of the routes that were set at run time; each goes before what is configured for its model.
    managed: ArcSwap<Vec<Arc<Split>>>,
    routes: ArcSwap<HashMap<String, Arc<ModelRoute>>>,
    /// One at a time makes the routes anew.
    rebuilding: Mutex<()>,
    /// Told when an engine comes into rotation or routes change.
    changed: Notify,
    check_interval: Duration,
    check_timeout: Duration,
    metrics: GatewayMetrics,
    /// Engines whose state the figures show.
    shown: Mutex<HashSet<String>>,
}

impl Engines {
    /// Prepares engines and connections; nothing is called yet.
    pub fn new(
        configs: &[EngineConfig],
        limits: &GatewayLimits,
        metrics: GatewayMetrics,
    ) -> Result<Self, EngineError> {
        let connect = Duration::from_millis(limits.connect_timeout_ms);
        let configured =
            configs.iter().map(|c| Engine::new(c, connect).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let check_interval = Duration::from_millis(limits.health_interval_ms);
        let check_timeout = Duration::from_millis(limits.health_timeout_ms);
        let routes = ArcSwap::from_pointee(HashMap::new());
        let engines = Self {
            configured,
            managed: ArcSwap::default(),
            routes,
            rebuilding: Mutex::default(),
            changed: Notify::new(),
            check_interval,
            check_timeout,
            metrics,
            shown: Mutex::default(),
        };
        engines.rebuild_routes();
        Ok(engines)
    }

    /// All engines: those of the configuration, then those of routes that were set at run time.
    pub fn all(&self) -> Vec<Arc<Engine>> {
        let managed = self.managed.load();
        let managed = managed.iter().flat_map(|split| &split.targets).map(|target| &target.engine);
        self.configured.iter().chain(managed).cloned().collect()
    }

    /// Replaces the routes that were set at run time.
    pub fn manage(&self, splits: Vec<Arc<Split>>) {
        self.managed.store(Arc::new(splits));
        self.rebuild_routes();
        self.show();
        self.changed.notify_waiters();
    }

    /// Completes when an engine comes into rotation or routes change after this was called.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// The route to a model.
    pub fn route(&self, model: &str) -> Option<Arc<ModelRoute>> {
        self.routes.load().get(model).cloned()
    }

    /// All routes.
    pub fn routes(&self) -> Arc<HashMap<String, Arc<ModelRoute>>> {
        self.routes.load_full()
    }

    /// Seconds after which an unhealthy engine has been checked again.
    pub fn check_seconds(&self) -> u64 {
        self.check_interval.as_secs().max(1)
    }

    /// The first model of the first engine for `task`, healthy ones first.
    pub fn default_model(&self, task: EngineTask) -> Option<String> {
        let mut of_task = self.all();
        of_task.retain(|e| e.task == task);
        of_task.sort_by_key(|e| !e.healthy());
        of_task.into_iter().find_map(|e| e.models().first().map(|m| m.id.clone()))
    }

    /// Checks the engines for ever, all at a time; those out of rotation more often.
    pub async fn watch_health(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.check_interval / AWAY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut all_at: Option<Instant> = None;
        loop {
            ticks.tick().await;
            let mut engines = self.all();
            if all_at.is_none_or(|at| at.elapsed() >= self.check_interval) {
                all_at = Some(Instant::now());
            } else {
                engines.retain(|engine| !engine.healthy());
            }
            self.check_these(&engines).await;
        }
    }

    /// Checks every engine once.
    pub async fn check_all(&self) {
        self.check_these(&self.all()).await;
    }

    /// Checks some engines once.
    pub async fn check_these(&self, engines: &[Arc<Engine>]) {
        let checks = engines.iter().map(|engine| self.check(engine));
        let changed = futures::future::join_all(checks).await;
        if changed.contains(&true) {
            self.rebuild_routes();
        }
        self.show();
    }

    /// Shows the state of each engine that somebody may ask: of none that is in no route any more, and of none that sleeps.
    fn show(&self) {
        let managed = self.managed.load();
        let asleep: HashSet<&str> = managed
            .iter()
            .filter(|split| split.hold.is_some() && split.room.held() == 0)
            .flat_map(|split| &split.targets)
            .filter(|target| !target.engine.healthy())
            .map(|target| target.engine.name.as_str())
            .collect();
        let mut shown = self.shown.lock();
        let mut gone = std::mem::take(&mut *shown);
        for engine in self.all().iter().filter(|engine| !asleep.contains(engine.name.as_str())) {
            self.metrics.engine(&engine.name, engine.healthy());
            gone.remove(&engine.name);
            shown.insert(engine.name.clone());
        }
        for engine in &gone {
            self.metrics.forget_engine(engine);
        }
    }

    /// Asks one engine what it serves; says whether the routes must change.
    async fn check(&self, engine: &Engine) -> bool {
        // An engine at work shows its health by working. Some (llama-cpp-python) answer one call at a time, so that a check
        // would wait behind the work, or cut it short.
        if engine.healthy() && engine.running.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let limit = self.check_timeout;
        let found = match tokio::time::timeout(limit, self.ask_models(engine)).await {
            Ok(found) => found,
            Err(_) => Err(format!("no answer to GET /v1/models within {} ms", limit.as_millis())),
        };
        match found {
            Ok(models) => {
                let changed = **engine.models.load() != models;
                engine.models.store(Arc::new(models));
                if !engine.healthy.swap(true, Ordering::Relaxed) {
                    *engine.away_since.lock() = None;
                    tracing::info!(engine = engine.name, endpoint = engine.endpoint, "engine in rotation");
                    self.changed.notify_waiters();
                }
                changed
            }
            Err(why) => {
                engine.fail(why);
                false
            }
        }
    }

    async fn ask_models(&self, engine: &Engine) -> Result<Vec<EngineModel>, String> {
        let uri = engine.uri("/v1/models").map_err(|e| e.to_string())?;
        let mut request = Request::get(uri).body(Full::default()).map_err(|e| e.to_string())?;
        engine.sign(request.headers_mut());
        let response =
            engine.send(request).await.map_err(|e| explained(&engine.endpoint, crate::innermost(&e)))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), 4 << 20).collect().await;
        let body = body.map_err(|e| format!("GET /v1/models broke off: {e}"))?.to_bytes();
        if !status.is_success() {
            return Err(format!("GET /v1/models answered {status}"));
        }
        let served: ModelList = serde_json::from_slice(&body).unwrap_or_default();
        let context = |id: &str| served.data.iter().find(|m| m.id == id).and_then(ListedModel::context);
        if engine.configured.is_empty() {
            return Ok(served
                .data
                .iter()
                .map(|m| EngineModel { id: m.id.clone(), context: m.context() })
                .collect());
        }
        Ok(engine.configured.iter().map(|id| EngineModel { id: id.clone(), context: context(id) }).collect())
    }

    fn rebuild_routes(&self) {
        let _one = self.rebuilding.lock();
        let before = self.routes.load();
        let mut serving: HashMap<String, Vec<Arc<Engine>>> = HashMap::new();
        for engine in &self.configured {
            for model in engine.models.load().iter() {
                serving.entry(model.id.clone()).or_default().push(engine.clone());
            }
        }
        let mut splits = HashMap::new();
        for split in self.managed.load().iter() {
            let engines = split.targets.iter().map(|target| target.engine.clone()).collect();
            serving.insert(split.model.clone(), engines);
            splits.insert(split.model.clone(), split.clone());
        }
        let routes = serving.into_iter().map(|(model, engines)| {
            let metrics = before
                .get(&model)
                .map_or_else(|| self.metrics.of_model(&model), |route| route.metrics.clone());
            let told = |engine: &Arc<Engine>| {
                engine
                    .models
                    .load()
                    .iter()
                    .find(|served| served.id == model)
                    .and_then(|served| served.context)
            };
            let context = engines.iter().filter_map(told).min();
            let split = splits.remove(&model);
            let turn = AtomicUsize::new(0);
            (model.clone(), Arc::new(ModelRoute { model, engines, split, turn, context, metrics }))
        });
        self.routes.store(Arc::new(routes.collect()));
    }
}

#[derive(Debug, Default, Deserialize)]
struct ModelList {
    #[serde(default)]
    data: Vec<ListedModel>,
}

#[derive(Debug, Deserialize)]
struct ListedModel {
    id: String,
    /// vLLM's and TinyInfer's name.
    #[serde(default)]
    max_model_len: Option<u64>,
    /// llama.cpp's place for it.
    #[serde(default)]
    meta: Option<ListedMeta>,
}

#[derive(Debug, Deserialize)]
struct ListedMeta {
    #[serde(default)]
    n_ctx: Option<u64>,
    #[serde(default)]
    n_ctx_train: Option<u64>,
}

impl ListedModel {
    fn context(&self) -> Option<u64> {
        self.max_model_len.or_else(|| self.meta.as_ref().and_then(|m| m.n_ctx.or(m.n_ctx_train)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(endpoint: &str) -> Result<Engine, EngineError> {
        let config = EngineConfig {
            name: "e".into(),
            endpoint: endpoint.into(),
            models: vec![],
            task: EngineTask::Chat,
            api_key_file: None,
            tls: None,
        };
        Engine::new(&config, Duration::from_secs(1))
    }

    #[test]
    fn endpoints_lead_to_addresses() {
        let cases = [
            ("http://h:8000", "http://h:8000/v1/models"),
            ("http://h:8000/", "http://h:8000/v1/models"),
            ("http://h:8000/v1", "http://h:8000/v1/models"),
            ("http://h/base/", "http://h/base/v1/models"),
        ];
        for (endpoint, want) in cases {
            let uri = engine(endpoint).expect(endpoint).uri("/v1/models").expect(endpoint);
            assert_eq!(uri.to_string(), want);
        }
        let error = engine("ftp://h").expect_err("another protocol").to_string();
        assert!(error.contains("only http:// and https://"), "{error}");
    }

    #[test]
    fn the_context_is_found_where_engines_put_it() {
        let cases = [
            (r#"{"id":"m","max_model_len":8192}"#, Some(8192)),
            (r#"{"id":"m","meta":{"n_ctx_train":2048}}"#, Some(2048)),
            (r#"{"id":"m","object":"model"}"#, None),
        ];
        for (json, want) in cases {
            assert_eq!(serde_json::from_str::<ListedModel>(json).expect(json).context(), want);
        }
    }
}
