//! The life of the process: watches, leadership, workers, and an orderly end.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aistack_chassis::{Health, Shutdown};
use aistack_crds::Kind;
use tokio::task::JoinSet;

use super::child::ChildKind;
use super::cluster::{Cluster, Scope};
use super::controller::{Controller, Typed};
use super::key::Key;
use super::lease::{Election, Held, Lost};
use super::queue::Taken;
use super::reconcile::Reconciler;
use super::repeats::Repeats;
use super::share::Limits;
use super::turns;
use super::watch::{self, Objects};

/// Why the operator ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// Another leads now. What we know may be old: a new process begins anew.
    #[error("no longer the leader: {0}")]
    Lost(#[from] Lost),
    /// A watch ended, which it never does.
    #[error("the watch of {kind} ended")]
    WatchEnded {
        /// Of what.
        kind: &'static str,
    },
}

/// Workers that take nothing but users' edits, beside the others: one waits for no crowd.
const EDITORS: usize = 2;

/// How the manager runs.
#[derive(Clone, Debug)]
pub struct ManagerSettings {
    /// Reconciliations at a time.
    pub workers: usize,
    /// How long running ones may take to end after the signal.
    pub drain: Duration,
}

impl Default for ManagerSettings {
    fn default() -> Self {
        Self { workers: 8, drain: Duration::from_secs(10) }
    }
}

/// All controllers on one cluster.
pub struct Manager {
    cluster: Arc<Cluster>,
    controllers: HashMap<Kind, Arc<dyn Reconciler>>,
    settings: ManagerSettings,
}

impl Manager {
    /// Without controllers yet.
    pub fn new(cluster: Arc<Cluster>, settings: ManagerSettings) -> Self {
        Self { cluster, controllers: HashMap::new(), settings }
    }

    /// Adds the controller of a kind.
    #[must_use]
    pub fn with<C: Controller>(mut self, controller: C, objects: Arc<Objects<C::Object>>) -> Self {
        self.controllers
            .insert(C::KIND, Arc::new(Typed { controller, objects, repeats: Repeats::default() }));
        self
    }

    /// Runs until `shutdown`, or until another leads. Without an election it leads at once.
    pub async fn run(
        self,
        election: Option<Election>,
        health: Health,
        shutdown: Shutdown,
    ) -> Result<(), ManagerError> {
        let mut watches = self.watch();
        health.set_ready("caches", false);
        let end = tokio::select! {
            ended = self.lead(election, &health, &shutdown) => ended,
            Some(ended) = watches.join_next() => {
                Err(ManagerError::WatchEnded { kind: ended.unwrap_or("a task that panicked") })
            }
        };
        watches.abort_all();
        end
    }

    fn watch(&self) -> JoinSet<&'static str> {
        let children = || ChildKind::ALL.into_iter().filter(|kind| kind.of_ours().is_none());
        let own = self.controllers.keys().map(|kind| kind.name());
        watch::expect(&self.cluster, own.chain(children().map(ChildKind::name)));
        let mut watches = JoinSet::new();
        for controller in self.controllers.values() {
            let (watch, kind) = (controller.watch(self.cluster.clone()), controller.kind().name());
            watches.spawn(async move {
                watch.await;
                kind
            });
        }
        for kind in children() {
            let watch = watch::children(kind, self.cluster.clone());
            watches.spawn(async move {
                watch.await;
                kind.name()
            });
        }
        watches
    }

    async fn lead(
        &self,
        election: Option<Election>,
        health: &Health,
        shutdown: &Shutdown,
    ) -> Result<(), ManagerError> {
        tokio::select! {
            () = self.synced() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        // Those that wait for the lead are ready too: their caches are warm.
        health.set_ready("caches", true);
        let Some(election) = election else {
            self.cluster.metrics.leads(true);
            self.work(shutdown).await;
            return Ok(());
        };
        let mut held = tokio::select! {
            held = election.acquire() => held,
            () = shutdown.cancelled() => return Ok(()),
        };
        tracing::info!("leading");
        self.cluster.metrics.leads(true);
        let end = self.work_while_leading(&election, &mut held, shutdown).await;
        self.cluster.metrics.leads(false);
        if end.is_ok() {
            // Only now that nothing of ours runs any more.
            election.release(held).await;
        }
        end
    }

    async fn synced(&self) {
        loop {
            tokio::select! {
                () = self.cluster.synced.wait() => return,
                () = tokio::time::sleep(Duration::from_secs(10)) => {
                    let kinds = self.cluster.synced.pending().join(", ");
                    tracing::warn!(kinds, "not listed yet; are the kinds installed, and may they be read?");
                }
            }
        }
    }

    async fn work_while_leading(
        &self,
        election: &Election,
        held: &mut Held,
        shutdown: &Shutdown,
    ) -> Result<(), ManagerError> {
        tokio::select! {
            () = self.work(shutdown) => Ok(()),
            lost = election.keep(held) => {
                self.cluster.queue.close();
                Err(lost.into())
            }
        }
    }

    /// Reconciles until `shutdown`; what runs then gets to end.
    async fn work(&self, shutdown: &Shutdown) {
        // What happened while another led was taken out of nobody's queue, so all of it is still there.
        self.cluster.metrics.workers(self.settings.workers + EDITORS);
        let is_shared = self.cluster.scope == Scope::Cluster;
        self.cluster.queue.limit(Limits::of(self.settings.workers, EDITORS, is_shared));
        let turn = |taken: &Taken| turns::of(&self.cluster, &self.controllers, taken);
        let mut turns = pin!(turns::run(self.cluster.queue.clone(), turn));
        tokio::select! {
            () = &mut turns => return,
            () = shutdown.cancelled() => self.cluster.queue.close(),
        }
        if tokio::time::timeout(self.settings.drain, turns).await.is_err() {
            tracing::warn!("reconciliations that would not end are left");
        }
    }

    /// Has every object looked at again.
    pub fn resync(&self) {
        for (kind, controller) in &self.controllers {
            for name in controller.names() {
                self.cluster.queue.add(Key::new(*kind, name), super::queue::Priority::Resync);
            }
        }
    }
}
