//! Drawing the next token.

use cudarc::driver::result;
use half::bf16;

use super::device::Stream;
use super::error::{CudaError, driver};
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{Tensor, TensorMut};

/// Blocks that share a row, threads of each, and the scores a thread keeps in shared memory (vectors of 16 bytes), as in the kernel.
const CLUSTER: usize = 2;
const THREADS: u32 = 1024;
const KEPT: u32 = 14;

/// Logits `[rows, stride]`, of which the first `vocabulary` columns count; `stride` is a multiple of 4.
#[derive(Clone, Copy, Debug)]
pub enum Logits<'a> {
    /// 16-byte aligned.
    F32(Tensor<'a, f32, 2>),
    /// 8-byte aligned; the call asks for 16.
    Bf16(Tensor<'a, bf16, 2>),
}

/// One value a row, each `[rows]`.
#[derive(Clone, Copy, Debug)]
pub struct SamplingParameters<'a> {
    /// Under 1e-5, as 0 is, and not a number: greedy, the limit of drawing. Over less, logits would pass the largest float and tie there.
    pub temperature: Tensor<'a, f32, 1>,
    /// Smallest set of most likely tokens with at least this mass; 1 keeps all.
    pub top_p: Tensor<'a, f32, 1>,
    /// Tokens less likely than this share of the most likely one are dropped; 0 keeps all.
    pub min_p: Tensor<'a, f32, 1>,
    /// Most likely tokens kept; 0 keeps all.
    pub top_k: Tensor<'a, i32, 1>,
    /// The draw is a function of the row's logits and this number; use a new one for each step.
    pub seed: Tensor<'a, u64, 1>,
}

/// What makes tokens that a sequence already has less likely, before anything else: a positive logit of a token of the prompt or the output is
/// divided by `repetition`, a negative one multiplied; then `frequency` times the token's count in the output is taken off, and `presence` once if it
/// is there at all (the rules of vLLM).
#[derive(Debug)]
pub struct Penalties<'a, 'b> {
    /// `[rows]`; 1 is neutral, and so is what is not above zero.
    pub repetition: Tensor<'a, f32, 1>,
    /// `[rows]`; 0 is neutral.
    pub presence: Tensor<'a, f32, 1>,
    /// `[rows]`; 0 is neutral.
    pub frequency: Tensor<'a, f32, 1>,
    /// `[rows]`: row of `counts` of the row's sequence, another for each. One outside of it (−1, say) is without penalties.
    pub slot: Tensor<'a, i32, 1>,
    /// `[slots, stride]`, stride a multiple of 4 that holds the vocabulary; an entry's top bit says that the prompt has the token, the others how often it
    /// was drawn, up to 32,767. [`start_counts`] begins a sequence; the call counts the token it draws.
    pub counts: &'a mut TensorMut<'b, u16, 2>,
}

#[repr(C)]
struct Problem {
    token: u64,
    logprob: u64,
    logits: u64,
    bitmask: u64,
    temperature: u64,
    top_p: u64,
    min_p: u64,
    top_k: u64,
    seed: u64,
    repetition: u64,
    presence: u64,
    frequency: u64,
    slot: u64,
    counts: u64,
    counts_stride: i64,
    row_stride: i64,
    vocabulary: i32,
    mask_words: i32,
    slots: i32,
}

/// Begins a sequence in row `slot` of the counts of [`Penalties`]: its entries become zero, those of the `prompt`'s tokens marked.
///
/// Tokens outside of the row are passed over. `counts` `[slots, stride]`, 8-byte aligned, stride a multiple of 4.
/// Source: `cuda/sampling/sample.cu`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn start_counts(
    stream: &Stream,
    counts: &mut TensorMut<'_, u16, 2>,
    slot: usize,
    prompt: Tensor<'_, i32, 1>,
) -> Result<(), CudaError> {
    const CALL: &str = "start_counts";
    let ([slots, stride], [tokens]) = (counts.shape(), prompt.shape);
    let shapes = || format!("counts {counts:?}, slot {slot}, prompt {prompt:?}");
    if slot >= slots || stride % 4 != 0 || stride > 1 << 30 || tokens > 1 << 30 {
        return Err(shape_error(
            CALL,
            shapes(),
            "the slot must be a row of the counts, whose stride is a multiple of 4; at most 2^30 tokens",
        ));
    }
    check(CALL, stream, 4, &[], &[("prompt", prompt.span())])?;
    check(CALL, stream, 8, &[("counts", counts.span())], &[])?;
    check(CALL, stream, 4, &[("counts", counts.span())], &[("prompt", prompt.span())])?;
    stream.device.bind(CALL)?;
    let row = counts.view.pointer + (slot * stride * 2) as u64;
    // SAFETY: the row lies within the counts, as checked above.
    unsafe { result::memset_d8_async(row, 0, stride * 2, stream.raw) }.map_err(driver(CALL))?;
    if tokens == 0 {
        return Ok(());
    }
    let grid = Grid { blocks: (tokens.div_ceil(256) as u32, 1), threads: 256, shared: 0 };
    let (n, vocabulary) = (tokens as i32, stride as i32);
    let mut arguments = [argument(&row), argument(&prompt.pointer), argument(&n), argument(&vocabulary)];
    // SAFETY: parameters in the kernel's order; it writes within the row alone.
    unsafe { launch(CALL, stream, stream.device.modules.mark_prompt, grid, &mut arguments, shapes) }
}

/// Draws one token a row and gives its log-probability at the row's temperature (1 when greedy), after penalties and before top-k, top-p and min-p.
///
/// `token`, `log_probability` `[rows]`; `bitmask` `[rows, words]` with bit `i % 32` of word `i / 32` set where token `i` is allowed.
/// top-k, top-p and min-p each apply to the full (masked) distribution. Ties go to the lower token. A row without an allowed finite logit
/// gives token −1 and −∞. Exact sampling from the kept set by rejection:
/// no sort, no stored probabilities, mostly 2 to 4 passes over the row.
/// Source: `cuda/sampling/sample.cu`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn sample(
    stream: &Stream,
    (token, log_probability): (&mut TensorMut<'_, i32, 1>, &mut TensorMut<'_, f32, 1>),
    logits: Logits<'_>,
    vocabulary: usize,
    bitmask: Option<Tensor<'_, u32, 2>>,
    parameters: SamplingParameters<'_>,
    penalties: Option<&Penalties<'_, '_>>,
) -> Result<(), CudaError> {
    const CALL: &str = "sample";
    let m = &stream.device.modules;
    let ([rows, stride], span, kernel) = match logits {
        Logits::F32(t) => (t.shape, t.span(), m.sample_f32),
        Logits::Bf16(t) => (t.shape, t.span(), m.sample_bf16),
    };
    let p = parameters;
    let refuse = |limit: &str| {
        Err(shape_error(
            CALL,
            format!(
                "token {token:?}, logits {logits:?} of vocabulary {vocabulary}, bitmask {bitmask:?}, {p:?}, {penalties:?}"
            ),
            limit,
        ))
    };
    if stride % 4 != 0 || vocabulary > stride || vocabulary == 0 || stride > 1 << 30 || rows > 1 << 24 {
        return refuse(
            "the row stride must be a multiple of 4 and hold the vocabulary; at most 2^30 columns and 2^24 rows",
        );
    }
    let each = |of: &[Tensor<'_, f32, 1>]| of.iter().all(|t| t.shape == [rows]);
    let drawn = token.shape() == [rows] && log_probability.shape() == [rows];
    if !drawn
        || !each(&[p.temperature, p.top_p, p.min_p])
        || p.top_k.shape != [rows]
        || p.seed.shape != [rows]
    {
        return refuse("token, log_probability and every parameter must have one entry a row");
    }
    if bitmask.is_some_and(|b| b.shape[0] != rows || b.shape[1] < vocabulary.div_ceil(32)) {
        return refuse("the bitmask must have a bit for every token of every row");
    }
    if let Some(n) = penalties {
        let [slots, width] = n.counts.shape();
        if !each(&[n.repetition, n.presence, n.frequency]) || n.slot.shape != [rows] {
            return refuse("every penalty and the slot must have one entry a row");
        }
        if width % 4 != 0 || width < vocabulary || slots > i32::MAX as usize {
            return refuse("the counts' stride must be a multiple of 4 and hold the vocabulary");
        }
    }
    check(CALL, stream, 16, &[], &[("logits", span)])?;
    check(CALL, stream, 8, &[], &[("seed", p.seed.span())])?;
    // SAFETY: a tensor of no elements names no memory.
    let mask = bitmask.unwrap_or_else(|| unsafe { Tensor::from_raw(0, [rows, 0]) });
    let mut outputs = vec![("token", token.span()), ("log_probability", log_probability.span())];
    let mut inputs = vec![
        ("logits", span),
        ("bitmask", mask.span()),
        ("temperature", p.temperature.span()),
        ("top_p", p.top_p.span()),
        ("min_p", p.min_p.span()),
        ("top_k", p.top_k.span()),
        ("seed", p.seed.span()),
    ];
    if let Some(n) = penalties {
        check(CALL, stream, 8, &[("counts", n.counts.span())], &[])?;
        outputs.push(("counts", n.counts.span()));
        inputs.extend([("repetition", n.repetition.span()), ("presence", n.presence.span())]);
        inputs.extend([("frequency", n.frequency.span()), ("slot", n.slot.span())]);
    }
    check(CALL, stream, 4, &outputs, &inputs)?;
    if rows == 0 {
        return Ok(());
    }
    let n = penalties;
    let problem = Problem {
        token: token.view.pointer,
        logprob: log_probability.view.pointer,
        logits: span.start,
        bitmask: mask.pointer,
        temperature: p.temperature.pointer,
        top_p: p.top_p.pointer,
        min_p: p.min_p.pointer,
        top_k: p.top_k.pointer,
        seed: p.seed.pointer,
        repetition: n.map_or(0, |n| n.repetition.pointer),
        presence: n.map_or(0, |n| n.presence.pointer),
        frequency: n.map_or(0, |n| n.frequency.pointer),
        slot: n.map_or(0, |n| n.slot.pointer),
        counts: n.map_or(0, |n| n.counts.view.pointer),
        counts_stride: n.map_or(0, |n| n.counts.shape()[1] as i64),
        row_stride: stride as i64,
        vocabulary: vocabulary as i32,
        mask_words: mask.shape[1] as i32,
        slots: n.map_or(0, |n| n.counts.shape()[0] as i32),
    };
    let grid = Grid { blocks: ((rows * CLUSTER) as u32, 1), threads: THREADS, shared: KEPT * THREADS * 16 };
    // SAFETY: the struct mirrors the kernel's; the checks above cover its reads and writes.
    unsafe { launch(CALL, stream, kernel, grid, &mut [argument(&problem)], || format!("logits {logits:?}")) }
}
