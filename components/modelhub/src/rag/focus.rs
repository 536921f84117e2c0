//! Which sentences of the retrieved passages are nearest to the question.

use std::ops::Range;

use super::lexical::{Rarity, akin, words};
use crate::text::sentences;

/// Weight of shared words against cosine similarity.
const LEXICAL_WEIGHT: f32 = 0.4;
/// What a word in the headings counts of one in the sentence.
const HEADING_SHARE: f32 = 0.5;
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

/// A sentence with the headings above it, which tell what “It is emptied at six” is about.
#[derive(Debug, Clone, Copy)]
pub struct Titled<'a> {
    /// Headings, joined.
    pub heading: &'a str,
    /// The sentence.
    pub text: &'a str,
}

/// Indices of the sentences, nearest to the question first; `cosines` holds their similarity with it. Words that few passages
/// hold weigh more, and a word in the headings half as much as one in the sentence.
pub fn nearest(question: &str, sentences: &[Titled<'_>], cosines: &[f32], rarity: &Rarity) -> Vec<usize> {
    let mut asked = words(question).stems;
    asked.sort_unstable();
    asked.dedup();
    let all: f32 = asked.iter().map(|stem| rarity.weight(stem)).sum();
    let shared = |sentence: &Titled<'_>| {
        let (text, heading) = (words(sentence.text).stems, words(sentence.heading).stems);
        let held = |stem: &String| {
            let share = match () {
                () if text.iter().any(|held| akin(held, stem)) => 1.0,
                () if heading.iter().any(|held| akin(held, stem)) => HEADING_SHARE,
                () => 0.0,
            };
            share * rarity.weight(stem)
        };
        if all > 0.0 { asked.iter().map(held).sum::<f32>() / all } else { 0.0 }
    };
    let score = |(sentence, cosine): (&Titled<'_>, &f32)| cosine + LEXICAL_WEIGHT * shared(sentence);
    let scores: Vec<f32> = sentences.iter().zip(cosines).map(score).collect();
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
        let sentence = |text| Titled { heading: "Leave", text };
        let sentences = ["Leave is counted in days.", "Unused days of leave are carried over."].map(sentence);
        let order = |question, cosines: &[f32]| nearest(question, &sentences, cosines, &Rarity::default());
        assert_eq!(order("How many unused days are carried over?", &[0.6, 0.55]), [1, 0]);
        assert_eq!(order("", &[0.6, 0.5]), [0, 1]);
    }

    #[test]
    fn a_rare_word_and_the_headings_decide() {
        let sentences = [
            Titled { heading: "Leaving the company", text: "The notice period is one month." },
            Titled {
                heading: "Annual leave > Exceptions",
                text: "In an emergency the team lead may waive the notice period.",
            },
        ];
        let texts: Vec<_> = sentences.iter().map(|s| words(&format!("{} {}", s.heading, s.text))).collect();
        let rarity = Rarity::of(&texts);
        assert_eq!(
            nearest("Who may waive the notice period for leave?", &sentences, &[0.66, 0.6], &rarity),
            [1, 0]
        );
    }
}
