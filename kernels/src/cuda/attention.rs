//! Decode attention over a paged key-value cache.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{Buffer, Tensor, TensorMut};

/// Head dimension the kernel is compiled for.
const DIM: usize = 128;
/// Longest chunk of a sequence that is one unit of work, in tokens, until the sequence has 32 of them.
const CHUNK: usize = 1024;
/// No sequence is cut into more chunks.
const MOST_CHUNKS: usize = 32;
/// Worker warps and the clerk, as in the kernel.
const THREADS: u32 = 4 * 32 + 32;
/// Worker warps × stages × 8 KiB, as in the kernel.
const RING_BYTES: u32 = 4 * 3 * 8192;

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
}

/// Scratch of [`paged_decode`], reusable by every call of at most this shape on one stream.
#[derive(Debug)]
pub struct DecodeWorkspace {
    partial: Buffer<f32>,
    arrived: Buffer<u32>,
}

impl DecodeWorkspace {
    /// Takes `sequences · query_heads · chunks · 130 · 4` bytes of device memory, chunks being at most 32.
    pub fn new(stream: &Stream, shape: DecodeShape) -> Result<Self, CudaError> {
        let chunks = shape.chunks();
        Ok(Self {
            partial: Buffer::zeros(stream, shape.sequences * shape.query_heads * chunks * (DIM + 2))?,
            arrived: Buffer::zeros(stream, 2 + shape.sequences * shape.kv_heads)?,
        })
    }
}

/// A paged key-value cache and which pages belong to whom.
#[derive(Clone, Copy, Debug)]
pub struct PagedCache<'a> {
    /// `[pages, kv_heads, page_tokens, 128]`: a page of one head is contiguous. `page_tokens` is a multiple of 16.
    pub keys: Tensor<'a, bf16, 4>,
    /// Shaped as `keys`.
    pub values: Tensor<'a, bf16, 4>,
    /// `[sequences, table_width]` page numbers. The kernel trusts them: an entry used by a sequence's length must be under `pages`.
    pub block_table: Tensor<'a, i32, 2>,
    /// `[sequences]` tokens in the cache, at most `table_width · page_tokens`; 0 gives an output of zeros.
    pub lengths: Tensor<'a, i32, 1>,
}

#[repr(C)]
struct Problem {
    out: u64,
    q: u64,
    k: u64,
    v: u64,
    lengths: u64,
    block_table: u64,
    partial: u64,
    arrived: u64,
    sequences: i32,
    kv_heads: i32,
    page_tokens: i32,
    table_width: i32,
    max_chunks: i32,
    scale_log2: f32,
}

/// `out ← softmax(scale · q · Kᵀ) · V` for one new token of each sequence; grouped heads (1, 2, 4 or 8 query heads a key head).
///
/// Shapes: `out`, `q` `[sequences, query_heads, 128]` bf16; the cache as in [`PagedCache`]. Products in bf16, sums and softmax in f32
/// (Flash-Decoding: Dao et al., 2023). Nothing past a sequence's length is read into the result, whatever the page holds.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn paged_decode(
    stream: &Stream,
    out: &mut TensorMut<'_, bf16, 3>,
    q: Tensor<'_, bf16, 3>,
    cache: PagedCache<'_>,
    scale: f32,
    workspace: &mut DecodeWorkspace,
) -> Result<(), CudaError> {
    const CALL: &str = "paged_decode";
    let [sequences, query_heads, dim] = q.shape;
    let [pages, kv_heads, page_tokens, _] = cache.keys.shape;
    let [_, width] = cache.block_table.shape;
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
    if out.shape() != q.shape
        || dim != DIM
        || cache.keys.shape != cache.values.shape
        || cache.keys.shape[3] != DIM
    {
        return refuse(
            "out and q must be [sequences, heads, 128] and both caches [pages, kv_heads, page_tokens, 128]",
        );
    }
    if cache.block_table.shape[0] != sequences || cache.lengths.shape[0] != sequences {
        return refuse("block table and lengths must have one row a sequence");
    }
    if page_tokens == 0 || page_tokens % 16 != 0 {
        return refuse("page_tokens must be a multiple of 16");
    }
    if !(scale > 0.0 && scale.is_finite()) {
        return refuse("the scale must be finite and above zero");
    }
    let m = &stream.device.modules;
    let kernel = match (kv_heads > 0 && query_heads % kv_heads == 0).then(|| query_heads / kv_heads) {
        Some(1) => m.paged_decode_g1,
        Some(2) => m.paged_decode_g2,
        Some(4) => m.paged_decode_g4,
        Some(8) => m.paged_decode_g8,
        _ => return refuse("query heads must be 1, 2, 4 or 8 times the key heads"),
    };
    let shape = DecodeShape { sequences, query_heads, kv_heads, capacity: width.saturating_mul(page_tokens) };
    // Units of work are numbered in 31 bits, with room for what the last warps draw in vain.
    if shape.capacity > 1 << 30 || pages > i32::MAX as usize || sequences.saturating_mul(kv_heads) > 1 << 25 {
        return refuse(
            "at most 2^30 tokens a sequence, 2^31 pages, and 2^25 pairs of a sequence and a key head",
        );
    }
    let max_chunks = shape.chunks();
    if workspace.arrived.len() < sequences * kv_heads
        || workspace.partial.len() < sequences * query_heads * max_chunks * (DIM + 2)
    {
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
        partial: partial.pointer,
        arrived: arrived.pointer,
        sequences: sequences as i32,
        kv_heads: kv_heads as i32,
        page_tokens: page_tokens as i32,
        table_width: width as i32,
        max_chunks: max_chunks as i32,
        scale_log2: scale * std::f32::consts::LOG2_E,
    };
    let grid = Grid { blocks: (2 * stream.device.multiprocessors, 1), threads: THREADS, shared: RING_BYTES };
    // SAFETY: the struct mirrors the kernel's; the checks above cover its reads and writes, the table's entries are the caller's contract.
    unsafe {
        launch(CALL, stream, kernel, grid, &mut [argument(&problem)], || {
            format!("q {q:?}, keys {:?}", cache.keys)
        })
    }
}
