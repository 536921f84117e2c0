//! Layer norm, GELU, softmax, cross-entropy and embedding, for [`super`].

use std::ffi::{c_int, c_void};

use half::bf16;
use tinykernels::cuda::{
    CudaError, Gelu, Norm, NormGradients, NormInputs, Score, Stream, cross_entropy, cross_entropy_gradient,
    embedding, gelu, gelu_gradient, layer_norm, norm_gradient, softmax, softmax_gradient,
};

use super::{Handle, input, output, status, stream};

/// Addresses and extents of a call on rows: what each function says. 0 for what there is none of.
#[repr(C)]
pub struct Rows {
    out: u64,
    x: u64,
    more: [u64; 3],
    count: usize,
    columns: usize,
    number: f32,
    flag: c_int,
    /// 1 where elements are f32.
    wide: c_int,
}

/// A call for either width of elements.
macro_rules! by_width {
    ($run:ident, $handle:ident, $queue:ident, $call:ident) => {{
        let (c, stream) = (&*$call, stream($handle, $queue));
        status(if c.wide == 1 { $run::<f32>(&stream, c) } else { $run::<bf16>(&stream, c) })
    }};
}

/// `more` is residual, weight, bias; `number` epsilon.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_layer_norm(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const Rows,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let c = &*call;
        let (shape, [residual, weight, bias]) = ([c.count, c.columns], c.more);
        let mut sum = output(residual, shape);
        status(layer_norm(
            &stream(handle, queue),
            &mut output(c.out, shape),
            input(c.x, shape),
            (residual != 0).then_some(&mut sum),
            input(weight, [c.columns]),
            (bias != 0).then(|| input(bias, [c.columns])),
            c.number,
        ))
    }
}

/// `flag` is 1 for the tanh form.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_gelu(handle: *const Handle, queue: *mut c_void, call: *const Rows) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let c = &*call;
        let shape = [c.count * c.columns];
        let form = if c.flag == 1 { Gelu::Tanh } else { Gelu::Erf };
        status(gelu(&stream(handle, queue), &mut output(c.out, shape), input(c.x, shape), form))
    }
}

/// `out` is dx, `more` dy; `flag` is 1 for the tanh form.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_gelu_gradient(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const Rows,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let c = &*call;
        let shape = [c.count * c.columns];
        let form = if c.flag == 1 { Gelu::Tanh } else { Gelu::Erf };
        let (mut dx, dy) = (output(c.out, shape), input(c.more[0], shape));
        status(gelu_gradient(&stream(handle, queue), &mut dx, input(c.x, shape), Some(dy), form))
    }
}

/// `x` is the table of `flag` entries, `more` the ids.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_embedding(handle: *const Handle, queue: *mut c_void, call: *const Rows) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let c = &*call;
        let table = input::<bf16, 2>(c.x, [usize::try_from(c.flag).unwrap_or(0), c.columns]);
        let ids = input(c.more[0], [c.count]);
        status(embedding(&stream(handle, queue), &mut output(c.out, [c.count, c.columns]), table, ids))
    }
}

/// `number` is the scale, `flag` 1 for the logarithm.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_softmax(handle: *const Handle, queue: *mut c_void, call: *const Rows) -> c_int {
    /// # Safety
    /// As above.
    unsafe fn run<T: Score>(stream: &Stream, c: &Rows) -> Result<(), CudaError> {
        let shape = [c.count, c.columns];
        // SAFETY: the caller's promise.
        let (mut y, x) = unsafe { (output::<T, 2>(c.out, shape), input(c.x, shape)) };
        softmax(stream, &mut y, x, c.number, c.flag == 1)
    }
    // SAFETY: the caller's promise.
    unsafe { by_width!(run, handle, queue, call) }
}

/// `out` is dx, `x` the result of the softmax, `more` dy; `number` is the scale, `flag` 1 for the logarithm.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_softmax_gradient(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const Rows,
) -> c_int {
    /// # Safety
    /// As above.
    unsafe fn run<T: Score>(stream: &Stream, c: &Rows) -> Result<(), CudaError> {
        let shape = [c.count, c.columns];
        // SAFETY: the caller's promise.
        let (mut dx, y, dy) =
            unsafe { (output::<T, 2>(c.out, shape), input(c.x, shape), input(c.more[0], shape)) };
        softmax_gradient(stream, &mut dx, y, Some(dy), c.number, c.flag == 1)
    }
    // SAFETY: the caller's promise.
    unsafe { by_width!(run, handle, queue, call) }
}

/// `out` is the loss, `more` the log of the sum and the targets.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_cross_entropy(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const Rows,
) -> c_int {
    /// # Safety
    /// As above.
    unsafe fn run<T: Score>(stream: &Stream, c: &Rows) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe {
            let (mut loss, mut log_sum) = (output(c.out, [c.count]), output(c.more[0], [c.count]));
            let logits = input::<T, 2>(c.x, [c.count, c.columns]);
            cross_entropy(stream, &mut loss, &mut log_sum, logits, input(c.more[1], [c.count]))
        }
    }
    // SAFETY: the caller's promise.
    unsafe { by_width!(run, handle, queue, call) }
}

/// `out` is the gradient, `x` the logits or 0 where they lie there; `more` the log of the sum, the targets, the factors.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_cross_entropy_gradient(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const Rows,
) -> c_int {
    /// # Safety
    /// As above.
    unsafe fn run<T: Score>(stream: &Stream, c: &Rows) -> Result<(), CudaError> {
        let shape = [c.count, c.columns];
        // SAFETY: the caller's promise.
        unsafe {
            let logits = (c.x != 0).then(|| input(c.x, shape));
            let [log_sum, targets, factor] = c.more;
            cross_entropy_gradient::<T>(
                stream,
                &mut output(c.out, shape),
                logits,
                input(targets, [c.count]),
                input(log_sum, [c.count]),
                input(factor, [c.count]),
            )
        }
    }
    // SAFETY: the caller's promise.
    unsafe { by_width!(run, handle, queue, call) }
}

/// Addresses and extents of a norm's gradients; 0 for what there is none of.
#[repr(C)]
pub struct NormStep {
    dx: u64,
    dweight: u64,
    dbias: u64,
    slots: u64,
    x: u64,
    weight: u64,
    gradient: u64,
    further: u64,
    rows: usize,
    hidden: usize,
    slot_count: usize,
    epsilon: f32,
    /// 1 for a `LayerNorm`.
    layer: c_int,
}

const fn norm_of(layer: c_int) -> Norm {
    if layer == 0 { Norm::Rms } else { Norm::Layer }
}

/// Numbers of scratch that [`tk_norm_gradient`] needs.
#[unsafe(no_mangle)]
pub extern "C" fn tk_norm_gradient_scratch(rows: usize, hidden: usize, layer: c_int) -> usize {
    NormGradients::scratch(norm_of(layer), [rows, hidden])
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_norm_gradient(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const NormStep,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let c = &*call;
        let (shape, columns) = ([c.rows, c.hidden], [c.hidden]);
        let mut bias = output(c.dbias, columns);
        let mut into = NormGradients {
            x: &mut output(c.dx, shape),
            weight: &mut output(c.dweight, columns),
            bias: (c.dbias != 0).then_some(&mut bias),
            slots: &mut output(c.slots, [c.slot_count]),
        };
        let of = NormInputs {
            x: input(c.x, shape),
            weight: input(c.weight, columns),
            gradient: input(c.gradient, shape),
            further: (c.further != 0).then(|| input(c.further, shape)),
            epsilon: c.epsilon,
        };
        status(norm_gradient(&stream(handle, queue), norm_of(c.layer), &mut into, of))
    }
}
