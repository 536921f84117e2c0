//! Sets of rows of one segment, one bit a row.

use roaring::RoaringBitmap;

/// A set of rows below a fixed number. Dense, because filters combine sets word by word and graph walks ask for single
/// rows at random: one bit a row is 43 kB for 341,479 rows. On disk sets are roaring bitmaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowSet {
    words: Vec<u64>,
    rows: u32,
}

impl RowSet {
    /// No row of `rows`.
    pub fn empty(rows: u32) -> Self {
        Self { words: vec![0; (rows as usize).div_ceil(64)], rows }
    }

    /// All of `rows`.
    pub fn full(rows: u32) -> Self {
        let mut set = Self { words: vec![u64::MAX; (rows as usize).div_ceil(64)], rows };
        set.clear_padding();
        set
    }

    /// The rows of a roaring bitmap; those beyond `rows` are left out.
    pub fn from_roaring(bitmap: &RoaringBitmap, rows: u32) -> Self {
        let mut set = Self::empty(rows);
        set.add_roaring(bitmap);
        set
    }

    /// The same rows as a roaring bitmap.
    pub fn to_roaring(&self) -> RoaringBitmap {
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        RoaringBitmap::from_lsb0_bytes(0, &bytes)
    }

    /// Rows the set ranges over.
    pub fn universe(&self) -> u32 {
        self.rows
    }

    /// Lets the set range over more rows, absent at first.
    pub fn grow(&mut self, rows: u32) {
        self.rows = self.rows.max(rows);
        self.words.resize((self.rows as usize).div_ceil(64), 0);
    }

    /// Whether the row is in. Rows beyond the universe are not.
    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        self.words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Adds a row below the universe; true when it was absent.
    pub fn insert(&mut self, row: u32) -> bool {
        let word = &mut self.words[row as usize / 64];
        let added = *word >> (row % 64) & 1 == 0;
        *word |= 1 << (row % 64);
        added
    }

    /// Adds rows below the universe.
    pub fn insert_all(&mut self, rows: impl IntoIterator<Item = u32>) {
        for row in rows {
            self.insert(row);
        }
    }

    /// Removes a row; true when it was present.
    pub fn remove(&mut self, row: u32) -> bool {
        let present = self.contains(row);
        if present {
            self.words[row as usize / 64] &= !(1 << (row % 64));
        }
        present
    }

    /// Number of rows in the set.
    pub fn count(&self) -> usize {
        crate::simd::count_ones(&self.words)
    }

    /// Whether no row is in.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Adds the rows of another set.
    pub fn union(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, added)| *word |= added);
    }

    /// Keeps the rows that are in both.
    pub fn intersect(&mut self, other: &Self) {
        let shared = other.words.len();
        self.words.iter_mut().zip(&other.words).for_each(|(word, kept)| *word &= kept);
        self.words.iter_mut().skip(shared).for_each(|word| *word = 0);
    }

    /// Removes the rows of another set.
    pub fn subtract(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, removed)| *word &= !removed);
    }

    /// The rows that are absent.
    #[must_use]
    pub fn complement(mut self) -> Self {
        self.words.iter_mut().for_each(|word| *word = !*word);
        self.clear_padding();
        self
    }

    /// Adds the rows of a roaring bitmap.
    pub fn add_roaring(&mut self, bitmap: &RoaringBitmap) {
        let rows = self.rows;
        let mut buffer = [0u32; 512];
        let mut iter = bitmap.iter();
        loop {
            let batch = iter.next_many(&mut buffer);
            if batch.is_empty() {
                return;
            }
            for row in batch.iter().filter(|row| **row < rows) {
                self.words[*row as usize / 64] |= 1 << (row % 64);
            }
        }
    }

    /// The rows, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.iter_from(0)
    }

    /// The rows from `first` on, ascending.
    pub fn iter_from(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        let start = first as usize / 64;
        self.words.iter().enumerate().skip(start).flat_map(move |(index, word)| {
            let mut left = if index == start { word & (u64::MAX << (first % 64)) } else { *word };
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                (left != 0).then(|| {
                    left &= left - 1;
                    index as u32 * 64 + bit
                })
            })
        })
    }

    fn clear_padding(&mut self) {
        if !self.rows.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << (self.rows % 64)) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sets_behave_as_sets(rows in 1u32..300, left in proptest::collection::btree_set(0u32..300, 0..100),
                               right in proptest::collection::btree_set(0u32..300, 0..100), first in 0u32..300) {
            let cut = |set: &BTreeSet<u32>| -> BTreeSet<u32> { set.iter().copied().filter(|row| *row < rows).collect() };
            let (left, right) = (cut(&left), cut(&right));
            let make = |set: &BTreeSet<u32>| RowSet::from_roaring(&set.iter().copied().collect(), rows);
            let read = |set: &RowSet| set.iter().collect::<BTreeSet<u32>>();
            let (a, b) = (make(&left), make(&right));
            prop_assert_eq!(read(&a), left.clone());
            prop_assert_eq!(a.count(), left.len());
            prop_assert_eq!(RowSet::from_roaring(&a.to_roaring(), rows), a.clone());
            let combined = |combine: fn(&mut RowSet, &RowSet)| { let mut set = a.clone(); combine(&mut set, &b); read(&set) };
            prop_assert_eq!(combined(RowSet::union), left.union(&right).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(combined(RowSet::intersect), left.intersection(&right).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(combined(RowSet::subtract), left.difference(&right).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(a.clone().complement().count(), rows as usize - left.len());
            prop_assert_eq!(a.iter_from(first).collect::<Vec<_>>(), left.range(first..).copied().collect::<Vec<_>>());
        }
    }
}
