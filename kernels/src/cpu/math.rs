//! Elementary functions on lanes. Errors are measured by the tests at the end.
#![allow(unsafe_code)]

use super::lanes::Lanes;

/// `e^x` to 2 units in the last place, `x` clamped to ±87. (Cephes' reduction and polynomial.)
///
/// # Safety
/// The instruction set of `L` is present.
#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: arithmetic on registers; the caller has the instruction set.
    unsafe {
        let x = L::min(L::max(x, L::splat(-87.0)), L::splat(87.0));
        let n = L::round(L::mul(x, L::splat(std::f32::consts::LOG2_E)));
        let nf = L::to_f32(n);
        // ln 2 in two parts, the first with few bits, so that n · part is exact.
        let r = L::fma(nf, L::splat(-0.693_359_4), x);
        let r = L::fma(nf, L::splat(2.121_944_4e-4), r);
        let mut p = L::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
            p = L::fma(p, r, L::splat(c));
        }
        let y = L::add(L::fma(L::mul(r, r), p, r), L::splat(1.0));
        L::mul(y, L::exp2i(n))
    }
}

/// `x / (1 + e^-x)`
///
/// # Safety
/// The instruction set of `L` is present.
#[inline(always)]
pub(crate) unsafe fn silu<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: as in `exp`.
    unsafe { L::div(x, L::add(L::splat(1.0), exp::<L>(L::sub(L::splat(0.0), x)))) }
}

/// `x · Φ(x)` by the error function (absolute error of erf below 2e-7: Abramowitz and Stegun 7.1.26).
///
/// # Safety
/// The instruction set of `L` is present.
#[inline(always)]
pub(crate) unsafe fn gelu<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: as in `exp`.
    unsafe {
        let z = L::mul(L::abs(x), L::splat(std::f32::consts::FRAC_1_SQRT_2));
        let one = L::splat(1.0);
        let t = L::div(one, L::fma(z, L::splat(0.327_591_1), one));
        let mut p = L::splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            p = L::fma(p, t, L::splat(c));
        }
        let tail = L::mul(L::mul(p, t), exp::<L>(L::sub(L::splat(0.0), L::mul(z, z))));
        let erf = L::with_sign_of(L::max(L::sub(one, tail), L::splat(0.0)), x);
        let half = L::mul(x, L::splat(0.5));
        L::fma(half, erf, half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::{Isa, instantiate};
    use crate::cpu::lanes::LANES;

    #[inline(always)]
    unsafe fn apply<L: Lanes>(which: usize, x: &[f32], y: &mut [f32]) {
        for (x, y) in x.chunks_exact(LANES).zip(y.chunks_exact_mut(LANES)) {
            // SAFETY: chunks of sixteen.
            unsafe {
                let v = L::load(x.as_ptr());
                let v = match which {
                    0 => exp::<L>(v),
                    1 => silu::<L>(v),
                    _ => gelu::<L>(v),
                };
                L::store(y.as_mut_ptr(), v);
            }
        }
    }
    instantiate! { fn apply_all(which: usize, x: &[f32], y: &mut [f32]) = apply }

    fn erf(x: f64) -> f64 {
        // Maclaurin series; converges for the arguments tested.
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn functions_follow_float64_and_agree_on_every_instruction_set() {
        let x: Vec<f32> = (0..16_000).map(|i| (i as f32 - 8000.0) * 5e-4 + 1e-5).collect();
        let reference: [fn(f64) -> f64; 3] = [
            f64::exp,
            |x| x / (1.0 + (-x).exp()),
            |x| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        ];
        for (which, reference) in reference.iter().enumerate() {
            let mut scalar = vec![f32::NAN; x.len()];
            // SAFETY: scalar needs nothing.
            unsafe { apply_all(Isa::Scalar, which, &x, &mut scalar) };
            for (x, y) in x.iter().zip(&scalar) {
                let want = reference(f64::from(*x));
                let error = (f64::from(*y) - want).abs();
                let allowed = if which == 2 { 1e-6 } else { 3e-7 * want.abs().max(1e-3) };
                assert!(error <= allowed, "function {which} of {x}: {y}, not {want}");
            }
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                let mut y = vec![f32::NAN; x.len()];
                // SAFETY: available.
                unsafe { apply_all(isa, which, &x, &mut y) };
                assert_eq!(y, scalar, "{isa}");
            }
        }
    }
}
