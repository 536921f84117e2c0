//! AVX2 with FMA: a lane is two registers.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_ps,
    _mm256_andnot_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_load_ps,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_sub_ps,
};

use super::{Kernel, Kernels, Lane};

pub(super) const KERNELS: Kernels = Kernels {
    name: "avx2",
    dot: Kernel { one: dot::one, four: dot::four },
    squared_l2: Kernel { one: squared_l2::one, four: squared_l2::four },
    l1: Kernel { one: l1::one, four: l1::four },
};

#[derive(Clone, Copy)]
struct Pair(__m256, __m256);

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(lane: &Lane) -> Pair {
    let start = lane.0.as_ptr();
    // SAFETY: a lane is 64 bytes, aligned to 64: two aligned halves of 32.
    unsafe { Pair(_mm256_load_ps(start), _mm256_load_ps(start.add(8))) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn total(sum: Pair) -> f32 {
    let eight = _mm256_add_ps(sum.0, sum.1);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot_step(sum: Pair, x: Pair, y: Pair) -> Pair {
    Pair(_mm256_fmadd_ps(x.0, y.0, sum.0), _mm256_fmadd_ps(x.1, y.1, sum.1))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn squared_l2_step(sum: Pair, x: Pair, y: Pair) -> Pair {
    let (low, high) = (_mm256_sub_ps(x.0, y.0), _mm256_sub_ps(x.1, y.1));
    Pair(_mm256_fmadd_ps(low, low, sum.0), _mm256_fmadd_ps(high, high, sum.1))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn l1_step(sum: Pair, x: Pair, y: Pair) -> Pair {
    let sign = _mm256_set1_ps(-0.0);
    let (low, high) = (_mm256_sub_ps(x.0, y.0), _mm256_sub_ps(x.1, y.1));
    Pair(
        _mm256_add_ps(sum.0, _mm256_andnot_ps(sign, low)),
        _mm256_add_ps(sum.1, _mm256_andnot_ps(sign, high)),
    )
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn zero() -> Pair {
    Pair(_mm256_setzero_ps(), _mm256_setzero_ps())
}

/// The two forms of one sum, from its step. Entered only through [`KERNELS`], which `super::available` hands out after
/// it has seen the features.
macro_rules! kernel {
    ($name:ident, $step:ident) => {
        mod $name {
            use super::{Lane, load, total, zero, $step};

            pub(super) fn one(a: &[Lane], b: &[Lane]) -> f32 {
                // SAFETY: these kernels are handed out only where the features were detected.
                unsafe { one_inner(a, b) }
            }

            pub(super) fn four(a: &[Lane], others: [&[Lane]; 4]) -> [f32; 4] {
                // SAFETY: these kernels are handed out only where the features were detected.
                unsafe { four_inner(a, others) }
            }

            #[target_feature(enable = "avx2,fma")]
            fn one_inner(a: &[Lane], b: &[Lane]) -> f32 {
                let mut sum = zero();
                for (x, y) in a.iter().zip(b) {
                    sum = $step(sum, load(x), load(y));
                }
                total(sum)
            }

            #[target_feature(enable = "avx2,fma")]
            fn four_inner(a: &[Lane], [b, c, d, e]: [&[Lane]; 4]) -> [f32; 4] {
                let mut sums = [zero(); 4];
                for ((((x, b), c), d), e) in a.iter().zip(b).zip(c).zip(d).zip(e) {
                    let x = load(x);
                    sums[0] = $step(sums[0], x, load(b));
                    sums[1] = $step(sums[1], x, load(c));
                    sums[2] = $step(sums[2], x, load(d));
                    sums[3] = $step(sums[3], x, load(e));
                }
                [total(sums[0]), total(sums[1]), total(sums[2]), total(sums[3])]
            }
        }
    };
}

kernel!(dot, dot_step);
kernel!(squared_l2, squared_l2_step);
kernel!(l1, l1_step);
