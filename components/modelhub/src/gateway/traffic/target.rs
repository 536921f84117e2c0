//! A model's targets as requests see them: engines with shares, and what is counted of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aistack_api::traffic::{CanaryPlan, HoldPolicy};
use arc_swap::ArcSwapOption;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::canary::{Ending, Sample, Watched};
use super::metrics::TargetMetrics;
use super::room::Room;
use super::split;
use crate::gateway::engine::Engine;

/// One run of a canary that is watched in this process.
#[derive(Debug)]
pub struct CanaryWatch {
    /// What it was asked to be.
    pub plan: CanaryPlan,
    /// When the run began, as its state says.
    begun_ms: u64,
    /// The step that it is at.
    pub step: AtomicUsize,
    /// What was seen of it.
    pub watched: Mutex<Watched>,
    /// Told when it must go back.
    alarm: Arc<Notify>,
}

impl CanaryWatch {
    /// Nothing seen yet; `alarm` is told when it must go back.
    pub fn new(plan: &CanaryPlan, begun_ms: u64, alarm: Arc<Notify>) -> Self {
        let watched = Mutex::new(Watched::new(plan));
        Self { plan: plan.clone(), begun_ms, step: AtomicUsize::new(0), watched, alarm }
    }

    /// Whether it is of the run of this plan that began then.
    pub fn is_of(&self, plan: &CanaryPlan, begun_ms: u64) -> bool {
        self.plan == *plan && self.begun_ms == begun_ms
    }

    fn see(&self, role: Role, sample: Sample) {
        let mut watched = self.watched.lock();
        if role == Role::Other {
            return watched.see_other(sample.ending);
        }
        watched.see(&self.plan, self.step.load(Ordering::Relaxed), sample);
        if watched.verdict(&self.plan).is_some() {
            self.alarm.notify_one();
        }
    }
}

/// What a target is to a canary that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The canary itself.
    Canary,
    /// A version that answers clients beside it.
    Other,
}

/// What is counted of a target, for as long as the route names it.
#[derive(Debug)]
pub struct TargetStats {
    metrics: TargetMetrics,
    requests: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    /// Set while there is a canary.
    watch: ArcSwapOption<(Role, Arc<CanaryWatch>)>,
}

impl TargetStats {
    /// Nothing counted yet.
    pub fn new(metrics: TargetMetrics) -> Self {
        Self {
            metrics,
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            watch: ArcSwapOption::empty(),
        }
    }

    /// From now on its replies tell of a canary, or no more.
    pub fn watch(&self, watch: Option<(Role, Arc<CanaryWatch>)>) {
        self.watch.store(watch.map(Arc::new));
    }

    /// Notes how a reply ended.
    pub fn judge(&self, ending: Ending, first_byte_ms: Option<u64>) {
        let (count, told) = match ending {
            Ending::Answered => (None, &self.metrics.succeeded),
            Ending::Refused => (Some(&self.refused), &self.metrics.refused),
            Ending::Failed => (Some(&self.failed), &self.metrics.failed),
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        count.map(|count| count.fetch_add(1, Ordering::Relaxed));
        told.inc();
        if let Some(ms) = first_byte_ms.filter(|_| ending != Ending::Refused) {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of one reply")]
            self.metrics.first_byte.observe(ms as f64 / 1000.0);
        }
        if let Some((role, watch)) = self.watch.load().as_deref() {
            watch.see(*role, Sample { ending, first_byte_ms });
        }
    }

    /// Judged replies, and the failed and the refused ones among them.
    pub fn counted(&self) -> (u64, u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.requests), count(&self.failed), count(&self.refused))
    }

    /// Shows its share.
    pub fn show_percent(&self, percent: f64) {
        self.metrics.percent.set(percent);
    }
}

/// A target.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub engine: Arc<Engine>,
    /// Headers that choose it.
    pub headers: BTreeMap<String, String>,
    /// Percent of the requests that are copied to it, of a shadow.
    pub copies: Option<u32>,
    /// Percent of the sessions.
    pub percent: f64,
    /// What is counted of it.
    pub stats: Arc<TargetStats>,
}

/// How the requests for a model are shared.
#[derive(Debug)]
pub struct Split {
    /// Name of the model.
    pub model: String,
    /// All targets, shadows too.
    pub targets: Vec<Target>,
    /// How requests wait while none answers.
    pub hold: Option<HoldPolicy>,
    /// Where they wait.
    pub room: Arc<Room>,
}

impl Split {
    /// The targets that may answer a request, the first choice first.
    pub fn order(&self, session: Option<&str>, request: u64, headers: &HeaderMap) -> Vec<usize> {
        let meant = |target: &Target| target.copies.is_none() && split::is_meant(&target.headers, headers);
        if let Some(meant) = self.targets.iter().position(meant) {
            return vec![meant];
        }
        let shares: Vec<f64> = self.targets.iter().map(|target| target.percent).collect();
        let names = self.targets.iter().map(|target| target.name.as_str());
        match session {
            Some(session) => split::ranking(session.as_bytes(), names, &shares),
            None => split::ranking(&request.to_le_bytes(), names, &shares),
        }
    }

    /// The shadows that copy a request.
    pub fn shadows(&self, request: u64) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(move |target| {
            target.copies.is_some_and(|percent| split::is_copied(request, &target.name, percent))
        })
    }
}
