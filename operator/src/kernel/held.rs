//! Changes that are held back: a Secret, or a key of one, that is not there, most likely a typing error, must not take pods away that serve.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

use super::child::Progress;
use super::cluster::Cluster;
use super::key::ObjectName;
use super::parent::Parent;
use crate::manifest::Manifests;

/// What pods read of a Secret and do not find: they do not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The Secret.
    pub secret: String,
    /// The key that it has not; `None` where there is no such Secret.
    pub key: Option<String>,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            None => write!(f, "Secret {} is not in this namespace", self.secret),
            Some(key) => write!(f, "Secret {} has no key {key}", self.secret),
        }
    }
}

/// Why a workload is not written as it is wanted: its new pods would not start without these, and those of now serve.
pub(super) async fn back(cluster: &Cluster, parent: &Parent, wanted: &Value, now: &Progress) -> Vec<Lack> {
    match now {
        Progress::Pods(pods) if pods.ready > 0 => lacks(cluster, parent, &pod(wanted)).await,
        _ => Vec::new(),
    }
}

/// The pods of a workload.
fn pod(workload: &Value) -> PodSpec {
    let spec = workload.pointer("/spec/template/spec").cloned().unwrap_or_default();
    serde_json::from_value(spec).unwrap_or_default()
}

/// What such pods do not start without, and do not find.
pub(super) async fn lacks(cluster: &Cluster, parent: &Parent, pod: &PodSpec) -> Vec<Lack> {
    let mut lacks = Vec::new();
    for (secret, keys) in needed(pod) {
        let name = ObjectName::new(parent.namespace.as_str(), secret);
        let lack = |key: Option<&str>| Lack { secret: secret.to_owned(), key: key.map(str::to_owned) };
        if !cluster.has_secret(&name) {
            // What a Certificate brings is told of by that.
            let is_brought = parent.brings.iter().any(|brought| brought == secret);
            lacks.extend((!is_brought).then(|| lack(None)));
        } else if !keys.is_empty()
            // What cannot be looked at is no reason to hold anything back.
            && let Ok(there) = cluster.secret_keys(&name).await
        {
            let missing = keys.into_iter().filter(|key| !there.contains(*key));
            lacks.extend(missing.map(|key| lack(Some(key))));
        }
    }
    lacks
}

/// Secrets that pods read and that come from elsewhere.
pub(super) fn read_by(manifests: &mut Manifests, brought: &[String]) -> BTreeSet<String> {
    let mut secrets = BTreeSet::new();
    for pod in manifests.pods_mut() {
        secrets.extend(needed(pod).into_keys().map(str::to_owned));
    }
    secrets.retain(|secret| !brought.contains(secret));
    secrets
}

/// Secrets without which pods do not start, and their keys.
fn needed(spec: &PodSpec) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut needed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for volume in spec.volumes.iter().flatten() {
        let Some(secret) = volume.secret.as_ref().filter(|secret| secret.optional != Some(true)) else {
            continue;
        };
        let Some(name) = secret.secret_name.as_deref() else { continue };
        needed.entry(name).or_default().extend(secret.items.iter().flatten().map(|item| item.key.as_str()));
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for (name, key) in containers.flat_map(read) {
        needed.entry(name).or_default().extend(key);
    }
    needed
}

fn read(container: &Container) -> impl Iterator<Item = (&str, Option<&str>)> {
    let one = container.env.iter().flatten().filter_map(|variable| {
        let key = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
        (key.optional != Some(true)).then_some((key.name.as_str(), Some(key.key.as_str())))
    });
    let all = container.env_from.iter().flatten().filter_map(|source| {
        let secret = source.secret_ref.as_ref()?;
        (secret.optional != Some(true)).then_some((secret.name.as_str(), None))
    });
    one.chain(all)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use serde_json::json;

    use super::super::child::{ChildKey, ChildKind, Pods};
    use super::super::stub;
    use super::*;

    fn parent(brings: &[&str]) -> Parent {
        Parent {
            namespace: "n".to_owned(),
            reference: OwnerReference::default(),
            is_new: false,
            brings: brings.iter().map(|secret| (*secret).to_owned()).collect(),
            edition: String::new(),
        }
    }

    fn container(fields: &Value) -> Value {
        let mut container = json!({"name": "c"});
        let fields = fields.as_object().cloned().unwrap_or_default();
        container.as_object_mut().expect("an object").extend(fields);
        container
    }

    #[tokio::test]
    async fn pods_wait_for_what_they_mount_and_read() {
        let there = json!({"metadata": {"name": "s", "namespace": "n"}, "data": {"k": ""}});
        let volume = |name: &str, item: &str| json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": name, "items": [{"key": item, "path": "p"}]}}]});
        let env = |name: &str, key: &str, optional: bool| {
            let variable = json!({"name": "E", "valueFrom": {"secretKeyRef": {"name": name, "key": key, "optional": optional}}});
            json!({"containers": [container(&json!({"env": [variable]}))]})
        };
        let table = [
            (json!({"containers": [container(&json!({}))]}), ""),
            (json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}), ""),
            (volume("s", "k"), ""),
            (volume("s", "other"), "Secret s has no key other"),
            (volume("mistyped", "k"), "Secret mistyped is not in this namespace"),
            (volume("brought", "k"), ""),
            (
                json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "mistyped", "optional": true}}]}),
                "",
            ),
            (env("s", "k", false), ""),
            (env("s", "other", false), "Secret s has no key other"),
            (env("s", "other", true), ""),
            (env("mistyped", "k", false), "Secret mistyped is not in this namespace"),
            (all_of("s"), ""),
            (all_of("mistyped"), "Secret mistyped is not in this namespace"),
        ];
        let (cluster, _) = stub::cluster(200, &there);
        let key = ChildKey { kind: ChildKind::Secret, object: ObjectName::new("n", "s") };
        stub::tell_of(&cluster, key);
        for (spec, expected) in table {
            let wanted = json!({"spec": {"template": {"spec": spec}}});
            let told = lacks(&cluster, &parent(&["brought"]), &pod(&wanted)).await;
            let told: Vec<String> = told.iter().map(ToString::to_string).collect();
            assert_eq!(told.join("; "), expected, "{wanted}");
        }
    }

    #[tokio::test]
    async fn only_what_serves_is_held_back() {
        let (cluster, _) = stub::cluster(404, &json!({}));
        let wanted = json!({"spec": {"template": {"spec": all_of("mistyped")}}});
        for (ready, held) in [(0, 0), (1, 1)] {
            let now = Progress::Pods(Pods { ready, wanted: 1, ..Pods::default() });
            assert_eq!(back(&cluster, &parent(&[]), &wanted, &now).await.len(), held, "{ready} ready");
        }
        assert!(back(&cluster, &parent(&[]), &wanted, &Progress::Present).await.is_empty());
    }

    fn all_of(secret: &str) -> Value {
        json!({"containers": [], "initContainers": [container(&json!({"envFrom": [{"secretRef": {"name": secret}}]}))]})
    }
}
