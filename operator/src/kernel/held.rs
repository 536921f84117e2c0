//! Changes that are held back: a Secret that is not there, most likely a typing error, must not take pods away that serve.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

use super::child::Progress;

/// Whether a workload is not written as it is wanted: its new pods would wait for a Secret that is not there, and those of now serve.
pub(super) fn is_held(wanted: &Value, now: &Progress, missing: &[String]) -> bool {
    !missing.is_empty() && matches!(now, Progress::Pods(pods) if pods.ready > 0) && waits(wanted, missing)
}

/// Whether the pods of a workload do not start without one of these Secrets.
fn waits(wanted: &Value, missing: &[String]) -> bool {
    let spec = wanted.pointer("/spec/template/spec").cloned().unwrap_or_default();
    let spec: PodSpec = serde_json::from_value(spec).unwrap_or_default();
    needed(&spec).iter().any(|name| missing.iter().any(|missing| missing == name))
}

/// Secrets without which pods do not start.
fn needed(spec: &PodSpec) -> Vec<&str> {
    let volumes = spec.volumes.iter().flatten();
    let mounted = volumes.filter_map(|volume| {
        let secret = volume.secret.as_ref().filter(|secret| secret.optional != Some(true))?;
        secret.secret_name.as_deref()
    });
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    mounted.chain(containers().flat_map(read)).collect()
}

fn read(container: &Container) -> impl Iterator<Item = &str> {
    let one = container.env.iter().flatten().filter_map(|variable| {
        let key = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
        (key.optional != Some(true)).then_some(key.name.as_str())
    });
    let all = container.env_from.iter().flatten().filter_map(|source| {
        let secret = source.secret_ref.as_ref()?;
        (secret.optional != Some(true)).then_some(secret.name.as_str())
    });
    one.chain(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_wait_for_what_they_mount_and_read() {
        let container = |fields: Value| {
            let mut container = json!({"name": "c"});
            container
                .as_object_mut()
                .expect("an object")
                .extend(fields.as_object().cloned().unwrap_or_default());
            container
        };
        let table = [
            (json!({"containers": [container(json!({}))]}), false),
            (json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}), true),
            (json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "other"}}]}), false),
            (
                json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "s", "optional": true}}]}),
                false,
            ),
            (
                json!({"containers": [container(json!({"env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}))]}),
                true,
            ),
            (
                json!({"containers": [], "initContainers": [container(json!({"envFrom": [{"secretRef": {"name": "s"}}]}))]}),
                true,
            ),
        ];
        for (spec, expected) in table {
            let wanted = json!({"spec": {"template": {"spec": spec}}});
            assert_eq!(waits(&wanted, &["s".to_owned()]), expected, "{wanted}");
        }
    }
}
