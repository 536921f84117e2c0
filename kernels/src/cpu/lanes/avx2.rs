//! Two 256-bit registers for sixteen lanes.

use std::arch::x86_64::*;

use super::Lanes;

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2;

type F = (__m256, __m256);
type I = (__m256i, __m256i);

// SAFETY: the dispatcher calls these only after `is_x86_feature_detected!` found AVX2, FMA and F16C.
#[allow(unsafe_op_in_unsafe_fn)]
unsafe impl Lanes for Avx2 {
    type F = F;
    type I = I;
    type B = I;

    const BIAS: i32 = 0;
    const UNPACKS: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        (_mm256_set1_ps(x), _mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8)))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        _mm256_storeu_ps(p, v.0);
        _mm256_storeu_ps(p.add(8), v.1);
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        (_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())))
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
        _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1));
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        let widen = |p: *const u16| {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        };
        (widen(p), widen(p.add(8)))
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        (_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        let sign = _mm256_set1_ps(-0.0);
        (_mm256_andnot_ps(sign, a.0), _mm256_andnot_ps(sign, a.1))
    }
    #[inline(always)]
    unsafe fn with_sign_of(a: F, b: F) -> F {
        let sign = _mm256_set1_ps(-0.0);
        (_mm256_or_ps(a.0, _mm256_and_ps(b.0, sign)), _mm256_or_ps(a.1, _mm256_and_ps(b.1, sign)))
    }
    #[inline(always)]
    unsafe fn round(a: F) -> I {
        (_mm256_cvtps_epi32(a.0), _mm256_cvtps_epi32(a.1))
    }
    #[inline(always)]
    unsafe fn to_f32(a: I) -> F {
        (_mm256_cvtepi32_ps(a.0), _mm256_cvtepi32_ps(a.1))
    }
    #[inline(always)]
    unsafe fn exp2i(n: I) -> F {
        let power =
            |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
        (power(n.0), power(n.1))
    }
    #[inline(always)]
    unsafe fn splat_i(x: i32) -> I {
        (_mm256_set1_epi32(x), _mm256_set1_epi32(x))
    }
    #[inline(always)]
    unsafe fn sum_i(a: I, b: I) -> i32 {
        let s = _mm256_add_epi32(_mm256_add_epi32(a.0, a.1), _mm256_add_epi32(b.0, b.1));
        let s = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256::<1>(s));
        let s = _mm_add_epi32(s, _mm_shuffle_epi32::<0b01_00_11_10>(s));
        _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32::<0b10_11_00_01>(s)))
    }
    #[inline(always)]
    unsafe fn join(hi: I, lo: I) -> I {
        (
            _mm256_add_epi32(_mm256_slli_epi32::<8>(hi.0), lo.0),
            _mm256_add_epi32(_mm256_slli_epi32::<8>(hi.1), lo.1),
        )
    }
    #[inline(always)]
    unsafe fn split(q: I) -> (I, I) {
        let high = |q| _mm256_srai_epi32::<8>(_mm256_add_epi32(q, _mm256_set1_epi32(128)));
        let low = |q, hi| {
            _mm256_max_epi32(_mm256_sub_epi32(q, _mm256_slli_epi32::<8>(hi)), _mm256_set1_epi32(-127))
        };
        let hi = (high(q.0), high(q.1));
        (hi, (low(q.0, hi.0), low(q.1, hi.1)))
    }
    #[inline(always)]
    unsafe fn store_split(p: *mut i8, hi: I, lo: I) {
        for (i, (hi, lo)) in [(hi.0, lo.0), (hi.1, lo.1)].into_iter().enumerate() {
            // Packing works within 128-bit halves: the low eight bytes of each are one group, four hi, four lo.
            let words = _mm256_packs_epi32(hi, lo);
            let bytes = _mm256_packs_epi16(words, words);
            _mm_storel_epi64(p.add(16 * i).cast(), _mm256_castsi256_si128(bytes));
            _mm_storel_epi64(p.add(16 * i + 8).cast(), _mm256_extracti128_si256::<1>(bytes));
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> I {
        (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast()))
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: I) {
        _mm256_storeu_si256(p.cast(), v.0);
        _mm256_storeu_si256(p.add(32).cast(), v.1);
    }
    #[inline(always)]
    unsafe fn low_nibbles(v: I) -> I {
        let mask = _mm256_set1_epi8(0x0f);
        (_mm256_and_si256(v.0, mask), _mm256_and_si256(v.1, mask))
    }
    #[inline(always)]
    unsafe fn high_nibbles(v: I) -> I {
        let mask = _mm256_set1_epi8(0x0f);
        let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
        (high(v.0), high(v.1))
    }
    #[inline(always)]
    unsafe fn prepare_i8(v: I) -> I {
        v
    }
    #[inline(always)]
    unsafe fn dot_u4(acc: I, w: I, a: i32) -> I {
        // A pair sum is at most 2 · 15 · 127, far from saturation.
        let (a, one) = (_mm256_set1_epi32(a), _mm256_set1_epi16(1));
        let dot = |acc, w| _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), one));
        (dot(acc.0, w.0), dot(acc.1, w.1))
    }
    #[inline(always)]
    unsafe fn dot_i8(acc: I, w: I, a: i32) -> I {
        // |w| · (a with the sign of w): a pair sum is at most 2 · 127 · 127, just below saturation.
        let (a, one) = (_mm256_set1_epi32(a), _mm256_set1_epi16(1));
        let dot = |acc, w| {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, one))
        };
        (dot(acc.0, w.0), dot(acc.1, w.1))
    }
}
