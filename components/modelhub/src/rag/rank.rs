//! Orders the vector store's candidates: cosine similarity with a lexical part (BM25 over the candidates), which puts the
//! passage that names the asked thing before one that is merely about the same topic.

use super::lexical::{Rarity, Words, words};

/// Weight of the lexical part against cosine similarity.
const LEXICAL_WEIGHT: f32 = 0.25;
/// BM25's saturation and length parameters, at their usual values (Robertson and Zaragoza 2009).
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// One candidate as ranking sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Cosine similarity with the question.
    pub cosine: f32,
    /// Headings and text.
    pub text: &'a str,
}

/// Indices of the candidates, best first.
pub fn rank(question: &str, candidates: &[Candidate<'_>]) -> Vec<usize> {
    let lexical = bm25(question, candidates);
    let top = lexical.iter().copied().fold(0.0_f32, f32::max);
    let score = |i: usize| {
        let lexical = if top > 0.0 { lexical[i] / top } else { 0.0 };
        candidates[i].cosine + LEXICAL_WEIGHT * lexical
    };
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
    order
}

fn bm25(question: &str, candidates: &[Candidate<'_>]) -> Vec<f32> {
    let texts: Vec<Words> = candidates.iter().map(|c| words(c.text)).collect();
    let rarity = Rarity::of(&texts);
    let mean = texts.iter().map(|t| t.stems.len()).sum::<usize>() as f32 / texts.len().max(1) as f32;
    let mut asked = words(question).stems;
    asked.sort_unstable();
    asked.dedup();
    let one = |text: &Words| {
        let length = K1 * (1.0 - B + B * text.stems.len() as f32 / mean.max(1.0));
        asked
            .iter()
            .map(|stem| {
                let count = text.stems.iter().filter(|s| *s == stem).count() as f32;
                rarity.weight(stem) * count * (K1 + 1.0) / (count + length)
            })
            .sum()
    };
    texts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_thing_beats_a_near_topic() {
        let candidates = [
            Candidate { cosine: 0.61, text: "Leave: requests are made early." },
            Candidate { cosine: 0.58, text: "Parental leave: it is requested with form B12." },
            Candidate { cosine: 0.20, text: "The canteen opens at noon." },
        ];
        assert_eq!(rank("Which form do I need for parental leave?", &candidates), [1, 0, 2]);
        assert_eq!(rank("", &candidates), [0, 1, 2], "without words the cosine decides");
        assert!(rank("x", &[]).is_empty());
    }
}
