//! A route as one gateway knows it: what was asked for, how far its canary is, and what is to be told of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aistack_api::traffic::{CanaryPhase, CanaryState, TrafficRoute};
use serde::{Deserialize, Serialize};

use super::canary::{self, Next};
use super::target::{CanaryWatch, Role, Split, Target};

/// How often it is written that requests come.
const NOTED_MS: u64 = 5_000;

/// A route as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) route: TrafficRoute,
    #[serde(default)]
    pub(super) canary: Option<CanaryState>,
}

/// What a gateway says of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Activity {
    pub(super) last_request_ms: u64,
    pub(super) held: u64,
    /// A gateway of before says nothing of them.
    #[serde(default)]
    pub(super) in_flight: u64,
    pub(super) at_ms: u64,
}

/// A route as it is known here.
pub(super) struct Known {
    pub(super) record: Record,
    pub(super) revision: i64,
    pub(super) split: Arc<Split>,
    pub(super) watch: Option<Arc<CanaryWatch>>,
    /// Why the canary gets nothing here, while the store cannot be told.
    pub(super) condemned: Option<String>,
    /// What was written last of its requests.
    pub(super) noted: Option<Activity>,
}

impl Known {
    /// The state that counts here.
    pub(super) fn canary(&self, now: u64) -> Option<CanaryState> {
        let state = self.record.canary.clone()?;
        if let Some(why) = &self.condemned {
            return Some(CanaryState { phase: CanaryPhase::RolledBack, reason: why.clone(), ..state });
        }
        match self.next(now) {
            Some(Next::Wait(reason)) => Some(CanaryState { reason, ..state }),
            _ => Some(state),
        }
    }

    pub(super) fn next(&self, now: u64) -> Option<Next> {
        let (plan, state) = (self.record.route.canary.as_ref()?, self.record.canary.as_ref()?);
        let watched = self.watch.as_ref()?.watched.lock();
        let is_canary = |target: &&Target| target.name == plan.target;
        let away = self.split.targets.iter().find(is_canary)?.engine.away();
        let others = self.split.targets.iter().filter(|other| !is_canary(other) && other.copies.is_none());
        let present = others.filter_map(|other| other.engine.present()).max();
        let away = absence(away, present, self.split.hold.is_some());
        Some(canary::next(plan, state, &watched, away, now))
    }

    /// Gives the targets the shares that count now.
    pub(super) fn share(&mut self) {
        let mut state = self.record.canary.clone();
        if let (Some(state), true) = (&mut state, self.condemned.is_some()) {
            state.phase = CanaryPhase::RolledBack;
        }
        let step = state.as_ref().map_or(0, |state| state.step);
        let shares = self.record.route.shares(state.as_ref());
        let canary = self.record.route.canary.as_ref().map(|plan| plan.target.clone());
        if let Some(watch) = &self.watch {
            watch.step.store(step, Ordering::Relaxed);
        }
        let split = &self.split;
        let mut targets = split.targets.clone();
        for (target, percent) in targets.iter_mut().zip(shares) {
            target.percent = percent;
            target.stats.show_percent(percent);
            let is_canary = canary.as_ref() == Some(&target.name);
            let role = if is_canary { Role::Canary } else { Role::Other };
            // Nobody waits for a shadow's answers.
            let watch = self.watch.clone().filter(|_| target.copies.is_none());
            target.stats.watch(watch.map(|watch| (role, watch)));
        }
        let (model, hold, room) = (split.model.clone(), split.hold, split.room.clone());
        self.split = Arc::new(Split { model, targets, hold, room });
    }

    /// What is to be told of its requests, if anything is new.
    pub(super) fn news(&self, now: u64) -> Option<Activity> {
        self.split.hold?;
        let room = &self.split.room;
        let (last, held, in_flight) = (room.last_request_ms(now)?, room.held(), room.in_flight());
        let is_new = match self.noted {
            None => true,
            Some(noted) => {
                let is_old = now.saturating_sub(noted.at_ms) >= NOTED_MS;
                let is_busy = held > 0 || in_flight > 0 || noted.in_flight > 0;
                (noted.held == 0) != (held == 0) || is_old && (noted.last_request_ms != last || is_busy)
            }
        };
        is_new.then_some(Activity { last_request_ms: last, held, in_flight, at_ms: now })
    }
}

/// For how long a canary has been missing: who sleeps is away, and rightly, but is awake for as long as another version is there.
fn absence(away: Option<Duration>, other: Option<Duration>, may_sleep: bool) -> Option<Duration> {
    if may_sleep { Some(away?.min(other?)) } else { away }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_of_a_service_that_may_sleep_is_missed_while_another_version_is_there() {
        let seconds = |seconds: u64| Some(Duration::from_secs(seconds));
        let table = [
            (None, seconds(9), true, None),
            (seconds(600), None, true, None),
            (seconds(600), seconds(9), true, seconds(9)),
            (seconds(600), seconds(900), true, seconds(600)),
            (seconds(600), None, false, seconds(600)),
        ];
        for (away, other, may_sleep, expected) in table {
            assert_eq!(absence(away, other, may_sleep), expected, "{away:?} {other:?} {may_sleep}");
        }
    }
}
