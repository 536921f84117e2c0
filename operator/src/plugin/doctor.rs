//! `doctor`: what is wrong in a namespace, and what to do.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use aistack_crds::Kind;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use semver::Version;
use serde::Serialize;
use serde_json::Value;

use super::{Output, Place, PluginError, behind, condition, counted, is_paused, leaving, say, short};
use crate::kernel::lease::{LABEL, WATCHED};
use crate::kernel::reconcile::SKIP_CLEAN_UP;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    /// `None`: it could not be seen.
    is_well: Option<bool>,
    says: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

impl Finding {
    fn is_wrong(&self) -> bool {
        self.is_well == Some(false)
    }
}

pub(super) async fn run(place: &Place, output: Output) -> Result<(), PluginError> {
    let mut findings = vec![kinds(place).await, operator(place).await];
    findings.extend(namespace(place).await);
    // Kinds that are there are looked at, of whatever version; what keeps them from being listed is said once.
    if let Err(error) = objects(place, &mut findings).await
        && !findings[0].is_wrong()
    {
        let (what, says) = ("objects".to_owned(), error.message);
        findings.push(Finding { what, is_well: Some(false), says, fix: String::new() });
    }
    if !output.prints(&findings)? {
        for finding in &findings {
            let mark = match finding.is_well {
                Some(true) => "ok   ",
                Some(false) => "wrong",
                None => "?    ",
            };
            say(format_args!("{mark}  {}: {}", finding.what, finding.says))?;
            if !finding.fix.is_empty() {
                say(format_args!("       {}", finding.fix))?;
            }
        }
    }
    if !findings.iter().any(Finding::is_wrong) {
        return Ok(());
    }
    Err(PluginError { code: 1, message: String::new() })
}

async fn kinds(place: &Place) -> Finding {
    let api: Api<CustomResourceDefinition> = Api::all(place.client.clone());
    let (mut missing, mut other, mut unseen) = (Vec::new(), Vec::new(), Vec::new());
    let mut chart = String::new();
    for kind in Kind::ALL {
        let crd = kind.crd();
        match api.get_opt(crd.metadata.name.as_deref().unwrap_or_default()).await {
            Ok(None) => missing.push(kind.name()),
            Ok(Some(there))
                if there.spec.versions.first().map(|v| &v.schema)
                    != crd.spec.versions.first().map(|v| &v.schema) =>
            {
                chart = there.labels().get("helm.sh/chart").cloned().unwrap_or_default();
                other.push(kind.name());
            }
            Ok(Some(_)) => {}
            // Not everybody may look at these; that objects can be listed is said below.
            Err(kube::Error::Api(status)) if status.code == 403 => unseen.push(kind.name()),
            Err(error) => {
                let says = format!("the cluster does not answer: {}", crate::kernel::apply::said(&error));
                let fix = "kubectl cluster-info".to_owned();
                return Finding { what: "kinds".to_owned(), is_well: Some(false), says, fix };
            }
        }
    }
    let (is_well, says) = match (missing.is_empty(), other.is_empty(), unseen.is_empty()) {
        (true, true, true) => (Some(true), "all seven, of this version".to_owned()),
        (true, true, false) => (
            None,
            "CustomResourceDefinitions may not be seen, so nothing is known of their version".to_owned(),
        ),
        (true, false, _) => {
            let of = if chart.is_empty() { String::new() } else { format!(" (they are of {chart})") };
            let says = format!("of another version than this program{of}: {}", other.join(", "));
            let fix = of_another(&chart, env!("CARGO_PKG_VERSION"));
            return Finding { what: "kinds".to_owned(), is_well: Some(false), says, fix };
        }
        _ => (Some(false), format!("not installed: {}", missing.join(", "))),
    };
    let fix =
        if is_well == Some(false) { "helm upgrade --install aistack-crds charts/aistack-crds" } else { "" };
    Finding { what: "kinds".to_owned(), is_well, says, fix: fix.to_owned() }
}

/// Kinds go up with their operator, never down: fields that older ones lack would be dropped from objects at the next write.
fn of_another(chart: &str, ours: &str) -> String {
    const UPGRADE: &str = "helm upgrade --install aistack-crds charts/aistack-crds";
    let theirs = chart.strip_prefix("aistack-crds-").unwrap_or_default();
    let known = Version::parse(theirs).ok().zip(Version::parse(ours).ok());
    match known.map(|(theirs, ours)| theirs.cmp(&ours)) {
        Some(Ordering::Greater) => format!("this program is older ({ours}): take that of {theirs}"),
        Some(Ordering::Less) => format!("{UPGRADE}, from the sources of {ours}"),
        _ => format!("if this program is the newer: {UPGRADE}; else take that of the operator's version"),
    }
}

/// What a Lease tells of its holder.
struct Held {
    lease: String,
    version: String,
    /// Seconds since it was renewed.
    age: i64,
    leads: bool,
}

impl Held {
    /// `None`: nobody holds it.
    fn of(lease: &Lease) -> Option<Self> {
        let spec = lease.spec.as_ref()?;
        spec.holder_identity.as_ref().filter(|holder| !holder.is_empty())?;
        let age = Timestamp::now().as_second() - spec.renew_time.as_ref()?.0.as_second();
        let leads = age <= i64::from(spec.lease_duration_seconds.unwrap_or(15)) * 2;
        Some(Self {
            lease: format!("{}/{}", lease.namespace().unwrap_or_default(), lease.name_any()),
            version: lease.resource_version().unwrap_or_default(),
            age,
            leads,
        })
    }
}

/// Longer than an operator that leads goes without renewing its Lease.
const RENEWED: Duration = Duration::from_secs(8);

/// Those that somebody holds, and the namespaces and names of those that were given back.
async fn leases(api: &Api<Lease>, place: &Place) -> Result<(Vec<Held>, Vec<[String; 2]>), kube::Error> {
    let params = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
    let leases = api.list(&params).await?.items;
    let ours = leases.iter().filter(|lease| {
        let watched = lease.annotations().get(WATCHED).map_or("", String::as_str);
        watched.is_empty() || watched == place.namespace
    });
    let (mut held, mut free) = (Vec::new(), Vec::new());
    for lease in ours {
        match Held::of(lease) {
            Some(it) => held.push(it),
            None => free.push([lease.namespace().unwrap_or_default(), lease.name_any()]),
        }
    }
    Ok((held, free))
}

/// The Leases of operators that look after this namespace, wherever those are.
async fn operator(place: &Place) -> Finding {
    let what = "operator".to_owned();
    let api: Api<Lease> = Api::all(place.client.clone());
    let (held, free) = match leases(&api, place).await {
        Ok((held, free)) if held.is_empty() || held.iter().any(|held| held.leads) => (held, free),
        // This machine's clock may be ahead of theirs; one that leads renews its Lease meanwhile.
        Ok((before, _)) => {
            tokio::time::sleep(RENEWED).await;
            let (now, free) = leases(&api, place).await.unwrap_or_default();
            let leads = |held: &Held| !before.iter().any(|it| it.version == held.version);
            (now.into_iter().map(|held| Held { leads: leads(&held), ..held }).collect(), free)
        }
        Err(error) => {
            let says = format!("its Lease cannot be seen: {}", crate::kernel::apply::said(&error));
            return Finding { what, is_well: None, says, fix: String::new() };
        }
    };
    let leaders: Vec<&str> = held.iter().filter(|it| it.leads).map(|it| it.lease.as_str()).collect();
    match held.iter().map(|it| it.age).min() {
        Some(_) if leaders.len() > 1 => Finding {
            what,
            is_well: Some(false),
            says: format!("several lead that see namespace {}: {}", place.namespace, leaders.join(", ")),
            fix: "helm list -A; uninstall all but one: each changes back what the others make".to_owned(),
        },
        Some(_) if !leaders.is_empty() => {
            Finding { what, is_well: Some(true), says: "one leads".to_owned(), fix: String::new() }
        }
        Some(age) => Finding {
            what,
            is_well: Some(false),
            says: format!("the last one that led was heard of {age} s ago"),
            fix: "kubectl get pods -A -l app.kubernetes.io/name=aistack-operator".to_owned(),
        },
        None => {
            let none = format!("none leads that looks after namespace {}", place.namespace);
            let (says, fix) = match free.first() {
                Some([namespace, lease]) => (
                    format!("{none}: the one that held Lease {namespace}/{lease} has ended, or was scaled to nothing"),
                    format!("kubectl get deployments,pods -n {namespace} -l app.kubernetes.io/name=aistack-operator"),
                ),
                None => (
                    none,
                    "is one installed? helm list -A; if not: helm upgrade --install aistack charts/aistack -n aistack-system --create-namespace"
                        .to_owned(),
                ),
            };
            Finding { what, is_well: Some(false), says, fix }
        }
    }
}

/// A namespace that is not there has nothing wrong in it.
async fn namespace(place: &Place) -> Option<Finding> {
    place.is_missing().await.then(|| Finding {
        what: "namespace".to_owned(),
        is_well: Some(false),
        says: format!("there is no namespace {}", place.namespace),
        fix: "kubectl get namespaces".to_owned(),
    })
}

async fn objects(place: &Place, findings: &mut Vec<Finding>) -> Result<(), PluginError> {
    let all = place.all().await?;
    let mut well = BTreeMap::new();
    for (kind, object) in &all {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let what = format!("{}/{name}", short(*kind));
        let bad = [
            "Degraded",
            "Scheduled",
            "ModelVerified",
            "ModelPreloaded",
            "Autoscaling",
            "Routed",
            "Supported",
            "BackedUp",
            "Restorable",
            "Certified",
            "QuorumHealthy",
        ];
        let said: Vec<(&str, &str)> = bad
            .into_iter()
            .filter_map(|kind| condition(object, kind).map(|said| (kind, said)))
            .filter(|(kind, (status, ..))| {
                (*kind == "Degraded") == (*status == "True") && *status != "Unknown"
            })
            .map(|(_, (_, reason, message))| (reason, message))
            .collect();
        if let Some(since) = leaving(object) {
            findings.push(going(place, *kind, object, since).await);
            continue;
        }
        if let Some(finding) = unseen(object, &what) {
            findings.push(finding);
            continue;
        }
        findings.extend(paused(object, &what, &place.namespace));
        match (condition(object, "Ready"), said.first()) {
            (None, _) if is_paused(object) => {}
            (None, _) => findings.push(Finding {
                what,
                is_well: Some(false),
                says: "no operator has looked at it".to_owned(),
                fix: "is one installed that sees this namespace? (above)".to_owned(),
            }),
            (Some(("True", ..)), None) => *well.entry(format!("{} ready", kind.name())).or_insert(0) += 1,
            (Some((_, reason, message)), None) => findings.push(Finding {
                what: what.clone(),
                is_well: Some(false),
                says: format!("{reason}: {message}"),
                fix: format!(
                    "kubectl aistack status {what} -n {0}; kubectl aistack logs {what} -n {0}",
                    place.namespace
                ),
            }),
            (Some(_), Some(_)) => {
                let mut told: Vec<String> =
                    said.iter().map(|(reason, message)| format!("{reason}: {message}")).collect();
                told.dedup();
                findings.push(Finding {
                    what: what.clone(),
                    is_well: Some(false),
                    says: told.join(" | "),
                    fix: fix(said[0], &format!("{what} -n {}", place.namespace)),
                });
            }
        }
    }
    if !well.is_empty() {
        findings.push(Finding {
            what: "objects".to_owned(),
            is_well: Some(true),
            says: counted(&well),
            fix: String::new(),
        });
    }
    metrics(place, findings).await;
    Ok(())
}

/// A deletion takes moments; one that does not waits for somebody.
async fn going(place: &Place, kind: Kind, object: &Value, since: &str) -> Finding {
    const MOMENTS: i64 = 60;
    let meta = &object["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    let waits_for: Vec<&str> =
        meta["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let age = since.parse::<Timestamp>().map_or(0, |since| Timestamp::now().as_second() - since.as_second());
    let mut says = format!("is being deleted since {since}");
    let mut fix = String::new();
    if age > MOMENTS {
        let warned = warned(place, meta["uid"].as_str().unwrap_or_default()).await;
        says = format!("{says}, and waits for its finalizers {}{warned}", waits_for.join(", "));
        if waits_for.iter().any(|finalizer| finalizer.starts_with("platform.dev/")) {
            fix = format!(
                "let it go, whatever it leaves outside Kubernetes: kubectl annotate {} {name} -n {} {SKIP_CLEAN_UP}=true",
                short(kind),
                place.namespace
            );
        }
    }
    let what = format!("{}/{name}", short(kind));
    Finding { what, is_well: (age > MOMENTS).then_some(false), says, fix }
}

/// What an object's newest warning says, if one may look.
async fn warned(place: &Place, uid: &str) -> String {
    let of = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
    let events = place.api::<Event>().list(&of).await.map(|list| list.items).unwrap_or_default();
    let seen = |event: &Event| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        series.map(|time| time.0).max(last).max(event.event_time.as_ref().map(|time| time.0))
    };
    let newest = events.into_iter().max_by_key(seen);
    newest.and_then(|event| event.message).map(|message| format!(": {message}")).unwrap_or_default()
}

/// A pause is meant, and easily forgotten; a change that waits for its end is not done.
fn paused(object: &Value, what: &str, namespace: &str) -> Option<Finding> {
    let waits = behind(object).is_some() || condition(object, "Ready").is_none();
    let says = if condition(object, "Ready").is_none() {
        "paused before anything was made of it"
    } else if waits {
        "paused, and a change waits"
    } else {
        "paused: nothing is done to it"
    };
    is_paused(object).then(|| Finding {
        what: what.to_owned(),
        is_well: Some(!waits),
        says: says.to_owned(),
        fix: format!("kubectl aistack resume {what} -n {namespace}"),
    })
}

/// An edit that no operator has looked at: what the status says is of before it.
fn unseen(object: &Value, what: &str) -> Option<Finding> {
    let (generation, observed) = behind(object)?;
    (!is_paused(object)).then(|| Finding {
        what: what.to_owned(),
        is_well: Some(false),
        says: format!("no operator has looked at its last edit: the status is of generation {observed}, the spec of {generation}"),
        fix: "kubectl get pods -A -l app.kubernetes.io/name=aistack-operator; its log says what it does".to_owned(),
    })
}

fn fix((reason, message): (&str, &str), what: &str) -> String {
    match reason {
        "Unschedulable" if message.contains("gpu") => {
            "kubectl get nodes -L nvidia.com/gpu.product; ask for less, or add such a node".to_owned()
        }
        "Unschedulable" => {
            "kubectl describe nodes tells what they have left; ask for less, or add one".to_owned()
        }
        "ImageMissing" => "correct image in the spec; a registry that asks who pulls: kubectl create secret docker-registry, and its name in image.pullSecrets".to_owned(),
        "FetchFailed" => format!("kubectl aistack logs {what}; correct spec.model.uri or sha256"),
        "EngineFailed" => format!("kubectl aistack logs {what}"),
        "CanaryRolledBack" => "kubectl aistack rollback takes it out; a new version begins anew".to_owned(),
        "ScaledObjectNotReady" | "WaitingForKeda" => {
            "kubectl describe scaledobject, and the log of keda-operator; or leave scaling.by out".to_owned()
        }
        "NoMetric" => {
            "set scaling.metric: cpu, or install an adapter for custom metrics (docs/operator.md)".to_owned()
        }
        _ => String::new(),
    }
}

/// Autoscalers need somebody who serves their metrics.
async fn metrics(place: &Place, findings: &mut Vec<Finding>) {
    let labels = ListParams::default().labels("app.kubernetes.io/managed-by=aistack-operator");
    let Ok(scalers) = place.api::<HorizontalPodAutoscaler>().list(&labels).await else { return };
    let uses = |kind: &str| {
        let mut metrics = scalers.items.iter().filter_map(|scaler| scaler.spec.metrics.clone()).flatten();
        metrics.any(|metric| metric.type_ == kind)
    };
    let groups = place.client.list_api_groups().await.map(|groups| groups.groups).unwrap_or_default();
    let serves = |name: &str| groups.iter().any(|group| group.name == name);
    for (kind, group, who) in [
        (
            "Pods",
            "custom.metrics.k8s.io",
            "an adapter, such as prometheus-adapter with the rule in docs/operator.md",
        ),
        ("Resource", "metrics.k8s.io", "metrics-server"),
    ] {
        if uses(kind) && !serves(group) {
            findings.push(Finding {
                what: "autoscaling".to_owned(),
                is_well: Some(false),
                says: format!("autoscalers ask for {group}, which nobody serves"),
                fix: format!("install {who}"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_take_the_kinds_back() {
        for (chart, said) in [
            ("aistack-crds-0.10.0", "this program is older (0.9.1): take that of 0.10.0"),
            (
                "aistack-crds-0.9.0",
                "helm upgrade --install aistack-crds charts/aistack-crds, from the sources of 0.9.1",
            ),
            ("aistack-crds-0.9.1", "if this program is the newer: "),
            ("", "if this program is the newer: "),
        ] {
            let fix = of_another(chart, "0.9.1");
            assert!(fix.starts_with(said), "{chart}: {fix}");
        }
    }
}
