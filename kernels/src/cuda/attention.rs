//! Decode attention over a paged key-value cache.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::module::{Kernel, Modules};
use super::tensor::{Buffer, E4m3, Element, Tensor, TensorMut};

/// The larger of the head dimensions the kernel is compiled for.
const DIM: usize = 128;
/// Longest chunk of a sequence that is one unit of work, in tokens, until the sequence has 32 of them.
const CHUNK: usize = 1024;
/// No sequence is cut into more chunks.
const MOST_CHUNKS: usize = 32;
/// Worker warps and the clerk, as in the kernel.
const THREADS: u32 = 4 * 32 + 32;
/// Worker warps × 24 KiB of stages, as in the kernel.
const RING_BYTES: u32 = 4 * 3 * 8192;
/// Most query heads of a key head.
const MOST_GROUP: usize = 8;

/// Extents of a decode step, which size its workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeShape {
    /// Sequences in the batch, one query token each.
    pub sequences: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Tokens the longest sequence may have: table width × page length.
    pub capacity: usize,
}

impl DecodeShape {
    fn chunks(&self) -> usize {
        // Short sequences are cut in two.
        self.capacity.div_ceil(CHUNK).clamp(2, MOST_CHUNKS)
    }

    /// Numbers that chunks leave, and counters: two of the grid, then one for each pair of a sequence and a key head.
    fn scratch(&self) -> [usize; 2] {
        let rows = self.sequences.saturating_mul(self.query_heads);
        [
            rows.saturating_mul(self.chunks() * (DIM + 2)),
            self.sequences.saturating_mul(self.kv_heads).saturating_add(2),
        ]
    }
}

/// Scratch of [`paged_decode`], reusable by every call of at most this shape on one stream.
#[derive(Debug)]
pub struct DecodeWorkspace {
    partial: Buffer<f32>,
    arrived: Buffer<u32>,
}

impl DecodeWorkspace {
    /// Takes `sequences · query_heads · chunks · 130 · 4` bytes of device memory, chunks being at most 32.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn new(stream: &Stream, shape: DecodeShape) -> Result<Self, CudaError> {
        let [partial, counters] = shape.scratch();
        Ok(Self { partial: Buffer::zeros(stream, partial)?, arrived: Buffer::zeros(stream, counters)? })
    }
}

/// What a cache is made of.
pub trait CacheElement: Element {
    /// Whether it has scales, which e4m3 does.
    const SCALED: bool;
}
impl CacheElement for bf16 {
    const SCALED: bool = false;
}
impl CacheElement for E4m3 {
    const SCALED: bool = true;
}

/// What the numbers of an e4m3 cache are multiplied by, one each a key head.
#[derive(Clone, Copy, Debug)]
pub struct CacheScales<'a> {
    /// `[kv_heads]`.
    pub keys: Tensor<'a, f32, 1>,
    /// `[kv_heads]`.
    pub values: Tensor<'a, f32, 1>,
}

/// A paged key-value cache and which pages belong to whom.
#[derive(Clone, Copy, Debug)]
pub struct PagedCache<'a, T: CacheElement = bf16> {
    /// `[pages, kv_heads, page_tokens, head_dim]`: a page of one head is contiguous. `page_tokens` is a multiple of 16, `head_dim` 64 or 128.
    pub keys: Tensor<'a, T, 4>,
    /// Shaped as `keys`.
    pub values: Tensor<'a, T, 4>,
    /// Of e4m3 caches, none of bf16 ones.
    pub scales: Option<CacheScales<'a>>,
    /// `[sequences, table_width]` page numbers. One that a sequence's length reaches and that is no page makes the sequence's output not numbers:
    /// nothing outside of the cache is read.
    pub block_table: Tensor<'a, i32, 2>,
    /// `[sequences]` tokens in the cache; 0 gives an output of zeros. Below zero, or above `table_width · page_tokens`: an output of not numbers.
    pub lengths: Tensor<'a, i32, 1>,
}

/// How scores become weights.
#[derive(Clone, Copy, Debug)]
pub struct DecodeScores {
    /// Multiplies q · k.
    pub scale: f32,
    /// A token sees itself and the `window − 1` before it.
    pub window: Option<usize>,
    /// Scores become `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

impl From<f32> for DecodeScores {
    fn from(scale: f32) -> Self {
        Self { scale, window: None, soft_cap: None }
    }
}

#[repr(C)]
struct Problem {
    out: u64,
    q: u64,
    k: u64,
    v: u64,
    lengths: u64,
    block_table: u64,
    k_scale: u64,
    v_scale: u64,
    partial: u64,
    arrived: u64,
    sequences: i32,
    kv_heads: i32,
    page_tokens: i32,
    table_width: i32,
    max_chunks: i32,
    pages: i32,
    group: i32,
    window: i32,
    scale_log2: f32,
    inner: f32,
}

/// For 1, 2, up to 4 and up to 8 query heads a key head.
fn kernels<T: CacheElement>(m: &Modules, dim: usize) -> Option<[Kernel; 4]> {
    match (T::SCALED, dim) {
        (false, 128) => Some([m.paged_decode_g1, m.paged_decode_g2, m.paged_decode_g4, m.paged_decode_g8]),
        (false, 64) => {
            Some([m.paged_decode_d64_g1, m.paged_decode_d64_g2, m.paged_decode_d64_g4, m.paged_decode_d64_g8])
        }
        (true, 128) => Some([
            m.paged_decode_e4m3_g1,
            m.paged_decode_e4m3_g2,
            m.paged_decode_e4m3_g4,
            m.paged_decode_e4m3_g8,
        ]),
        (true, 64) => Some([
            m.paged_decode_e4m3_d64_g1,
            m.paged_decode_e4m3_d64_g2,
            m.paged_decode_e4m3_d64_g4,
            m.paged_decode_e4m3_d64_g8,
        ]),
        _ => None,
    }
}

/// What is wrong with a call's shapes and scores, if anything is.
fn refusal<T: CacheElement>(
    out: [usize; 3],
    q: [usize; 3],
    cache: &PagedCache<'_, T>,
    scores: DecodeScores,
) -> Option<&'static str> {
    let ([sequences, query_heads, dim], [_, kv_heads, page_tokens, cache_dim]) = (q, cache.keys.shape);
    let group = query_heads.checked_div(kv_heads).unwrap_or(0);
    let scaled = |s: CacheScales<'_>| s.keys.shape == [kv_heads] && s.values.shape == [kv_heads];
    if out != q || cache.keys.shape != cache.values.shape || cache_dim != dim {
        Some(
            "out and q must be [sequences, heads, head_dim] and both caches [pages, kv_heads, page_tokens, head_dim]",
        )
    } else if T::SCALED != cache.scales.is_some() || !cache.scales.is_none_or(scaled) {
        Some("an e4m3 cache needs scales [kv_heads] of keys and of values, a bf16 cache takes none")
    } else if cache.block_table.shape[0] != sequences || cache.lengths.shape[0] != sequences {
        Some("block table and lengths must have one row a sequence")
    } else if page_tokens == 0 || page_tokens % 16 != 0 {
        Some("page_tokens must be a multiple of 16")
    } else if cache.keys.shape[0] == 0 || cache.block_table.shape[1] == 0 {
        Some("the cache must have a page and the block table a column")
    } else if !(scores.scale > 0.0 && scores.scale.is_finite()) {
        Some("the scale must be finite and above zero")
    } else if scores.window == Some(0) || scores.soft_cap.is_some_and(|cap| !(cap > 0.0 && cap.is_finite())) {
        Some("a window has at least one token, a soft cap is finite and above zero")
    } else if group == 0 || group > MOST_GROUP || group * kv_heads != query_heads {
        Some("query heads must be 1 to 8 times the key heads")
    } else {
        None
    }
}

/// `out ← softmax(scale · q · Kᵀ) · V` for one new token of each sequence; grouped heads (1 to 8 query heads a key head).
///
/// Shapes: `out`, `q` `[sequences, query_heads, head_dim]` bf16; the cache as in [`PagedCache`]. Products in bf16, with an e4m3 cache in fp16
/// (queries beyond ±65,504 count as that), sums and softmax in f32 (Flash-Decoding: Dao et al., 2023). Nothing past a sequence's length is read into the result, whatever the page holds.
/// Source: `cuda/attention/paged_decode.cu`; what a step of many chunks needs is in `workspace`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn paged_decode<T: CacheElement>(
    stream: &Stream,
    out: &mut TensorMut<'_, bf16, 3>,
    q: Tensor<'_, bf16, 3>,
    cache: PagedCache<'_, T>,
    scores: impl Into<DecodeScores>,
    workspace: &mut DecodeWorkspace,
) -> Result<(), CudaError> {
    const CALL: &str = "paged_decode";
    let [sequences, query_heads, dim] = q.shape;
    let [pages, kv_heads, page_tokens, _] = cache.keys.shape;
    let [_, width] = cache.block_table.shape;
    let scores = scores.into();
    let DecodeScores { scale, window, soft_cap } = scores;
    let refuse = |limit: &str| {
        Err(shape_error(
            CALL,
            format!(
                "out {out:?}, q {q:?}, keys {:?}, values {:?}, block table {:?}, lengths {:?}",
                cache.keys, cache.values, cache.block_table, cache.lengths
            ),
            limit,
        ))
    };
    let group = query_heads.checked_div(kv_heads).unwrap_or(0);
    if let Some(limit) = refusal(out.shape(), q.shape, &cache, scores) {
        return refuse(limit);
    }
    let Some(kernels) = kernels::<T>(&stream.device.modules, dim) else {
        return refuse("head_dim must be 64 or 128");
    };
    let kernel = kernels[group.next_power_of_two().ilog2() as usize];
    let shape = DecodeShape { sequences, query_heads, kv_heads, capacity: width.saturating_mul(page_tokens) };
    // Units of work are numbered in 31 bits, with room for what the last warps draw in vain.
    if shape.capacity > 1 << 30 || pages > i32::MAX as usize || sequences.saturating_mul(kv_heads) > 1 << 25 {
        return refuse(
            "at most 2^30 tokens a sequence, 2^31 pages, and 2^25 pairs of a sequence and a key head",
        );
    }
    let [numbers, counters] = shape.scratch();
    if workspace.arrived.len() < counters || workspace.partial.len() < numbers {
        return refuse("the workspace was made for a smaller shape");
    }
    let partial = workspace.partial.view([workspace.partial.len()])?;
    let arrived = workspace.arrived.view([workspace.arrived.len()])?;
    check(
        CALL,
        stream,
        4,
        &[("out", out.span()), ("workspace", partial.span()), ("workspace counters", arrived.span())],
        &[
            ("q", q.span()),
            ("keys", cache.keys.span()),
            ("values", cache.values.span()),
            ("block table", cache.block_table.span()),
            ("lengths", cache.lengths.span()),
        ],
    )?;
    if let Some(s) = cache.scales {
        let scales = [("key scales", s.keys.span()), ("value scales", s.values.span())];
        check(CALL, stream, 4, &[("out", out.span())], &scales)?;
    }
    check(
        CALL,
        stream,
        16,
        &[("out", out.span())],
        &[("q", q.span()), ("keys", cache.keys.span()), ("values", cache.values.span())],
    )?;
    if sequences == 0 || kv_heads == 0 {
        return Ok(());
    }
    let problem = Problem {
        out: out.view.pointer,
        q: q.pointer,
        k: cache.keys.pointer,
        v: cache.values.pointer,
        lengths: cache.lengths.pointer,
        block_table: cache.block_table.pointer,
        k_scale: cache.scales.map_or(0, |s| s.keys.pointer),
        v_scale: cache.scales.map_or(0, |s| s.values.pointer),
        partial: partial.pointer,
        arrived: arrived.pointer,
        sequences: sequences as i32,
        kv_heads: kv_heads as i32,
        page_tokens: page_tokens as i32,
        table_width: width as i32,
        max_chunks: shape.chunks() as i32,
        pages: pages as i32,
        group: group as i32,
        window: window.map_or(i32::MAX, |w| i32::try_from(w).unwrap_or(i32::MAX)),
        scale_log2: soft_cap.unwrap_or(scale) * std::f32::consts::LOG2_E,
        inner: soft_cap.map_or(0.0, |cap| scale / cap),
    };
    let grid = Grid { blocks: (2 * stream.device.multiprocessors, 1), threads: THREADS, shared: RING_BYTES };
    // SAFETY: the struct mirrors the kernel's; the checks above cover its reads and writes, the kernel checks lengths and entries itself.
    unsafe {
        launch(CALL, stream, kernel, grid, &mut [argument(&problem)], || {
            format!("q {q:?}, keys {:?}", cache.keys)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::DecodeShape;

    #[test]
    fn a_workspace_has_a_counter_for_every_pair_beside_the_grid_s_own_two() {
        let of = |sequences, query_heads, kv_heads, capacity| {
            DecodeShape { sequences, query_heads, kv_heads, capacity }.scratch()
        };
        assert_eq!(of(64, 32, 8, 4096), [64 * 32 * 4 * 130, 2 + 512]);
        assert_eq!(of(1, 8, 8, 16), [8 * 2 * 130, 10], "short sequences are cut in two");
        assert_eq!(of(1, 8, 8, 1 << 30), [8 * 32 * 130, 10], "long ones into no more than 32");
        // One made for 126 pairs, with more query heads, has room for the numbers of 128 pairs and not for their counters.
        let (made, asked) = (of(126, 8, 1, 16), of(128, 1, 1, 16));
        assert!(made[0] > asked[0] && made[1] < asked[1], "{made:?} {asked:?}");
        assert_eq!(of(usize::MAX, 2, 2, 16), [usize::MAX; 2], "nothing wraps to a smaller one");
    }
}
