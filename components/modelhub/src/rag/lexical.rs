//! Words as lexical comparison sees them: lower case, lightly stemmed, number words as digits, function words left out.

use std::collections::HashMap;

use unicode_segmentation::UnicodeSegmentation;

/// English function words, which say nothing about a topic.
const FUNCTION_WORDS: &[&str] = &[
    "a", "about", "above", "after", "again", "all", "also", "am", "an", "and", "any", "are", "as", "at",
    "be", "because", "been", "before", "being", "between", "both", "but", "by", "can", "could", "did", "do",
    "does", "doing", "during", "each", "every", "for", "from", "further", "had", "has", "have", "having",
    "he", "her", "here", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "itself", "just",
    "may", "me", "more", "most", "must", "my", "of", "off", "on", "once", "only", "or", "other", "our",
    "out", "over", "own", "same", "shall", "she", "should", "so", "some", "such", "than", "that", "the",
    "their", "them", "then", "there", "these", "they", "this", "those", "through", "to", "too", "under",
    "until", "up", "very", "was", "we", "were", "what", "when", "where", "which", "while", "who", "whom",
    "why", "will", "with", "would", "you", "your", "text", "passage", "answer", "question", "please", "s",
    "t", "able", "else", "ever", "let", "might", "since", "still", "upon", "us", "whether", "whose", "yet",
    "d", "ll", "m", "re", "ve",
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

/// Forms that no rule of endings leads back to their verb.
const IRREGULAR: &[(&str, &str)] = &[
    ("bought", "buy"),
    ("brought", "bring"),
    ("built", "build"),
    ("chose", "choose"),
    ("chosen", "choose"),
    ("driven", "drive"),
    ("fallen", "fall"),
    ("fell", "fall"),
    ("gave", "give"),
    ("given", "give"),
    ("held", "hold"),
    ("kept", "keep"),
    ("lent", "lend"),
    ("lost", "lose"),
    ("made", "make"),
    ("making", "make"),
    ("met", "meet"),
    ("paid", "pay"),
    ("sent", "send"),
    ("taken", "take"),
    ("taking", "take"),
    ("told", "tell"),
    ("took", "take"),
    ("using", "use"),
    ("wore", "wear"),
    ("worn", "wear"),
    ("written", "write"),
    ("wrote", "write"),
];

/// Verbs and adverbs that say so little that a sentence neither gains nor loses support by them.
const COMMON: &[&str] = &[
    "allow", "come", "exact", "exactly", "get", "give", "go", "happen", "like", "make", "mean", "need",
    "possible", "put", "receive", "take", "use", "want", "yes",
];

/// Words by which a question names what it asks for; the answer is an instance of them.
const ASKING: &[&str] = &[
    "amount",
    "big",
    "colour",
    "color",
    "company",
    "cost",
    "current",
    "currently",
    "date",
    "day",
    "earliest",
    "everybody",
    "everyone",
    "fast",
    "far",
    "height",
    "help",
    "hour",
    "high",
    "kind",
    "know",
    "large",
    "late",
    "latest",
    "length",
    "long",
    "many",
    "max",
    "maximum",
    "minimum",
    "minute",
    "money",
    "month",
    "much",
    "name",
    "new",
    "number",
    "often",
    "old",
    "order",
    "per",
    "percent",
    "percentage",
    "period",
    "people",
    "person",
    "price",
    "quick",
    "quickly",
    "say",
    "size",
    "soon",
    "speed",
    "staff",
    "tell",
    "thing",
    "time",
    "type",
    "way",
    "week",
    "weight",
    "work",
    "year",
];

/// The content of a piece of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// Stems of the content words in order, numbers included.
    pub stems: Vec<String>,
    /// Number of the clause that each stem stands in.
    pub clauses: Vec<usize>,
    /// Numbers of the clauses that deny something.
    pub denied: Vec<usize>,
}

impl Words {
    /// Whether it denies something.
    pub fn negated(&self) -> bool {
        !self.denied.is_empty()
    }

    /// Whether it denies something in a clause that holds one of these stems: “…, labels or not” denies nothing of a fridge.
    pub fn denies(&self, stems: &[String]) -> bool {
        let about = |clause: &usize| {
            let held = self.stems.iter().zip(&self.clauses).filter(|(_, held)| *held == clause);
            held.into_iter().any(|(held, _)| stems.iter().any(|stem| akin(held, stem)))
        };
        self.denied.iter().any(about)
    }
}

/// Reads the content words of `text`.
pub fn words(text: &str) -> Words {
    let mut out = Words::default();
    let (mut end, mut clause) = (0, 0);
    for (at, word) in text.unicode_word_indices() {
        let clause_ended = text[end..at].contains([',', ';', ':', '.', '!', '?', '(', ')', '–']);
        end = at + word.len();
        clause += usize::from(clause_ended);
        let lower = word.to_lowercase().replace('’', "'");
        if denies(&lower) {
            out.denied.push(clause);
        }
        let Some(stem) = content(&lower) else { continue };
        out.stems.push(stem);
        out.clauses.push(clause);
    }
    out
}

fn denies(lower: &str) -> bool {
    NEGATIONS.contains(&lower) || lower.ends_with("n't")
}

/// The stem of a word in lower case; none of one that is no content.
pub fn content(lower: &str) -> Option<String> {
    let lower = lower.replace('’', "'");
    let bare = bare(&lower);
    let empty = FUNCTION_WORDS.contains(&bare) || bare == "according" || denies(&lower);
    (!empty).then(|| stem(&lower))
}

/// A word without what is contracted with it: “who's”, “we'll”.
fn bare(lower: &str) -> &str {
    let contracted = ["'s", "'re", "'ve", "'ll", "'d", "'m"];
    contracted.into_iter().find_map(|end| lower.strip_suffix(end)).unwrap_or(lower)
}

/// Whether a stem is too common to count for or against a sentence.
pub fn is_common(stem: &str) -> bool {
    COMMON.iter().any(|word| self::stem(word) == stem)
}

/// Whether a stem names what a question asks for, rather than what it is about.
pub fn is_asking(stem: &str) -> bool {
    is_common(stem) || ASKING.iter().any(|word| self::stem(word) == stem)
}

/// Whether a text seems to be English: only then do missing words say anything, since only English endings are known here.
pub fn seems_english(text: &str) -> bool {
    // “do” alone is Portuguese as well.
    const ONLY_ENGLISH: &[&str] = &[
        "the", "what", "how", "who", "which", "when", "where", "why", "does", "are", "can", "must", "my",
        "there", "should", "we", "you", "they",
    ];
    let lower = text.to_lowercase().replace('’', "'");
    lower.starts_with("do ")
        || lower.starts_with("is ")
        || lower.starts_with("may ")
        || lower.unicode_words().any(|word| ONLY_ENGLISH.contains(&bare(word)) || word.ends_with("n't"))
}

/// Whether two stems are of one word or one family: “photo” and “photograph”, “avail” and “available”.
pub fn akin(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let common = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let shorter = a.len().min(b.len());
    !is_number(a) && common >= 5 && common + 1 >= shorter
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
    let word = IRREGULAR.iter().find(|(form, _)| *form == word).map_or(word, |(_, verb)| verb);
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
    if stem.len() > 5 && stem.ends_with("ly") && !stem.ends_with("ily") && !stem.ends_with("ply") {
        stem.truncate(stem.len() - 2);
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
            &["take", "takes", "taken", "taking"],
            &["pay", "pays", "paid"],
            &["year", "years", "yearly"],
            &["supply", "supplies"],
        ];
        for forms in cases {
            let stems: Vec<String> = forms.iter().map(|f| words(f).stems.join(" ")).collect();
            // Short words keep their ending in “-ing” (thing, king), so “use / using” may differ; the others may not.
            let distinct: std::collections::BTreeSet<&String> = stems.iter().collect();
            assert!(distinct.len() == 1 || forms[0] == "use", "{forms:?}: {stems:?}");
        }
    }

    #[test]
    fn families_of_words_are_akin() {
        let cases = [
            ("photo", "photograph", true),
            ("availability", "availabl", true),
            ("leav", "leav", true),
            ("lunch", "launch", false),
            ("10", "100", false),
            ("station", "state", false),
            ("employe", "employer", true),
            ("company", "compass", false),
        ];
        for (a, b, want) in cases {
            assert_eq!(akin(a, b), want, "{a} {b}");
            assert_eq!(akin(b, a), want, "{b} {a}");
        }
    }

    #[test]
    fn clauses_end_at_punctuation() {
        let got = words("Salaries are paid on the 25th; if that is a weekend, on Friday");
        assert_eq!(got.stems, ["salary", "pay", "25th", "weekend", "friday"]);
        assert_eq!(got.clauses, [0, 0, 0, 1, 2]);
    }

    #[test]
    fn function_words_are_left_out_and_denial_is_kept() {
        let got = words("You must not leave the office without a badge");
        assert_eq!(got.stems, ["leav", "offic", "badg"]);
        assert!(got.negated());
        assert!(!words("You must leave").negated());
    }
}
