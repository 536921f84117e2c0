//! Rows of activations: as f32, and as 16-bit integers in two bytes for products with quantised weights.
//!
//! A row `x` is quantised with one scale, `x ≈ s · q`, `|q| <= 32512`: its error is at most `s / 2`, some 2e-5 of the row's largest
//! value. Eight bits, as CPU engines commonly use, would be twice as fast and cost about one changed top-1 token in a hundred.
//! `q = 256 · hi + lo`; four `hi` then four `lo` bytes lie together, as the byte dot products take them. Sums of each 32 `q` serve
//! formats with a minimum or an offset.
#![allow(unsafe_code)]

use super::isa::instantiate;
use super::lanes::{LANES, Lanes};
use super::packed::BLOCK;

/// The largest magnitude of a quantised value: 127 · 256.
pub const QMAX: f32 = 32512.0;

/// Rows of `k` activations.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) float: Vec<f32>,
    pub(crate) split: Vec<i8>,
    pub(crate) scale: Vec<f32>,
    pub(crate) sums: Vec<i32>,
    pub(crate) sums_f32: Vec<f32>,
}

impl Activations {
    /// No rows yet.
    pub fn new(k: usize) -> Self {
        Self { k, ..Self::default() }
    }

    /// Makes room for `rows` rows; their content is arbitrary until written.
    pub fn resize(&mut self, rows: usize) {
        self.rows = rows;
        self.float.resize(rows * self.k, 0.0);
        let padded = self.k.next_multiple_of(BLOCK);
        self.split.resize(rows * 2 * padded, 0);
        self.scale.resize(rows, 0.0);
        self.sums.resize(rows * padded / BLOCK, 0);
        self.sums_f32.resize(rows * padded / BLOCK, 0.0);
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The rows as f32, `[rows × k]`.
    pub fn float(&self) -> &[f32] {
        &self.float
    }

    /// The rows as f32, to be written; quantise them before a product with quantised weights.
    pub fn float_mut(&mut self) -> &mut [f32] {
        &mut self.float
    }
}

/// Where the quantised form of one row goes.
pub(crate) struct SplitRow<'a> {
    pub(crate) split: &'a mut [i8],
    pub(crate) scale: &'a mut f32,
    pub(crate) sums: &'a mut [i32],
    pub(crate) sums_f32: &'a mut [f32],
}

/// Quantises one row, its length a multiple of 32.
#[inline(always)]
pub(crate) unsafe fn quantize_row<L: Lanes>(x: &[f32], out: SplitRow<'_>) {
    // SAFETY: every pointer stays within its slice: `x` in steps of 16, `split` has two bytes a value.
    unsafe {
        let mut largest = L::splat(0.0);
        for x in x.chunks_exact(LANES) {
            largest = L::max(L::abs(L::load(x.as_ptr())), largest);
        }
        let largest = L::reduce_max(largest);
        let inverse = if largest > f32::MIN_POSITIVE { QMAX / largest } else { 0.0 };
        *out.scale = largest / QMAX;
        let inverse = L::splat(inverse);
        for (b, x) in x.chunks_exact(BLOCK).enumerate() {
            let at = out.split.as_mut_ptr().add(2 * BLOCK * b);
            let (hi0, lo0) = L::split(L::round(L::mul(L::load(x.as_ptr()), inverse)));
            let (hi1, lo1) = L::split(L::round(L::mul(L::load(x.as_ptr().add(LANES)), inverse)));
            L::store_split(at, hi0, lo0);
            L::store_split(at.add(2 * LANES), hi1, lo1);
            let sum = L::sum_i(L::join(hi0, lo0), L::join(hi1, lo1));
            out.sums[b] = sum;
            out.sums_f32[b] = sum as f32;
        }
    }
}
instantiate! {
    /// [`quantize_row`] on an instruction set.
    pub(crate) fn quantize(x: &[f32], out: SplitRow<'_>) = quantize_row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;

    #[test]
    fn two_bytes_hold_a_value_to_half_a_step_on_every_instruction_set() {
        let x: Vec<f32> =
            (0..96).map(|i| ((i * 37 % 97) as f32 - 48.0) * 0.173 + (i as f32 * 0.01)).collect();
        let mut first: Option<(Vec<i8>, f32, Vec<i32>)> = None;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let (mut split, mut scale) = (vec![77i8; 192], 0.0);
            let (mut sums, mut sums_f32) = (vec![0; 3], vec![0.0; 3]);
            let row =
                SplitRow { split: &mut split, scale: &mut scale, sums: &mut sums, sums_f32: &mut sums_f32 };
            // SAFETY: available.
            unsafe { quantize(isa, &x, row) };
            for (i, x) in x.iter().enumerate() {
                let at = i / 4 * 8 + i % 4;
                let q = i32::from(split[at]) * 256 + i32::from(split[at + 4]);
                assert!(
                    (q as f32 * scale - x).abs() <= 1.01 * scale,
                    "{isa}: value {i}: {q} · {scale} is not {x}"
                );
            }
            for b in 0..3 {
                let sum: i32 = (0..32)
                    .map(|i| b * 64 + i / 4 * 8 + i % 4)
                    .map(|at| i32::from(split[at]) * 256 + i32::from(split[at + 4]))
                    .sum();
                assert_eq!(sums[b], sum);
            }
            let got = (split, scale, sums);
            assert_eq!(first.get_or_insert_with(|| got.clone()), &got, "{isa}");
        }
    }
}
