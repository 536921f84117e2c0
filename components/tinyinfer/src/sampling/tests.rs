//! The sampler against the exact distribution, worked out here in f64 from the definitions.

use super::*;

const VOCABULARY: usize = 200;

/// Logits of some shape: a few likely tokens, a long tail, ties.
fn logits(seed: u64) -> Vec<f32> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..VOCABULARY).map(|at| if at % 17 == 3 { 1.5 } else { random.random_range(-4.0f32..4.0) }).collect()
}

/// The distribution by definition: sort everything, cut, normalise.
fn exact(adjusted: &[f64], p: &SamplingParams) -> Vec<f64> {
    let most = adjusted.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights: Vec<(usize, f64)> = adjusted
        .iter()
        .enumerate()
        .map(|(t, l)| (t, ((l - most) / f64::from(p.temperature)).exp()))
        .collect();
    weights.retain(|(_, w)| *w >= f64::from(p.min_p));
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if p.top_k > 0 {
        weights.truncate(p.top_k);
    }
    let total: f64 = weights.iter().map(|w| w.1).sum();
    let mut reached = 0.0;
    let keep = weights.iter().position(|w| {
        reached += w.1 / total;
        p.top_p < 1.0 && reached >= f64::from(p.top_p)
    });
    weights.truncate(keep.map_or(weights.len(), |at| at + 1));
    let total: f64 = weights.iter().map(|w| w.1).sum();
    let mut probabilities = vec![0.0; adjusted.len()];
    for (token, weight) in weights {
        probabilities[token] = weight / total;
    }
    probabilities
}

/// Pearson's statistic over cells of at least five expected draws, and the value it exceeds once in a million
/// (Wilson and Hilferty's approximation).
fn chi_square(counts: &[u64], probabilities: &[f64]) -> (f64, f64) {
    let draws: u64 = counts.iter().sum();
    let (mut statistic, mut cells) = (0.0, 0);
    let (mut rest_seen, mut rest_expected) = (0.0, 0.0);
    for (&seen, &probability) in counts.iter().zip(probabilities) {
        let expected = probability * draws as f64;
        if expected >= 5.0 {
            statistic += (seen as f64 - expected).powi(2) / expected;
            cells += 1;
        } else {
            assert!(probability > 0.0 || seen == 0, "a token of probability 0 was drawn");
            rest_seen += seen as f64;
            rest_expected += expected;
        }
    }
    if rest_expected >= 5.0 {
        statistic += (rest_seen - rest_expected).powi(2) / rest_expected;
        cells += 1;
    }
    let freedom = f64::from(cells.max(2) - 1);
    let z = 4.753; // the normal quantile of 1 - 1e-6
    let limit = freedom * (1.0 - 2.0 / (9.0 * freedom) + z * (2.0 / (9.0 * freedom)).sqrt()).powi(3);
    (statistic, limit)
}

#[test]
fn draws_follow_the_exact_distribution() {
    let d = SamplingParams::default;
    let table: Vec<(&str, SamplingParams)> = vec![
        ("plain", d()),
        ("cold", SamplingParams { temperature: 0.5, ..d() }),
        ("hot", SamplingParams { temperature: 1.9, ..d() }),
        ("top_k", SamplingParams { top_k: 7, ..d() }),
        ("top_k of one", SamplingParams { top_k: 1, ..d() }),
        ("top_p", SamplingParams { top_p: 0.8, ..d() }),
        ("top_p beyond the first sort", SamplingParams { top_p: 0.995, temperature: 2.0, ..d() }),
        ("top_p of nothing", SamplingParams { top_p: 1e-6, ..d() }),
        ("min_p", SamplingParams { min_p: 0.2, ..d() }),
        (
            "all of them",
            SamplingParams { temperature: 0.9, top_k: 40, top_p: 0.9, min_p: 0.02, seed: 5, ..d() },
        ),
    ];
    for (name, params) in table {
        let logits = logits(11);
        let expected = exact(&logits.iter().map(|&l| f64::from(l)).collect::<Vec<_>>(), &params);
        let mut sampler = Sampler::new(params, &[]);
        let mut counts = vec![0u64; VOCABULARY];
        for _ in 0..60_000 {
            counts[sampler.sample(&logits).unwrap().token as usize] += 1;
        }
        let (statistic, limit) = chi_square(&counts, &expected);
        assert!(statistic < limit, "{name}: {statistic} over {limit}");
    }
}

#[test]
fn the_test_would_notice_a_wrong_distribution() {
    let logits = logits(11);
    let exact_at_one =
        exact(&logits.iter().map(|&l| f64::from(l)).collect::<Vec<_>>(), &SamplingParams::default());
    let mut sampler = Sampler::new(SamplingParams { temperature: 1.05, ..SamplingParams::default() }, &[]);
    let mut counts = vec![0u64; VOCABULARY];
    for _ in 0..60_000 {
        counts[sampler.sample(&logits).unwrap().token as usize] += 1;
    }
    let (statistic, limit) = chi_square(&counts, &exact_at_one);
    assert!(statistic > limit, "{statistic} under {limit}");
}

#[test]
fn penalties_and_bias_follow_their_definitions() {
    // One greedy choice each: which token wins after the adjustment.
    let d = || SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let logits = [2.0, 1.9, -1.0, 1.0];
    let table: Vec<(&str, SamplingParams, &[u32], &[u32])> = vec![
        ("greedy repeats itself", d(), &[], &[0, 0, 0]),
        ("presence is taken once", SamplingParams { presence_penalty: 0.5, ..d() }, &[], &[0, 1, 0, 0]),
        ("frequency each time", SamplingParams { frequency_penalty: 0.5, ..d() }, &[], &[0, 1, 0, 1, 0, 3]),
        ("presence ignores the prompt", SamplingParams { presence_penalty: 2.0, ..d() }, &[0], &[0, 1, 3]),
        ("repetition counts the prompt", SamplingParams { repetition_penalty: 1.5, ..d() }, &[0], &[1, 0, 0]),
        ("a bias lifts", SamplingParams { logit_bias: vec![(2, 100.0)], ..d() }, &[], &[2, 2]),
        ("a bias bans", SamplingParams { logit_bias: vec![(0, -100.0), (9, 100.0)], ..d() }, &[], &[1, 1]),
        (
            "an ending waits for min_tokens",
            SamplingParams { ending_tokens: vec![0], min_tokens: 2, ..d() },
            &[],
            &[1, 1, 0],
        ),
    ];
    for (name, params, prompt, expected) in table {
        let mut sampler = Sampler::new(params, prompt);
        let chosen: Vec<u32> = expected.iter().map(|_| sampler.sample(&logits).unwrap().token).collect();
        assert_eq!(chosen, expected, "{name}");
    }
    // A negative logit is multiplied, so that the penalty never becomes a reward.
    let mut sampler = Sampler::new(SamplingParams { repetition_penalty: 2.0, ..d() }, &[0]);
    assert_eq!(sampler.sample(&[-1.0, -1.5]).unwrap().token, 1);
}

#[test]
fn the_same_seed_gives_the_same_tokens_whoever_else_samples() {
    let logits = logits(3);
    let draw = |seed| {
        let mut sampler = Sampler::new(SamplingParams { seed, ..SamplingParams::default() }, &[]);
        (0..50).map(|_| sampler.sample(&logits).unwrap().token).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn logprobs_are_of_the_raw_logits() {
    let logits = logits(5);
    let params = SamplingParams {
        temperature: 0.3,
        logit_bias: vec![(0, 50.0)],
        logprobs: Some(4),
        ..SamplingParams::default()
    };
    let sampled = Sampler::new(params, &[]).sample(&logits).unwrap();
    assert_eq!(sampled.token, 0);
    let reported = sampled.logprobs.unwrap();
    let probabilities =
        exact(&logits.iter().map(|&l| f64::from(l)).collect::<Vec<_>>(), &SamplingParams::default());
    assert!((f64::from(reported.logprob) - probabilities[0].ln()).abs() < 1e-5);
    assert_eq!(reported.rank, 1 + probabilities.iter().filter(|&&p| p > probabilities[0]).count());
    assert_eq!(reported.top.len(), 4);
    let mut order: Vec<usize> = (0..VOCABULARY).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    for ((token, logprob), expected) in reported.top.iter().zip(order) {
        assert_eq!(*token as usize, expected);
        assert!((f64::from(*logprob) - probabilities[expected].ln()).abs() < 1e-5);
    }
    assert_eq!(score(&[0.0, 1.0], 0, 99).top.len(), 2, "no more alternatives than tokens");
}

#[test]
fn logits_that_are_no_numbers_are_refused() {
    let banned = f32::NEG_INFINITY;
    for temperature in [0.0, 1.0] {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        for bad in [&[f32::NAN, 1.0][..], &[banned, banned], &[]] {
            assert_eq!(Sampler::new(params.clone(), &[]).sample(bad), Err(UnusableLogits), "{bad:?}");
        }
        for good in [&[banned, 1.0][..], &[1.0, f32::INFINITY]] {
            assert_eq!(Sampler::new(params.clone(), &[]).sample(good).unwrap().token, 1, "{good:?}");
        }
    }
}
