//! The gradients of `RMSNorm` and `LayerNorm`.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{Tensor, TensorMut};

/// Columns of a row that the kernels hold: 1,024 threads of two 16-byte vectors; with the shares of a bias besides, of one.
const MOST_HIDDEN: usize = 1024 * 2 * 8;
const MOST_LAYER_HIDDEN: usize = 1024 * 8;
/// Threads that the slots are meant for: 1,024 on each multiprocessor of an H100 or H200. A constant, so that sums are the same on every GPU.
const ALL_THREADS: usize = 132 * 1024;
const MOST_SLOTS: usize = 1024;

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// [`super::rms_norm`].
    Rms,
    /// [`super::layer_norm`].
    Layer,
}

/// What [`norm_gradient`] writes.
#[derive(Debug)]
pub struct NormGradients<'a, 'b> {
    /// Of x, `[rows, hidden]`.
    pub x: &'a mut TensorMut<'b, bf16, 2>,
    /// Of the weight, `[hidden]`.
    pub weight: &'a mut TensorMut<'b, bf16, 1>,
    /// Of the bias, `[hidden]`: of a `LayerNorm` always, of an `RMSNorm` never.
    pub bias: Option<&'a mut TensorMut<'b, bf16, 1>>,
    /// Scratch of at least [`NormGradients::scratch`] numbers.
    pub slots: &'a mut TensorMut<'b, f32, 1>,
}

impl NormGradients<'_, '_> {
    /// Numbers of scratch for rows of an `[rows, hidden]`: at most 2,112 rows' worth.
    #[must_use]
    pub fn scratch(norm: Norm, [rows, hidden]: [usize; 2]) -> usize {
        slots([rows, hidden]).saturating_mul(hidden) * if norm == Norm::Layer { 2 } else { 1 }
    }
}

/// What the norm read, and the gradient of what it wrote.
#[derive(Clone, Copy, Debug)]
pub struct NormInputs<'a> {
    /// `[rows, hidden]`; behind an addition, the sum.
    pub x: Tensor<'a, bf16, 2>,
    /// `[hidden]`.
    pub weight: Tensor<'a, bf16, 1>,
    /// Of the output, as x.
    pub gradient: Tensor<'a, bf16, 2>,
    /// Added to the gradient of x: what reaches it past the norm, by way of the residual.
    pub further: Option<Tensor<'a, bf16, 2>>,
    /// Of the norm.
    pub epsilon: f32,
}

#[repr(C)]
struct Problem {
    dx: u64,
    x: u64,
    weight: u64,
    gradient: u64,
    further: u64,
    slots: u64,
    rows: i32,
    hidden: i32,
    epsilon: f32,
}

/// Vectors a thread holds, and threads.
fn threads(hidden: usize) -> (usize, usize) {
    let vectors = hidden / 8;
    let each = if vectors <= 1024 { 1 } else { 2 };
    (each, vectors.div_ceil(each).next_multiple_of(32))
}

/// Blocks, each with a slot of sums: by the shape alone.
fn slots([rows, hidden]: [usize; 2]) -> usize {
    (ALL_THREADS / threads(hidden).1.max(32)).min(MOST_SLOTS).min(rows)
}

/// The gradients of `y ← norm(x) · weight (+ bias)` with respect to x, weight and bias; bf16, arithmetic and sums over rows in f32, each rounded once.
///
/// Shapes: see the fields; row-major, 16-byte aligned; `hidden` a multiple of 8 up to 16,384 (`LayerNorm`: 8,192). A row's gradient does not depend on the others, and the sums over
/// rows are taken in an order that the shape fixes: the same bits in every run. A NaN reaches its row, and its columns of the sums.
/// Source: `cuda/fused/norm_gradient.cu`; its workspace are the slots of `into`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from a launch.
pub fn norm_gradient(
    stream: &Stream,
    norm: Norm,
    into: &mut NormGradients<'_, '_>,
    of: NormInputs<'_>,
) -> Result<(), CudaError> {
    const CALL: &str = "norm_gradient";
    let [rows, hidden] = of.x.shape;
    let refuse = |limit: &str| Err(shape_error(CALL, format!("{norm:?}, {into:?}, {of:?}"), limit));
    let most = if norm == Norm::Layer { MOST_LAYER_HIDDEN } else { MOST_HIDDEN };
    if hidden == 0 || hidden % 8 != 0 || hidden > most || rows > i32::MAX as usize / 2 {
        return refuse("columns must be a multiple of 8 up to 16,384 (LayerNorm: 8,192), rows under 2^30");
    }
    let rows_fit = into.x.shape() == of.x.shape
        && of.gradient.shape == of.x.shape
        && of.further.is_none_or(|f| f.shape == of.x.shape);
    let columns_fit = of.weight.shape == [hidden]
        && into.weight.shape() == [hidden]
        && into.bias.as_ref().is_none_or(|b| b.shape() == [hidden]);
    if !rows_fit || !columns_fit || into.bias.is_some() != (norm == Norm::Layer) {
        return refuse(
            "x, its gradient and the output's must have one shape, weight and its gradient their columns; a bias's is a LayerNorm's",
        );
    }
    let room = NormGradients::scratch(norm, of.x.shape);
    if into.slots.shape()[0] < room {
        return refuse(&format!("the scratch must hold {room} numbers"));
    }
    let mut outputs =
        vec![("dx", into.x.span()), ("dweight", into.weight.span()), ("scratch", into.slots.span())];
    outputs.extend(into.bias.as_ref().map(|b| ("dbias", b.span())));
    let mut inputs = vec![("x", of.x.span()), ("weight", of.weight.span()), ("gradient", of.gradient.span())];
    inputs.extend(of.further.map(|f| ("further", f.span())));
    check(CALL, stream, 16, &outputs, &inputs)?;
    let (each, threads) = threads(hidden);
    let count = slots(of.x.shape);
    let problem = Problem {
        dx: into.x.view.pointer,
        x: of.x.pointer,
        weight: of.weight.pointer,
        gradient: of.gradient.pointer,
        further: of.further.map_or(0, |f| f.pointer),
        slots: into.slots.view.pointer,
        rows: rows as i32,
        hidden: hidden as i32,
        epsilon: of.epsilon,
    };
    let m = &stream.device.modules;
    let kernel = match (norm, each) {
        (Norm::Rms, 1) => m.rms_norm_gradient_1,
        (Norm::Rms, _) => m.rms_norm_gradient_2,
        (Norm::Layer, _) => m.layer_norm_gradient_1,
    };
    let shapes = || format!("{norm:?}, {of:?}");
    if rows > 0 {
        let grid = Grid { blocks: (count as u32, 1), threads: threads as u32, shared: 0 };
        // SAFETY: the struct mirrors the kernel's; the checks above cover its reads and writes.
        unsafe { launch(CALL, stream, kernel, grid, &mut [argument(&problem)], shapes)? };
    }
    let (of_weight, of_bias) = (into.weight.view.pointer, into.bias.as_ref().map_or(0, |b| b.view.pointer));
    let (count, hidden_count) = (count as i32, hidden as i32);
    let mut arguments = [
        argument(&of_weight),
        argument(&of_bias),
        argument(&problem.slots),
        argument(&count),
        argument(&hidden_count),
    ];
    let which = if norm == Norm::Layer { 2 } else { 1 };
    let grid = Grid { blocks: (hidden.div_ceil(32) as u32, which), threads: 256, shared: 0 };
    // SAFETY: parameters in the kernel's order; the slots hold `which` times `count` rows.
    unsafe { launch(CALL, stream, m.add_slots, grid, &mut arguments, shapes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_every_shape_with_no_more_threads_than_fit() {
        for hidden in (8..=MOST_HIDDEN).step_by(8) {
            let (each, count) = threads(hidden);
            assert!(count <= 1024 && each * count * 8 >= hidden && count % 32 == 0, "{hidden}");
            assert!((1..=MOST_SLOTS).contains(&slots([1 << 20, hidden])) && slots([3, hidden]) == 3);
        }
        assert_eq!((slots([8192, 4096]), slots([0, 64])), (264, 0));
        assert_eq!(NormGradients::scratch(Norm::Layer, [8192, 4096]), 2 * 264 * 4096);
    }
}
