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

    /// Writes `value` at the path, creating objects on the way. Objects are merged key by key, a null removes its key.
    pub fn merge_into(&self, payload: &mut Payload, value: &Payload) {
        let slot = payload.entry(self.first.clone()).or_insert(Value::Null);
        merge_at(slot, &self.rest, value);
    }

    /// Removes what the path reaches; true when there was something. One element of an array is not removed by its
    /// index, since doing that twice would remove two.
    pub fn remove_from(&self, payload: &mut Payload) -> bool {
        if self.rest.is_empty() {
            return payload.shift_remove(&self.first).is_some();
        }
        payload.get_mut(&self.first).is_some_and(|value| remove_at(value, &self.rest))
    }

    /// This path without a `[]` at its end.
    pub(crate) fn without_last_every(&self) -> std::borrow::Cow<'_, Self> {
        match self.rest.split_last() {
            Some((Step::Every, rest)) => {
                std::borrow::Cow::Owned(Self { first: self.first.clone(), rest: rest.to_vec() })
            }
            _ => std::borrow::Cow::Borrowed(self),
        }
    }

    /// The parts of a payload that the paths reach, with the structure around them. Where a path goes on past a scalar,
    /// the scalar stays; an array keeps its elements only where a path crosses it with `[]`.
    pub(crate) fn include(paths: &[Self], payload: &Payload) -> Payload {
        let kept = payload.iter().filter_map(|(key, value)| {
            let tails = starting_with(paths, key);
            (!tails.is_empty()).then(|| (key.clone(), include_at(value, &tails)))
        });
        kept.collect()
    }

    /// A payload without the parts that the paths reach. Arrays are touched only where a path crosses them with `[]`.
    pub(crate) fn exclude(paths: &[Self], payload: &Payload) -> Payload {
        let kept = payload.iter().filter_map(|(key, value)| {
            let tails = starting_with(paths, key);
            exclude_at(value, &tails).map(|value| (key.clone(), value))
        });
        kept.collect()
    }
}

fn starting_with<'a>(paths: &'a [JsonPath], key: &str) -> Vec<&'a [Step]> {
    paths.iter().filter(|path| path.first == key).map(|path| path.rest.as_slice()).collect()
}

/// What is left of the paths that begin with this step.
fn after<'a>(paths: &[&'a [Step]], matches: impl Fn(&Step) -> bool) -> Vec<&'a [Step]> {
    let tails = paths.iter().filter_map(|path| path.split_first());
    tails.filter(|(step, _)| matches(step)).map(|(_, rest)| rest).collect()
}

fn is_key(key: &str) -> impl Fn(&Step) -> bool + '_ {
    move |step| matches!(step, Step::Key(name) if name == key)
}

fn include_at(value: &Value, paths: &[&[Step]]) -> Value {
    if paths.iter().any(|path| path.is_empty()) {
        return value.clone();
    }
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter_map(|(key, value)| {
                let tails = after(paths, is_key(key));
                (!tails.is_empty()).then(|| (key.clone(), include_at(value, &tails)))
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => {
            let tails = after(paths, |step| *step == Step::Every);
            let items: &[Value] = if tails.is_empty() { &[] } else { items };
            Value::Array(items.iter().map(|item| include_at(item, &tails)).collect())
        }
        scalar => scalar.clone(),
    }
}

/// `None` when a path ends here.
fn exclude_at(value: &Value, paths: &[&[Step]]) -> Option<Value> {
    if paths.iter().any(|path| path.is_empty()) {
        return None;
    }
    Some(match value {
        Value::Object(map) if !paths.is_empty() => {
            let kept = map.iter().filter_map(|(key, value)| {
                Some((key.clone(), exclude_at(value, &after(paths, is_key(key)))?))
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) if !paths.is_empty() => {
            let tails = after(paths, |step| *step == Step::Every);
            Value::Array(items.iter().filter_map(|item| exclude_at(item, &tails)).collect())
        }
        untouched => untouched.clone(),
    })
}

/// Merges object into object key by key; a null removes its key.
pub(crate) fn merge_payload(into: &mut Payload, from: &Payload) {
    for (key, value) in from {
        if value.is_null() {
            into.shift_remove(key);
        } else {
            into.insert(key.clone(), value.clone());
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
            if !slot.is_object() {
                *slot = Value::Object(Payload::new());
            }
            if let Value::Object(map) = slot {
                merge_payload(map, value);
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
        Some((step @ (Step::Index(_) | Step::Every), rest)) => {
            // What is no array becomes an empty one, and there is no element to write to.
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            let items = slot.as_array_mut().expect("made an array above");
            match step {
                Step::Index(index) => {
                    items.get_mut(*index).into_iter().for_each(|inner| merge_at(inner, rest, value));
                }
                _ => items.iter_mut().for_each(|inner| merge_at(inner, rest, value)),
            }
        }
    }
}

fn remove_at(value: &mut Value, steps: &[Step]) -> bool {
    let Some((step, rest)) = steps.split_first() else { return false };
    match (step, value, rest.is_empty()) {
        (Step::Key(key), Value::Object(map), true) => map.shift_remove(key).is_some(),
        (Step::Key(key), Value::Object(map), false) => {
            map.get_mut(key).is_some_and(|inner| remove_at(inner, rest))
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
            if key.is_empty() || key.contains(['.', '[', ']']) {
                write!(f, "\"{key}\"")
            } else {
                f.write_str(key)
            }
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
    fn a_null_removes_its_key_and_a_scalar_in_the_way_gives_way() {
        for (path, before, expected) in [
            ("a", json!({"a": {"x": 1, "y": 2}}), json!({"a": {"y": 2, "z": 3}})),
            ("a.b", json!({"a": 5}), json!({"a": {"b": {"z": 3}}})),
            ("a[].b", json!({"a": [{"b": 1}, 7]}), json!({"a": [{"b": {"z": 3}}, {"b": {"z": 3}}]})),
            ("a[1]", json!({"a": [1]}), json!({"a": [1]})),
            ("a[0]", json!({"a": 1}), json!({"a": []})),
        ] {
            let mut payload = object(before);
            let change = object(json!({"x": null, "z": 3}));
            path.parse::<JsonPath>().expect("a valid path").merge_into(&mut payload, &change);
            assert_eq!(payload, object(expected), "{path}");
        }
    }

    #[test]
    fn projections_keep_the_structure_around() {
        let payload = object(json!({"a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}, 5], "s": 7, "z": 0}));
        let paths =
            |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a valid path")).collect::<Vec<_>>();
        for (texts, kept, left) in [
            (
                &["a.b"][..],
                json!({"a": {"b": 1}}),
                json!({"a": {"c": 2}, "l": [{"x": 1, "y": 2}, 5], "s": 7, "z": 0}),
            ),
            (
                &["l[].y", "z"],
                json!({"l": [{"y": 2}, 5], "z": 0}),
                json!({"a": {"b": 1, "c": 2}, "l": [{"x": 1}, 5], "s": 7}),
            ),
            (
                &["l.y", "s.t"],
                json!({"l": [], "s": 7}),
                json!({"a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}, 5], "s": 7, "z": 0}),
            ),
            (
                &["a.none"],
                json!({"a": {}}),
                json!({"a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}, 5], "s": 7, "z": 0}),
            ),
            (
                &["l[]"],
                json!({"l": [{"x": 1, "y": 2}, 5]}),
                json!({"a": {"b": 1, "c": 2}, "l": [], "s": 7, "z": 0}),
            ),
        ] {
            assert_eq!(JsonPath::include(&paths(texts), &payload), object(kept), "{texts:?}");
            assert_eq!(JsonPath::exclude(&paths(texts), &payload), object(left), "{texts:?}");
        }
    }
}
