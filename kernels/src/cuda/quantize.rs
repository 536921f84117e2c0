//! Activations as 8-bit numbers with scales, where a linear layer of 8-bit operands reads them.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::fused::norm_grid;
use super::launch::{argument, check, launch_overlapping, shape_error};
use super::linear::SCALE_BLOCK;
use super::tensor::{E4m3, Element, Tensor, TensorMut};

/// What is made 8-bit: `hidden` is the width of the output.
#[derive(Debug)]
pub enum QuantizeSource<'a, 'b> {
    /// x itself, `[rows, hidden]`.
    Rows(Tensor<'a, bf16, 2>),
    /// `x / rms(x) · weight`.
    Norm {
        /// `[rows, hidden]`.
        x: Tensor<'a, bf16, 2>,
        /// `[hidden]`.
        weight: Tensor<'a, bf16, 1>,
        /// Added to the mean square.
        epsilon: f32,
    },
    /// `residual ← residual + x`, then `residual / rms(residual) · weight`.
    AddNorm {
        /// `[rows, hidden]`.
        x: Tensor<'a, bf16, 2>,
        /// `[rows, hidden]`, updated in bf16.
        residual: &'a mut TensorMut<'b, bf16, 2>,
        /// `[hidden]`.
        weight: Tensor<'a, bf16, 1>,
        /// Added to the mean square.
        epsilon: f32,
    },
    /// `silu(x[:, ..hidden]) · x[:, hidden..]` of x `[rows, 2 · hidden]`.
    SiluMul(Tensor<'a, bf16, 2>),
}

/// Where scales go: the greatest magnitude over 448 (e4m3) or 127 (int8); 0 where all are zero.
#[derive(Debug)]
pub enum QuantizeScales<'a, 'b> {
    /// One a row, `[rows]`.
    Row(&'a mut TensorMut<'b, f32, 1>),
    /// One for every 128 columns of a row, `[hidden / 128, rows]`, hidden a multiple of 128: as [`super::linear_blocks`] reads them.
    Blocks(&'a mut TensorMut<'b, f32, 2>),
}

/// An 8-bit operand of a linear layer.
pub trait Quantized: Element {
    /// Integers, not e4m3.
    const INTEGERS: bool;
}
impl Quantized for E4m3 {
    const INTEGERS: bool = false;
}
impl Quantized for i8 {
    const INTEGERS: bool = true;
}

#[repr(C)]
struct Problem {
    out: u64,
    scales: u64,
    x: u64,
    residual: u64,
    weight: u64,
    rows: i32,
    hidden: i32,
    integers: i32,
    blocks: i32,
    epsilon: f32,
}

/// `out ← round(source / scale)`, and the scales: dynamic quantisation, a row at a time.
///
/// `out` `[rows, hidden]`, hidden a multiple of 8 up to 32,768; tensors 16-byte aligned. Arithmetic in f32; nothing but the residual is rounded to
/// bf16 on the way. A NaN stays one in e4m3, where it is, and is no part of the scale (a norm spreads it over its row); an infinity makes the scale infinite,
/// so that its whole row (or block) stands for NaN (a norm makes of it a NaN among zeros). int8 has no NaN: there it becomes some number.
/// Source: `cuda/fused/quantize.cu`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn quantize<T: Quantized>(
    stream: &Stream,
    out: &mut TensorMut<'_, T, 2>,
    scales: QuantizeScales<'_, '_>,
    source: QuantizeSource<'_, '_>,
) -> Result<(), CudaError> {
    const CALL: &str = "quantize";
    let m = &stream.device.modules;
    let [rows, hidden] = out.shape();
    let found = format!("out {out:?}, {scales:?}, {source:?}");
    let (scale_span, blocks) = match scales {
        QuantizeScales::Row(s) if s.shape() == [rows] => (s.span(), 0),
        QuantizeScales::Blocks(s)
            if hidden % SCALE_BLOCK == 0 && s.shape() == [hidden / SCALE_BLOCK, rows] =>
        {
            (s.span(), 1)
        }
        _ => {
            return Err(shape_error(
                CALL,
                found,
                "scales are [rows], or [hidden / 128, rows] of a hidden that is a multiple of 128",
            ));
        }
    };
    let mut wide = 1;
    let (x, weight, residual, epsilon, kernels) = match source {
        QuantizeSource::Rows(x) => {
            (x, None, None, 0.0, [m.quantize_rows_1, m.quantize_rows_2, m.quantize_rows_4])
        }
        QuantizeSource::Norm { x, weight, epsilon } => (
            x,
            Some(weight),
            None,
            epsilon,
            [m.rms_norm_quantize_1, m.rms_norm_quantize_2, m.rms_norm_quantize_4],
        ),
        QuantizeSource::AddNorm { x, residual, weight, epsilon } => (
            x,
            Some(weight),
            Some(residual),
            epsilon,
            [m.add_rms_norm_quantize_1, m.add_rms_norm_quantize_2, m.add_rms_norm_quantize_4],
        ),
        QuantizeSource::SiluMul(x) => {
            wide = 2;
            (x, None, None, 0.0, [m.silu_mul_quantize_1, m.silu_mul_quantize_2, m.silu_mul_quantize_4])
        }
    };
    let residual_fits = residual.as_ref().is_none_or(|r| r.shape() == [rows, hidden]);
    if x.shape != [rows, wide * hidden] || weight.is_some_and(|w| w.shape[0] != hidden) || !residual_fits {
        return Err(shape_error(
            CALL,
            found,
            "out, x (of a gate twice as wide) and residual must have one shape and weight its columns",
        ));
    }
    let (each, grid) = norm_grid(CALL, [rows, hidden])?;
    let mut outputs = vec![("out", out.span())];
    outputs.extend(residual.as_ref().map(|r| ("residual", r.span())));
    let mut inputs = vec![("x", x.span())];
    inputs.extend(weight.map(|w| ("weight", w.span())));
    check(CALL, stream, 16, &outputs, &inputs)?;
    inputs.extend(outputs);
    check(CALL, stream, 4, &[("scales", scale_span)], &inputs)?;
    if rows == 0 {
        return Ok(());
    }
    let problem = Problem {
        out: out.view.pointer,
        scales: scale_span.start,
        x: x.pointer,
        residual: residual.map_or(0, |r| r.view.pointer),
        weight: weight.map_or(0, |w| w.pointer),
        rows: rows as i32,
        hidden: hidden as i32,
        integers: i32::from(T::INTEGERS),
        blocks,
        epsilon,
    };
    // SAFETY: the struct mirrors the kernel's; the checks above cover its reads and writes.
    unsafe {
        launch_overlapping(
            CALL,
            stream,
            kernels[each.ilog2() as usize],
            grid,
            &mut [argument(&problem)],
            || found,
        )
    }
}
