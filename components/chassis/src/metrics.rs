//! The Prometheus registry of a process.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, header};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::Component;
use crate::guard::HttpMetrics;
use crate::process::ProcessCollector;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A registry that can be shared. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    http: HttpMetrics,
    more: Arc<OnceLock<More>>,
}

/// Writes what no registry holds.
struct More(Box<dyn Fn(&Metrics) -> String + Send + Sync>);

impl fmt::Debug for More {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("More")
    }
}

impl Metrics {
    /// A registry with the process's own figures (CPU, memory, files, start time) and `build_info`.
    pub fn new(component: Component) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let labels = vec![("component", component.name), ("version", component.version)];
        registry.register("aistack_build", "What runs here", Info::new(labels));
        let http = HttpMetrics::register(&mut registry);
        Self { registry: Arc::new(Mutex::new(registry)), http, more: Arc::default() }
    }

    /// The figures that every listener adds to.
    pub(crate) fn http(&self) -> &HttpMetrics {
        &self.http
    }

    /// Bytes that came from clients, and that went to them, over all connections of all listeners.
    pub fn bytes(&self) -> (u64, u64) {
        (self.http.bytes.received.get(), self.http.bytes.sent.get())
    }

    /// Gives the registry to `register`.
    pub fn registry<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has `more`, families in OpenMetrics text, follow what the registry holds, on every page. The first one counts.
    pub fn followed_by(&self, more: impl Fn(&Self) -> String + Send + Sync + 'static) {
        let _ = self.more.set(More(Box::new(more)));
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        const END: &str = "# EOF\n";
        let mut text = String::new();
        self.registry(|registry| encode(&mut text, registry)).expect("writing to a String cannot fail");
        if let Some(More(more)) = self.more.get() {
            text.truncate(text.trim_end_matches(END).len());
            text.push_str(&more(self));
            text.push_str(END);
        }
        text
    }

    /// The answer to a request for OpenMetrics text: the text itself for whoever accepts it, as Prometheus does, else the
    /// same in Prometheus's older text format, which every other reader knows.
    pub fn answer(headers: &HeaderMap, open_metrics: String) -> Response {
        let accepts = |value: &http::HeaderValue| {
            value.to_str().is_ok_and(|value| value.contains("application/openmetrics-text"))
        };
        if headers.get_all(header::ACCEPT).iter().any(accepts) {
            ([(header::CONTENT_TYPE, OPEN_METRICS)], open_metrics).into_response()
        } else {
            ([(header::CONTENT_TYPE, PLAIN)], plain(&open_metrics)).into_response()
        }
    }
}

/// OpenMetrics names a family, Prometheus's text format the samples: `requests` of type counter has the sample
/// `requests_total`, `build` of type info has `build_info`. Source: the two formats' specifications.
fn plain(open_metrics: &str) -> String {
    use std::fmt::Write as _;
    // Writing to a string cannot fail.
    let mut out = String::with_capacity(open_metrics.len());
    // The line of help, which comes first, until the type tells how the samples are called.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(out, "# HELP {name}{suffix} {text}");
            }
            let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with("# UNIT ") && line != "# EOF" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_registry_holds_comes_before_the_end() {
        let metrics = Metrics::new(Component { name: "t", env_prefix: "T_", version: "1" });
        let before = metrics.encode();
        metrics.followed_by(|_| "# TYPE etcd_x gauge\netcd_x 1\n".to_owned());
        metrics.followed_by(|_| panic!("the first one counts"));
        let page = metrics.encode();
        assert!(before.ends_with("# EOF\n") && page.ends_with("\netcd_x 1\n# EOF\n"), "{page}");
        assert_eq!(page.matches("# EOF").count(), 1);
    }

    #[test]
    fn whoever_does_not_ask_for_openmetrics_gets_the_older_text() {
        let open = "# HELP http_requests Requests.\n# TYPE http_requests counter\n# UNIT http_requests seconds\n\
                    http_requests_total{code=\"200\"} 3\n# HELP build What runs.\n# TYPE build info\nbuild_info{v=\"1\"} 1\n\
                    # HELP depth Depth.\n# TYPE depth unknown\ndepth 2\n# EOF\n";
        let expected = "# HELP http_requests_total Requests.\n# TYPE http_requests_total counter\n\
                        http_requests_total{code=\"200\"} 3\n# HELP build_info What runs.\n# TYPE build_info gauge\n\
                        build_info{v=\"1\"} 1\n# HELP depth Depth.\n# TYPE depth untyped\ndepth 2\n";
        assert_eq!(plain(open), expected);
        let kind = |accept: &str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().expect("a value"))]);
            Metrics::answer(&headers, open.to_owned()).headers()[header::CONTENT_TYPE].clone()
        };
        assert_eq!(kind("*/*"), PLAIN);
        assert_eq!(kind("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2"), OPEN_METRICS);
    }
}
