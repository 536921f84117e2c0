//! Attention of many query tokens a sequence: whole prompts, chunks of prompts over a paged cache, encoders.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::maps::{Boxes, Outside};
use super::module::Kernel;
use super::tensor::{Buffer, Tensor, TensorMut};

/// Keys of a block and columns of a panel of shared memory, as in the kernel.
const BLOCK: i64 = 128;
const PANEL: u32 = 64;
/// Integers of the kernel's `Item`.
const ITEM: usize = 8;
/// A window that hides nothing.
pub(super) const NO_WINDOW: i32 = 1 << 30;

/// One sequence of a prefill step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillSequence {
    /// Query tokens: the last ones of the sequence.
    pub queries: usize,
    /// Key tokens, those of the queries included.
    pub keys: usize,
}

/// Heads of a prefill step, and which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefillShape {
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// 64 or 128.
    pub head_dim: usize,
    /// Scores are multiplied with this; finite and above zero.
    pub scale: f32,
    /// Query `i` of `n` sees keys up to `keys − n + i`; without, it sees every key.
    pub causal: bool,
    /// Keys a query sees, its own included; causal only.
    pub window: Option<usize>,
    /// `cap · tanh(score / cap)` in place of a score; finite and above zero.
    pub soft_cap: Option<f32>,
}

/// The order of work of a prefill step: made on the host, used by each of its layers, filled anew for the next step.
#[derive(Debug)]
pub struct PrefillPlan {
    pub(super) shape: PrefillShape,
    /// At least as many as the extents say.
    items: Buffer<i32>,
    extents: Extents,
}

/// What a plan's list is of.
#[derive(Clone, Copy, Debug)]
struct Extents {
    tiles: usize,
    sequences: usize,
    queries: usize,
    keys: usize,
    longest: usize,
}

/// Rows of a tile, slots of the ring, threads of a block, as the kernel was instantiated.
fn geometry(shape: &PrefillShape) -> (usize, usize, u32) {
    match (shape.head_dim, shape.soft_cap) {
        (128, _) => (128, 5, 384),
        (_, None) => (192, 8, 512),
        (_, Some(_)) => (128, 8, 384),
    }
}

impl PrefillPlan {
    /// Cuts the sequences into tiles, those with most keys first, and copies the list to the GPU (32 bytes a tile of one head).
    ///
    /// # Errors
    /// [`CudaError::Shape`] for heads, a scale, a window or a cap out of range, or over 2^30 tokens or tiles; [`CudaError::OutOfMemory`].
    pub fn new(
        stream: &Stream,
        shape: PrefillShape,
        sequences: &[PrefillSequence],
    ) -> Result<Self, CudaError> {
        let (items, extents) = cut("PrefillPlan::new", &shape, sequences)?;
        Ok(Self { shape, items: Buffer::from_host(stream, items.as_flattened())?, extents })
    }

    /// Takes other sequences, as [`PrefillPlan::new`] does, without waiting for the GPU, and without its memory as long as it had as many tiles before.
    ///
    /// Work that `stream` has already been given keeps the list it was given; a captured graph does not, and needs a plan of its own. From here on the plan
    /// is for this stream: another one waits for it first.
    ///
    /// # Errors
    /// As there; [`CudaError::Shape`] too for a stream that is captured.
    pub fn refill(&mut self, stream: &Stream, sequences: &[PrefillSequence]) -> Result<(), CudaError> {
        let (items, extents) = cut("PrefillPlan::refill", &self.shape, sequences)?;
        let items = items.as_flattened();
        if items.len() > self.items.len() {
            self.items = Buffer::zeros(stream, items.len().next_power_of_two())?;
        }
        self.items.overwrite("PrefillPlan::refill", stream, items)?;
        self.extents = extents;
        Ok(())
    }

    /// Query and key tokens of all sequences.
    pub fn tokens(&self) -> (usize, usize) {
        (self.extents.queries, self.extents.keys)
    }

    /// What it was made for.
    pub fn shape(&self) -> PrefillShape {
        self.shape
    }
}

/// The list of a plan, those with most keys first.
fn cut(
    call: &'static str,
    shape: &PrefillShape,
    sequences: &[PrefillSequence],
) -> Result<(Vec<[i32; ITEM]>, Extents), CudaError> {
    let (queries, keys) = checked_tokens(call, shape, sequences)?;
    let (rows, ..) = geometry(shape);
    let mut items = tiles_of(shape, sequences, rows);
    items.sort_by_key(|item| item[5] - item[6]);
    let tiles = items.len().saturating_mul(shape.query_heads);
    if tiles > 1 << 30 || shape.query_heads.saturating_mul(shape.head_dim) > 1 << 30 {
        return Err(shape_error(
            call,
            format!("{shape:?} of {} sequences", sequences.len()),
            "at most 2^30 tiles, and 2^30 elements a token",
        ));
    }
    let longest = sequences.iter().map(|s| s.keys).max().unwrap_or(0);
    Ok((items, Extents { tiles, sequences: sequences.len(), queries, keys, longest }))
}

/// Query and key tokens of all sequences, of a shape that the kernels take.
pub(super) fn checked_tokens(
    call: &'static str,
    shape: &PrefillShape,
    sequences: &[PrefillSequence],
) -> Result<(usize, usize), CudaError> {
    let refuse =
        |limit: &str| Err(shape_error(call, format!("{shape:?} of {} sequences", sequences.len()), limit));
    if !matches!(shape.head_dim, 64 | 128)
        || shape.kv_heads == 0
        || !shape.query_heads.is_multiple_of(shape.kv_heads)
    {
        return refuse("head_dim must be 64 or 128, query heads a multiple of the key heads");
    }
    let positive = |x: f32| x > 0.0 && x.is_finite();
    if !positive(shape.scale) || shape.soft_cap.is_some_and(|c| !positive(c)) {
        return refuse("the scale and the soft cap must be finite and above zero");
    }
    if shape.window.is_some_and(|w| w == 0 || !shape.causal) {
        return refuse("a window holds at least one key and is causal");
    }
    let total = |f: fn(&PrefillSequence) -> usize| {
        sequences.iter().try_fold(0_usize, |n, s| n.checked_add(f(s))).filter(|&n| n <= 1 << 30)
    };
    let (Some(queries), Some(keys)) = (total(|s| s.queries), total(|s| s.keys)) else {
        return refuse("at most 2^30 tokens");
    };
    Ok((queries, keys))
}

/// The kernel's items, in the order of the sequences: first row, rows, first key row, keys, position, first block, last block, sequence.
fn tiles_of(shape: &PrefillShape, sequences: &[PrefillSequence], rows: usize) -> Vec<[i32; ITEM]> {
    let window = shape.window.map_or(i64::from(NO_WINDOW), |w| (w as i64).min(i64::from(NO_WINDOW)));
    let (mut q_row, mut k_row) = (0, 0);
    let mut items = Vec::new();
    for (index, s) in sequences.iter().enumerate() {
        let keys = s.keys as i64;
        for start in (0..s.queries).step_by(rows) {
            let count = rows.min(s.queries - start) as i64;
            let position = keys - s.queries as i64 + start as i64;
            let (low, high) = if shape.causal {
                ((position + 1 - window).max(0), keys.min(position + count))
            } else {
                (0, keys)
            };
            let (first, last) = if high > low { (low / BLOCK, (high - 1) / BLOCK) } else { (0, -1) };
            let item =
                [(q_row + start) as i64, count, k_row as i64, keys, position, first, last, index as i64];
            items.push(item.map(|x| x as i32));
        }
        q_row += s.queries;
        k_row += s.keys;
    }
    items
}

/// Paged keys and values of a prefill step.
#[derive(Clone, Copy, Debug)]
pub struct PagedKeys<'a> {
    /// `[pages, kv_heads, page_tokens, head_dim]`: a page of one head is contiguous. `page_tokens` is a multiple of 16.
    pub keys: Tensor<'a, bf16, 4>,
    /// Shaped as `keys`.
    pub values: Tensor<'a, bf16, 4>,
    /// `[sequences, table_width]` page numbers, in the plan's order. One that the plan's lengths reach and that is no page makes the queries that see
    /// it not numbers; nothing outside of the pages is read.
    pub block_table: Tensor<'a, i32, 2>,
}

#[repr(C)]
struct Problem {
    out: u64,
    lse: u64,
    items: u64,
    block_table: u64,
    tiles: i32,
    heads: i32,
    group: i32,
    table_width: i32,
    page_tokens: i32,
    rows: i32,
    pages: i32,
    causal: i32,
    window: i32,
    queries: i32,
    scale: f32,
    cap: f32,
}

/// Where keys and values lie, as rows of the tensor maps.
struct Source<'a> {
    keys: u64,
    values: u64,
    /// Rows and columns of either.
    extents: [usize; 2],
    /// Rows of a box.
    rows: usize,
    /// Tokens of a page, pages, and the block table.
    pages: Option<(usize, usize, Tensor<'a, i32, 2>)>,
}

/// `out ← softmax(scale · q · Kᵀ) · V` for the plan's sequences, laid one behind the other; grouped heads.
///
/// Shapes: `out`, `q` `[query tokens, query_heads, head_dim]`, `keys`, `values` `[key tokens, kv_heads, head_dim]`, bf16, 16-byte aligned.
/// Products in bf16, sums and softmax in f32, after FlashAttention-3 (Shah et al., 2024). A row's bits depend neither on the other sequences
/// nor on where its prompt was cut into chunks; nothing past a sequence's end is read into its result. A query without a key gets zeros. Not a
/// number in a value reaches every query of its sequence whose block of 128 keys it lies in, seen or not. `log_sum` `[query_heads, query tokens]` takes the
/// logarithm of the sum of each row's exponentials, −∞ for a query without a key: what [`super::prefill_attention_gradient`] needs, or whoever joins
/// attention over parts of the keys.
/// Source: `cuda/attention/prefill.cu`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn prefill_attention(
    stream: &Stream,
    out: &mut TensorMut<'_, bf16, 3>,
    log_sum: Option<&mut TensorMut<'_, f32, 2>>,
    q: Tensor<'_, bf16, 3>,
    keys: Tensor<'_, bf16, 3>,
    values: Tensor<'_, bf16, 3>,
    plan: &PrefillPlan,
) -> Result<(), CudaError> {
    const CALL: &str = "prefill_attention";
    let s = &plan.shape;
    if keys.shape != [plan.extents.keys, s.kv_heads, s.head_dim] || values.shape != keys.shape {
        return Err(shape_error(
            CALL,
            format!("keys {keys:?}, values {values:?} for {s:?}"),
            format!("keys and values must be [{}, kv_heads, head_dim] as planned", plan.extents.keys),
        ));
    }
    check(
        CALL,
        stream,
        16,
        &[("out", out.span())],
        &[("q", q.span()), ("keys", keys.span()), ("values", values.span())],
    )?;
    let source = Source {
        keys: keys.pointer,
        values: values.pointer,
        extents: [plan.extents.keys, s.kv_heads * s.head_dim],
        rows: BLOCK as usize,
        pages: None,
    };
    run(CALL, stream, (out, log_sum), q, &source, plan)
}

/// As [`prefill_attention`], with keys and values in pages: a prompt's chunk over all that is in the cache, its own tokens included.
///
/// The bits are those of [`prefill_attention`] of the same tokens.
/// Source: `cuda/attention/prefill.cu`.
///
/// # Errors
/// As [`prefill_attention`].
pub fn paged_prefill_attention(
    stream: &Stream,
    out: &mut TensorMut<'_, bf16, 3>,
    log_sum: Option<&mut TensorMut<'_, f32, 2>>,
    q: Tensor<'_, bf16, 3>,
    pages: PagedKeys<'_>,
    plan: &PrefillPlan,
) -> Result<(), CudaError> {
    const CALL: &str = "paged_prefill_attention";
    let s = &plan.shape;
    let [count, kv_heads, page_tokens, dim] = pages.keys.shape;
    let [sequences, width] = pages.block_table.shape;
    let refuse = |limit: &str| Err(shape_error(CALL, format!("{pages:?} for {s:?}"), limit));
    if pages.values.shape != pages.keys.shape || kv_heads != s.kv_heads || dim != s.head_dim {
        return refuse("both caches must be [pages, kv_heads, page_tokens, head_dim] as planned");
    }
    if page_tokens == 0 || page_tokens % 16 != 0 {
        return refuse("page_tokens must be a multiple of 16");
    }
    let rows = count.saturating_mul(kv_heads).saturating_mul(page_tokens);
    if rows > i32::MAX as usize || width > i32::MAX as usize {
        return refuse("at most 2^31 rows of pages");
    }
    if sequences != plan.extents.sequences || width.saturating_mul(page_tokens) < plan.extents.longest {
        return refuse("the block table must have one row a sequence and room for its keys");
    }
    if rows == 0 && plan.extents.longest > 0 {
        return refuse("sequences of keys need pages");
    }
    let tensors = [("q", q.span()), ("keys", pages.keys.span()), ("values", pages.values.span())];
    check(CALL, stream, 16, &[("out", out.span())], &tensors)?;
    check(CALL, stream, 4, &[("out", out.span())], &[("block table", pages.block_table.span())])?;
    let source = Source {
        keys: pages.keys.pointer,
        values: pages.values.pointer,
        extents: [rows, dim],
        rows: 1 << page_tokens.trailing_zeros().min(7),
        pages: Some((page_tokens, count, pages.block_table)),
    };
    run(CALL, stream, (out, log_sum), q, &source, plan)
}

fn run(
    call: &'static str,
    stream: &Stream,
    (out, log_sum): (&mut TensorMut<'_, bf16, 3>, Option<&mut TensorMut<'_, f32, 2>>),
    q: Tensor<'_, bf16, 3>,
    source: &Source<'_>,
    plan: &PrefillPlan,
) -> Result<(), CudaError> {
    let s = &plan.shape;
    let shapes = || format!("out {out:?}, q {q:?}, {s:?}");
    if out.shape() != q.shape || q.shape != [plan.extents.queries, s.query_heads, s.head_dim] {
        let limit = format!("out and q must be [{}, query_heads, head_dim] as planned", plan.extents.queries);
        return Err(shape_error(call, shapes(), limit));
    }
    if let Some(sums) = &log_sum {
        if sums.shape() != [s.query_heads, plan.extents.queries] {
            let limit = format!("the logarithms of the sums must be [query_heads, {}]", plan.extents.queries);
            return Err(shape_error(call, format!("log_sum {sums:?} for {s:?}"), limit));
        }
        let others = [("out", out.span()), ("q", q.span())];
        check(call, stream, 4, &[("log_sum", sums.span())], &others)?;
    }
    let items = plan.items.view([plan.items.len()])?;
    check(call, stream, 16, &[("out", out.span())], &[("plan", items.span())])?;
    if plan.extents.tiles == 0 {
        return Ok(());
    }
    stream.device.bind(call)?;
    let (rows, slots, threads) = geometry(s);
    let map = |address, [height, width]: [usize; 2], rows: usize, outside| {
        let each = [PANEL, rows as u32];
        let strides = [width as u64 * 2];
        let boxes = Boxes::of_bf16(address, [width as u64, height as u64], &strides, each);
        Boxes { outside, ..boxes }.map(call)
    };
    let map_q = map(q.pointer, [plan.extents.queries, s.query_heads * s.head_dim], rows, Outside::Zeros)?;
    // A box of a page lies within it: one that does not is of an entry that is no page.
    let outside = if source.pages.is_some() { Outside::NotNumbers } else { Outside::Zeros };
    let map_of = |address| map(address, source.extents, source.rows, outside);
    let (map_k, map_v) = if source.extents[0] == 0 {
        (map_q, map_q) // no sequence has a key: neither is used
    } else {
        (map_of(source.keys)?, map_of(source.values)?)
    };
    let (page_tokens, table) = source.pages.map_or((0, None), |(tokens, _, table)| (tokens, Some(table)));
    let scale = s.scale * std::f32::consts::LOG2_E;
    let problem = Problem {
        out: out.view.pointer,
        lse: log_sum.map_or(0, |l| l.view.pointer),
        items: items.pointer,
        block_table: table.map_or(0, |t| t.pointer),
        tiles: plan.extents.tiles as i32,
        heads: s.query_heads as i32,
        group: (s.query_heads / s.kv_heads) as i32,
        table_width: table.map_or(0, |t| t.shape[1]) as i32,
        page_tokens: page_tokens as i32,
        rows: source.rows as i32,
        pages: source.pages.map_or(0, |(_, count, _)| count) as i32,
        causal: i32::from(s.causal),
        window: s.window.map_or(NO_WINDOW, |w| w.min(NO_WINDOW as usize) as i32),
        queries: plan.extents.queries as i32,
        scale: s.soft_cap.map_or(scale, |cap| 2.0 * scale / cap),
        cap: s.soft_cap.map_or(0.0, |cap| cap * std::f32::consts::LOG2_E),
    };
    let shared = 1024 + (2 * rows + slots * BLOCK as usize) * s.head_dim * 2;
    let blocks = plan.extents.tiles.min(stream.device.multiprocessors as usize) as u32;
    let grid = Grid { blocks: (blocks, 1), threads, shared: shared as u32 };
    let kernel = kernel_of(stream, s, table.is_some());
    let mut arguments = [argument(&map_q), argument(&map_k), argument(&map_v), argument(&problem)];
    // SAFETY: the values mirror the kernel's parameters; copies are bounded by the maps, stores by the plan, whose extents were checked above.
    unsafe { launch(call, stream, kernel, grid, &mut arguments, shapes) }
}

fn kernel_of(stream: &Stream, shape: &PrefillShape, paged: bool) -> Kernel {
    let m = &stream.device.modules;
    match (shape.head_dim, paged, shape.soft_cap.is_some()) {
        (128, false, false) => m.prefill_d128,
        (128, false, true) => m.prefill_d128_cap,
        (128, true, false) => m.prefill_paged_d128,
        (128, true, true) => m.prefill_paged_d128_cap,
        (_, false, false) => m.prefill_d64,
        (_, false, true) => m.prefill_d64_cap,
        (_, true, false) => m.prefill_paged_d64,
        (_, true, true) => m.prefill_paged_d64_cap,
    }
}

#[cfg(test)]
mod tests {
    use super::{PrefillSequence, PrefillShape, tiles_of};

    fn shape(causal: bool, window: Option<usize>) -> PrefillShape {
        PrefillShape {
            query_heads: 4,
            kv_heads: 2,
            head_dim: 128,
            scale: 1.0,
            causal,
            window,
            soft_cap: None,
        }
    }

    #[test]
    fn tiles_walk_the_blocks_that_their_rows_see() {
        let of = |causal, window, queries, keys| {
            tiles_of(&shape(causal, window), &[PrefillSequence { queries, keys }], 128)
                .into_iter()
                .map(|i| (i[0], i[1], i[4], i[5], i[6]))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of(true, None, 300, 300),
            [(0, 128, 0, 0, 0), (128, 128, 128, 0, 1), (256, 44, 256, 0, 2)]
        );
        assert_eq!(of(true, None, 100, 1000), [(0, 100, 900, 0, 7)]);
        assert_eq!(of(true, Some(130), 100, 1000), [(0, 100, 900, 6, 7)]);
        assert_eq!(of(false, None, 10, 129), [(0, 10, 119, 0, 1)]);
        assert_eq!(of(true, None, 5, 2), [(0, 5, -3, 0, 0)], "the last two queries see keys");
        assert_eq!(of(true, None, 3, 0), [(0, 3, -3, 0, -1)], "no key, no block");
        assert_eq!(of(true, None, 0, 9), []);
    }
}
