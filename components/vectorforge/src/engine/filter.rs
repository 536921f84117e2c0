//! Filters: their shape, and their meaning on a payload. Indexes only ever speed this meaning up.

use std::collections::BTreeSet;

use serde_json::Value;

use super::config::{TextParams, Tokenizer};
use super::json_path::JsonPath;
use super::point::{Payload, PointId};

/// A Boolean combination. An empty filter passes everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// All of these.
    pub must: Vec<Condition>,
    /// At least one of these, when there are any.
    pub should: Vec<Condition>,
    /// None of these.
    pub must_not: Vec<Condition>,
    /// At least so many of these.
    pub min_should: Option<MinShould>,
}

/// At least `min_count` of `conditions`.
#[derive(Clone, Debug, PartialEq)]
pub struct MinShould {
    /// The conditions.
    pub conditions: Vec<Condition>,
    /// How many must hold.
    pub min_count: usize,
}

impl Filter {
    /// A filter of `must` conditions.
    pub fn must(conditions: impl IntoIterator<Item = Condition>) -> Self {
        Self { must: conditions.into_iter().collect(), ..Self::default() }
    }

    /// Whether there is nothing to check.
    pub fn is_empty(&self) -> bool {
        self.must.is_empty()
            && self.should.is_empty()
            && self.must_not.is_empty()
            && self.min_should.is_none()
    }
}

/// One condition on a point.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// Some value at the path satisfies the predicate. Arrays stand for their elements.
    Field {
        /// The payload path.
        key: JsonPath,
        /// What must hold for one of the values.
        predicate: Predicate,
    },
    /// The number of values at the path lies within the range: an array counts its elements, a missing key 0. A path
    /// that reaches several places (`a[].b`) passes when one of them does.
    ValuesCount {
        /// The payload path.
        key: JsonPath,
        /// The range.
        count: Range,
    },
    /// The path is missing, null or an empty array.
    IsEmpty(JsonPath),
    /// The path is there and null (or an array with a null in it).
    IsNull(JsonPath),
    /// The id is one of these.
    HasId(BTreeSet<PointId>),
    /// The point has a vector in this field.
    HasVector(String),
    /// Some object in the array at the path passes the filter as a whole. `a` and `a[]` mean the same array.
    Nested {
        /// Path of the array.
        key: JsonPath,
        /// Filter over one element; `HasId` and `HasVector` do not belong here and never pass.
        filter: Filter,
    },
    /// A filter inside a filter.
    Filter(Filter),
}

/// What one payload value must satisfy.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// Equals.
    Is(MatchValue),
    /// Is one of.
    Any(Vec<MatchValue>),
    /// Is a value, but none of these.
    Except(Vec<MatchValue>),
    /// A string that contains all words of the text, as the key's text index makes words, or the default one.
    Text(String),
    /// A string that contains any word of the text.
    TextAny(String),
    /// A number in the range.
    Range(Range),
}

/// A value to compare with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatchValue {
    /// A string.
    Keyword(String),
    /// An integer.
    Integer(i64),
    /// true or false.
    Bool(bool),
}

/// Bounds on a number; absent bounds do not bind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Range {
    /// Less than.
    pub lt: Option<f64>,
    /// At most.
    pub lte: Option<f64>,
    /// Greater than.
    pub gt: Option<f64>,
    /// At least.
    pub gte: Option<f64>,
}

impl Range {
    /// Whether the number lies within the bounds.
    pub fn contains(&self, number: f64) -> bool {
        self.lt.is_none_or(|bound| number < bound)
            && self.lte.is_none_or(|bound| number <= bound)
            && self.gt.is_none_or(|bound| number > bound)
            && self.gte.is_none_or(|bound| number >= bound)
    }
}

/// What a filter may look at, besides the payload, to judge a point.
pub trait PointFacts {
    /// The point's id; `None` inside a nested filter.
    fn id(&self) -> Option<PointId>;
    /// Whether the point has a vector in the field.
    fn has_vector(&self, name: &str) -> bool;
    /// How the key's text index makes words, if it has one.
    fn text_params(&self, key: &JsonPath) -> Option<TextParams>;
}

/// Whether a point passes a filter: the definition that every faster path is tested against.
pub fn passes(filter: &Filter, payload: &Payload, facts: &dyn PointFacts) -> bool {
    let holds = |condition: &Condition| condition_holds(condition, payload, facts);
    filter.must.iter().all(holds)
        && (filter.should.is_empty() || filter.should.iter().any(holds))
        && !filter.must_not.iter().any(holds)
        && filter.min_should.as_ref().is_none_or(|min| {
            min.conditions.iter().filter(|condition| holds(condition)).take(min.min_count).count()
                >= min.min_count
        })
}

/// Whether one condition holds.
pub fn condition_holds(condition: &Condition, payload: &Payload, facts: &dyn PointFacts) -> bool {
    match condition {
        Condition::Field { key, predicate } => {
            let text = facts.text_params(key);
            leaves(key, payload).any(|value| predicate.holds(value, text.as_ref()))
        }
        Condition::ValuesCount { key, count } => {
            let values = key.values(payload);
            let mut held =
                values.iter().map(|value| value.as_array().map_or(usize::from(!value.is_null()), Vec::len));
            if values.is_empty() { count.contains(0.0) } else { held.any(|held| count.contains(held as f64)) }
        }
        Condition::IsEmpty(key) => key
            .values(payload)
            .iter()
            .all(|value| value.is_null() || value.as_array().is_some_and(Vec::is_empty)),
        Condition::IsNull(key) => key.values(payload).iter().any(|value| {
            value.is_null() || value.as_array().is_some_and(|items| items.iter().any(Value::is_null))
        }),
        Condition::HasId(ids) => facts.id().is_some_and(|id| ids.contains(&id)),
        Condition::HasVector(name) => facts.has_vector(name),
        Condition::Nested { key, filter } => {
            let inner = Inside { outer: facts, key };
            let arrays = key.without_last_every().values(payload).into_iter().filter_map(Value::as_array);
            arrays.flatten().filter_map(Value::as_object).any(|element| passes(filter, element, &inner))
        }
        Condition::Filter(inner) => passes(inner, payload, facts),
    }
}

/// The values at a path with arrays opened, one level deep.
pub fn leaves<'a>(key: &JsonPath, payload: &'a Payload) -> impl Iterator<Item = &'a Value> {
    key.values(payload).into_iter().flat_map(|value| match value {
        Value::Array(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    })
}

struct Inside<'a> {
    outer: &'a dyn PointFacts,
    key: &'a JsonPath,
}

impl PointFacts for Inside<'_> {
    fn id(&self) -> Option<PointId> {
        None
    }
    fn has_vector(&self, _: &str) -> bool {
        false
    }
    fn text_params(&self, key: &JsonPath) -> Option<TextParams> {
        self.outer.text_params(&self.key.join_every(key))
    }
}

impl Predicate {
    /// Whether the predicate holds for one value; `text` is the setting of the key's text index.
    pub fn holds(&self, value: &Value, text: Option<&TextParams>) -> bool {
        match self {
            Self::Is(wanted) => wanted.equals(value),
            Self::Any(wanted) => wanted.iter().any(|one| one.equals(value)),
            Self::Except(unwanted) => !value.is_null() && !unwanted.iter().any(|one| one.equals(value)),
            Self::Text(query) => value.as_str().is_some_and(|held| {
                let params = text.copied().unwrap_or_default();
                let held: BTreeSet<String> = words(held, &params).collect();
                let mut wanted = query_words(query, &params).peekable();
                wanted.peek().is_some() && wanted.all(|word| held.contains(&word))
            }),
            Self::TextAny(query) => value.as_str().is_some_and(|held| {
                let params = text.copied().unwrap_or_default();
                let held: BTreeSet<String> = words(held, &params).collect();
                query_words(query, &params).any(|word| held.contains(&word))
            }),
            Self::Range(range) => value.as_f64().is_some_and(|number| range.contains(number)),
        }
    }
}

impl MatchValue {
    /// Whether a JSON value equals this one.
    pub fn equals(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Keyword(wanted), Value::String(held)) => wanted == held,
            (Self::Integer(wanted), Value::Number(held)) => held.as_i64() == Some(*wanted),
            (Self::Bool(wanted), Value::Bool(held)) => wanted == held,
            _ => false,
        }
    }
}

/// The words of a stored text, as a text index holds them.
pub fn words(text: &str, params: &TextParams) -> impl Iterator<Item = String> {
    let tokenizer = params.tokenizer;
    let least = params.min_token_len.max(1);
    plain_words(text, *params).flat_map(move |word| match tokenizer {
        Tokenizer::Prefix => prefixes(&word, least),
        Tokenizer::Word | Tokenizer::Whitespace => vec![word],
    })
}

/// The words of a query text: a word asks for itself, also under the prefix tokenizer.
pub fn query_words(text: &str, params: &TextParams) -> impl Iterator<Item = String> {
    plain_words(text, *params)
}

fn plain_words(text: &str, params: TextParams) -> impl Iterator<Item = String> {
    let separates = move |character: char| match params.tokenizer {
        Tokenizer::Whitespace => character.is_whitespace(),
        Tokenizer::Word | Tokenizer::Prefix => !character.is_alphanumeric(),
    };
    text.split(separates)
        .filter(|word| !word.is_empty())
        .map(move |word| if params.lowercase { word.to_lowercase() } else { word.to_owned() })
        .filter(move |word| {
            let length = word.chars().count();
            (params.min_token_len..=params.max_token_len).contains(&length)
        })
        .collect::<Vec<_>>()
        .into_iter()
}

fn prefixes(word: &str, least: usize) -> Vec<String> {
    let ends = word.char_indices().map(|(start, character)| start + character.len_utf8());
    ends.skip(least - 1).map(|end| word[..end].to_owned()).collect()
}
