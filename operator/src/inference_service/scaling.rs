//! How many pods there are: the autoscaler's manifest, and when a service goes to sleep and wakes up.

use std::ops::RangeInclusive;

use aistack_api::traffic::TrafficState;
use aistack_crds::inference_service::{Autoscaler, ScalingMetric, ScalingSpec};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use crate::autoscaler;
use crate::manifest::Manifest;
use crate::scaled_object::{self, Advanced, Trigger};
use crate::workload::Workload;

/// Requests in flight of a pod, running and waiting: what an adapter makes of `vllm:num_requests_running` and
/// `vllm:num_requests_waiting`, which TinyInfer and vLLM both have.
pub const IN_FLIGHT: &str = "aistack_requests_in_flight";

/// Tokens a second of a pod: what an adapter makes of `vllm:prompt_tokens_total` and `vllm:generation_tokens_total`.
pub const TOKENS: &str = "aistack_tokens_per_second";

/// What has KEDA ask Prometheus.
const RUNNING: [&str; 2] = ["vllm:num_requests_running", "vllm:num_requests_waiting"];
const COUNTED: [&str; 2] = ["vllm:prompt_tokens_total", "vllm:generation_tokens_total"];

/// What an autoscaler of KEDA's depends on.
#[derive(Clone, Copy, Debug)]
pub struct Keda<'a> {
    /// Whom it asks.
    pub prometheus: Option<&'a str>,
    /// Whether the service has no pods at the moment.
    pub is_asleep: bool,
}

/// The autoscaler of a workload's Deployment, which takes none away of one that `keeps_pods`; `None` while there is nobody to ask.
pub fn autoscaler(
    workload: &Workload,
    bounds: &ScalingSpec,
    keda: Keda<'_>,
    keeps_pods: bool,
) -> Option<Manifest> {
    // It rests while there are no pods; putting them to sleep and waking them is the operator's.
    let least = bounds.min_replicas.max(1);
    let range = least..=bounds.max_replicas;
    match bounds.by {
        Autoscaler::Hpa => {
            let mut scaler = hpa(workload, bounds, range);
            scaler.spec.behavior = keeps_pods.then(autoscaler::never_fewer);
            Some(scaler.into())
        }
        Autoscaler::Keda => {
            let trigger = trigger(workload, bounds, keda.prometheus)?;
            let mut scaler = scaled_object::of(workload, range, trigger, keda.is_asleep);
            scaler.spec.advanced = keeps_pods.then(|| Advanced::of(autoscaler::never_fewer()));
            Some(scaler.into())
        }
    }
}

/// Whether KEDA would have to ask Prometheus.
pub fn needs_prometheus(bounds: &ScalingSpec) -> bool {
    bounds.by == Autoscaler::Keda && bounds.metric != ScalingMetric::Cpu
}

fn trigger(workload: &Workload, bounds: &ScalingSpec, prometheus: Option<&str>) -> Option<Trigger> {
    let pods = format!("{{namespace=\"{}\",pod=~\"{}\"}}", workload.owner.namespace, pods_of(&workload.name));
    let sum = |of: &dyn Fn(&str) -> String, [one, other]: [&str; 2]| {
        format!("sum({}) + sum({})", of(one), of(other))
    };
    let now = |metric: &str| format!("{metric}{pods}");
    let a_second = |metric: &str| format!("rate({metric}{pods}[1m])");
    Some(match bounds.metric {
        ScalingMetric::Concurrency => {
            Trigger::of_query(prometheus?, sum(&now, RUNNING), bounds.target_concurrency)
        }
        ScalingMetric::Tokens => {
            Trigger::of_query(prometheus?, sum(&a_second, COUNTED), bounds.target_tokens_per_second)
        }
        ScalingMetric::Cpu => Trigger::of_cpu(bounds.target_cpu_percent),
    })
}

/// Names of a Deployment's pods, and of no other's whose name begins like its: the ReplicaSet's, which ends in a hash, a dash, and five
/// letters; what comes before those is cut to 58. (`names.SimpleNameGenerator` of the API server.)
fn pods_of(deployment: &str) -> String {
    const MOST: usize = 58;
    const HASH: usize = 10;
    let mut begin = format!("{deployment}-");
    begin.truncate(MOST);
    match MOST - begin.len() {
        0 => format!("{begin}[a-z0-9]{{5}}"),
        room if room > HASH => format!("{begin}[a-z0-9]{{1,{HASH}}}-[a-z0-9]{{5}}"),
        room => format!("{begin}[a-z0-9]{{1,{room}}}-?[a-z0-9]{{5}}"),
    }
}

fn hpa(workload: &Workload, bounds: &ScalingSpec, range: RangeInclusive<i32>) -> HorizontalPodAutoscaler {
    let metric = match bounds.metric {
        ScalingMetric::Concurrency => autoscaler::of_pods(IN_FLIGHT, bounds.target_concurrency),
        ScalingMetric::Tokens => autoscaler::of_pods(TOKENS, bounds.target_tokens_per_second),
        ScalingMetric::Cpu => autoscaler::of_cpu(bounds.target_cpu_percent),
    };
    autoscaler::of(workload, "Deployment", range, metric)
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
    use serde_json::{Value, json};

    use super::super::build::{Surroundings, build_in};
    use super::super::validate;
    use super::*;
    use crate::scaled_object::PAUSED_REPLICAS;

    fn built(scaling: &Value, around: &Surroundings) -> Vec<(String, Value)> {
        built_of(&json!({"model": {"name": "m"}, "resources": {"cpu": "1"}, "scaling": scaling}), around)
    }

    fn built_of(spec: &Value, around: &Surroundings) -> Vec<(String, Value)> {
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService",
            "metadata": {"name": "talk", "namespace": "team"}, "spec": spec});
        let object = serde_json::from_value(object).expect("an InferenceService");
        let manifests = build_in(&validate(&object, "").expect("valid"), around);
        let scales = ["HorizontalPodAutoscaler", "ScaledObject"];
        let scalers = manifests.iter().filter(|manifest| scales.contains(&manifest.kind()));
        scalers.map(|it| (it.kind().to_owned(), serde_json::to_value(it).expect("plain data"))).collect()
    }

    #[test]
    fn keda_is_asked_for_what_an_autoscaler_of_kubernetes_would_do() {
        let around = Surroundings { prometheus: Some("http://p:9090".to_owned()), ..Surroundings::default() };
        let of = |metric: &str| {
            let scaling = json!({"by": "keda", "minReplicas": 0, "maxReplicas": 7, "metric": metric});
            let mut built = built(&scaling, &around);
            assert_eq!(built.len(), 1, "one of the two");
            let (kind, scaled) = built.remove(0);
            assert_eq!((kind.as_str(), &scaled["apiVersion"]), ("ScaledObject", &json!("keda.sh/v1alpha1")));
            scaled
        };
        let scaled = of("concurrency");
        assert_eq!(scaled["metadata"]["name"], "tinyinfer-talk");
        assert_eq!(scaled["metadata"]["annotations"][PAUSED_REPLICAS], Value::Null);
        let pods = r#"{namespace="team",pod=~"tinyinfer-talk-[a-z0-9]{1,10}-[a-z0-9]{5}"}"#;
        let query = format!("sum(vllm:num_requests_running{pods}) + sum(vllm:num_requests_waiting{pods})");
        assert_eq!(
            scaled["spec"],
            json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "tinyinfer-talk"},
                "minReplicaCount": 1, "maxReplicaCount": 7,
                "triggers": [{"type": "prometheus", "metricType": "AverageValue", "metadata": {
                    "serverAddress": "http://p:9090", "query": query, "threshold": "8", "ignoreNullValues": "false"}}]})
        );
        let tokens = of("tokens")["spec"]["triggers"][0]["metadata"].clone();
        let query = format!(
            "sum(rate(vllm:prompt_tokens_total{pods}[1m])) + sum(rate(vllm:generation_tokens_total{pods}[1m]))"
        );
        assert_eq!((&tokens["query"], &tokens["threshold"]), (&json!(query), &json!("1000")));
        let cpu = json!([{"type": "cpu", "metricType": "Utilization", "metadata": {"value": "80"}}]);
        assert_eq!(of("cpu")["spec"]["triggers"], cpu);
    }

    #[test]
    fn pods_are_known_by_their_names_however_long_those_are() {
        let hash = "[a-z0-9]{1,10}-[a-z0-9]{5}";
        let table = [
            (14, hash.to_owned()),
            (46, hash.to_owned()),
            (47, "[a-z0-9]{1,10}-?[a-z0-9]{5}".to_owned()),
            (56, "[a-z0-9]{1,1}-?[a-z0-9]{5}".to_owned()),
            (57, "[a-z0-9]{5}".to_owned()),
        ];
        for (length, end) in table {
            let name = "n".repeat(length);
            assert_eq!(pods_of(&name), format!("{name}-{end}"), "{length}");
        }
        assert_eq!(pods_of(&"n".repeat(60)), format!("{}[a-z0-9]{{5}}", "n".repeat(58)));
    }

    #[test]
    fn the_way_back_from_a_canary_keeps_its_pods() {
        let canary = json!({"model": {"name": "m", "version": "1"}, "resources": {"cpu": "1"},
            "canary": {"version": "2"}, "stackRef": {"name": "s"}, "scaling": {"maxReplicas": 9}});
        let around = |is_canary_under_way| Surroundings {
            prometheus: Some("http://p:9090".to_owned()),
            is_canary_under_way,
            ..Surroundings::default()
        };
        let scale_down = json!({"selectPolicy": "Disabled"});
        for (by, place) in
            [("hpa", "/spec/behavior"), ("keda", "/spec/advanced/horizontalPodAutoscalerConfig/behavior")]
        {
            let mut spec = canary.clone();
            spec["scaling"]["by"] = json!(by);
            for is_under_way in [true, false] {
                let kept: Vec<bool> = built_of(&spec, &around(is_under_way))
                    .iter()
                    .map(|(_, it)| it.pointer(place).is_some_and(|it| it["scaleDown"] == scale_down))
                    .collect();
                assert_eq!(kept, [is_under_way, false], "{by}: of 1 and of 2");
            }
        }
    }

    #[test]
    fn keda_is_asked_once_nobody_else_scales_and_rests_while_the_service_sleeps() {
        let prometheus = || Some("http://p:9090".to_owned());
        let keda = || json!({"by": "keda", "maxReplicas": 3});
        let taken = Surroundings {
            prometheus: prometheus(),
            autoscaled: vec!["tinyinfer-talk".to_owned()],
            ..Surroundings::default()
        };
        assert!(built(&keda(), &taken).is_empty(), "KEDA's webhook refuses what another autoscaler has");
        assert_eq!(built(&json!({"maxReplicas": 3}), &taken).len(), 1);
        let asleep = Surroundings { prometheus: prometheus(), is_asleep: true, ..Surroundings::default() };
        assert_eq!(built(&keda(), &asleep)[0].1["metadata"]["annotations"][PAUSED_REPLICAS], "0");
        assert!(built(&keda(), &Surroundings::default()).is_empty(), "there is nobody to ask");
    }

    #[test]
    fn a_version_that_made_room_and_is_to_serve_again_has_pods_again() {
        let replicas = |scaling: Value, is_asleep: bool, is_resting: bool| {
            let object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService",
                "metadata": {"name": "talk", "namespace": "team"}, "spec": {"model": {"name": "m"}, "scaling": scaling}});
            let object = serde_json::from_value(object).expect("an InferenceService");
            let service = validate(&object, "").expect("valid");
            let resting = if is_resting { service.versions.clone() } else { Vec::new() };
            let built = build_in(&service, &Surroundings { is_asleep, resting, ..Surroundings::default() });
            let named = built.iter().find_map(|manifest| match manifest {
                Manifest::Deployment(deployment) => Some(deployment.spec.replicas),
                _ => None,
            });
            named.expect("a Deployment")
        };
        let scaling = |least: i32| json!({"minReplicas": least, "maxReplicas": 5});
        let table = [
            (2, false, false, None),
            (2, false, true, Some(2)),
            (0, false, true, Some(1)),
            (0, true, true, Some(0)),
        ];
        for (least, is_asleep, is_resting, expected) in table {
            assert_eq!(replicas(scaling(least), is_asleep, is_resting), expected, "{least} {is_asleep}");
        }
    }

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
