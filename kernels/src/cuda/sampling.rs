//! Drawing the next token.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{Tensor, TensorMut};

/// Blocks that share a row, and threads of each, as in the kernel.
const CLUSTER: usize = 2;
const THREADS: u32 = 1024;

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
    /// 0 is greedy.
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
    vocabulary: i32,
    mask_words: i32,
    row_stride: i64,
}

/// Draws one token a row and gives its log-probability at the row's temperature (1 when greedy), before top-k, top-p and min-p.
///
/// `token`, `log_probability` `[rows]`; `bitmask` `[rows, words]` with bit `i % 32` of word `i / 32` set where token `i` is allowed.
/// top-k, top-p and min-p each apply to the full (masked) distribution. Ties go to the lower token. A row without an allowed finite logit
/// gives token −1 and −∞. Exact sampling from the kept set by rejection:
/// no sort, no stored probabilities, mostly 2 to 4 passes over the row.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn sample(
    stream: &Stream,
    token: &mut TensorMut<'_, i32, 1>,
    log_probability: &mut TensorMut<'_, f32, 1>,
    logits: Logits<'_>,
    vocabulary: usize,
    bitmask: Option<Tensor<'_, u32, 2>>,
    parameters: SamplingParameters<'_>,
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
                "token {token:?}, logits {logits:?} of vocabulary {vocabulary}, bitmask {bitmask:?}, {p:?}"
            ),
            limit,
        ))
    };
    if stride % 4 != 0 || vocabulary > stride || vocabulary == 0 || stride > 1 << 30 || rows > 1 << 24 {
        return refuse(
            "the row stride must be a multiple of 4 and hold the vocabulary; at most 2^30 columns and 2^24 rows",
        );
    }
    let one_each = [
        token.shape()[0],
        log_probability.shape()[0],
        p.temperature.shape[0],
        p.top_p.shape[0],
        p.min_p.shape[0],
        p.top_k.shape[0],
        p.seed.shape[0],
    ];
    if one_each.iter().any(|&n| n != rows) {
        return refuse("token, log_probability and every parameter must have one entry a row");
    }
    if bitmask.is_some_and(|b| b.shape[0] != rows || b.shape[1] < vocabulary.div_ceil(32)) {
        return refuse("the bitmask must have a bit for every token of every row");
    }
    check(CALL, stream, 16, &[], &[("logits", span)])?;
    check(CALL, stream, 8, &[], &[("seed", p.seed.span())])?;
    // SAFETY: a tensor of no elements names no memory.
    let mask = bitmask.unwrap_or_else(|| unsafe { Tensor::from_raw(0, [rows, 0]) });
    check(
        CALL,
        stream,
        4,
        &[("token", token.span()), ("log_probability", log_probability.span())],
        &[
            ("logits", span),
            ("bitmask", mask.span()),
            ("temperature", p.temperature.span()),
            ("top_p", p.top_p.span()),
            ("min_p", p.min_p.span()),
            ("top_k", p.top_k.span()),
            ("seed", p.seed.span()),
        ],
    )?;
    if rows == 0 {
        return Ok(());
    }
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
        vocabulary: vocabulary as i32,
        mask_words: mask.shape[1] as i32,
        row_stride: stride as i64,
    };
    let grid = Grid { blocks: ((rows * CLUSTER) as u32, 1), threads: THREADS, shared: 0 };
    // SAFETY: the struct mirrors the kernel's; the checks above cover its reads and writes.
    unsafe { launch(CALL, stream, kernel, grid, &mut [argument(&problem)], || format!("logits {logits:?}")) }
}
