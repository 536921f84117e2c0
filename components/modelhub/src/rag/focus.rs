//! Which sentences of the retrieved passages are nearest to the question.

use std::ops::Range;

use super::lexical::words;
use crate::text::sentences;

/// Weight of shared words against cosine similarity.
const LEXICAL_WEIGHT: f32 = 0.25;
/// Shorter pieces (a lone list marker, a name) say nothing by themselves.
const MIN_WORDS: usize = 3;

/// A sentence of a passage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Index of the passage.
    pub passage: usize,
    /// Span in the passage's text.
    pub span: Range<usize>,
}

/// The sentences of the passages that can be answered from; a passage without any gives itself.
pub fn pieces(passages: &[&str]) -> Vec<Piece> {
    let mut out = Vec::new();
    for (passage, text) in passages.iter().enumerate() {
        let before = out.len();
        let long_enough = |span: &Range<usize>| text[span.clone()].split_whitespace().count() >= MIN_WORDS;
        out.extend(sentences(text).into_iter().filter(long_enough).map(|span| Piece { passage, span }));
        if out.len() == before {
            out.push(Piece { passage, span: 0..text.len() });
        }
    }
    out
}

/// Indices of the sentences, nearest to the question first; `cosines` holds their similarity with it.
pub fn nearest(question: &str, texts: &[&str], cosines: &[f32]) -> Vec<usize> {
    let asked = words(question).stems;
    let shared = |text: &str| {
        let held = words(text).stems;
        asked.iter().filter(|stem| held.contains(stem)).count() as f32 / asked.len().max(1) as f32
    };
    let scores: Vec<f32> =
        texts.iter().zip(cosines).map(|(text, cosine)| cosine + LEXICAL_WEIGHT * shared(text)).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_passage_gives_at_least_one_piece() {
        let passages = ["Ask early, please. Yes. The lead answers soon.", "Owner: Ada"];
        let got: Vec<(usize, &str)> =
            pieces(&passages).into_iter().map(|p| (p.passage, &passages[p.passage][p.span])).collect();
        assert_eq!(got, [(0, "Ask early, please."), (0, "The lead answers soon."), (1, "Owner: Ada")]);
    }

    #[test]
    fn shared_words_decide_between_near_sentences() {
        let texts = ["Leave is counted in days.", "Unused days of leave are carried over."];
        assert_eq!(nearest("How many unused days are carried over?", &texts, &[0.6, 0.55]), [1, 0]);
        assert_eq!(nearest("", &texts, &[0.6, 0.5]), [0, 1]);
    }
}
