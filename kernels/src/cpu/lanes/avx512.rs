//! One 512-bit register for sixteen lanes; with VNNI a dot product of four bytes is one instruction.

use std::arch::x86_64::*;

use super::Lanes;

/// AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub struct Avx512;

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub struct Avx512Vnni;

macro_rules! float_lanes {
    () => {
        type F = __m512;
        type I = __m512i;
        type B = __m512i;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            _mm512_set1_ps(x)
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            _mm512_loadu_ps(p)
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            _mm512_storeu_ps(p, v);
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> __m512 {
            _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
        }
        #[inline(always)]
        unsafe fn store_f16(p: *mut u16, v: __m512) {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> __m512 {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            _mm512_add_ps(a, b)
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            _mm512_sub_ps(a, b)
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            _mm512_mul_ps(a, b)
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            _mm512_div_ps(a, b)
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            _mm512_max_ps(a, b)
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            _mm512_min_ps(a, b)
        }
        #[inline(always)]
        unsafe fn abs(a: __m512) -> __m512 {
            _mm512_abs_ps(a)
        }
        #[inline(always)]
        unsafe fn with_sign_of(a: __m512, b: __m512) -> __m512 {
            _mm512_or_ps(a, _mm512_and_ps(b, _mm512_set1_ps(-0.0)))
        }
        #[inline(always)]
        unsafe fn round(a: __m512) -> __m512i {
            _mm512_cvtps_epi32(a)
        }
        #[inline(always)]
        unsafe fn to_f32(a: __m512i) -> __m512 {
            _mm512_cvtepi32_ps(a)
        }
        #[inline(always)]
        unsafe fn exp2i(n: __m512i) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(n, _mm512_set1_epi32(127))))
        }
        #[inline(always)]
        unsafe fn splat_i(x: i32) -> __m512i {
            _mm512_set1_epi32(x)
        }
        #[inline(always)]
        unsafe fn sum_i(a: __m512i, b: __m512i) -> i32 {
            _mm512_reduce_add_epi32(_mm512_add_epi32(a, b))
        }
        #[inline(always)]
        unsafe fn join(hi: __m512i, lo: __m512i) -> __m512i {
            _mm512_add_epi32(_mm512_slli_epi32::<8>(hi), lo)
        }
        #[inline(always)]
        unsafe fn split(q: __m512i) -> (__m512i, __m512i) {
            let hi = _mm512_srai_epi32::<8>(_mm512_add_epi32(q, _mm512_set1_epi32(128)));
            let lo = _mm512_sub_epi32(q, _mm512_slli_epi32::<8>(hi));
            (hi, _mm512_max_epi32(lo, _mm512_set1_epi32(-127)))
        }
        #[inline(always)]
        unsafe fn store_split(p: *mut i8, hi: __m512i, lo: __m512i) {
            let (hi, lo) = (_mm512_cvtepi32_epi8(hi), _mm512_cvtepi32_epi8(lo));
            _mm_storeu_si128(p.cast(), _mm_unpacklo_epi32(hi, lo));
            _mm_storeu_si128(p.add(16).cast(), _mm_unpackhi_epi32(hi, lo));
        }
        #[inline(always)]
        unsafe fn load_bytes(p: *const u8) -> __m512i {
            _mm512_loadu_si512(p.cast())
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: __m512i) {
            _mm512_storeu_si512(p.cast(), v);
        }
        #[inline(always)]
        unsafe fn low_nibbles(v: __m512i) -> __m512i {
            _mm512_and_si512(v, _mm512_set1_epi8(0x0f))
        }
        #[inline(always)]
        unsafe fn high_nibbles(v: __m512i) -> __m512i {
            _mm512_and_si512(_mm512_srli_epi16::<4>(v), _mm512_set1_epi8(0x0f))
        }
        #[inline(always)]
        unsafe fn reduce_max(v: __m512) -> f32 {
            _mm512_reduce_max_ps(v)
        }
    };
}

// SAFETY: the dispatcher calls these only after `is_x86_feature_detected!` found every feature named on the type.
#[allow(unsafe_op_in_unsafe_fn)]
unsafe impl Lanes for Avx512 {
    const BIAS: i32 = 0;
    const UNPACKS: bool = true;

    float_lanes!();

    #[inline(always)]
    unsafe fn prepare_i8(v: __m512i) -> __m512i {
        v
    }
    #[inline(always)]
    unsafe fn dot_u4(acc: __m512i, w: __m512i, a: i32) -> __m512i {
        // A pair sum is at most 2 · 15 · 128, far from saturation.
        let pairs = _mm512_maddubs_epi16(w, _mm512_set1_epi32(a));
        _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }
    #[inline(always)]
    unsafe fn dot_i8(acc: __m512i, w: __m512i, a: i32) -> __m512i {
        // |w| · (a with the sign of w): a pair sum is at most 2 · 127 · 127, just below saturation.
        let a = _mm512_set1_epi32(a);
        let signed = _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(w), _mm512_setzero_si512(), a);
        let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), signed);
        _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }
}

// SAFETY: the dispatcher calls these only after `is_x86_feature_detected!` found every feature named on the type.
#[allow(unsafe_op_in_unsafe_fn)]
unsafe impl Lanes for Avx512Vnni {
    const BIAS: i32 = 128;
    const UNPACKS: bool = true;

    float_lanes!();

    #[inline(always)]
    unsafe fn prepare_i8(v: __m512i) -> __m512i {
        _mm512_xor_si512(v, _mm512_set1_epi8(-128))
    }
    #[inline(always)]
    unsafe fn dot_u4(acc: __m512i, w: __m512i, a: i32) -> __m512i {
        _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a))
    }
    #[inline(always)]
    unsafe fn dot_i8(acc: __m512i, w: __m512i, a: i32) -> __m512i {
        _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a))
    }
}
