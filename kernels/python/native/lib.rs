//! The C functions under the Python package: raw device pointers in, a status out, the sentence of the last error kept a thread.
//!
//! Every function returns 0, or 1 after which [`tk_error`] gives the reason.
#![allow(unsafe_code, clippy::too_many_arguments)] // a C interface: its callers are the ctypes declarations in tinykernels/_native.py

mod fused;
mod linear;
mod prefill;
mod primitives;
mod rope;
mod sampling;

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::Arc;

use half::bf16;
use tinykernels::cuda::{
    CacheElement, CacheScales, Checkpoint, CheckpointFormat, CudaError, DecodeScores, DecodeShape,
    DecodeWorkspace, Device, E4m3, PackedW4, PackedW8, PagedCache, Stream, Tensor, TensorMut, add_rms_norm,
    linear_bf16, paged_decode, rms_norm, silu_mul, w4a16_linear, w8a16_linear,
};

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// An opened GPU.
pub struct Handle(Arc<Device>);

/// Packed weights.
pub enum Weights {
    /// Of 4 bits.
    Four(PackedW4),
    /// Of 8 bits.
    Eight(PackedW8),
}

fn status(result: Result<(), CudaError>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(e) => {
            LAST.with_borrow_mut(|last| {
                *last = CString::new(e.to_string().replace('\0', "")).expect("NULs were removed");
            });
            1
        }
    }
}

/// # Safety
/// `handle` is from [`tk_open`]; `stream` is a stream of that GPU's primary context.
unsafe fn stream(handle: *const Handle, stream: *mut c_void) -> Stream {
    // SAFETY: the caller's promise.
    unsafe { Stream::from_raw(&(*handle).0, stream) }
}

/// What `make` returns, on the heap once the GPU is done with it; null on error.
///
/// # Safety
/// `handle` is from [`tk_open`].
unsafe fn made<T>(handle: *const Handle, make: impl FnOnce(&Stream) -> Result<T, CudaError>) -> *mut T {
    // SAFETY: the caller's promise.
    let stream = unsafe { (*handle).0.stream() };
    let made = stream.and_then(|stream| {
        let made = make(&stream)?;
        stream.synchronize()?;
        Ok(made)
    });
    match made {
        Ok(made) => Box::into_raw(Box::new(made)),
        Err(error) => {
            status(Err(error));
            std::ptr::null_mut()
        }
    }
}

/// # Safety
/// As [`Tensor::from_raw`].
unsafe fn input<'a, T: tinykernels::cuda::Element, const N: usize>(
    address: u64,
    shape: [usize; N],
) -> Tensor<'a, T, N> {
    // SAFETY: the caller's promise.
    unsafe { Tensor::from_raw(address, shape) }
}

/// # Safety
/// As [`TensorMut::from_raw`].
unsafe fn output<'a, T: tinykernels::cuda::Element, const N: usize>(
    address: u64,
    shape: [usize; N],
) -> TensorMut<'a, T, N> {
    // SAFETY: the caller's promise.
    unsafe { TensorMut::from_raw(address, shape) }
}

/// The last error of this thread, valid until its next call.
#[unsafe(no_mangle)]
pub extern "C" fn tk_error() -> *const c_char {
    LAST.with_borrow(|last| last.as_ptr())
}

/// Opens a GPU; null on error.
#[unsafe(no_mangle)]
pub extern "C" fn tk_open(ordinal: usize) -> *mut Handle {
    let images = std::env::var_os("TINYKERNELS_IMAGES").map(std::path::PathBuf::from);
    match Device::open_with(ordinal, images.as_deref()) {
        Ok(device) => Box::into_raw(Box::new(Handle(device))),
        Err(e) => {
            status(Err(e));
            std::ptr::null_mut()
        }
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_add_rms_norm(
    handle: *const Handle,
    queue: *mut c_void,
    y: u64,
    x: u64,
    residual: u64,
    weight: u64,
    rows: usize,
    hidden: usize,
    epsilon: f32,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (mut y, mut residual) = (output(y, [rows, hidden]), output(residual, [rows, hidden]));
        status(add_rms_norm(
            &stream(handle, queue),
            &mut y,
            input(x, [rows, hidden]),
            &mut residual,
            input(weight, [hidden]),
            epsilon,
        ))
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_rms_norm(
    handle: *const Handle,
    queue: *mut c_void,
    y: u64,
    x: u64,
    weight: u64,
    rows: usize,
    hidden: usize,
    epsilon: f32,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        status(rms_norm(
            &stream(handle, queue),
            &mut output(y, [rows, hidden]),
            input(x, [rows, hidden]),
            input(weight, [hidden]),
            epsilon,
        ))
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_silu_mul(
    handle: *const Handle,
    queue: *mut c_void,
    out: u64,
    gate_up: u64,
    rows: usize,
    inner: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        status(silu_mul(
            &stream(handle, queue),
            &mut output(out, [rows, inner]),
            input(gate_up, [rows, 2 * inner]),
        ))
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_linear_bf16(
    handle: *const Handle,
    queue: *mut c_void,
    y: u64,
    x: u64,
    weight: u64,
    rows: usize,
    features: usize,
    columns: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        status(linear_bf16(
            &stream(handle, queue),
            &mut output(y, [rows, features]),
            input(x, [rows, columns]),
            input(weight, [features, columns]),
        ))
    }
}

/// Scratch for [`tk_paged_decode`]; null on error.
///
/// # Safety
/// `handle` is from [`tk_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_decode_workspace(
    handle: *const Handle,
    sequences: usize,
    query_heads: usize,
    kv_heads: usize,
    capacity: usize,
) -> *mut DecodeWorkspace {
    // SAFETY: the caller's promise.
    unsafe {
        made(handle, |stream| {
            DecodeWorkspace::new(stream, DecodeShape { sequences, query_heads, kv_heads, capacity })
        })
    }
}

/// # Safety
/// `workspace` is from [`tk_decode_workspace`] and not used again; its work is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_decode_workspace_free(workspace: *mut DecodeWorkspace) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(workspace) });
}

/// Extents and addresses of a decode step. Scales null for a bf16 cache; `window` and `soft_cap` 0 for none.
#[repr(C)]
pub struct Decode {
    out: u64,
    q: u64,
    keys: u64,
    values: u64,
    block_table: u64,
    lengths: u64,
    key_scales: u64,
    value_scales: u64,
    sequences: usize,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    pages: usize,
    page_tokens: usize,
    table_width: usize,
    window: usize,
    scale: f32,
    soft_cap: f32,
}

impl Decode {
    /// # Safety
    /// Pointers as the shapes say.
    unsafe fn run<T: CacheElement>(
        &self,
        stream: &Stream,
        workspace: &mut DecodeWorkspace,
    ) -> Result<(), CudaError> {
        let cache = [self.pages, self.kv_heads, self.page_tokens, self.head_dim];
        let rows = [self.sequences, self.query_heads, self.head_dim];
        // SAFETY: the caller's promise.
        unsafe {
            let cache = PagedCache::<T> {
                keys: input(self.keys, cache),
                values: input(self.values, cache),
                scales: (self.key_scales != 0).then(|| CacheScales {
                    keys: input(self.key_scales, [self.kv_heads]),
                    values: input(self.value_scales, [self.kv_heads]),
                }),
                block_table: input(self.block_table, [self.sequences, self.table_width]),
                lengths: input(self.lengths, [self.sequences]),
            };
            let scores = DecodeScores {
                scale: self.scale,
                window: (self.window != 0).then_some(self.window),
                soft_cap: (self.soft_cap != 0.0).then_some(self.soft_cap),
            };
            let (mut out, q) = (output(self.out, rows), input::<bf16, 3>(self.q, rows));
            paged_decode(stream, &mut out, q, cache, scores, workspace)
        }
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU; `workspace` is from [`tk_decode_workspace`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_paged_decode(
    handle: *const Handle,
    queue: *mut c_void,
    d: *const Decode,
    workspace: *mut DecodeWorkspace,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (d, stream, workspace) = (&*d, stream(handle, queue), &mut *workspace);
        status(if d.key_scales == 0 {
            d.run::<bf16>(&stream, workspace)
        } else {
            d.run::<E4m3>(&stream, workspace)
        })
    }
}

/// Packs weights of 4 or 8 bits from host memory; null on error.
///
/// # Safety
/// `numbers` holds `features · columns` bytes, `scales` and `zeros` `features · columns / 128` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_pack(
    handle: *const Handle,
    numbers: *const u8,
    scales: *const bf16,
    zeros: *const u16,
    features: usize,
    columns: usize,
    bits: c_int,
) -> *mut Weights {
    let groups = features * (columns / tinykernels::cuda::GROUP);
    // SAFETY: the caller's promise.
    unsafe {
        let (numbers, scales, zeros) = (
            std::slice::from_raw_parts(numbers, features * columns),
            std::slice::from_raw_parts(scales, groups),
            std::slice::from_raw_parts(zeros, groups),
        );
        let shape = [features, columns];
        made(handle, |stream| {
            if bits == 8 {
                PackedW8::from_host(stream, shape, numbers, scales, zeros).map(Weights::Eight)
            } else {
                PackedW4::from_host(stream, shape, numbers, scales, zeros).map(Weights::Four)
            }
        })
    }
}

/// Packs a layer of a checkpoint from host memory; null on error. `format` is 0 for GPTQ, 1 for its second version, 2 for AWQ.
///
/// # Safety
/// The tensors hold what [`Checkpoint`] says for the `shape`'s `[features, columns]` in groups of its third, of so many bits as its fourth.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_pack_checkpoint(
    handle: *const Handle,
    qweight: *const i32,
    qzeros: *const i32,
    scales: *const half::f16,
    shape: *const [usize; 4],
    format: c_int,
) -> *mut Weights {
    // SAFETY: the caller's promise.
    unsafe {
        let [features, columns, group, bits] = *shape;
        let (groups, each) = (columns / group.max(1), 32 / bits.max(1));
        let of = Checkpoint {
            qweight: std::slice::from_raw_parts(qweight, features / each * columns),
            qzeros: std::slice::from_raw_parts(qzeros, groups * features / each),
            scales: std::slice::from_raw_parts(scales, groups * features),
            group,
        };
        let format = match format {
            0 => CheckpointFormat::Gptq,
            1 => CheckpointFormat::GptqV2,
            _ => CheckpointFormat::Awq,
        };
        let shape = [features, columns];
        made(handle, |stream| {
            if bits == 8 {
                PackedW8::from_checkpoint(stream, shape, format, of).map(Weights::Eight)
            } else {
                PackedW4::from_checkpoint(stream, shape, format, of).map(Weights::Four)
            }
        })
    }
}

/// # Safety
/// `weights` is from [`tk_pack`] and not used again; its work is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_packed_free(weights: *mut Weights) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(weights) });
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU; `weights` is from [`tk_pack`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_packed_linear(
    handle: *const Handle,
    queue: *mut c_void,
    y: u64,
    x: u64,
    weights: *mut Weights,
    rows: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (stream, weights) = (stream(handle, queue), &*weights);
        let [features, columns] = match weights {
            Weights::Four(packed) => packed.shape(),
            Weights::Eight(packed) => packed.shape(),
        };
        let (mut y, x) = (output(y, [rows, features]), input(x, [rows, columns]));
        status(match weights {
            Weights::Four(packed) => w4a16_linear(&stream, &mut y, x, packed),
            Weights::Eight(packed) => w8a16_linear(&stream, &mut y, x, packed),
        })
    }
}
