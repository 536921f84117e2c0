//! What ModelHub is asked to do with a service's requests. Pure.

use std::collections::BTreeMap;

use aistack_api::traffic::{
    CanaryPhase, CanaryPlan, HoldPolicy, MAX_TARGETS, TrafficRoute, TrafficState, TrafficTarget,
};
use aistack_crds::inference_service::CanarySpec;

use super::ValidatedInferenceService;
use super::version::Version;

/// Who sets the route of the service of that name.
pub fn owner(namespace: &str, name: &str) -> String {
    format!("InferenceService {namespace}/{name}")
}

/// The route of a service that needs one.
pub fn wanted(service: &ValidatedInferenceService) -> Option<TrafficRoute> {
    service.needs_route().then(|| TrafficRoute {
        targets: service.versions.iter().map(|version| target(service, version)).collect(),
        owner: owner(&service.owner.namespace, &service.name),
        task: service.engine_task(),
        canary: service.canary.as_ref().map(plan),
        hold: service.serving().and_then(|serving| serving.scale.sleeps()).map(|bounds| HoldPolicy {
            deadline_ms: u64::try_from(bounds.hold_seconds).unwrap_or(1) * 1000,
            max_requests: u32::try_from(bounds.max_held).unwrap_or(1),
        }),
    })
}

fn target(service: &ValidatedInferenceService, version: &Version) -> TrafficTarget {
    let name = version.target();
    let shared = service.traffic.iter().find(|target| target.version == name);
    let is_canary = service.canary.as_ref().is_some_and(|canary| canary.version == name);
    let percent = match shared {
        Some(shared) => u32::try_from(shared.percent).unwrap_or(0),
        // A canary's share is its step's.
        None => u32::from(!is_canary) * 100,
    };
    TrafficTarget {
        name: name.to_owned(),
        endpoint: service.endpoint_of(version),
        weight: percent,
        headers: shared.map(|shared| shared.headers.clone()).unwrap_or_default(),
        shadow: shared.is_some_and(|shared| shared.shadow),
    }
}

/// What is added to the name of a target that is to be at another address, while it stands beside itself. No version is called so.
const NEXT: &str = "~next";

/// The route of before with those targets of the next beside it that it does not know yet, or knows at another address: they get nothing,
/// and ModelHub looks whether it reaches them. `None` where it knows all of them.
pub fn beside(before: &TrafficRoute, next: &TrafficRoute) -> Option<TrafficRoute> {
    let is_new = |target: &&TrafficTarget| before.targets.iter().all(|old| old.endpoint != target.endpoint);
    let unasked = |target: &TrafficTarget| {
        let is_moved = before.targets.iter().any(|old| old.name == target.name);
        let name = if is_moved { format!("{}{NEXT}", target.name) } else { target.name.clone() };
        TrafficTarget { name, weight: 0, headers: BTreeMap::new(), shadow: false, ..target.clone() }
    };
    let new: Vec<TrafficTarget> = next.targets.iter().filter(is_new).map(unasked).collect();
    let stays = |old: &&TrafficTarget| new.iter().all(|new| new.name != old.name);
    let mut targets: Vec<TrafficTarget> = before.targets.iter().filter(stays).cloned().collect();
    if new.is_empty() || targets.len() + new.len() > MAX_TARGETS {
        return None;
    }
    targets.extend(new);
    Some(TrafficRoute { targets, ..before.clone() })
}

/// Whether a route leads anything to that address.
pub fn leads_to(route: &TrafficRoute, endpoint: &str) -> bool {
    let canary = route.canary.as_ref().map(|plan| plan.target.as_str());
    let is_asked = |target: &TrafficTarget| {
        target.weight > 0 || target.shadow || !target.headers.is_empty() || canary == Some(&target.name)
    };
    route.targets.iter().any(|target| target.endpoint == endpoint && is_asked(target))
}

/// Targets that are to answer and that ModelHub says it does not reach, with its words. Of an address that it does not know it says
/// nothing.
pub fn away(state: &TrafficState, next: &TrafficRoute) -> Vec<(String, String)> {
    let canary = next.canary.as_ref().map(|plan| plan.target.as_str());
    let is_to_answer =
        |target: &&TrafficTarget| !target.shadow && (target.weight > 0 || canary == Some(&target.name));
    let trouble = |target: &TrafficTarget| {
        let known = state.route.targets.iter().find(|old| old.endpoint == target.endpoint)?;
        let seen = state.targets.iter().find(|seen| seen.name == known.name && !seen.ready)?;
        Some((target.name.clone(), seen.trouble.clone()))
    };
    next.targets.iter().filter(is_to_answer).filter_map(trouble).collect()
}

/// Whether the target of that name is to get requests that it does not get now.
pub fn gains(before: Option<&TrafficRoute>, next: &TrafficRoute, name: &str) -> bool {
    let canary = |route: &TrafficRoute| route.canary.as_ref().map(|plan| plan.target.clone());
    let Some(target) = next.targets.iter().find(|target| target.name == name) else { return false };
    let is_canary = canary(next).as_deref() == Some(name);
    if target.weight == 0 && target.headers.is_empty() && !is_canary {
        return false;
    }
    let Some(before) = before else { return true };
    let Some(old) = before.targets.iter().find(|old| old.endpoint == target.endpoint) else { return true };
    let becomes_canary = is_canary && canary(before).as_ref() != Some(&old.name);
    let is_chosen = !target.headers.is_empty() && target.headers != old.headers;
    target.weight > old.weight || old.shadow || becomes_canary || is_chosen
}

/// A route with what its canary came to counted in: one that went back has nothing, so that it begins anew under another plan.
pub fn so_far(state: &TrafficState, next: &TrafficRoute) -> TrafficRoute {
    let went_back = state.canary.as_ref().is_some_and(|canary| canary.phase == CanaryPhase::RolledBack);
    let mut route = state.route.clone();
    if went_back && route.canary != next.canary {
        route.canary = None;
    }
    route
}

/// The route of before without a canary that the next one does not have: it gets nothing from now on, whatever else is waited for. `None`
/// where there is no such canary, where it has everything and no other takes its place, and where nobody would answer without it.
pub fn without_stray(state: &TrafficState, next: &TrafficRoute) -> Option<TrafficRoute> {
    let stray = &state.route.canary.as_ref()?.target;
    let has_everything = state.canary.as_ref().is_some_and(|canary| canary.phase == CanaryPhase::Succeeded);
    if next.targets.iter().any(|target| target.name == *stray) || (has_everything && next.canary.is_none()) {
        return None;
    }
    let targets: Vec<_> =
        state.route.targets.iter().filter(|target| target.name != *stray).cloned().collect();
    let answers = |target: &TrafficTarget| {
        target.weight > 0
            && !target.shadow
            && state.targets.iter().any(|seen| seen.name == target.name && seen.ready)
    };
    let route = TrafficRoute { targets, canary: None, ..state.route.clone() };
    route.targets.iter().any(answers).then_some(route)
}

/// The next route without its canary, where that has not begun: what else an edit changes does not wait for it. `None` where nothing else
/// changes.
pub fn but_canary(before: &TrafficRoute, next: &TrafficRoute) -> Option<TrafficRoute> {
    let canary = &next.canary.as_ref().filter(|_| before.canary.is_none())?.target;
    let others = next.targets.iter().filter(|target| target.name != *canary);
    // ModelHub may look already whether it reaches it.
    let known = before.targets.iter().filter(|target| target.name == *canary && target.weight == 0);
    let targets = others.chain(known).cloned().collect();
    let route = TrafficRoute { targets, canary: None, ..next.clone() };
    (route != *before).then_some(route)
}

fn plan(canary: &CanarySpec) -> CanaryPlan {
    let number = |value: i32| u32::try_from(value).unwrap_or(0);
    let mut steps: Vec<u32> = canary.steps.iter().map(|step| number(*step)).collect();
    steps.dedup();
    CanaryPlan {
        target: canary.version.clone(),
        steps,
        step_seconds: u64::from(number(canary.step_seconds)),
        min_samples: u64::from(number(canary.min_samples)),
        max_error_permille: number(canary.max_error_permille),
        max_first_byte_ms: canary.max_first_token_ms.map(|ms| u64::from(number(ms))),
    }
}

#[cfg(test)]
mod tests {
    use aistack_api::traffic::{CanaryState, TargetState};
    use aistack_crds::InferenceService;
    use serde_json::{Value, json};

    use super::*;
    use crate::inference_service::validate;

    fn route(spec: Value) -> Option<TrafficRoute> {
        let mut spec = spec;
        spec["model"]["name"] = json!("m");
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService",
            "metadata": {"name": "chat", "namespace": "team"}, "spec": spec});
        let object: InferenceService = serde_json::from_value(object).expect("an InferenceService");
        wanted(&validate(&object, "").expect("valid"))
    }

    #[test]
    fn what_comes_under_the_same_name_is_reached_before_requests_are_led_there() {
        let of = |runtime: &str| {
            route(json!({"stackRef": {"name": "prod"}, "runtime": runtime})).expect("a route")
        };
        let (before, next) = (of("tinyinfer"), of("vllm"));
        let both = beside(&before, &next).expect("ModelHub does not know it yet");
        assert_eq!(both.validate(), Ok(()));
        let names = |route: &TrafficRoute| -> Vec<(String, u32)> {
            route.targets.iter().map(|target| (target.name.clone(), target.weight)).collect()
        };
        assert_eq!(names(&both), [("current".to_owned(), 100), ("current~next".to_owned(), 0)]);
        assert_eq!(beside(&both, &next), None);
        let (old, new) = (&before.targets[0].endpoint, &next.targets[0].endpoint);
        assert_eq!((leads_to(&both, old), leads_to(&both, new)), (true, false));
        let seen = |name: &str, trouble: &str| TargetState {
            name: name.to_owned(),
            ready: trouble.is_empty(),
            trouble: trouble.to_owned(),
            ..TargetState::default()
        };
        let state = |trouble| TrafficState {
            model: "m".to_owned(),
            revision: 1,
            targets: vec![seen("current", ""), seen("current~next", trouble)],
            route: both.clone(),
            canary: None,
            held: 0,
            idle_ms: None,
        };
        let told = [("current".to_owned(), "refused".to_owned())];
        assert_eq!((away(&state("refused"), &next), away(&state(""), &next)), (told.to_vec(), Vec::new()));
        // Somebody changes his mind meanwhile.
        let third = route(json!({"stackRef": {"name": "prod"}, "runtime": "onnx", "task": "embed"}))
            .expect("a route");
        let corrected = beside(&both, &third).expect("another address");
        assert_eq!((names(&corrected), corrected.validate()), (names(&both), Ok(())));
        assert_eq!(corrected.targets[1].endpoint, third.targets[0].endpoint);
    }

    #[test]
    fn only_who_gains_is_waited_for() {
        let of = |traffic: Value| route(json!({"traffic": traffic})).expect("a route");
        let half = of(json!([{"version": "1", "percent": 50}, {"version": "2", "percent": 50}]));
        let canary = |steps: &[i32]| {
            route(json!({"model": {"version": "1"}, "canary": {"version": "2", "steps": steps}}))
                .expect("a route")
        };
        let alone = route(json!({"model": {"version": "1"}})).expect("a route");
        let beta = json!([{"version": "1", "percent": 100}, {"version": "2", "percent": 0, "headers": {"x-beta": "1"}}]);
        let copied =
            of(json!([{"version": "1", "percent": 100}, {"version": "2", "percent": 60, "shadow": true}]));
        let table = [
            (
                "the dead one gets less",
                &half,
                of(json!([{"version": "1", "percent": 0}, {"version": "2", "percent": 100}])),
                "2",
            ),
            (
                "the same for the other",
                &half,
                of(json!([{"version": "1", "percent": 70}, {"version": "2", "percent": 30}])),
                "1",
            ),
            ("another plan", &canary(&[5, 100]), canary(&[10, 100]), ""),
            ("it becomes the canary", &alone, canary(&[5, 100]), "2"),
            ("it is chosen by a header", &alone, of(beta), "2"),
            ("a shadow answers", &copied, half.clone(), "2"),
            (
                "a new one that gets nothing",
                &alone,
                of(json!([{"version": "1", "percent": 100}, {"version": "2", "percent": 0}])),
                "",
            ),
        ];
        for (what, before, next, expected) in table {
            let names = next.targets.iter().map(|target| target.name.as_str());
            let gaining: Vec<&str> = names.filter(|name| gains(Some(before), &next, name)).collect();
            assert_eq!(gaining.join(" "), expected, "{what}");
        }
        assert!(gains(None, &alone, "1"), "the first route");
    }

    #[test]
    fn shares_of_others_do_not_wait_for_a_canary_that_has_not_begun() {
        let of = |first: i32, canary: bool| {
            let traffic =
                json!([{"version": "1", "percent": first}, {"version": "2", "percent": 100 - first}]);
            let canary = canary.then(|| json!({"version": "3", "steps": [5, 100]}));
            route(json!({"traffic": traffic, "canary": canary})).expect("a route")
        };
        let (before, next) = (of(100, false), of(0, true));
        let without = but_canary(&before, &next).expect("the shares are others");
        assert_eq!(without, of(0, false));
        assert_eq!(but_canary(&without, &next), None, "it is so");
        let both = beside(&without, &next).expect("ModelHub does not know the canary yet");
        assert_eq!(but_canary(&both, &next), None, "it looks for the canary");
        assert_eq!(but_canary(&of(50, true), &next), None, "the canary has begun");
    }

    #[test]
    fn a_canary_that_the_spec_names_no_more_gets_nothing_more() {
        let of = |model: &str, canary: Option<&str>| {
            let canary = canary.map(|version| json!({"version": version, "steps": [5, 100]}));
            route(json!({"model": {"version": model}, "stackRef": {"name": "s"}, "canary": canary}))
                .expect("a route")
        };
        let state = |phase, is_first_ready| {
            let seen =
                |name: &str, ready| TargetState { name: name.to_owned(), ready, ..TargetState::default() };
            let (since_ms, begun_ms, reason) = (0, 0, String::new());
            TrafficState {
                model: "m".to_owned(),
                revision: 1,
                targets: vec![seen("1", is_first_ready), seen("2", true)],
                route: of("1", Some("2")),
                canary: Some(CanaryState { phase, step: 0, since_ms, begun_ms, reason }),
                held: 0,
                idle_ms: None,
            }
        };
        use CanaryPhase::{RolledBack, Running, Succeeded};
        let (another, none, promoted) = (of("1", Some("3")), of("3", None), of("2", None));
        let table = [
            ("another takes its place", Running, true, &another, true),
            ("the model has another version", Running, true, &none, true),
            ("it went back, and holds a GPU", RolledBack, true, &none, true),
            ("it is promoted", Running, true, &promoted, false),
            ("it is the canary still", Running, true, &of("1", Some("2")), false),
            ("it has everything", Succeeded, true, &none, false),
            ("it has everything, and another is to begin", Succeeded, true, &another, true),
            ("nobody else answers", Running, false, &none, false),
        ];
        for (what, phase, is_first_ready, next, is_stray) in table {
            let expected = is_stray.then(|| of("1", None));
            assert_eq!(without_stray(&state(phase, is_first_ready), next), expected, "{what}");
        }
        let mut wider = of("1", Some("2"));
        wider.canary.as_mut().expect("a plan").max_error_permille = 500;
        for (phase, next, begins) in
            [(RolledBack, &wider, true), (RolledBack, &of("1", Some("2")), false), (Running, &wider, false)]
        {
            let before = so_far(&state(phase, true), next);
            assert_eq!(gains(Some(&before), next, "2"), begins, "{phase:?}");
            assert_eq!(but_canary(&before, next), None, "nothing else changes");
        }
        let first = but_canary(&TrafficRoute::default(), &another).expect("nobody waits for the canary");
        assert_eq!(first, of("1", None));
    }

    #[test]
    fn services_that_a_service_alone_cannot_serve_have_a_route() {
        assert_eq!(route(json!({})), None);
        assert_eq!(route(json!({"scaling": {"maxReplicas": 3}})), None);
        let asleep = route(json!({"scaling": {"minReplicas": 0, "maxReplicas": 3, "holdSeconds": 60}}))
            .expect("a route");
        assert_eq!(asleep.validate(), Ok(()));
        assert_eq!(asleep.hold, Some(HoldPolicy { deadline_ms: 60_000, max_requests: 100 }));
        assert_eq!((asleep.targets[0].name.as_str(), asleep.targets[0].weight), ("current", 100));
        assert_eq!(asleep.targets[0].endpoint, "http://tinyinfer-chat:8000");
        let theirs = json!({"stackRef": {"name": "prod"}, "runtime": "external", "endpoint": "https://llm.example.com/"});
        let theirs = route(theirs).expect("a route");
        assert_eq!(theirs.targets[0].endpoint, "https://llm.example.com");
        let two =
            route(json!({"model": {"version": "1"}, "canary": {"version": "2", "steps": [5, 50, 100]}}));
        let two = two.expect("a route");
        assert_eq!(two.validate(), Ok(()));
        let weights: Vec<_> =
            two.targets.iter().map(|t| (t.name.as_str(), t.weight, t.endpoint.as_str())).collect();
        assert_eq!(
            weights,
            [("1", 100, "http://tinyinfer-chat-v1:8000"), ("2", 0, "http://tinyinfer-chat-v2:8000")]
        );
        assert_eq!(two.canary.expect("a canary").steps, [5, 50, 100]);
        assert_eq!(two.owner, "InferenceService team/chat");
        let shared = route(json!({"traffic": [
            {"version": "1", "percent": 90}, {"version": "2", "percent": 10, "headers": {"x-beta": "1"}},
            {"version": "3", "percent": 20, "shadow": true}]}))
        .expect("a route");
        assert_eq!(shared.validate(), Ok(()));
        let copied =
            json!({"model": {"version": "1"}, "traffic": [{"version": "2", "percent": 50, "shadow": true}]});
        let copied = route(copied).expect("a route");
        assert_eq!(copied.validate(), Ok(()));
        let weights: Vec<_> = copied.targets.iter().map(|t| (t.name.as_str(), t.weight, t.shadow)).collect();
        assert_eq!(weights, [("1", 100, false), ("2", 50, true)]);
        assert!(shared.targets[2].shadow && shared.targets[1].headers.contains_key("x-beta"));
    }
}
