//! Pods that hold data come before others where a node has no room for all: they have the priority that whoever installed the operator
//! named, where their manifest says nothing.

use k8s_openapi::api::apps::v1::StatefulSet;

use crate::manifest::{Manifest, Manifests};

/// Components whose pods hold data, as their label has them.
const STORES: [&str; 3] = ["tinykv", "vectorforge", "modelhub"];
const NAME: &str = "app.kubernetes.io/name";

/// Writes the class into pods of stores.
pub(super) fn settle(class: Option<&str>, manifests: &mut Manifests) {
    let Some(class) = class else { return };
    for manifest in &mut manifests.0 {
        let Manifest::StatefulSet(set) = manifest else { continue };
        if !is_store(set) {
            continue;
        }
        if let Some(pod) = &mut set.spec.template.spec {
            pod.priority_class_name.get_or_insert_with(|| class.to_owned());
        }
    }
}

fn is_store(set: &StatefulSet) -> bool {
    let name = set.metadata.labels.as_ref().and_then(|labels| labels.get(NAME));
    name.is_some_and(|name| STORES.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn stores_have_it_where_their_manifest_says_nothing() {
        let table = [
            ("tinykv", None, Some("aistack-store"), Some("aistack-store")),
            ("vectorforge", None, Some("aistack-store"), Some("aistack-store")),
            ("modelhub", None, Some("aistack-store"), Some("aistack-store")),
            ("tinykv", Some("mine"), Some("aistack-store"), Some("mine")),
            ("envpool", None, Some("aistack-store"), None),
            ("tinykv", None, None, None),
        ];
        for (component, own, class, expected) in table {
            let labels = json!({NAME: component});
            let set: StatefulSet =
                serde_json::from_value(json!({"metadata": {"name": "s", "labels": labels},
                "spec": {"serviceName": "s", "selector": {"matchLabels": labels}, "template": {
                    "metadata": {"labels": labels}, "spec": {"containers": [], "priorityClassName": own}}}}))
                .expect("a StatefulSet");
            let mut manifests = Manifests::default();
            manifests.push(set);
            settle(class, &mut manifests);
            let now = serde_json::to_value(&manifests.0[0]).expect("plain data");
            let now = now.pointer("/spec/template/spec/priorityClassName").and_then(Value::as_str);
            assert_eq!(now, expected, "{component} {own:?} {class:?}");
        }
    }
}
