//! Paths into a payload: `a.b`, `a[].b`, `a[0]`, `"a.b".c`.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::error::EngineError;
use super::point::Payload;

/// A parsed payload path. An array met where a path ends, or where it is crossed with `[]`, stands for each of its
/// elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JsonPath {
    first: String,
    rest: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
    Every,
}

impl JsonPath {
    /// A path of one key, taken literally.
    pub fn key(key: impl Into<String>) -> Self {
        Self { first: key.into(), rest: Vec::new() }
    }

    /// This path continued by `tail`; the join of a nested filter's key and an inner key, with `[]` between.
    #[must_use]
    pub fn join_every(&self, tail: &Self) -> Self {
        let mut rest = self.rest.clone();
        if rest.last() != Some(&Step::Every) {
            rest.push(Step::Every);
        }
        rest.push(Step::Key(tail.first.clone()));
        rest.extend(tail.rest.iter().cloned());
        Self { first: self.first.clone(), rest }
    }

    /// Every value that the path reaches, arrays not yet opened.
    pub fn values<'a>(&self, payload: &'a Payload) -> Vec<&'a Value> {
        let mut found = Vec::new();
        if let Some(value) = payload.get(&self.first) {
            descend(value, &self.rest, &mut found);
        }
        found
    }

    /// Whether the path reaches anything.
    pub fn exists(&self, payload: &Payload) -> bool {
        !self.values(payload).is_empty()
    }

    /// Writes `value` at the path (objects are merged key by key), creating objects on the way.
    pub fn merge_into(&self, payload: &mut Payload, value: &Payload) {
        let slot = payload.entry(self.first.clone()).or_insert(Value::Null);
        merge_at(slot, &self.rest, value);
    }

    /// Removes what the path reaches; true when there was something.
    pub fn remove_from(&self, payload: &mut Payload) -> bool {
        if self.rest.is_empty() {
            return payload.shift_remove(&self.first).is_some();
        }
        payload.get_mut(&self.first).is_some_and(|value| remove_at(value, &self.rest))
    }

    /// Copies what the path reaches into `target`, keeping the structure around it.
    pub fn copy_into(&self, source: &Payload, target: &mut Payload) {
        if let Some(value) = source.get(&self.first)
            && let Some(kept) = project(value, &self.rest)
        {
            match target.get_mut(&self.first) {
                Some(present) => merge_values(present, kept),
                None => {
                    target.insert(self.first.clone(), kept);
                }
            }
        }
    }
}

fn descend<'a>(value: &'a Value, steps: &[Step], found: &mut Vec<&'a Value>) {
    let Some((step, rest)) = steps.split_first() else {
        found.push(value);
        return;
    };
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => {
            if let Some(inner) = map.get(key) {
                descend(inner, rest, found);
            }
        }
        (Step::Index(index), Value::Array(items)) => {
            if let Some(inner) = items.get(*index) {
                descend(inner, rest, found);
            }
        }
        (Step::Every, Value::Array(items)) => {
            for inner in items {
                descend(inner, rest, found);
            }
        }
        _ => {}
    }
}

fn merge_at(slot: &mut Value, steps: &[Step], value: &Payload) {
    match steps.split_first() {
        None => {
            if let Value::Object(map) = slot {
                map.extend(value.clone());
            } else {
                *slot = Value::Object(value.clone());
            }
        }
        Some((Step::Key(key), rest)) => {
            if !slot.is_object() {
                *slot = Value::Object(Payload::new());
            }
            if let Value::Object(map) = slot {
                merge_at(map.entry(key.clone()).or_insert(Value::Null), rest, value);
            }
        }
        Some((Step::Index(index), rest)) => {
            if let Some(inner) = slot.get_mut(*index) {
                merge_at(inner, rest, value);
            }
        }
        Some((Step::Every, rest)) => {
            for inner in slot.as_array_mut().into_iter().flatten() {
                merge_at(inner, rest, value);
            }
        }
    }
}

fn remove_at(value: &mut Value, steps: &[Step]) -> bool {
    let Some((step, rest)) = steps.split_first() else { return false };
    match (step, value, rest.is_empty()) {
        (Step::Key(key), Value::Object(map), true) => map.shift_remove(key).is_some(),
        (Step::Key(key), Value::Object(map), false) => map.get_mut(key).is_some_and(|inner| remove_at(inner, rest)),
        (Step::Index(index), Value::Array(items), true) if *index < items.len() => {
            items.remove(*index);
            true
        }
        (Step::Index(index), Value::Array(items), false) => {
            items.get_mut(*index).is_some_and(|inner| remove_at(inner, rest))
        }
        (Step::Every, Value::Array(items), true) => {
            let any = !items.is_empty();
            items.clear();
            any
        }
        (Step::Every, Value::Array(items), false) => {
            items.iter_mut().fold(false, |any, inner| remove_at(inner, rest) | any)
        }
        _ => false,
    }
}

/// The part of `value` that the steps reach, with the objects and arrays around it; `None` when they reach nothing.
fn project(value: &Value, steps: &[Step]) -> Option<Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value.clone()) };
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => {
            let kept = project(map.get(key)?, rest)?;
            Some(Value::Object(Payload::from_iter([(key.clone(), kept)])))
        }
        (Step::Index(index), Value::Array(items)) => Some(Value::Array(vec![project(items.get(*index)?, rest)?])),
        (Step::Every, Value::Array(items)) => {
            Some(Value::Array(items.iter().filter_map(|inner| project(inner, rest)).collect()))
        }
        _ => None,
    }
}

/// Folds `other` into `value`, object by object; arrays of one length are folded element by element.
fn merge_values(value: &mut Value, other: Value) {
    match (value, other) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, inner) in from {
                match into.get_mut(&key) {
                    Some(present) => merge_values(present, inner),
                    None => {
                        into.insert(key, inner);
                    }
                }
            }
        }
        (Value::Array(into), Value::Array(from)) if into.len() == from.len() => {
            into.iter_mut().zip(from).for_each(|(present, inner)| merge_values(present, inner));
        }
        (slot, from) => *slot = from,
    }
}

impl FromStr for JsonPath {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let invalid = |reason| EngineError::InvalidPath { path: text.to_owned(), reason };
        let (first, mut rest_text) = take_key(text).map_err(invalid)?;
        let mut rest = Vec::new();
        while !rest_text.is_empty() {
            if let Some(tail) = rest_text.strip_prefix('.') {
                let (key, tail) = take_key(tail).map_err(invalid)?;
                rest.push(Step::Key(key));
                rest_text = tail;
            } else if let Some(tail) = rest_text.strip_prefix('[') {
                let (inside, tail) = tail.split_once(']').ok_or_else(|| invalid("`[` without `]`"))?;
                rest.push(match inside {
                    "" => Step::Every,
                    digits => Step::Index(digits.parse().map_err(|_| invalid("an index must be a number"))?),
                });
                rest_text = tail;
            } else {
                return Err(invalid("expected `.` or `[` after a key"));
            }
        }
        Ok(Self { first, rest })
    }
}

/// Splits one key, quoted or plain, from the front of `text`.
fn take_key(text: &str) -> Result<(String, &str), &'static str> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (key, tail) = quoted.split_once('"').ok_or("a quote is not closed")?;
        return Ok((key.to_owned(), tail));
    }
    let end = text.find(['.', '[', ']', '"']).unwrap_or(text.len());
    if end == 0 {
        return Err("a key is empty");
    }
    Ok((text[..end].to_owned(), &text[end..]))
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |f: &mut fmt::Formatter<'_>, key: &str| {
            if key.is_empty() || key.contains(['.', '[', ']']) { write!(f, "\"{key}\"") } else { f.write_str(key) }
        };
        key(f, &self.first)?;
        for step in &self.rest {
            match step {
                Step::Key(name) => {
                    f.write_str(".")?;
                    key(f, name)?;
                }
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Every => f.write_str("[]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Payload {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is not an object"),
        }
    }

    #[test]
    fn paths_parse_and_print() {
        for text in ["a", "a.b", "a[].b", "a[0]", "a[][3].c", "\"a.b\".c", "a-b_c", "é"] {
            assert_eq!(text.parse::<JsonPath>().expect(text).to_string(), text);
        }
        for text in ["", ".a", "a.", "a[", "a[x]", "a]", "a[-1]", "a[0]b", "\"a", "a..b"] {
            assert!(text.parse::<JsonPath>().is_err(), "{text}");
        }
    }

    #[test]
    fn values_follow_the_path() {
        let payload = object(json!({"a": {"b": 1}, "l": [{"x": 1}, {"x": [2, 3]}, {"y": 4}], "n": null}));
        for (path, expected) in [
            ("a.b", vec![json!(1)]),
            ("a.c", vec![]),
            ("l[].x", vec![json!(1), json!([2, 3])]),
            ("l[1].x", vec![json!([2, 3])]),
            ("l.x", vec![]),
            ("n", vec![Value::Null]),
        ] {
            let path: JsonPath = path.parse().expect("a valid path");
            assert_eq!(path.values(&payload), expected.iter().collect::<Vec<_>>(), "{path}");
        }
    }

    #[test]
    fn writes_create_objects_and_deletes_find_array_elements() {
        let mut payload = object(json!({"a": 1}));
        let path: JsonPath = "a.b.c".parse().expect("a valid path");
        path.merge_into(&mut payload, &object(json!({"x": 1})));
        path.merge_into(&mut payload, &object(json!({"y": 2})));
        assert_eq!(payload, object(json!({"a": {"b": {"c": {"x": 1, "y": 2}}}})));
        let mut payload = object(json!({"l": [{"x": 1, "y": 1}, {"x": 2}], "k": 1}));
        assert!("l[].x".parse::<JsonPath>().expect("a valid path").remove_from(&mut payload));
        assert_eq!(payload, object(json!({"l": [{"y": 1}, {}], "k": 1})));
        assert!(!JsonPath::key("gone").remove_from(&mut payload));
    }

    #[test]
    fn projection_keeps_the_structure() {
        let payload = object(json!({"a": {"b": 1, "c": 2, "d": 3}, "l": [{"x": 1, "y": 2}], "z": 0}));
        let mut kept = Payload::new();
        for path in ["a.b", "a.c", "l[].y", "missing"] {
            path.parse::<JsonPath>().expect("a valid path").copy_into(&payload, &mut kept);
        }
        assert_eq!(kept, object(json!({"a": {"b": 1, "c": 2}, "l": [{"y": 2}]})));
    }
}
