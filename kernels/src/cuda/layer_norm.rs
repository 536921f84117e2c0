//! `LayerNorm`, alone and behind an addition.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::fused::norm_grid;
use super::launch::{argument, check, launch, shape_error};
use super::tensor::{Tensor, TensorMut};

/// `y ← (x − mean(x)) / √(var(x) + epsilon) · weight + bias`; with a residual, `residual ← residual + x` first and that in place of x.
///
/// Shapes: `y`, `x`, `residual` `[rows, hidden]`, `weight`, `bias` `[hidden]`, bf16, row-major, 16-byte aligned; `hidden` a multiple of 8 up to 32,768.
/// Mean and variance (of the centred row) in f32 over the rounded residual (Ba, Kiros and Hinton, 2016). A NaN stays in its row.
/// Source: `cuda/fused/layer_norm.cu`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn layer_norm(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    residual: Option<&mut TensorMut<'_, bf16, 2>>,
    weight: Tensor<'_, bf16, 1>,
    bias: Option<Tensor<'_, bf16, 1>>,
    epsilon: f32,
) -> Result<(), CudaError> {
    const CALL: &str = "layer_norm";
    let [rows, hidden] = x.shape;
    let fits = y.shape() == x.shape && residual.as_ref().is_none_or(|r| r.shape() == x.shape);
    if !fits || weight.shape != [hidden] || bias.is_some_and(|b| b.shape != [hidden]) {
        return Err(shape_error(
            CALL,
            format!("y {y:?}, x {x:?}, residual {residual:?}, weight {weight:?}, bias {bias:?}"),
            "y, x and residual must have one shape, weight and bias its columns",
        ));
    }
    let mut outputs = vec![("y", y.span())];
    outputs.extend(residual.as_ref().map(|r| ("residual", r.span())));
    let mut inputs = vec![("x", x.span()), ("weight", weight.span())];
    inputs.extend(bias.map(|b| ("bias", b.span())));
    check(CALL, stream, 16, &outputs, &inputs)?;
    let (each, grid) = norm_grid(CALL, x.shape)?;
    if rows == 0 {
        return Ok(());
    }
    let m = &stream.device.modules;
    let at = each.ilog2() as usize;
    let (bias, hidden) = (bias.map_or(0, |b| b.pointer), hidden as i32);
    let (y, residual) = (y.view.pointer, residual.map(|r| r.view.pointer));
    let shapes = || format!("x {x:?}");
    let (x_at, weight_at) = (argument(&x.pointer), argument(&weight.pointer));
    let tail = [weight_at, argument(&bias), argument(&hidden), argument(&epsilon)];
    // SAFETY: parameters in the kernel's order; the checks above cover its reads and writes.
    unsafe {
        if let Some(residual) = residual {
            let kernel = [m.add_layer_norm_1, m.add_layer_norm_2, m.add_layer_norm_4][at];
            let mut arguments = [argument(&y), x_at, argument(&residual), tail[0], tail[1], tail[2], tail[3]];
            launch(CALL, stream, kernel, grid, &mut arguments, shapes)
        } else {
            let kernel = [m.layer_norm_1, m.layer_norm_2, m.layer_norm_4][at];
            let mut arguments = [argument(&y), x_at, tail[0], tail[1], tail[2], tail[3]];
            launch(CALL, stream, kernel, grid, &mut arguments, shapes)
        }
    }
}
