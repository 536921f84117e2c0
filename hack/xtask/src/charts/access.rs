//! What the chart grants the operator is what its code asks for: no less, and no more.
//!
//! The code's side is a table of its files that call the API server, each with the calls that it has and what those ask for. A
//! call that the table does not know is a finding, so that whoever adds one says what right it needs.

use std::collections::BTreeSet;
use std::path::Path;

use aistack_crds::Kind;
use anyhow::{Context as _, Result};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use walkdir::WalkDir;

use super::{text, yaml};

/// Rules for objects, and for the Lease.
pub(super) const RULES: [&str; 2] =
    ["charts/aistack/files/rules/objects.yaml", "charts/aistack/files/rules/lease.yaml"];

/// A right: API group, resource, verb.
type Right = (String, String, String);

/// On what a call is made.
#[derive(Clone, Copy, Debug)]
enum On {
    /// Every kind of ours.
    Kinds,
    /// The status of every kind of ours.
    Statuses,
    /// Every kind that the operator makes.
    Children,
    /// Every kind of ours that has a finalizer.
    Finalized,
    /// One resource.
    One(&'static str, &'static str),
}

/// Calls of a file: the method's name, on what, and the verbs that the API server checks.
type Calls = &'static [(&'static str, On, &'static [&'static str])];

const LEASES: On = On::One("coordination.k8s.io", "leases");
const SECRETS: On = On::One("", "secrets");
const PODS: On = On::One("", "pods");
const CLAIMS: On = On::One("", "persistentvolumeclaims");
const EVENTS: On = On::One("events.k8s.io", "events");
const TOLD: On = On::One("", "events");

/// Who calls what. Server-side apply of what is not there yet is checked as a creation too.
const CALLERS: &[(&str, Calls)] = &[
    (
        "kernel/apply.rs",
        &[
            ("get_with", On::Children, &["get"]),
            ("get", On::Children, &["get"]),
            ("create", On::Children, &["create"]),
            ("patch", On::Children, &["patch"]),
            ("delete", On::Children, &["delete"]),
        ],
    ),
    ("kernel/claims.rs", &[("list", CLAIMS, &["list"]), ("patch", CLAIMS, &["patch"])]),
    ("kernel/cluster.rs", &[("publish", EVENTS, &["create", "patch"]), ("get_opt", SECRETS, &["get"])]),
    (
        "kernel/lease.rs",
        &[
            ("watcher", LEASES, &["list", "watch"]),
            ("get_opt", LEASES, &["get"]),
            ("get", LEASES, &["get"]),
            ("create", LEASES, &["create"]),
            ("replace", LEASES, &["update"]),
        ],
    ),
    ("kernel/parent.rs", &[("get_metadata_opt", On::Kinds, &["get"])]),
    (
        "kernel/reconcile.rs",
        &[("patch", On::Finalized, &["patch"]), ("patch_status", On::Statuses, &["patch"])],
    ),
    (
        "kernel/watch.rs",
        &[("watcher", On::Kinds, &["list", "watch"]), ("watcher", On::Children, &["list", "watch"])],
    ),
    ("kernel/pending.rs", &[("list", PODS, &["list"]), ("list", TOLD, &["list"])]),
    ("kv_cluster/certificate.rs", &[("get_metadata_opt", SECRETS, &["get"])]),
    ("kv_cluster/seen.rs", &[("list", PODS, &["list"]), ("list", CLAIMS, &["list"])]),
    (
        "kv_cluster/steps.rs",
        &[
            ("create_subresource", On::One("", "pods/eviction"), &["create"]),
            ("delete", PODS, &["delete"]),
            ("delete", CLAIMS, &["delete"]),
            ("patch", CLAIMS, &["patch"]),
        ],
    ),
    ("inference_service/found.rs", &[("get_opt", On::One("resource.k8s.io", "deviceclasses"), &["get"])]),
    (
        "inference_service/rollout.rs",
        &[
            ("get_opt", On::One("apps", "deployments"), &["get"]),
            ("list", PODS, &["list"]),
            ("patch", On::One("apps", "deployments"), &["patch"]),
        ],
    ),
    ("kv_cluster/wish.rs", &[("patch", On::One("platform.dev", "kvclusters"), &["patch"])]),
    ("vector_collection/control.rs", &[("patch", On::One("platform.dev", "vectorcollections"), &["patch"])]),
];

/// What runs as the person that calls it, with that person's rights.
const PERSONS: &str = "plugin/";

/// Where the API server has what the operator makes, by kind.
const CHILDREN: &[(&str, &str, &str)] = &[
    ("ConfigMap", "", "configmaps"),
    ("Secret", "", "secrets"),
    ("Service", "", "services"),
    ("PersistentVolumeClaim", "", "persistentvolumeclaims"),
    ("PodDisruptionBudget", "policy", "poddisruptionbudgets"),
    ("HorizontalPodAutoscaler", "autoscaling", "horizontalpodautoscalers"),
    ("ScaledObject", "keda.sh", "scaledobjects"),
    ("ResourceClaimTemplate", "resource.k8s.io", "resourceclaimtemplates"),
    ("Certificate", "cert-manager.io", "certificates"),
    ("StatefulSet", "apps", "statefulsets"),
    ("Deployment", "apps", "deployments"),
    ("DaemonSet", "apps", "daemonsets"),
    ("Job", "batch", "jobs"),
    ("CronJob", "batch", "cronjobs"),
    ("KVCluster", "platform.dev", "kvclusters"),
    ("InferenceService", "platform.dev", "inferenceservices"),
    ("VectorCollection", "platform.dev", "vectorcollections"),
];

/// Controllers whose kind has a finalizer, and the resource.
const FINALIZED: &[(&str, &str)] = &[
    ("inference_service/control.rs", "inferenceservices"),
    ("vector_collection/control.rs", "vectorcollections"),
];

/// Compares the two sides.
pub(super) fn check(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    calls_are_known(root, findings)?;
    let children = children(root)?;
    for kind in &children {
        if !CHILDREN.iter().any(|(name, ..)| name == kind) {
            findings
                .push(format!("{kind} is made by the operator and not in hack/xtask/src/charts/access.rs"));
        }
    }
    let used = used(&children)?;
    let granted = granted(root)?;
    for (group, resource, verb) in used.difference(&granted) {
        findings.push(format!("{}: the operator needs {verb} on {resource} ({group})", RULES[0]));
    }
    for (group, resource, verb) in granted.difference(&used) {
        findings.push(format!("{}: nothing in operator/src needs {verb} on {resource} ({group})", RULES[0]));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
    #[serde(default, rename = "resourceNames")]
    _names: Vec<String>,
}

fn granted(root: &Path) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for path in RULES {
        for rule in yaml::<Vec<Rule>>(root, path)? {
            for group in &rule.api_groups {
                for resource in &rule.resources {
                    let right = |verb: &String| (group.clone(), resource.clone(), verb.clone());
                    rights.extend(rule.verbs.iter().map(right));
                }
            }
        }
    }
    Ok(rights)
}

fn used(children: &BTreeSet<String>) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for (_, calls) in CALLERS {
        for (_, on, verbs) in *calls {
            for (group, resource) in resources(*on, children)? {
                let right = |verb: &&str| (group.clone(), resource.clone(), (*verb).to_owned());
                rights.extend(verbs.iter().map(right));
            }
        }
    }
    Ok(rights)
}

fn resources(on: On, children: &BTreeSet<String>) -> Result<Vec<(String, String)>> {
    let ours = |suffix: &str| -> Result<Vec<(String, String)>> {
        Kind::ALL
            .into_iter()
            .map(|kind| {
                let crd = serde_json::to_value(kind.crd())?;
                let plural = crd.pointer("/spec/names/plural").and_then(Value::as_str);
                let plural = plural.with_context(|| format!("{} has a plural", kind.name()))?;
                Ok(("platform.dev".to_owned(), format!("{plural}{suffix}")))
            })
            .collect()
    };
    let made = CHILDREN.iter().filter(|(kind, ..)| children.contains(*kind));
    Ok(match on {
        On::Kinds => ours("")?,
        On::Statuses => ours("/status")?,
        On::Children => made.map(|(_, group, plural)| ((*group).to_owned(), (*plural).to_owned())).collect(),
        On::Finalized => {
            FINALIZED.iter().map(|(_, plural)| ("platform.dev".to_owned(), (*plural).to_owned())).collect()
        }
        On::One(group, resource) => vec![(group.to_owned(), resource.to_owned())],
    })
}

/// Kinds that the operator makes, as its own table names them.
fn children(root: &Path) -> Result<BTreeSet<String>> {
    let source = text(root, "operator/src/kernel/child.rs")?;
    let erased = Regex::new(r"ApiResource::erase::<(\w+)>").context("a pattern")?;
    Ok(erased.captures_iter(&source).map(|found| found[1].to_owned()).collect())
}

fn calls_are_known(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let folder = root.join("operator/src");
    let mut finalized = BTreeSet::new();
    for entry in WalkDir::new(&folder).sort_by_file_name() {
        let entry = entry?;
        if entry.path().extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = entry.path().strip_prefix(&folder)?.display().to_string();
        if name.starts_with(PERSONS) {
            continue;
        }
        let source = std::fs::read_to_string(entry.path()).with_context(|| format!("read {name}"))?;
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        if source.contains("fn finalizer(") && name != "kernel/controller.rs" {
            finalized.insert(name.clone());
        }
        let row = CALLERS.iter().find(|(file, _)| *file == name);
        let known: BTreeSet<_> =
            row.iter().flat_map(|(_, calls)| calls.iter()).map(|(call, ..)| (*call).to_owned()).collect();
        let found = calls(source)?;
        for call in found.difference(&known) {
            findings.push(format!(
                "operator/src/{name}: calls the API server with {call}; say in hack/xtask/src/charts/access.rs what right it needs"
            ));
        }
        for call in known.difference(&found) {
            findings.push(format!(
                "operator/src/{name}: does not call {call} any more; take it out of hack/xtask/src/charts/access.rs"
            ));
        }
    }
    let known: BTreeSet<_> = FINALIZED.iter().map(|(file, _)| (*file).to_owned()).collect();
    if finalized != known {
        findings.push(format!(
            "hack/xtask/src/charts/access.rs: finalizers are in {finalized:?}, and the table has {known:?}"
        ));
    }
    Ok(())
}

/// Calls to the API server in a file: methods of what is called `api`, watches, and Events.
fn calls(source: &str) -> Result<BTreeSet<String>> {
    let method = Regex::new(r"\bapi(?:\(\))?\s*\.\s*(\w+)\s*\(").context("a pattern")?;
    let request = Regex::new(r"\bclient\s*\.\s*(request_\w+|list_\w+|send)\s*[(:]").context("a pattern")?;
    let watch = Regex::new(r"[^:\w](watcher)\(").context("a pattern")?;
    let event = Regex::new(r"recorder\s*\.\s*(publish)\(").context("a pattern")?;
    let found = [method, request, watch, event];
    let found = found.iter().flat_map(|pattern| pattern.captures_iter(source));
    // A copy of a client asks for nothing.
    Ok(found.map(|found| found[1].to_owned()).filter(|call| call != "clone").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_however_they_are_written() {
        let table = [
            ("let live = self.api.get_opt(name).await;", &["get_opt"][..]),
            ("self.api().patch_status(&name)", &["patch_status"]),
            ("api\n    .evict(&name)", &["evict"]),
            ("let stream = watcher(api, config)", &["watcher"]),
            ("self.recorder.publish(&event)", &["publish"]),
            ("client.request_text(request)", &["request_text"]),
            ("map.get(name); self.objects.list()", &[]),
            ("watcher::Config::default()", &[]),
        ];
        for (source, expected) in table {
            let found: Vec<_> = calls(source).unwrap().into_iter().collect();
            assert_eq!(found, expected, "{source}");
        }
    }
}
