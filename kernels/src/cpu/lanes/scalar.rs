//! The definition of every lane operation, and what machines without AVX2 run. Calls are not inlined: this is for correctness, and
//! unrolled sixteenfold in every kernel it would be most of the crate's code.
#![allow(clippy::needless_range_loop)]

use std::array::from_fn;

use half::{bf16, f16};

use super::{LANES, Lanes};

/// Plain Rust, one lane at a time.
#[derive(Clone, Copy)]
pub struct Scalar;

type F = [f32; LANES];
type I = [i32; LANES];

// SAFETY: uses no instruction that the build target lacks.
#[allow(unsafe_op_in_unsafe_fn)]
unsafe impl Lanes for Scalar {
    type F = F;
    type I = I;
    type B = [u8; 64];

    const BIAS: i32 = 0;
    const UNPACKS: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        p.cast::<F>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        p.cast::<F>().write_unaligned(v);
    }
    #[inline(never)]
    unsafe fn load_f16(p: *const u16) -> F {
        let bits = p.cast::<[u16; LANES]>().read_unaligned();
        bits.map(|b| f16::from_bits(b).to_f32())
    }
    #[inline(never)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        p.cast::<[u16; LANES]>().write_unaligned(v.map(|x| f16::from_f32(x).to_bits()));
    }
    #[inline(never)]
    unsafe fn load_bf16(p: *const u16) -> F {
        let bits = p.cast::<[u16; LANES]>().read_unaligned();
        bits.map(|b| bf16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(never)]
    unsafe fn div(a: F, b: F) -> F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(never)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn with_sign_of(a: F, b: F) -> F {
        from_fn(|i| a[i].copysign(b[i]))
    }
    #[inline(never)]
    unsafe fn round(a: F) -> I {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(never)]
    unsafe fn to_f32(a: I) -> F {
        a.map(|x| x as f32)
    }
    #[inline(never)]
    unsafe fn exp2i(n: I) -> F {
        n.map(|n| f32::from_bits(((n + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn splat_i(x: i32) -> I {
        [x; LANES]
    }
    #[inline(never)]
    unsafe fn sum_i(a: I, b: I) -> i32 {
        a.iter().chain(&b).fold(0i32, |s, &x| s.wrapping_add(x))
    }
    #[inline(never)]
    unsafe fn join(hi: I, lo: I) -> I {
        from_fn(|i| (hi[i] << 8).wrapping_add(lo[i]))
    }
    #[inline(never)]
    unsafe fn split(q: I) -> (I, I) {
        let hi = q.map(|q| (q + 128) >> 8);
        (hi, from_fn(|i| (q[i] - (hi[i] << 8)).max(-127)))
    }
    #[inline(never)]
    unsafe fn store_split(p: *mut i8, hi: I, lo: I) {
        let mut bytes = [0i8; 32];
        for i in 0..LANES {
            bytes[i / 4 * 8 + i % 4] = hi[i] as i8;
            bytes[i / 4 * 8 + 4 + i % 4] = lo[i] as i8;
        }
        p.cast::<[i8; 32]>().write_unaligned(bytes);
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> [u8; 64] {
        p.cast::<[u8; 64]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: [u8; 64]) {
        p.cast::<[u8; 64]>().write_unaligned(v);
    }
    #[inline(never)]
    unsafe fn low_nibbles(v: [u8; 64]) -> [u8; 64] {
        v.map(|b| b & 0x0f)
    }
    #[inline(never)]
    unsafe fn high_nibbles(v: [u8; 64]) -> [u8; 64] {
        v.map(|b| b >> 4)
    }
    #[inline(always)]
    unsafe fn prepare_i8(v: [u8; 64]) -> [u8; 64] {
        v
    }
    #[inline(never)]
    unsafe fn dot_u4(acc: I, w: [u8; 64], a: i32) -> I {
        let a = a.to_le_bytes();
        from_fn(|n| (0..4).fold(acc[n], |s, t| s + i32::from(w[4 * n + t]) * i32::from(a[t] as i8)))
    }
    #[inline(never)]
    unsafe fn dot_i8(acc: I, w: [u8; 64], a: i32) -> I {
        let a = a.to_le_bytes();
        from_fn(|n| (0..4).fold(acc[n], |s, t| s + i32::from(w[4 * n + t] as i8) * i32::from(a[t] as i8)))
    }
}
