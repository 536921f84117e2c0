//! How many pods there are: the autoscaler's manifest, and when a service goes to sleep and wakes up.

use aistack_api::traffic::TrafficState;
use aistack_crds::inference_service::{ScalingMetric, ScalingSpec};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use crate::autoscaler;
use crate::workload::Workload;

/// Requests in flight of a pod, running and waiting: what an adapter makes of `vllm:num_requests_running` and
/// `vllm:num_requests_waiting`, which TinyInfer and vLLM both have.
pub const IN_FLIGHT: &str = "aistack_requests_in_flight";

/// Tokens a second of a pod: what an adapter makes of `vllm:prompt_tokens_total` and `vllm:generation_tokens_total`.
pub const TOKENS: &str = "aistack_tokens_per_second";

/// The autoscaler of a workload's Deployment.
pub fn autoscaler(workload: &Workload, bounds: &ScalingSpec) -> HorizontalPodAutoscaler {
    let metric = match bounds.metric {
        ScalingMetric::Concurrency => autoscaler::of_pods(IN_FLIGHT, bounds.target_concurrency),
        ScalingMetric::Tokens => autoscaler::of_pods(TOKENS, bounds.target_tokens_per_second),
        ScalingMetric::Cpu => autoscaler::of_cpu(bounds.target_cpu_percent),
    };
    // It rests while there are no pods; putting them to sleep and waking them is the operator's.
    let least = bounds.min_replicas.max(1);
    autoscaler::of(workload, "Deployment", least..=bounds.max_replicas, metric)
}

/// Whether a service that may sleep is to sleep. `gateway` is what ModelHub says; `None` when it does not answer.
pub fn is_to_sleep(was_asleep: Option<bool>, gateway: Option<&TrafficState>, idle_seconds: i32) -> bool {
    let Some(state) = gateway else {
        // Nobody knows of requests: it stays as it is, and a new one is started rather than left unreachable.
        return was_asleep.unwrap_or(false);
    };
    if state.held > 0 {
        return false;
    }
    match state.idle_ms {
        Some(idle) => idle >= u64::try_from(idle_seconds).unwrap_or(0) * 1000,
        // Nobody ever asked for it: a new one begins asleep, and the first request wakes it.
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use aistack_api::traffic::TrafficRoute;

    use super::*;

    fn state(held: u64, idle_ms: Option<u64>) -> TrafficState {
        TrafficState {
            model: "m".into(),
            revision: 1,
            route: TrafficRoute::default(),
            targets: Vec::new(),
            canary: None,
            held,
            idle_ms,
        }
    }

    #[test]
    fn a_service_sleeps_when_nobody_asks_and_wakes_when_somebody_waits() {
        let table = [
            (Some(true), Some(state(1, Some(900_000))), false),
            (Some(true), Some(state(0, Some(900_000))), true),
            (Some(false), Some(state(0, Some(900_000))), true),
            (Some(false), Some(state(0, Some(299_999))), false),
            (Some(true), Some(state(0, Some(10))), false),
            (None, Some(state(0, None)), true),
            (None, Some(state(2, None)), false),
            (Some(true), None, true),
            (Some(false), None, false),
            (None, None, false),
        ];
        for (i, (was, gateway, is_to)) in table.into_iter().enumerate() {
            assert_eq!(is_to_sleep(was, gateway.as_ref(), 300), is_to, "row {i}");
        }
    }

    #[test]
    fn a_service_in_random_worlds_never_sleeps_while_somebody_waits_and_does_not_flap() {
        let mut seed = 1_u64;
        let mut roll = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..1_000 {
            // Seconds of a day; requests come in bursts, the gateway is away at times.
            let (mut asleep, mut last, mut turns): (Option<bool>, Option<u64>, u32) = (None, None, 0);
            for second in 0..2_000_u64 {
                let asks = roll(400) == 0;
                let held = u64::from(asks && asleep.unwrap_or(true));
                if asks {
                    last = Some(second);
                }
                let idle = last.map(|last| (second - last) * 1000);
                let gateway = (roll(10) > 0).then(|| state(held, idle));
                let next = is_to_sleep(asleep, gateway.as_ref(), 60);
                assert!(!(next && held > 0 && gateway.is_some()), "somebody waits");
                assert!(
                    !(next && asleep == Some(false) && idle.is_some_and(|idle| idle < 60_000)),
                    "too early"
                );
                turns += u32::from(asleep.is_some_and(|was| was != next));
                asleep = Some(next);
            }
            assert!(turns <= 2 * 2_000 / 60 + 2, "{turns} turns");
        }
    }
}
