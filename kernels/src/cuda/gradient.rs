//! The gradients of attention.

use cudarc::driver::sys;
use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::maps::Boxes;
use super::module::Kernel;
use super::prefill::{NO_WINDOW, PrefillSequence, PrefillShape, checked_tokens};
use super::tensor::{Buffer, Tensor, TensorMut};

/// Rows that a block owns, rows of the others it walks at a time, columns of a panel of shared memory, as in the kernels.
const ROWS: usize = 128;
const BLOCK: i64 = 64;
const PANEL: u32 = 64;
/// Integers of the kernels' `Item`.
const ITEM: usize = 12;

/// The order of work of a backward step, and its scratch: made once on the host, used by each layer, one after the other.
#[derive(Debug)]
pub struct GradientPlan {
    shape: PrefillShape,
    query_items: Buffer<i32>,
    key_items: Buffer<i32>,
    /// Logarithms of sums, then Σ dO ∘ out: `[2, query_heads, stat_rows]`.
    statistics: Buffer<f32>,
    stat_rows: usize,
    queries: usize,
    keys: usize,
}

impl GradientPlan {
    /// As [`super::PrefillPlan::new`]; takes 8 bytes a query and head besides.
    ///
    /// # Errors
    /// As there.
    pub fn new(
        stream: &Stream,
        shape: PrefillShape,
        sequences: &[PrefillSequence],
    ) -> Result<Self, CudaError> {
        const CALL: &str = "GradientPlan::new";
        let (queries, keys) = checked_tokens(CALL, &shape, sequences)?;
        let stat_rows: usize = sequences.iter().map(|s| s.queries.next_multiple_of(ROWS)).sum();
        let blocks = (queries + keys + 2 * ROWS * sequences.len()).saturating_mul(shape.query_heads) / ROWS;
        if blocks > 1 << 30 || shape.query_heads * shape.head_dim > 1 << 30 {
            return Err(shape_error(
                CALL,
                format!("{shape:?} of {} sequences", sequences.len()),
                "at most 2^30 tiles, and 2^30 elements a token",
            ));
        }
        let most_first = |mut items: Vec<[i32; ITEM]>| {
            items.sort_by_key(|item| item[6] - item[7]);
            Buffer::from_host(stream, items.as_flattened())
        };
        Ok(Self {
            shape,
            query_items: most_first(query_items(&shape, sequences))?,
            key_items: most_first(key_items(&shape, sequences))?,
            statistics: Buffer::zeros(stream, 2 * shape.query_heads * stat_rows)?,
            stat_rows,
            queries,
            keys,
        })
    }

    /// Query and key tokens of all sequences.
    pub fn tokens(&self) -> (usize, usize) {
        (self.queries, self.keys)
    }

    /// What it was made for.
    pub fn shape(&self) -> PrefillShape {
        self.shape
    }
}

fn window_of(shape: &PrefillShape) -> i64 {
    shape.window.map_or(i64::from(NO_WINDOW), |w| (w as i64).min(i64::from(NO_WINDOW)))
}

/// Tiles of queries: row, rows, first key row, keys, place of the first query, –, first and last block of keys, row of the statistics.
fn query_items(shape: &PrefillShape, sequences: &[PrefillSequence]) -> Vec<[i32; ITEM]> {
    let (mut row, mut key_row, mut stat) = (0, 0, 0);
    let mut items = Vec::new();
    for s in sequences {
        let keys = s.keys as i64;
        for start in (0..s.queries).step_by(ROWS) {
            let rows = ROWS.min(s.queries - start) as i64;
            let place = keys - s.queries as i64 + start as i64;
            let (low, high) = if shape.causal {
                ((place + 1 - window_of(shape)).max(0), keys.min(place + rows))
            } else {
                (0, keys)
            };
            let (first, last) = if high > low { (low / BLOCK, (high - 1) / BLOCK) } else { (0, -1) };
            let stat_row = (stat + start) as i64;
            let item =
                [(row + start) as i64, rows, key_row as i64, keys, place, 0, first, last, stat_row, 0, 0, 0];
            items.push(item.map(|x| x as i32));
        }
        row += s.queries;
        key_row += s.keys;
        stat += s.queries.next_multiple_of(ROWS);
    }
    items
}

/// Tiles of keys: row, rows, first query row, queries, place of the first key, of the first query, first and last block of queries, the sequence's row of
/// the statistics.
fn key_items(shape: &PrefillShape, sequences: &[PrefillSequence]) -> Vec<[i32; ITEM]> {
    let (mut row, mut query_row, mut stat) = (0, 0, 0);
    let mut items = Vec::new();
    for s in sequences {
        let (queries, offset) = (s.queries as i64, s.keys as i64 - s.queries as i64);
        for start in (0..s.keys).step_by(ROWS) {
            let rows = ROWS.min(s.keys - start) as i64;
            let start = start as i64;
            // Numbers of the queries that see any of these keys.
            let (low, high) = if shape.causal {
                ((start - offset).max(0), queries.min(start + rows - 1 + window_of(shape) - offset))
            } else {
                (0, queries)
            };
            let (first, last) = if high > low { (low / BLOCK, (high - 1) / BLOCK) } else { (0, -1) };
            let from = [row as i64 + start, rows, query_row as i64, queries, start, offset];
            let item =
                [from[0], from[1], from[2], from[3], from[4], from[5], first, last, stat as i64, 0, 0, 0];
            items.push(item.map(|x| x as i32));
        }
        row += s.keys;
        query_row += s.queries;
        stat += s.queries.next_multiple_of(ROWS);
    }
    items
}

/// What [`prefill_attention_gradient`] writes, shaped as the tensors they belong to.
#[derive(Debug)]
pub struct AttentionGradients<'a, 'b> {
    /// `[query tokens, query_heads, head_dim]`.
    pub q: &'a mut TensorMut<'b, bf16, 3>,
    /// `[key tokens, kv_heads, head_dim]`.
    pub keys: &'a mut TensorMut<'b, bf16, 3>,
    /// As `keys`.
    pub values: &'a mut TensorMut<'b, bf16, 3>,
}

/// What [`super::prefill_attention`] read and wrote.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a> {
    /// `[query tokens, query_heads, head_dim]`.
    pub q: Tensor<'a, bf16, 3>,
    /// `[key tokens, kv_heads, head_dim]`.
    pub keys: Tensor<'a, bf16, 3>,
    /// As `keys`.
    pub values: Tensor<'a, bf16, 3>,
    /// As `q`.
    pub out: Tensor<'a, bf16, 3>,
    /// `[query_heads, query tokens]`.
    pub log_sum: Tensor<'a, f32, 2>,
}

#[repr(C)]
struct Problem {
    first: u64,
    second: u64,
    items: u64,
    lse: u64,
    delta: u64,
    heads: i32,
    group: i32,
    stat_rows: i32,
    causal: i32,
    window: i32,
    scale: f32,
    scale_log2: f32,
    cap: f32,
}

const CALL: &str = "prefill_attention_gradient";

/// Shapes, placement and aliasing of a call, before anything is written.
fn checked(
    stream: &Stream,
    into: &AttentionGradients<'_, '_>,
    of: &AttentionInputs<'_>,
    gradient: Tensor<'_, bf16, 3>,
    plan: &GradientPlan,
) -> Result<(), CudaError> {
    let s = plan.shape;
    let rows = [plan.queries, s.query_heads, s.head_dim];
    let cache = [plan.keys, s.kv_heads, s.head_dim];
    let of_keys = [of.keys.shape, of.values.shape, into.keys.shape(), into.values.shape()];
    let fits = [of.q.shape, of.out.shape, gradient.shape, into.q.shape()].iter().all(|&x| x == rows)
        && of_keys.iter().all(|&x| x == cache)
        && of.log_sum.shape == [s.query_heads, plan.queries];
    if !fits {
        return Err(shape_error(
            CALL,
            format!("{into:?}, {of:?}, gradient {gradient:?} for {s:?}"),
            format!("queries must be {rows:?} and keys {cache:?}, as planned"),
        ));
    }
    let statistics = plan.statistics.view([plan.statistics.len()])?;
    let outputs = [
        ("dq", into.q.span()),
        ("dk", into.keys.span()),
        ("dv", into.values.span()),
        ("plan", statistics.span()),
    ];
    let inputs = [
        ("q", of.q.span()),
        ("keys", of.keys.span()),
        ("values", of.values.span()),
        ("out", of.out.span()),
        ("gradient", gradient.span()),
    ];
    check(CALL, stream, 16, &outputs, &inputs)?;
    check(CALL, stream, 4, &outputs, &[("log_sum", of.log_sum.span())])
}

/// A pair of tensors of one shape: keys and values, or queries and the output's gradient.
#[derive(Clone, Copy)]
struct Pair {
    addresses: [u64; 2],
    shape: [usize; 3],
}

impl Pair {
    /// Boxes of `rows` rows and one panel.
    fn maps(&self, rows: usize) -> Result<[sys::CUtensorMap; 2], CudaError> {
        let [tokens, heads, dim] = self.shape;
        let width = (heads * dim) as u64;
        let each = [PANEL, rows as u32];
        let map = |address| Boxes::of_bf16(address, [width, tokens as u64], &[width * 2], each).map(CALL);
        Ok([map(self.addresses[0])?, map(self.addresses[1])?])
    }
}

/// The kernel that owns tiles of one pair and walks the other.
fn queue(
    stream: &Stream,
    kernel: Kernel,
    blocks: u32,
    [own, side]: [Pair; 2],
    problem: &Problem,
    shapes: impl FnOnce() -> String,
) -> Result<(), CudaError> {
    if blocks == 0 {
        return Ok(());
    }
    let dim = own.shape[2];
    // Where there are no others, no block walks any: any map will do that the driver takes.
    let side = if side.shape[0] == 0 { Pair { shape: [1, 1, dim], ..own } } else { side };
    let (owned, others) = (own.maps(ROWS)?, side.maps(BLOCK as usize)?);
    let mut arguments = [
        argument(&owned[0]),
        argument(&owned[1]),
        argument(&others[0]),
        argument(&others[1]),
        argument(problem),
    ];
    let stages = if dim == 128 { 4 } else { 6 };
    let shared = 1024 + 2 * (ROWS + stages * BLOCK as usize) * dim * 2;
    let grid = Grid { blocks: (blocks, 1), threads: 384, shared: shared as u32 };
    // SAFETY: the values mirror the kernel's parameters; copies are bounded by the maps, stores by the items.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, shapes) }
}

/// The gradients of [`super::prefill_attention`] with respect to q, keys and values, for the `gradient` of its output; bf16, shaped and laid as there.
///
/// Products in bf16, sums in f32, probabilities computed anew from `log_sum` (Dao, 2023). Key heads sum over their query heads in order; no atomics: the bits
/// of a sequence's gradients depend neither on the other sequences nor on the run. Nothing past a sequence's end is read into a result.
/// Source: `cuda/attention/gradient.cu`; `plan` holds its workspace.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from a launch.
pub fn prefill_attention_gradient(
    stream: &Stream,
    into: &AttentionGradients<'_, '_>,
    of: AttentionInputs<'_>,
    gradient: Tensor<'_, bf16, 3>,
    plan: &mut GradientPlan,
) -> Result<(), CudaError> {
    checked(stream, into, &of, gradient, plan)?;
    stream.device.bind(CALL)?;
    let (s, m) = (plan.shape, &stream.device.modules);
    let statistics = if s.head_dim == 64 { m.attention_statistics_d64 } else { m.attention_statistics_d128 };
    let [of_keys, of_queries] = match (s.head_dim, s.soft_cap.is_some()) {
        (64, false) => [m.attention_gradient_keys_d64, m.attention_gradient_queries_d64],
        (64, true) => [m.attention_gradient_keys_d64_cap, m.attention_gradient_queries_d64_cap],
        (_, false) => [m.attention_gradient_keys_d128, m.attention_gradient_queries_d128],
        (_, true) => [m.attention_gradient_keys_d128_cap, m.attention_gradient_queries_d128_cap],
    };
    let tiles = |items: &Buffer<i32>, heads: usize| (items.len() / ITEM * heads) as u32;
    let (query_tiles, key_tiles) =
        (tiles(&plan.query_items, s.query_heads), tiles(&plan.key_items, s.kv_heads));
    let (query_items, key_items) =
        (plan.query_items.view([plan.query_items.len()])?, plan.key_items.view([plan.key_items.len()])?);
    let shapes = || format!("q {:?}, keys {:?}, {s:?}", of.q, of.keys);
    let lse = plan.statistics.view([plan.statistics.len()])?.pointer;
    let delta = lse + (4 * s.query_heads * plan.stat_rows) as u64;
    let (heads, tokens, stat_rows) = (s.query_heads as i32, plan.queries as i32, plan.stat_rows as i32);
    if query_tiles > 0 {
        let mut arguments = [
            argument(&lse),
            argument(&delta),
            argument(&of.log_sum.pointer),
            argument(&of.out.pointer),
            argument(&gradient.pointer),
            argument(&query_items.pointer),
            argument(&heads),
            argument(&tokens),
            argument(&stat_rows),
        ];
        let grid = Grid { blocks: (query_tiles, 1), threads: 256, shared: 0 };
        // SAFETY: parameters in the kernel's order; the items lie within the tensors and statistics checked above.
        unsafe { launch(CALL, stream, statistics, grid, &mut arguments, shapes)? };
    }
    let problem = |first: u64, second: u64, items: u64| Problem {
        first,
        second,
        items,
        lse,
        delta,
        heads,
        group: (s.query_heads / s.kv_heads) as i32,
        stat_rows,
        causal: i32::from(s.causal),
        window: window_of(&s) as i32,
        scale: s.scale,
        // As in prefill.rs.
        scale_log2: s.soft_cap.map_or(s.scale, |cap| 2.0 * s.scale / cap) * std::f32::consts::LOG2_E,
        cap: s.soft_cap.unwrap_or(0.0) * std::f32::consts::LOG2_E,
    };
    let keys = Pair { addresses: [of.keys.pointer, of.values.pointer], shape: of.keys.shape };
    let queries = Pair { addresses: [of.q.pointer, gradient.pointer], shape: of.q.shape };
    let writes = problem(into.keys.view.pointer, into.values.view.pointer, key_items.pointer);
    queue(stream, of_keys, key_tiles, [keys, queries], &writes, shapes)?;
    let writes = problem(into.q.view.pointer, 0, query_items.pointer);
    queue(stream, of_queries, query_tiles, [queries, keys], &writes, shapes)
}

#[cfg(test)]
mod tests {
    use super::{PrefillSequence, PrefillShape, key_items, query_items};

    fn shape(causal: bool, window: Option<usize>) -> PrefillShape {
        PrefillShape { query_heads: 4, kv_heads: 2, head_dim: 64, scale: 1.0, causal, window, soft_cap: None }
    }

    #[test]
    fn every_pair_of_a_query_and_a_key_it_sees_is_walked_from_both_sides() {
        for (causal, window) in [(false, None), (true, None), (true, Some(1)), (true, Some(100))] {
            let shape = shape(causal, window);
            for (queries, keys) in [(1, 1), (300, 300), (5, 2), (77, 400), (200, 0), (0, 40)] {
                let sequences = [PrefillSequence { queries, keys }];
                let (of_queries, of_keys) = (query_items(&shape, &sequences), key_items(&shape, &sequences));
                let offset = keys as i32 - queries as i32;
                for query in 0..queries as i32 {
                    for key in 0..keys as i32 {
                        let place = offset + query;
                        let width = window.map_or(i32::MAX / 2, |w| w as i32);
                        if causal && (key > place || key <= place - width) {
                            continue;
                        }
                        let (q, k) = (of_queries[query as usize / 128], of_keys[key as usize / 128]);
                        assert!(
                            (q[6]..=q[7]).contains(&(key / 64)),
                            "{queries} × {keys}: {query} sees {key}: {q:?}"
                        );
                        assert!(
                            (k[6]..=k[7]).contains(&(query / 64)),
                            "{queries} × {keys}: {key} of {query}: {k:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_know_where_their_sequence_lies() {
        let sequences =
            [PrefillSequence { queries: 130, keys: 130 }, PrefillSequence { queries: 3, keys: 200 }];
        let of_queries = query_items(&shape(true, None), &sequences);
        assert_eq!(of_queries[2][..9], [130, 3, 130, 200, 197, 0, 0, 3, 256]);
        let of_keys = key_items(&shape(true, None), &sequences);
        assert_eq!(of_keys[3][..9], [258, 72, 130, 3, 128, 197, 0, 0, 256]);
    }
}
