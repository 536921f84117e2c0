//! The read side.

use std::collections::HashMap;

use super::state::State;
use super::write::check_vector;
use super::{Collection, Inner};
use crate::engine::error::EngineError;
use crate::engine::filter::{Filter, MatchValue};
use crate::engine::index::Lookup;
use crate::engine::json_path::JsonPath;
use crate::engine::metric::Metric;
use crate::engine::point::{OrderValue, Payload, PointId, Record, ScoredPoint, Vectors};
use crate::engine::query::{Direction, OrderBy, Query, Scroll, ScrollPage, With, WithPayload, WithVectors};
use crate::engine::row_set::RowSet;
use crate::engine::search::execute::{FieldQuery, estimate, search};
use crate::engine::search::narrow::{Scope, candidates, judge};
use crate::engine::segment::view::View;

impl Collection {
    /// The points of these ids that exist, in the order asked for.
    pub fn get(&self, ids: &[PointId], with: &With) -> Result<Vec<Record>, EngineError> {
        let state = self.inner.state.read();
        check_with(&state, with)?;
        let found = ids.iter().filter_map(|id| state.find(*id));
        Ok(found.map(|(view, row)| record(&state, view, row, with, None)).collect())
    }

    /// A page of points in id order, or in the order of a payload value.
    pub fn scroll(&self, scroll: &Scroll) -> Result<ScrollPage, EngineError> {
        let state = self.inner.state.read();
        check_with(&state, &scroll.with)?;
        match &scroll.order_by {
            None => Ok(scroll_by_id(&state, scroll)),
            Some(_) if scroll.offset.is_some() => Err(EngineError::Unsupported {
                what: "an offset id together with order_by; use order_by.start_from".to_owned(),
            }),
            Some(order) => scroll_by_value(&state, scroll, order),
        }
    }

    /// How many points pass; an estimate unless `exact`.
    pub fn count(&self, filter: Option<&Filter>, exact: bool) -> Result<usize, EngineError> {
        let state = self.inner.state.read();
        let Some(filter) = filter.filter(|filter| !filter.is_empty()) else { return Ok(state.living()) };
        let counts = state.scopes().map(|scope| {
            let (rows, decided) = candidates(scope, Some(filter));
            match (decided, exact) {
                (true, _) => rows.count(),
                (false, true) => rows.iter().filter(|row| judge(scope, filter, *row)).count(),
                (false, false) => estimate(scope, &rows, rows.count(), filter).round() as usize,
            }
        });
        Ok(counts.sum())
    }

    /// The nearest points, best first. A limit of 0 gives none.
    pub fn search(&self, query: &Query) -> Result<Vec<ScoredPoint>, EngineError> {
        self.inner.search(&self.inner.state.read(), query)
    }

    /// Several searches at one state of the collection; the first error refuses the batch.
    pub fn search_batch(&self, queries: &[Query]) -> Result<Vec<Vec<ScoredPoint>>, EngineError> {
        let state = self.inner.state.read();
        queries.iter().map(|query| self.inner.search(&state, query)).collect()
    }

    /// Values of a payload key (strings, integers, Booleans) with the number of passing points that have each, most
    /// frequent first. Needs a keyword, integer or bool index.
    pub fn facet(
        &self,
        key: &JsonPath,
        filter: Option<&Filter>,
        limit: usize,
    ) -> Result<Vec<(MatchValue, usize)>, EngineError> {
        let state = self.inner.state.read();
        let mut counts: HashMap<MatchValue, usize> = HashMap::new();
        for scope in state.scopes() {
            let (below, above) = scope.view.index(key).ok_or_else(|| EngineError::IndexRequired {
                operation: "facet",
                key: key.to_string(),
                kinds: "keyword, integer or bool",
            })?;
            let passing = passing(scope, filter);
            let mut unchanged = passing.clone();
            unchanged.subtract(scope.view.outdated());
            let mut tally = |index: &dyn Lookup, within: &RowSet| {
                index.each_value(scope.view.rows(), &mut |value, mut rows| {
                    rows.intersect(within);
                    let count = rows.count();
                    if count > 0 {
                        *counts.entry(value).or_default() += count;
                    }
                });
            };
            tally(below, &unchanged);
            tally(above, &passing);
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts.truncate(limit);
        Ok(counts)
    }
}

/// Living rows that pass.
fn passing(scope: Scope<'_>, filter: Option<&Filter>) -> RowSet {
    let (rows, exact) = candidates(scope, filter);
    match filter {
        Some(filter) if !exact => {
            let mut judged = RowSet::empty(scope.view.rows());
            judged.insert_all(rows.iter().filter(|row| judge(scope, filter, *row)));
            judged
        }
        _ => rows,
    }
}

/// Living points with a value in an index.
pub(super) fn indexed_points(view: View<'_>, key: &JsonPath) -> usize {
    let Some((below, above)) = view.index(key) else { return 0 };
    let mut rows = RowSet::empty(view.rows());
    below.add_indexed(&mut rows);
    rows.subtract(view.outdated());
    above.add_indexed(&mut rows);
    rows.subtract(view.deleted());
    rows.count()
}

fn check_with(state: &State, with: &With) -> Result<(), EngineError> {
    if let WithVectors::Names(names) = &with.vectors
        && let Some(vector) = names.iter().find(|name| !state.config.vectors.contains_key(*name))
    {
        return Err(EngineError::UnknownVector { vector: vector.clone() });
    }
    Ok(())
}

fn payload_of(view: View<'_>, row: u32, with: &WithPayload) -> Option<Payload> {
    match with {
        WithPayload::None => None,
        WithPayload::All => Some(view.payload(row).into_owned()),
        WithPayload::Include(paths) => Some(JsonPath::include(paths, &view.payload(row))),
        WithPayload::Exclude(paths) => Some(JsonPath::exclude(paths, &view.payload(row))),
    }
}

fn vectors_of(state: &State, view: View<'_>, row: u32, with: &WithVectors) -> Option<Vectors> {
    let mut vectors = match with {
        WithVectors::None => return None,
        _ => state.vectors(view, row),
    };
    if let WithVectors::Names(names) = with {
        vectors.0.retain(|name, _| names.contains(name));
    }
    Some(vectors)
}

fn record(state: &State, view: View<'_>, row: u32, with: &With, order_value: Option<OrderValue>) -> Record {
    Record {
        id: view.id(row),
        payload: payload_of(view, row, &with.payload),
        vectors: vectors_of(state, view, row, &with.vectors),
        order_value,
    }
}

fn scroll_by_id(state: &State, scroll: &Scroll) -> ScrollPage {
    // One more than asked for tells where the next page begins.
    let wanted = scroll.limit.saturating_add(1);
    let mut found: Vec<(PointId, View<'_>, u32)> = Vec::new();
    for scope in state.scopes() {
        let narrowed = scroll.filter.as_ref().map(|filter| (filter, candidates(scope, Some(filter))));
        let passes = |row: &u32| match &narrowed {
            None => true,
            Some((filter, (rows, exact))) => rows.contains(*row) && (*exact || judge(scope, filter, *row)),
        };
        let rows = scope.view.in_id_order(scroll.offset).filter(passes).take(wanted);
        found.extend(rows.map(|row| (scope.view.id(row), scope.view, row)));
    }
    found.sort_unstable_by_key(|(id, _, _)| *id);
    let next = found.get(scroll.limit).map(|(id, _, _)| *id);
    found.truncate(scroll.limit);
    let points =
        found.into_iter().map(|(_, view, row)| record(state, view, row, &scroll.with, None)).collect();
    ScrollPage { points, next }
}

fn scroll_by_value(state: &State, scroll: &Scroll, order: &OrderBy) -> Result<ScrollPage, EngineError> {
    let mut found: Vec<(OrderValue, PointId, View<'_>, u32)> = Vec::new();
    for scope in state.scopes() {
        let (below, above) = scope.view.index(&order.key).ok_or_else(|| EngineError::IndexRequired {
            operation: "order_by",
            key: order.key.to_string(),
            kinds: "integer or float",
        })?;
        let filter = scroll.filter.as_ref();
        let (rows, exact) = candidates(scope, filter);
        let mut take = |index: &dyn Lookup, outdated: Option<&RowSet>| {
            let mut left = scroll.limit;
            index.ordered(order.direction, order.start_from, &mut |value, row| {
                let fits = rows.contains(row)
                    && outdated.is_none_or(|outdated| !outdated.contains(row))
                    && (exact || filter.is_none_or(|filter| judge(scope, filter, row)));
                if fits && left > 0 {
                    left -= 1;
                    found.push((value, scope.view.id(row), scope.view, row));
                }
                left > 0
            });
        };
        take(below, Some(scope.view.outdated()));
        take(above, None);
    }
    found.sort_by(|a, b| {
        let by_value = a.0.as_f64().total_cmp(&b.0.as_f64());
        let by_value = if order.direction == Direction::Descending { by_value.reverse() } else { by_value };
        by_value.then(a.1.cmp(&b.1))
    });
    found.truncate(scroll.limit);
    let points = found
        .into_iter()
        .map(|(value, _, view, row)| record(state, view, row, &scroll.with, Some(value)))
        .collect();
    Ok(ScrollPage { points, next: None })
}

impl Inner {
    fn search(&self, state: &State, query: &Query) -> Result<Vec<ScoredPoint>, EngineError> {
        let unknown = || EngineError::UnknownVector { vector: query.using.clone() };
        let field = state.fields.iter().position(|name| *name == query.using).ok_or_else(unknown)?;
        let params = state.config.vectors.get(&query.using).ok_or_else(unknown)?;
        check_vector(&query.using, params.dimension, &query.vector)?;
        check_with(state, &query.with)?;
        let metric = Metric::new(params.distance);
        let vector = metric.row_of(&query.vector);
        let limit = query.limit.saturating_add(query.offset).min(state.living());
        let ask = FieldQuery {
            field,
            metric,
            vector: &vector,
            limit,
            ef: query.params.ef.unwrap_or(state.config.hnsw_of(&query.using).ef_search).max(1),
            exact: query.params.exact,
            filter: query.filter.as_ref().filter(|filter| !filter.is_empty()),
        };
        let mut found = Vec::new();
        for scope in state.scopes() {
            if query.params.indexed_only && scope.view.graph(field).is_none() {
                continue;
            }
            let near = search(scope, &ask, &self.visited);
            found.extend(
                near.into_iter().map(|near| (near.distance, scope.view.id(near.node), scope.view, near.node)),
            );
        }
        found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let page = found.into_iter().skip(query.offset).take(query.limit);
        let scored = page.map(|(distance, id, view, row)| (metric.score(distance), id, view, row));
        let reached = scored.take_while(|(score, ..)| {
            query.score_threshold.is_none_or(|least| metric.reaches(*score, least))
        });
        Ok(reached
            .map(|(score, id, view, row)| ScoredPoint {
                id,
                version: view.version(row),
                score,
                payload: payload_of(view, row, &query.with.payload),
                vectors: vectors_of(state, view, row, &query.with.vectors),
            })
            .collect())
    }
}
