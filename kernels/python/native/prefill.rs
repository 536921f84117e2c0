//! Prefill attention for [`super`]: a plan, and the call.

use std::ffi::{c_int, c_void};

use half::bf16;
use tinykernels::cuda::{
    AttentionGradients, AttentionInputs, CacheScales, GradientPlan, PagedKeys, PagedTokens, PrefillPlan,
    PrefillSequence, PrefillShape, paged_prefill_attention, prefill_attention, prefill_attention_gradient,
    read_pages,
};

use super::{Handle, input, made, output, status, stream};

/// Heads and mask of a plan. `window` 0 hides nothing, `soft_cap` 0 caps nothing.
#[repr(C)]
pub struct Shape {
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: usize,
    scale: f32,
    soft_cap: f32,
    causal: c_int,
}

impl Shape {
    fn get(&self) -> PrefillShape {
        PrefillShape {
            query_heads: self.query_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            causal: self.causal != 0,
            window: (self.window != 0).then_some(self.window),
            soft_cap: (self.soft_cap != 0.0).then_some(self.soft_cap),
        }
    }
}

/// # Safety
/// `queries` and `keys` hold `count` entries.
unsafe fn sequences(queries: *const usize, keys: *const usize, count: usize) -> Vec<PrefillSequence> {
    // SAFETY: the caller's promise.
    (0..count).map(|i| unsafe { PrefillSequence { queries: *queries.add(i), keys: *keys.add(i) } }).collect()
}

/// Makes a plan for sequences of `queries[i]` query and `keys[i]` key tokens; null on error.
///
/// # Safety
/// `handle` is from `tk_open`; `queries` and `keys` hold `count` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_prefill_plan(
    handle: *const Handle,
    shape: *const Shape,
    queries: *const usize,
    keys: *const usize,
    count: usize,
) -> *mut PrefillPlan {
    // SAFETY: the caller's promise.
    unsafe {
        let (shape, sequences) = ((*shape).get(), sequences(queries, keys, count));
        made(handle, |stream| PrefillPlan::new(stream, shape, &sequences))
    }
}

/// Gives a plan other sequences, for calls in this stream.
///
/// # Safety
/// As [`tk_prefill_plan`], from which `plan` is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_prefill_refill(
    handle: *const Handle,
    queue: *mut c_void,
    plan: *mut PrefillPlan,
    queries: *const usize,
    keys: *const usize,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { status((*plan).refill(&stream(handle, queue), &sequences(queries, keys, count))) }
}

/// The same for gradients.
///
/// # Safety
/// As [`tk_prefill_plan`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_gradient_plan(
    handle: *const Handle,
    shape: *const Shape,
    queries: *const usize,
    keys: *const usize,
    count: usize,
) -> *mut GradientPlan {
    // SAFETY: the caller's promise.
    unsafe {
        let (shape, sequences) = ((*shape).get(), sequences(queries, keys, count));
        made(handle, |stream| GradientPlan::new(stream, shape, &sequences))
    }
}

/// # Safety
/// `plan` is from [`tk_gradient_plan`] and not used again; its work is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_gradient_plan_free(plan: *mut GradientPlan) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(plan) });
}

/// Addresses of a backward step.
#[repr(C)]
pub struct GradientStep {
    dq: u64,
    dk: u64,
    dv: u64,
    q: u64,
    keys: u64,
    values: u64,
    out: u64,
    log_sum: u64,
    gradient: u64,
}

/// # Safety
/// Pointers as the plan says, on the handle's GPU; `plan` is from [`tk_gradient_plan`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_prefill_gradient(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const GradientStep,
    plan: *mut GradientPlan,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (c, plan) = (&*call, &mut *plan);
        let (shape, (queries, keys)) = (plan.shape(), plan.tokens());
        let rows = [queries, shape.query_heads, shape.head_dim];
        let cache = [keys, shape.kv_heads, shape.head_dim];
        let (mut dq, mut dk, mut dv) = (output(c.dq, rows), output(c.dk, cache), output(c.dv, cache));
        let into = AttentionGradients { q: &mut dq, keys: &mut dk, values: &mut dv };
        let of = AttentionInputs {
            q: input(c.q, rows),
            keys: input(c.keys, cache),
            values: input(c.values, cache),
            out: input(c.out, rows),
            log_sum: input(c.log_sum, [shape.query_heads, queries]),
        };
        status(prefill_attention_gradient(&stream(handle, queue), &into, of, input(c.gradient, rows), plan))
    }
}

/// # Safety
/// `plan` is from [`tk_prefill_plan`] and not used again; its work is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_prefill_plan_free(plan: *mut PrefillPlan) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(plan) });
}

/// Addresses of a prefill step; with `block_table` null keys and values are dense and the extents of pages unused.
#[repr(C)]
pub struct Prefill {
    out: u64,
    /// 0 where nobody asks for it.
    log_sum: u64,
    q: u64,
    keys: u64,
    values: u64,
    block_table: u64,
    pages: usize,
    page_tokens: usize,
    sequences: usize,
    table_width: usize,
}

/// # Safety
/// Pointers as the plan says, on the handle's GPU; `plan` is from [`tk_prefill_plan`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_prefill(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const Prefill,
    plan: *const PrefillPlan,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (c, plan) = (&*call, &*plan);
        let (shape, (queries, keys)) = (plan.shape(), plan.tokens());
        let rows = [queries, shape.query_heads, shape.head_dim];
        let (mut out, q) = (output::<bf16, 3>(c.out, rows), input::<bf16, 3>(c.q, rows));
        let stream = stream(handle, queue);
        let mut sums = output(c.log_sum, [shape.query_heads, queries]);
        let sums = (c.log_sum != 0).then_some(&mut sums);
        status(if c.block_table == 0 {
            let dense = [keys, shape.kv_heads, shape.head_dim];
            prefill_attention(&stream, &mut out, sums, q, input(c.keys, dense), input(c.values, dense), plan)
        } else {
            let cache = [c.pages, shape.kv_heads, c.page_tokens, shape.head_dim];
            let pages = PagedKeys {
                keys: input(c.keys, cache),
                values: input(c.values, cache),
                block_table: input(c.block_table, [c.sequences, c.table_width]),
            };
            paged_prefill_attention(&stream, &mut out, sums, q, pages, plan)
        })
    }
}

/// Addresses and extents of what is read out of an e4m3 cache.
#[repr(C)]
pub struct ReadPages {
    dense_keys: u64,
    dense_values: u64,
    keys: u64,
    values: u64,
    key_scales: u64,
    value_scales: u64,
    block_table: u64,
    starts: u64,
    tokens: usize,
    kv_heads: usize,
    head_dim: usize,
    pages: usize,
    page_tokens: usize,
    sequences: usize,
    table_width: usize,
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_read_pages(
    handle: *const Handle,
    queue: *mut c_void,
    call: *const ReadPages,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let c = &*call;
        let (dense, cache) =
            ([c.tokens, c.kv_heads, c.head_dim], [c.pages, c.kv_heads, c.page_tokens, c.head_dim]);
        let from = PagedTokens {
            keys: input(c.keys, cache),
            values: input(c.values, cache),
            scales: CacheScales {
                keys: input(c.key_scales, [c.kv_heads]),
                values: input(c.value_scales, [c.kv_heads]),
            },
            block_table: input(c.block_table, [c.sequences, c.table_width]),
            starts: input(c.starts, [c.sequences + 1]),
        };
        let (mut keys, mut values) = (output(c.dense_keys, dense), output(c.dense_values, dense));
        status(read_pages(&stream(handle, queue), &mut keys, &mut values, from))
    }
}
