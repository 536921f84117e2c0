//! An operator inside the test: the same that runs as a process, and its figures at hand.

use std::time::Instant;

use aistack_api::operator::OperatorConfig;
use aistack_chassis::{Component, Health, Metrics, Shutdown};
use aistack_operator::kernel::metrics::Requests;
use aistack_operator::run::{Operator, OperatorError};
use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinHandle;

use crate::plane::Plane;
use crate::wait;

/// An operator that runs.
pub struct Running {
    /// Its figures.
    pub metrics: Metrics,
    /// Its readiness.
    pub health: Health,
    requests: Requests,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), OperatorError>>,
}

impl Running {
    /// Starts one that sees a namespace, without a Lease, and waits until its caches are warm.
    pub async fn start(plane: &Plane, namespace: &str) -> Result<Self> {
        let mut config =
            OperatorConfig { namespace: Some(namespace.to_owned()), ..OperatorConfig::default() };
        config.lease.enabled = false;
        config.local_endpoints = true;
        let running = Self::begin(plane, &config)?;
        wait::until("the operator is ready", || async { Ok(running.health.is_ready().then_some(())) })
            .await?;
        Ok(running)
    }

    /// Starts one, and does not wait.
    pub fn begin(plane: &Plane, config: &OperatorConfig) -> Result<Self> {
        let component = Component { name: "aistack-operator", env_prefix: "AISTACK_OPERATOR_", version: "0" };
        let (metrics, health, shutdown) = (Metrics::new(component), Health::default(), Shutdown::default());
        let operator = Operator::new(config, &plane.config(), &metrics)?;
        let requests = operator.requests();
        let task = tokio::spawn(operator.run(health.clone(), shutdown.clone()));
        Ok(Self { metrics, health, requests, shutdown, task })
    }

    /// Changes that it asked the API server for.
    pub fn writes(&self) -> u64 {
        self.requests.writes()
    }

    /// Reconciliations that ended.
    pub fn reconciled(&self) -> u64 {
        self.sum("controller_runtime_reconcile_total")
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.sum("leader_election_master_status") == 1
    }

    /// The sum of a figure over all its labels.
    pub fn sum(&self, name: &str) -> u64 {
        let text = self.metrics.encode();
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok()).flatten()
        };
        text.lines().filter_map(of).sum::<f64>() as u64
    }

    /// Waits until so many reconciliations ended and none is due.
    pub async fn until_reconciled(&self, at_least: u64) -> Result<()> {
        let what = format!("{at_least} reconciliations have ended and none is due");
        wait::until(&what, || async {
            let is_idle =
                self.sum("workqueue_depth") == 0 && self.sum("controller_runtime_active_workers") == 0;
            Ok((is_idle && self.reconciled() >= at_least).then_some(()))
        })
        .await
    }

    /// Waits until five reconciliations in a row wrote nothing, and says how much was written until then.
    pub async fn until_settled(&self) -> Result<u64> {
        let began = Instant::now();
        loop {
            let before = self.writes();
            self.until_reconciled(self.reconciled() + 5).await?;
            if self.writes() == before {
                return Ok(before);
            }
            ensure!(began.elapsed() < wait::PATIENCE, "it writes and writes: {before} requests so far");
        }
    }

    /// Asks it to stop, as SIGTERM does, and waits until it has.
    pub async fn stop(self) -> Result<()> {
        self.shutdown.trigger();
        self.task.await.context("the operator panicked")??;
        Ok(())
    }

    /// Kills it: no word to anybody.
    pub async fn kill(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}
