//! The number of pods on its way from us to an autoscaler.
//!
//! An apply that names it no more would set it back to one, Kubernetes' default, before the autoscaler has had its first say. So the
//! number that is there is named for as long as it is ours; the first one that somebody else sets is theirs, and is named no more.

use serde_json::Value;

use crate::meta::MANAGER;

const FIELD: &str = "/spec/replicas";

/// Names the number that is there where nobody else has set one yet. It must not have changed since: the apply is for this version alone.
pub(super) fn carry(live: &Value, wanted: &mut Value) {
    let number = live.pointer(FIELD).and_then(Value::as_u64).filter(|number| *number > 0);
    let (Some(number), None, true) = (number, wanted.pointer(FIELD), is_ours(live)) else { return };
    wanted["spec"]["replicas"] = number.into();
    wanted["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
}

fn is_ours(live: &Value) -> bool {
    let entries = live["metadata"]["managedFields"].as_array();
    let names = |entry: &&Value| entry["fieldsV1"]["f:spec"].get("f:replicas").is_some();
    entries.into_iter().flatten().filter(names).any(|entry| entry["manager"] == MANAGER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_is_named_until_somebody_else_sets_one() {
        let live = |replicas: Value, manager: &str| {
            json!({"metadata": {"resourceVersion": "7", "managedFields": [
                {"manager": MANAGER, "fieldsV1": {"f:spec": {"f:selector": {}}}},
                {"manager": manager, "fieldsV1": {"f:spec": {"f:replicas": {}}}}]}, "spec": {"replicas": replicas}})
        };
        let table = [
            (live(json!(5), MANAGER), json!({}), json!({"replicas": 5})),
            (live(json!(5), "kube-controller-manager"), json!({}), json!({})),
            (live(json!(5), MANAGER), json!({"replicas": 3}), json!({"replicas": 3})),
            // Pods that slept begin with one.
            (live(json!(0), MANAGER), json!({}), json!({})),
            (json!({"metadata": {}}), json!({}), json!({})),
        ];
        for (live, spec, expected) in table {
            let mut wanted = json!({"metadata": {}, "spec": spec});
            let was_named = spec == expected;
            carry(&live, &mut wanted);
            assert_eq!(wanted["spec"], expected, "{live}");
            assert_eq!(wanted["metadata"]["resourceVersion"].is_null(), was_named, "{live}");
        }
    }
}
