//! Filters from protobuf to the engine's.

use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue as WireMatch;
use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::{
    Condition as WireCondition, FieldCondition, Filter as WireFilter, Match, PointsSelector,
    RepeatedIntegers, RepeatedStrings,
};

use super::value::ids;
use crate::engine::{Condition, Filter, JsonPath, MatchValue, MinShould, Predicate, Range, Selector};
use crate::qdrant::error::DoorError;
use crate::qdrant::json::filter::wanted;

/// A filter of a request.
pub(crate) fn filter(wire: WireFilter) -> Result<Filter, DoorError> {
    Ok(Filter {
        must: conditions(wire.must)?,
        should: conditions(wire.should)?,
        must_not: conditions(wire.must_not)?,
        min_should: match wire.min_should {
            None => None,
            Some(min) if min.min_count == 0 => {
                return Err(DoorError::input("min_should: min_count is 0; it must be 1 or larger"));
            }
            Some(min) => {
                Some(MinShould { conditions: conditions(min.conditions)?, min_count: min.min_count as usize })
            }
        },
    })
}

/// A filter, or none.
pub(crate) fn maybe(wire: Option<WireFilter>) -> Result<Option<Filter>, DoorError> {
    wire.map(filter).transpose()
}

fn conditions(wire: Vec<WireCondition>) -> Result<Vec<Condition>, DoorError> {
    wire.into_iter().map(condition).collect()
}

fn condition(wire: WireCondition) -> Result<Condition, DoorError> {
    match wire.condition_one_of {
        None => Err(DoorError::input("a condition is empty")),
        Some(ConditionOneOf::Field(field_condition)) => field(field_condition),
        Some(ConditionOneOf::IsEmpty(inner)) => Ok(Condition::IsEmpty(path(&inner.key)?)),
        Some(ConditionOneOf::IsNull(inner)) => Ok(Condition::IsNull(path(&inner.key)?)),
        Some(ConditionOneOf::HasId(inner)) => Ok(Condition::HasId(ids(inner.has_id)?.into_iter().collect())),
        Some(ConditionOneOf::HasVector(inner)) => Ok(Condition::HasVector(inner.has_vector)),
        Some(ConditionOneOf::Filter(inner)) => Ok(Condition::Filter(filter(inner)?)),
        Some(ConditionOneOf::Nested(inner)) => {
            let Some(inside) = inner.filter else {
                return Err(DoorError::input("a nested condition has no filter"));
            };
            Ok(Condition::Nested { key: path(&inner.key)?, filter: filter(inside)? })
        }
        Some(ConditionOneOf::Slice(_)) => Err(DoorError::unsupported("`slice` conditions")),
    }
}

fn path(text: &str) -> Result<JsonPath, DoorError> {
    Ok(text.parse()?)
}

fn field(wire: FieldCondition) -> Result<Condition, DoorError> {
    let key = path(&wire.key)?;
    let refused = [
        ("geo_bounding_box", wire.geo_bounding_box.is_some()),
        ("geo_radius", wire.geo_radius.is_some()),
        ("geo_polygon", wire.geo_polygon.is_some()),
        ("datetime_range", wire.datetime_range.is_some()),
    ];
    if let Some((name, _)) = refused.iter().find(|(_, present)| *present) {
        return Err(DoorError::unsupported(format!("`{name}` conditions")));
    }
    let mut found = Vec::new();
    if let Some(wire) = wire.r#match {
        found.push(Condition::Field { key: key.clone(), predicate: match_of(wire)? });
    }
    if let Some(range) = wire.range {
        let range = Range { lt: range.lt, lte: range.lte, gt: range.gt, gte: range.gte };
        if [range.lt, range.lte, range.gt, range.gte].into_iter().flatten().any(|bound| !bound.is_finite()) {
            return Err(DoorError::input(format!("range of `{key}`: a bound is not finite")));
        }
        found.push(Condition::Field { key: key.clone(), predicate: Predicate::Range(range) });
    }
    if let Some(count) = wire.values_count {
        let bound = |count: Option<u64>| count.map(|count| count as f64);
        let count =
            Range { lt: bound(count.lt), lte: bound(count.lte), gt: bound(count.gt), gte: bound(count.gte) };
        found.push(Condition::ValuesCount { key: key.clone(), count });
    }
    if let Some(empty) = wire.is_empty {
        found.push(wanted(Condition::IsEmpty(key.clone()), empty));
    }
    if let Some(null) = wire.is_null {
        found.push(wanted(Condition::IsNull(key.clone()), null));
    }
    match (found.pop(), found.is_empty()) {
        (Some(condition), true) => Ok(condition),
        _ => Err(DoorError::input(format!(
            "the condition on `{key}` needs exactly one of match, range, values_count, is_empty, is_null"
        ))),
    }
}

fn match_of(wire: Match) -> Result<Predicate, DoorError> {
    let keywords = |list: RepeatedStrings| list.strings.into_iter().map(MatchValue::Keyword).collect();
    let integers = |list: RepeatedIntegers| list.integers.into_iter().map(MatchValue::Integer).collect();
    let refused = |name: &str| Err(DoorError::unsupported(format!("match by `{name}`")));
    match wire.match_value {
        None => Err(DoorError::input("a match is empty")),
        Some(WireMatch::Keyword(text)) => Ok(Predicate::Is(MatchValue::Keyword(text))),
        Some(WireMatch::Integer(number)) => Ok(Predicate::Is(MatchValue::Integer(number))),
        Some(WireMatch::Boolean(flag)) => Ok(Predicate::Is(MatchValue::Bool(flag))),
        Some(WireMatch::Text(text)) => Ok(Predicate::Text(text)),
        Some(WireMatch::TextAny(text)) => Ok(Predicate::TextAny(text)),
        Some(WireMatch::Keywords(list)) => Ok(Predicate::Any(keywords(list))),
        Some(WireMatch::Integers(list)) => Ok(Predicate::Any(integers(list))),
        Some(WireMatch::ExceptKeywords(list)) => Ok(Predicate::Except(keywords(list))),
        Some(WireMatch::ExceptIntegers(list)) => Ok(Predicate::Except(integers(list))),
        Some(WireMatch::Phrase(_)) => refused("phrase"),
        Some(WireMatch::Prefix(_)) => refused("prefix"),
        Some(WireMatch::Substring(_)) => refused("substring"),
    }
}

/// Which points a write means.
pub(crate) fn selector(wire: Option<PointsSelector>) -> Result<Selector, DoorError> {
    match wire.and_then(|selector| selector.points_selector_one_of) {
        Some(PointsSelectorOneOf::Points(list)) => Ok(Selector::Ids(ids(list.ids)?)),
        Some(PointsSelectorOneOf::Filter(inner)) => Ok(Selector::Filter(filter(inner)?)),
        None => Err(DoorError::input("a points selector must say which points are meant: ids or a filter")),
    }
}
