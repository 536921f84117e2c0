//! Routing as pure functions: which engine gets a request, which names are close to a wrong one, whether a retry is allowed.

use std::time::Duration;

/// An engine as routing sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Whether its last health check passed.
    pub healthy: bool,
    /// Whether this request was already tried there.
    pub tried: bool,
}

/// Round robin from `turn` over the healthy engines, those not tried yet first. `None` when none is healthy.
pub fn pick(candidates: impl ExactSizeIterator<Item = Candidate> + Clone, turn: usize) -> Option<usize> {
    let count = candidates.len();
    if count == 0 {
        return None;
    }
    let from = turn % count;
    let order = |i: usize| (i + count - from) % count;
    let healthy = candidates.enumerate().filter(|(_, c)| c.healthy);
    healthy.min_by_key(|(i, c)| (c.tried, order(*i))).map(|(i, _)| i)
}

/// Up to three known names that are close to `wrong`, nearest first.
pub fn closest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wrong = wrong.to_lowercase();
    let mut scored: Vec<(usize, &str)> = known
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let tail = lower.rsplit('/').next().unwrap_or(&lower);
            let distance = edit_distance(&wrong, &lower).min(edit_distance(&wrong, tail));
            let contains = !wrong.is_empty() && (lower.contains(&wrong) || wrong.contains(tail));
            let near = contains || distance * 2 <= wrong.chars().count().max(tail.chars().count());
            near.then_some((if contains { 0 } else { distance }, name))
        })
        .collect();
    scored.sort_unstable();
    scored.dedup();
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Levenshtein's distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Bounds retries to a share of recent requests, so that a failing fleet is not asked twice as much.
#[derive(Debug)]
pub struct RetryBudget {
    share: f64,
    /// Retries that may be made now.
    level: f64,
    refilled: Duration,
}

/// Retries that are always allowed within [`WINDOW`], however few requests there are.
const FLOOR: f64 = 10.0;
const WINDOW: Duration = Duration::from_secs(10);

impl RetryBudget {
    /// Allows `percent` of the requests to be retried, and [`FLOOR`] in ten seconds in any case.
    pub fn new(percent: u32) -> Self {
        Self { share: f64::from(percent) / 100.0, level: FLOOR, refilled: Duration::ZERO }
    }

    /// Notes a request at `now`, counted from any fixed moment.
    pub fn request(&mut self) {
        // Saved-up allowance is bounded: a quiet hour must not pay for a storm.
        self.level = (self.level + self.share).min(10.0 * FLOOR);
    }

    /// Takes a retry from the budget.
    pub fn retry(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.refilled).as_secs_f64() / WINDOW.as_secs_f64();
        self.refilled = now;
        if self.level < FLOOR {
            self.level = (self.level + passed * FLOOR).min(FLOOR);
        }
        // Twenty times a twentieth is a little less than one.
        let allowed = self.level >= 0.999;
        if allowed {
            self.level -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_engines_take_turns_and_tried_ones_come_last() {
        let c = |healthy, tried| Candidate { healthy, tried };
        let all = [c(true, false), c(true, false), c(true, false)];
        let turns: Vec<_> = (0..5).map(|turn| pick(all.iter().copied(), turn)).collect();
        assert_eq!(turns, [Some(0), Some(1), Some(2), Some(0), Some(1)]);
        let cases: &[(&[Candidate], usize, Option<usize>)] = &[
            (&[], 0, None),
            (&[c(false, false)], 0, None),
            (&[c(false, false), c(true, false)], 0, Some(1)),
            (&[c(true, true), c(true, false)], 0, Some(1)),
            (&[c(true, true), c(false, false)], 0, Some(0)),
        ];
        for (candidates, turn, want) in cases {
            assert_eq!(pick(candidates.iter().copied(), *turn), *want, "{candidates:?}");
        }
    }

    #[test]
    fn close_names_are_found() {
        let known = ["SmolLM2-135M-Instruct", "all-MiniLM-L6-v2", "meta-llama/Llama-3-8B"];
        let cases: &[(&str, &[&str])] = &[
            ("smollm2", &["SmolLM2-135M-Instruct"]),
            ("SmolLM-135M-Instruct", &["SmolLM2-135M-Instruct"]),
            ("all-minilm-l12-v2", &["all-MiniLM-L6-v2"]),
            ("Llama-3-8b", &["meta-llama/Llama-3-8B"]),
            ("gpt-5", &[]),
            ("", &[]),
        ];
        for (wrong, want) in cases {
            assert_eq!(closest(wrong, known.into_iter()), *want, "{wrong}");
        }
    }

    #[test]
    fn retries_are_a_share_of_requests() {
        let mut budget = RetryBudget::new(20);
        let allowed = (0..100).filter(|_| budget.retry(Duration::ZERO)).count();
        assert_eq!(allowed, 10, "the floor");
        (0..100).for_each(|_| budget.request());
        let allowed = (0..100).filter(|_| budget.retry(Duration::ZERO)).count();
        assert_eq!(allowed, 20, "20 % of 100");
        assert!(!budget.retry(Duration::from_millis(10)));
        assert!(budget.retry(Duration::from_secs(10)), "the floor comes back");
    }
}
