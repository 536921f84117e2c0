//! Runs [`Llama`] on the processor: checks a step, cuts it into passes, gathers the logits.

use tinykernels::cpu::Cpu;
use tinykernels::cpu::attention::Segment;
use tinykernels::cpu::kv::KvCache;

use super::{Executor, ExecutorError, LoadOptions, Logits, ModelConfig, StepBatch, Want};
use crate::model::LoadError;
use crate::model::llama::{Llama, ROWS, Rows, Workspace};
use crate::tokenizer::Tokenizer;

/// A llama model with its cache.
pub struct LlamaExecutor {
    model: Llama,
    cpu: Cpu,
    kv: KvCache,
    config: ModelConfig,
    work: Workspace,
}

impl LlamaExecutor {
    /// Makes the cache and is ready.
    pub fn new(
        model: Llama,
        cpu: Cpu,
        tokenizer: &Tokenizer,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let shape = model.kv_shape(options.block_size);
        let block_bytes = shape.block_bytes();
        let n_blocks = options.kv_memory_bytes / block_bytes;
        if n_blocks == 0 {
            let least = block_bytes * model.sizes.context.div_ceil(options.block_size);
            return Err(LoadError::KvMemory { given: options.kv_memory_bytes, block: block_bytes, least });
        }
        let kv = KvCache::new(shape, n_blocks)?;
        let config = ModelConfig {
            architecture: "llama".to_owned(),
            vocab: model.sizes.vocab,
            context: model.sizes.context.min(n_blocks * options.block_size),
            block_size: options.block_size,
            n_blocks,
            block_bytes,
            eos: tokenizer.eos().to_vec(),
            bos: tokenizer.bos(),
            add_bos: model.add_bos(),
            layers: model.sizes.layers,
            hidden: model.sizes.hidden,
            parameters: model.parameters,
            weight_type: model.weight_type.clone(),
            threads: cpu.threads(),
            isa: cpu.isa().name(),
        };
        Ok(Self { model, cpu, kv, config, work: Workspace::default() })
    }

    fn check(&self, batch: &StepBatch<'_>) -> Result<(), ExecutorError> {
        let ModelConfig { vocab, context, block_size, n_blocks, .. } = self.config;
        for (sequence, s) in batch.sequences.iter().enumerate() {
            if s.tokens.is_empty() {
                return Err(ExecutorError::EmptySequence { sequence });
            }
            if let Some(&token) = s.tokens.iter().find(|&&t| t as usize >= vocab) {
                return Err(ExecutorError::UnknownToken { sequence, token, vocab });
            }
            let needed = s.start.saturating_add(s.tokens.len());
            if needed > context {
                return Err(ExecutorError::ContextExceeded { sequence, needed, context });
            }
            let (needed, given) = (needed.div_ceil(block_size), s.blocks.len());
            if given < needed {
                return Err(ExecutorError::TooFewBlocks { sequence, needed, given });
            }
            if let Some(&block) = s.blocks.iter().find(|&&b| b as usize >= n_blocks) {
                return Err(ExecutorError::UnknownBlock { sequence, block, n_blocks });
            }
        }
        Ok(())
    }

    /// Runs the batch in passes of [`ROWS`] rows. `after(pass, rows)` is called after each pass, with the batch's sequence and the
    /// token index of each row.
    fn passes(
        &mut self,
        batch: &StepBatch<'_>,
        mut observe: impl FnMut(&[(usize, usize)], usize, &[f32]),
        mut after: impl FnMut(&Llama, &Cpu, &mut Workspace, &[(usize, usize)]),
    ) {
        let all: Vec<(usize, usize)> = (0..batch.sequences.len())
            .flat_map(|s| (0..batch.sequences[s].tokens.len()).map(move |t| (s, t)))
            .collect();
        for origin in all.chunks(ROWS) {
            let mut rows = Rows::default();
            for (row, &(s, t)) in origin.iter().enumerate() {
                let sequence = &batch.sequences[s];
                rows.tokens.push(sequence.tokens[t]);
                rows.positions.push(sequence.start + t);
                if row > 0 && origin[row - 1].0 == s {
                    let segment = rows.segments.last_mut().expect("the row before began one");
                    segment.rows += 1;
                } else {
                    let start = sequence.start + t;
                    rows.segments.push(Segment {
                        row,
                        rows: 1,
                        start,
                        blocks: sequence.blocks,
                        causal: true,
                    });
                }
            }
            self.model.forward(&self.cpu, &mut self.kv, &rows, &mut self.work, |i, stream| {
                observe(origin, i, stream);
            });
            after(&self.model, &self.cpu, &mut self.work, origin);
        }
    }

    /// Runs one sequence from its beginning and hands out the residual stream before and after each layer:
    /// `observe(first position, layer, rows)`. For tests that compare layer by layer.
    pub fn trace(
        &mut self,
        tokens: &[u32],
        blocks: &[u32],
        mut observe: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), ExecutorError> {
        let sequence = super::StepSequence { tokens, start: 0, blocks, want: Want::None };
        let batch = StepBatch { sequences: vec![sequence] };
        self.check(&batch)?;
        self.passes(&batch, |rows, layer, stream| observe(rows[0].1, layer, stream), |_, _, _, _| ());
        Ok(())
    }
}

impl Executor for LlamaExecutor {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn step(&mut self, batch: &StepBatch<'_>) -> Result<Vec<Logits>, ExecutorError> {
        self.check(batch)?;
        let vocab = self.config.vocab;
        let mut results: Vec<Logits> = Vec::new();
        self.passes(
            batch,
            |_, _, _| (),
            |model, cpu, work, origin| {
                let wanted: Vec<(usize, (usize, usize))> = origin
                    .iter()
                    .copied()
                    .enumerate()
                    .filter(|&(_, (s, t))| match batch.sequences[s].want {
                        Want::None => false,
                        Want::LastLogits => t + 1 == batch.sequences[s].tokens.len(),
                        Want::AllLogits => true,
                    })
                    .collect();
                if wanted.is_empty() {
                    return;
                }
                let rows: Vec<usize> = wanted.iter().map(|w| w.0).collect();
                let mut values = vec![0f32; rows.len() * vocab];
                model.logits(cpu, work, &rows, &mut values);
                let mut values = values.chunks_exact(vocab);
                for &(_, (sequence, t)) in &wanted {
                    let row = values.next().expect("a row for each");
                    match results.last_mut() {
                        Some(last) if last.sequence == sequence => last.values.extend_from_slice(row),
                        _ => {
                            let position = batch.sequences[sequence].start + t;
                            results.push(Logits { sequence, position, vocab, values: row.to_vec() });
                        }
                    }
                }
            },
        );
        match results.iter().find(|r| !r.values.iter().all(|v| v.is_finite())) {
            Some(bad) => Err(ExecutorError::NotFinite { sequence: bad.sequence }),
            None => Ok(results),
        }
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), ExecutorError> {
        let n_blocks = self.config.n_blocks;
        for (sequence, &(from, to)) in pairs.iter().enumerate() {
            let block = from.max(to);
            if block as usize >= n_blocks {
                return Err(ExecutorError::UnknownBlock { sequence, block, n_blocks });
            }
        }
        for &(from, to) in pairs {
            self.kv.copy_block(from, to);
        }
        Ok(())
    }
}
