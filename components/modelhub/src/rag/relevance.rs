//! Whether a passage is about what a question asks, or only near to it: “Can I expense a private jet?” finds the passage on
//! expenses, which says nothing about jets.
//!
//! A question's topic words that the passage (with its headings) lacks are either said there in other words, or not at all. Which,
//! the embedding tells: without a word that the passage paraphrases the question is less similar to it, without one that is alien to
//! it the similarity stays or grows.

use unicode_segmentation::UnicodeSegmentation;

use super::lexical::{Rarity, akin, is_asking, seems_english, words};

/// Similarity from which on the passage is relevant whatever words it lacks.
const CERTAIN: f32 = 0.70;
/// A word is alien when leaving it out costs less similarity than this …
const ALIEN_LOSS: f32 = 0.02;
/// … and it is itself less similar to the passage than this.
const ALIEN_SIMILARITY: f32 = 0.25;
/// Similarity and the share of the topic words that the passage holds (times its weight) must reach this together.
const RELEVANT: f32 = 0.60;
/// Weight of that share.
const COVERAGE_WEIGHT: f32 = 0.35;
/// Words that a refusal names.
const MOST_NAMED: usize = 3;
/// Letters of a word of an unknown language from which on a refusal names it.
const LEAST_FOREIGN: usize = 5;

/// A question's topic words against a passage.
#[derive(Debug, Clone, PartialEq)]
pub struct Coverage {
    /// Share of the topic words that the passage holds, weighted by rarity; 1 when the question names no topic.
    pub share: f32,
    /// Those that it lacks, as the question writes them.
    pub missing: Vec<String>,
}

/// How a missing word changes the similarity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ablation {
    /// Similarity of question and passage lost by leaving the word out.
    pub loss: f32,
    /// Similarity of the word alone with the passage.
    pub similarity: f32,
}

/// Which topic words of the question a passage (headings and text) holds.
pub fn coverage(question: &str, passage: &str, rarity: &Rarity) -> Coverage {
    let held = words(passage).stems;
    let (mut all, mut found) = (0.0, 0.0);
    let mut missing: Vec<String> = Vec::new();
    if !seems_english(question) {
        return Coverage { share: 1.0, missing };
    }
    for word in topics(question) {
        let Some(stem) = words(&word).stems.pop() else { continue };
        let weight = rarity.weight(&stem);
        all += weight;
        if held.iter().any(|held| akin(held, &stem)) {
            found += weight;
        } else {
            missing.push(word);
        }
    }
    Coverage { share: if all > 0.0 { found / all } else { 1.0 }, missing }
}

/// Whether a passage holds every topic word of a question that names two or more: then a low similarity does not make it irrelevant.
pub fn names_all(question: &str, passage: &str) -> bool {
    let topics = topics(question);
    if topics.len() < 2 || !seems_english(question) {
        return false;
    }
    let held = words(passage).stems;
    let holds = |word: &String| words(word).stems.iter().all(|stem| held.iter().any(|held| akin(held, stem)));
    topics.iter().all(holds)
}

/// The words that say what a question is about, as it writes them, each once.
pub fn topics(question: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for word in question.unicode_words() {
        let stems = words(word).stems;
        if stems.iter().any(|stem| !is_asking(stem)) && !out.iter().any(|known| known == word) {
            out.push(word.to_owned());
        }
    }
    out
}

/// The question without one of its words.
pub fn without(question: &str, word: &str) -> String {
    let mut out = String::with_capacity(question.len());
    for piece in question.split_word_bounds() {
        if piece != word {
            out.push_str(piece);
        }
    }
    out
}

/// Whether a passage is relevant: `cosine` is its similarity with the question, `ablations` belong to the missing words.
pub fn relevant(cosine: f32, coverage: &Coverage, ablations: &[Ablation]) -> bool {
    if coverage.missing.is_empty() || cosine >= CERTAIN {
        return true;
    }
    let alien = |a: &Ablation| a.loss < ALIEN_LOSS && a.similarity < ALIEN_SIMILARITY;
    !ablations.iter().any(alien) && cosine + COVERAGE_WEIGHT * coverage.share >= RELEVANT
}

/// The words to name of those that were not found, in the question's order: few, and the long ones, which say most. Where the
/// language is unknown so are its function words: most of those are short.
pub fn telling(mut words: Vec<String>, english: bool) -> Vec<String> {
    let length = |word: &String| word.chars().count();
    words.retain(|word| english || length(word) >= LEAST_FOREIGN);
    while words.len() > MOST_NAMED {
        let shortest = (0..words.len()).rev().min_by_key(|i| length(&words[*i]));
        words.remove(shortest.unwrap_or(0));
    }
    words
}

/// What is answered when no passage is relevant: which words none of the passages found mentions.
pub fn refusal(lacking: &[String], passages: usize) -> String {
    if lacking.is_empty() || passages == 0 {
        return super::prompt::NO_ANSWER.to_owned();
    }
    let which = if passages == 1 {
        "the passage found does not mention".to_owned()
    } else {
        format!("none of the {passages} passages nearest to the question mentions")
    };
    format!("I don't know: {which} {}.", quoted(lacking))
}

/// What is answered when passages mention the words, but not the one nearest to the question.
pub fn apart(missing: &[String]) -> String {
    if missing.is_empty() {
        return super::prompt::NO_ANSWER.to_owned();
    }
    format!("I don't know: the passage nearest to the question does not mention {}.", quoted(missing))
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("“{word}”")).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_what_a_question_is_about() {
        let cases: &[(&str, &[&str])] = &[
            ("Can I expense a private jet?", &["expense", "private", "jet"]),
            ("How long is the notice period for a dog?", &["notice", "dog"]),
            ("How much does breakfast cost?", &["breakfast"]),
            ("How much is it?", &[]),
        ];
        for (question, want) in cases {
            assert_eq!(topics(question), *want, "{question}");
        }
        assert_eq!(without("A jet, a private jet?", "jet"), "A , a private ?");
    }

    #[test]
    fn what_a_passage_lacks_is_named() {
        let passage = "Expenses\nAlcohol is not reimbursed, except at dinners with customers.";
        let got = coverage("Can I expense a private jet?", passage, &Rarity::default());
        assert_eq!(got.missing, ["private", "jet"]);
        assert!((0.3..0.4).contains(&got.share), "{}", got.share);
        assert!(coverage("Is alcohol reimbursed?", passage, &Rarity::default()).missing.is_empty());
        // Of other languages no endings are known: words do not decide there.
        assert!(coverage("Wird Alkohol erstattet?", passage, &Rarity::default()).missing.is_empty());
    }

    #[test]
    fn a_passage_that_names_everything_asked_is_not_passed_over() {
        let passage = "Grievances\nWhoever is treated unfairly can speak to the lead.";
        assert!(names_all("Who can help me when I am treated unfairly?", passage));
        assert!(!names_all("Who can help me when I am treated in hospital?", passage));
        assert!(!names_all("Who is treated?", passage), "one word may stand anywhere");
        assert!(!names_all("Lead?", passage));
    }

    /// Question, similarity, share, and of each missing word loss and similarity; then the verdict.
    type Case = (&'static str, f32, f32, &'static [(f32, f32)], bool);

    /// Figures of all-MiniLM-L6-v2 on the quickstart's handbook.
    #[test]
    fn alien_words_and_paraphrases_are_told_apart() {
        let cases: &[Case] = &[
            ("How much vacation do I get per year?", 0.56, 0.16, &[(0.22, 0.31)], true),
            ("What happens if I fall ill during my holiday?", 0.47, 0.71, &[(0.06, 0.19)], true),
            ("How many days in advance must leave be requested?", 0.75, 0.60, &[(-0.01, 0.06)], true),
            ("Can I expense a private jet?", 0.42, 0.33, &[(-0.01, 0.13), (-0.05, 0.05)], false),
            ("How long is the notice period for a dog?", 0.36, 0.57, &[(-0.14, 0.01)], false),
            ("How much does breakfast cost?", 0.57, 0.0, &[(0.23, 0.31)], false),
            ("Where is the fire assembly point in Porto?", 0.38, 0.81, &[(-0.05, 0.09)], false),
        ];
        for (question, cosine, share, ablations, want) in cases {
            let ablations: Vec<Ablation> =
                ablations.iter().map(|&(loss, similarity)| Ablation { loss, similarity }).collect();
            let missing = vec![String::new(); ablations.len()];
            let got = relevant(*cosine, &Coverage { share: *share, missing }, &ablations);
            assert_eq!(got, *want, "{question}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_looked_for() {
        assert_eq!(refusal(&[], 5), super::super::prompt::NO_ANSWER);
        let words = ["private".to_owned(), "jet".to_owned()];
        assert_eq!(
            refusal(&words, 5),
            "I don't know: none of the 5 passages nearest to the question mentions “private” or “jet”."
        );
        assert_eq!(
            apart(&words[1..]),
            "I don't know: the passage nearest to the question does not mention “jet”."
        );
        assert_eq!(refusal(&words[1..], 1), "I don't know: the passage found does not mention “jet”.");
    }

    #[test]
    fn few_words_are_named() {
        let named = |question: &str, english| telling(topics(question), english);
        assert_eq!(named("Can I expense a private jet?", true), ["expense", "private", "jet"]);
        assert_eq!(
            named("A red helicopter rescue by boat above ground?", true),
            ["helicopter", "rescue", "ground"]
        );
        assert_eq!(named("Wie viele Urlaubstage habe ich?", false), ["viele", "Urlaubstage"]);
        assert!(named("年次休暇は何日ありますか", false).is_empty());
        assert_eq!(named("Who's able to say what's GPL since May?", true), ["GPL"]);
    }
}
