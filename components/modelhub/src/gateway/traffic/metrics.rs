//! What is counted of splits, canaries and waiting rooms.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What may be decided of a canary.
const DECISIONS: [&str; 3] = ["advanced", "succeeded", "rolled_back"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabels {
    model: String,
    target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetOutcome {
    model: String,
    target: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoomLabels {
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoomOutcome {
    model: String,
    outcome: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Percent = Gauge<f64, AtomicU64>;

/// Families of the metrics.
#[derive(Debug, Clone)]
pub struct TrafficMetrics {
    requests: Family<TargetOutcome, Counter>,
    first_byte: Histograms<TargetLabels>,
    percent: Family<TargetLabels, Percent>,
    shadows: Family<TargetOutcome, Counter>,
    canaries: Family<TargetOutcome, Counter>,
    held: Family<RoomLabels, Gauge>,
    holds: Family<RoomOutcome, Counter>,
    hold_duration: Histograms<RoomLabels>,
}

fn seconds() -> Histogram {
    const BOUNDS: [f64; 14] =
        [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
    Histogram::new(BOUNDS)
}

impl TrafficMetrics {
    /// Creates the families and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            first_byte: Family::new_with_constructor(seconds),
            percent: Family::default(),
            shadows: Family::default(),
            canaries: Family::default(),
            held: Family::default(),
            holds: Family::default(),
            hold_duration: Family::new_with_constructor(seconds),
        };
        registry.register(
            "modelhub_target_requests",
            "Replies of a version by outcome: ok, failed, refused (4xx); those that clients broke off left out",
            metrics.requests.clone(),
        );
        registry.register(
            "modelhub_target_time_to_first_byte_seconds",
            "Time to the first byte of a version's reply",
            metrics.first_byte.clone(),
        );
        registry.register(
            "modelhub_target_percent",
            "Percent of the sessions that a version gets",
            metrics.percent.clone(),
        );
        registry.register(
            "modelhub_shadow_requests",
            "Copies of requests to a shadow by outcome",
            metrics.shadows.clone(),
        );
        registry.register(
            "modelhub_canary_decisions",
            "What was decided of canaries: advanced, succeeded, rolled_back",
            metrics.canaries.clone(),
        );
        registry.register(
            "modelhub_held_requests",
            "Requests that wait for a version to answer",
            metrics.held.clone(),
        );
        registry.register("modelhub_holds", "Requests that waited, by outcome", metrics.holds.clone());
        registry.register(
            "modelhub_hold_duration_seconds",
            "Time that requests waited",
            metrics.hold_duration.clone(),
        );
        metrics
    }

    /// Handles for a target.
    pub fn of_target(&self, model: &str, target: &str) -> TargetMetrics {
        let labels = TargetLabels { model: model.to_owned(), target: target.to_owned() };
        let outcome = |outcome| TargetOutcome { model: model.to_owned(), target: target.to_owned(), outcome };
        TargetMetrics {
            succeeded: self.requests.get_or_create_owned(&outcome("ok")),
            failed: self.requests.get_or_create_owned(&outcome("failed")),
            refused: self.requests.get_or_create_owned(&outcome("refused")),
            first_byte: self.first_byte.get_or_create_owned(&labels),
            percent: self.percent.get_or_create_owned(&labels),
        }
    }

    /// A target that is no more shows no share.
    pub fn forget_target(&self, model: &str, target: &str) {
        self.percent.remove(&TargetLabels { model: model.to_owned(), target: target.to_owned() });
    }

    /// Handles for a waiting room.
    pub fn of_room(&self, model: &str) -> RoomMetrics {
        let labels = RoomLabels { model: model.to_owned() };
        let outcome =
            |outcome| self.holds.get_or_create_owned(&RoomOutcome { model: model.to_owned(), outcome });
        RoomMetrics {
            held: self.held.get_or_create_owned(&labels),
            served: outcome("served"),
            deadline: outcome("deadline"),
            overflow: outcome("overflow"),
            left: outcome("left"),
            duration: self.hold_duration.get_or_create_owned(&labels),
        }
    }

    /// Notes a copy of a request.
    pub fn shadow(&self, model: &str, target: &str, outcome: &'static str) {
        let labels = TargetOutcome { model: model.to_owned(), target: target.to_owned(), outcome };
        self.shadows.get_or_create_owned(&labels).inc();
    }

    /// Shows that nothing was decided of a canary yet: a rate sees the first decision only of a series that was there before.
    pub fn canary_begins(&self, model: &str, target: &str) {
        for outcome in DECISIONS {
            self.decisions(model, target, outcome);
        }
    }

    /// Notes a decision, one of [`DECISIONS`].
    pub fn decided(&self, model: &str, target: &str, outcome: &'static str) {
        self.decisions(model, target, outcome).inc();
    }

    fn decisions(&self, model: &str, target: &str, outcome: &'static str) -> Counter {
        let labels = TargetOutcome { model: model.to_owned(), target: target.to_owned(), outcome };
        self.canaries.get_or_create_owned(&labels)
    }
}

/// Handles of one target's metrics.
#[derive(Debug)]
pub struct TargetMetrics {
    /// Replies that went well.
    pub succeeded: Counter,
    /// Replies that failed on the engine's side.
    pub failed: Counter,
    /// Requests that the engine refused.
    pub refused: Counter,
    /// Seconds to the first byte.
    pub first_byte: Histogram,
    /// Its share.
    pub percent: Percent,
}

/// Handles of one waiting room's metrics.
#[derive(Debug)]
pub struct RoomMetrics {
    /// Waiting now.
    pub held: Gauge,
    /// Waits that ended with a target that answers.
    pub served: Counter,
    /// Waits that ended at their deadline.
    pub deadline: Counter,
    /// Requests that found no room.
    pub overflow: Counter,
    /// Waits that their clients ended.
    pub left: Counter,
    /// Seconds of a wait.
    pub duration: Histogram,
}
