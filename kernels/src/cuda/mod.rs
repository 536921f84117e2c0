//! Kernels for NVIDIA Hopper (compute capability 9.0), behind feature `cuda`.
//!
//! Every call checks shapes, alignment, placement and aliasing, queues its kernels on a [`Stream`] and returns; the device memory it writes
//! is ready after later work of the same stream, or [`Stream::synchronize`]. Results do not depend on the batch around a row: sums are taken
//! in an order that the row's own shape fixes. Tensors are dense and row-major. A call without a plan, a workspace or scratch among its arguments needs none; its
//! source is the kernel that its documentation names.
//!
//! The kernels are CUDA C++ under `kernels/cuda`, compiled at build time and embedded; libcuda is loaded when [`Device::open`] is called,
//! so a program with this feature starts on a machine without a GPU and is told so by that call.
#![allow(unsafe_code)] // the driver's API; each block says why it is sound

mod attention;
mod checkpoint;
mod cublas;
mod device;
mod error;
mod fused;
mod gemm;
mod gradient;
mod launch;
mod layer_norm;
mod linear;
mod maps;
mod module;
mod norm_gradient;
mod prefill;
mod primitives;
mod quant;
mod quantize;
mod read_pages;
mod rope;
mod sampling;
mod softmax;
mod sort;
mod sparse;
mod tensor;
mod tuning;

pub use attention::{
    CacheElement, CacheScales, DecodeScores, DecodeShape, DecodeWorkspace, PagedCache, paged_decode,
};
pub use checkpoint::{Checkpoint, CheckpointFormat};
pub use cublas::{Backend, CublasLt, linear_bf16_by, linear_by};
pub use device::{Device, Moment, Stream};
pub use error::{CudaError, DriverFault};
pub use fused::{
    Gelu, add_rms_norm, add_rms_norm_in_place, embedding, gelu, gelu_gradient, rms_norm, silu_mul,
};
pub use gemm::{Tile, linear_bf16, linear_bf16_tiled, linear_tile, tile_by_waves};
pub use gradient::{AttentionGradients, AttentionInputs, GradientPlan, prefill_attention_gradient};
pub use layer_norm::layer_norm;
pub use linear::{
    Activation, Epilogue, Operand, OperandKind, SCALE_BLOCK, Scales, interleave_gate, linear, linear_blocks,
};
pub use norm_gradient::{Norm, NormGradients, NormInputs, norm_gradient};
pub use prefill::{
    PagedKeys, PrefillPlan, PrefillSequence, PrefillShape, paged_prefill_attention, prefill_attention,
};
pub use primitives::{Reduction, Scratch, histogram_u32, reduce, scan_u32, top_k, transpose};
pub use quant::{GROUP, PackedW4, PackedW8, w4a16_linear, w8a16_linear};
pub use quantize::{QuantizeScales, QuantizeSource, Quantized, quantize};
pub use read_pages::{PagedTokens, read_pages};
pub use rope::{QkNorm, RopeStep, rope_cache};
pub use sampling::{Logits, Penalties, SamplingParameters, sample, start_counts};
pub use softmax::{Score, cross_entropy, cross_entropy_gradient, softmax, softmax_gradient};
pub use sort::{SortWorkspace, sort_pairs_u32, sort_u32};
pub use sparse::{SparseWeights, linear_sparse, prune_2_of_4};
pub use tensor::{Buffer, E4m3, Element, Tensor, TensorMut};
