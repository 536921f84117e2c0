//! One inference engine behind the gateway: its state, its health checks, and the connections to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aistack_api::engine::base_url;
use aistack_api::modelhub::{EngineConfig, EngineTask};
use aistack_chassis::tls::Watched;
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use serde::Deserialize;

use super::heard::Heard;
use super::rotation::Rotation;
use crate::client_tls::{ClientTlsError, explained, rustls_config, server_name};
use crate::renewal::client_files;

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

/// How long nothing comes over a connection before the other side's kernel is asked whether it is there.
const QUIET: Duration = Duration::from_secs(10);

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
    client: ArcSwap<Connections>,
    settings: EngineConfig,
    connect_timeout: Duration,
    /// Its certificates and its key.
    files: Mutex<Watched>,
    scheme_and_authority: (Scheme, Authority),
    base_path: String,
    host: HeaderValue,
    key: ArcSwapOption<HeaderValue>,
    rotation: Rotation,
    heard: Heard,
    /// Requests that it is working on.
    running: AtomicUsize,
    configured: Vec<String>,
    models: ArcSwap<Vec<EngineModel>>,
    /// Why the last check failed.
    trouble: ArcSwap<String>,
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
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(wrong("only http:// and https:// engines can be reached"));
        }
        let authority = parts.authority.ok_or_else(|| wrong("no host"))?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|e| wrong(&e.to_string()))?;
        let tls = config.tls.clone().unwrap_or_default();
        let files = client_files(&tls).chain(config.api_key_file.clone()).collect();
        let base_path = parts.path_and_query.map(|p| base_url(p.path()).to_owned()).unwrap_or_default();
        Ok(Self {
            name: config.name.clone(),
            endpoint: config.endpoint.clone(),
            task: config.task,
            files: Mutex::new(Watched::new(files)),
            client: ArcSwap::from_pointee(connections(config, scheme == Scheme::HTTPS, connect_timeout)?),
            settings: config.clone(),
            connect_timeout,
            scheme_and_authority: (scheme, authority),
            base_path,
            host,
            key: ArcSwapOption::new(read_key(config)?.map(Arc::new)),
            rotation: Rotation::new(),
            heard: Heard::new(),
            running: AtomicUsize::new(0),
            configured: config.models.clone(),
            models: ArcSwap::from_pointee(
                config.models.iter().map(|id| EngineModel { id: id.clone(), context: None }).collect(),
            ),
            trouble: ArcSwap::from_pointee("it was not checked yet".to_owned()),
        })
    }

    /// Whether its last check passed.
    pub fn healthy(&self) -> bool {
        self.rotation.is_in()
    }

    /// For how long it has been out of rotation.
    pub fn away(&self) -> Option<Duration> {
        self.rotation.away()
    }

    /// For how long it has been in rotation.
    pub fn present(&self) -> Option<Duration> {
        self.rotation.present()
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
        let response = self.client.load().request(request).await?;
        self.heard.note();
        Ok(response)
    }

    /// Notes a request until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    /// Takes it out of rotation until a check passes again; says whether it was in.
    pub fn fail(&self, why: String) -> bool {
        let was_in = self.rotation.leave();
        if was_in {
            tracing::warn!(engine = self.name, endpoint = self.endpoint, why, "engine out of rotation");
        }
        self.trouble.store(Arc::new(why));
        was_in
    }

    /// It is the one of another name at the same address, and stands where that stands until it is checked itself.
    pub fn take_after(&self, other: &Self) {
        self.client.store(other.client.load_full());
        self.models.store(other.models.load_full());
        self.rotation.enter();
    }

    /// Takes it out of rotation when nothing at all came from it for so long. One that others hear is slow, and does not hang.
    pub fn fail_if_silent(&self, limit: Duration, why: String) {
        if self.heard.silence() >= limit {
            self.fail(why);
        }
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
        if let Some(key) = &*self.key.load() {
            headers.insert(header::AUTHORIZATION, HeaderValue::clone(key));
        }
    }

    /// Connects by its certificates and its key as they are now, where they were renewed. What is on its way stays on its way.
    fn renew(&self) {
        if !self.files.lock().have_changed() {
            return;
        }
        let is_encrypted = self.scheme_and_authority.0 == Scheme::HTTPS;
        let renewed = connections(&self.settings, is_encrypted, self.connect_timeout)
            .and_then(|renewed| Ok((renewed, read_key(&self.settings)?)));
        match renewed {
            Ok((renewed, key)) => {
                self.client.store(Arc::new(renewed));
                self.key.store(key.map(Arc::new));
                tracing::info!(engine = self.name, "its certificates and its key were read again");
            }
            Err(error) => {
                tracing::warn!(%error, "new certificates or a new key cannot be used yet; those from before stay in use");
            }
        }
    }

    /// Asks it what it serves, and waits up to `limit`; not while it is at work and was not silent for as long as `silence`.
    pub async fn check(&self, limit: Duration, silence: Duration) -> Checked {
        // An engine at work shows its health by what comes from it. Some (llama-cpp-python) answer one call at a time, so that
        // a check would wait behind the work, or cut it short. That somebody asks shows nothing: one that hangs is asked, too.
        let is_at_work = self.running.load(Ordering::Relaxed) > 0 && self.heard.silence() < silence;
        self.renew();
        if self.healthy() && is_at_work {
            return Checked::default();
        }
        let found = match tokio::time::timeout(limit, self.ask_models()).await {
            Ok(found) => found,
            Err(_) => Err(format!("no answer to GET /v1/models within {} ms", limit.as_millis())),
        };
        let models = match found {
            Ok(models) => models,
            Err(why) => {
                self.fail(why);
                return Checked::default();
            }
        };
        let serves_others = *self.models.swap(Arc::new(models.clone())) != models;
        let came_in = self.rotation.enter();
        if came_in {
            tracing::info!(engine = self.name, endpoint = self.endpoint, "engine in rotation");
        }
        Checked { came_in, serves_others }
    }

    async fn ask_models(&self) -> Result<Vec<EngineModel>, String> {
        let uri = self.uri("/v1/models").map_err(|e| e.to_string())?;
        let mut request = Request::get(uri).body(Full::default()).map_err(|e| e.to_string())?;
        self.sign(request.headers_mut());
        let response =
            self.send(request).await.map_err(|e| explained(&self.endpoint, crate::innermost(&e)))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), 4 << 20).collect().await;
        let body = body.map_err(|e| format!("GET /v1/models broke off: {e}"))?.to_bytes();
        if !status.is_success() {
            return Err(format!("GET /v1/models answered {status}"));
        }
        let served: ModelList = serde_json::from_slice(&body).unwrap_or_default();
        let context = |id: &str| served.data.iter().find(|m| m.id == id).and_then(ListedModel::context);
        if self.configured.is_empty() {
            return Ok(served
                .data
                .iter()
                .map(|m| EngineModel { id: m.id.clone(), context: m.context() })
                .collect());
        }
        Ok(self.configured.iter().map(|id| EngineModel { id: id.clone(), context: context(id) }).collect())
    }
}

/// What a check changed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checked {
    /// It is in rotation, and was not.
    pub came_in: bool,
    /// Its models are not those of the last check.
    pub serves_others: bool,
}

/// A request that an engine is working on.
#[derive(Debug)]
pub struct Running(Arc<Engine>);

impl Running {
    /// Notes that a piece of its reply came.
    pub fn heard(&self) {
        self.0.heard.note();
    }

    /// No piece of its reply came for so long.
    pub fn silent(&self, limit: Duration) {
        self.0.fail_if_silent(
            limit,
            format!("it was silent for {} s in the middle of a reply", limit.as_secs()),
        );
    }
}

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
    // A node that is lost closes nothing: what waits for one of its pods is told within half a minute, however long an answer may take.
    tcp.set_keepalive(Some(QUIET));
    tcp.set_keepalive_interval(Some(QUIET / 2));
    tcp.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(QUIET * 2));
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

    #[tokio::test]
    async fn an_engine_that_hangs_at_work_is_checked_and_one_that_is_heard_is_not() {
        // It takes connections, and never answers.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (limit, long) = (Duration::from_millis(50), Duration::from_mins(10));
        let engine = Arc::new(engine(&endpoint).expect("an engine"));
        assert!(engine.rotation.enter());

        let running = engine.begin();
        running.heard();
        engine.check(limit, long).await;
        assert!(engine.healthy(), "it was heard lately");
        running.silent(long);
        assert!(engine.healthy(), "others heard it meanwhile");
        engine.check(limit, Duration::ZERO).await;
        assert!(!engine.healthy(), "it was silent for too long");
        assert!(engine.trouble().contains("no answer to GET /v1/models"), "{}", engine.trouble());

        // A check's time has passed since it was heard; that it is asked for more is no sign of life.
        assert!(engine.rotation.enter());
        let _more = engine.begin();
        engine.check(limit, limit).await;
        assert!(!engine.healthy());
        assert!(engine.rotation.enter());
        running.silent(limit);
        assert!(!engine.healthy() && engine.trouble().contains("silent"), "{}", engine.trouble());
        // Out of rotation it is checked, whatever it works on.
        running.heard();
        engine.check(limit, long).await;
        assert!(engine.trouble().contains("no answer to GET /v1/models"), "{}", engine.trouble());
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
