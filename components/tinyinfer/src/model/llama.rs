//! The Llama architecture (Touvron et al., 2023): pre-norm decoder layers of grouped-query attention with rotary positions and a
//! gated feed-forward network, weights as GGUF stores them.

use std::path::Path;

use tinykernels::cpu::Cpu;
use tinykernels::cpu::activations::Activations;
use tinykernels::cpu::arena::Arena;
use tinykernels::cpu::attention::{Attention, Segment};
use tinykernels::cpu::format::dequantize_row;
use tinykernels::cpu::kv::{KvCache, KvShape};
use tinykernels::cpu::matmul::{Product, Then};
use tinykernels::cpu::packed::PackedMatrix;
use tinykernels::cpu::rows::Rotary;

use super::LoadError;
use super::weights::Weights;
use crate::gguf::{Gguf, GgufError, Header, TensorInfo};

/// Rows that go through the layers together. Larger steps are cut, which changes no result: activations of this many rows
/// stay in the cache, and unpacking weights is paid back many times.
pub const ROWS: usize = 128;

/// Longest context for which position tables are made.
const LONGEST_CONTEXT: u64 = 1 << 20;

/// The sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameters {
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Longest sequence.
    pub context: usize,
    /// Tokens.
    pub vocab: usize,
    /// Added under the root of a norm.
    pub epsilon: f32,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
}

struct Layer {
    attention_norm: Vec<f32>,
    query: PackedMatrix,
    key: PackedMatrix,
    value: PackedMatrix,
    attention_output: PackedMatrix,
    feed_forward_norm: Vec<f32>,
    gate_up: PackedMatrix,
    down: PackedMatrix,
}

/// A loaded model.
pub struct Llama {
    /// Its sizes.
    pub sizes: Hyperparameters,
    /// Parameters, counted from the tensors.
    pub parameters: u64,
    /// The format of most parameters.
    pub weight_type: String,
    gguf: Gguf,
    embedding: TensorInfo,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    output: PackedMatrix,
    rotary: Rotary,
}

/// Where each row of a pass comes from.
#[derive(Debug, Clone, Default)]
pub struct Rows<'a> {
    /// One token a row.
    pub tokens: Vec<u32>,
    /// Its position in its sequence.
    pub positions: Vec<usize>,
    /// The rows of each sequence, in order.
    pub segments: Vec<Segment<'a>>,
}

/// Working memory of a pass, kept between passes.
#[derive(Default)]
pub struct Workspace {
    stream: Vec<f32>,
    normed: Activations,
    projected: Vec<f32>,
    attended: Activations,
    gated: Activations,
    last: Activations,
}

impl Llama {
    /// Reads the sizes, checks every tensor against them and packs the weights.
    pub fn load(gguf: Gguf, path: &Path) -> Result<Self, LoadError> {
        let weights = Weights { gguf: &gguf, path };
        let sizes = sizes(&weights)?;
        let Hyperparameters { hidden, head_dim, heads, kv_heads, feed_forward, .. } = sizes;
        let (query, kv) = (heads * head_dim, kv_heads * head_dim);
        let mut arena = Arena::default();
        let mut layer = |i: usize| -> Result<Layer, LoadError> {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            let rows = |part: &str, k, n| weights.rows(&name(part), k, n);
            Ok(Layer {
                attention_norm: weights.vector(&name("attn_norm"), hidden)?,
                query: rows("attn_q", hidden, query)?.pairs_to_halves(head_dim).pack(&mut arena)?,
                key: rows("attn_k", hidden, kv)?.pairs_to_halves(head_dim).pack(&mut arena)?,
                value: rows("attn_v", hidden, kv)?.pack(&mut arena)?,
                attention_output: rows("attn_output", query, hidden)?.pack(&mut arena)?,
                feed_forward_norm: weights.vector(&name("ffn_norm"), hidden)?,
                gate_up: rows("ffn_gate", hidden, feed_forward)?
                    .interleave(&rows("ffn_up", hidden, feed_forward)?)
                    .pack(&mut arena)?,
                down: rows("ffn_down", feed_forward, hidden)?.pack(&mut arena)?,
            })
        };
        let layers = (0..sizes.layers).map(&mut layer).collect::<Result<Vec<_>, _>>()?;
        let embedding = weights.tensor("token_embd.weight", &[hidden, sizes.vocab])?.clone();
        // A model without an output matrix uses its embedding for it ("tied").
        let output = match weights.rows("output.weight", hidden, sizes.vocab) {
            Err(LoadError::Gguf { source: GgufError::MissingTensor(_), .. }) => {
                weights.rows("token_embd.weight", hidden, sizes.vocab)?
            }
            other => other?,
        };
        let divisors = match weights.vector("rope_freqs.weight", head_dim / 2) {
            Err(LoadError::Gguf { source: GgufError::MissingTensor(_), .. }) => None,
            other => Some(other?),
        };
        let (parameters, weight_type) = census(&gguf.header);
        Ok(Self {
            sizes,
            parameters,
            weight_type,
            layers,
            norm: weights.vector("output_norm.weight", hidden)?,
            output: output.pack(&mut arena)?,
            rotary: Rotary::new(sizes.context, head_dim / 2, sizes.rope_base, divisors.as_deref()),
            embedding,
            gguf,
        })
    }

    /// Whether raw prompts begin with the beginning-of-text token.
    pub fn add_bos(&self) -> bool {
        self.gguf.header.flag("tokenizer.ggml.add_bos_token", false).unwrap_or(false)
    }

    /// The shape of the cache that this model needs.
    pub fn kv_shape(&self, block_size: usize) -> KvShape {
        let Hyperparameters { layers, kv_heads, head_dim, .. } = self.sizes;
        KvShape { layers, kv_heads, head_dim, block_size }
    }

    /// Runs at most [`ROWS`] rows through all layers: writes their keys and values, and leaves the residual stream in `work`.
    /// `observe(i, stream)` sees the stream before the first layer (`i = 0`) and after each.
    pub fn forward(
        &self,
        cpu: &Cpu,
        kv: &mut KvCache,
        rows: &Rows<'_>,
        work: &mut Workspace,
        mut observe: impl FnMut(usize, &[f32]),
    ) {
        let sizes = &self.sizes;
        let n = rows.tokens.len();
        let (q, kv_width) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        let projected = q + 2 * kv_width;
        let scale = 1.0 / (sizes.head_dim as f32).sqrt();
        work.resize(n, sizes);
        self.embed(&rows.tokens, &mut work.stream);
        observe(0, &work.stream);
        for (i, layer) in self.layers.iter().enumerate() {
            // x + attention(norm(x))
            cpu.rms_norm(&work.stream, &layer.attention_norm, sizes.epsilon, &mut work.normed, true);
            let products = [
                Product { weights: &layer.query, column: 0, then: Then::Store },
                Product { weights: &layer.key, column: q, then: Then::Store },
                Product { weights: &layer.value, column: q + kv_width, then: Then::Store },
            ];
            cpu.matmul(&work.normed, &products, &mut work.projected, projected);
            cpu.rotate(
                &mut work.projected,
                projected,
                sizes.heads + sizes.kv_heads,
                &rows.positions,
                &self.rotary,
            );
            write_kv(cpu, kv, i, rows, &work.projected, (q, kv_width));
            let attention = Attention {
                queries: &work.projected,
                stride: projected,
                heads: sizes.heads,
                kv,
                layer: i,
                scale,
            };
            cpu.attention(&attention, &rows.segments, work.attended.float_mut());
            cpu.quantize(&mut work.attended);
            let product = Product { weights: &layer.attention_output, column: 0, then: Then::Add };
            cpu.matmul(&work.attended, &[product], &mut work.stream, sizes.hidden);
            // x + down(silu(gate(norm(x))) · up(norm(x)))
            cpu.rms_norm(&work.stream, &layer.feed_forward_norm, sizes.epsilon, &mut work.normed, true);
            let product = Product { weights: &layer.gate_up, column: 0, then: Then::SwiGlu };
            cpu.matmul(&work.normed, &[product], work.gated.float_mut(), sizes.feed_forward);
            cpu.quantize(&mut work.gated);
            let product = Product { weights: &layer.down, column: 0, then: Then::Add };
            cpu.matmul(&work.gated, &[product], &mut work.stream, sizes.hidden);
            observe(i + 1, &work.stream);
        }
    }

    /// The logits of some rows of the last [`Self::forward`], `[rows × vocab]`.
    pub fn logits(&self, cpu: &Cpu, work: &mut Workspace, rows: &[usize], out: &mut [f32]) {
        let hidden = self.sizes.hidden;
        let picked: Vec<f32> =
            rows.iter().flat_map(|&r| &work.stream[r * hidden..][..hidden]).copied().collect();
        if work.last.k() != hidden {
            work.last = Activations::new(hidden);
        }
        work.last.resize(rows.len());
        cpu.rms_norm(&picked, &self.norm, self.sizes.epsilon, &mut work.last, true);
        let product = Product { weights: &self.output, column: 0, then: Then::Store };
        cpu.matmul(&work.last, &[product], out, self.sizes.vocab);
    }

    fn embed(&self, tokens: &[u32], out: &mut [f32]) {
        let data = self.gguf.data(&self.embedding);
        let row = data.len() / self.sizes.vocab;
        for (token, out) in tokens.iter().zip(out.chunks_exact_mut(self.sizes.hidden)) {
            dequantize_row(self.embedding.kind, &data[*token as usize * row..][..row], out);
        }
    }
}

impl Workspace {
    fn resize(&mut self, n: usize, sizes: &Hyperparameters) {
        let (q, kv) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        if self.normed.k() != sizes.hidden {
            self.normed = Activations::new(sizes.hidden);
            self.attended = Activations::new(q);
            self.gated = Activations::new(sizes.feed_forward);
        }
        self.stream.resize(n * sizes.hidden, 0.0);
        self.projected.resize(n * (q + 2 * kv), 0.0);
        self.normed.resize(n);
        self.attended.resize(n);
        self.gated.resize(n);
    }
}

/// Writes the keys and values of all rows of one layer.
fn write_kv(
    cpu: &Cpu,
    kv: &mut KvCache,
    layer: usize,
    rows: &Rows<'_>,
    projected: &[f32],
    widths: (usize, usize),
) {
    let (q, width) = widths;
    let block_size = kv.shape().block_size;
    for segment in &rows.segments {
        for i in 0..segment.rows {
            let row = &projected[(segment.row + i) * (q + 2 * width)..][q..q + 2 * width];
            let position = segment.start + i;
            let at = (segment.blocks[position / block_size], position % block_size);
            cpu.kv_write(kv, layer, at, &row[..width], &row[width..]);
        }
    }
}

fn sizes(weights: &Weights<'_>) -> Result<Hyperparameters, LoadError> {
    let header = &weights.gguf.header;
    let unsupported = |reason: String| LoadError::Unsupported { path: weights.path.to_owned(), reason };
    let number = |key: &str| -> Result<usize, LoadError> {
        let n = header.integer(&format!("llama.{key}")).map_err(|e| weights.error(e))?;
        if n == 0 || n > LONGEST_CONTEXT {
            return Err(unsupported(format!("llama.{key} is {n}; 1 to {LONGEST_CONTEXT} are supported")));
        }
        Ok(n as usize)
    };
    let or = |key: &str, default: usize| match number(key) {
        Err(LoadError::Gguf { source: GgufError::Metadata { problem: "missing", .. }, .. }) => Ok(default),
        other => other,
    };
    let float = |key: &str| header.float(&format!("llama.{key}")).map_err(|e| weights.error(e));
    let (hidden, heads) = (number("embedding_length")?, number("attention.head_count")?);
    let head_dim = or("attention.key_length", hidden / heads)?;
    let sizes = Hyperparameters {
        layers: number("block_count")?,
        hidden,
        feed_forward: number("feed_forward_length")?,
        heads,
        kv_heads: or("attention.head_count_kv", heads)?,
        head_dim,
        context: number("context_length")?,
        vocab: header.texts("tokenizer.ggml.tokens").map_err(|e| weights.error(e))?.len(),
        epsilon: float("attention.layer_norm_rms_epsilon")? as f32,
        rope_base: Header::optional(header.float("llama.rope.freq_base"))
            .map_err(|e| weights.error(e))?
            .unwrap_or(1e4),
    };
    if !(sizes.head_dim.is_multiple_of(32)
        && hidden.is_multiple_of(32)
        && sizes.feed_forward.is_multiple_of(32))
    {
        let reason = format!(
            "widths must be multiples of 32: head {head_dim}, hidden {hidden}, feed-forward {}",
            sizes.feed_forward
        );
        return Err(unsupported(reason));
    }
    if !heads.is_multiple_of(sizes.kv_heads) || sizes.vocab == 0 {
        return Err(unsupported(format!(
            "{heads} heads on {} key-value heads, {} tokens",
            sizes.kv_heads, sizes.vocab
        )));
    }
    let rotated = or("rope.dimension_count", head_dim)?;
    let value_length = or("attention.value_length", head_dim)?;
    if rotated != head_dim || value_length != head_dim {
        return Err(unsupported(format!(
            "rotated {rotated}, value {value_length} of {head_dim}: must be equal"
        )));
    }
    let scaling = Header::optional(header.text("llama.rope.scaling.type")).map_err(|e| weights.error(e))?;
    if scaling.is_some_and(|s| s != "none") || header.metadata.contains_key("llama.expert_count") {
        return Err(unsupported("rope scaling by metadata and experts are not supported".to_owned()));
    }
    if !(sizes.epsilon > 0.0 && sizes.epsilon < 1.0 && sizes.rope_base >= 1.0 && sizes.rope_base < 1e12) {
        return Err(unsupported(format!("norm epsilon {} or rope base {}", sizes.epsilon, sizes.rope_base)));
    }
    Ok(sizes)
}

/// Parameters, and the format that most have.
fn census(header: &Header) -> (u64, String) {
    let mut by_kind: Vec<(&'static str, u64)> = Vec::new();
    for tensor in header.tensors.values() {
        let count = tensor.dims.iter().map(|&d| d as u64).product();
        match by_kind.iter_mut().find(|(name, _)| *name == tensor.kind.name()) {
            Some((_, total)) => *total += count,
            None => by_kind.push((tensor.kind.name(), count)),
        }
    }
    let most = by_kind.iter().max_by_key(|(_, n)| *n).map_or("F32", |(name, _)| name);
    (by_kind.iter().map(|(_, n)| n).sum(), most.to_owned())
}
