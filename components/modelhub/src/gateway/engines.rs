//! The inference engines behind the gateway, and which of them serve a model.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aistack_api::modelhub::{EngineConfig, EngineTask, GatewayLimits};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::engine::{Engine, EngineError};
use super::metrics::{GatewayMetrics, ModelMetrics};
use super::traffic::Split;

/// An engine out of rotation is looked at so many times as often: whoever waits for one to start wants to ask it then.
const AWAY: u32 = 8;

/// How long the check of one that has just left rotation may take before its requests are refused.
const JUST_NOW: Duration = Duration::from_millis(100);

/// An engine at work that gave nothing for so long since it was last heard or due to be checked is checked all the same: it may hang.
const SILENT: Duration = Duration::from_mins(2);

/// The engines that serve one model.
#[derive(Debug)]
pub struct ModelRoute {
    /// Name of the model.
    pub model: String,
    /// The engines.
    pub engines: Vec<Arc<Engine>>,
    /// How requests are shared among them, when a route says so; its targets are the engines, in order.
    pub split: Option<Arc<Split>>,
    /// Whose turn it is.
    pub turn: AtomicUsize,
    /// Tokens of context, when an engine says so: the smallest.
    pub context: Option<u64>,
    /// What is counted.
    pub metrics: Arc<ModelMetrics>,
}

/// All engines and the routes to them.
#[derive(Debug)]
pub struct Engines {
    /// In the order of the configuration.
    configured: Vec<Arc<Engine>>,
    /// Of the routes that were set at run time; each goes before what is configured for its model.
    managed: ArcSwap<Vec<Arc<Split>>>,
    routes: ArcSwap<HashMap<String, Arc<ModelRoute>>>,
    /// Whether those that are set at run time were ever read.
    are_read: AtomicBool,
    /// One at a time makes the routes anew.
    rebuilding: Mutex<()>,
    /// Told when an engine comes into rotation or routes change.
    changed: Notify,
    check_interval: Duration,
    check_timeout: Duration,
    metrics: GatewayMetrics,
    /// Engines whose state the figures show.
    shown: Mutex<HashSet<String>>,
}

impl Engines {
    /// Prepares engines and connections; nothing is called yet.
    pub fn new(
        configs: &[EngineConfig],
        limits: &GatewayLimits,
        metrics: GatewayMetrics,
    ) -> Result<Self, EngineError> {
        let connect = Duration::from_millis(limits.connect_timeout_ms);
        let configured =
            configs.iter().map(|c| Engine::new(c, connect).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let check_interval = Duration::from_millis(limits.health_interval_ms);
        let check_timeout = Duration::from_millis(limits.health_timeout_ms);
        let routes = ArcSwap::from_pointee(HashMap::new());
        let engines = Self {
            configured,
            managed: ArcSwap::default(),
            routes,
            are_read: AtomicBool::new(false),
            rebuilding: Mutex::default(),
            changed: Notify::new(),
            check_interval,
            check_timeout,
            metrics,
            shown: Mutex::default(),
        };
        engines.rebuild_routes();
        Ok(engines)
    }

    /// All engines: those of the configuration, then those of routes that were set at run time.
    pub fn all(&self) -> Vec<Arc<Engine>> {
        let managed = self.managed.load();
        let managed = managed.iter().flat_map(|split| &split.targets).map(|target| &target.engine);
        self.configured.iter().chain(managed).cloned().collect()
    }

    /// Replaces the routes that were set at run time.
    pub fn manage(&self, splits: Vec<Arc<Split>>) {
        self.managed.store(Arc::new(splits));
        self.rebuild_routes();
        self.show();
        self.changed.notify_waiters();
    }

    /// From now on a model without a route has none.
    pub fn all_are_read(&self) {
        self.are_read.store(true, Ordering::Relaxed);
    }

    /// Whether a model without a route has none, as far as anybody knows.
    pub fn knows_all(&self) -> bool {
        self.are_read.load(Ordering::Relaxed)
    }

    /// Waits for the check of an engine that has just left rotation, or that nobody has looked at yet; says whether to look for one again.
    pub async fn look_again(&self, engines: &[Arc<Engine>]) -> bool {
        let changed = self.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if engines.iter().any(|engine| engine.healthy()) {
            return true;
        }
        // Those out of rotation are checked so often; a connection takes a moment.
        let soon = self.check_interval / AWAY + JUST_NOW;
        let left = engines.iter().filter_map(|engine| soon.checked_sub(engine.away()?)).max();
        match left {
            Some(left) => tokio::time::timeout(left, changed).await.is_ok(),
            None => false,
        }
    }

    /// Checks one at once that has just left rotation: what failed may have been one of several behind its address.
    pub fn check_soon(self: &Arc<Self>, engine: &Arc<Engine>) {
        let (engines, engine) = (self.clone(), engine.clone());
        tokio::spawn(async move { engines.check_these(&[engine]).await });
    }

    /// Completes when an engine comes into rotation or routes change after this was called.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// The route to a model.
    pub fn route(&self, model: &str) -> Option<Arc<ModelRoute>> {
        self.routes.load().get(model).cloned()
    }

    /// All routes.
    pub fn routes(&self) -> Arc<HashMap<String, Arc<ModelRoute>>> {
        self.routes.load_full()
    }

    /// Seconds after which an unhealthy engine has been checked again.
    pub fn check_seconds(&self) -> u64 {
        self.check_interval.as_secs().max(1)
    }

    /// The first model of the first engine for `task`, healthy ones first.
    pub fn default_model(&self, task: EngineTask) -> Option<String> {
        let mut of_task = self.all();
        of_task.retain(|e| e.task == task);
        of_task.sort_by_key(|e| !e.healthy());
        of_task.into_iter().find_map(|e| e.models().first().map(|m| m.id.clone()))
    }

    /// Checks the engines for ever, all at a time; those out of rotation more often.
    pub async fn watch_health(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.check_interval / AWAY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut all_at: Option<Instant> = None;
        loop {
            ticks.tick().await;
            let mut engines = self.all();
            if all_at.is_none_or(|at| at.elapsed() >= self.check_interval) {
                all_at = Some(Instant::now());
            } else {
                engines.retain(|engine| !engine.healthy());
            }
            self.check_these(&engines).await;
        }
    }

    /// Checks every engine once.
    pub async fn check_all(&self) {
        self.check_these(&self.all()).await;
    }

    /// Checks some engines once.
    pub async fn check_these(&self, engines: &[Arc<Engine>]) {
        // An engine at rest is heard once an interval, or a little later where another's check hangs; then its work may begin.
        let silence = SILENT + self.check_interval + self.check_timeout;
        let checks = engines.iter().map(async |engine| {
            let checked = engine.check(self.check_timeout, silence).await;
            // Who waits for it does not wait for the others' checks.
            if checked.came_in {
                self.changed.notify_waiters();
            }
            checked.serves_others
        });
        if futures::future::join_all(checks).await.contains(&true) {
            self.rebuild_routes();
        }
        self.show();
    }

    /// Shows the state of each engine that somebody may ask: of none that is in no route any more, and of none that sleeps.
    fn show(&self) {
        let managed = self.managed.load();
        let asleep: HashSet<&str> = managed
            .iter()
            .filter(|split| split.hold.is_some() && split.room.held() == 0)
            .flat_map(|split| &split.targets)
            .filter(|target| !target.engine.healthy())
            .map(|target| target.engine.name.as_str())
            .collect();
        let mut shown = self.shown.lock();
        let mut gone = std::mem::take(&mut *shown);
        for engine in self.all().iter().filter(|engine| !asleep.contains(engine.name.as_str())) {
            self.metrics.engine(&engine.name, engine.healthy());
            gone.remove(&engine.name);
            shown.insert(engine.name.clone());
        }
        for engine in &gone {
            self.metrics.forget_engine(engine);
        }
    }

    fn rebuild_routes(&self) {
        let _one = self.rebuilding.lock();
        let before = self.routes.load();
        let mut serving: HashMap<String, Vec<Arc<Engine>>> = HashMap::new();
        for engine in &self.configured {
            for model in engine.models().iter() {
                serving.entry(model.id.clone()).or_default().push(engine.clone());
            }
        }
        let mut splits = HashMap::new();
        for split in self.managed.load().iter() {
            let engines = split.targets.iter().map(|target| target.engine.clone()).collect();
            serving.insert(split.model.clone(), engines);
            splits.insert(split.model.clone(), split.clone());
        }
        let routes = serving.into_iter().map(|(model, engines)| {
            let metrics = before
                .get(&model)
                .map_or_else(|| self.metrics.of_model(&model), |route| route.metrics.clone());
            let told = |engine: &Arc<Engine>| {
                engine.models().iter().find(|served| served.id == model).and_then(|served| served.context)
            };
            let context = engines.iter().filter_map(told).min();
            let split = splits.remove(&model);
            let turn = AtomicUsize::new(0);
            (model.clone(), Arc::new(ModelRoute { model, engines, split, turn, context, metrics }))
        });
        self.routes.store(Arc::new(routes.collect()));
    }
}
