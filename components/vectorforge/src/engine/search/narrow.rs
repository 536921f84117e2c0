//! From a filter to rows, as far as indexes know.

use super::super::filter::{Condition, Filter, MinShould, PointFacts, passes};
use crate::engine::config::{FieldKind, TextParams};
use crate::engine::json_path::JsonPath;
use crate::engine::point::PointId;
use crate::engine::row_set::RowSet;
use crate::engine::segment::view::View;

/// What indexes say about a filter.
pub struct Narrowed {
    /// All rows that can pass, dead ones perhaps among them; `None` when nothing is known.
    pub rows: Option<RowSet>,
    /// Whether all of those pass.
    pub exact: bool,
}

impl Narrowed {
    const UNKNOWN: Self = Self { rows: None, exact: false };

    fn exactly(rows: RowSet) -> Self {
        Self { rows: Some(rows), exact: true }
    }
}

/// A segment together with the names of its vector fields.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The segment.
    pub view: View<'a>,
    /// The collection's vector fields in order.
    pub fields: &'a [String],
}

/// Whether a row passes, by reading its payload.
pub fn judge(scope: Scope<'_>, filter: &Filter, row: u32) -> bool {
    passes(filter, &scope.view.payload(row), &RowFacts { scope, row })
}

struct RowFacts<'a> {
    scope: Scope<'a>,
    row: u32,
}

impl PointFacts for RowFacts<'_> {
    fn id(&self) -> Option<PointId> {
        Some(self.scope.view.id(self.row))
    }
    fn has_vector(&self, name: &str) -> bool {
        let field = self.scope.fields.iter().position(|field| field == name);
        field.is_some_and(|field| self.scope.view.has_vector(field, self.row))
    }
    fn text_params(&self, key: &JsonPath) -> Option<TextParams> {
        self.scope.view.schema(key).filter(|schema| schema.kind == FieldKind::Text).map(|schema| schema.text)
    }
}

/// The living rows that can pass, and whether all of them do.
pub fn candidates(scope: Scope<'_>, filter: Option<&Filter>) -> (RowSet, bool) {
    let rows = scope.view.rows();
    let narrowed = filter.map_or(Narrowed { rows: None, exact: true }, |filter| narrow(scope, filter));
    let mut found = narrowed.rows.unwrap_or_else(|| RowSet::full(rows));
    if scope.view.has_deleted() {
        found.subtract(scope.view.deleted());
    }
    (found, narrowed.exact)
}

/// What indexes say about a filter.
pub fn narrow(scope: Scope<'_>, filter: &Filter) -> Narrowed {
    let mut rows: Option<RowSet> = None;
    let mut exact = true;
    let mut keep = |found: Narrowed| {
        exact &= found.exact;
        if let Some(found) = found.rows {
            match &mut rows {
                Some(rows) => rows.intersect(&found),
                None => rows = Some(found),
            }
        }
    };
    filter.must.iter().for_each(|condition| keep(narrow_condition(scope, condition)));
    if !filter.should.is_empty() {
        keep(narrow_any(scope, &filter.should));
    }
    for condition in &filter.must_not {
        let found = narrow_condition(scope, condition);
        keep(match (found.rows, found.exact) {
            (Some(rows), true) => Narrowed::exactly(rows.complement()),
            _ => Narrowed::UNKNOWN,
        });
    }
    if let Some(min_should) = &filter.min_should {
        keep(narrow_min_should(scope, min_should));
    }
    Narrowed { rows, exact }
}

fn narrow_any(scope: Scope<'_>, conditions: &[Condition]) -> Narrowed {
    let mut union = RowSet::empty(scope.view.rows());
    let mut exact = true;
    for condition in conditions {
        let found = narrow_condition(scope, condition);
        let Some(rows) = found.rows else { return Narrowed { rows: None, exact: found.exact } };
        union.union(&rows);
        exact &= found.exact;
    }
    Narrowed { rows: Some(union), exact }
}

fn narrow_min_should(scope: Scope<'_>, min_should: &MinShould) -> Narrowed {
    if min_should.min_count == 0 {
        return Narrowed { rows: None, exact: true };
    }
    let mut counts = vec![0usize; scope.view.rows() as usize];
    let mut exact = true;
    for condition in &min_should.conditions {
        let found = narrow_condition(scope, condition);
        let Some(rows) = found.rows else { return Narrowed::UNKNOWN };
        rows.iter().for_each(|row| counts[row as usize] += 1);
        exact &= found.exact;
    }
    let mut rows = RowSet::empty(scope.view.rows());
    for (row, count) in counts.iter().enumerate() {
        if *count >= min_should.min_count {
            rows.insert(row as u32);
        }
    }
    Narrowed { rows: Some(rows), exact }
}

fn narrow_condition(scope: Scope<'_>, condition: &Condition) -> Narrowed {
    let view = scope.view;
    match condition {
        Condition::Field { key, predicate } => match view.answer(key, predicate) {
            Some(answer) => Narrowed { rows: Some(answer.rows), exact: answer.exact },
            None => Narrowed::UNKNOWN,
        },
        Condition::IsEmpty(key) => narrow_empty(view, key),
        // An array may hold a value and a null, and a count needs the payload.
        Condition::IsNull(_) | Condition::ValuesCount { .. } => Narrowed::UNKNOWN,
        Condition::HasId(ids) => {
            let mut rows = RowSet::empty(view.rows());
            rows.insert_all(ids.iter().filter_map(|id| view.find(*id)));
            Narrowed::exactly(rows)
        }
        Condition::HasVector(name) => {
            let field = scope.fields.iter().position(|field| field == name);
            Narrowed::exactly(match field {
                None => RowSet::empty(view.rows()),
                Some(field) => view.present(field).cloned().unwrap_or_else(|| RowSet::full(view.rows())),
            })
        }
        Condition::Nested { key, filter } => narrow_nested(view, key, filter),
        Condition::Filter(filter) => narrow(scope, filter),
    }
}

/// A row with an indexed value at the key is not empty there.
fn narrow_empty(view: View<'_>, key: &JsonPath) -> Narrowed {
    let Some((below, above)) = view.index(key) else { return Narrowed::UNKNOWN };
    let mut valued = RowSet::empty(view.rows());
    below.add_indexed(&mut valued);
    valued.subtract(view.outdated());
    above.add_indexed(&mut valued);
    Narrowed { rows: Some(valued.complement()), exact: false }
}

/// What an element must satisfy, some element of the array must satisfy: an index over all elements narrows.
fn narrow_nested(view: View<'_>, key: &JsonPath, filter: &Filter) -> Narrowed {
    let mut rows: Option<RowSet> = None;
    for condition in &filter.must {
        if let Condition::Field { key: inner, predicate } = condition
            && let Some(answer) = view.answer(&key.join_every(inner), predicate)
        {
            match &mut rows {
                Some(rows) => rows.intersect(&answer.rows),
                None => rows = Some(answer.rows),
            }
        }
    }
    Narrowed { rows, exact: false }
}
