//! What the gateway counts. Handles are looked up once a model, so that a request only adds to atomics.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    model: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    model: String,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EngineLabel {
    engine: String,
}

type Histograms = Family<ModelLabel, Histogram, fn() -> Histogram>;

/// Families of the gateway's metrics.
#[derive(Debug, Clone)]
pub struct GatewayMetrics {
    requests: Family<OutcomeLabels, Counter>,
    duration: Histograms,
    first_byte: Histograms,
    tokens: Family<TokenLabels, Counter>,
    running: Family<ModelLabel, Gauge>,
    retries: Counter,
    healthy: Family<EngineLabel, Gauge>,
    refused: Family<OutcomeLabels, Counter>,
}

fn seconds() -> Histogram {
    const BOUNDS: [f64; 16] =
        [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
    Histogram::new(BOUNDS)
}

impl GatewayMetrics {
    /// Creates the families and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(seconds),
            first_byte: Family::new_with_constructor(seconds),
            tokens: Family::default(),
            running: Family::default(),
            retries: Counter::default(),
            healthy: Family::default(),
            refused: Family::default(),
        };
        registry.register("modelhub_requests", "Inference requests by outcome", metrics.requests.clone());
        registry.register(
            "modelhub_request_duration_seconds",
            "Time to the end of a reply",
            metrics.duration.clone(),
        );
        registry.register(
            "modelhub_time_to_first_byte_seconds",
            "Time to the first byte of a reply's body",
            metrics.first_byte.clone(),
        );
        registry.register("modelhub_tokens", "Tokens read and written by models", metrics.tokens.clone());
        registry.register("modelhub_requests_running", "Requests in progress", metrics.running.clone());
        registry.register("modelhub_retries", "Requests sent to another engine", metrics.retries.clone());
        registry.register(
            "modelhub_engine_healthy",
            "1 when the engine's last check passed",
            metrics.healthy.clone(),
        );
        registry.register(
            "modelhub_refused",
            "Requests refused before any engine saw them",
            metrics.refused.clone(),
        );
        metrics
    }

    /// Handles for one model.
    pub fn of_model(&self, model: &str) -> Arc<ModelMetrics> {
        let label = ModelLabel { model: model.to_owned() };
        let outcome =
            |outcome| self.requests.get_or_create_owned(&OutcomeLabels { model: model.to_owned(), outcome });
        let tokens =
            |direction| self.tokens.get_or_create_owned(&TokenLabels { model: model.to_owned(), direction });
        Arc::new(ModelMetrics {
            succeeded: outcome("ok"),
            client_error: outcome("client_error"),
            server_error: outcome("server_error"),
            aborted: outcome("aborted"),
            duration: self.duration.get_or_create_owned(&label),
            first_byte: self.first_byte.get_or_create_owned(&label),
            read: tokens("prompt"),
            written: tokens("completion"),
            running: self.running.get_or_create_owned(&label),
        })
    }

    /// Notes a retry.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// An engine that nobody asks any more shows no state.
    pub fn forget_engine(&self, engine: &str) {
        self.healthy.remove(&EngineLabel { engine: engine.to_owned() });
    }

    /// Shows whether an engine is in rotation.
    pub fn engine(&self, engine: &str, healthy: bool) {
        self.healthy.get_or_create_owned(&EngineLabel { engine: engine.to_owned() }).set(i64::from(healthy));
    }

    /// Notes a request that no engine saw; `why` is the error's code, `model` one that is known or empty.
    pub fn refuse(&self, model: &str, why: &'static str) {
        self.refused.get_or_create_owned(&OutcomeLabels { model: model.to_owned(), outcome: why }).inc();
    }
}

/// Handles of one model's metrics.
#[derive(Debug)]
pub struct ModelMetrics {
    /// Replies below 400 that went through to their end.
    pub succeeded: Counter,
    /// Replies with 4xx.
    pub client_error: Counter,
    /// Replies with 5xx, and engines that did not reply.
    pub server_error: Counter,
    /// Replies that the client or the engine cut short.
    pub aborted: Counter,
    /// Seconds to the end.
    pub duration: Histogram,
    /// Seconds to the first byte.
    pub first_byte: Histogram,
    /// Tokens read.
    pub read: Counter,
    /// Tokens written.
    pub written: Counter,
    /// In progress.
    pub running: Gauge,
}
