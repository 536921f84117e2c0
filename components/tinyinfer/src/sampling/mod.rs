//! From logits to text: the sampler, the logprobs it reports, and the stop strings that end a reply.
//!
//! The order of operations is vLLM's: logprobs are those of the model's own logits; then `logit_bias`, the repetition,
//! frequency and presence penalties, temperature, `min_p`, `top_k` and `top_p`; then one draw. Each sequence owns its
//! random numbers, so that a reply does not depend on what else is in the batch.

mod filter;
mod logprobs;
mod stop;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

pub use filter::Candidate;
pub use logprobs::{TokenLogprobs, score};
pub use stop::{StopMatcher, Stopped};

/// Temperatures below this decode greedily, as dividing by them would overflow.
const GREEDY_BELOW: f32 = 1e-5;

/// How a sequence's tokens are chosen. The doors check the ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; 1 the model's own distribution.
    pub temperature: f32,
    /// Only the `k` likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens whose probabilities first add up to this; 1 is all.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest; 0 is all.
    pub min_p: f32,
    /// Taken once from the logit of each token generated before.
    pub presence_penalty: f32,
    /// Taken from a token's logit for each time it was generated before.
    pub frequency_penalty: f32,
    /// Logits of tokens in prompt or answer are divided (when positive) or multiplied by this; 1 is none.
    pub repetition_penalty: f32,
    /// The same seed, prompt and model give the same reply.
    pub seed: u64,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Alternatives to report beside each chosen token; `None` reports nothing.
    pub logprobs: Option<usize>,
    /// Tokens that may not be generated before `min_tokens` others were: those that end a reply.
    pub ending_tokens: Vec<u32>,
    /// See `ending_tokens`.
    pub min_tokens: usize,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            logit_bias: Vec::new(),
            logprobs: None,
            ending_tokens: Vec::new(),
            min_tokens: 0,
        }
    }
}

/// The model's logits contain no usable number, so that no token can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model produced logits that are not numbers")]
pub struct UnusableLogits;

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Its logprob and the alternatives', when asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Chooses one sequence's tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    random: Xoshiro256PlusPlus,
    seen: HashMap<u32, Seen>,
    generated: usize,
    adjusted: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    in_answer: u32,
}

impl Sampler {
    /// A sampler at the beginning of the answer to `prompt`.
    pub fn new(params: SamplingParams, prompt: &[u32]) -> Self {
        let mut seen = HashMap::new();
        #[allow(clippy::float_cmp)] // exactly 1 is the neutral value
        if params.repetition_penalty != 1.0 {
            seen.extend(prompt.iter().map(|&token| (token, Seen::default())));
        }
        Self {
            random: Xoshiro256PlusPlus::seed_from_u64(params.seed),
            params,
            seen,
            generated: 0,
            adjusted: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Chooses the next token from the model's logits, one per token of the vocabulary.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Sampled, UnusableLogits> {
        self.adjust(logits);
        let token = if self.params.temperature < GREEDY_BELOW {
            filter::argmax(&self.adjusted)?
        } else {
            self.draw()?
        };
        let logprobs = self.params.logprobs.map(|top| score(logits, token, top));
        self.seen.entry(token).or_default().in_answer += 1;
        self.generated += 1;
        Ok(Sampled { token, logprobs })
    }

    /// Biases, penalties and bans, into `self.adjusted`.
    fn adjust(&mut self, logits: &[f32]) {
        let params = &self.params;
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        for &(token, bias) in &params.logit_bias {
            if let Some(logit) = self.adjusted.get_mut(token as usize) {
                *logit += bias;
            }
        }
        for (&token, seen) in &self.seen {
            let Some(logit) = self.adjusted.get_mut(token as usize) else { continue };
            if *logit > 0.0 {
                *logit /= params.repetition_penalty;
            } else {
                *logit *= params.repetition_penalty;
            }
            if seen.in_answer > 0 {
                *logit -= params.frequency_penalty * seen.in_answer as f32 + params.presence_penalty;
            }
        }
        if self.generated < params.min_tokens {
            for &token in &params.ending_tokens {
                if let Some(logit) = self.adjusted.get_mut(token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    fn draw(&mut self) -> Result<u32, UnusableLogits> {
        let p = &self.params;
        filter::weigh(&self.adjusted, p.temperature, p.min_p, &mut self.candidates)?;
        filter::keep_top_k(&mut self.candidates, p.top_k);
        filter::keep_top_p(&mut self.candidates, p.top_p);
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.weight)).sum();
        let mut left = self.random.random::<f64>() * total;
        for candidate in &self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Ok(candidate.token);
            }
        }
        // Rounding can leave a last sliver; it belongs to the last candidate that has any weight.
        self.candidates.iter().rev().find(|c| c.weight > 0.0).map(|c| c.token).ok_or(UnusableLogits)
    }
}
