//! Which passages support a sentence of an answer, and which of their sentences to quote.
//!
//! Strict, since a mark is a promise: a sentence is supported by one sentence of a passage, or by two that follow each other, when
//! they hold **every** content word of it (the headings above may hold some), each number with the unit that it counts, and deny
//! what it denies; a number with the words of its own clause ([`super::clauses`]), not with those of another number's. Words that the question brought along support nothing by themselves. A true paraphrase in other words stays
//! unmarked: that is the price.

use std::collections::HashSet;
use std::ops::Range;

use super::clauses::{Claim, Clauses};
use super::lexical::{Words, akin, is_common, is_number, words};
use crate::text::sentences;

/// Passages cited for one sentence.
const MOST_CITED: usize = 3;

/// What can be cited: the passages that the answering model read.
#[derive(Debug)]
pub struct Evidence {
    passages: Vec<Vec<Stretch>>,
    headings: Vec<Words>,
    asked: HashSet<String>,
    question: Clauses,
}

#[derive(Debug)]
struct Stretch {
    span: Range<usize>,
    words: Words,
    clauses: Clauses,
}

/// A passage supports a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Index of the passage.
    pub passage: usize,
    /// The supporting sentences: a span of the passage's text.
    pub quote: Range<usize>,
}

impl Evidence {
    /// Prepares the passages: headings (joined) and text of each.
    pub fn new(question: &str, passages: &[(&str, &str)]) -> Self {
        Self {
            passages: passages.iter().map(|(_, text)| stretches(text)).collect(),
            headings: passages.iter().map(|(heading, _)| words(heading)).collect(),
            asked: words(question).stems.into_iter().collect(),
            question: Clauses::of(question),
        }
    }

    /// The passages that support a sentence, in the order given; empty = none does.
    pub fn judge(&self, sentence: &str) -> Vec<Support> {
        let claim = words(sentence);
        let said = Clauses::of(sentence);
        let supports = (0..self.passages.len()).filter_map(|passage| {
            let quote = self.quote(&claim, &said, passage)?;
            Some(Support { passage, quote })
        });
        supports.take(MOST_CITED).collect()
    }

    /// The shortest stretch of a passage that says all of a claim.
    fn quote(&self, claim: &Words, said: &Clauses, passage: usize) -> Option<Range<usize>> {
        let stretches = &self.passages[passage];
        let heading = &self.headings[passage];
        let claimed = Claim { said, asked: &self.question, heading: &heading.stems };
        let says = |stretch: &[&Stretch]| {
            let (words, clauses): (Vec<_>, Vec<_>) = stretch.iter().map(|s| (&s.words, &s.clauses)).unzip();
            self.says(claim, &words, heading) && claimed.fits(&clauses)
        };
        let single = stretches.iter().find(|s| says(&[s])).map(|s| s.span.clone());
        single.or_else(|| {
            let pair = stretches.windows(2).find(|pair| says(&[&pair[0], &pair[1]]))?;
            Some(pair[0].span.start..pair[1].span.end)
        })
    }

    fn says(&self, claim: &Words, stretch: &[&Words], heading: &Words) -> bool {
        if claim.negated() != stretch.iter().any(|words| words.denies(&claim.stems)) {
            return false;
        }
        let mut own = 0;
        let mut content = 0;
        for (i, stem) in claim.stems.iter().enumerate() {
            let held = if is_number(stem) {
                stretch.iter().any(|words| counts_the_same(claim, i, words))
            } else {
                stretch.iter().any(|words| holds(words, stem))
            };
            if !held && !is_common(stem) && (is_number(stem) || !holds(heading, stem)) {
                return false;
            }
            content += usize::from(!is_common(stem));
            own += usize::from(held && !is_common(stem) && !self.asked.contains(stem));
        }
        // An answer that only gives the question's words back must stand there word for word.
        own > 0 || (content > 1 && stretch.iter().any(|words| follows(claim, words)))
    }
}

fn holds(words: &Words, stem: &str) -> bool {
    words.stems.iter().any(|held| akin(held, stem))
}

/// Whether the claim's content words stand in this order in a stretch.
fn follows(claim: &Words, stretch: &Words) -> bool {
    let mut held = stretch.stems.iter();
    claim.stems.iter().all(|stem| held.any(|held| akin(held, stem)))
}

/// Whether a stretch has the claim's number at `at`, and of the same thing: “ten days” is not what “ten working days” says, nor
/// “2 weeks” what “the first two years” says.
fn counts_the_same(claim: &Words, at: usize, stretch: &Words) -> bool {
    let counted = next(claim, at);
    let same = |(i, stem): (usize, &String)| {
        let told = next(stretch, i);
        *stem == claim.stems[at]
            && match (counted, told) {
                (Some(counted), Some(told)) => akin(counted, told),
                // “… on the 25th.” counts nothing: what stands before must be the same.
                _ => near_before(claim, at).is_none_or(|before| {
                    let window = &stretch.stems[i.saturating_sub(3)..stretch.stems.len().min(i + 4)];
                    window.iter().any(|near| akin(near, before))
                }),
            }
    };
    stretch.stems.iter().enumerate().any(same)
}

/// The word after the one at `at` in the same clause.
fn next(words: &Words, at: usize) -> Option<&String> {
    words.stems.get(at + 1).filter(|_| words.clauses[at] == words.clauses[at + 1])
}

fn near_before(words: &Words, at: usize) -> Option<&String> {
    words.stems[..at].iter().rev().find(|stem| !is_common(stem))
}

fn stretches(text: &str) -> Vec<Stretch> {
    let stretch = |span: Range<usize>| {
        let sentence = &text[span.clone()];
        Stretch { words: words(sentence), clauses: Clauses::of(sentence), span }
    };
    sentences(text).into_iter().map(stretch).collect()
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
        let passages = PASSAGES.map(|text| ("Leave", text));
        let supports = Evidence::new(question, &passages).judge(sentence);
        supports.into_iter().map(|s| (s.passage, &PASSAGES[s.passage][s.quote])).collect()
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

    /// What a small model invented, and what is true, on the quickstart's handbook.
    #[test]
    fn inventions_are_not_marked() {
        let walrus = ("Costs", "The duplicated walrus costs 11 euros.");
        let leave = ("Leave", "Requests are made at least ten working days before the first day of leave.");
        let lunch = (
            "Kitchen and lunch",
            "Lunch is served from half past eleven to one. It costs staff 4.50 euros, taken from the salary.",
        );
        let salary = ("Salary", "Salaries are paid on the 25th; if that is a weekend, on the Friday before.");
        let parents = (
            "Parental leave",
            "Each parent may take 24 weeks of parental leave at full pay within the first two years after birth.",
        );
        let cases = [
            ("What does the gnu cost?", walrus, "The hidden gnu costs 11 euros.", false),
            ("What does the walrus cost?", walrus, "The duplicated walrus costs 11 euros.", true),
            (
                "Can I carry over 10 days of leave?",
                leave,
                "Requests are made at least ten days before the first day.",
                false,
            ),
            ("When are requests made?", leave, "Requests are made at least 10 working days before.", true),
            ("How much does breakfast cost?", lunch, "Breakfast costs 4.50 euros.", false),
            ("How much does lunch cost?", lunch, "Lunch costs 4.50 euros.", true),
            ("When is dinner?", lunch, "Dinner is served from half past eleven to one.", false),
            ("When is lunch?", lunch, "Lunch is at half past eleven.", true),
            ("When are salaries paid?", salary, "Salaries are paid on the 25th.", true),
            ("When are salaries paid?", salary, "Salaries are paid on the 15th.", false),
            ("When are salaries paid?", salary, "Salaries are not paid on the 25th.", false),
            ("How much leave?", parents, "You can take 3 weeks of sabbatical.", false),
            ("How much leave?", parents, "Each parent gets 2 weeks of parental leave.", false),
            ("How much leave?", parents, "Each parent gets 24 weeks of parental leave.", true),
        ];
        for (question, passage, sentence, want) in cases {
            let got = !Evidence::new(question, &[passage]).judge(sentence).is_empty();
            assert_eq!(got, want, "{sentence}");
        }
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
