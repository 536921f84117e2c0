//! Log probabilities of the model's own distribution, before any bias, penalty or temperature.

/// A token's log probability beside its likeliest alternatives.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token itself, natural logarithm.
    pub logprob: f32,
    /// 1 when it was the likeliest.
    pub rank: usize,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Scores `token` under `logits`, with the `top` likeliest tokens beside it.
pub fn score(logits: &[f32], token: u32, top: usize) -> TokenLogprobs {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - most).exp()).sum();
    let normaliser = f64::from(most) + sum.ln();
    let logprob = |token: usize| (f64::from(logits[token]) - normaliser) as f32;

    let own = logits[token as usize];
    let rank = 1 + logits.iter().filter(|&&l| l > own).count();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut tokens: Vec<u32> = Vec::new();
    if top > 0 {
        tokens = (0..logits.len() as u32).collect();
        if top < tokens.len() {
            tokens.select_nth_unstable_by(top, order);
            tokens.truncate(top);
        }
        tokens.sort_unstable_by(order);
    }
    TokenLogprobs {
        logprob: logprob(token as usize),
        rank,
        top: tokens.into_iter().map(|t| (t, logprob(t as usize))).collect(),
    }
}
