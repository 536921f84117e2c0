//! What becomes of a child that was made by a plain creation.
//!
//! A creation costs the API server half of what an apply does with the look that must precede it, and is refused by itself where the name
//! is taken. But Kubernetes counts what a creation set as an update's, which no later apply takes away. So the first apply that names
//! less than the creation did is preceded by a patch that hands the fields over to those that apply.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::meta::MANAGER;

/// Annotation of a child with the shape that it was created in.
const CREATED_AS: &str = "platform.dev/created-as";

/// The same object, marked with its shape.
pub(super) fn marked(wanted: &Value) -> Value {
    let mut marked = wanted.clone();
    marked["metadata"]["annotations"][CREATED_AS] = json!(shape(wanted));
    marked
}

/// The patch that hands over what a creation set, where `wanted` names something else than that; `None` when there is nothing to be
/// handed over.
pub(super) fn hand_over(live: &Value, wanted: &Value) -> Option<Value> {
    let meta = &live["metadata"];
    if meta["annotations"][CREATED_AS] == shape(wanted) {
        return None;
    }
    let mut entries = meta["managedFields"].as_array()?.clone();
    let is_ours = |entry: &Value, operation: &str| {
        entry["manager"] == MANAGER && entry["operation"] == operation && entry["subresource"].is_null()
    };
    let created = entries.iter().position(|entry| is_ours(entry, "Update"))?;
    if entries.iter().any(|entry| is_ours(entry, "Apply")) {
        // It was applied since, in the same shape.
        entries.remove(created);
    } else {
        entries[created]["operation"] = json!("Apply");
    }
    // Others manage fields too: the list is only replaced while it is the one that was read.
    Some(json!({"metadata": {"resourceVersion": meta["resourceVersion"], "managedFields": entries}}))
}

/// What an object names, whatever the values: so a number that changes leaves it as it is. Lists count with all that is in them, since
/// their items are told apart by values.
fn shape(wanted: &Value) -> String {
    let mut hash = Sha256::new();
    name(wanted, &mut hash);
    hex::encode(&hash.finalize()[..5])
}

fn name(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(fields) => {
            hash.update("{");
            for (field, value) in fields {
                hash.update(field);
                hash.update(":");
                name(value, hash);
            }
            hash.update("}");
        }
        Value::Array(_) => hash.update(value.to_string()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_another_shape_when_it_names_something_else() {
        let wanted = json!({"spec": {"replicas": 1, "env": [{"name": "a", "value": "b"}]}});
        let table = [
            (json!({"spec": {"replicas": 2, "env": [{"name": "a", "value": "b"}]}}), true),
            (json!({"spec": {"replicas": 1, "env": [{"name": "b", "value": "b"}]}}), false),
            (json!({"spec": {"replicas": 1, "env": []}}), false),
            (json!({"spec": {"env": [{"name": "a", "value": "b"}]}}), false),
            (json!({"spec": {"replicas": 1, "env": [{"name": "a", "value": "b"}], "more": 1}}), false),
        ];
        for (other, is_same) in table {
            assert_eq!(shape(&wanted) == shape(&other), is_same, "{other}");
        }
    }

    #[test]
    fn what_a_creation_set_is_handed_over_before_an_apply_leaves_something_out() {
        let wanted = json!({"metadata": {"annotations": {"applied": "1"}}, "data": {"a": "1", "b": "1"}});
        let less = json!({"metadata": {"annotations": {"applied": "2"}}, "data": {"a": "1"}});
        let entry = |manager: &str, operation: &str| json!({"manager": manager, "operation": operation});
        let live = |entries: &[Value]| {
            let mut live = marked(&wanted);
            live["metadata"]["managedFields"] = json!(entries);
            live["metadata"]["resourceVersion"] = json!("7");
            live
        };
        let (created, applied) = (entry(MANAGER, "Update"), entry(MANAGER, "Apply"));
        let other = entry("kubectl", "Update");
        let handed =
            |entries: &[Value]| Some(json!({"metadata": {"resourceVersion": "7", "managedFields": entries}}));
        let of = |entries: &[Value], wanted: &Value| hand_over(&live(entries), wanted);
        assert_eq!(of(std::slice::from_ref(&created), &wanted), None, "only values differ");
        assert_eq!(of(&[other.clone(), created.clone()], &less), handed(&[other.clone(), applied.clone()]));
        assert_eq!(of(&[created, applied.clone()], &less), handed(std::slice::from_ref(&applied)));
        assert_eq!(of(&[applied, other], &less), None, "it was never created so");
    }
}
