//! The operator as a process: clients, controllers, and the manager that runs them.

use std::sync::Arc;
use std::time::Duration;

use aistack_api::operator::OperatorConfig;
use aistack_chassis::{Health, Metrics, Shutdown};
use aistack_crds::AIStack;
use kube::client::ClientBuilder;
use kube::{Client, Config};

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
            .with_store_priority(config.store_priority_class.clone());
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

fn client(config: Config, counted: Option<&Requests>) -> Result<Client, kube::Error> {
    let builder = ClientBuilder::try_from(config)?;
    Ok(match counted {
        Some(requests) => builder.with_layer(requests).build(),
        None => builder.build(),
    })
}

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
