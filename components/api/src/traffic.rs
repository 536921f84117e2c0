//! How ModelHub shares the requests for a model among its versions: what its traffic endpoints take and return.
//!
//! | call | body | reply |
//! |---|---|---|
//! | `GET /api/v1/traffic` | – | [`TrafficList`] |
//! | `GET /api/v1/traffic/{model}` | – | [`TrafficState`], its revision in `ETag` |
//! | `PUT /api/v1/traffic/{model}` | [`TrafficRoute`]; `If-Match: "<revision>"` or `If-None-Match: *` when given hold | [`TrafficState`], or 412 |
//! | `POST /api/v1/traffic/{model}` | [`CanaryCommand`] | [`TrafficState`] |
//! | `DELETE /api/v1/traffic/{model}` | –; `If-Match` when given holds | [`TrafficDeleted`] |
//!
//! All need the administrator's key where there is one. A route is a whole: what a `PUT` says replaces what was there, and saying
//! the same again changes nothing, not even the course of a canary.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::EngineTask;

/// Most targets of a route.
pub const MAX_TARGETS: usize = 32;

/// Where the requests for a model go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficRoute {
    /// The versions, each with its address and its share.
    pub targets: Vec<TrafficTarget>,
    /// Who set it, such as `InferenceService team/chat`; free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// What the model is for.
    #[serde(default)]
    pub task: EngineTask,
    /// How one of the targets takes over, in steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryPlan>,
    /// Requests wait while no target answers, in place of being refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldPolicy>,
}

/// One version of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficTarget {
    /// Its name, such as the version's number.
    pub name: String,
    /// Base URL of its OpenAI server, without `/v1`.
    pub endpoint: String,
    /// Its share among the targets that answer: a weight, not necessarily of a hundred.
    #[serde(default)]
    pub weight: u32,
    /// Requests with all of these headers go here whatever the weights say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Gets copies of `weight` percent of the requests; its answers are dropped.
    #[serde(default)]
    pub shadow: bool,
}

/// How a target takes over: in steps, each watched before the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryPlan {
    /// Name of the target.
    pub target: String,
    /// Percent of the sessions at each step, rising to 100.
    pub steps: Vec<u32>,
    /// Seconds that each step is watched, at least.
    pub step_seconds: u64,
    /// Requests that a step must have seen before the next begins.
    pub min_samples: u64,
    /// Failed requests per thousand above which the canary is rolled back.
    pub max_error_permille: u32,
    /// 99th percentile of the time to the first byte of a reply, in milliseconds, above which it is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_first_byte_ms: Option<u64>,
}

/// How requests wait while no target answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldPolicy {
    /// Longest wait of a request; then 503 with `Retry-After`.
    pub deadline_ms: u64,
    /// Requests that may wait at a time in one gateway; the next gets 503 with `Retry-After` at once.
    pub max_requests: u32,
}

/// A step by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryCommand {
    /// What to do with the canary.
    pub canary: CanaryAction,
}

/// What to do with a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CanaryAction {
    /// It takes everything now.
    Promote,
    /// It takes nothing any more.
    Rollback,
    /// It begins again at its first step.
    Restart,
}

/// How far a canary is. Kept in the key-value store, alike for all gateways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CanaryState {
    /// Where it stands.
    pub phase: CanaryPhase,
    /// The step that it is at, from 0.
    pub step: usize,
    /// When that began, Unix milliseconds.
    pub since_ms: u64,
    /// When this run of the canary began, Unix milliseconds: what was seen of an earlier run says nothing of it. 0 where a ModelHub
    /// of before wrote it.
    #[serde(default)]
    pub begun_ms: u64,
    /// Why it stands there, in a sentence.
    pub reason: String,
}

/// Where a canary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CanaryPhase {
    /// On its way.
    Running,
    /// It has everything.
    Succeeded,
    /// It has nothing any more.
    RolledBack,
}

/// A route and how it fares, as the gateway that was asked sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficState {
    /// Name of the model.
    pub model: String,
    /// Revision of the route: what `If-Match` compares.
    pub revision: i64,
    /// What was asked for.
    pub route: TrafficRoute,
    /// The targets as they are.
    pub targets: Vec<TargetState>,
    /// How far the canary is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryState>,
    /// Requests that wait for a target, in all gateways as far as known.
    pub held: u64,
    /// Milliseconds since the last request came or its reply ended, 0 while one is in flight, in all gateways as far as known; absent
    /// when none is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

/// A target as one gateway sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetState {
    /// Its name.
    pub name: String,
    /// Percent of the sessions that it gets now.
    pub percent: f64,
    /// Whether its last check passed.
    pub ready: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trouble: String,
    /// Replies that were judged since this gateway knows the target.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Requests among them that the engine refused (4xx).
    #[serde(default)]
    pub refused: u64,
}

/// All routes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficList {
    /// Sorted by model.
    pub routes: Vec<TrafficState>,
}

/// A route that is no more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficDeleted {
    /// Name of the model.
    pub deleted: String,
}

/// Why a route cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct TrafficRouteError {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub what: String,
}

impl TrafficRoute {
    /// Checks what the types cannot say.
    pub fn validate(&self) -> Result<(), TrafficRouteError> {
        let wrong = |field: String, what: &str| Err(TrafficRouteError { field, what: what.to_owned() });
        if self.targets.is_empty() || self.targets.len() > MAX_TARGETS {
            return wrong("targets".into(), "give 1 to 32 of them");
        }
        let mut names = BTreeSet::new();
        for target in &self.targets {
            let field = |name: &str| format!("targets[{}].{name}", target.name);
            if target.name.is_empty() || target.name.len() > 128 || !names.insert(&target.name) {
                return wrong(field("name"), "give each target a name of its own, of 1 to 128 characters");
            }
            if !(target.endpoint.starts_with("http://") || target.endpoint.starts_with("https://")) {
                return wrong(
                    field("endpoint"),
                    "give a http:// or https:// URL, such as http://chat-v2:8000",
                );
            }
            if target.weight > 1_000_000 || (target.shadow && target.weight > 100) {
                return wrong(field("weight"), "give 0 to 1000000, and to a shadow 0 to 100 percent");
            }
            let wide = target.headers.iter().any(|(name, value)| name.len() > 256 || value.len() > 4096);
            if target.headers.len() > 8 || wide {
                return wrong(
                    field("headers"),
                    "give at most 8, names up to 256 and values up to 4096 bytes",
                );
            }
        }
        if self.targets.iter().all(|target| target.shadow || target.weight == 0) {
            return wrong(
                "targets".into(),
                "none of them answers: give one that is no shadow a weight above 0",
            );
        }
        if let Some(hold) = &self.hold
            && (hold.deadline_ms == 0 || hold.deadline_ms > 3_600_000 || hold.max_requests == 0)
        {
            return wrong(
                "hold".into(),
                "give a deadline of 1 ms to an hour and room for one request at least",
            );
        }
        self.canary.as_ref().map_or(Ok(()), |plan| self.validate_canary(plan))
    }

    fn validate_canary(&self, plan: &CanaryPlan) -> Result<(), TrafficRouteError> {
        let wrong = |field: &str, what: &str| {
            Err(TrafficRouteError { field: format!("canary.{field}"), what: what.to_owned() })
        };
        let others = self.targets.iter().filter(|target| target.name != plan.target && !target.shadow);
        if !self.targets.iter().any(|target| target.name == plan.target && !target.shadow) {
            return wrong("target", "is none of the targets that answer");
        }
        if others.map(|target| target.weight).sum::<u32>() == 0 {
            return wrong("target", "has nobody to take over from: give another target a weight above 0");
        }
        let rises = plan.steps.windows(2).all(|pair| pair[0] < pair[1]);
        if plan.steps.len() > 16 || plan.steps.last() != Some(&100) || plan.steps[0] == 0 || !rises {
            return wrong("steps", "must rise from above 0 to 100 in at most 16 steps, such as [5, 25, 100]");
        }
        if plan.max_error_permille > 1000 {
            return wrong("max_error_permille", "is at most 1000");
        }
        Ok(())
    }

    /// Percent of the sessions that each target gets; 0 of a shadow. Sums to 100.
    pub fn shares(&self, state: Option<&CanaryState>) -> Vec<f64> {
        let canary = self.canary.as_ref().zip(state);
        let percent = canary.map(|(plan, state)| match state.phase {
            CanaryPhase::Running => plan.steps.get(state.step).copied().unwrap_or(0),
            CanaryPhase::Succeeded => 100,
            CanaryPhase::RolledBack => 0,
        });
        let is_canary = |target: &TrafficTarget| canary.is_some_and(|(plan, _)| plan.target == target.name);
        let others = self.targets.iter().filter(|target| !target.shadow && !is_canary(target));
        let all: f64 = others.map(|target| f64::from(target.weight)).sum();
        let rest = 100.0 - f64::from(percent.unwrap_or(0));
        let share = |target: &TrafficTarget| match () {
            () if target.shadow => 0.0,
            () if is_canary(target) => f64::from(percent.unwrap_or(0)),
            () if all == 0.0 => 0.0,
            () => f64::from(target.weight) / all * rest,
        };
        self.targets.iter().map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, weight: u32) -> TrafficTarget {
        TrafficTarget { name: name.into(), endpoint: "http://h".into(), weight, ..TrafficTarget::default() }
    }

    fn plan(steps: &[u32]) -> CanaryPlan {
        CanaryPlan {
            target: "b".into(),
            steps: steps.to_vec(),
            step_seconds: 10,
            min_samples: 20,
            max_error_permille: 10,
            max_first_byte_ms: None,
        }
    }

    #[test]
    fn what_a_route_must_be() {
        let ok = TrafficRoute { targets: vec![target("a", 100)], ..TrafficRoute::default() };
        assert_eq!(ok.validate(), Ok(()));
        let with = |change: fn(&mut TrafficRoute)| {
            let mut route = ok.clone();
            route.targets.push(target("b", 0));
            route.canary = Some(plan(&[5, 100]));
            change(&mut route);
            route.validate().err().map(|error| error.field).unwrap_or_default()
        };
        type Change = fn(&mut TrafficRoute);
        let table: [(Change, &str); 12] = [
            (|_| {}, ""),
            (|route| route.targets.clear(), "targets"),
            (|route| route.targets[1].name = "a".into(), "targets[a].name"),
            (|route| route.targets[0].endpoint = "ftp://h".into(), "targets[a].endpoint"),
            (|route| route.targets[0].weight = 0, "targets"),
            (
                |route| route.targets[1] = TrafficTarget { shadow: true, ..target("c", 101) },
                "targets[c].weight",
            ),
            (|route| route.canary = Some(plan(&[])), "canary.steps"),
            (|route| route.canary = Some(plan(&[0, 100])), "canary.steps"),
            (|route| route.canary = Some(plan(&[50, 20, 100])), "canary.steps"),
            (|route| route.canary = Some(plan(&[50])), "canary.steps"),
            (|route| route.canary = Some(CanaryPlan { target: "z".into(), ..plan(&[100]) }), "canary.target"),
            (|route| route.hold = Some(HoldPolicy { deadline_ms: 0, max_requests: 1 }), "hold"),
        ];
        for (i, (change, field)) in table.into_iter().enumerate() {
            assert_eq!(with(change), field, "row {i}");
        }
    }

    #[test]
    fn a_state_of_before_is_read_and_so_is_one_with_more_by_those_of_before() {
        let before = r#"{"phase": "running", "step": 1, "since_ms": 7, "reason": "r", "later": 1}"#;
        let state: CanaryState = serde_json::from_str(before).expect("a state");
        assert_eq!((state.step, state.since_ms, state.begun_ms), (1, 7, 0));
    }

    #[test]
    fn shares_always_make_a_whole() {
        let route = TrafficRoute {
            targets: vec![
                target("a", 3),
                target("b", 7),
                target("c", 1),
                TrafficTarget { shadow: true, ..target("d", 50) },
            ],
            canary: Some(plan(&[20, 100])),
            ..TrafficRoute::default()
        };
        let state =
            |phase, step| CanaryState { phase, step, since_ms: 0, begun_ms: 0, reason: String::new() };
        let table = [
            (Some(state(CanaryPhase::Running, 0)), [60.0, 20.0, 20.0, 0.0]),
            (Some(state(CanaryPhase::Succeeded, 1)), [0.0, 100.0, 0.0, 0.0]),
            (Some(state(CanaryPhase::RolledBack, 0)), [75.0, 0.0, 25.0, 0.0]),
        ];
        for (state, want) in table {
            assert_eq!(route.shares(state.as_ref()), want);
        }
        let plain = TrafficRoute { canary: None, ..route }.shares(None);
        assert!((plain.iter().sum::<f64>() - 100.0).abs() < 1e-9 && plain[3] == 0.0, "{plain:?}");
    }
}
