//! What runs a model: a step over a batch of sequences on a paged KV cache, or an embedding of a batch of texts.
//!
//! The scheduler decides which tokens of which sequences run and which physical blocks hold their keys and values;
//! an [`Executor`] only does it. Nothing here knows about requests, sampling or time.
//!
//! # What is invariant
//! The logits of a position depend on the model, the tokens up to that position and the instruction set of the machine,
//! and on nothing else: not on the number of threads, on the other sequences of the batch, on how the prompt was cut
//! into chunks, nor on which physical blocks hold the cache. Equal to the last bit; tests hold it.

pub mod llama;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How much of a step's result a sequence needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Want {
    /// Only fill the cache (every prefill chunk but the last).
    #[default]
    None,
    /// The logits after the last token of the step.
    LastLogits,
    /// The logits after each token of the step (scoring, `echo` with `logprobs`).
    AllLogits,
}

/// The physical KV blocks of one sequence in logical order: token `i` lives in block `i / block_size`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockTable(pub Vec<u32>);

/// One sequence's part of a step.
#[derive(Debug, Clone)]
pub struct StepSequence<'a> {
    /// Tokens to run now, at least one: a chunk of a prompt, or the one token sampled last.
    pub tokens: &'a [u32],
    /// How many tokens of the sequence are in the cache already; `tokens[0]` has this position.
    pub start: usize,
    /// Physical blocks, enough for `start + tokens.len()` tokens. Blocks may be shared between sequences as long as
    /// no step writes to a shared one (whole blocks before `start` only).
    pub blocks: &'a [u32],
    /// Which logits come back.
    pub want: Want,
}

/// Sequences that run together; prefill chunks and single decode tokens mix freely.
#[derive(Debug, Clone, Default)]
pub struct StepBatch<'a> {
    /// In any order. A sequence appears at most once.
    pub sequences: Vec<StepSequence<'a>>,
}

/// The logits of one sequence of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// Index into [`StepBatch::sequences`].
    pub sequence: usize,
    /// Position (in the sequence) of the token whose successor row 0 predicts.
    pub position: usize,
    /// Row length.
    pub vocab: usize,
    /// Row-major `[rows × vocab]`: one row for [`Want::LastLogits`], one a token for [`Want::AllLogits`].
    pub values: Vec<f32>,
}

impl Logits {
    /// The rows, in position order.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.vocab)
    }

    /// The last row.
    pub fn last(&self) -> &[f32] {
        &self.values[self.values.len() - self.vocab..]
    }
}

/// What a generator is, as far as the scheduler and the door need to know.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `general.architecture` of the file: `llama`.
    pub architecture: String,
    /// Tokens in the vocabulary, and the length of a row of logits.
    pub vocab: usize,
    /// Longest sequence in tokens.
    pub context: usize,
    /// Tokens of one KV block: 16 or 32.
    pub block_size: usize,
    /// Physical blocks; ids are `0..n_blocks`.
    pub n_blocks: usize,
    /// Bytes of one block over all layers.
    pub block_bytes: usize,
    /// Tokens that end a reply (end of text and end of turn).
    pub eos: Vec<u32>,
    /// The beginning-of-text token, when the model has one.
    pub bos: Option<u32>,
    /// Whether raw prompts get `bos` in front.
    pub add_bos: bool,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Parameters, counted from the tensors.
    pub parameters: u64,
    /// The weight type most parameters have, as GGUF names it: `Q4_1`.
    pub weight_type: String,
    /// Threads that compute.
    pub threads: usize,
    /// Instruction set in use: `avx512-vnni`, `avx512`, `avx2`, `scalar`.
    pub isa: &'static str,
}

/// Why a step or an embedding was refused or failed. None of these leaves the executor unusable.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// A sequence of the batch has no tokens.
    #[error("sequence {sequence} of the step has no tokens")]
    EmptySequence {
        /// Index into the batch.
        sequence: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token {token} of sequence {sequence} is outside of the vocabulary of {vocab}")]
    UnknownToken {
        /// Index into the batch.
        sequence: usize,
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The sequence would outgrow the context.
    #[error("sequence {sequence} needs {needed} tokens of context, the model has {context}")]
    ContextExceeded {
        /// Index into the batch.
        sequence: usize,
        /// `start + tokens`.
        needed: usize,
        /// The model's limit.
        context: usize,
    },
    /// The block table is too short for the tokens.
    #[error("sequence {sequence} needs {needed} KV blocks, its table has {given}")]
    TooFewBlocks {
        /// Index into the batch.
        sequence: usize,
        /// Blocks needed.
        needed: usize,
        /// Blocks given.
        given: usize,
    },
    /// A block id is not one of the cache's.
    #[error("KV block {block} of sequence {sequence} does not exist, the cache has {n_blocks}")]
    UnknownBlock {
        /// Index into the batch (or of the copy).
        sequence: usize,
        /// The id.
        block: u32,
        /// Blocks of the cache.
        n_blocks: usize,
    },
    /// The model produced a value that is not finite; the file or the cache is damaged.
    #[error("the model computed a non-finite value for sequence {sequence}")]
    NotFinite {
        /// Index into the batch.
        sequence: usize,
    },
}

/// A generator: tokens in, logits out, keys and values kept in paged blocks.
pub trait Executor: Send {
    /// What it is.
    fn config(&self) -> &ModelConfig;

    /// Runs one step and returns the logits asked for, in batch order (sequences that want none are left out).
    ///
    /// On an error nothing was written to the cache, but for [`ExecutorError::NotFinite`], found when all has been computed.
    fn step(&mut self, batch: &StepBatch<'_>) -> Result<Vec<Logits>, ExecutorError>;

    /// Copies whole blocks `(from, to)`: copy-on-write when sequences that share a partly filled block part ways.
    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), ExecutorError>;
}

/// How token vectors become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Mean over all tokens.
    Mean,
    /// The first token (`[CLS]`).
    Cls,
}

/// An embedding model.
pub trait Embedder: Send + Sync {
    /// Embeds each token sequence (special tokens included) on its own; batching changes nothing but speed.
    fn embed(&self, batch: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, ExecutorError>;
    /// Length of a vector.
    fn dimension(&self) -> usize;
    /// Longest sequence, special tokens included.
    fn max_tokens(&self) -> usize;
    /// Tokens in the vocabulary.
    fn vocab(&self) -> usize;
    /// How token vectors become one.
    fn pooling(&self) -> Pooling;
    /// Whether vectors have length 1.
    fn normalized(&self) -> bool;
}

/// How to load a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadOptions {
    /// Threads that compute; 0 means one a core.
    pub threads: usize,
    /// Memory for the KV cache in bytes (generators only).
    pub kv_memory_bytes: usize,
    /// Tokens of one KV block: 16 or 32.
    pub block_size: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { threads: 0, kv_memory_bytes: 512 << 20, block_size: 16 }
    }
}

/// What the model file says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ModelMetadata {
    /// `general.name`, or the folder's name.
    pub name: String,
    /// Where it was loaded from.
    pub path: PathBuf,
    /// Bytes of the file(s) read.
    pub file_bytes: u64,
    /// SPDX id or free text, when the file has one.
    pub license: Option<String>,
}

/// A loaded model: what it can do decides the variant.
pub enum LoadedModel {
    /// Generates text.
    Generator {
        /// Runs it.
        executor: Box<dyn Executor>,
        /// Text to tokens and back.
        tokenizer: crate::tokenizer::Tokenizer,
        /// The Jinja template of the model's chat form, when the file has one.
        chat_template: Option<String>,
        /// About the file.
        metadata: ModelMetadata,
    },
    /// Embeds text.
    Embedder {
        /// Runs it.
        embedder: std::sync::Arc<dyn Embedder>,
        /// Text to tokens (special tokens are added by `encode(text, true)`).
        tokenizer: crate::tokenizer::Tokenizer,
        /// About the file.
        metadata: ModelMetadata,
    },
}

/// Loads a model: a `.gguf` file, or a folder with `model.gguf` or with `config.json`, `tokenizer.json` and
/// `model.safetensors`.
pub fn load(path: &Path, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    crate::model::load(path, options)
}

pub use crate::model::LoadError;
