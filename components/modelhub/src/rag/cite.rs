//! Which passages support a sentence of an answer, and which of their sentences to quote.
//!
//! A sentence is supported by a stretch of one or two sentences of a passage that holds most of its content words, weighted by
//! how rare they are; words of the question count half, since an answer repeats them whatever it claims. A number that the
//! stretch does not hold, or a denial on one side only, takes most of the support away. Where the words are
//! inconclusive (a paraphrase) the similarity of the embeddings decides.

use std::collections::HashSet;
use std::ops::Range;

use super::lexical::{Rarity, Words, is_number, words};
use crate::text::sentences;

/// Coverage of content words from which on a sentence is supported.
pub const SUPPORTED: f32 = 0.6;
/// Coverage from which on similarity of meaning may decide.
const INCONCLUSIVE: f32 = 0.35;
/// Cosine similarity that makes a paraphrase supported.
const SAME_MEANING: f32 = 0.72;
/// Another passage is cited beside the best one when it supports nearly as well.
const NEARLY: f32 = 0.93;

/// What can be cited: the passages that the answering model read.
#[derive(Debug)]
pub struct Evidence {
    passages: Vec<Vec<Stretch>>,
    rarity: Rarity,
    asked: HashSet<String>,
}

#[derive(Debug)]
struct Stretch {
    span: Range<usize>,
    words: Words,
}

/// How well a passage supports a sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Support {
    /// Index of the passage.
    pub passage: usize,
    /// The supporting sentences: a span of the passage's text.
    pub quote: Range<usize>,
    /// 0 to 1.
    pub score: f32,
}

/// The verdict on a sentence.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// These passages support it, best first.
    Supported(Vec<Support>),
    /// Words alone do not tell; similarity of meaning may: hand the cosines to [`Evidence::settle`].
    Inconclusive(Vec<Support>),
    /// No passage says so.
    Unsupported,
}

impl Evidence {
    /// Prepares the passages' sentences.
    pub fn new(question: &str, passages: &[&str]) -> Self {
        let passages: Vec<Vec<Stretch>> = passages.iter().map(|text| stretches(text)).collect();
        let rarity = Rarity::of(passages.iter().flatten().map(|s| &s.words));
        Self { passages, rarity, asked: words(question).stems.into_iter().collect() }
    }

    /// Judges a sentence by its words.
    pub fn judge(&self, sentence: &str) -> Verdict {
        let claim = words(sentence);
        if claim.stems.is_empty() {
            return Verdict::Unsupported;
        }
        let mut supports: Vec<Support> =
            (0..self.passages.len()).filter_map(|passage| self.best_stretch(&claim, passage)).collect();
        supports.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.passage.cmp(&b.passage)));
        let best = supports.first().map_or(0.0, |s| s.score);
        if best >= SUPPORTED {
            supports.retain(|s| s.score >= SUPPORTED && s.score >= best * NEARLY);
            return Verdict::Supported(supports);
        }
        supports.retain(|s| s.score >= INCONCLUSIVE);
        if supports.is_empty() { Verdict::Unsupported } else { Verdict::Inconclusive(supports) }
    }

    /// Settles an inconclusive verdict: `cosine` is the similarity of the sentence with a passage.
    pub fn settle(verdict: Verdict, cosine: impl Fn(usize) -> Option<f32>) -> Vec<Support> {
        match verdict {
            Verdict::Supported(supports) => supports,
            Verdict::Unsupported => Vec::new(),
            Verdict::Inconclusive(supports) => {
                let near = supports.into_iter().filter_map(|s| {
                    let cosine = cosine(s.passage)?;
                    (cosine >= SAME_MEANING).then_some(Support { score: cosine.min(1.0), ..s })
                });
                near.max_by(|a, b| a.score.total_cmp(&b.score)).into_iter().collect()
            }
        }
    }

    fn best_stretch(&self, claim: &Words, passage: usize) -> Option<Support> {
        let stretches = &self.passages[passage];
        let mut best: Option<Support> = None;
        let mut consider = |quote: Range<usize>, score: f32| {
            // Two sentences must say clearly more than one of them.
            if best.as_ref().is_none_or(|b| score > b.score + 0.08) {
                best = Some(Support { passage, quote, score });
            }
        };
        let mut singles: Vec<(f32, &Stretch)> =
            stretches.iter().map(|s| (self.coverage(claim, &[&s.words]), s)).collect();
        singles.sort_by(|a, b| b.0.total_cmp(&a.0));
        if let Some((score, stretch)) = singles.first() {
            consider(stretch.span.clone(), *score);
        }
        for pair in stretches.windows(2) {
            let score = self.coverage(claim, &[&pair[0].words, &pair[1].words]);
            consider(pair[0].span.start..pair[1].span.end, score);
        }
        best.filter(|b| b.score > 0.0)
    }

    /// Share of the claim's content that the stretch holds.
    fn coverage(&self, claim: &Words, stretch: &[&Words]) -> f32 {
        let holds = |stem: &String| stretch.iter().any(|w| w.stems.contains(stem));
        let mut held = 0.0;
        let mut all = 0.0;
        let mut wrong_number = false;
        for (i, stem) in claim.stems.iter().enumerate() {
            let mut weight = self.rarity.weight(stem);
            if self.asked.contains(stem) {
                weight *= 0.5;
            }
            all += weight;
            if holds(stem) {
                held += weight;
            }
            wrong_number |= is_number(stem) && !stretch.iter().any(|w| counts_the_same(claim, i, w));
        }
        let mut score = if all > 0.0 { held / all } else { 0.0 };
        // Similarity of meaning is blind to both, so they must not even be inconclusive.
        if wrong_number || claim.negated != stretch.iter().any(|w| w.negated) {
            score *= 0.3;
        }
        score
    }
}

/// Whether a stretch has the claim's number at `at`, and of the same thing: “2 weeks” is not what “the first two years” says.
fn counts_the_same(claim: &Words, at: usize, stretch: &Words) -> bool {
    const NEAR: usize = 2;
    let around = |stems: &[String], at: usize| {
        let window = at.saturating_sub(NEAR)..stems.len().min(at + NEAR + 1);
        window.filter(|i| *i != at).map(|i| stems[i].clone()).collect::<Vec<_>>()
    };
    let counted = around(&claim.stems, at);
    let same = |(i, stem): (usize, &String)| {
        *stem == claim.stems[at]
            && (counted.is_empty() || around(&stretch.stems, i).iter().any(|near| counted.contains(near)))
    };
    stretch.stems.iter().enumerate().any(same)
}

fn stretches(text: &str) -> Vec<Stretch> {
    sentences(text).into_iter().map(|span| Stretch { words: words(&text[span.clone()]), span }).collect()
}

/// Where a citation mark goes: before the punctuation that ends the sentence, as in “ten days [1].”
pub fn mark_position(sentence: &str) -> usize {
    let body = sentence.trim_end_matches(['.', '!', '?', ':', ';', '”', '"', '*']);
    if body.is_empty() { sentence.len() } else { body.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSAGES: [&str; 3] = [
        "Requests are made at least ten working days before the first day of leave. Use the leave form.",
        "In an emergency the team lead may waive this.\nTell her by phone.",
        "Full-time employees have 28 days of leave a year. Unused days do not expire.",
    ];

    fn cited(question: &str, sentence: &str) -> Vec<(usize, &'static str)> {
        match Evidence::new(question, &PASSAGES).judge(sentence) {
            Verdict::Supported(s) => {
                s.into_iter().map(|s| (s.passage, &PASSAGES[s.passage][s.quote])).collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_sentence_cites_what_says_so() {
        let question = "How many days in advance must leave be requested?";
        let first = (0, "Requests are made at least ten working days before the first day of leave.");
        let cases: &[(&str, &[(usize, &str)])] = &[
            ("Leave must be requested at least ten working days before the first day.", &[first]),
            ("Requests are made 10 working days before.", &[first]),
            ("Leave must be requested five working days before the first day.", &[]),
            (
                "In an emergency, the team lead may waive this.",
                &[(1, "In an emergency the team lead may waive this.")],
            ),
            ("The canteen serves lunch at noon.", &[]),
            ("Unused days expire.", &[]),
            ("Unused days do not expire.", &[(2, "Unused days do not expire.")]),
            ("Employees have 10 days of leave a year.", &[]),
            ("Yes.", &[]),
            ("", &[]),
        ];
        for (sentence, want) in cases {
            assert_eq!(cited(question, sentence), *want, "{sentence:?}");
        }
    }

    #[test]
    fn two_sentences_are_quoted_when_both_are_needed() {
        let got = cited(
            "What in an emergency?",
            "In an emergency the team lead may waive this; tell her by phone.",
        );
        assert_eq!(got, [(1, PASSAGES[1])]);
    }

    #[test]
    fn similarity_settles_a_paraphrase() {
        let support = Support { passage: 1, quote: 0..4, score: 0.4 };
        let verdict = Verdict::Inconclusive(vec![support]);
        let settled = Evidence::settle(verdict.clone(), |_| Some(0.8));
        assert_eq!((settled.len(), settled[0].passage), (1, 1));
        assert!(Evidence::settle(verdict.clone(), |_| Some(0.5)).is_empty());
        assert!(Evidence::settle(verdict, |_| None).is_empty());
    }

    #[test]
    fn marks_stand_before_the_full_stop() {
        for (sentence, want) in [
            ("Ten days.", "Ten days [1]."),
            ("Ten days", "Ten days [1]"),
            ("...", "... [1]"),
            ("“Go.”", "“Go [1].”"),
        ] {
            let at = mark_position(sentence);
            let pieces = format!("{} [1]{}", &sentence[..at], &sentence[at..]);
            assert_eq!(pieces, want);
        }
    }
}
