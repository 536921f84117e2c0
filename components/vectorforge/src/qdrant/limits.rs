//! Limits of a single request, checked before anything is done.

use aistack_api::vectorforge::VectorforgeRequestLimits;

use super::error::DoorError;
use crate::engine::{Condition, Filter, Predicate, SearchParams, Selector};

fn at_most(what: &str, value: usize, limit: usize, setting: &str) -> Result<(), DoorError> {
    if value <= limit {
        return Ok(());
    }
    Err(DoorError::input(format!("{what} is {value}, this server allows {limit} (request_limits.{setting})")))
}

/// Number of points, ids or operations in one request. None is refused as well, as Qdrant does.
pub(crate) fn batch(limits: &VectorforgeRequestLimits, what: &str, count: usize) -> Result<(), DoorError> {
    if count == 0 {
        return Err(DoorError::input("Empty update request"));
    }
    at_most(&format!("number of {what}"), count, limits.max_batch, "max_batch")
}

/// Number of ids in a read; none is fine.
pub(crate) fn ids(limits: &VectorforgeRequestLimits, count: usize) -> Result<(), DoorError> {
    at_most("number of ids", count, limits.max_batch, "max_batch")
}

/// Number of searches in one request.
pub(crate) fn searches(limits: &VectorforgeRequestLimits, count: usize) -> Result<(), DoorError> {
    at_most("number of searches", count, limits.max_search_batch, "max_search_batch")
}

/// Size of a result. Qdrant refuses a limit of zero.
pub(crate) fn page(limits: &VectorforgeRequestLimits, limit: usize, offset: usize) -> Result<(), DoorError> {
    if limit == 0 {
        return Err(DoorError::input("limit is 0; it must be 1 or larger"));
    }
    at_most("limit + offset", limit.saturating_add(offset), limits.max_limit, "max_limit")
}

/// Breadth of a search.
pub(crate) fn params(limits: &VectorforgeRequestLimits, params: &SearchParams) -> Result<(), DoorError> {
    match params.ef {
        Some(0) => Err(DoorError::input("hnsw_ef is 0; it must be 1 or larger")),
        Some(ef) => at_most("hnsw_ef", ef, limits.max_hnsw_ef, "max_hnsw_ef"),
        None => Ok(()),
    }
}

/// A score threshold that compares.
pub(crate) fn threshold(threshold: Option<f32>) -> Result<(), DoorError> {
    match threshold {
        Some(value) if !value.is_finite() => {
            Err(DoorError::input(format!("score_threshold {value} is not finite")))
        }
        _ => Ok(()),
    }
}

/// Depth and size of a filter.
pub(crate) fn filter(limits: &VectorforgeRequestLimits, filter: Option<&Filter>) -> Result<(), DoorError> {
    let Some(filter) = filter else { return Ok(()) };
    let (depth, size) = measure(filter);
    at_most("depth of the filter", depth, limits.max_filter_depth, "max_filter_depth")?;
    at_most("number of conditions and values in the filter", size, limits.max_filter_size, "max_filter_size")
}

/// Number of ids, or depth and size of the filter, of a write's selector.
pub(crate) fn selector(limits: &VectorforgeRequestLimits, selector: &Selector) -> Result<(), DoorError> {
    match selector {
        Selector::Ids(ids) => batch(limits, "ids", ids.len()),
        Selector::Filter(inner) => filter(limits, Some(inner)),
    }
}

/// Depth of nesting, and conditions plus the values in their lists.
fn measure(filter: &Filter) -> (usize, usize) {
    let min_should = filter.min_should.iter().flat_map(|min| &min.conditions);
    let conditions = filter.must.iter().chain(&filter.should).chain(&filter.must_not).chain(min_should);
    let mut depth = 0;
    let mut size = 0;
    for condition in conditions {
        let (inner_depth, inner_size) = match condition {
            Condition::Filter(inner) | Condition::Nested { filter: inner, .. } => measure(inner),
            Condition::HasId(ids) => (0, ids.len()),
            Condition::Field { predicate: Predicate::Any(values) | Predicate::Except(values), .. } => {
                (0, values.len())
            }
            _ => (0, 0),
        };
        depth = depth.max(inner_depth);
        size += 1 + inner_size;
    }
    (depth + 1, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_measured_by_depth_and_by_values() {
        let limits =
            VectorforgeRequestLimits { max_filter_depth: 3, max_filter_size: 10, ..Default::default() };
        let ids = |count: u64| Condition::HasId((0..count).map(Into::into).collect());
        let nest = |inner: Condition| Condition::Filter(Filter::must([inner]));
        assert!(filter(&limits, Some(&Filter::must([ids(9)]))).is_ok());
        assert!(filter(&limits, Some(&Filter::must([ids(10)]))).is_err());
        assert!(filter(&limits, Some(&Filter::must([nest(nest(ids(1)))]))).is_ok());
        assert!(filter(&limits, Some(&Filter::must([nest(nest(nest(ids(1))))]))).is_err());
    }
}
