//! Decides, step by step, which sequences compute which tokens: continuous batching with chunked prefill over a paged
//! KV cache.
//!
//! The scheduler is a value with no clock, no randomness and no I/O: the same arrivals, tokens and cancellations give
//! the same plans. One step is
//!
//! 1. every decoding sequence gets its one token,
//! 2. what is left of the step's token budget goes to prompts, at most `prefill_chunk` tokens each, oldest first,
//! 3. waiting sequences are admitted while there is budget, a place to run, and room for their whole prompt.
//!
//! When a running sequence needs a block and none is free, the sequence admitted last gives its blocks up and is
//! computed again later (preemption by recompute). A sequence that could never fit is refused when it arrives.

mod blocks;
mod sequence;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

pub use blocks::{BlockId, BlockManager};
pub use sequence::{NewSequence, Sequence, SequenceId};

/// The scheduler's fixed sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens a KV block holds.
    pub block_size: usize,
    /// KV blocks in all.
    pub blocks: usize,
    /// Sequences that compute in one step.
    pub max_running: usize,
    /// Sequences that wait beyond those.
    pub max_waiting: usize,
    /// Tokens computed in one step, over all sequences.
    pub step_tokens: usize,
    /// Prompt tokens that one sequence computes in one step.
    pub prefill_chunk: usize,
}

/// Why an arrival was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many sequences wait as may.
    #[error("{waiting} requests are waiting already, which is the limit")]
    QueueFull {
        /// Sequences waiting now.
        waiting: usize,
    },
    /// It would not fit into the KV cache even alone.
    #[error("the request needs room for {tokens} tokens and the KV cache holds {capacity}")]
    NeverFits {
        /// Tokens of prompt and answer together.
        tokens: usize,
        /// Tokens the cache holds.
        capacity: usize,
    },
}

/// What one sequence computes in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// The sequence.
    pub id: SequenceId,
    /// Position of the first token to compute.
    pub start: usize,
    /// Tokens to compute.
    pub len: usize,
    /// Whether these are the sequence's last tokens, so that the next one is sampled from their logits.
    pub samples: bool,
    /// Whether this is a decode step (else prefill).
    pub decodes: bool,
}

/// What happens in one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// The computations, decodes first.
    pub work: Vec<Work>,
    /// Sequences that gave up their blocks and wait again.
    pub preempted: Vec<SequenceId>,
    /// Sequences admitted in this step, with the tokens they found in the prefix cache.
    pub admitted: Vec<(SequenceId, usize)>,
}

impl StepPlan {
    /// Tokens computed in all.
    pub fn tokens(&self) -> usize {
        self.work.iter().map(|w| w.len).sum()
    }
}

/// Counters since the start, and gauges of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences computing.
    pub running: usize,
    /// Sequences waiting.
    pub waiting: usize,
    /// Blocks in use.
    pub used_blocks: usize,
    /// Blocks in all.
    pub total_blocks: usize,
    /// Tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Tokens found there.
    pub prefix_hits: u64,
    /// Preemptions.
    pub preemptions: u64,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Scheduler {
    sizes: Sizes,
    blocks: BlockManager,
    sequences: HashMap<SequenceId, Sequence>,
    /// In order of admission.
    running: Vec<SequenceId>,
    /// In order of arrival, preempted ones in front.
    waiting: VecDeque<SequenceId>,
    stats: Stats,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            blocks: BlockManager::new(sizes.blocks, sizes.block_size),
            sequences: HashMap::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            stats: Stats { total_blocks: sizes.blocks, ..Stats::default() },
        }
    }

    /// Queues a group of sequences: all of them or none.
    pub fn arrive(&mut self, group: Vec<NewSequence>) -> Result<(), Refusal> {
        let capacity = self.sizes.blocks * self.sizes.block_size;
        for arrival in &group {
            debug_assert!(!arrival.prompt.is_empty(), "the doors refuse an empty prompt");
            // The last token generated is never computed, so it needs no room.
            let tokens = arrival.prompt.len() + arrival.max_new.saturating_sub(1);
            if tokens > capacity {
                return Err(Refusal::NeverFits { tokens, capacity });
            }
        }
        let places = self.sizes.max_running.saturating_sub(self.running.len()) + self.sizes.max_waiting;
        if self.waiting.len() + group.len() > places {
            return Err(Refusal::QueueFull { waiting: self.waiting.len() });
        }
        for arrival in group {
            let id = arrival.id;
            let before = self.sequences.insert(id, Sequence::new(arrival));
            debug_assert!(before.is_none(), "{id:?} arrived twice");
            self.waiting.push_back(id);
        }
        Ok(())
    }

    /// Takes a sequence out, finished or cancelled, and frees its blocks at once. Unknown names are ignored: the
    /// sequence may have finished while its client was leaving.
    pub fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        let mut sequence = self.sequences.remove(&id)?;
        self.running.retain(|&r| r != id);
        self.waiting.retain(|&w| w != id);
        // The end goes first, so that the beginning, which others are likelier to share, is kept longest.
        for block in sequence.blocks.drain(..).rev() {
            self.blocks.release(block);
        }
        Some(sequence)
    }

    /// A sequence that is running or waiting.
    pub fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.get(&id)
    }

    /// Whether any sequence is running or waiting.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            used_blocks: self.blocks.total() - self.blocks.available(),
            ..self.stats
        }
    }

    /// Forgets the contents of every block that is kept for reuse.
    pub fn reset_prefix_cache(&mut self) {
        self.blocks.forget_all();
        for sequence in self.sequences.values_mut() {
            sequence.fingerprints.clear();
        }
    }

    /// Plans the next step. The caller computes it and then calls [`Self::computed`].
    pub fn plan(&mut self) -> StepPlan {
        let mut plan = StepPlan::default();
        let mut budget = self.sizes.step_tokens;
        for decoding in [true, false] {
            // Preemption takes from the end of `running`, so positions before it stay valid.
            let mut at = 0;
            while at < self.running.len() && budget > 0 {
                let id = self.running[at];
                if self.sequences[&id].is_decoding() == decoding {
                    self.schedule(id, &mut budget, &mut plan);
                }
                at += 1;
            }
        }
        // After a preemption the pool is tight: nobody new until the running ones have room again.
        if plan.preempted.is_empty() {
            self.admit(&mut budget, &mut plan);
        }
        plan
    }

    /// Gives `id` its share of the step, preempting later sequences if blocks run out.
    fn schedule(&mut self, id: SequenceId, budget: &mut usize, plan: &mut StepPlan) {
        let sequence = &self.sequences[&id];
        let len = sequence.left().min(self.sizes.prefill_chunk).min(*budget);
        let needed = self.blocks.blocks_for(sequence.computed + len);
        while self.sequences[&id].blocks.len() < needed {
            if let Some(block) = self.blocks.allocate() {
                self.held(id).blocks.push(block);
                continue;
            }
            let Some(&victim) = self.running.last() else { return };
            self.preempt(victim, budget, plan);
            if victim == id {
                return;
            }
        }
        let sequence = &self.sequences[&id];
        plan.work.push(Work {
            id,
            start: sequence.computed,
            len,
            samples: sequence.computed + len == sequence.tokens.len(),
            decodes: sequence.is_decoding(),
        });
        *budget -= len;
    }

    fn preempt(&mut self, victim: SequenceId, budget: &mut usize, plan: &mut StepPlan) {
        self.running.pop();
        // Work planned for it in this very step is taken back.
        plan.work.retain(|work| {
            let keep = work.id != victim;
            if !keep {
                *budget += work.len;
            }
            keep
        });
        let sequence = self.held(victim);
        let blocks = std::mem::take(&mut sequence.blocks);
        sequence.computed = 0;
        sequence.fingerprints.clear();
        for block in blocks.into_iter().rev() {
            self.blocks.release(block);
        }
        self.waiting.push_front(victim);
        self.stats.preemptions += 1;
        plan.preempted.push(victim);
    }

    fn admit(&mut self, budget: &mut usize, plan: &mut StepPlan) {
        let mut at = 0;
        while at < self.waiting.len() && *budget > 0 && self.running.len() < self.sizes.max_running {
            let id = self.waiting[at];
            if self.waits_for_another(id) {
                at += 1;
                continue;
            }
            let sequence = &self.sequences[&id];
            let cached = self.cached_prefix(sequence);
            let fresh = self.blocks.blocks_for(sequence.tokens.len()) - cached.len();
            // The whole prompt must fit now: a half-computed prompt that is preempted is work thrown away.
            if fresh + self.blocks.idle_among(&cached) > self.blocks.available() {
                return;
            }
            if !sequence.wants_prompt_logits {
                self.stats.prefix_queries += sequence.tokens.len() as u64;
                self.stats.prefix_hits += (cached.len() * self.sizes.block_size) as u64;
            }
            for &block in &cached {
                self.blocks.share(block);
            }
            self.waiting.remove(at);
            self.running.push(id);
            let reused = cached.len() * self.sizes.block_size;
            let sequence = self.held(id);
            sequence.computed = reused;
            sequence.cached = reused;
            sequence.blocks = cached;
            plan.admitted.push((id, reused));
            self.schedule(id, budget, plan);
        }
    }

    /// Whether another sequence with the same prompt is still computing what this one could share.
    fn waits_for_another(&self, id: SequenceId) -> bool {
        let first = self.sequences[&id].after.and_then(|first| self.sequences.get(&first));
        first.is_some_and(|first| first.computed < first.prompt_len)
    }

    /// Blocks that `sequence` can take over. Its last token is always computed, since its logits are needed.
    fn cached_prefix(&self, sequence: &Sequence) -> Vec<BlockId> {
        if sequence.wants_prompt_logits {
            return Vec::new();
        }
        self.blocks.find_prefix(&sequence.tokens[..sequence.tokens.len() - 1], sequence.salt)
    }

    /// Records that `plan` was computed, and publishes the blocks it filled.
    pub fn computed(&mut self, plan: &StepPlan) {
        for work in &plan.work {
            let Some(sequence) = self.sequences.get_mut(&work.id) else { continue };
            sequence.computed = work.start + work.len;
            let full = sequence.computed / self.sizes.block_size;
            while sequence.fingerprints.len() < full {
                let at = sequence.fingerprints.len();
                let tokens = &sequence.tokens[at * self.sizes.block_size..(at + 1) * self.sizes.block_size];
                let parent = sequence.fingerprints.last().copied();
                let fingerprint = self.blocks.publish(sequence.blocks[at], parent, sequence.salt, tokens);
                sequence.fingerprints.push(fingerprint);
            }
        }
    }

    /// Appends a generated token.
    pub fn append(&mut self, id: SequenceId, token: u32) {
        self.held(id).tokens.push(token);
    }

    fn held(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences.get_mut(&id).expect("running and waiting name only sequences that are held")
    }
}
