//! QK-norm, rotary embedding and cache write for [`super`].

use std::ffi::{c_int, c_void};

use half::bf16;
use tinykernels::cuda::{CacheElement, CacheScales, CudaError, E4m3, QkNorm, RopeStep, Stream, rope_cache};

use super::{Handle, input, output, status, stream};

/// Extents and addresses of a call. Weights null mean no norm.
#[repr(C)]
pub struct Rope {
    q: u64,
    keys: u64,
    values: u64,
    qkv: u64,
    rotary: u64,
    positions: u64,
    slots: u64,
    query_weight: u64,
    key_weight: u64,
    tokens: usize,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    pages: usize,
    page_tokens: usize,
    table_positions: usize,
    epsilon: f32,
    /// Of an e4m3 cache, else 0.
    key_scales: u64,
    value_scales: u64,
}

impl Rope {
    /// # Safety
    /// Pointers as the shapes say.
    unsafe fn run<T: CacheElement>(&self, stream: &Stream) -> Result<(), CudaError> {
        let c = self;
        let cache = [c.pages, c.kv_heads, c.page_tokens, c.head_dim];
        // SAFETY: the caller's promise.
        unsafe {
            let step = RopeStep {
                qkv: input(c.qkv, [c.tokens, (c.query_heads + 2 * c.kv_heads) * c.head_dim]),
                rotary: input(c.rotary, [c.table_positions, c.head_dim]),
                positions: input(c.positions, [c.tokens]),
                slots: input(c.slots, [c.tokens]),
                norm: (c.query_weight != 0).then(|| QkNorm {
                    query_weight: input(c.query_weight, [c.head_dim]),
                    key_weight: input(c.key_weight, [c.head_dim]),
                    epsilon: c.epsilon,
                }),
                scales: (c.key_scales != 0).then(|| CacheScales {
                    keys: input(c.key_scales, [c.kv_heads]),
                    values: input(c.value_scales, [c.kv_heads]),
                }),
            };
            let mut q = output(c.q, [c.tokens, c.query_heads, c.head_dim]);
            let (mut keys, mut values) = (output::<T, 4>(c.keys, cache), output(c.values, cache));
            rope_cache(stream, &mut q, &mut keys, &mut values, step)
        }
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_rope_cache(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const Rope,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (c, stream) = (&*call, stream(handle, queue));
        status(if c.key_scales == 0 { c.run::<bf16>(&stream) } else { c.run::<E4m3>(&stream) })
    }
}
