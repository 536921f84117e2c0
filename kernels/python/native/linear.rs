//! Linear layers with an epilogue and 8-bit operands, and what makes operands 8-bit, for [`super`].

use std::ffi::{c_int, c_void};

use half::{bf16, f16};
use tinykernels::cuda::{
    Activation, Backend, CublasLt, CudaError, E4m3, Epilogue, Operand, OperandKind, QuantizeScales,
    QuantizeSource, Quantized, SCALE_BLOCK, Scales, SparseWeights, Stream, linear, linear_blocks, linear_by,
    linear_sparse, prune_2_of_4, quantize,
};

use super::{Handle, input, made, output, status, stream};

/// Addresses and extents of a linear layer; 0 for what there is none of.
#[repr(C)]
pub struct Linear {
    y: u64,
    x: u64,
    weight: u64,
    bias: u64,
    residual: u64,
    x_scales: u64,
    weight_scales: u64,
    rows: usize,
    features: usize,
    columns: usize,
    x_scale_count: usize,
    weight_scale_count: usize,
    /// 0 bf16, 1 fp16, 2 e4m3, 3 int8, 4 e4m3 with a scale a block.
    kind: c_int,
    /// 0 none, 1 SiLU, 2 GELU by tanh, 3 by erf.
    activation: c_int,
    gated: c_int,
}

impl Linear {
    fn y_shape(&self) -> [usize; 2] {
        [self.rows, if self.gated == 0 { self.features } else { self.features / 2 }]
    }

    /// # Safety
    /// Pointers as the shapes say.
    unsafe fn epilogue<T: tinykernels::cuda::Element>(&self) -> Epilogue<'_, T> {
        // SAFETY: the caller's promise.
        unsafe {
            Epilogue {
                bias: (self.bias != 0).then(|| input(self.bias, [self.features])),
                activation: match self.activation {
                    0 => Activation::None,
                    1 => Activation::Silu,
                    2 => Activation::GeluTanh,
                    _ => Activation::GeluErf,
                },
                gated: self.gated != 0,
                residual: (self.residual != 0).then(|| input(self.residual, self.y_shape())),
            }
        }
    }

    /// # Safety
    /// Pointers as the shapes say.
    unsafe fn scales(&self) -> Option<Scales<'_>> {
        // SAFETY: the caller's promise.
        unsafe {
            (self.x_scales != 0).then(|| Scales {
                x: input(self.x_scales, [self.x_scale_count]),
                weight: input(self.weight_scales, [self.weight_scale_count]),
            })
        }
    }

    /// # Safety
    /// Pointers as the shapes say.
    unsafe fn run<T: Operand>(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe {
            linear::<T>(
                stream,
                &mut output(self.y, self.y_shape()),
                input(self.x, [self.rows, self.columns]),
                input(self.weight, [self.features, self.columns]),
                self.scales(),
                self.epilogue(),
            )
        }
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_linear(handle: *const Handle, queue: *mut c_void, call: *const Linear) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (c, stream) = (&*call, stream(handle, queue));
        status(match c.kind {
            0 => c.run::<bf16>(&stream),
            1 => c.run::<f16>(&stream),
            2 => c.run::<E4m3>(&stream),
            3 => c.run::<i8>(&stream),
            _ => {
                let blocks = c.columns.div_ceil(SCALE_BLOCK);
                linear_blocks(
                    &stream,
                    &mut output(c.y, c.y_shape()),
                    input(c.x, [c.rows, c.columns]),
                    input(c.weight, [c.features, c.columns]),
                    input(c.x_scales, [blocks, c.rows]),
                    input(c.weight_scales, [c.features.div_ceil(SCALE_BLOCK), blocks]),
                    c.epilogue(),
                )
            }
        })
    }
}

/// The linear layer without its epilogue by cuBLASLt, or by whichever the tuning table says is faster where `fastest` is 1. Not with a scale a block.
///
/// # Safety
/// As [`tk_linear`]; `library` is from `tk_cublaslt_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_linear_by(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const Linear,
    library: *mut CublasLt,
    fastest: c_int,
) -> c_int {
    /// # Safety
    /// As above.
    unsafe fn run<T: Operand>(
        backend: &mut Backend<'_>,
        stream: &Stream,
        c: &Linear,
    ) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe {
            let (x, weight) = (input(c.x, [c.rows, c.columns]), input(c.weight, [c.features, c.columns]));
            let mut y = output(c.y, [c.rows, c.features]);
            linear_by::<T>(backend, stream, &mut y, x, weight, c.scales())
        }
    }
    // SAFETY: the caller's promise.
    unsafe {
        let (c, stream, library) = (&*call, stream(handle, queue), &mut *library);
        let kind = match c.kind {
            0 => OperandKind::Bf16,
            1 => OperandKind::F16,
            2 => OperandKind::E4m3,
            _ => OperandKind::Int8,
        };
        let mut backend = if fastest == 1 {
            Backend::fastest(&(*handle).0, kind, [c.rows, c.features, c.columns], Some(library))
        } else {
            Backend::CublasLt(library)
        };
        status(match kind {
            OperandKind::Bf16 => run::<bf16>(&mut backend, &stream, c),
            OperandKind::F16 => run::<f16>(&mut backend, &stream, c),
            OperandKind::E4m3 => run::<E4m3>(&mut backend, &stream, c),
            OperandKind::Int8 => run::<i8>(&mut backend, &stream, c),
        })
    }
}

/// Addresses and extents of a quantisation.
#[repr(C)]
pub struct Quantize {
    out: u64,
    scales: u64,
    x: u64,
    residual: u64,
    weight: u64,
    rows: usize,
    hidden: usize,
    epsilon: f32,
    /// 0 rows, 1 norm, 2 add and norm, 3 gate.
    source: c_int,
    integers: c_int,
    blocks: c_int,
}

impl Quantize {
    /// # Safety
    /// Pointers as the shapes say.
    unsafe fn run<T: Quantized>(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe {
            let (shape, epsilon) = ([self.rows, self.hidden], self.epsilon);
            let (mut out, mut residual) = (output::<T, 2>(self.out, shape), output(self.residual, shape));
            let source = match self.source {
                0 => QuantizeSource::Rows(input(self.x, shape)),
                1 => QuantizeSource::Norm {
                    x: input(self.x, shape),
                    weight: input(self.weight, [self.hidden]),
                    epsilon,
                },
                2 => QuantizeSource::AddNorm {
                    x: input(self.x, shape),
                    residual: &mut residual,
                    weight: input(self.weight, [self.hidden]),
                    epsilon,
                },
                _ => QuantizeSource::SiluMul(input(self.x, [self.rows, 2 * self.hidden])),
            };
            let mut row = output(self.scales, [self.rows]);
            let mut grid = output(self.scales, [self.hidden / SCALE_BLOCK, self.rows]);
            let scales = if self.blocks == 0 {
                QuantizeScales::Row(&mut row)
            } else {
                QuantizeScales::Blocks(&mut grid)
            };
            quantize(stream, &mut out, scales, source)
        }
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_quantize(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const Quantize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (c, stream) = (&*call, stream(handle, queue));
        status(if c.integers == 0 { c.run::<E4m3>(&stream) } else { c.run::<i8>(&stream) })
    }
}

/// Packs a 2:4 sparse weight from host memory, pruned first where `prune` is 1; null on error.
///
/// # Safety
/// `handle` is from `tk_open`; `weight` holds `features · columns` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_sparse_pack(
    handle: *const Handle,
    weight: *const bf16,
    features: usize,
    columns: usize,
    prune: c_int,
) -> *mut SparseWeights {
    // SAFETY: the caller's promise.
    unsafe {
        let mut weight = std::slice::from_raw_parts(weight, features * columns).to_vec();
        if prune == 1 {
            prune_2_of_4(&mut weight);
        }
        made(handle, |stream| SparseWeights::from_host(stream, [features, columns], &weight))
    }
}

/// # Safety
/// `weights` is from [`tk_sparse_pack`] and not used again; its work is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_sparse_free(weights: *mut SparseWeights) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(weights) });
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU; `weights` is from [`tk_sparse_pack`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_linear_sparse(
    handle: *const Handle,
    queue: *mut c_void,
    y: u64,
    x: u64,
    weights: *const SparseWeights,
    rows: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let weights = &*weights;
        let [features, columns] = weights.shape();
        let mut y = output(y, [rows, features]);
        status(linear_sparse(&stream(handle, queue), &mut y, input(x, [rows, columns]), weights))
    }
}
