//! What every kind has alike, and what an API server asks of a schema.

use aistack_crds::{Kind, all_crds};
use serde_json::Value;

fn schema(kind: Kind) -> Value {
    let crd = serde_json::to_value(kind.crd()).expect("plain data");
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").expect("a schema").clone()
}

fn visit(node: &Value, path: &str, check: &mut dyn FnMut(&Value, &str)) {
    check(node, path);
    for (name, child) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        visit(child, &format!("{path}.{name}"), check);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(child) = node.get(keyword).filter(|child| child.is_object()) {
            visit(child, &format!("{path}[]"), check);
        }
    }
}

#[test]
fn names_scope_and_subresources() {
    let table = [
        (Kind::AIStack, "aistacks", "stack", false),
        (Kind::InferenceService, "inferenceservices", "isvc", true),
        (Kind::VectorCollection, "vectorcollections", "vc", true),
        (Kind::KVCluster, "kvclusters", "kv", true),
        (Kind::World, "worlds", "world", false),
        (Kind::TaskSet, "tasksets", "tasks", false),
        (Kind::EnvPool, "envpools", "envs", true),
    ];
    assert_eq!(all_crds().len(), table.len());
    for (kind, plural, short, scales) in table {
        let crd = kind.crd();
        assert_eq!(crd.spec.group, "platform.dev", "{kind}");
        assert_eq!(crd.spec.scope, "Namespaced", "{kind}");
        assert_eq!(crd.spec.names.kind, kind.name());
        assert_eq!(crd.spec.names.plural, plural);
        assert_eq!(crd.spec.names.short_names.as_deref(), Some(&[short.to_owned()][..]), "{kind}");
        assert_eq!(crd.spec.names.categories.as_deref(), Some(&["aistack".to_owned()][..]), "{kind}");
        let version = &crd.spec.versions[0];
        assert!(version.name == "v1" && version.served && version.storage, "{kind}");
        let subresources = version.subresources.as_ref().expect("subresources");
        assert!(subresources.status.is_some(), "{kind} has no status subresource");
        assert_eq!(subresources.scale.is_some(), scales, "{kind}");
        let columns: Vec<_> =
            version.additional_printer_columns.iter().flatten().map(|column| column.name.as_str()).collect();
        assert!(
            columns.contains(&"Ready") && columns.contains(&"Reason") && columns.last() == Some(&"Age"),
            "{kind}"
        );
        assert_eq!(
            columns.contains(&"Version"),
            scales,
            "{kind}: what has pods of its own says their version"
        );
    }
}

#[test]
fn objects_are_selected_by_fields_that_there_are() {
    let fields = |kind: Kind| {
        let crd = kind.crd();
        let fields = crd.spec.versions[0].selectable_fields.iter().flatten();
        fields.map(|field| field.json_path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(fields(Kind::InferenceService), [".spec.model.name", ".spec.runtime", ".spec.stackRef.name"]);
    for kind in Kind::ALL {
        for path in fields(kind) {
            let mut names = path.trim_start_matches('.').split('.');
            let found = names.try_fold(schema(kind), |at, name| at.get("properties")?.get(name).cloned());
            assert_eq!(found.map(|field| field["type"].clone()), Some("string".into()), "{kind} {path}");
        }
    }
}

#[test]
fn conditions_are_a_map_and_status_says_its_generation() {
    for kind in Kind::ALL {
        let schema = schema(kind);
        let conditions = schema.pointer("/properties/status/properties/conditions").expect("conditions");
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{kind}");
        assert_eq!(conditions["x-kubernetes-list-map-keys"][0], "type", "{kind}");
        assert!(schema.pointer("/properties/status/properties/observedGeneration").is_some(), "{kind}");
    }
}

#[test]
fn every_field_of_a_spec_is_described_and_bounded() {
    for kind in Kind::ALL {
        let schema = schema(kind);
        visit(&schema["properties"]["spec"], "spec", &mut |node, path| {
            let lacks = |keyword: &str| node.get(keyword).is_none();
            // Keys and items, too: a map's values may be as long as its bound times theirs.
            let open_text = node["type"] == "string" && lacks("enum") && lacks("maxLength");
            assert!(!open_text, "{kind} {path} is text without maxLength, which makes CEL costly");
            let open_list = node["type"] == "array" && lacks("maxItems");
            assert!(!open_list, "{kind} {path} is a list without maxItems, which makes CEL costly");
            let open_map = !lacks("additionalProperties") && lacks("maxProperties");
            assert!(!open_map, "{kind} {path} is a map without maxProperties, which makes CEL costly");
            for (name, child) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
                assert!(child.get("description").is_some(), "{kind} {path}.{name} has no description");
            }
        });
    }
}

#[test]
fn schemas_are_structural_and_rules_compile() {
    for kind in Kind::ALL {
        let schema = schema(kind);
        visit(&schema, "", &mut |node, path| {
            for keyword in ["oneOf", "anyOf", "allOf", "$ref", "definitions"] {
                assert!(node.get(keyword).is_none(), "{kind} {path} uses {keyword}");
            }
            let both = node.get("properties").is_some() && node.get("additionalProperties").is_some();
            assert!(!both, "{kind} {path} has properties beside additionalProperties");
            if let Some(pattern) = node.get("pattern").and_then(Value::as_str) {
                regex::Regex::new(pattern).unwrap_or_else(|error| panic!("{kind} {path}: {error}"));
            }
            for rule in node.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                // An API server takes the text of a number for as long as a text can be, and refuses the kind for it.
                let costly = rule
                    .get("messageExpression")
                    .and_then(Value::as_str)
                    .is_some_and(|text| text.contains("string("));
                assert!(
                    !costly,
                    "{kind} {path}: string() in a messageExpression is beyond the cost that is allowed"
                );
                for key in ["rule", "messageExpression"] {
                    if let Some(text) = rule.get(key).and_then(Value::as_str) {
                        kube_cel::cel::Program::compile(text)
                            .unwrap_or_else(|error| panic!("{kind} {path} {key} {text}: {error}"));
                    }
                }
                if let Some(field) = rule.get("fieldPath").and_then(Value::as_str) {
                    let mut names = field.trim_start_matches('.').split('.');
                    let found = names.try_fold(node, |at, name| at.get("properties")?.get(name));
                    assert!(found.is_some(), "{kind} {path}: fieldPath {field} is no field");
                }
            }
        });
    }
}
