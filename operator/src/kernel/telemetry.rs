//! Where servers of ours send their traces and figures: to the collector that whoever installed the operator named.

use aistack_api::operator::COMPONENTS;
use k8s_openapi::api::core::v1::{Container, EnvVar};

use crate::manifest::{Manifest, Manifests};
use crate::pod::pod_name_env;

/// Writes the endpoint into the environment of servers.
pub(super) fn settle(endpoint: Option<&str>, manifests: &mut Manifests) {
    let Some(endpoint) = endpoint else { return };
    for manifest in &mut manifests.0 {
        let pod = match manifest {
            Manifest::StatefulSet(set) => &mut set.spec.template.spec,
            Manifest::Deployment(deployment) => &mut deployment.spec.template.spec,
            _ => continue,
        };
        for container in pod.iter_mut().flat_map(|pod| &mut pod.containers) {
            if let Some(component) = component(container) {
                let prefix = component.to_uppercase();
                let named = format!("{prefix}_SERVER__TELEMETRY__OTLP_ENDPOINT");
                let named = EnvVar { name: named, value: Some(endpoint.to_owned()), value_from: None };
                add(container, named);
                add(container, pod_name_env(&format!("{prefix}_SERVER__TELEMETRY__INSTANCE")));
            }
        }
    }
}

/// Which of ours it runs; `None`: an image of somebody else's.
fn component(container: &Container) -> Option<&'static str> {
    let (_, name) = container.image.as_ref()?.rsplit_once('/')?;
    let name = name.split([':', '@']).next()?;
    COMPONENTS.into_iter().find(|component| *component == name)
}

fn add(container: &mut Container, variable: EnvVar) {
    let all = container.env.get_or_insert_default();
    if all.iter().all(|there| there.name != variable.name) {
        all.push(variable);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn servers_of_ours_are_told_where_the_collector_is() {
        let table = [
            ("aistack/tinykv:1.0.0", Some("http://c:4317"), Some("TINYKV")),
            ("host:5000/ai/modelhub@sha256:0a", Some("http://c:4317"), Some("MODELHUB")),
            ("vllm/vllm-openai:v1", Some("http://c:4317"), None),
            ("aistack/tinykv:1.0.0", None, None),
        ];
        for (image, endpoint, prefix) in table {
            let own = json!([{"name": "MODELHUB_SERVER__TELEMETRY__INSTANCE", "value": "own"}]);
            let deployment: Deployment = serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {
                "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": image, "env": own}]}}}}))
            .expect("a Deployment");
            let mut manifests = Manifests::default();
            manifests.push(deployment);
            settle(endpoint, &mut manifests);
            let now = serde_json::to_value(&manifests.0[0]).expect("plain data");
            let env = now.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array);
            let names: Vec<&str> = env.into_iter().flatten().filter_map(|it| it["name"].as_str()).collect();
            let mut expected = vec!["MODELHUB_SERVER__TELEMETRY__INSTANCE".to_owned()];
            expected.extend(prefix.map(|prefix| format!("{prefix}_SERVER__TELEMETRY__OTLP_ENDPOINT")));
            let instance = prefix.map(|prefix| format!("{prefix}_SERVER__TELEMETRY__INSTANCE"));
            expected.extend(instance.filter(|name| *name != expected[0]));
            assert_eq!(names, expected, "{image} {endpoint:?}");
        }
    }
}
