//! Filters: from JSON to the engine's, naming the place of whatever does not fit.

use std::collections::BTreeSet;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::id::Id;
use crate::engine::{Condition, Filter, JsonPath, MatchValue, MinShould, Predicate, Range};

/// A filter of a request, parsed. `null` and `{}` pass everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FilterJson(pub(crate) Filter);

impl<'de> Deserialize<'de> for FilterJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        filter(&mut Place::default(), value).map(FilterJson).map_err(D::Error::custom)
    }
}

/// Where in the filter we are, for messages: `must[0].match`.
#[derive(Default)]
struct Place(Vec<String>);

impl Place {
    fn inside<T>(
        &mut self,
        step: impl Into<String>,
        read: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        self.0.push(step.into());
        let result = read(self);
        if result.is_ok() {
            self.0.pop();
        }
        result
    }

    fn refuse<T>(&self, text: impl std::fmt::Display) -> Result<T, String> {
        Err(format!("{}: {text}", if self.0.is_empty() { "filter".to_owned() } else { self.0.join(".") }))
    }

    fn read<T: DeserializeOwned>(&self, value: Value) -> Result<T, String> {
        serde_json::from_value(value).or_else(|error| self.refuse(error))
    }
}

/// The fields of an object, taken one by one; what is left over is unknown.
struct Fields {
    map: Map<String, Value>,
    known: &'static [&'static str],
}

impl Fields {
    fn of(place: &Place, value: Value, known: &'static [&'static str]) -> Result<Self, String> {
        let Value::Object(map) = value else {
            return place.refuse(format!("expected an object, got {value}"));
        };
        let unknown = map.keys().find(|key| !known.contains(&key.as_str()));
        if let Some(key) = unknown {
            return place.refuse(format!("unknown field `{key}`, expected one of {}", known.join(", ")));
        }
        Ok(Self { map, known })
    }

    /// The field, unless it is absent or null.
    fn take(&mut self, name: &'static str) -> Option<Value> {
        debug_assert!(self.known.contains(&name), "every field that is taken is also known");
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn need(&mut self, place: &Place, name: &'static str) -> Result<Value, String> {
        match self.take(name) {
            Some(value) => Ok(value),
            None => place.refuse(format!("missing field `{name}`")),
        }
    }
}

fn filter(place: &mut Place, value: Value) -> Result<Filter, String> {
    if value.is_null() {
        return Ok(Filter::default());
    }
    let mut fields = Fields::of(place, value, &["must", "should", "must_not", "min_should"])?;
    let mut clause = |name: &'static str, place: &mut Place| match fields.take(name) {
        None => Ok(Vec::new()),
        Some(value) => place.inside(name, |place| conditions(place, value)),
    };
    Ok(Filter {
        must: clause("must", place)?,
        should: clause("should", place)?,
        must_not: clause("must_not", place)?,
        min_should: match fields.take("min_should") {
            None => None,
            Some(value) => Some(place.inside("min_should", |place| min_should(place, value))?),
        },
    })
}

fn min_should(place: &mut Place, value: Value) -> Result<MinShould, String> {
    let mut fields = Fields::of(place, value, &["conditions", "min_count"])?;
    let list = fields.need(place, "conditions")?;
    let min_count: usize = place.read(fields.need(place, "min_count")?)?;
    if min_count == 0 {
        return place.refuse("min_count is 0; it must be 1 or larger");
    }
    Ok(MinShould { conditions: place.inside("conditions", |place| conditions(place, list))?, min_count })
}

/// A clause is a list of conditions or a single one.
fn conditions(place: &mut Place, value: Value) -> Result<Vec<Condition>, String> {
    match value {
        Value::Array(list) => list
            .into_iter()
            .enumerate()
            .map(|(index, value)| place.inside(format!("[{index}]"), |place| condition(place, value)))
            .collect(),
        single => Ok(vec![condition(place, single)?]),
    }
}

fn condition(place: &mut Place, value: Value) -> Result<Condition, String> {
    let Value::Object(map) = &value else {
        return place.refuse(format!("expected a condition, got {value}"));
    };
    let has = |name: &str| map.contains_key(name);
    if has("key") {
        return field(place, value);
    }
    if has("is_empty") {
        let mut fields = Fields::of(place, value, &["is_empty"])?;
        let inner = fields.need(place, "is_empty")?;
        return place.inside("is_empty", |place| Ok(Condition::IsEmpty(payload_field(place, inner)?)));
    }
    if has("is_null") {
        let mut fields = Fields::of(place, value, &["is_null"])?;
        let inner = fields.need(place, "is_null")?;
        return place.inside("is_null", |place| Ok(Condition::IsNull(payload_field(place, inner)?)));
    }
    if has("has_id") {
        let mut fields = Fields::of(place, value, &["has_id"])?;
        let ids: Vec<Id> = place.read(fields.need(place, "has_id")?)?;
        return Ok(Condition::HasId(ids.into_iter().map(|id| id.0).collect::<BTreeSet<_>>()));
    }
    if has("has_vector") {
        let mut fields = Fields::of(place, value, &["has_vector"])?;
        return Ok(Condition::HasVector(place.read(fields.need(place, "has_vector")?)?));
    }
    if has("nested") {
        let mut fields = Fields::of(place, value, &["nested"])?;
        let inner = fields.need(place, "nested")?;
        return place.inside("nested", |place| {
            let mut fields = Fields::of(place, inner, &["key", "filter"])?;
            let key = path(place, fields.need(place, "key")?)?;
            let inner = fields.need(place, "filter")?;
            Ok(Condition::Nested { key, filter: place.inside("filter", |place| filter(place, inner))? })
        });
    }
    if has("slice") {
        return place.refuse("`slice` conditions are not supported by VectorForge");
    }
    if map.is_empty() || ["must", "should", "must_not", "min_should"].into_iter().any(has) {
        return filter(place, value).map(Condition::Filter);
    }
    let names = map.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    place.refuse(format!(
        "a condition has one of key, is_empty, is_null, has_id, has_vector, nested, must, should, must_not; got {names}"
    ))
}

fn payload_field(place: &Place, value: Value) -> Result<JsonPath, String> {
    let mut fields = Fields::of(place, value, &["key"])?;
    path(place, fields.need(place, "key")?)
}

fn path(place: &Place, value: Value) -> Result<JsonPath, String> {
    let text: String = place.read(value)?;
    text.parse().or_else(|error| place.refuse(error))
}

const FIELD: &[&str] = &[
    "key",
    "match",
    "range",
    "geo_bounding_box",
    "geo_radius",
    "geo_polygon",
    "values_count",
    "is_empty",
    "is_null",
];

fn field(place: &mut Place, value: Value) -> Result<Condition, String> {
    let mut fields = Fields::of(place, value, FIELD)?;
    let key = path(place, fields.need(place, "key")?)?;
    for geo in ["geo_bounding_box", "geo_radius", "geo_polygon"] {
        if fields.take(geo).is_some() {
            return place.refuse(format!("`{geo}` conditions are not supported by VectorForge"));
        }
    }
    let mut found: Vec<Condition> = Vec::new();
    if let Some(value) = fields.take("match") {
        let predicate = place.inside("match", |place| match_of(place, value))?;
        found.push(Condition::Field { key: key.clone(), predicate });
    }
    if let Some(value) = fields.take("range") {
        let predicate = place.inside("range", |place| range(place, value))?;
        found.push(Condition::Field { key: key.clone(), predicate });
    }
    if let Some(value) = fields.take("values_count") {
        let count = place.inside("values_count", |place| {
            let bounds: CountJson = place.read(value)?;
            let bound = |count: Option<u64>| count.map(|count| count as f64);
            Ok(Range {
                lt: bound(bounds.lt),
                lte: bound(bounds.lte),
                gt: bound(bounds.gt),
                gte: bound(bounds.gte),
            })
        })?;
        found.push(Condition::ValuesCount { key: key.clone(), count });
    }
    if let Some(value) = fields.take("is_empty") {
        found.push(wanted(Condition::IsEmpty(key.clone()), place.read(value)?));
    }
    if let Some(value) = fields.take("is_null") {
        found.push(wanted(Condition::IsNull(key.clone()), place.read(value)?));
    }
    match (found.pop(), found.is_empty()) {
        (Some(condition), true) => Ok(condition),
        (None, _) => {
            place.refuse("a field condition needs one of match, range, values_count, is_empty, is_null")
        }
        (Some(_), false) => place.refuse(
            "a field condition holds one of match, range, values_count, is_empty, is_null; got several",
        ),
    }
}

/// The condition or its negation.
pub(crate) fn wanted(condition: Condition, wanted: bool) -> Condition {
    if wanted {
        condition
    } else {
        Condition::Filter(Filter { must_not: vec![condition], ..Filter::default() })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CountJson {
    lt: Option<u64>,
    lte: Option<u64>,
    gt: Option<u64>,
    gte: Option<u64>,
}

const MATCH: &[&str] = &["value", "text", "text_any", "any", "except", "phrase", "prefix", "substring"];

fn match_of(place: &mut Place, value: Value) -> Result<Predicate, String> {
    let mut fields = Fields::of(place, value, MATCH)?;
    for name in ["phrase", "prefix", "substring"] {
        if fields.take(name).is_some() {
            return place.refuse(format!("match by `{name}` is not supported by VectorForge"));
        }
    }
    let present: Vec<&'static str> =
        MATCH.iter().copied().filter(|name| fields.map.contains_key(*name)).collect();
    let [name] = present[..] else {
        return place.refuse("a match has exactly one of value, text, text_any, any, except");
    };
    let value = fields.need(place, name)?;
    place.inside(name, |place| match name {
        "value" => Ok(Predicate::Is(match_value(place, value)?)),
        "any" => Ok(Predicate::Any(match_values(place, value)?)),
        "except" => Ok(Predicate::Except(match_values(place, value)?)),
        "text" => Ok(Predicate::Text(place.read(value)?)),
        _ => Ok(Predicate::TextAny(place.read(value)?)),
    })
}

fn match_value(place: &Place, value: Value) -> Result<MatchValue, String> {
    match value {
        Value::String(text) => Ok(MatchValue::Keyword(text)),
        Value::Bool(flag) => Ok(MatchValue::Bool(flag)),
        Value::Number(number) if number.as_i64().is_some() => {
            Ok(MatchValue::Integer(number.as_i64().expect("checked by the guard")))
        }
        other => place.refuse(format!("expected a string, a 64-bit integer or a boolean, got {other}")),
    }
}

/// The values of `any` and `except`: strings or integers, all of one kind.
fn match_values(place: &Place, value: Value) -> Result<Vec<MatchValue>, String> {
    let Value::Array(list) = value else { return place.refuse(format!("expected a list, got {value}")) };
    let values: Vec<MatchValue> =
        list.into_iter().map(|value| match_value(place, value)).collect::<Result<_, _>>()?;
    let integers = values.iter().filter(|value| matches!(value, MatchValue::Integer(_))).count();
    let keywords = values.iter().filter(|value| matches!(value, MatchValue::Keyword(_))).count();
    if integers == values.len() || keywords == values.len() {
        Ok(values)
    } else {
        place.refuse("the values are strings or integers, all of one kind")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeJson {
    lt: Option<Value>,
    lte: Option<Value>,
    gt: Option<Value>,
    gte: Option<Value>,
}

fn range(place: &Place, value: Value) -> Result<Predicate, String> {
    let RangeJson { lt, lte, gt, gte } = place.read(value)?;
    let bound = |value: Option<Value>| match value {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(Value::String(_)) => {
            place.refuse("date ranges are not supported by VectorForge; store a number")
        }
        Some(other) => place.refuse(format!("expected a number, got {other}")),
    };
    Ok(Predicate::Range(Range { lt: bound(lt)?, lte: bound(lte)?, gt: bound(gt)?, gte: bound(gte)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Filter, String> {
        serde_json::from_str::<FilterJson>(text).map(|filter| filter.0).map_err(|error| error.to_string())
    }

    #[test]
    fn every_form_of_condition_parses() {
        let table = [
            "null",
            "{}",
            r#"{"must": [{}]}"#,
            r#"{"must": {"key": "a", "match": {"value": 1}}}"#,
            r#"{"must": [{"key": "a.b[]", "match": {"any": ["x", "y"]}}], "should": null}"#,
            r#"{"must_not": [{"key": "a", "match": {"except": [1, 2]}}, {"is_null": {"key": "b"}}]}"#,
            r#"{"should": [{"key": "a", "range": {"gte": 1, "lt": 2.5}}, {"has_id": [1, "936DA01F-9ABD-4d9d-80C7-02AF85C822A8"]}]}"#,
            r#"{"must": [{"nested": {"key": "n", "filter": {"must": [{"key": "x", "is_empty": false}]}}}]}"#,
            r#"{"min_should": {"conditions": [{"has_vector": "img"}, {"must": []}], "min_count": 1}}"#,
            r#"{"must": [{"key": "t", "match": {"text": "two words"}}, {"key": "t", "values_count": {"gt": 1}}]}"#,
        ];
        for text in table {
            parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place() {
        let table = [
            (r#"{"mus": []}"#, "filter: unknown field `mus`"),
            (r#"{"must": [{"key": "a", "matc": {}}]}"#, "must.[0]: unknown field `matc`"),
            (r#"{"must": [{"key": "a", "match": {"vale": 1}}]}"#, "must.[0].match: unknown field `vale`"),
            (
                r#"{"must": [{"key": "a", "match": {"value": 1.5}}]}"#,
                "must.[0].match.value: expected a string",
            ),
            (r#"{"must": [{"key": "a", "match": {"any": ["x", 1]}}]}"#, "all of one kind"),
            (r#"{"must": [{"key": "a"}]}"#, "needs one of match"),
            (r#"{"must": [{"key": "a[", "is_null": true}]}"#, "payload key `a[`"),
            (r#"{"must": [{"key": "a", "range": {"gt": "2024-01-01"}}]}"#, "date ranges are not supported"),
            (r#"{"must": [{"key": "a", "geo_radius": {}}]}"#, "`geo_radius` conditions are not supported"),
            (r#"{"must": [{"has_id": ["x"]}]}"#, "`x` is no point id"),
            (r#"{"must": [{"has_id": [-1]}]}"#, "point id"),
            (r#"{"must": [{"kye": "a"}]}"#, "a condition has one of"),
            (r#"{"min_should": {"conditions": [], "min_count": 0}}"#, "min_count is 0"),
            (
                r#"{"must": [{"nested": {"key": "n", "filter": {"x": 1}}}]}"#,
                "must.[0].nested.filter: unknown field `x`",
            ),
        ];
        for (text, expected) in table {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
