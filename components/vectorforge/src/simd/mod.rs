//! Distance kernels over rows of 16-float lanes, chosen at run time: AVX-512, AVX2 + FMA, or plain Rust.
//!
//! A row is a slice of [`Lane`]s, the last one padded with zeros, so that no kernel has a tail and every load is a whole
//! cache line. Padding changes none of the three sums. Results differ from exact arithmetic by rounding only; the order
//! of additions is the kernel's own, so two kernels may differ in the last bits; the two forms of one kernel do not.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use std::sync::OnceLock;

use bytemuck::{Pod, Zeroable};

/// Floats in a lane: one cache line.
pub const LANE: usize = 16;

/// Sixteen floats, one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Lane(pub [f32; LANE]);

/// Compares two rows of one length.
pub type Pairwise = fn(&[Lane], &[Lane]) -> f32;
/// Compares one row with four others of its length.
pub type FourWise = fn(&[Lane], [&[Lane]; 4]) -> [f32; 4];

/// One sum over two rows, in its two forms.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Against one row.
    pub one: Pairwise,
    /// Against four rows.
    pub four: FourWise,
}

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// Name of the instruction set.
    pub name: &'static str,
    /// Sum of products.
    pub dot: Kernel,
    /// Sum of squared differences.
    pub squared_l2: Kernel,
    /// Sum of absolute differences.
    pub l1: Kernel,
}

/// The fastest kernels that this machine runs.
pub fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let chosen = *available().last().expect("the scalar kernels are always there");
        tracing::info!(instruction_set = chosen.name, "distance kernels");
        chosen
    })
}

/// All kernels that this machine runs, slowest first.
pub fn available() -> Vec<Kernels> {
    #[allow(unused_mut)]
    let mut found = vec![scalar::KERNELS];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            found.push(avx2::KERNELS);
        }
        if is_x86_feature_detected!("avx512f") {
            found.push(avx512::KERNELS);
        }
    }
    found
}

/// Lanes that hold `dimension` floats.
pub fn lanes_of(dimension: usize) -> usize {
    dimension.div_ceil(LANE)
}

/// Copies a vector into padded lanes.
#[cfg(test)]
pub fn to_lanes(vector: &[f32]) -> Vec<Lane> {
    let mut lanes = vec![Lane([0.0; LANE]); lanes_of(vector.len())];
    copy_into_lanes(vector, &mut lanes);
    lanes
}

/// Copies a vector over a row of lanes; the rest of the row becomes zero.
pub fn copy_into_lanes(vector: &[f32], row: &mut [Lane]) {
    let flat: &mut [f32] = bytemuck::cast_slice_mut(row);
    flat[..vector.len()].copy_from_slice(vector);
    flat[vector.len()..].fill(0.0);
}

/// The floats of a row, padding left out.
pub fn floats(row: &[Lane], dimension: usize) -> &[f32] {
    &bytemuck::cast_slice(row)[..dimension]
}

/// Number of bits set. Without leave the compiler counts with a dozen instructions a word, since the baseline has none.
pub fn count_ones(words: &[u64]) -> usize {
    #[inline(always)]
    #[allow(clippy::inline_always)]
    fn sum(words: &[u64]) -> usize {
        words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() as usize
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vpopcntdq")]
        fn wide(words: &[u64]) -> usize {
            sum(words)
        }
        #[target_feature(enable = "popcnt")]
        fn single(words: &[u64]) -> usize {
            sum(words)
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vpopcntdq") {
            // SAFETY: the features were just detected.
            #[allow(unsafe_code)]
            return unsafe { wide(words) };
        }
        if is_x86_feature_detected!("popcnt") {
            // SAFETY: the feature was just detected.
            #[allow(unsafe_code)]
            return unsafe { single(words) };
        }
    }
    sum(words)
}

/// Asks the processor to bring the first lines of a row closer. A hint: it has no effect on results.
#[inline]
pub fn prefetch<T>(data: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let bytes = std::mem::size_of_val(data);
        let start = data.as_ptr().cast::<i8>();
        let mut offset = 0;
        while offset < bytes {
            // SAFETY: prefetching has no architectural effect, and the address lies inside `data`.
            #[allow(unsafe_code)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(start.add(offset));
            }
            offset += 64;
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = data;
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    type Term = fn(f64, f64) -> f64;

    fn vector(rng: &mut StdRng, dimension: usize) -> Vec<f32> {
        (0..dimension).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// Every kernel of every instruction set here, against a sum in f64.
    #[test]
    fn kernels_agree_with_f64() {
        let mut rng = StdRng::seed_from_u64(7);
        for dimension in [1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 128, 384, 768, 1000, 1536] {
            let a = vector(&mut rng, dimension);
            let others: Vec<Vec<f32>> = (0..4).map(|_| vector(&mut rng, dimension)).collect();
            let reference = |b: &[f32], term: Term| -> f64 {
                a.iter().zip(b).map(|(x, y)| term(f64::from(*x), f64::from(*y))).sum()
            };
            let row = to_lanes(&a);
            let rows: Vec<Vec<Lane>> = others.iter().map(|other| to_lanes(other)).collect();
            for set in available() {
                let table: [(&str, Kernel, Term); 3] = [
                    ("dot", set.dot, |x, y| x * y),
                    ("l2", set.squared_l2, |x, y| (x - y) * (x - y)),
                    ("l1", set.l1, |x, y| (x - y).abs()),
                ];
                for (what, kernel, term) in table {
                    let four = (kernel.four)(&row, [&rows[0], &rows[1], &rows[2], &rows[3]]);
                    let one = [0, 1, 2, 3].map(|index| (kernel.one)(&row, &rows[index]).to_bits());
                    assert_eq!(four.map(f32::to_bits), one, "{} {what} {dimension}", set.name);
                    for (index, other) in others.iter().enumerate() {
                        let exact = reference(other, term);
                        let bound = 1e-6 * (dimension as f64).sqrt().max(1.0) * 4.0;
                        let got = four[index];
                        assert!(
                            (f64::from(got) - exact).abs() <= bound,
                            "{} {what} {dimension}: {got} vs {exact}",
                            set.name
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn bits_are_counted() {
        for length in 0..40 {
            let words: Vec<u64> = (0..length).map(|at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            let expected: u32 =
                words.iter().map(|word| format!("{word:b}").matches('1').count() as u32).sum();
            assert_eq!(count_ones(&words), expected as usize);
        }
    }

    #[test]
    fn lanes_are_padded_with_zeros() {
        let mut row = to_lanes(&[1.0; 20]);
        assert_eq!(row.len(), 2);
        copy_into_lanes(&[2.0; 3], &mut row);
        assert_eq!(floats(&row, 5), &[2.0, 2.0, 2.0, 0.0, 0.0]);
        assert!(floats(&row, 32)[3..].iter().all(|x| *x == 0.0));
    }
}
