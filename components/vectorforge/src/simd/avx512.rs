//! AVX-512: one register a lane, one accumulator a row.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _mm512_abs_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_reduce_add_ps,
    _mm512_setzero_ps, _mm512_sub_ps,
};

use super::{Kernel, Kernels, Lane};

pub(super) const KERNELS: Kernels = Kernels {
    name: "avx512",
    dot: Kernel { one: dot::one, four: dot::four },
    squared_l2: Kernel { one: squared_l2::one, four: squared_l2::four },
    l1: Kernel { one: l1::one, four: l1::four },
};

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lane: &Lane) -> __m512 {
    // SAFETY: a lane is 64 bytes, aligned to 64.
    unsafe { _mm512_load_ps(lane.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn total(sum: __m512) -> f32 {
    _mm512_reduce_add_ps(sum)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn dot_step(sum: __m512, x: __m512, y: __m512) -> __m512 {
    _mm512_fmadd_ps(x, y, sum)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn squared_l2_step(sum: __m512, x: __m512, y: __m512) -> __m512 {
    let difference = _mm512_sub_ps(x, y);
    _mm512_fmadd_ps(difference, difference, sum)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn l1_step(sum: __m512, x: __m512, y: __m512) -> __m512 {
    _mm512_add_ps(sum, _mm512_abs_ps(_mm512_sub_ps(x, y)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> __m512 {
    _mm512_setzero_ps()
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

            #[target_feature(enable = "avx512f")]
            fn one_inner(a: &[Lane], b: &[Lane]) -> f32 {
                let mut sum = zero();
                for (x, y) in a.iter().zip(b) {
                    sum = $step(sum, load(x), load(y));
                }
                total(sum)
            }

            #[target_feature(enable = "avx512f")]
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
