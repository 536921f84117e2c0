//! The Prometheus registry of a process.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::Component;
use crate::guard::HttpMetrics;
use crate::process::ProcessCollector;

/// Content type of the OpenMetrics text that [`Metrics::encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry that can be shared. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    http: HttpMetrics,
}

impl Metrics {
    /// A registry with the process's own figures (CPU, memory, files, start time) and `build_info`.
    pub fn new(component: Component) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let labels = vec![("component", component.name), ("version", component.version)];
        registry.register("aistack_build", "What runs here", Info::new(labels));
        let http = HttpMetrics::register(&mut registry);
        Self { registry: Arc::new(Mutex::new(registry)), http }
    }

    /// The figures that every listener adds to.
    pub(crate) fn http(&self) -> &HttpMetrics {
        &self.http
    }

    /// Gives the registry to `register`.
    pub fn registry<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        self.registry(|registry| encode(&mut text, registry)).expect("writing to a String cannot fail");
        text
    }
}
