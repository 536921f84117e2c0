//! Configuration of the `modelhub` server.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::engine::EngineTask;
use crate::server::ServerConfig;

/// Everything `modelhub serve` needs to know. Environment variables start with `MODELHUB_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelhubConfig {
    /// What every server has alike: admin address, TLS, telemetry, limits.
    pub server: ServerConfig,
    /// Address of the HTTP door: OpenAI front, registry, RAG.
    pub listen: SocketAddr,
    /// Address of the gRPC door: `platform.v1.InferenceService`, health and reflection. Absent: no gRPC.
    pub listen_grpc: Option<SocketAddr>,
    /// Store of the registry's metadata, the API keys and the RAG records.
    pub kv: KvConfig,
    /// Store of the passages' vectors; absent = no RAG.
    pub vector: Option<VectorConfig>,
    /// Inference engines behind the gateway. Several engines may serve one model: requests go round.
    pub engines: Vec<EngineConfig>,
    /// Where artefacts are kept: a directory, or a URL (`file:`, `s3:`, `gs:`, `az:`, `http:`).
    /// Credentials of cloud stores come from their usual environment variables.
    pub artefacts: String,
    /// Defaults of retrieval-augmented generation.
    pub rag: RagDefaults,
    /// Limits of the gateway and of uploads.
    pub limits: GatewayLimits,
    /// Who may call.
    pub keys: KeysConfig,
}

impl Default for ModelhubConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig::with_admin(SocketAddr::from(([127, 0, 0, 1], 8081))),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            listen_grpc: None,
            kv: KvConfig::default(),
            vector: None,
            engines: Vec::new(),
            artefacts: "modelhub-artefacts".to_owned(),
            rag: RagDefaults::default(),
            limits: GatewayLimits::default(),
            keys: KeysConfig::default(),
        }
    }
}

/// A key-value store reached over the etcd v3 gRPC protocol (TinyKV, etcd).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KvConfig {
    /// Protocol of the store.
    #[serde(rename = "type")]
    pub kind: KvKind,
    /// Client URLs of the members, such as `http://127.0.0.1:2379`; all `http://` or all `https://`.
    pub endpoints: Vec<String>,
    /// User name, when the store asks for one.
    pub username: Option<String>,
    /// File that holds the user's password.
    pub password_file: Option<PathBuf>,
    /// Time in which the store must answer, in milliseconds.
    pub timeout_ms: u64,
    /// Certificates, for `https://` endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTlsConfig>,
}

impl Default for KvConfig {
    fn default() -> Self {
        Self {
            kind: KvKind::Etcd,
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            username: None,
            password_file: None,
            timeout_ms: 5_000,
            tls: None,
        }
    }
}

/// How the other side of an `https://` endpoint is checked, and what is shown to it. Absent: the system's CAs, no client
/// certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTlsConfig {
    /// PEM file with the CAs that the server's certificate must chain to. Absent: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client certificate and its chain, for servers that ask for one (mTLS). Needs `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the client certificate's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Name that the server's certificate must carry. Absent: the host of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Protocols of key-value stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvKind {
    /// etcd v3 gRPC.
    Etcd,
}

/// A vector store reached over the Qdrant gRPC protocol (VectorForge, Qdrant).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VectorConfig {
    /// Protocol of the store.
    #[serde(rename = "type", default = "qdrant")]
    pub kind: VectorKind,
    /// URL of the store's gRPC port, such as `http://127.0.0.1:6334`.
    pub endpoint: String,
    /// File that holds the store's API key.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// Certificates, for an `https://` endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTlsConfig>,
}

fn qdrant() -> VectorKind {
    VectorKind::Qdrant
}

/// Protocols of vector stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VectorKind {
    /// Qdrant gRPC.
    Qdrant,
}

/// One inference engine that speaks OpenAI HTTP (TinyInfer, vLLM, SGLang, llama.cpp, …).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Name in logs, metrics and error messages; unique.
    pub name: String,
    /// Base URL without the `/v1`, such as `http://127.0.0.1:8000`.
    pub endpoint: String,
    /// Names of the models that it serves; empty = ask its `/v1/models`.
    #[serde(default)]
    pub models: Vec<String>,
    /// What it is for.
    #[serde(default)]
    pub task: EngineTask,
    /// File that holds the engine's API key, sent as a bearer token.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// Certificates, for an `https://` endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTlsConfig>,
}

/// Defaults of retrieval-augmented generation; `rag create` and a query may override them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RagDefaults {
    /// Model that writes answers; absent = the first model of the first chat engine.
    pub chat_model: Option<String>,
    /// Model that embeds passages and questions; absent = the first model of the first embed engine.
    pub embed_model: Option<String>,
    /// Longest passage, in words. Passages break at headings, paragraphs and sentences first.
    pub passage_words: u32,
    /// How many passages a query retrieves.
    pub top_k: u32,
    /// How many of the retrieved passages the answer is written from.
    pub prompt_passages: u32,
    /// How many sentences of those passages the answering model reads: the ones nearest to the question. 0 = the whole
    /// passages, for models large enough to find the sentence themselves; a very small one answers best from 1.
    pub focus_sentences: u32,
    /// Cosine similarity below which a passage is not relevant. When none is relevant, the answer is “I don't know”.
    pub min_score: f32,
    /// Longest answer, in tokens.
    pub max_answer_tokens: u32,
    /// Passages sent to the embedding engine in one request.
    pub embed_batch: u32,
    /// Largest file that can be ingested, in bytes.
    pub max_file_bytes: u64,
}

impl Default for RagDefaults {
    fn default() -> Self {
        Self {
            chat_model: None,
            embed_model: None,
            passage_words: 120,
            top_k: 5,
            prompt_passages: 3,
            focus_sentences: 1,
            min_score: 0.3,
            max_answer_tokens: 160,
            embed_batch: 32,
            max_file_bytes: 32 << 20,
        }
    }
}

/// Limits of the gateway and of uploads. Time-outs are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayLimits {
    /// Largest body of an inference request, in bytes.
    pub max_request_bytes: u64,
    /// Largest artefact file, in bytes.
    pub max_artefact_bytes: u64,
    /// Time to connect to an engine.
    pub connect_timeout_ms: u64,
    /// Time to the first byte of an engine's reply. Generous: a reasoning model may think for minutes.
    pub first_byte_timeout_ms: u64,
    /// Longest silence between two pieces of a reply.
    pub idle_timeout_ms: u64,
    /// Tries of one request, the first included. A retry happens only before the first byte of a reply.
    pub max_tries: u32,
    /// Retries allowed, in percent of the requests of the last ten seconds (at least ten are always allowed).
    pub retry_budget_percent: u32,
    /// Time between two health checks of an engine.
    pub health_interval_ms: u64,
    /// Time in which an engine must answer a health check.
    pub health_timeout_ms: u64,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            max_request_bytes: 16 << 20,
            max_artefact_bytes: 64 << 30,
            connect_timeout_ms: 2_000,
            first_byte_timeout_ms: 600_000,
            idle_timeout_ms: 300_000,
            max_tries: 3,
            retry_budget_percent: 20,
            health_interval_ms: 2_000,
            health_timeout_ms: 2_000,
        }
    }
}

/// Who may call. Keys themselves live hashed in the key-value store: `modelhub keys create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// Refuse calls without an API key. When false, calls without a key are served and not metered.
    pub required: bool,
    /// File that holds the administrator's key (32 characters or more): it may create keys, models and rags.
    pub admin_key_file: Option<PathBuf>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ModelhubConfigError {
    /// A list that must not be empty is.
    #[error("{field} is empty: give at least one, such as {example}")]
    Empty {
        /// Path of the field.
        field: String,
        /// A value that would do.
        example: &'static str,
    },
    /// A URL of a kind that cannot be used here.
    #[error("{field}: {value:?} is not a http:// or https:// URL, such as {example}")]
    Url {
        /// Path of the field.
        field: String,
        /// The value given.
        value: String,
        /// A value that would do.
        example: &'static str,
    },
    /// Two engines share a name.
    #[error("engines: {name} is named twice; names tell engines apart in logs and metrics")]
    DuplicateEngine {
        /// The name.
        name: String,
    },
    /// Certificates for an endpoint that uses none.
    #[error("{field} is given but {endpoint} is no https:// URL: its traffic would not be encrypted")]
    TlsWithoutHttps {
        /// Path of the field.
        field: String,
        /// The endpoint.
        endpoint: String,
    },
    /// Half a client certificate.
    #[error("{field}: {given} is given without {missing}; a client certificate needs both")]
    HalfCertificate {
        /// Path of the field.
        field: String,
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// Plain and encrypted members of one store.
    #[error(
        "kv.endpoints has both http:// and https:// URLs: a store's members are all the one or all the other"
    )]
    MixedSchemes,
    /// Two listeners on one address.
    #[error("{field} is {address}, which is another listener's: {other}")]
    SameAddress {
        /// Path of the field.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// Path of the other field.
        other: &'static str,
    },
    /// A number outside its range.
    #[error("{field} is {value}, outside {range}")]
    Range {
        /// Path of the field.
        field: &'static str,
        /// The value given.
        value: String,
        /// What is accepted.
        range: &'static str,
    },
    /// The part that every server shares is wrong.
    #[error(transparent)]
    Server(#[from] crate::server::ServerConfigError),
    /// Keys are required but nobody could create one.
    #[error("keys.required is true but keys.admin_key_file is not set: nobody could create a key")]
    NoAdminKey,
}

impl ModelhubConfig {
    /// Checks what the types cannot say.
    pub fn validate(&self) -> Result<(), ModelhubConfigError> {
        const ETCD: &str = "http://127.0.0.1:2379";
        self.server.validate()?;
        if self.kv.endpoints.is_empty() {
            return Err(ModelhubConfigError::Empty { field: "kv.endpoints".into(), example: ETCD });
        }
        for (i, endpoint) in self.kv.endpoints.iter().enumerate() {
            check_url(format!("kv.endpoints[{i}]"), endpoint, ETCD)?;
            check_tls("kv.tls", self.kv.tls.as_ref(), endpoint)?;
            if is_https(endpoint) != is_https(&self.kv.endpoints[0]) {
                return Err(ModelhubConfigError::MixedSchemes);
            }
        }
        if let Some(vector) = &self.vector {
            check_url("vector.endpoint".into(), &vector.endpoint, "http://127.0.0.1:6334")?;
            check_tls("vector.tls", vector.tls.as_ref(), &vector.endpoint)?;
        }
        self.check_listeners()?;
        let mut names = std::collections::BTreeSet::new();
        for engine in &self.engines {
            if engine.name.is_empty() {
                return Err(ModelhubConfigError::Empty { field: "engines[].name".into(), example: "chat" });
            }
            if !names.insert(&engine.name) {
                return Err(ModelhubConfigError::DuplicateEngine { name: engine.name.clone() });
            }
            let field = format!("engines[{}].endpoint", engine.name);
            check_url(field, &engine.endpoint, "http://127.0.0.1:8000")?;
            check_tls(&format!("engines[{}].tls", engine.name), engine.tls.as_ref(), &engine.endpoint)?;
        }
        if self.artefacts.is_empty() {
            return Err(ModelhubConfigError::Empty {
                field: "artefacts".into(),
                example: "/var/lib/modelhub",
            });
        }
        check_range("rag.passage_words", self.rag.passage_words, 20, 2_000, "20 to 2000")?;
        check_range("rag.top_k", self.rag.top_k, 1, 100, "1 to 100")?;
        check_range("rag.prompt_passages", self.rag.prompt_passages, 1, 100, "1 to 100")?;
        check_range("rag.max_answer_tokens", self.rag.max_answer_tokens, 1, 32_768, "1 to 32768")?;
        check_range("rag.embed_batch", self.rag.embed_batch, 1, 2_048, "1 to 2048")?;
        check_range("limits.max_tries", self.limits.max_tries, 1, 10, "1 to 10")?;
        check_range("limits.retry_budget_percent", self.limits.retry_budget_percent, 0, 100, "0 to 100")?;
        check_range(
            "limits.health_interval_ms",
            self.limits.health_interval_ms,
            50,
            600_000,
            "50 to 600000",
        )?;
        check_range("limits.health_timeout_ms", self.limits.health_timeout_ms, 50, 600_000, "50 to 600000")?;
        check_range("kv.timeout_ms", self.kv.timeout_ms, 50, 600_000, "50 to 600000")?;
        if !(-1.0..=1.0).contains(&self.rag.min_score) {
            let value = self.rag.min_score.to_string();
            return Err(ModelhubConfigError::Range { field: "rag.min_score", value, range: "-1 to 1" });
        }
        if self.keys.required && self.keys.admin_key_file.is_none() {
            return Err(ModelhubConfigError::NoAdminKey);
        }
        Ok(())
    }

    fn check_listeners(&self) -> Result<(), ModelhubConfigError> {
        let grpc = self.listen_grpc.map(|address| ("listen_grpc", address));
        let listeners: Vec<(&'static str, SocketAddr)> =
            [Some(("listen", self.listen)), Some(("server.admin_listen", self.server.admin_listen)), grpc]
                .into_iter()
                .flatten()
                .filter(|(_, address)| address.port() != 0)
                .collect();
        for (i, &(field, address)) in listeners.iter().enumerate() {
            if let Some(&(other, _)) = listeners[..i].iter().find(|(_, known)| *known == address) {
                return Err(ModelhubConfigError::SameAddress { field, address, other });
            }
        }
        Ok(())
    }
}

fn is_https(url: &str) -> bool {
    url.starts_with("https://")
}

fn check_tls(field: &str, tls: Option<&ClientTlsConfig>, endpoint: &str) -> Result<(), ModelhubConfigError> {
    let Some(tls) = tls else { return Ok(()) };
    let field = field.to_owned();
    if !is_https(endpoint) {
        return Err(ModelhubConfigError::TlsWithoutHttps { field, endpoint: endpoint.to_owned() });
    }
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => {
            Err(ModelhubConfigError::HalfCertificate { field, given: "cert_file", missing: "key_file" })
        }
        (None, Some(_)) => {
            Err(ModelhubConfigError::HalfCertificate { field, given: "key_file", missing: "cert_file" })
        }
        _ => Ok(()),
    }
}

fn check_url(field: String, value: &str, example: &'static str) -> Result<(), ModelhubConfigError> {
    let host = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
    match host {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(()),
        _ => Err(ModelhubConfigError::Url { field, value: value.to_owned(), example }),
    }
}

fn check_range<T: Copy + PartialOrd + ToString>(
    field: &'static str,
    value: T,
    low: T,
    high: T,
    range: &'static str,
) -> Result<(), ModelhubConfigError> {
    if value < low || value > high {
        return Err(ModelhubConfigError::Range { field, value: value.to_string(), range });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(name: &str, endpoint: &str) -> EngineConfig {
        EngineConfig {
            name: name.into(),
            endpoint: endpoint.into(),
            models: vec![],
            task: EngineTask::Chat,
            api_key_file: None,
            tls: None,
        }
    }

    fn tls(cert: Option<&str>, key: Option<&str>) -> ClientTlsConfig {
        let path = |p: Option<&str>| p.map(PathBuf::from);
        ClientTlsConfig { cert_file: path(cert), key_file: path(key), ..ClientTlsConfig::default() }
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        type Case = (&'static str, fn(&mut ModelhubConfig), &'static str);
        let cases: &[Case] = &[
            ("default", |_| (), ""),
            ("no kv", |c| c.kv.endpoints.clear(), "kv.endpoints is empty"),
            ("kv without scheme", |c| c.kv.endpoints = vec!["localhost:2379".into()], "kv.endpoints[0]"),
            (
                "engine twice",
                |c| c.engines = vec![engine("a", "http://x"), engine("a", "http://y")],
                "a is named twice",
            ),
            ("engine path only", |c| c.engines = vec![engine("a", "http:///v1")], "engines[a].endpoint"),
            (
                "engine over TLS",
                |c| c.engines = vec![EngineConfig { tls: Some(tls(None, None)), ..engine("a", "https://x") }],
                "",
            ),
            (
                "certificates for plain text",
                |c| c.engines = vec![EngineConfig { tls: Some(tls(None, None)), ..engine("a", "http://x") }],
                "engines[a].tls is given but http://x is no https:// URL",
            ),
            (
                "half a certificate",
                |c| {
                    c.kv.endpoints = vec!["https://e:2379".into()];
                    c.kv.tls = Some(tls(Some("c.pem"), None));
                },
                "kv.tls: cert_file is given without key_file",
            ),
            (
                "mixed members",
                |c| c.kv.endpoints = vec!["https://e:2379".into(), "http://f:2379".into()],
                "both http:// and https://",
            ),
            ("one port twice", |c| c.listen_grpc = Some(c.listen), "listen_grpc is 127.0.0.1:8080"),
            ("top_k", |c| c.rag.top_k = 0, "rag.top_k is 0"),
            ("score", |c| c.rag.min_score = f32::NAN, "rag.min_score is NaN"),
            ("keys", |c| c.keys.required = true, "keys.admin_key_file"),
        ];
        for (name, change, want) in cases {
            let mut config = ModelhubConfig::default();
            change(&mut config);
            let got = config.validate().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{name}: {got:?}");
        }
    }
}
