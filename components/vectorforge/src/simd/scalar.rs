//! Plain Rust, written so that the compiler can vectorise it: the fallback, and what the others are read against.

use super::{Kernel, Kernels, LANE, Lane};

pub(super) const KERNELS: Kernels = Kernels {
    name: "scalar",
    dot: Kernel { one: |a, b| sum(a, b, |x, y| x * y), four: |a, bs| bs.map(|b| sum(a, b, |x, y| x * y)) },
    squared_l2: Kernel {
        one: |a, b| sum(a, b, |x, y| (x - y) * (x - y)),
        four: |a, bs| bs.map(|b| sum(a, b, |x, y| (x - y) * (x - y))),
    },
    l1: Kernel {
        one: |a, b| sum(a, b, |x, y| (x - y).abs()),
        four: |a, bs| bs.map(|b| sum(a, b, |x, y| (x - y).abs())),
    },
};

#[inline(always)]
#[allow(clippy::inline_always)]
fn sum(a: &[Lane], b: &[Lane], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANE];
    for (x, y) in a.iter().zip(b) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(x.0[lane], y.0[lane]);
        }
    }
    sums.iter().sum()
}
