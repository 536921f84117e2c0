//! Whether what is there has all that was applied: the question before a write.

use serde_json::Value;

use crate::size::Size;

/// Whether `live` says all that `wanted` says. What `live` says besides is a default or somebody else's.
pub fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(name, wanted)| {
            match live.get(name) {
                Some(live) => covers(live, wanted),
                // The API server keeps no empty maps and lists.
                None => is_empty(wanted),
            }
        }),
        (Value::Array(live), Value::Array(wanted)) => lists(live, wanted),
        (Value::Number(live), Value::Number(wanted)) => {
            live == wanted || live.as_f64().zip(wanted.as_f64()).is_some_and(|(a, b)| a.total_cmp(&b).is_eq())
        }
        (Value::String(live), Value::String(wanted)) => live == wanted || same_quantity(live, wanted),
        (live, wanted) => live == wanted,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Lists of named items are compared by name, since a webhook may have put items of its own between them; other lists
/// item by item.
fn lists(live: &[Value], wanted: &[Value]) -> bool {
    for key in ["name", "type", "uid"] {
        let named = |items: &[Value]| items.iter().all(|item| item.get(key).is_some_and(Value::is_string));
        if !wanted.is_empty() && named(wanted) && named(live) {
            return wanted
                .iter()
                .all(|item| live.iter().any(|other| other.get(key) == item.get(key) && covers(other, item)));
        }
    }
    live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| covers(live, wanted))
}

/// The API server writes quantities its own way: `1000m` comes back as `1`.
fn same_quantity(live: &str, wanted: &str) -> bool {
    let milli = |text: &str| match text.strip_suffix('m') {
        Some(digits) => digits.parse::<u64>().ok(),
        None => Size::parse(text).and_then(|size| size.bytes().checked_mul(1000)),
    };
    let starts_with_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    starts_with_digit(live)
        && starts_with_digit(wanted)
        && milli(live).zip(milli(wanted)).is_some_and(|(live, wanted)| live == wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_applied_is_there_or_not() {
        let table = [
            (json!({"a": 1, "b": 2}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), false),
            (json!({"a": 1}), json!({"a": 1, "b": null}), true),
            (json!({}), json!({"labels": {}}), true),
            (json!({}), json!({"labels": {"x": []}}), true),
            (json!({"cpu": "1"}), json!({"cpu": "1000m"}), true),
            (json!({"memory": "1Gi"}), json!({"memory": "1024Mi"}), true),
            (json!({"memory": "1Gi"}), json!({"memory": "1G"}), false),
            (json!({"text": "m1"}), json!({"text": "1"}), false),
            (json!({"port": 80}), json!({"port": 80.0}), true),
            (json!({"args": ["a", "b"]}), json!({"args": ["a"]}), false),
            (json!({"args": ["a"]}), json!({"args": ["a"]}), true),
            (
                json!({"env": [{"name": "injected"}, {"name": "x", "value": "1", "extra": true}]}),
                json!({"env": [{"name": "x", "value": "1"}]}),
                true,
            ),
            (
                json!({"env": [{"name": "x", "value": "2"}]}),
                json!({"env": [{"name": "x", "value": "1"}]}),
                false,
            ),
            (json!({"ports": [{"port": 1, "protocol": "TCP"}]}), json!({"ports": [{"port": 1}]}), true),
            (json!({"ports": [{"port": 1}, {"port": 2}]}), json!({"ports": [{"port": 1}]}), false),
        ];
        for (live, wanted, expected) in table {
            assert_eq!(covers(&live, &wanted), expected, "{live} {wanted}");
        }
    }
}
