//! Between the projection and attention: QK-norm, rotary embedding, and keys and values into their pages.

use half::bf16;

use super::attention::{CacheElement, CacheScales};
use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{Tensor, TensorMut};

const CALL: &str = "rope_cache";
/// Heads a group of `head_dim / 8` lanes takes, and threads of a block, as in the kernel.
const HEADS: usize = 4;
const THREADS: usize = 256;

/// RMS norm of every query and key head, before the rotation.
#[derive(Clone, Copy, Debug)]
pub struct QkNorm<'a> {
    /// `[head_dim]`, for queries.
    pub query_weight: Tensor<'a, bf16, 1>,
    /// `[head_dim]`, for keys.
    pub key_weight: Tensor<'a, bf16, 1>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// What [`rope_cache`] reads.
#[derive(Clone, Copy, Debug)]
pub struct RopeStep<'a> {
    /// `[tokens, (query_heads + 2 · kv_heads) · head_dim]`: queries, keys, values of a token, as a fused projection leaves them.
    pub qkv: Tensor<'a, bf16, 2>,
    /// `[positions, head_dim]`: cosines of `head_dim / 2` frequencies, then their sines.
    pub rotary: Tensor<'a, f32, 2>,
    /// `[tokens]`: row of `rotary`. A position that it does not have makes the token's queries and keys not numbers.
    pub positions: Tensor<'a, i32, 1>,
    /// `[tokens]`: page · page_tokens + place in the page. One outside of the pages (−1, say) is not written.
    pub slots: Tensor<'a, i32, 1>,
    /// For models that have one.
    pub norm: Option<QkNorm<'a>>,
    /// What keys and values are divided by on their way into an e4m3 cache, above zero; none of a bf16 cache.
    pub scales: Option<CacheScales<'a>>,
}

#[repr(C)]
struct Problem {
    q: u64,
    k: u64,
    v: u64,
    qkv: u64,
    q_weight: u64,
    k_weight: u64,
    rotary: u64,
    position: u64,
    slot: u64,
    tokens: i32,
    heads: i32,
    kv_heads: i32,
    positions: i32,
    page_tokens: i32,
    slots: i32,
    epsilon: f32,
    k_scale: u64,
    v_scale: u64,
}

/// `q ← rope(norm(queries))`, `keys[slot] ← rope(norm(keys))`, `values[slot] ← values` for each token, in one pass.
///
/// Shapes: `q` `[tokens, query_heads, head_dim]` bf16, `keys` and `values` `[pages, kv_heads, page_tokens, head_dim]` bf16 or e4m3; `head_dim` 64
/// or 128; the rotation pairs element `i` with `i + head_dim / 2` (as Llama and Qwen in Hugging Face's layout). Norm and rotation in f32, rounded
/// to bf16; over its scale that is rounded again for an e4m3 cache, where what it cannot hold becomes ±448. Two tokens of one slot leave either's values. Slots are trusted to be in pages that the caller owns.
/// Source: `cuda/fused/rope_cache.cu` (rotary embedding: Su et al., 2021).
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn rope_cache<T: CacheElement>(
    stream: &Stream,
    q: &mut TensorMut<'_, bf16, 3>,
    keys: &mut TensorMut<'_, T, 4>,
    values: &mut TensorMut<'_, T, 4>,
    step: RopeStep<'_>,
) -> Result<(), CudaError> {
    let [tokens, heads, dim] = q.shape();
    let [pages, kv_heads, page_tokens, _] = keys.shape();
    let refuse = |limit: &str| {
        Err(shape_error(CALL, format!("q {q:?}, keys {keys:?}, values {values:?}, {step:?}"), limit))
    };
    let rows = kv_heads.saturating_mul(2).saturating_add(heads);
    if !matches!(dim, 64 | 128) || keys.shape() != values.shape() || keys.shape()[3] != dim {
        return refuse(
            "head_dim must be 64 or 128, and both caches [pages, kv_heads, page_tokens, head_dim]",
        );
    }
    if step.qkv.shape != [tokens, rows.saturating_mul(dim)] || step.rotary.shape[1] != dim {
        return refuse(
            "qkv must be [tokens, (query_heads + 2 · kv_heads) · head_dim], rotary [positions, head_dim]",
        );
    }
    if step.positions.shape != [tokens] || step.slots.shape != [tokens] {
        return refuse("positions and slots must have one entry a token");
    }
    if step.norm.is_some_and(|n| {
        n.query_weight.shape != [dim] || n.key_weight.shape != [dim] || n.epsilon.is_nan() || n.epsilon < 0.0
    }) {
        return refuse("weights of the norm must be [head_dim], its epsilon not negative");
    }
    let scaled = |s: CacheScales<'_>| s.keys.shape == [kv_heads] && s.values.shape == [kv_heads];
    if T::SCALED != step.scales.is_some() || !step.scales.is_none_or(scaled) {
        return refuse(
            "an e4m3 cache needs scales [kv_heads] of keys and of values, a bf16 cache takes none",
        );
    }
    let slots = pages.saturating_mul(page_tokens);
    let groups = tokens.saturating_mul(rows.div_ceil(HEADS));
    if slots.max(groups).max(rows).max(step.rotary.shape[0]) > i32::MAX as usize {
        return refuse("at most 2^31 slots, positions, and groups of four heads");
    }
    let weights =
        step.norm.map(|n| [("query weight", n.query_weight.span()), ("key weight", n.key_weight.span())]);
    let mut inputs = vec![("qkv", step.qkv.span()), ("rotary", step.rotary.span())];
    inputs.extend(weights.into_iter().flatten());
    let outputs = [("q", q.span()), ("keys", keys.span()), ("values", values.span())];
    check(CALL, stream, 16, &outputs, &inputs)?;
    check(CALL, stream, 4, &outputs, &[("positions", step.positions.span()), ("slots", step.slots.span())])?;
    if let Some(s) = step.scales {
        let spans = [("key scales", s.keys.span()), ("value scales", s.values.span())];
        check(CALL, stream, 4, &outputs, &spans)?;
    }
    if groups == 0 {
        return Ok(());
    }
    let problem = Problem {
        q: q.view.pointer,
        k: keys.view.pointer,
        v: values.view.pointer,
        qkv: step.qkv.pointer,
        q_weight: step.norm.map_or(0, |n| n.query_weight.pointer),
        k_weight: step.norm.map_or(0, |n| n.key_weight.pointer),
        rotary: step.rotary.pointer,
        position: step.positions.pointer,
        slot: step.slots.pointer,
        tokens: tokens as i32,
        heads: heads as i32,
        kv_heads: kv_heads as i32,
        positions: step.rotary.shape[0] as i32,
        page_tokens: page_tokens.max(1) as i32,
        slots: slots as i32,
        epsilon: step.norm.map_or(0.0, |n| n.epsilon),
        k_scale: step.scales.map_or(0, |s| s.keys.pointer),
        v_scale: step.scales.map_or(0, |s| s.values.pointer),
    };
    let m = &stream.device.modules;
    let kernel = match (T::SCALED, dim, step.norm.is_some()) {
        (false, 128, true) => m.rope_cache_norm_d128,
        (false, 128, false) => m.rope_cache_d128,
        (false, _, true) => m.rope_cache_norm_d64,
        (false, _, false) => m.rope_cache_d64,
        (true, 128, true) => m.rope_cache_e4m3_norm_d128,
        (true, 128, false) => m.rope_cache_e4m3_d128,
        (true, _, true) => m.rope_cache_e4m3_norm_d64,
        (true, _, false) => m.rope_cache_e4m3_d64,
    };
    let blocks = groups.div_ceil(THREADS / (dim / 8)) as u32;
    let grid = Grid { blocks: (blocks, 1), threads: THREADS as u32, shared: 0 };
    // SAFETY: the struct mirrors the kernel's; the checks above bound its reads, and the kernel bounds positions and slots.
    unsafe {
        launch(CALL, stream, kernel, grid, &mut [argument(&problem)], || format!("q {q:?}, keys {keys:?}"))
    }
}
