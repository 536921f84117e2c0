//! What the operator counts, under the names that controller-runtime and client-go have made known.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use aistack_chassis::Metrics;
use aistack_crds::Kind;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::queue::Taken;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByController {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    controller: &'static str,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByName {
    name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByInvariant {
    invariant: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRequest {
    method: String,
    code: u16,
}

fn by(kind: Kind) -> ByController {
    ByController { controller: kind.name() }
}

/// Seconds, from a millisecond to a minute.
fn seconds() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

/// What the queue counts.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    depth: Gauge,
    outside: Gauge,
    adds: Family<ByController, Counter>,
    retries: Family<ByController, Counter>,
    waited: Histogram,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        Self {
            depth: Gauge::default(),
            outside: Gauge::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: seconds(),
        }
    }
}

impl QueueMetrics {
    /// Puts them into the registry behind `/metrics`.
    pub fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.registry(|registry| {
            registry.register("workqueue_depth", "Objects that wait to be reconciled", own.depth.clone());
            let name = "workqueue_outside";
            registry.register(
                name,
                "Reconciliations that wait for a server outside, and hold no worker",
                own.outside.clone(),
            );
            registry.register("workqueue_adds", "Reconciliations asked for", own.adds.clone());
            registry.register(
                "workqueue_retries",
                "Reconciliations that wait after a failure",
                own.retries.clone(),
            );
            registry.register(
                "workqueue_queue_duration_seconds",
                "Time from ready to taken",
                own.waited.clone(),
            );
        });
        own
    }

    pub(super) fn depth(&self, depth: usize) {
        self.depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    pub(super) fn outside(&self, turns: usize) {
        self.outside.set(i64::try_from(turns).unwrap_or(i64::MAX));
    }

    pub(super) fn added(&self, kind: Kind) {
        self.adds.get_or_create(&by(kind)).inc();
    }

    pub(super) fn retried(&self, kind: Kind) {
        self.retries.get_or_create(&by(kind)).inc();
    }

    pub(super) fn taken(&self, taken: &Taken) {
        self.waited.observe(taken.waited.as_secs_f64());
    }
}

/// What reconciliations count.
#[derive(Clone, Debug)]
pub struct ReconcileMetrics {
    total: Family<ByResult, Counter>,
    errors: Family<ByReason, Counter>,
    seconds: Family<ByController, Histogram, fn() -> Histogram>,
    active: Gauge,
    most: Gauge,
    leads: Family<ByName, Gauge>,
    watch_errors: Family<ByName, Counter>,
    violations: Family<ByInvariant, Counter>,
}

impl ReconcileMetrics {
    /// Puts them into the registry behind `/metrics`.
    pub fn register(metrics: &Metrics) -> Self {
        let own = Self {
            total: Family::default(),
            errors: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            active: Gauge::default(),
            most: Gauge::default(),
            leads: Family::default(),
            watch_errors: Family::default(),
            violations: Family::default(),
        };
        metrics.registry(|registry| {
            let name = "controller_runtime_reconcile";
            registry.register(name, "Reconciliations, by how they ended", own.total.clone());
            let name = "controller_runtime_reconcile_errors";
            registry.register(
                name,
                "Failed reconciliations, by the reason in the condition",
                own.errors.clone(),
            );
            let name = "controller_runtime_reconcile_time_seconds";
            registry.register(name, "Duration of a reconciliation", own.seconds.clone());
            let name = "controller_runtime_active_workers";
            registry.register(name, "Reconciliations that run", own.active.clone());
            let name = "controller_runtime_max_concurrent_reconciles";
            registry.register(name, "Most that may run at workers", own.most.clone());
            let name = "leader_election_master_status";
            registry.register(name, "1 while this process leads", own.leads.clone());
            let name = "watch_errors";
            registry.register(name, "Watches that broke and were begun again", own.watch_errors.clone());
            let name = "aistack_operator_kv_invariant_violations";
            registry.register(
                name,
                "Looks at a KVCluster that found broken what must always hold",
                own.violations.clone(),
            );
        });
        own
    }

    pub(super) fn workers(&self, most: usize) {
        self.most.set(i64::try_from(most).unwrap_or(i64::MAX));
    }

    pub(super) fn began(&self) {
        self.active.inc();
    }

    pub(super) fn ended(&self, kind: Kind, result: &'static str, took: Duration) {
        self.active.dec();
        self.total.get_or_create(&ByResult { controller: kind.name(), result }).inc();
        self.seconds.get_or_create(&by(kind)).observe(took.as_secs_f64());
    }

    pub(super) fn failed(&self, kind: Kind, reason: &str) {
        self.errors.get_or_create(&ByReason { controller: kind.name(), reason: reason.to_owned() }).inc();
    }

    pub(super) fn leads(&self, leads: bool) {
        self.leads.get_or_create(&ByName { name: "aistack-operator" }).set(i64::from(leads));
    }

    /// What must hold was found broken.
    pub(crate) fn violated(&self, invariant: &'static str) {
        self.violations.get_or_create(&ByInvariant { invariant }).inc();
    }

    pub(super) fn watch_broke(&self, name: &'static str) {
        self.watch_errors.get_or_create(&ByName { name }).inc();
    }
}

/// A layer of the client that counts requests by method and answer: what is not `GET` is a write.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    total: Family<ByRequest, Counter>,
    writes: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
}

impl Requests {
    /// Puts them into the registry behind `/metrics`.
    #[must_use]
    pub fn registered(self, metrics: &Metrics) -> Self {
        let help = "Requests to the API server";
        metrics.registry(|registry| registry.register("rest_client_requests", help, self.total.clone()));
        self
    }

    /// Requests so far that ask for a change.
    pub fn writes(&self) -> u64 {
        self.writes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Requests so far that ask for none.
    pub fn reads(&self) -> u64 {
        self.reads.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl<S> tower::Layer<S> for Requests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    requests: Requests,
}

impl<S, B, A> tower::Service<http::Request<B>> for Counted<S>
where
    S: tower::Service<http::Request<B>, Response = http::Response<A>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    A: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let requests = self.requests.clone();
        let method = request.method().clone();
        let of = if method == http::Method::GET { &requests.reads } else { &requests.writes };
        of.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            requests.total.get_or_create(&ByRequest { method: method.to_string(), code }).inc();
            answer
        }
        .boxed()
    }
}
