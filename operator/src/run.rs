//! The operator as a process: clients, controllers, and the manager that runs them.

use std::sync::Arc;
use std::time::Duration;

use aistack_api::operator::OperatorConfig;
use aistack_chassis::{Health, Metrics, Shutdown};
use aistack_crds::AIStack;
use kube::client::ClientBuilder;
use kube::client::retry::RetryPolicy;
use kube::{Client, Config};
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use tower::timeout::TimeoutLayer;

use crate::aistack::StackController;
use crate::env_pool::EnvController;
use crate::inference_service::InferenceController;
use crate::kernel::apply::said;
use crate::kernel::cluster::{Cluster, Scope};
use crate::kernel::lease::{Election, LeaseSettings};
use crate::kernel::manager::{Manager, ManagerError, ManagerSettings};
use crate::kernel::metrics::{QueueMetrics, ReconcileMetrics, Requests};
use crate::kernel::watch::Objects;
use crate::kv_cluster::KvController;
use crate::outside::Outside;
use crate::task_set::TaskController;
use crate::vector_collection::VectorController;
use crate::world::WorldController;

/// Why the operator cannot run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No cluster is named.
    #[error("find the cluster: {0}\n  set KUBECONFIG, or run in a pod with a service account")]
    Find(#[source] Box<kube::config::InferConfigError>),
    /// No client can be made for it.
    #[error("make a client for {url}: {}", said(.source))]
    Connect {
        /// The cluster.
        url: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// It ran, and ended.
    #[error(transparent)]
    Manager(#[from] ManagerError),
}

/// An operator that has not begun.
pub struct Operator {
    manager: Manager,
    cluster: Arc<Cluster>,
    requests: Requests,
    election: Option<Election>,
}

impl Operator {
    /// For the cluster that the environment names.
    pub async fn infer(config: &OperatorConfig, metrics: &Metrics) -> Result<Self, OperatorError> {
        let cluster = Config::infer().await.map_err(|error| OperatorError::Find(Box::new(error)))?;
        Self::new(config, &cluster, metrics)
    }

    /// For a given cluster.
    pub fn new(config: &OperatorConfig, cluster: &Config, metrics: &Metrics) -> Result<Self, OperatorError> {
        let requests = Requests::default().registered(metrics);
        let connect = |counted: Option<&Requests>| {
            client(cluster.clone(), counted).map_err(|source| OperatorError::Connect {
                url: cluster.cluster_url.to_string(),
                source: Box::new(source),
            })
        };
        let scope = match &config.namespace {
            Some(namespace) => Scope::Namespace(namespace.clone()),
            None => Scope::Cluster,
        };
        let namespace = config.lease.namespace.clone().unwrap_or_else(|| cluster.default_namespace.clone());
        // A connection of its own, which no crowd of reconciliations shares.
        let election = config.lease.enabled.then(|| connect(None)).transpose()?;
        let election = election.map(|client| Election::new(client, lease(config, namespace)));
        let shared = Cluster::new(
            connect(Some(&requests))?,
            scope,
            QueueMetrics::register(metrics),
            ReconcileMetrics::register(metrics),
        );
        let shared = shared
            .with_addresses(config.addresses.clone())
            .with_local_endpoints(config.local_endpoints)
            .with_images(config.images.clone())
            .with_store_priority(config.store_priority_class.clone())
            .with_pods_otlp_endpoint(config.pods_otlp_endpoint.clone());
        let shared = Arc::new(shared);
        let drain = Duration::from_millis(config.server.limits.drain_timeout_ms);
        let stacks = Arc::<Objects<AIStack>>::default();
        let manager = Manager::new(shared.clone(), ManagerSettings { workers: config.workers, drain })
            .with(StackController, stacks.clone())
            .with(KvController::default(), Arc::default())
            .with(InferenceController::new(stacks.clone(), config.prometheus_url.clone()), Arc::default())
            .with(VectorController::new(stacks), Arc::default())
            .with(WorldController, Arc::default())
            .with(TaskController, Arc::default())
            .with(EnvController, Arc::default());
        Ok(Self { manager, cluster: shared, requests, election })
    }

    /// What it knows of the cluster.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.cluster.clone()
    }

    /// What it asked of the API server so far, its Lease aside.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Runs until `shutdown`, or until another leads.
    pub async fn run(self, health: Health, shutdown: Shutdown) -> Result<(), OperatorError> {
        Ok(self.manager.run(self.election, health, shutdown).await?)
    }
}

/// Asks a running operator for a page: its text, or why it did not answer well.
pub async fn ask(url: &str) -> Result<String, String> {
    let answer = Outside::new(true).visit(url, None).await.map_err(|silence| silence.to_string())?;
    let text = answer.text();
    if answer.status.is_success() { Ok(text) } else { Err(format!("{}: {text}", answer.status)) }
}

/// How long the API server may take to begin an answer; it gives up a request itself after as long. Without this, a connection that
/// died silently would keep a worker for ever.
const PATIENCE: Duration = Duration::from_mins(1);

fn client(mut config: Config, counted: Option<&Requests>) -> Result<Client, kube::Error> {
    // kube's own retries go on for minutes: what was decided is out of date by then, and a worker waits. Here only a moment is bridged; the
    // queue has the patience.
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config)?.with_layer(&TimeoutLayer::new(PATIENCE));
    let Some(requests) = counted else { return Ok(builder.build()) };
    let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
    let retry = RetryPolicy::new(first, most, 3, false).expect("the first wait is the shorter");
    let shared = builder.with_layer(&BufferLayer::new(CALLS)).with_layer(&RetryLayer::new(retry));
    Ok(shared.with_layer(requests).build())
}

/// Requests that wait for their turn to be sent.
const CALLS: usize = 1_024;

fn lease(config: &OperatorConfig, namespace: String) -> LeaseSettings {
    let lease = &config.lease;
    let pod = std::env::var("POD_NAME").unwrap_or_else(|_| std::process::id().to_string());
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    LeaseSettings {
        name: lease.name.clone(),
        duration: seconds(lease.duration_seconds),
        renew: seconds(lease.renew_seconds),
        deadline: seconds(lease.deadline_seconds),
        // A pod's name comes again after a restart, and a process's number on another machine.
        watched: config.namespace.clone(),
        ..LeaseSettings::new(namespace, format!("{pod}_{:016x}", rand::random::<u64>()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::Api;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_refusal_for_now_is_told_soon() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", server.local_addr().expect("bound")).parse().expect("a URL");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 4_096];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        let answer =
                            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 10\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(answer.as_bytes()).await.expect("it is read");
                    }
                });
            }
        });
        let client = client(Config::new(url), Some(&Requests::default())).expect("a client");
        let began = Instant::now();
        Api::<ConfigMap>::namespaced(client, "n").get("c").await.expect_err("too many");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
}
