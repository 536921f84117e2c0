//! How a stack's parts are until they are what they are to be: the hub goes on with what serves.

use std::collections::BTreeMap;

use aistack_crds::{AIStack, KVCluster};
use serde_json::Value;

use super::modelhub::KV_VOLUMES;
use super::validate::Kv;
use super::{CHAT_NAME, EMBED_NAME, HUB, KV_NAME, validate};
use crate::kernel::ObjectName;
use crate::kernel::apply;
use crate::kernel::child::{ChildKey, ChildKind, OwnProgress, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::controller::StepError;
use crate::kv_cluster;
use crate::report;

/// What serves at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meanwhile {
    /// Where engines serve, by their names. One that becomes another serves where it was until the other is ready.
    pub engines: BTreeMap<String, String>,
    /// The Secret by whose CA the hub knows the store, while the store goes to another.
    pub kv_secret: Option<String>,
}

/// Looks.
pub(super) async fn look(cluster: &Cluster, object: &AIStack) -> Result<Meanwhile, StepError> {
    Ok(Meanwhile { engines: engines(cluster, object).await?, kv_secret: kv_secret(cluster, object).await? })
}

async fn engines(cluster: &Cluster, object: &AIStack) -> Result<BTreeMap<String, String>, StepError> {
    let mut engines = BTreeMap::new();
    for name in [CHAT_NAME, EMBED_NAME] {
        let object_name = ObjectName::new(report::namespace(object), name);
        let key = ChildKey { kind: ChildKind::InferenceService, object: object_name };
        if cluster.children.meta(&key).is_none() {
            continue;
        }
        if let Some(Progress::Ours(OwnProgress { endpoint: Some(endpoint), .. })) =
            apply::look(cluster, object, &key).await?
        {
            engines.insert(name.to_owned(), endpoint);
        }
    }
    Ok(engines)
}

async fn kv_secret(cluster: &Cluster, object: &AIStack) -> Result<Option<String>, StepError> {
    if object.spec.tinykv.as_ref().is_none_or(|kv| kv.tls.is_none()) {
        return Ok(None);
    }
    let Ok(stack) = validate(object) else { return Ok(None) };
    let Kv::Own(own) = &stack.kv else { return Ok(None) };
    let Some(wanted) = own.1.client_tls() else { return Ok(None) };
    let key = |kind, name: &str| ChildKey { kind, object: ObjectName::new(report::namespace(object), name) };
    let hub = key(ChildKind::StatefulSet, HUB);
    if cluster.children.meta(&hub).is_none() {
        return Ok(None);
    }
    let hub = apply::read_in_step(cluster, &hub).await?;
    let Some(mounted) = hub.and_then(|hub| mounted(&hub)).filter(|mounted| *mounted != wanted.secret_name)
    else {
        return Ok(None);
    };
    let store = apply::read_in_step(cluster, &key(ChildKind::KVCluster, KV_NAME)).await?;
    let has_it = store.is_some_and(|store| has(store, &wanted.secret_name));
    Ok((!has_it).then_some(mounted))
}

/// The Secret that the hub's pods mount the store's CA from.
fn mounted(hub: &Value) -> Option<String> {
    let volumes = hub.pointer("/spec/template/spec/volumes")?.as_array()?;
    let volume = volumes.iter().find(|volume| volume["name"] == KV_VOLUMES[0])?;
    volume.pointer("/secret/secretName")?.as_str().map(str::to_owned)
}

/// Whether all members have the certificate of that Secret.
fn has(store: Value, secret: &str) -> bool {
    let Progress::Ours(progress) = Progress::of(ChildKind::KVCluster, &store) else { return false };
    let Ok(store) = serde_json::from_value::<KVCluster>(store) else { return false };
    let tls = kv_cluster::validate(&store, "").ok().and_then(|store| store.client_tls());
    let is_asked_for = tls.is_some_and(|tls| tls.secret_name == secret);
    is_asked_for && progress.is_ready && progress.progressing.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hub_goes_to_another_secret_after_the_store() {
        let store = |secret: &str, ready: &str, progressing: &str, seen: i64| {
            json!({"apiVersion": "platform.dev/v1", "kind": "KVCluster",
                "metadata": {"name": "tinykv", "namespace": "n", "generation": 2},
                "spec": {"replicas": 3, "tls": {"secretName": secret}},
                "status": {"observedGeneration": seen, "conditions": [
                    {"type": "Ready", "status": ready, "reason": "R", "message": "…", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "Progressing", "status": progressing, "reason": "R", "message": "…", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
        };
        let table = [
            ("it has it", store("new", "True", "False", 2), true),
            ("it was not told yet", store("old", "True", "False", 2), false),
            ("it has not looked yet", store("new", "True", "False", 1), false),
            ("it rolls, or holds", store("new", "True", "True", 2), false),
            ("it does not serve", store("new", "False", "False", 2), false),
        ];
        for (name, store, expected) in table {
            assert_eq!(has(store, "new"), expected, "{name}");
        }
    }

    #[test]
    fn what_the_hub_mounts_is_found() {
        let hub = json!({"spec": {"template": {"spec": {"volumes": [
            {"name": "engine-ca", "secret": {"secretName": "engines"}}, {"name": "kv-ca", "secret": {"secretName": "old"}}]}}}});
        assert_eq!(mounted(&hub).as_deref(), Some("old"));
        assert_eq!(mounted(&json!({})), None);
    }
}
