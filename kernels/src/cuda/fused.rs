//! Memory-bound steps between the matrix products.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, launch_overlapping, shape_error};
use super::module::Kernel;
use super::tensor::{Tensor, TensorMut};

/// Columns a block can hold in registers: 1,024 threads of four 16-byte vectors.
const MOST_HIDDEN: usize = 1024 * 4 * 8;

pub(super) fn norm_grid(call: &'static str, shape: [usize; 2]) -> Result<(usize, Grid), CudaError> {
    let [rows, hidden] = shape;
    if hidden == 0 || hidden % 8 != 0 || hidden > MOST_HIDDEN || rows > i32::MAX as usize {
        return Err(shape_error(
            call,
            format!("x is [{rows}, {hidden}]"),
            format!("columns must be a multiple of 8 up to {MOST_HIDDEN}, rows under 2^31"),
        ));
    }
    let vectors = hidden / 8;
    // Two vectors a thread from 2,048 columns on: more bytes in flight and half the warps to sum over.
    let each = if vectors <= 256 {
        1
    } else if vectors <= 2048 {
        2
    } else {
        4
    };
    let threads = vectors.div_ceil(each).next_multiple_of(32) as u32;
    Ok((each, Grid { blocks: (rows as u32, 1), threads, shared: 0 }))
}

/// `residual ← residual + x`, then `y ← residual / rms(residual) · weight`.
///
/// Shapes: `y`, `x`, `residual` `[rows, hidden]`, `weight` `[hidden]`, bf16, row-major, 16-byte aligned; `hidden` a multiple of 8 up to 32,768.
/// The mean square is taken in f32 over the rounded residual (Zhang and Sennrich, 2019).
/// Source: `cuda/fused/norm.cu`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn add_rms_norm(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    residual: &mut TensorMut<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 1>,
    epsilon: f32,
) -> Result<(), CudaError> {
    const CALL: &str = "add_rms_norm";
    if y.shape() != x.shape || residual.shape() != x.shape || weight.shape[0] != x.shape[1] {
        return Err(shape_error(
            CALL,
            format!("y {y:?}, x {x:?}, residual {residual:?}, weight {weight:?}"),
            "y, x and residual must have one shape and weight its columns",
        ));
    }
    check(
        CALL,
        stream,
        16,
        &[("y", y.span()), ("residual", residual.span())],
        &[("x", x.span()), ("weight", weight.span())],
    )?;
    queue_add_rms_norm(CALL, stream, y.view.pointer, x, residual, weight, epsilon)
}

/// The launch, after the checks.
fn queue_add_rms_norm(
    call: &'static str,
    stream: &Stream,
    y: u64,
    x: Tensor<'_, bf16, 2>,
    residual: &mut TensorMut<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 1>,
    epsilon: f32,
) -> Result<(), CudaError> {
    if x.shape[0] == 0 {
        return Ok(());
    }
    let (mut each, mut grid) = norm_grid(call, x.shape)?;
    if each == 2 && x.shape[1] >= 4096 {
        // Of two inputs four vectors a thread each, as the longest rows have: 0.6% faster than two on 4,096 columns, 1.4% on 8,192.
        each = 4;
        grid.threads = (x.shape[1] / 8).div_ceil(each).next_multiple_of(32) as u32;
    }
    let m = &stream.device.modules;
    let kernel: Kernel = match each {
        1 => m.add_rms_norm_1,
        2 => m.add_rms_norm_2,
        _ => m.add_rms_norm_4,
    };
    let hidden = x.shape[1] as i32;
    let mut arguments = [
        argument(&y),
        argument(&x.pointer),
        argument(&residual.view.pointer),
        argument(&weight.pointer),
        argument(&hidden),
        argument(&epsilon),
    ];
    // SAFETY: parameters in the kernel's order; the checks above cover its reads and writes.
    unsafe { launch_overlapping(call, stream, kernel, grid, &mut arguments, || format!("x {x:?}")) }
}

/// [`add_rms_norm`] with x as its own output: `residual ← residual + x`, then `x ← residual / rms(residual) · weight`. Two streams of memory
/// instead of three are a few percent faster.
/// Source: `cuda/fused/norm.cu`.
///
/// # Errors
/// As for [`add_rms_norm`].
pub fn add_rms_norm_in_place(
    stream: &Stream,
    x: &mut TensorMut<'_, bf16, 2>,
    residual: &mut TensorMut<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 1>,
    epsilon: f32,
) -> Result<(), CudaError> {
    const CALL: &str = "add_rms_norm_in_place";
    if residual.shape() != x.shape() || weight.shape[0] != x.shape()[1] {
        return Err(shape_error(
            CALL,
            format!("x {x:?}, residual {residual:?}, weight {weight:?}"),
            "x and residual must have one shape and weight its columns",
        ));
    }
    let outputs = [("x", x.span()), ("residual", residual.span())];
    check(CALL, stream, 16, &outputs, &[("weight", weight.span())])?;
    // Every block has read its row before it writes any of it.
    queue_add_rms_norm(CALL, stream, x.view.pointer, x.view, residual, weight, epsilon)
}

/// `y ← x / rms(x) · weight`; shapes, limits and errors as in [`add_rms_norm`].
/// Source: `cuda/fused/norm.cu`.
pub fn rms_norm(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 1>,
    epsilon: f32,
) -> Result<(), CudaError> {
    const CALL: &str = "rms_norm";
    if y.shape() != x.shape || weight.shape[0] != x.shape[1] {
        return Err(shape_error(
            CALL,
            format!("y {y:?}, x {x:?}, weight {weight:?}"),
            "y and x must have one shape and weight its columns",
        ));
    }
    check(CALL, stream, 16, &[("y", y.span())], &[("x", x.span()), ("weight", weight.span())])?;
    if x.shape[0] == 0 {
        return Ok(());
    }
    let (each, grid) = norm_grid(CALL, x.shape)?;
    let m = &stream.device.modules;
    let kernel = match each {
        1 => m.rms_norm_1,
        2 => m.rms_norm_2,
        _ => m.rms_norm_4,
    };
    let hidden = x.shape[1] as i32;
    let mut arguments = [
        argument(&y.view.pointer),
        argument(&x.pointer),
        argument(&weight.pointer),
        argument(&hidden),
        argument(&epsilon),
    ];
    // SAFETY: parameters in the kernel's order; the checks above cover its reads and writes.
    unsafe { launch_overlapping(CALL, stream, kernel, grid, &mut arguments, || format!("x {x:?}")) }
}

/// The gate of a SwiGLU MLP: `out[r, c] ← silu(gate_up[r, c]) · gate_up[r, inner + c]`.
///
/// Shapes: `gate_up` `[rows, 2 · inner]`, `out` `[rows, inner]`, bf16, row-major, 16-byte aligned; `inner` a multiple of 8.
/// Source: `cuda/fused/activation.cu` (SwiGLU: Shazeer, 2020).
///
/// # Errors
/// As for [`add_rms_norm`].
pub fn silu_mul(
    stream: &Stream,
    out: &mut TensorMut<'_, bf16, 2>,
    gate_up: Tensor<'_, bf16, 2>,
) -> Result<(), CudaError> {
    const CALL: &str = "silu_mul";
    // A grid has 65,535 rows of blocks, each of at most four matrix rows.
    const MOST_ROWS: usize = 4 * 65_535;
    let [rows, inner] = out.shape();
    if gate_up.shape != [rows, 2 * inner] || inner % 8 != 0 || rows > MOST_ROWS || inner > 1 << 30 {
        return Err(shape_error(
            CALL,
            format!("out {out:?}, gate_up {gate_up:?}"),
            format!(
                "gate_up must be [rows, 2 * inner] for out [rows, inner], inner a multiple of 8, at most {MOST_ROWS} rows"
            ),
        ));
    }
    check(CALL, stream, 16, &[("out", out.span())], &[("gate_up", gate_up.span())])?;
    if rows == 0 || inner == 0 {
        return Ok(());
    }
    let m = &stream.device.modules;
    // Few rows: one each, so that every multiprocessor has blocks. Many: four, for loads in flight.
    let (each, kernel) = if rows < 256 {
        (1, m.silu_mul_1)
    } else if rows < 1024 {
        (2, m.silu_mul_2)
    } else {
        (4, m.silu_mul_4)
    };
    let grid = Grid {
        blocks: ((inner / 8).div_ceil(256) as u32, rows.div_ceil(each) as u32),
        threads: 256,
        shared: 0,
    };
    let (rows, inner) = (rows as i32, inner as i32);
    let mut arguments =
        [argument(&out.view.pointer), argument(&gate_up.pointer), argument(&rows), argument(&inner)];
    // SAFETY: parameters in the kernel's order; the checks above cover its reads and writes.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("gate_up {gate_up:?}")) }
}

/// Which of its two forms a GELU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `x · Φ(x)`, to 2^-17 of its value in f32.
    Erf,
    /// `x / (1 + exp(−2 · √(2/π) · (x + 0.044715 x³)))`.
    Tanh,
}

/// `out ← gelu(x)`, element by element; bf16 `[n]`, n a multiple of 8, 16-byte aligned. 0 at −∞.
/// Source: `cuda/fused/activation.cu` (Hendrycks and Gimpel, 2016).
///
/// # Errors
/// As for [`add_rms_norm`].
pub fn gelu(
    stream: &Stream,
    out: &mut TensorMut<'_, bf16, 1>,
    x: Tensor<'_, bf16, 1>,
    form: Gelu,
) -> Result<(), CudaError> {
    const CALL: &str = "gelu";
    /// Elements of a block: 256 threads of four 16-byte vectors.
    const BLOCK: usize = 256 * 4 * 8;
    let n = x.shape[0];
    if out.shape() != x.shape || !n.is_multiple_of(8) || n.div_ceil(BLOCK) > i32::MAX as usize {
        return Err(shape_error(
            CALL,
            format!("out {out:?}, x {x:?}"),
            "out and x must have one length, a multiple of 8 under 2^44",
        ));
    }
    check(CALL, stream, 16, &[("out", out.span())], &[("x", x.span())])?;
    if n == 0 {
        return Ok(());
    }
    let m = &stream.device.modules;
    let kernel = if form == Gelu::Erf { m.gelu_erf } else { m.gelu_tanh };
    let vectors = (n / 8) as i64;
    let grid = Grid { blocks: (n.div_ceil(BLOCK) as u32, 1), threads: 256, shared: 0 };
    let mut arguments = [argument(&out.view.pointer), argument(&x.pointer), argument(&vectors)];
    // SAFETY: parameters in the kernel's order; the checks above cover its reads and writes.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("x {x:?}")) }
}

/// `dx ← dy · gelu′(x)`, element by element: what [`gelu`] passes back. Without `dy`, `dx` holds it before and the gradient behind.
///
/// Shapes and limits as there.
/// Source: `cuda/fused/activation.cu`.
///
/// # Errors
/// As for [`add_rms_norm`].
pub fn gelu_gradient(
    stream: &Stream,
    dx: &mut TensorMut<'_, bf16, 1>,
    x: Tensor<'_, bf16, 1>,
    dy: Option<Tensor<'_, bf16, 1>>,
    form: Gelu,
) -> Result<(), CudaError> {
    const CALL: &str = "gelu_gradient";
    /// Elements of a block: 256 threads of two 16-byte vectors of each.
    const BLOCK: usize = 256 * 2 * 8;
    let n = x.shape[0];
    let alike = dx.shape() == x.shape && dy.is_none_or(|d| d.shape == x.shape);
    if !alike || !n.is_multiple_of(8) || n.div_ceil(BLOCK) > i32::MAX as usize {
        return Err(shape_error(
            CALL,
            format!("dx {dx:?}, x {x:?}, dy {dy:?}"),
            "dx, x and dy must have one length, a multiple of 8 under 2^43",
        ));
    }
    let mut inputs = vec![("x", x.span())];
    inputs.extend(dy.iter().map(|d| ("dy", d.span())));
    check(CALL, stream, 16, &[("dx", dx.span())], &inputs)?;
    if n == 0 {
        return Ok(());
    }
    let m = &stream.device.modules;
    let kernel = if form == Gelu::Erf { m.gelu_gradient_erf } else { m.gelu_gradient_tanh };
    let (from, vectors) = (dy.map_or(dx.view.pointer, |d| d.pointer), (n / 8) as i64);
    let grid = Grid { blocks: (n.div_ceil(BLOCK) as u32, 1), threads: 256, shared: 0 };
    let mut arguments =
        [argument(&dx.view.pointer), argument(&x.pointer), argument(&from), argument(&vectors)];
    // SAFETY: parameters in the kernel's order; each element is read before the same thread writes it; the checks above cover the rest.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("x {x:?}")) }
}

/// `out[t] ← table[ids[t]]`: rows of bf16. An id that the table does not have gives a row of NaN.
///
/// Shapes: `out` `[tokens, hidden]`, `table` `[entries, hidden]`, `ids` `[tokens]`; hidden a multiple of 8; rows 16-byte aligned.
/// Source: `cuda/fused/embedding.cu`.
///
/// # Errors
/// As for [`add_rms_norm`].
pub fn embedding(
    stream: &Stream,
    out: &mut TensorMut<'_, bf16, 2>,
    table: Tensor<'_, bf16, 2>,
    ids: Tensor<'_, i32, 1>,
) -> Result<(), CudaError> {
    const CALL: &str = "embedding";
    const TOKENS: usize = 4;
    let [tokens, hidden] = out.shape();
    let entries = table.shape[0];
    let fits = table.shape[1] == hidden && ids.shape == [tokens] && hidden % 8 == 0;
    if !fits || hidden > 1 << 20 || tokens.max(entries) > i32::MAX as usize {
        return Err(shape_error(
            CALL,
            format!("out {out:?}, table {table:?}, ids {ids:?}"),
            "out must be [tokens, hidden] for a table [entries, hidden] and ids [tokens], hidden a multiple of 8 up to 2^20, under 2^31 rows",
        ));
    }
    check(CALL, stream, 16, &[("out", out.span())], &[("table", table.span())])?;
    check(CALL, stream, 4, &[("out", out.span())], &[("ids", ids.span())])?;
    if tokens == 0 || hidden == 0 {
        return Ok(());
    }
    let vectors = hidden / 8;
    let threads = vectors.next_multiple_of(32).min(256);
    let grid = Grid {
        blocks: (tokens.div_ceil(TOKENS) as u32, vectors.div_ceil(threads) as u32),
        threads: threads as u32,
        shared: 0,
    };
    let (tokens, entries, vectors) = (tokens as i32, entries as i32, vectors as i32);
    let mut arguments = [
        argument(&out.view.pointer),
        argument(&table.pointer),
        argument(&ids.pointer),
        argument(&tokens),
        argument(&entries),
        argument(&vectors),
    ];
    // SAFETY: parameters in the kernel's order, which bounds ids; the checks above cover its reads and writes.
    unsafe {
        launch(CALL, stream, stream.device.modules.embedding, grid, &mut arguments, || {
            format!("out {out:?}, table {table:?}")
        })
    }
}
