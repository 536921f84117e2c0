//! BERT (Devlin et al., 2018) as a sentence encoder (Reimers and Gurevych, 2019): post-norm encoder layers over token, position and
//! type embeddings, the token vectors pooled to one.

use std::ops::Range;
use std::path::Path;

use parking_lot::Mutex;
use serde::Deserialize;
use tinykernels::cpu::Cpu;
use tinykernels::cpu::activations::Activations;
use tinykernels::cpu::arena::Arena;
use tinykernels::cpu::attention::{Attention, Segment};
use tinykernels::cpu::kv::{KvCache, KvShape};
use tinykernels::cpu::matmul::{Product, Then};
use tinykernels::cpu::packed::PackedMatrix;

use super::LoadError;
use super::safetensors_file::{SafetensorsFile, Tensors};
use crate::executor::{Embedder, ExecutorError, Pooling};

/// Token rows that go through the layers together, when texts are short.
const ROWS: usize = 256;
/// Tokens of a block of the cache in which a layer's keys and values are laid out for the attention kernel.
const BLOCK: usize = 16;

/// `config.json`, as far as it changes the arithmetic.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

/// `sentence_bert_config.json`
#[derive(Debug, Default, Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

/// `1_Pooling/config.json`
#[derive(Debug, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the file's names")]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Linear {
    weight: PackedMatrix,
    bias: Vec<f32>,
}

struct Layer {
    /// Queries, keys and values side by side.
    projection: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

/// A loaded encoder.
pub struct Bert {
    config: Config,
    max_tokens: usize,
    pooling: Pooling,
    words: Vec<f32>,
    positions: Vec<f32>,
    /// The embedding of type 0, the only one that a single text has.
    kind: Vec<f32>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    cpu: Cpu,
    work: Mutex<Workspace>,
}

struct Workspace {
    kv: KvCache,
    stream: Activations,
    summed: Vec<f32>,
    projected: Vec<f32>,
    attended: Activations,
    wide: Activations,
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, LoadError> {
    let text = std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let reason =
        |e: serde_json::Error| LoadError::Unsupported { path: path.to_owned(), reason: e.to_string() };
    serde_json::from_slice(&text).map_err(reason)
}

/// The file's content, or nothing when there is no file.
fn read_optional<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, LoadError> {
    if path.is_file() { read_json(path).map(Some) } else { Ok(None) }
}

impl Bert {
    /// Loads a folder in the layout of sentence-transformers; returns the bytes of its weights too. Without `1_Pooling/config.json`
    /// vectors are pooled by the mean.
    pub fn load(folder: &Path, cpu: Cpu) -> Result<(Self, u64), LoadError> {
        let config: Config = read_json(&folder.join("config.json"))?;
        check(&config)
            .map_err(|reason| LoadError::Unsupported { path: folder.join("config.json"), reason })?;
        let sentence: SentenceConfig =
            read_optional(&folder.join("sentence_bert_config.json"))?.unwrap_or_default();
        let pooling_path = folder.join("1_Pooling/config.json");
        let pooling = match read_optional::<PoolingConfig>(&pooling_path)? {
            None | Some(PoolingConfig { pooling_mode_mean_tokens: true, pooling_mode_cls_token: false }) => {
                Pooling::Mean
            }
            Some(PoolingConfig { pooling_mode_cls_token: true, pooling_mode_mean_tokens: false }) => {
                Pooling::Cls
            }
            Some(_) => {
                let reason = "pooling other than mean or cls is not supported".to_owned();
                return Err(LoadError::Unsupported { path: pooling_path, reason });
            }
        };
        let file = SafetensorsFile::open(folder.join("model.safetensors"))?;
        let t = file.tensors(["", "bert."], "embeddings.word_embeddings.weight")?;
        let h = config.hidden_size;
        let mut arena = Arena::default();
        let layers = (0..config.num_hidden_layers)
            .map(|i| layer(&mut arena, &t, &config, i))
            .collect::<Result<_, _>>()?;
        let shape = KvShape {
            layers: 1,
            kv_heads: config.num_attention_heads,
            head_dim: h / config.num_attention_heads,
            block_size: BLOCK,
        };
        let max_tokens = sentence.max_seq_length.unwrap_or(usize::MAX).min(config.max_position_embeddings);
        // Each text begins a block, so up to one block a row is needed.
        let kv = KvCache::new(shape, ROWS.max(max_tokens.div_ceil(BLOCK)))?;
        let work = Workspace {
            kv,
            stream: Activations::new(h),
            summed: Vec::new(),
            projected: Vec::new(),
            attended: Activations::new(h),
            wide: Activations::new(config.intermediate_size),
        };
        let mut kind = t.values("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, h])?;
        kind.truncate(h);
        let bert = Self {
            words: t.values("embeddings.word_embeddings.weight", &[config.vocab_size, h])?,
            positions: t
                .values("embeddings.position_embeddings.weight", &[config.max_position_embeddings, h])?,
            kind,
            embedding_norm: norm(&t, "embeddings", h)?,
            layers,
            max_tokens,
            pooling,
            cpu,
            work: Mutex::new(work),
            config,
        };
        Ok((bert, file.bytes()))
    }

    /// Embeds texts whose tokens are at most [`ROWS`] together, or one text.
    fn embed_group(&self, texts: &[Vec<u32>], work: &mut Workspace) -> Vec<Vec<f32>> {
        let h = self.config.hidden_size;
        let epsilon = self.config.layer_norm_eps;
        let rows: usize = texts.iter().map(Vec::len).sum();
        work.resize(rows, h);
        self.embeddings(texts, &mut work.summed);
        let Norm { weight, bias } = &self.embedding_norm;
        self.cpu.layer_norm(&work.summed, weight, bias, epsilon, work.stream.float_mut());
        let spans = spans(texts);
        let blocks: Vec<u32> = (0..work.kv.blocks() as u32).collect();
        let mut first_block = 0;
        let mut segments = Vec::with_capacity(texts.len());
        for span in &spans {
            let n = span.len().div_ceil(BLOCK);
            let blocks = &blocks[first_block..first_block + n];
            segments.push(Segment { row: span.start, rows: span.len(), start: 0, blocks, causal: false });
            first_block += n;
        }
        for layer in &self.layers {
            self.layer(layer, &segments, work);
        }
        spans.iter().map(|span| self.pool(&work.stream.float()[span.start * h..span.end * h])).collect()
    }

    fn embeddings(&self, texts: &[Vec<u32>], out: &mut [f32]) {
        let h = self.config.hidden_size;
        let rows = texts.iter().flat_map(|tokens| tokens.iter().enumerate());
        for ((position, &token), out) in rows.zip(out.chunks_exact_mut(h)) {
            let word = &self.words[token as usize * h..][..h];
            let position = &self.positions[position * h..][..h];
            for (i, out) in out.iter_mut().enumerate() {
                *out = word[i] + self.kind[i] + position[i];
            }
        }
    }

    fn layer(&self, layer: &Layer, segments: &[Segment<'_>], work: &mut Workspace) {
        let (cpu, h, epsilon) = (&self.cpu, self.config.hidden_size, self.config.layer_norm_eps);
        let heads = self.config.num_attention_heads;
        let linear = |l: &Linear, x: &Activations, out: &mut [f32], gelu: bool| {
            let then = if gelu { Then::BiasGelu(&l.bias) } else { Then::Bias(&l.bias) };
            cpu.matmul(x, &[Product { weights: &l.weight, column: 0, then }], out, l.weight.n());
        };
        let add = |l: &Linear, x: &Activations, out: &mut [f32]| {
            cpu.matmul(x, &[Product { weights: &l.weight, column: 0, then: Then::AddBias(&l.bias) }], out, h);
        };
        // norm(x + attention(x))
        linear(&layer.projection, &work.stream, &mut work.projected, false);
        for segment in segments {
            for i in 0..segment.rows {
                let row = &work.projected[(segment.row + i) * 3 * h..][..3 * h];
                cpu.kv_write(
                    &mut work.kv,
                    0,
                    (segment.blocks[i / BLOCK], i % BLOCK),
                    &row[h..2 * h],
                    &row[2 * h..],
                );
            }
        }
        let scale = 1.0 / ((h / heads) as f32).sqrt();
        let attention =
            Attention { queries: &work.projected, stride: 3 * h, heads, kv: &work.kv, layer: 0, scale };
        cpu.attention(&attention, segments, work.attended.float_mut());
        work.summed.copy_from_slice(work.stream.float());
        add(&layer.attention_output, &work.attended, &mut work.summed);
        let Norm { weight, bias } = &layer.attention_norm;
        cpu.layer_norm(&work.summed, weight, bias, epsilon, work.stream.float_mut());
        // norm(x + output(gelu(intermediate(x))))
        linear(&layer.intermediate, &work.stream, work.wide.float_mut(), true);
        work.summed.copy_from_slice(work.stream.float());
        add(&layer.output, &work.wide, &mut work.summed);
        let Norm { weight, bias } = &layer.output_norm;
        cpu.layer_norm(&work.summed, weight, bias, epsilon, work.stream.float_mut());
    }

    /// Token vectors to one of length 1.
    fn pool(&self, vectors: &[f32]) -> Vec<f32> {
        let h = self.config.hidden_size;
        let mut pooled = vec![0f64; h];
        let rows = match self.pooling {
            Pooling::Cls => &vectors[..h],
            Pooling::Mean => vectors,
        };
        for row in rows.chunks_exact(h) {
            for (sum, x) in pooled.iter_mut().zip(row) {
                *sum += f64::from(*x);
            }
        }
        let length = pooled.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        pooled.iter().map(|x| (x / length) as f32).collect()
    }

    fn check(&self, batch: &[Vec<u32>]) -> Result<(), ExecutorError> {
        let vocab = self.config.vocab_size;
        for (sequence, tokens) in batch.iter().enumerate() {
            if tokens.is_empty() {
                return Err(ExecutorError::EmptySequence { sequence });
            }
            if tokens.len() > self.max_tokens {
                let (needed, context) = (tokens.len(), self.max_tokens);
                return Err(ExecutorError::ContextExceeded { sequence, needed, context });
            }
            if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab) {
                return Err(ExecutorError::UnknownToken { sequence, token, vocab });
            }
        }
        Ok(())
    }
}

impl Embedder for Bert {
    fn embed(&self, batch: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, ExecutorError> {
        self.check(batch)?;
        let mut vectors = Vec::with_capacity(batch.len());
        let mut rest = batch;
        while !rest.is_empty() {
            let mut rows = rest[0].len();
            let more = rest[1..].iter().take_while(|text| {
                rows += text.len();
                rows <= ROWS
            });
            let (group, others) = rest.split_at(1 + more.count());
            vectors.extend(self.embed_group(group, &mut self.work.lock()));
            rest = others;
        }
        match vectors.iter().position(|v: &Vec<f32>| !v.iter().all(|x| x.is_finite())) {
            Some(sequence) => Err(ExecutorError::NotFinite { sequence }),
            None => Ok(vectors),
        }
    }

    fn dimension(&self) -> usize {
        self.config.hidden_size
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn vocab(&self) -> usize {
        self.config.vocab_size
    }

    fn pooling(&self) -> Pooling {
        self.pooling
    }

    fn normalized(&self) -> bool {
        true
    }
}

impl Workspace {
    fn resize(&mut self, rows: usize, h: usize) {
        self.stream.resize(rows);
        self.summed.resize(rows * h, 0.0);
        self.projected.resize(rows * 3 * h, 0.0);
        self.attended.resize(rows);
        self.wide.resize(rows);
    }
}

/// The rows of each text.
fn spans(texts: &[Vec<u32>]) -> Vec<Range<usize>> {
    let mut end = 0;
    let span = |text: &Vec<u32>| {
        let start = end;
        end += text.len();
        start..end
    };
    texts.iter().map(span).collect()
}

fn check(c: &Config) -> Result<(), String> {
    if c.model_type != "bert" {
        return Err(format!("model_type {} is not supported (bert is)", c.model_type));
    }
    if c.hidden_act != "gelu" || c.position_embedding_type.as_deref().unwrap_or("absolute") != "absolute" {
        return Err("only hidden_act gelu with absolute positions is supported".to_owned());
    }
    let sizes =
        [c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size, c.type_vocab_size];
    let more = [c.max_position_embeddings, c.vocab_size];
    if sizes.iter().chain(&more).any(|&n| n == 0 || n > 1 << 20) {
        return Err("a size is 0 or above 1048576".to_owned());
    }
    if !c.hidden_size.is_multiple_of(c.num_attention_heads)
        || !(c.hidden_size / c.num_attention_heads).is_multiple_of(32)
        || !c.intermediate_size.is_multiple_of(32)
    {
        return Err(format!(
            "heads of {} / {} values: a multiple of 32 is needed",
            c.hidden_size, c.num_attention_heads
        ));
    }
    if !(c.layer_norm_eps > 0.0 && c.layer_norm_eps < 1.0) {
        return Err(format!("layer_norm_eps {}", c.layer_norm_eps));
    }
    Ok(())
}

fn norm(t: &Tensors<'_>, of: &str, h: usize) -> Result<Norm, LoadError> {
    let values = |part| t.values(&format!("{of}.LayerNorm.{part}"), &[h]);
    Ok(Norm { weight: values("weight")?, bias: values("bias")? })
}

/// One linear map, or several side by side.
fn linear(
    arena: &mut Arena,
    t: &Tensors<'_>,
    of: &[String],
    (k, n): (usize, usize),
) -> Result<Linear, LoadError> {
    let (mut rows, mut bias) = (Vec::new(), Vec::new());
    for name in of {
        let (kind, data) = t.get(&format!("{name}.weight"), &[n, k])?;
        rows.extend(data.chunks_exact(data.len() / n).map(|row| (kind, row)));
        bias.extend(t.values(&format!("{name}.bias"), &[n])?);
    }
    let weight = PackedMatrix::pack_as_f32(arena, k, &rows);
    let weight = weight.map_err(|source| LoadError::Pack { name: of[0].clone(), source })?;
    Ok(Linear { weight, bias })
}

fn layer(arena: &mut Arena, t: &Tensors<'_>, c: &Config, i: usize) -> Result<Layer, LoadError> {
    let (h, wide) = (c.hidden_size, c.intermediate_size);
    let at = |part: &str| format!("encoder.layer.{i}.{part}");
    let projection = ["query", "key", "value"].map(|part| at(&format!("attention.self.{part}")));
    Ok(Layer {
        projection: linear(arena, t, &projection, (h, h))?,
        attention_output: linear(arena, t, &[at("attention.output.dense")], (h, h))?,
        attention_norm: norm(t, &at("attention.output"), h)?,
        intermediate: linear(arena, t, &[at("intermediate.dense")], (h, wide))?,
        output: linear(arena, t, &[at("output.dense")], (wide, h))?,
        output_norm: norm(t, &at("output"), h)?,
    })
}
