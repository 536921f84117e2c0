//! The form of an index that takes changes: for the appendable segment and for changed payloads of sealed rows.

use std::collections::BTreeMap;
use std::ops::Bound;

use roaring::RoaringBitmap;

use super::{Indexed, Lookup};
use crate::engine::config::FieldSchema;
use crate::engine::filter::{MatchValue, Range};
use crate::engine::json_path::JsonPath;
use crate::engine::point::{OrderValue, Payload};
use crate::engine::query::Direction;
use crate::engine::row_set::RowSet;

/// A float ordered by `total_cmp`, so that it can be a key. JSON has no NaN.
#[derive(Clone, Copy, Debug)]
pub struct TotalFloat(pub f64);

impl PartialEq for TotalFloat {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for TotalFloat {}
impl PartialOrd for TotalFloat {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for TotalFloat {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Minus zero equals zero in every comparison a filter makes.
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}

/// An index that takes changes.
#[derive(Clone, Debug)]
pub struct LiveIndex {
    pub(super) schema: FieldSchema,
    pub(super) terms: BTreeMap<String, RoaringBitmap>,
    pub(super) integers: BTreeMap<i64, RoaringBitmap>,
    pub(super) floats: BTreeMap<TotalFloat, RoaringBitmap>,
    pub(super) bools: [RoaringBitmap; 2],
    pub(super) indexed: RoaringBitmap,
    pub(super) others: RoaringBitmap,
    pub(super) multiple: RoaringBitmap,
}

impl LiveIndex {
    /// An index of nothing.
    pub fn new(schema: FieldSchema) -> Self {
        Self {
            schema,
            terms: BTreeMap::new(),
            integers: BTreeMap::new(),
            floats: BTreeMap::new(),
            bools: Default::default(),
            indexed: RoaringBitmap::new(),
            others: RoaringBitmap::new(),
            multiple: RoaringBitmap::new(),
        }
    }

    /// Adds a row's payload.
    pub fn insert(&mut self, key: &JsonPath, row: u32, payload: &Payload) {
        let found = Indexed::read(key, &self.schema, payload);
        if !found.is_empty() {
            self.indexed.insert(row);
        }
        if found.others {
            self.others.insert(row);
        }
        if found.multiple {
            self.multiple.insert(row);
        }
        for term in found.terms {
            self.terms.entry(term).or_default().insert(row);
        }
        for value in found.integers {
            self.integers.entry(value).or_default().insert(row);
        }
        for value in found.floats {
            self.floats.entry(TotalFloat(value)).or_default().insert(row);
        }
        for value in found.bools {
            self.bools[usize::from(value)].insert(row);
        }
    }

    /// Takes out a row that was added with this payload.
    pub fn remove(&mut self, key: &JsonPath, row: u32, payload: &Payload) {
        let found = Indexed::read(key, &self.schema, payload);
        for term in &found.terms {
            take_out(&mut self.terms, term, row);
        }
        for value in &found.integers {
            take_out(&mut self.integers, value, row);
        }
        for value in &found.floats {
            take_out(&mut self.floats, &TotalFloat(*value), row);
        }
        for bitmap in
            [&mut self.indexed, &mut self.others, &mut self.multiple].into_iter().chain(&mut self.bools)
        {
            bitmap.remove(row);
        }
    }
}

fn take_out<K, Q>(map: &mut BTreeMap<K, RoaringBitmap>, key: &Q, row: u32)
where
    K: Ord + std::borrow::Borrow<Q>,
    Q: Ord + ?Sized,
{
    if let Some(bitmap) = map.get_mut(key) {
        bitmap.remove(row);
        if bitmap.is_empty() {
            map.remove(key);
        }
    }
}

/// The keys of an ordered map that a range can reach; the exact bounds are checked value by value at the edges only.
fn float_bounds(range: &Range) -> (Bound<TotalFloat>, Bound<TotalFloat>) {
    let least = [range.gt, range.gte].into_iter().flatten().fold(f64::NEG_INFINITY, f64::max);
    let most = [range.lt, range.lte].into_iter().flatten().fold(f64::INFINITY, f64::min);
    (Bound::Included(TotalFloat(least)), Bound::Included(TotalFloat(most)))
}

/// Likewise for integers, which compare as floats.
fn integer_bounds(range: &Range) -> (i64, i64) {
    let (Bound::Included(TotalFloat(least)), Bound::Included(TotalFloat(most))) = float_bounds(range) else {
        return (i64::MIN, i64::MAX);
    };
    // Beyond 2^53 neighbours share a float: one step of 2048 covers the widest gap below 2^63.
    let slack = |bound: f64| if bound.abs() < 9.0e15 { 0 } else { 2048 };
    ((least.floor() as i64).saturating_sub(slack(least)), (most.ceil() as i64).saturating_add(slack(most)))
}

impl Lookup for LiveIndex {
    fn schema(&self) -> FieldSchema {
        self.schema
    }
    fn add_term(&self, term: &str, into: &mut RowSet) {
        if let Some(bitmap) = self.terms.get(term) {
            into.add_roaring(bitmap);
        }
    }
    fn add_integer(&self, value: i64, into: &mut RowSet) {
        if let Some(bitmap) = self.integers.get(&value) {
            into.add_roaring(bitmap);
        }
        if let Some(bitmap) = self.floats.get(&TotalFloat(value as f64)) {
            into.add_roaring(bitmap);
        }
    }
    fn add_bool(&self, value: bool, into: &mut RowSet) {
        into.add_roaring(&self.bools[usize::from(value)]);
    }
    fn add_range(&self, range: &Range, into: &mut RowSet) {
        let (least, most) = integer_bounds(range);
        if least <= most {
            for (_, bitmap) in
                self.integers.range(least..=most).filter(|(value, _)| range.contains(**value as f64))
            {
                into.add_roaring(bitmap);
            }
        }
        let bounds = float_bounds(range);
        if bounds_meet(&bounds) {
            for (_, bitmap) in self.floats.range(bounds).filter(|(value, _)| range.contains(value.0)) {
                into.add_roaring(bitmap);
            }
        }
    }
    fn add_indexed(&self, into: &mut RowSet) {
        into.add_roaring(&self.indexed);
    }
    fn add_others(&self, into: &mut RowSet) {
        into.add_roaring(&self.others);
    }
    fn add_multiple(&self, into: &mut RowSet) {
        into.add_roaring(&self.multiple);
    }
    fn distinct(&self) -> usize {
        self.terms.len() + self.integers.len() + self.floats.len() + 2
    }
    fn each_value(&self, rows: u32, visit: &mut dyn FnMut(MatchValue, RowSet)) {
        for (term, bitmap) in &self.terms {
            visit(MatchValue::Keyword(term.clone()), RowSet::from_roaring(bitmap, rows));
        }
        for (value, bitmap) in &self.integers {
            visit(MatchValue::Integer(*value), RowSet::from_roaring(bitmap, rows));
        }
        for value in [false, true] {
            let bitmap = &self.bools[usize::from(value)];
            if !bitmap.is_empty() {
                visit(MatchValue::Bool(value), RowSet::from_roaring(bitmap, rows));
            }
        }
    }
    fn ordered(
        &self,
        direction: Direction,
        start: Option<f64>,
        visit: &mut dyn FnMut(OrderValue, u32) -> bool,
    ) {
        let starts = |value: f64| match direction {
            Direction::Ascending => start.is_none_or(|start| value >= start),
            Direction::Descending => start.is_none_or(|start| value <= start),
        };
        let integers = self.integers.iter().map(|(value, rows)| (OrderValue::Int(*value), rows));
        let floats = self.floats.iter().map(|(value, rows)| (OrderValue::Float(value.0), rows));
        // An index holds one of the two kinds.
        let all = integers.chain(floats).filter(|(value, _)| starts(value.as_f64()));
        let mut go = |(value, rows): (OrderValue, &RoaringBitmap)| rows.iter().all(|row| visit(value, row));
        match direction {
            Direction::Ascending => all.take_while(|pair| go(*pair)).for_each(drop),
            Direction::Descending => all.rev().take_while(|pair| go(*pair)).for_each(drop),
        }
    }
}

fn bounds_meet(bounds: &(Bound<TotalFloat>, Bound<TotalFloat>)) -> bool {
    matches!(bounds, (Bound::Included(least), Bound::Included(most)) if least <= most)
}
