//! What a service says of itself. Pure.

use std::time::Duration;

use aistack_api::traffic::CanaryPhase;

use super::found::{Found, RouteFound};
use super::validate::{Scale, Serving, Source};
use super::version::Version;
use super::{ApiKey, ValidatedInferenceService, preload, route};
use crate::kernel::apply::Applied;
use crate::kernel::child::{ChildKind, Pods, Progress};
use crate::kernel::conditions::{Because, Extra, Report, Scaled};
use crate::probe::Reached;
use crate::report;

/// How often a server of somebody else's is asked whether it is there.
const PROBED: Duration = Duration::from_mins(1);
/// How often what lies in ModelHub is looked at, when nothing is under way.
const OUTSIDE: Duration = Duration::from_mins(2);
/// While something is under way that no watch tells of.
const SOON: Duration = Duration::from_secs(5);
/// How often ModelHub is asked whether somebody waits for a service that sleeps.
const WAKEFUL: Duration = Duration::from_secs(1);

/// A server of somebody else's is reported, never owned.
pub(super) fn external(service: &ValidatedInferenceService, endpoint: &str, found: &Found) -> Report {
    let key = if *service.secret() == ApiKey::Open { "" } else { ", with a key" };
    let summary = format!("{} at {endpoint}{key}", service.model);
    let mut report = match &found.reached {
        Some(Reached::Yes) => {
            Report::ready(summary, Because::new("Reachable", format!("{endpoint} answers")))
        }
        Some(Reached::No(why)) => {
            Report::degraded(summary, Because::new("Unreachable", format!("{endpoint}: {why}")))
        }
        None => Report::progressing(summary, Because::new("NotAskedYet", format!("{endpoint} is asked"))),
    };
    report.scaled.endpoint = Some(found.endpoint(service));
    routed(&mut report, service, found);
    served_meanwhile(&mut report, service, found);
    report.look_again = Some(if found.has_taken_over(service) { PROBED } else { SOON });
    report
}

/// A service with pods of its own.
pub(super) fn of_versions(
    service: &ValidatedInferenceService,
    serving: &Serving,
    found: &Found,
    applied: &Applied,
) -> Report {
    let pods_of =
        |version: &Version| match applied.progress(ChildKind::Deployment, &service.workload_name(version)) {
            Some(Progress::Pods(pods)) => pods.clone(),
            _ => Pods { wanted: i32::from(serving.scale.most().min(1)), ..Pods::default() },
        };
    let each: Vec<Pods> = service.versions.iter().map(pods_of).collect();
    let all = together(&each);
    let is_asleep = found.is_asleep(service);
    let summary = summary(service, &all, is_asleep);
    let mut report = if is_asleep {
        Report::ready(summary, Because::new("Asleep", "it has no pods; a request wakes it"))
    } else if all.wanted == 0 && matches!(serving.scale, Scale::Auto(_)) {
        let because = Because::new("WaitingForPods", "it has no pod yet, and no autoscaler begins from none");
        Report { serves: Some(false), ..Report::progressing(summary, because) }
    } else {
        report::of_pods(summary, &all)
    };
    let canary = canary(service, found);
    if let Some((because, is_bad)) = &canary
        && report.ready.0
    {
        report.ready.1 = because.clone();
        report.degraded = report.degraded.or_else(|| is_bad.then(|| because.clone()));
    }
    trouble(&mut report, service, found, &all);
    let is_preloaded = preload::tell(&mut report, service, &found.preloads, applied);
    routed(&mut report, service, found);
    served_meanwhile(&mut report, service, found);
    report.extra.extend(conditions(service, serving, found, applied, &all));
    if let Some((because, _)) = canary {
        let is_so = match found.canary(service) {
            Some(CanaryPhase::Succeeded) => Some(true),
            Some(CanaryPhase::RolledBack) => Some(false),
            Some(CanaryPhase::Running) | None => None,
        };
        report.extra.push(Extra { kind: "CanaryTaken", is_so, because });
    }
    report.look_again = look_again(service, serving, found, is_asleep, report.ready.0);
    if !is_preloaded {
        // What keeps a fetch from its end is told by no watch.
        report.look_again = report.look_again.min(Some(PROBED)).or(Some(PROBED));
    }
    report.scaled = Scaled {
        replicas: all.replicas,
        ready_replicas: all.ready,
        selector: Some(selector(service)),
        version: (all.is_complete() && all.ready > 0).then(|| report::tag(&serving.image)),
        endpoint: Some(found.endpoint(service)),
        ..Scaled::default()
    };
    report
}

fn together(each: &[Pods]) -> Pods {
    let sum = |count: fn(&Pods) -> i32| each.iter().map(count).sum();
    Pods {
        is_current: each.iter().all(|pods| pods.is_current),
        wanted: sum(|pods| pods.wanted),
        replicas: sum(|pods| pods.replicas),
        ready: sum(|pods| pods.ready),
        updated: sum(|pods| pods.updated),
        failure: each.iter().find_map(|pods| pods.failure.clone()),
        trouble: each.iter().find_map(|pods| pods.trouble.clone()),
        ..Pods::default()
    }
}

fn summary(service: &ValidatedInferenceService, pods: &Pods, is_asleep: bool) -> String {
    let named: Vec<&str> = service
        .versions
        .iter()
        .filter(|version| !version.is_unnamed())
        .map(super::version::Version::target)
        .collect();
    let versions = if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) };
    if is_asleep {
        return format!("asleep {}{versions}", service.model);
    }
    format!("{}/{} {}{versions}", pods.ready, pods.wanted, service.model)
}

/// The pods of all versions, for the scale subresource.
fn selector(service: &ValidatedInferenceService) -> String {
    let instances: Vec<String> =
        service.versions.iter().map(|version| super::build::owner_of(service, version).instance).collect();
    let owner = super::build::owner_of(service, &service.versions[0]);
    if instances.len() == 1 {
        return report::selector(&owner);
    }
    format!(
        "app.kubernetes.io/name={},app.kubernetes.io/instance in ({})",
        owner.component,
        instances.join(",")
    )
}

/// What keeps pods away goes before that they are waited for.
fn trouble(report: &mut Report, service: &ValidatedInferenceService, found: &Found, pods: &Pods) {
    let trouble = &found.trouble;
    let is_served = pods.ready > 0 || found.meanwhile(service).is_some();
    let is_one_at_a_time = service.canary.is_none() && service.traffic.is_empty();
    let is_beside = is_served && service.has_gpu() && !service.gives_way() && is_one_at_a_time;
    let way = if is_beside {
        "; if its GPU is that of the pod that serves, rollout: inPlace has that one go first"
    } else {
        ""
    };
    let unschedulable =
        trouble.unschedulable.as_ref().map(|why| Because::new("Unschedulable", format!("{why}{way}")));
    let fetch = trouble.fetch.as_ref().map(|why| Because::new("FetchFailed", why.clone()));
    let lacking = || pods.trouble.clone();
    if let Some(because) = unschedulable.or(fetch).or_else(|| trouble.engine.clone()).or_else(lacking) {
        if !report.ready.0 {
            report.ready.1 = because.clone();
        }
        report.degraded = Some(because);
    }
}

/// What was there before serves until what is to serve takes over.
fn served_meanwhile(report: &mut Report, service: &ValidatedInferenceService, found: &Found) {
    let Some(name) = found.meanwhile(service) else { return };
    report.serves = Some(true);
    if !report.ready.0 {
        let said = format!("{}; meanwhile {name} serves", report.ready.1.message);
        report.ready.1.message = said;
    }
}

/// Pods that nobody leads requests to serve nobody.
fn routed(report: &mut Report, service: &ValidatedInferenceService, found: &Found) {
    if route::wanted(service).is_none() {
        return;
    }
    let away = found.away(service);
    let (is_so, because) = match &found.route {
        _ if !away.is_empty() => (false, unreached(&away)),
        _ if found.is_routed(service) => {
            (true, Because::new("Routed", "ModelHub leads requests here as the spec says"))
        }
        RouteFound::Away(why) => (false, Because::new("GatewayAway", why.clone())),
        _ => {
            if let Some(owner) = found.taken_by(service) {
                let owner = if owner.is_empty() { "somebody who set it by hand" } else { owner };
                let said = format!(
                    "ModelHub has a route for {} of {owner}; remove that (modelhub traffic delete {}), or serve another name",
                    service.model, service.model
                );
                report.is_stalled = true;
                (false, Because::new("RouteTaken", said))
            } else {
                (false, unrouted(service, found))
            }
        }
    };
    report.extra.push(Extra { kind: "Routed", is_so: Some(is_so), because: because.clone() });
    if !away.is_empty() && report.ready.0 {
        report.ready = (false, because.clone());
        report.degraded = Some(because);
        // Until requests are led here, what served before goes on.
        if found.is_routed(service) && away.len() >= service.answering().count() {
            report.serves = Some(false);
        }
        return;
    }
    let is_serving = matches!(&found.route, RouteFound::There(_)) && !report.is_stalled;
    if !is_so && !is_serving && report.ready.0 {
        report.ready = (false, because.clone());
        report.serves = Some(false);
        match &found.route {
            RouteFound::Away(_) => report.degraded = Some(because),
            _ if report.is_stalled => report.degraded = Some(because),
            _ => report.progressing = Some(because),
        }
    }
}

fn unreached(away: &[(String, String)]) -> Because {
    let each: Vec<String> = away.iter().map(|(target, why)| format!("version {target}: {why}")).collect();
    Because::new("TargetAway", format!("ModelHub does not reach {}", each.join("; ")))
}

/// What requests wait for before they are led there.
fn unrouted(service: &ValidatedInferenceService, found: &Found) -> Because {
    if service.serving().is_none() {
        let said = format!("ModelHub leads requests there once {} answers", service.endpoint());
        return Because::new("WaitingForServer", said);
    }
    let awaited: Vec<&str> = found.awaited(service).into_iter().map(Version::target).collect();
    let said = match awaited.as_slice() {
        [] if found.is_renamed(service) => {
            "ModelHub leads requests there once all pods are of this spec".to_owned()
        }
        [] => "ModelHub leads requests there once it has as many pods as served until now".to_owned(),
        awaited => format!("ModelHub leads requests there once pods of {} are ready", awaited.join(", ")),
    };
    Because::new("WaitingForPods", said)
}

/// Where a canary is, and whether that is bad.
fn canary(service: &ValidatedInferenceService, found: &Found) -> Option<(Because, bool)> {
    let spec = service.canary.as_ref()?;
    let RouteFound::There(state) = &found.route else { return None };
    if !found.is_routed(service) {
        let said = format!("version {} takes its first share once its pods are ready", spec.version);
        return Some((Because::new("CanaryWaiting", said), false));
    }
    let canary = state.canary.as_ref()?;
    let version = &spec.version;
    Some(match canary.phase {
        CanaryPhase::Running => {
            let said = format!("version {version}: {}", canary.reason);
            (Because::new("CanaryRunning", said), false)
        }
        CanaryPhase::Succeeded => {
            let said = format!(
                "version {version} has everything; set spec.model.version to it and remove spec.canary (kubectl aistack promote does)"
            );
            (Because::new("CanarySucceeded", said), false)
        }
        CanaryPhase::RolledBack => {
            let said = format!(
                "version {version} has nothing any more: {}; begin again under another version, or by modelhub traffic restart {}, or remove spec.canary (kubectl aistack rollback does)",
                canary.reason, service.model
            );
            (Because::new("CanaryRolledBack", said), true)
        }
    })
}

fn conditions(
    service: &ValidatedInferenceService,
    serving: &Serving,
    found: &Found,
    applied: &Applied,
    pods: &Pods,
) -> Vec<Extra> {
    let mut extra = Vec::new();
    let mut say = |kind, is_so, reason, message: String| {
        extra.push(Extra { kind, is_so, because: Because::new(reason, message) });
    };
    let (is_loaded, reason, said) = loaded(service, found, pods);
    say("ModelLoaded", is_loaded, reason, said);
    if let Some(why) = &found.trouble.unschedulable {
        say("Scheduled", Some(false), "Unschedulable", why.clone());
    }
    match (&serving.source, &found.trouble.fetch) {
        (Source::Engine { .. }, _) => {}
        (_, Some(why)) => say("ModelVerified", Some(false), "FetchFailed", why.clone()),
        (Source::File { sha256: None, uri, .. }, _) => {
            let said = format!("nobody said what the SHA-256 of {uri} is; give spec.model.sha256");
            say("ModelVerified", Some(false), "NoDigest", said);
        }
        (Source::File { .. } | Source::Registry, _) if pods.ready > 0 => {
            say(
                "ModelVerified",
                Some(true),
                "Verified",
                "every file has the SHA-256 that it must have".to_owned(),
            );
        }
        _ => say("ModelVerified", None, "NotFetchedYet", "no pod has fetched it yet".to_owned()),
    }
    let autoscaler = |version: &Version| {
        let name = service.workload_name(version);
        match applied.progress(ChildKind::HorizontalPodAutoscaler, &name) {
            Some(Progress::Autoscaler(why)) => why.clone(),
            _ => None,
        }
    };
    if let Some(why) = service.versions.iter().find_map(autoscaler) {
        say("Autoscaling", Some(false), "NoMetric", why);
    }
    extra.extend(scaled_by_keda(service, applied));
    extra
}

/// What KEDA says of the versions, the worst first.
fn scaled_by_keda(service: &ValidatedInferenceService, applied: &Applied) -> Option<Extra> {
    let said = |version: &Version| {
        let name = service.workload_name(version);
        match applied.progress(ChildKind::ScaledObject, &name)? {
            Progress::ScaledObject(is_ready, words) => Some((*is_ready, name, words.clone())),
            _ => None,
        }
    };
    let worst = |(is_ready, ..): &(Option<bool>, String, String)| match is_ready {
        Some(false) => 0,
        None => 1,
        Some(true) => 2,
    };
    let (is_so, name, words) = service.versions.iter().filter_map(said).min_by_key(worst)?;
    let because = match is_so {
        Some(true) => Because::new("ScaledObjectReady", format!("KEDA scales by ScaledObject {name}")),
        Some(false) => Because::new("ScaledObjectNotReady", format!("ScaledObject {name}: {words}")),
        None => Because::new(
            "WaitingForKeda",
            format!("KEDA has said nothing of ScaledObject {name} yet; does it run?"),
        ),
    };
    Some(Extra { kind: "Autoscaling", is_so, because })
}

/// Whether a pod has the model in its memory, and has answered with it once: an engine is not ready before.
fn loaded(
    service: &ValidatedInferenceService,
    found: &Found,
    pods: &Pods,
) -> (Option<bool>, &'static str, String) {
    if pods.ready > 0 {
        return (Some(true), "Loaded", "a pod has loaded the model and run it once".to_owned());
    }
    if found.is_asleep(service) {
        return (Some(false), "Asleep", "it has no pods; a request wakes it".to_owned());
    }
    match (&found.trouble.fetch, &found.trouble.engine) {
        (Some(why), _) => (Some(false), "FetchFailed", why.clone()),
        (None, Some(engine)) => (Some(false), engine.reason, engine.message.clone()),
        (None, None) => (None, "NotLoadedYet", "no pod has loaded the model yet".to_owned()),
    }
}

fn look_again(
    service: &ValidatedInferenceService,
    serving: &Serving,
    found: &Found,
    is_asleep: bool,
    is_ready: bool,
) -> Option<Duration> {
    if let Some(bounds) = serving.scale.sleeps() {
        if is_asleep {
            return Some(WAKEFUL);
        }
        let idle = u64::try_from(bounds.idle_seconds).unwrap_or(10);
        return Some(Duration::from_secs((idle / 4).clamp(1, 15)));
    }
    let is_moving = !is_ready
        || !found.has_taken_over(service)
        || found.canary(service) == Some(CanaryPhase::Running)
        || found.trouble != super::pods::Trouble::default();
    let is_moving = is_moving || !found.away(service).is_empty();
    // What is in ModelHub is told by no watch: somebody may begin a canary again, or restore what it keeps routes in.
    is_moving.then_some(SOON).or_else(|| route::wanted(service).map(|_| OUTSIDE))
}

#[cfg(test)]
mod tests {
    use aistack_crds::InferenceService;
    use kube::CustomResourceExt as _;
    use serde_json::{Value, json};

    use super::super::validate;
    use super::*;

    #[test]
    fn the_selector_of_the_largest_service_fits_its_field() {
        let schema = serde_json::to_value(InferenceService::crd()).expect("plain data");
        let schema = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let bound = |path: &str| schema.pointer(path).and_then(Value::as_u64).expect(path);
        let most = usize::try_from(bound("/spec/properties/traffic/maxItems")).expect("a few");
        let traffic: Vec<Value> =
            (0..most).map(|i| json!({"version": format!("{i:064}"), "percent": 1, "shadow": true})).collect();
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService",
            "metadata": {"name": "n".repeat(40), "namespace": "team"},
            "spec": {"model": {"name": "m", "version": "v".repeat(64)}, "traffic": traffic, "canary": {"version": "c".repeat(64)}}});
        let object: InferenceService = serde_json::from_value(object).expect("an InferenceService");
        let selector = selector(&validate(&object, "").expect("valid"));
        assert_eq!(selector.matches("nnn-v").count(), most + 2, "{selector}");
        let longest = bound("/status/properties/selector/maxLength");
        assert!(selector.len() as u64 <= longest, "{} of {longest}: {selector}", selector.len());
    }
}
