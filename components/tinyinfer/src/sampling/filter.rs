//! Which tokens may be drawn, and with what weight.

use std::cmp::Ordering;

use super::UnusableLogits;

/// A token that may be drawn, with its unnormalised probability (the likeliest has 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: u32,
    /// Its weight.
    pub weight: f32,
}

/// Likeliest first; equal ones in the order of the vocabulary, so that the choice does not depend on the sort.
#[allow(clippy::trivially_copy_pass_by_ref)] // the shape that sorting takes
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// The likeliest token, the first of equals.
pub(super) fn argmax(logits: &[f32]) -> Result<u32, UnusableLogits> {
    let mut best: Option<(usize, f32)> = None;
    for (token, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return Err(UnusableLogits);
        }
        if best.is_none_or(|(_, most)| logit > most) {
            best = Some((token, logit));
        }
    }
    let (token, logit) = best.ok_or(UnusableLogits)?;
    if logit == f32::NEG_INFINITY { Err(UnusableLogits) } else { Ok(token as u32) }
}

/// Fills `candidates` with every token of at least `min_p` times the likeliest one's probability.
pub(super) fn weigh(
    logits: &[f32],
    temperature: f32,
    min_p: f32,
    candidates: &mut Vec<Candidate>,
) -> Result<(), UnusableLogits> {
    let most = logits[argmax(logits)? as usize];
    candidates.clear();
    for (token, &logit) in logits.iter().enumerate() {
        // A biased logit can be infinite, and infinity minus itself is no number.
        let distance = if logit >= most { 0.0 } else { (logit - most) / temperature };
        let weight = distance.exp();
        if weight > 0.0 && weight >= min_p {
            candidates.push(Candidate { token: token as u32, weight });
        }
    }
    Ok(())
}

/// Keeps the `k` likeliest; 0 keeps all.
pub(super) fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, likelier);
        candidates.truncate(k);
        candidates.sort_unstable_by(likelier);
    }
}

/// Keeps the fewest likeliest tokens whose share reaches `p`; always at least one.
pub(super) fn keep_top_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let goal = f64::from(p) * candidates.iter().map(|c| f64::from(c.weight)).sum::<f64>();
    // A model is mostly sure of a few tokens: sort a few, and more only when they do not reach the goal.
    let mut sorted = 64;
    loop {
        let all = sorted >= candidates.len();
        if !all {
            candidates.select_nth_unstable_by(sorted, likelier);
        }
        let front = if all { candidates.len() } else { sorted };
        candidates[..front].sort_unstable_by(likelier);
        let mut reached = 0.0;
        for at in 0..front {
            reached += f64::from(candidates[at].weight);
            if reached >= goal {
                candidates.truncate(at + 1);
                return;
            }
        }
        if all {
            return;
        }
        sorted *= 4;
    }
}
