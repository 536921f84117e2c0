//! Payload indexes: from a value to the rows that have it.
//!
//! An index never decides what a filter means (that is `filter::passes`); it narrows the rows that need looking at,
//! and says when nothing is left to look at. There are two forms with one behaviour: [`live`] takes changes, [`frozen`]
//! belongs to a sealed segment and lives in its file.

pub mod frozen;
pub mod live;

use serde_json::Value;

use super::config::{FieldKind, FieldSchema};
use super::filter::{MatchValue, Predicate, Range, query_words, words};
use super::json_path::JsonPath;
use super::point::{OrderValue, Payload};
use super::query::Direction;
use super::row_set::RowSet;

/// Rows that an index found for a predicate.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// All rows that can pass.
    pub rows: RowSet,
    /// Whether all of them do pass.
    pub exact: bool,
}

/// What both forms can do. `into` collects rows; rows beyond its universe are left out.
pub trait Lookup {
    /// The schema of the index.
    fn schema(&self) -> FieldSchema;
    /// Adds the rows with this term (a keyword, or a word of a text index).
    fn add_term(&self, term: &str, into: &mut RowSet);
    /// Adds the rows with this integer (Integer) or this number (Float).
    fn add_integer(&self, value: i64, into: &mut RowSet);
    /// Adds the rows with this Boolean.
    fn add_bool(&self, value: bool, into: &mut RowSet);
    /// Adds the rows with a number in the range (Integer, Float).
    fn add_range(&self, range: &Range, into: &mut RowSet);
    /// Adds the rows with any indexed value.
    fn add_indexed(&self, into: &mut RowSet);
    /// Adds the rows that hold some value other than null which the index cannot represent.
    fn add_others(&self, into: &mut RowSet);
    /// Adds the rows with several values.
    fn add_multiple(&self, into: &mut RowSet);
    /// Number of distinct values.
    fn distinct(&self) -> usize;
    /// Visits every distinct value with its rows (Keyword, Integer, Bool).
    fn each_value(&self, rows: u32, visit: &mut dyn FnMut(MatchValue, RowSet));
    /// Visits numbers with their rows in order, from `start` on, until `visit` says false (Integer, Float).
    fn ordered(
        &self,
        direction: Direction,
        start: Option<f64>,
        visit: &mut dyn FnMut(OrderValue, u32) -> bool,
    );
}

/// What one payload holds at a key, in the terms of an index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Indexed {
    /// Keywords, or words of texts.
    pub terms: Vec<String>,
    /// Integers.
    pub integers: Vec<i64>,
    /// Floats.
    pub floats: Vec<f64>,
    /// Booleans.
    pub bools: Vec<bool>,
    /// Whether there is a value that the index cannot represent.
    pub others: bool,
    /// Whether there are several values.
    pub multiple: bool,
}

impl Indexed {
    /// Reads a payload for an index.
    pub fn read(key: &JsonPath, schema: &FieldSchema, payload: &Payload) -> Self {
        let mut found = Self::default();
        let mut values = 0;
        for value in super::filter::leaves(key, payload) {
            if value.is_null() {
                continue;
            }
            values += 1;
            match (schema.kind, value) {
                (FieldKind::Keyword, Value::String(text)) => found.terms.push(text.clone()),
                (FieldKind::Text, Value::String(text)) => {
                    let before = found.terms.len();
                    found.terms.extend(words(text, &schema.text));
                    // A text without words is a value all the same.
                    found.others |= found.terms.len() == before;
                }
                (FieldKind::Bool, Value::Bool(value)) => found.bools.push(*value),
                (FieldKind::Integer, Value::Number(number)) if number.as_i64().is_some() => {
                    found.integers.extend(number.as_i64());
                }
                (FieldKind::Float, Value::Number(number)) => found.floats.extend(number.as_f64()),
                _ => found.others = true,
            }
        }
        found.multiple = values > 1;
        found.terms.sort_unstable();
        found.terms.dedup();
        found
    }

    /// Whether the index would hold nothing for this payload.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty() && self.integers.is_empty() && self.floats.is_empty() && self.bools.is_empty()
    }
}

/// Terms beyond which `Except` is not worth collecting.
const MOST_TERMS_OF_EXCEPT: usize = 4096;

/// The rows that can pass a predicate, or `None` where the index knows nothing about it.
pub fn answer(index: &dyn Lookup, predicate: &Predicate, rows: u32) -> Option<Answer> {
    let schema = index.schema();
    let mut found = RowSet::empty(rows);
    match predicate {
        Predicate::Is(value) => match_any(index, schema.kind, std::slice::from_ref(value), &mut found),
        Predicate::Any(values) => match_any(index, schema.kind, values, &mut found),
        Predicate::Except(unwanted) => Some(except(index, schema.kind, unwanted, &mut found)),
        Predicate::Text(text) => (schema.kind == FieldKind::Text).then(|| {
            let mut words = query_words(text, &schema.text);
            if let Some(first) = words.next() {
                index.add_term(&first, &mut found);
            }
            for word in words {
                let mut with_word = RowSet::empty(rows);
                index.add_term(&word, &mut with_word);
                found.intersect(&with_word);
            }
            // Several texts at one key may share the words between them.
            let mut multiple = RowSet::empty(rows);
            index.add_multiple(&mut multiple);
            multiple.intersect(&found);
            multiple.is_empty()
        }),
        Predicate::TextAny(text) => (schema.kind == FieldKind::Text).then(|| {
            query_words(text, &schema.text).for_each(|word| index.add_term(&word, &mut found));
            true
        }),
        Predicate::Range(range) => matches!(schema.kind, FieldKind::Integer | FieldKind::Float).then(|| {
            let bounds = [range.lt, range.lte, range.gt, range.gte];
            if bounds.iter().flatten().any(|bound| bound.is_nan()) {
                return true;
            }
            index.add_range(range, &mut found);
            schema.kind == FieldKind::Float || !with_others(index, &mut found)
        }),
    }
    .map(|exact| Answer { rows: found, exact })
}

/// Adds the rows with values the index cannot represent; true when there are any.
fn with_others(index: &dyn Lookup, found: &mut RowSet) -> bool {
    let mut others = RowSet::empty(found.universe());
    index.add_others(&mut others);
    found.union(&others);
    !others.is_empty()
}

fn match_any(index: &dyn Lookup, kind: FieldKind, values: &[MatchValue], found: &mut RowSet) -> Option<bool> {
    let mut exact = true;
    for value in values {
        match (value, kind) {
            (MatchValue::Keyword(term), FieldKind::Keyword) => index.add_term(term, found),
            (MatchValue::Integer(value), FieldKind::Integer) => index.add_integer(*value, found),
            (MatchValue::Integer(value), FieldKind::Float) => {
                index.add_integer(*value, found);
                exact = false;
            }
            (MatchValue::Bool(value), FieldKind::Bool) => index.add_bool(*value, found),
            // A text index holds words, not texts.
            (MatchValue::Keyword(_), FieldKind::Text) => return None,
            // A value of another kind can only be among what the index could not represent.
            _ => exact &= !with_others(index, found),
        }
    }
    Some(exact)
}

fn except(index: &dyn Lookup, kind: FieldKind, unwanted: &[MatchValue], found: &mut RowSet) -> bool {
    let countable = matches!(kind, FieldKind::Keyword | FieldKind::Integer | FieldKind::Bool);
    if countable && index.distinct() <= MOST_TERMS_OF_EXCEPT {
        let rows = found.universe();
        index.each_value(rows, &mut |value, with_value| {
            if !unwanted.contains(&value) {
                found.union(&with_value);
            }
        });
        return !with_others(index, found);
    }
    index.add_indexed(found);
    with_others(index, found);
    false
}
