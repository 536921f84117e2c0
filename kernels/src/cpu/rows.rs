//! Operations on each row alone: norms, rotary positions, quantising.
#![allow(unsafe_code)]

use super::Cpu;
use super::activations::{Activations, SplitRow, quantize_row};
use super::isa::instantiate;
use super::lanes::{LANES, Lanes};
use super::packed::BLOCK;

/// Rows that one task takes.
const ROWS_A_TASK: usize = 8;

/// Cosines and sines of rotary positions, `[positions × half]` each.
pub struct Rotary {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// Tables for heads of `2 · half` values: angle `position · base^(-i / half)`, computed in f64 from a frequency rounded
    /// to f32, as the reference implementations round it. `divisors[i]`, when given, divides frequency `i` (long-context scaling).
    pub fn new(positions: usize, half: usize, base: f64, divisors: Option<&[f32]>) -> Self {
        let frequencies: Vec<f64> = (0..half)
            .map(|i| {
                let frequency = 1.0 / base.powf(i as f64 / half as f64);
                f64::from((frequency / divisors.map_or(1.0, |d| f64::from(d[i]))) as f32)
            })
            .collect();
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let (sin, cos) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
        Self { half, cos, sin }
    }

    /// Positions in the tables.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

/// Rows of a slice that threads write apart from one another.
#[derive(Clone, Copy)]
struct Rows<T> {
    data: *mut T,
    stride: usize,
}
// SAFETY: each task touches its own rows only.
unsafe impl<T: Send> Sync for Rows<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Rows<T> {}

impl<T> Rows<T> {
    fn new(data: &mut [T], stride: usize) -> Self {
        Self { data: data.as_mut_ptr(), stride }
    }

    /// # Safety
    /// Row `i` exists and nobody else uses it meanwhile.
    #[allow(clippy::mut_from_ref)]
    unsafe fn row<'a>(&self, i: usize) -> &'a mut [T] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.stride) }
    }
}

/// The quantised parts of activations, shared by tasks that write different rows.
#[derive(Clone, Copy)]
struct Split {
    bytes: Rows<i8>,
    scale: Rows<f32>,
    sums: Rows<i32>,
    sums_f32: Rows<f32>,
}

impl Split {
    fn new(x: &mut Activations) -> Self {
        let blocks = x.k / BLOCK;
        Self {
            bytes: Rows::new(&mut x.split, 2 * x.k),
            scale: Rows::new(&mut x.scale, 1),
            sums: Rows::new(&mut x.sums, blocks),
            sums_f32: Rows::new(&mut x.sums_f32, blocks),
        }
    }

    /// # Safety
    /// As [`Rows::row`].
    unsafe fn row<'a>(&self, i: usize) -> SplitRow<'a> {
        // SAFETY: the caller's contract.
        unsafe {
            SplitRow {
                split: self.bytes.row(i),
                scale: &mut self.scale.row(i)[0],
                sums: self.sums.row(i),
                sums_f32: self.sums_f32.row(i),
            }
        }
    }
}

impl Cpu {
    fn each_row(&self, rows: usize, body: &(dyn Fn(usize) + Sync)) {
        if rows < 2 * ROWS_A_TASK {
            (0..rows).for_each(body);
            return;
        }
        self.pool().run(rows.div_ceil(ROWS_A_TASK), &|task| {
            (task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(rows)).for_each(body);
        });
    }

    /// Quantises all rows of `x`, in place beside the floats.
    ///
    /// # Panics
    /// When a row is no multiple of 32 values.
    pub fn quantize(&self, x: &mut Activations) {
        assert!(x.k.is_multiple_of(BLOCK), "rows of whole blocks");
        let (isa, split) = (self.isa(), Split::new(x));
        let float = &x.float;
        self.each_row(x.rows, &|i| {
            let split = split;
            // SAFETY: each row is visited once; the instruction set is available.
            unsafe { super::activations::quantize(isa, &float[i * x.k..][..x.k], split.row(i)) };
        });
    }

    /// Root-mean-square norm (Zhang and Sennrich, 2019): `y = x / sqrt(mean(x²) + epsilon) · weight`, and the quantised form of `y`
    /// when `quantize` is set.
    ///
    /// # Panics
    /// When `x` has other rows than `y`, or a row is no multiple of 32 values.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], epsilon: f32, y: &mut Activations, quantize: bool) {
        assert!(y.k.is_multiple_of(BLOCK) && weight.len() == y.k && x.len() == y.rows * y.k, "shapes");
        let (isa, k, rows) = (self.isa(), y.k, y.rows);
        let split = Split::new(y);
        let out = Rows::new(&mut y.float, k);
        self.each_row(rows, &|i| {
            let (out, split) = (out, split);
            // SAFETY: each row is visited once; the instruction set is available.
            unsafe {
                let split = quantize.then(|| split.row(i));
                rms_norm(isa, &x[i * k..][..k], weight, epsilon, out.row(i), split);
            }
        });
    }

    /// Layer norm (Ba et al., 2016) of `x`, written to `y` (rows of `weight.len()` values).
    ///
    /// # Panics
    /// When shapes differ or a row is no multiple of 16 values.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
        let k = weight.len();
        assert!(k.is_multiple_of(LANES) && bias.len() == k && x.len() == y.len(), "shapes");
        let (isa, rows) = (self.isa(), x.len() / k);
        let out = Rows::new(y, k);
        self.each_row(rows, &|i| {
            let out = out;
            // SAFETY: each row is visited once; the instruction set is available.
            unsafe { layer_norm(isa, &x[i * k..][..k], weight, bias, epsilon, out.row(i)) };
        });
    }

    /// Rotates the first `heads` heads of each row of `x` (`[rows × stride]`) to its position (Su et al., 2021). The two halves of a head
    /// hold the real and imaginary parts.
    ///
    /// # Panics
    /// When a position is not in the tables or a head is no multiple of 32 values.
    pub fn rotate(&self, x: &mut [f32], stride: usize, heads: usize, positions: &[usize], tables: &Rotary) {
        let half = tables.half;
        assert!(half.is_multiple_of(LANES) && heads * 2 * half <= stride, "shapes");
        assert!(x.len() >= positions.len() * stride, "a row for each position");
        let isa = self.isa();
        let rows = Rows::new(x, stride);
        self.each_row(positions.len(), &|i| {
            let rows = rows;
            let at = positions[i] * half;
            let (cos, sin) = (&tables.cos[at..][..half], &tables.sin[at..][..half]);
            // SAFETY: each row is visited once; the instruction set is available.
            unsafe { rotate(isa, &mut rows.row(i)[..heads * 2 * half], cos, sin) };
        });
    }
}

#[inline(always)]
unsafe fn rms_norm_row<L: Lanes>(
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    y: &mut [f32],
    split: Option<SplitRow<'_>>,
) {
    // SAFETY: all slices have the same length, a multiple of 32.
    unsafe {
        let (mut s0, mut s1) = (L::splat(0.0), L::splat(0.0));
        for x in x.chunks_exact(2 * LANES) {
            let (a, b) = (L::load(x.as_ptr()), L::load(x.as_ptr().add(LANES)));
            s0 = L::fma(a, a, s0);
            s1 = L::fma(b, b, s1);
        }
        let mean = L::reduce_add(L::add(s0, s1)) / x.len() as f32;
        let scale = L::splat(1.0 / (mean + epsilon).sqrt());
        for (i, x) in x.chunks_exact(LANES).enumerate() {
            let v = L::mul(L::mul(L::load(x.as_ptr()), scale), L::load(weight.as_ptr().add(LANES * i)));
            L::store(y.as_mut_ptr().add(LANES * i), v);
        }
        if let Some(split) = split {
            quantize_row::<L>(y, split);
        }
    }
}
instantiate! {
    fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32], split: Option<SplitRow<'_>>) = rms_norm_row
}

#[inline(always)]
unsafe fn layer_norm_row<L: Lanes>(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
    // SAFETY: all slices have the same length, a multiple of 16.
    unsafe {
        let n = x.len() as f32;
        let mut sum = L::splat(0.0);
        for x in x.chunks_exact(LANES) {
            sum = L::add(sum, L::load(x.as_ptr()));
        }
        let mean = L::splat(L::reduce_add(sum) / n);
        let mut square = L::splat(0.0);
        for x in x.chunks_exact(LANES) {
            let d = L::sub(L::load(x.as_ptr()), mean);
            square = L::fma(d, d, square);
        }
        let scale = L::splat(1.0 / (L::reduce_add(square) / n + epsilon).sqrt());
        for (i, x) in x.chunks_exact(LANES).enumerate() {
            let v = L::mul(L::sub(L::load(x.as_ptr()), mean), scale);
            let (w, b) = (L::load(weight.as_ptr().add(LANES * i)), L::load(bias.as_ptr().add(LANES * i)));
            L::store(y.as_mut_ptr().add(LANES * i), L::fma(v, w, b));
        }
    }
}
instantiate! {
    fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) = layer_norm_row
}

#[inline(always)]
unsafe fn rotate_row<L: Lanes>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    // SAFETY: heads are whole, halves multiples of 16.
    unsafe {
        for head in x.chunks_exact_mut(2 * half) {
            for i in (0..half).step_by(LANES) {
                let (re, im) = (head.as_mut_ptr().add(i), head.as_mut_ptr().add(half + i));
                let (a, b) = (L::load(re), L::load(im));
                let (c, s) = (L::load(cos.as_ptr().add(i)), L::load(sin.as_ptr().add(i)));
                L::store(re, L::sub(L::mul(a, c), L::mul(b, s)));
                L::store(im, L::add(L::mul(b, c), L::mul(a, s)));
            }
        }
    }
}
instantiate! { fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) = rotate_row }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed.wrapping_mul(2_654_435_761) | 1;
        (0..n)
            .map(|_| {
                s ^= s << 13;
                s ^= s >> 17;
                s ^= s << 5;
                (s as f32 / u32::MAX as f32) * 6.0 - 3.0
            })
            .collect()
    }

    fn all() -> impl Iterator<Item = Cpu> {
        Isa::ALL.into_iter().flat_map(|isa| [1, 3].into_iter().filter_map(move |t| Cpu::with_isa(t, isa)))
    }

    fn close(got: &[f32], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((f64::from(*g) - w).abs() <= tolerance * w.abs().max(1.0), "{i}: {g}, not {w}");
        }
    }

    #[test]
    fn rms_norm_follows_float64_bit_for_bit_alike() {
        let (k, rows) = (576, 37);
        let (x, w) = (values(k * rows, 1), values(k, 2));
        let want: Vec<f64> = x
            .chunks(k)
            .flat_map(|x| {
                let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / k as f64;
                let w = &w;
                x.iter().enumerate().map(move |(i, &v)| f64::from(v) / (mean + 1e-5).sqrt() * f64::from(w[i]))
            })
            .collect();
        let mut first: Option<Activations> = None;
        for cpu in all() {
            let mut y = Activations::new(k);
            y.resize(rows);
            y.float_mut().fill(f32::NAN);
            cpu.rms_norm(&x, &w, 1e-5, &mut y, true);
            close(y.float(), &want, 1e-6);
            let first = first.get_or_insert_with(|| y.clone());
            assert_eq!(
                (y.float(), &y.split, &y.scale),
                (first.float(), &first.split, &first.scale),
                "{}",
                cpu.isa()
            );
        }
    }

    #[test]
    fn layer_norm_follows_float64_bit_for_bit_alike() {
        let (k, rows) = (384, 19);
        let (x, w, b) = (values(k * rows, 3), values(k, 4), values(k, 5));
        let want: Vec<f64> = x
            .chunks(k)
            .flat_map(|x| {
                let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / k as f64;
                let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / k as f64;
                let (w, b) = (&w, &b);
                x.iter().enumerate().map(move |(i, &v)| {
                    (f64::from(v) - mean) / (variance + 1e-12).sqrt() * f64::from(w[i]) + f64::from(b[i])
                })
            })
            .collect();
        let mut first: Option<Vec<f32>> = None;
        for cpu in all() {
            let mut y = vec![f32::NAN; x.len()];
            cpu.layer_norm(&x, &w, &b, 1e-12, &mut y);
            close(&y, &want, 2e-6);
            assert_eq!(first.get_or_insert_with(|| y.clone()), &y, "{}", cpu.isa());
        }
    }

    #[test]
    fn rotation_follows_complex_multiplication() {
        let (heads, half, stride) = (3, 32, 3 * 64 + 64);
        let positions = [0usize, 1, 17, 2047, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18];
        let tables = Rotary::new(2048, half, 1e5, None);
        let x = values(positions.len() * stride, 7);
        let mut want: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        for (row, &p) in want.chunks_mut(stride).zip(&positions) {
            for head in row[..heads * 64].chunks_mut(64) {
                for i in 0..half {
                    let frequency = f64::from((1.0 / 1e5f64.powf(i as f64 / 32.0)) as f32);
                    let (s, c) = (p as f64 * frequency).sin_cos();
                    let (a, b) = (head[i], head[half + i]);
                    (head[i], head[half + i]) = (a * c - b * s, b * c + a * s);
                }
            }
        }
        let mut first: Option<Vec<f32>> = None;
        for cpu in all() {
            let mut y = x.clone();
            cpu.rotate(&mut y, stride, heads, &positions, &tables);
            close(&y, &want, 1e-6);
            assert_eq!(first.get_or_insert_with(|| y.clone()), &y, "{}", cpu.isa());
        }
    }
}
