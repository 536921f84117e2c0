//! The form of an index that belongs to a sealed segment: sorted columns and postings, written once.

use roaring::RoaringBitmap;

use super::Lookup;
use super::live::LiveIndex;
use crate::engine::config::{FieldKind, FieldSchema};
use crate::engine::filter::{MatchValue, Range};
use crate::engine::point::OrderValue;
use crate::engine::query::Direction;
use crate::engine::row_set::RowSet;
use crate::engine::storage::codec::{Malformed, Reader, Writer};

/// Rows of one value: a bit a row where that is smaller or hardly larger than the list, else roaring.
#[derive(Clone, Debug)]
enum Posting {
    Dense(RowSet),
    Sparse(RoaringBitmap),
}

impl Posting {
    fn new(bitmap: RoaringBitmap, rows: u32) -> Self {
        if bitmap.len() * 32 >= u64::from(rows) {
            Self::Dense(RowSet::from_roaring(&bitmap, rows))
        } else {
            Self::Sparse(bitmap)
        }
    }

    fn add_to(&self, into: &mut RowSet) {
        match self {
            Self::Dense(set) => into.union(set),
            Self::Sparse(bitmap) => into.add_roaring(bitmap),
        }
    }

    fn rows(&self, rows: u32) -> RowSet {
        match self {
            Self::Dense(set) => set.clone(),
            Self::Sparse(bitmap) => RowSet::from_roaring(bitmap, rows),
        }
    }

    fn to_roaring(&self) -> RoaringBitmap {
        match self {
            Self::Dense(set) => set.to_roaring(),
            Self::Sparse(bitmap) => bitmap.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Dense(set) => set.is_empty(),
            Self::Sparse(bitmap) => bitmap.is_empty(),
        }
    }
}

/// A column of values in ascending order, each with its row.
#[derive(Clone, Debug, Default)]
struct Column<T> {
    values: Vec<T>,
    rows: Vec<u32>,
}

/// An index of a sealed segment.
#[derive(Clone, Debug)]
pub struct FrozenIndex {
    schema: FieldSchema,
    terms: Vec<(String, Posting)>,
    integers: Column<i64>,
    floats: Column<f64>,
    bools: [Posting; 2],
    indexed: Posting,
    others: Posting,
    multiple: Posting,
}

impl FrozenIndex {
    /// Freezes an index over `rows` rows.
    pub fn freeze(live: LiveIndex, rows: u32) -> Self {
        let posting = |bitmap| Posting::new(bitmap, rows);
        let mut integers = Column::default();
        for (value, bitmap) in live.integers {
            integers.values.extend(std::iter::repeat_n(value, bitmap.len() as usize));
            integers.rows.extend(&bitmap);
        }
        let mut floats = Column::default();
        for (value, bitmap) in live.floats {
            floats.values.extend(std::iter::repeat_n(value.0, bitmap.len() as usize));
            floats.rows.extend(&bitmap);
        }
        Self {
            schema: live.schema,
            terms: live.terms.into_iter().map(|(term, bitmap)| (term, posting(bitmap))).collect(),
            integers,
            floats,
            bools: live.bools.map(posting),
            indexed: posting(live.indexed),
            others: posting(live.others),
            multiple: posting(live.multiple),
        }
    }

    /// The index as bytes: the four flag bitmaps, then terms, integers and floats, each with its count.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        for posting in [&self.indexed, &self.others, &self.multiple, &self.bools[0], &self.bools[1]] {
            encode_bitmap(&posting.to_roaring(), &mut out);
        }
        out.u32(self.terms.len() as u32);
        for (term, posting) in &self.terms {
            out.bytes(term.as_bytes());
            encode_bitmap(&posting.to_roaring(), &mut out);
        }
        out.u32(self.integers.rows.len() as u32);
        self.integers.values.iter().for_each(|value| out.u64(*value as u64));
        self.integers.rows.iter().for_each(|row| out.u32(*row));
        out.u32(self.floats.rows.len() as u32);
        self.floats.values.iter().for_each(|value| out.u64(value.to_bits()));
        self.floats.rows.iter().for_each(|row| out.u32(*row));
        out.0
    }

    /// Reads what [`Self::encode`] wrote, for a segment of `rows` rows.
    pub fn decode(schema: FieldSchema, rows: u32, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Reader(bytes);
        let posting = |input: &mut Reader<'_>| Ok(Posting::new(decode_bitmap(input)?, rows));
        let (indexed, others, multiple) = (posting(&mut input)?, posting(&mut input)?, posting(&mut input)?);
        let bools = [posting(&mut input)?, posting(&mut input)?];
        let mut terms = Vec::new();
        for _ in 0..input.u32()? {
            terms.push((input.text()?.to_owned(), posting(&mut input)?));
        }
        let integers = decode_column(&mut input, |bits| bits as i64)?;
        let floats = decode_column(&mut input, f64::from_bits)?;
        input.finish()?;
        let in_order = terms.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && integers.values.is_sorted()
            && floats.values.is_sorted();
        if !in_order || integers.rows.iter().chain(&floats.rows).any(|row| *row >= rows) {
            return Err(Malformed("a payload index is out of order"));
        }
        Ok(Self { schema, terms, integers, floats, bools, indexed, others, multiple })
    }
}

fn encode_bitmap(bitmap: &RoaringBitmap, out: &mut Writer) {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).expect("a Vec takes every byte");
    out.bytes(&bytes);
}

/// Reads a bitmap with its length before it.
pub fn decode_bitmap(input: &mut Reader<'_>) -> Result<RoaringBitmap, Malformed> {
    RoaringBitmap::deserialize_from(input.bytes()?).map_err(|_| Malformed("a bitmap does not parse"))
}

fn decode_column<T>(input: &mut Reader<'_>, value: impl Fn(u64) -> T) -> Result<Column<T>, Malformed> {
    let count = input.u32()? as usize;
    let (values, _) = input.take(count.saturating_mul(8))?.as_chunks::<8>();
    let (rows, _) = input.take(count.saturating_mul(4))?.as_chunks::<4>();
    Ok(Column {
        values: values.iter().map(|bytes| value(u64::from_le_bytes(*bytes))).collect(),
        rows: rows.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
    })
}

impl FrozenIndex {
    fn integers_in(&self, range: &Range) -> &[u32] {
        self.integers.within(range, |value| *value as f64)
    }

    fn floats_in(&self, range: &Range) -> &[u32] {
        self.floats.within(range, |value| *value)
    }
}

impl<T> Column<T> {
    /// The rows of the values within a range: one stretch, since the column ascends and so do its values as floats.
    fn within(&self, range: &Range, number: impl Fn(&T) -> f64) -> &[u32] {
        let upwards = Range { lt: None, lte: None, ..*range };
        let downwards = Range { gt: None, gte: None, ..*range };
        let start = self.values.partition_point(|value| !upwards.contains(number(value)));
        let end = self.values.partition_point(|value| downwards.contains(number(value)));
        &self.rows[start..end.max(start)]
    }
}

impl Lookup for FrozenIndex {
    fn schema(&self) -> FieldSchema {
        self.schema
    }
    fn add_term(&self, term: &str, into: &mut RowSet) {
        if let Ok(at) = self.terms.binary_search_by(|(held, _)| held.as_str().cmp(term)) {
            self.terms[at].1.add_to(into);
        }
    }
    fn add_integer(&self, value: i64, into: &mut RowSet) {
        let equal = self.integers.values.partition_point(|held| *held < value)
            ..self.integers.values.partition_point(|held| *held <= value);
        into.insert_all(self.integers.rows[equal].iter().copied());
        let float = value as f64;
        let equal = self.floats.values.partition_point(|held| *held < float)
            ..self.floats.values.partition_point(|held| *held <= float);
        into.insert_all(self.floats.rows[equal].iter().copied());
    }
    fn add_bool(&self, value: bool, into: &mut RowSet) {
        self.bools[usize::from(value)].add_to(into);
    }
    fn add_range(&self, range: &Range, into: &mut RowSet) {
        into.insert_all(self.integers_in(range).iter().chain(self.floats_in(range)).copied());
    }
    fn add_indexed(&self, into: &mut RowSet) {
        self.indexed.add_to(into);
    }
    fn add_others(&self, into: &mut RowSet) {
        self.others.add_to(into);
    }
    fn add_multiple(&self, into: &mut RowSet) {
        self.multiple.add_to(into);
    }
    fn distinct(&self) -> usize {
        // Columns keep repeats; their length is an upper bound that is cheap.
        self.terms.len() + self.integers.rows.len() + self.floats.rows.len() + 2
    }
    fn each_value(&self, rows: u32, visit: &mut dyn FnMut(MatchValue, RowSet)) {
        for (term, posting) in &self.terms {
            visit(MatchValue::Keyword(term.clone()), posting.rows(rows));
        }
        let mut at = 0;
        for equal in self.integers.values.chunk_by(|left, right| left == right) {
            let mut set = RowSet::empty(rows);
            set.insert_all(self.integers.rows[at..at + equal.len()].iter().copied());
            visit(MatchValue::Integer(equal[0]), set);
            at += equal.len();
        }
        for value in [false, true] {
            let posting = &self.bools[usize::from(value)];
            if !posting.is_empty() {
                visit(MatchValue::Bool(value), posting.rows(rows));
            }
        }
    }
    fn ordered(
        &self,
        direction: Direction,
        start: Option<f64>,
        visit: &mut dyn FnMut(OrderValue, u32) -> bool,
    ) {
        let mut range = Range::default();
        match direction {
            Direction::Ascending => range.gte = start,
            Direction::Descending => range.lte = start,
        }
        let is_float = self.schema.kind == FieldKind::Float;
        let rows = if is_float { self.floats_in(&range) } else { self.integers_in(&range) };
        let total = if is_float { self.floats.rows.len() } else { self.integers.rows.len() };
        // The range is open on the far side, so the stretch is a suffix (ascending) or a prefix (descending).
        let first = if direction == Direction::Ascending { total - rows.len() } else { 0 };
        let value = |at: usize| {
            if is_float {
                OrderValue::Float(self.floats.values[at])
            } else {
                OrderValue::Int(self.integers.values[at])
            }
        };
        let mut go = |offset: usize| visit(value(first + offset), rows[offset]);
        match direction {
            Direction::Ascending => (0..rows.len()).take_while(|offset| go(*offset)).for_each(drop),
            Direction::Descending => (0..rows.len()).rev().take_while(|offset| go(*offset)).for_each(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::answer;
    use super::*;
    use crate::engine::filter::{Condition, PointFacts, Predicate, condition_holds};
    use crate::engine::json_path::JsonPath;
    use crate::engine::point::{Payload, PointId};

    struct Facts(FieldSchema);
    impl PointFacts for Facts {
        fn id(&self) -> Option<PointId> {
            None
        }
        fn has_vector(&self, _: &str) -> bool {
            false
        }
        fn text_params(&self, _: &JsonPath) -> Option<crate::engine::TextParams> {
            (self.0.kind == FieldKind::Text).then_some(self.0.text)
        }
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            (-3i64..4).prop_map(|value| json!(value)),
            (-3i64..4).prop_map(|value| json!(value as f64 / 2.0)),
            Just(json!(9007199254740993i64)),
            Just(json!(u64::MAX)),
            prop::sample::select(vec!["red", "green", "red green", "Blue"]).prop_map(|text| json!(text)),
            any::<bool>().prop_map(|value| json!(value)),
            Just(Value::Null),
            Just(json!({"x": 1})),
        ]
    }

    fn value() -> impl Strategy<Value = Option<Value>> {
        prop_oneof![
            Just(None),
            scalar().prop_map(Some),
            prop::collection::vec(scalar(), 0..3).prop_map(|items| Some(Value::Array(items))),
        ]
    }

    fn match_value() -> impl Strategy<Value = MatchValue> {
        prop_oneof![
            (-3i64..4).prop_map(MatchValue::Integer),
            prop::sample::select(vec!["red", "green", "Blue"])
                .prop_map(|text| MatchValue::Keyword(text.to_owned())),
            any::<bool>().prop_map(MatchValue::Bool),
        ]
    }

    fn predicate() -> impl Strategy<Value = Predicate> {
        let bound = || prop::option::of((-4i64..5).prop_map(|value| value as f64 / 2.0));
        prop_oneof![
            match_value().prop_map(Predicate::Is),
            prop::collection::vec(match_value(), 0..3).prop_map(Predicate::Any),
            prop::collection::vec(match_value(), 0..3).prop_map(Predicate::Except),
            prop::sample::select(vec!["red", "green red", "", "blue"])
                .prop_map(|text| Predicate::Text(text.to_owned())),
            prop::sample::select(vec!["red", "green blue", ""])
                .prop_map(|text| Predicate::TextAny(text.to_owned())),
            (bound(), bound(), bound(), bound()).prop_map(|(lt, lte, gt, gte)| Predicate::Range(Range {
                lt,
                lte,
                gt,
                gte
            })),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Both forms of every kind of index, before and after a change and a trip to disk, against the definition.
        #[test]
        fn an_index_never_changes_what_a_filter_means(
            values in prop::collection::vec(value(), 1..20), changed in value(), predicate in predicate(),
            kind in prop::sample::select(vec![FieldKind::Keyword, FieldKind::Integer, FieldKind::Float, FieldKind::Bool, FieldKind::Text]),
        ) {
            let key = JsonPath::key("k");
            let schema = FieldSchema::from(kind);
            let payload = |value: &Option<Value>| value.iter().map(|value| ("k".to_owned(), value.clone())).collect::<Payload>();
            let mut payloads: Vec<Payload> = values.iter().map(payload).collect();
            let rows = payloads.len() as u32;
            let mut live = LiveIndex::new(schema);
            for (row, payload) in payloads.iter().enumerate() {
                live.insert(&key, row as u32, payload);
            }
            live.remove(&key, 0, &payloads[0]);
            payloads[0] = payload(&changed);
            live.insert(&key, 0, &payloads[0]);
            let frozen = FrozenIndex::freeze(live.clone(), rows);
            let frozen = FrozenIndex::decode(schema, rows, &frozen.encode()).expect("just encoded");
            let condition = Condition::Field { key: key.clone(), predicate: predicate.clone() };
            for index in [&live as &dyn Lookup, &frozen] {
                let Some(found) = answer(index, &predicate, rows) else { continue };
                for (row, payload) in payloads.iter().enumerate() {
                    let holds = condition_holds(&condition, payload, &Facts(schema));
                    let found_row = found.rows.contains(row as u32);
                    prop_assert!(found_row || !holds, "row {row} was missed");
                    prop_assert!(!found.exact || found_row == holds, "row {row} is not exact");
                }
            }
            for direction in [Direction::Ascending, Direction::Descending] {
                let list = |index: &dyn Lookup| {
                    let mut seen = Vec::new();
                    index.ordered(direction, Some(0.5), &mut |value, row| { seen.push((value.as_f64(), row)); true });
                    if direction == Direction::Descending { seen.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))); }
                    seen
                };
                prop_assert_eq!(list(&live), list(&frozen));
            }
        }
    }
}
