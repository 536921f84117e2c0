//! The innermost products: a few rows by one panel.
//!
//! The recipe, the same for one row and for many, packed or unpacked, on every instruction set:
//! for each block of 32 an exact integer dot product `I`, then `acc = fma(I, d, acc)` and, with a minimum, `acc = fma(m, S, acc)`
//! where `S` is the block's sum of activations (Q4_0 has the minimum `-8 d`); blocks in order; at the end `y = acc · s`. Floats: `acc = fma(x, w, acc)` in order of `k`.
//! So a result depends on its row and its column alone.
#![allow(unsafe_code)]

use super::super::activations::Activations;
use super::super::lanes::{LANES, Lanes};
use super::super::packed::{BLOCK, PANEL};

pub(super) const NIBBLE: u8 = 0;
pub(super) const NIBBLE_MIN: u8 = 1;
pub(super) const NIBBLE_WIDE: u8 = 2;
pub(super) const BYTE: u8 = 3;
/// An unpacked panel of 4-bit weights (any kind), and of 8-bit ones.
pub(super) const WIDE_NIBBLE: u8 = 4;
pub(super) const WIDE_BYTE: u8 = 5;

/// Bytes of an unpacked record: 32 × 32 bytes of weights, 32 f32 scales, 32 f32 minima.
pub(super) const UNPACKED_RECORD: usize = 1024 + 128 + 128;

/// One tile of results.
pub(super) type Tile<const R: usize> = [[f32; PANEL]; R];

const fn record_bytes(kind: u8) -> usize {
    match kind {
        WIDE_NIBBLE | WIDE_BYTE => UNPACKED_RECORD,
        NIBBLE => 576,
        NIBBLE_MIN => 640,
        NIBBLE_WIDE => 768,
        _ => 1088,
    }
}

/// The weights of steps `i` and `i + 4` (four `k` each) of a record, 16 columns from `c`.
#[inline(always)]
unsafe fn weights<L: Lanes, const KIND: u8>(record: *const u8, i: usize, c: usize) -> (L::B, L::B) {
    // SAFETY: vectors 0..16 of a byte record, 0..8 of a nibble record.
    unsafe {
        if KIND >= BYTE {
            let (a, b) = (
                L::load_bytes(record.add(128 * i + 64 * c)),
                L::load_bytes(record.add(128 * (i + 4) + 64 * c)),
            );
            if KIND == BYTE { (L::prepare_i8(a), L::prepare_i8(b)) } else { (a, b) }
        } else {
            let v = L::load_bytes(record.add(128 * i + 64 * c));
            (L::low_nibbles(v), L::high_nibbles(v))
        }
    }
}

/// Scales (and minima) of 16 columns from `c`.
#[inline(always)]
unsafe fn scales<L: Lanes, const KIND: u8>(record: *const u8, c: usize) -> (L::F, L::F) {
    // SAFETY: the offsets are those of the record's layout.
    unsafe {
        match KIND {
            WIDE_NIBBLE | WIDE_BYTE => {
                let d = record.add(1024).cast::<f32>();
                (L::load(d.add(LANES * c)), L::load(d.add(PANEL + LANES * c)))
            }
            NIBBLE_WIDE => {
                let d = record.add(512).cast::<f32>();
                (L::load(d.add(LANES * c)), L::load(d.add(PANEL + LANES * c)))
            }
            NIBBLE_MIN => {
                let d = record.add(512).cast::<u16>();
                (L::load_f16(d.add(LANES * c)), L::load_f16(d.add(PANEL + LANES * c)))
            }
            NIBBLE => {
                // d · (q - 8) = d · q - 8 d
                let d = L::load_f16(record.add(512).cast::<u16>().add(LANES * c));
                (d, L::mul(d, L::splat(-8.0)))
            }
            _ => (L::load_f16(record.add(1024).cast::<u16>().add(LANES * c)), L::splat(0.0)),
        }
    }
}

/// Whether the weights are signed bytes.
const fn is_byte(kind: u8) -> bool {
    kind == BYTE || kind == WIDE_BYTE
}

#[inline(always)]
unsafe fn dot<L: Lanes, const KIND: u8>(acc: L::I, w: L::B, a: i32) -> L::I {
    // SAFETY: register arithmetic.
    unsafe { if is_byte(KIND) { L::dot_i8(acc, w, a) } else { L::dot_u4(acc, w, a) } }
}

/// Rows `row..row + R` of `x` times one integer panel of `records` blocks.
///
/// # Safety
/// `panel` holds `records` records of the kind; `x` has the rows, quantised, of `32 · records` values.
#[inline(always)]
pub(super) unsafe fn integer<L: Lanes, const R: usize, const KIND: u8>(
    panel: *const u8,
    records: usize,
    x: &Activations,
    row: usize,
    out: &mut Tile<R>,
) {
    let has_min = !is_byte(KIND);
    let offset = if is_byte(KIND) { -L::BIAS } else { 0 };
    // SAFETY: rows and records are within bounds by the caller's contract.
    unsafe {
        let stride = 2 * BLOCK * records;
        let a = x.split.as_ptr().add(row * stride);
        let sums = x.sums.as_ptr().add(row * records);
        let sums_f32 = x.sums_f32.as_ptr().add(row * records);
        let mut acc = [[L::splat(0.0); 2]; R];
        for b in 0..records {
            let record = panel.add(b * record_bytes(KIND));
            let mut hi = [[L::splat_i(0); 2]; R];
            let mut lo = hi;
            if offset != 0 {
                for r in 0..R {
                    lo[r] = [L::splat_i(offset * *sums.add(r * records + b)); 2];
                }
            }
            for i in 0..4 {
                let (w0, w1) = (weights::<L, KIND>(record, i, 0), weights::<L, KIND>(record, i, 1));
                for r in 0..R {
                    let a = a.add(r * stride + 64 * b + 8 * i).cast::<i32>();
                    let (h, l) = (a.read_unaligned(), a.add(1).read_unaligned());
                    hi[r] = [dot::<L, KIND>(hi[r][0], w0.0, h), dot::<L, KIND>(hi[r][1], w1.0, h)];
                    lo[r] = [dot::<L, KIND>(lo[r][0], w0.0, l), dot::<L, KIND>(lo[r][1], w1.0, l)];
                }
                for r in 0..R {
                    let a = a.add(r * stride + 64 * b + 8 * (i + 4)).cast::<i32>();
                    let (h, l) = (a.read_unaligned(), a.add(1).read_unaligned());
                    hi[r] = [dot::<L, KIND>(hi[r][0], w0.1, h), dot::<L, KIND>(hi[r][1], w1.1, h)];
                    lo[r] = [dot::<L, KIND>(lo[r][0], w0.1, l), dot::<L, KIND>(lo[r][1], w1.1, l)];
                }
            }
            for c in 0..2 {
                let (d, m) = scales::<L, KIND>(record, c);
                for r in 0..R {
                    acc[r][c] = L::fma(L::to_f32(L::join(hi[r][c], lo[r][c])), d, acc[r][c]);
                    if has_min {
                        acc[r][c] = L::fma(m, L::splat(*sums_f32.add(r * records + b)), acc[r][c]);
                    }
                }
            }
        }
        for r in 0..R {
            let scale = L::splat(x.scale[row + r]);
            L::store(out[r].as_mut_ptr(), L::mul(acc[r][0], scale));
            L::store(out[r].as_mut_ptr().add(LANES), L::mul(acc[r][1], scale));
        }
    }
}

/// Unpacks a panel to bytes and f32 scales, for many rows.
///
/// # Safety
/// `panel` holds `records` records of the kind, `out` has room for as many of [`UNPACKED_RECORD`] bytes, aligned for f32.
#[inline(always)]
pub(super) unsafe fn unpack<L: Lanes, const KIND: u8>(panel: *const u8, records: usize, out: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        for b in 0..records {
            let (record, out) = (panel.add(b * record_bytes(KIND)), out.add(b * UNPACKED_RECORD));
            for c in 0..2 {
                for i in 0..4 {
                    let (a, b) = weights::<L, KIND>(record, i, c);
                    L::store_bytes(out.add(128 * i + 64 * c), a);
                    L::store_bytes(out.add(128 * (i + 4) + 64 * c), b);
                }
                let (d, m) = scales::<L, KIND>(record, c);
                let to = out.add(1024).cast::<f32>();
                L::store(to.add(LANES * c), d);
                L::store(to.add(PANEL + LANES * c), m);
            }
        }
    }
}

/// How a float panel stores its values.
pub(super) trait Stored {
    const BYTES: usize;
    /// # Safety
    /// `p` points to sixteen stored values.
    unsafe fn load<L: Lanes>(p: *const u8) -> L::F;
}

pub(super) struct Single;
pub(super) struct Half;
pub(super) struct Brain;

impl Stored for Single {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L::F {
        // SAFETY: the caller's contract.
        unsafe { L::load(p.cast()) }
    }
}
impl Stored for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L::F {
        // SAFETY: the caller's contract.
        unsafe { L::load_f16(p.cast()) }
    }
}
impl Stored for Brain {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L::F {
        // SAFETY: the caller's contract.
        unsafe { L::load_bf16(p.cast()) }
    }
}

/// Rows `row..row + R` of `x` times one float panel.
///
/// # Safety
/// `panel` holds `x.k` rows of 32 values stored as `S`; `x` has the rows.
#[inline(always)]
pub(super) unsafe fn float<L: Lanes, S: Stored, const R: usize>(
    panel: *const u8,
    x: &Activations,
    row: usize,
    out: &mut Tile<R>,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let a = x.float.as_ptr().add(row * x.k);
        let mut acc = [[L::splat(0.0); 2]; R];
        for k in 0..x.k {
            let w = panel.add(k * PANEL * S::BYTES);
            let (w0, w1) = (S::load::<L>(w), S::load::<L>(w.add(LANES * S::BYTES)));
            for r in 0..R {
                let a = L::splat(*a.add(r * x.k + k));
                acc[r][0] = L::fma(a, w0, acc[r][0]);
                acc[r][1] = L::fma(a, w1, acc[r][1]);
            }
        }
        for r in 0..R {
            L::store(out[r].as_mut_ptr(), acc[r][0]);
            L::store(out[r].as_mut_ptr().add(LANES), acc[r][1]);
        }
    }
}
