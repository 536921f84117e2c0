//! Sixteen lanes of f32 or i32: the one vocabulary in which every kernel is written.
//!
//! A kernel is generic over [`Lanes`] and is instantiated once for each instruction set inside a function that enables
//! it (see [`crate::cpu::isa`]). Every operation is defined to the last bit (fused multiply-add, round to nearest even, integer dot
//! products without saturation), so a kernel gives the same bits on every instruction set.
#![allow(unsafe_code, clippy::missing_safety_doc)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::{Avx512, Avx512Vnni};
pub use scalar::Scalar;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen lanes on one instruction set.
///
/// # Safety
/// Every method may be called only where the instruction set is present, and pointers must be valid for the sixteen
/// elements (or 64 bytes) that the method names. No alignment is needed.
pub unsafe trait Lanes: Copy + 'static {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// 64 bytes: four of each of sixteen columns.
    type B: Copy;

    /// What [`Self::dot_i8`] adds to each weight: it returns `acc + Σ (w + BIAS) · a`.
    const BIAS: i32;
    /// Whether unpacking a panel pays when many rows share it.
    const UNPACKS: bool;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// Sixteen f32 from memory.
    unsafe fn load(p: *const f32) -> Self::F;
    /// Sixteen f32 to memory.
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Sixteen IEEE half floats, widened (exact).
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Sixteen f32 rounded to IEEE half floats, nearest even.
    unsafe fn store_f16(p: *mut u16, v: Self::F);
    /// Sixteen bfloat16, widened (exact).
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// `a + b`
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b` (so `b` when either is NaN).
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b` (so `b` when either is NaN).
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `|a|`
    unsafe fn abs(a: Self::F) -> Self::F;
    /// `a`'s bits with the sign of `b`, for `a >= 0`.
    unsafe fn with_sign_of(a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer, ties to even; any value for what does not fit.
    unsafe fn round(a: Self::F) -> Self::I;
    /// To f32, nearest even.
    unsafe fn to_f32(a: Self::I) -> Self::F;
    /// `2^n` for `n` in `-126..=127`.
    unsafe fn exp2i(n: Self::I) -> Self::F;

    /// All lanes `x`.
    unsafe fn splat_i(x: i32) -> Self::I;
    /// Lane sums of two vectors: `Σ a + Σ b`.
    unsafe fn sum_i(a: Self::I, b: Self::I) -> i32;
    /// `(hi << 8) + lo`
    unsafe fn join(hi: Self::I, lo: Self::I) -> Self::I;
    /// Splits 16-bit integers, `|q| <= 32512`, into bytes with `256 · hi + lo ≈ q`, both in `-127..=127`. Exact but for a low byte of
    /// -128, which becomes -127: a signed byte that can be negated keeps the dot products below exact without VNNI.
    unsafe fn split(q: Self::I) -> (Self::I, Self::I);
    /// Stores, for each group of four lanes, four bytes `hi` then four bytes `lo` (32 bytes in all).
    unsafe fn store_split(p: *mut i8, hi: Self::I, lo: Self::I);

    /// 64 bytes from memory.
    unsafe fn load_bytes(p: *const u8) -> Self::B;
    /// 64 bytes to memory.
    unsafe fn store_bytes(p: *mut u8, v: Self::B);
    /// The low nibble of each byte.
    unsafe fn low_nibbles(v: Self::B) -> Self::B;
    /// The high nibble of each byte.
    unsafe fn high_nibbles(v: Self::B) -> Self::B;
    /// Each signed byte as this set's [`Self::dot_i8`] wants it.
    unsafe fn prepare_i8(v: Self::B) -> Self::B;
    /// `acc[n] + Σ_t w[n][t] · a[t]` over four bytes `t`; `w` unsigned, at most 15; `a` signed (an i32 holds the four).
    unsafe fn dot_u4(acc: Self::I, w: Self::B, a: i32) -> Self::I;
    /// `acc[n] + Σ_t (w[n][t] + BIAS) · a[t]`, `w` signed and prepared, neither ever -128.
    unsafe fn dot_i8(acc: Self::I, w: Self::B, a: i32) -> Self::I;

    /// The largest lane.
    #[inline(always)]
    unsafe fn reduce_max(v: Self::F) -> f32 {
        let mut t = [0f32; LANES];
        // SAFETY: `t` has sixteen elements.
        unsafe { Self::store(t.as_mut_ptr(), v) };
        t.iter().copied().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    /// The sum of all lanes as a balanced tree: lane `i` with lane `i + 8`, then `+ 4`, `+ 2`, `+ 1`.
    #[inline(always)]
    unsafe fn reduce_add(v: Self::F) -> f32 {
        let mut t = [0f32; LANES];
        // SAFETY: `t` has sixteen elements.
        unsafe { Self::store(t.as_mut_ptr(), v) };
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                t[i] += t[i + half];
            }
            half /= 2;
        }
        t[0]
    }
}
