//! Keys and values of an e4m3 cache as prefill attention takes them.

use half::bf16;

use super::attention::CacheScales;
use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{E4m3, Tensor, TensorMut};

const CALL: &str = "read_pages";
/// Numbers of a thread, and threads of a block, as in the kernel.
const VECTOR: usize = 16;
const THREADS: usize = 256;

/// Tokens of sequences in an e4m3 cache.
#[derive(Clone, Copy, Debug)]
pub struct PagedTokens<'a> {
    /// `[pages, kv_heads, page_tokens, head_dim]`: a page of one head is contiguous. `head_dim` is a multiple of 16.
    pub keys: Tensor<'a, E4m3, 4>,
    /// Shaped as `keys`.
    pub values: Tensor<'a, E4m3, 4>,
    /// What its numbers are multiplied by.
    pub scales: CacheScales<'a>,
    /// `[sequences, table_width]` page numbers. Tokens of one that is no page are not numbers.
    pub block_table: Tensor<'a, i32, 2>,
    /// `[sequences + 1]`: the token at which a sequence begins, in ascending order, and that at which the last one ends. Tokens that no sequence has, or for
    /// which its row of the table has no room, are not numbers.
    pub starts: Tensor<'a, i32, 1>,
}

#[repr(C)]
struct Problem {
    dense_keys: u64,
    dense_values: u64,
    keys: u64,
    values: u64,
    key_scale: u64,
    value_scale: u64,
    table: u64,
    starts: u64,
    tokens: i32,
    sequences: i32,
    width: i32,
    pages: i32,
    page_tokens: i32,
    kv_heads: i32,
    vectors: i32,
}

/// `keys[t] ← scale · cache[page of t]`, values likewise: what [`super::prefill_attention`] takes, so that a prompt's chunk attends to all that an e4m3
/// cache holds, its own tokens included.
///
/// Shapes: `keys`, `values` `[tokens, kv_heads, head_dim]` bf16, the sequences one behind the other, 16-byte aligned. The product is f32's, rounded once to
/// bf16. Nothing outside of the cache is read, whatever table and starts hold.
/// Source: `cuda/attention/read_pages.cu`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn read_pages(
    stream: &Stream,
    keys: &mut TensorMut<'_, bf16, 3>,
    values: &mut TensorMut<'_, bf16, 3>,
    from: PagedTokens<'_>,
) -> Result<(), CudaError> {
    let [tokens, kv_heads, dim] = keys.shape();
    let [pages, _, page_tokens, _] = from.keys.shape;
    let [sequences, width] = from.block_table.shape;
    let refuse =
        |limit: &str| Err(shape_error(CALL, format!("keys {keys:?}, values {values:?}, {from:?}"), limit));
    if values.shape() != keys.shape()
        || from.keys.shape != [pages, kv_heads, page_tokens, dim]
        || from.values.shape != from.keys.shape
    {
        return refuse(
            "keys and values must be [tokens, kv_heads, head_dim], both caches [pages, kv_heads, page_tokens, head_dim]",
        );
    }
    if dim == 0 || !dim.is_multiple_of(VECTOR) || page_tokens == 0 {
        return refuse("head_dim must be a multiple of 16, and a page hold a token");
    }
    if from.scales.keys.shape != [kv_heads] || from.scales.values.shape != [kv_heads] {
        return refuse("scales of keys and of values must be [kv_heads]");
    }
    if from.starts.shape != [sequences.saturating_add(1)] {
        return refuse("starts must have one entry a row of the block table, and one more");
    }
    let units = tokens.saturating_mul(kv_heads).saturating_mul(dim / VECTOR);
    let most = [tokens, sequences, width, pages, page_tokens, units.div_ceil(THREADS)].into_iter().max();
    if most > Some(i32::MAX as usize) {
        return refuse("at most 2^31 tokens, sequences, pages, and blocks of 4,096 numbers");
    }
    let outputs = [("keys", keys.span()), ("values", values.span())];
    check(
        CALL,
        stream,
        16,
        &outputs,
        &[("key cache", from.keys.span()), ("value cache", from.values.span())],
    )?;
    let small = [
        ("block table", from.block_table.span()),
        ("starts", from.starts.span()),
        ("key scales", from.scales.keys.span()),
        ("value scales", from.scales.values.span()),
    ];
    check(CALL, stream, 4, &outputs, &small)?;
    if units == 0 {
        return Ok(());
    }
    let problem = Problem {
        dense_keys: keys.view.pointer,
        dense_values: values.view.pointer,
        keys: from.keys.pointer,
        values: from.values.pointer,
        key_scale: from.scales.keys.pointer,
        value_scale: from.scales.values.pointer,
        table: from.block_table.pointer,
        starts: from.starts.pointer,
        tokens: tokens as i32,
        sequences: sequences as i32,
        width: width as i32,
        pages: pages as i32,
        page_tokens: page_tokens as i32,
        kv_heads: kv_heads as i32,
        vectors: (dim / VECTOR) as i32,
    };
    let grid = Grid { blocks: (units.div_ceil(THREADS) as u32, 1), threads: THREADS as u32, shared: 0 };
    // SAFETY: the struct mirrors the kernel's; the checks above bound what it reads, and the kernel bounds pages and starts.
    unsafe {
        launch(CALL, stream, stream.device.modules.read_pages, grid, &mut [argument(&problem)], || {
            format!("keys {keys:?}, {from:?}")
        })
    }
}
