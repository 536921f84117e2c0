//! Softmax of rows, and the cross-entropy of logits with its gradient.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::module::{Kernel, Modules};
use super::tensor::{Element, Tensor, TensorMut};

/// Rows of the gradient that a block takes, and its threads; threads of a block of the loss.
const GRADIENT_ROWS: usize = 4;
const GRADIENT_THREADS: usize = 256;
const LOSS_THREADS: u32 = 512;

/// Elements of rows of scores: bf16 or f32.
pub trait Score: Element {
    /// Elements of 16 bytes; columns are a multiple.
    const LANES: usize;
}
impl Score for bf16 {
    const LANES: usize = 8;
}
impl Score for f32 {
    const LANES: usize = 4;
}

/// Of softmax by the vectors that a thread holds (1, 2, 4, any number), of the loss, of its gradient.
fn kernels<T: Score>(m: &Modules) -> ([Kernel; 4], Kernel, Kernel) {
    if T::LANES == 8 {
        (
            [m.softmax_bf16_1, m.softmax_bf16_2, m.softmax_bf16_4, m.softmax_bf16_long],
            m.cross_entropy_bf16,
            m.cross_entropy_gradient_bf16,
        )
    } else {
        (
            [m.softmax_f32_1, m.softmax_f32_2, m.softmax_f32_4, m.softmax_f32_long],
            m.cross_entropy_f32,
            m.cross_entropy_gradient_f32,
        )
    }
}

fn within<T: Score>(call: &'static str, [rows, columns]: [usize; 2]) -> Result<(), CudaError> {
    if columns == 0 || columns % T::LANES != 0 || columns > 1 << 22 || rows > i32::MAX as usize {
        return Err(shape_error(
            call,
            format!("{} [{rows}, {columns}]", T::NAME),
            format!("columns must be a multiple of {} up to 2^22, rows under 2^31", T::LANES),
        ));
    }
    Ok(())
}

/// Which of the kernels that hold 1, 2, … `most` vectors a thread, or walk a row of any length, takes a row of so many; and its threads. As in the
/// norm: two vectors a thread as soon as there are warps enough.
fn held(vectors: usize, most: usize) -> (usize, u32) {
    let (at, each) = match vectors {
        0..=256 => (0, 1),
        257..=2048 => (1, 2),
        2049..=4096 if most == 4 => (2, 4),
        _ => (most.ilog2() as usize + 1, vectors.div_ceil(1024)),
    };
    (at, vectors.div_ceil(each).next_multiple_of(32) as u32)
}

/// `y ← softmax(scale · x)` of every row, or its natural logarithm.
///
/// Shapes: `y`, `x` `[rows, columns]`, bf16 or f32, row-major, 16-byte aligned; columns a multiple of 8 (f32: 4) up to 2^22. Arithmetic in f32. A row that is
/// -inf throughout, or holds a NaN, becomes NaN.
/// Source: `cuda/fused/softmax.cu` (the running maximum of long rows: Milakov and Gimelshein, 2018).
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn softmax<T: Score>(
    stream: &Stream,
    y: &mut TensorMut<'_, T, 2>,
    x: Tensor<'_, T, 2>,
    scale: f32,
    logarithm: bool,
) -> Result<(), CudaError> {
    const CALL: &str = "softmax";
    if y.shape() != x.shape || !(scale > 0.0 && scale.is_finite()) {
        return Err(shape_error(
            CALL,
            format!("y {y:?}, x {x:?}, scale {scale}"),
            "y and x must have one shape, the scale be finite and above zero",
        ));
    }
    check(CALL, stream, 16, &[("y", y.span())], &[("x", x.span())])?;
    let [rows, columns] = x.shape;
    if rows == 0 {
        return Ok(());
    }
    within::<T>(CALL, x.shape)?;
    let (at, threads) = held(columns / T::LANES, 4);
    let (columns, logarithm) = (columns as i32, i32::from(logarithm));
    let mut arguments = [
        argument(&y.view.pointer),
        argument(&x.pointer),
        argument(&columns),
        argument(&scale),
        argument(&logarithm),
    ];
    let grid = Grid { blocks: (rows as u32, 1), threads, shared: 0 };
    let kernel = kernels::<T>(&stream.device.modules).0[at];
    // SAFETY: parameters in the kernel's order; the checks above cover its reads and writes.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("x {x:?}")) }
}

/// `dx ← scale · y ∘ (dy − Σ dy ∘ y)` of every row, or with `logarithm` `scale · (dy − exp(y) · Σ dy)`: what [`softmax`] passes back, of its result `y`.
/// Without `dy`, `dx` holds it before and the gradient behind.
///
/// Shapes and limits as there.
/// Source: `cuda/fused/softmax_gradient.cu`.
///
/// # Errors
/// As there.
pub fn softmax_gradient<T: Score>(
    stream: &Stream,
    dx: &mut TensorMut<'_, T, 2>,
    y: Tensor<'_, T, 2>,
    dy: Option<Tensor<'_, T, 2>>,
    scale: f32,
    logarithm: bool,
) -> Result<(), CudaError> {
    const CALL: &str = "softmax_gradient";
    let alike = dx.shape() == y.shape && dy.is_none_or(|d| d.shape == y.shape);
    if !(alike && scale > 0.0 && scale.is_finite()) {
        return Err(shape_error(
            CALL,
            format!("dx {dx:?}, y {y:?}, dy {dy:?}, scale {scale}"),
            "dx, y and dy must have one shape, the scale be finite and above zero",
        ));
    }
    let mut inputs = vec![("y", y.span())];
    inputs.extend(dy.iter().map(|d| ("dy", d.span())));
    check(CALL, stream, 16, &[("dx", dx.span())], &inputs)?;
    let [rows, columns] = y.shape;
    if rows == 0 {
        return Ok(());
    }
    within::<T>(CALL, y.shape)?;
    let (at, threads) = held(columns / T::LANES, 2);
    let from = dy.map_or(dx.view.pointer, |d| d.pointer);
    let (columns, logarithm) = (columns as i32, i32::from(logarithm));
    let mut arguments = [
        argument(&dx.view.pointer),
        argument(&y.pointer),
        argument(&from),
        argument(&columns),
        argument(&scale),
        argument(&logarithm),
    ];
    let grid = Grid { blocks: (rows as u32, 1), threads, shared: 0 };
    let m = &stream.device.modules;
    let kernel = if T::LANES == 8 {
        [m.softmax_gradient_bf16_1, m.softmax_gradient_bf16_2, m.softmax_gradient_bf16_long]
    } else {
        [m.softmax_gradient_f32_1, m.softmax_gradient_f32_2, m.softmax_gradient_f32_long]
    }[at];
    // SAFETY: parameters in the kernel's order; each element is read before the same thread writes it; the checks above cover the rest.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("y {y:?}")) }
}

/// `loss[r] ← log Σ exp(logits[r]) − logits[r, targets[r]]`, and the sum's logarithm, which the gradient needs.
///
/// Shapes: `logits` `[rows, vocabulary]`, bf16 or f32, 16-byte aligned, the vocabulary a multiple of 8 (f32: 4) up to 2^22; `loss`, `log_sum`, `targets`
/// `[rows]`. A negative target is left out (loss 0), one past the vocabulary gives NaN.
/// Source: `cuda/fused/cross_entropy.cu`.
///
/// # Errors
/// As [`softmax`].
pub fn cross_entropy<T: Score>(
    stream: &Stream,
    loss: &mut TensorMut<'_, f32, 1>,
    log_sum: &mut TensorMut<'_, f32, 1>,
    logits: Tensor<'_, T, 2>,
    targets: Tensor<'_, i32, 1>,
) -> Result<(), CudaError> {
    const CALL: &str = "cross_entropy";
    let [rows, columns] = logits.shape;
    if loss.shape() != [rows] || log_sum.shape() != [rows] || targets.shape != [rows] {
        return Err(shape_error(
            CALL,
            format!("loss {loss:?}, log_sum {log_sum:?}, logits {logits:?}, targets {targets:?}"),
            "loss, log_sum and targets must have one entry a row",
        ));
    }
    check(CALL, stream, 16, &[], &[("logits", logits.span())])?;
    let outputs = [("loss", loss.span()), ("log_sum", log_sum.span())];
    check(CALL, stream, 4, &outputs, &[("logits", logits.span()), ("targets", targets.span())])?;
    if rows == 0 {
        return Ok(());
    }
    within::<T>(CALL, logits.shape)?;
    let columns = columns as i32;
    let mut arguments = [
        argument(&loss.view.pointer),
        argument(&log_sum.view.pointer),
        argument(&logits.pointer),
        argument(&targets.pointer),
        argument(&columns),
    ];
    let grid = Grid { blocks: (rows as u32, 1), threads: LOSS_THREADS, shared: 0 };
    let kernel = kernels::<T>(&stream.device.modules).1;
    // SAFETY: parameters in the kernel's order; the checks above cover its reads and writes.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("logits {logits:?}")) }
}

/// `gradient[r] ← factor[r] · (softmax(logits[r]) − one at targets[r])`: what [`cross_entropy`] passes back. Without `logits`, `gradient` holds them before
/// and the gradient behind.
///
/// Shapes, limits and targets as there; `log_sum` is what it wrote, `factor` `[rows]` the gradient of each row's loss.
/// Source: `cuda/fused/cross_entropy.cu`.
///
/// # Errors
/// As [`softmax`].
pub fn cross_entropy_gradient<T: Score>(
    stream: &Stream,
    gradient: &mut TensorMut<'_, T, 2>,
    logits: Option<Tensor<'_, T, 2>>,
    targets: Tensor<'_, i32, 1>,
    log_sum: Tensor<'_, f32, 1>,
    factor: Tensor<'_, f32, 1>,
) -> Result<(), CudaError> {
    const CALL: &str = "cross_entropy_gradient";
    let shape = gradient.shape();
    let [rows, columns] = shape;
    let each = targets.shape == [rows] && log_sum.shape == [rows] && factor.shape == [rows];
    if !each || logits.is_some_and(|l| l.shape != shape) {
        return Err(shape_error(
            CALL,
            format!(
                "gradient {gradient:?}, logits {logits:?}, targets {targets:?}, log_sum {log_sum:?}, factor {factor:?}"
            ),
            "gradient and logits must have one shape, the others one entry a row",
        ));
    }
    let apart: Vec<_> = logits.iter().map(|l| ("logits", l.span())).collect();
    check(CALL, stream, 16, &[("gradient", gradient.span())], &apart)?;
    let of_rows = [("targets", targets.span()), ("log_sum", log_sum.span()), ("factor", factor.span())];
    check(CALL, stream, 4, &[("gradient", gradient.span())], &of_rows)?;
    if rows == 0 {
        return Ok(());
    }
    within::<T>(CALL, shape)?;
    let blocks =
        (rows.div_ceil(GRADIENT_ROWS) as u32, (columns / T::LANES).div_ceil(GRADIENT_THREADS) as u32);
    let from = logits.map_or(gradient.view.pointer, |l| l.pointer);
    let (row_count, column_count) = (rows as i32, columns as i32);
    let mut arguments = [
        argument(&gradient.view.pointer),
        argument(&from),
        argument(&targets.pointer),
        argument(&log_sum.pointer),
        argument(&factor.pointer),
        argument(&row_count),
        argument(&column_count),
    ];
    let grid = Grid { blocks, threads: GRADIENT_THREADS as u32, shared: 0 };
    let kernel = kernels::<T>(&stream.device.modules).2;
    // SAFETY: parameters in the kernel's order; each element is read before the same thread writes it; the checks above cover the rest.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("gradient {gradient:?}")) }
}
