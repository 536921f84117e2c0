//! Which words of a sentence belong to which of its numbers.
//!
//! “45 euros in Norway and 38 euros in Portugal” holds the words of “45 euros in Portugal”, and says something else. So a sentence
//! with several numbers is split between them, at punctuation and at “and”, “or”, “but”. What stands before the first number is
//! said of all of them (“The daily allowance is …”), and so is what that number counts; a later clause that begins with a subject
//! of its own (“…, river gauges every twelve”) does not share the first one's; one that points back (“afterwards”, “that”) may
//! speak of what the clause before it says.

use unicode_segmentation::UnicodeSegmentation;

use super::lexical::{akin, content, is_asking, is_number};

const COORDINATORS: &[&str] = &["and", "or", "but"];
const ARTICLES: &[&str] = &["a", "an", "the"];
/// Where a subject ends.
const AUXILIARIES: &[&str] = &[
    "are", "be", "can", "could", "do", "does", "had", "has", "have", "is", "may", "might", "must", "shall",
    "should", "was", "were", "will", "would",
];
/// Words that take up the clause before; pronouns do so after a relation (“above that”, “half of it”).
const POINTING_BACK: &[&str] = &["afterwards", "later", "then", "thereafter"];
/// Words of one relation, and the number of its opposite kind: only those of one kind contradict each other.
const RELATIONS: &[(usize, &[&str])] = &[
    (0, &["before", "beforehand", "ahead", "prior"]),
    (0, &["after", "afterwards", "later", "thereafter"]),
    (0, &["during", "while"]),
    (1, &["under", "below", "less", "fewer", "most", "maximum"]),
    (1, &["over", "above", "more", "least", "minimum"]),
];

/// A sentence laid out by its numbers.
#[derive(Debug, Clone, Default)]
pub struct Clauses {
    stems: Vec<String>,
    /// Clause of each stem; none = said of all.
    of: Vec<Option<usize>>,
    /// Relation and clause of each word that is one.
    relations: Vec<(usize, Option<usize>)>,
    laid: Vec<Clause>,
}

#[derive(Debug, Clone)]
struct Clause {
    /// Section between semicolons.
    section: usize,
    /// Its first number, or its first stem when it has none.
    number: usize,
    /// End of its subject.
    subject: usize,
    own_subject: bool,
    points_back: bool,
}

/// A run of words between two breaks.
#[derive(Debug, Default)]
struct Piece {
    stems: std::ops::Range<usize>,
    section: usize,
    /// Whether punctuation stands before it, rather than “and” alone.
    punctuated: bool,
    begins_with_content: bool,
    points_back: bool,
    auxiliary: Option<usize>,
    relations: Vec<usize>,
    words: usize,
}

impl Clauses {
    /// Lays a text out.
    pub fn of(text: &str) -> Self {
        let (stems, pieces) = pieces(text);
        let mut out = Self { of: vec![None; stems.len()], stems, ..Self::default() };
        let numeric: Vec<bool> =
            pieces.iter().map(|piece| piece.stems.clone().any(|i| is_number(&out.stems[i]))).collect();
        let first = numeric.iter().position(|numeric| *numeric);
        let last = numeric.iter().rposition(|numeric| *numeric);
        let split = first != last;
        for (at, piece) in pieces.iter().enumerate() {
            let numbers_of_section = |within: &[Piece]| {
                within
                    .iter()
                    .zip(&numeric)
                    .filter(|(p, numeric)| p.section == piece.section && **numeric)
                    .count()
            };
            // A section with one piece that holds a number is one clause.
            let several = numbers_of_section(&pieces) > 1;
            let heads = Some(at) < first || (several && numbers_of_section(&pieces[..=at]) == 0);
            let begins =
                out.laid.is_empty() || pieces[at - 1].section != piece.section || (several && numeric[at]);
            let of_all = !split || heads || (!begins && Some(at) > last && piece.punctuated);
            if begins && !of_all {
                out.open(piece);
            }
            let clause = if of_all { None } else { out.laid.len().checked_sub(1) };
            for i in piece.stems.clone() {
                out.of[i] = clause;
            }
            out.relations.extend(piece.relations.iter().map(|relation| (*relation, clause)));
            if let Some(clause) = clause {
                out.laid[clause].points_back |= piece.points_back;
            }
        }
        out
    }

    fn open(&mut self, piece: &Piece) {
        let number = piece.stems.clone().find(|i| is_number(&self.stems[*i])).unwrap_or(piece.stems.start);
        let subject = piece.auxiliary.unwrap_or(piece.stems.start + 1).min(number);
        self.laid.push(Clause {
            section: piece.section,
            number,
            subject,
            own_subject: piece.punctuated && piece.begins_with_content && number > piece.stems.start,
            points_back: false,
        });
    }

    /// Whether clause `from` says, or shares, the stem at `at`.
    fn reaches(&self, from: usize, at: usize) -> bool {
        let Some(held) = self.of[at] else { return true };
        let (clause, holder) = (&self.laid[from], &self.laid[held]);
        if held == from || (clause.points_back && held + 1 == from) {
            return true;
        }
        let heads = held < from && (held == 0 || self.of_section(clause.section) == Some(held));
        let before = at < holder.number && (at >= holder.subject || !clause.own_subject);
        heads && (before || at == holder.number + 1)
    }

    fn of_section(&self, section: usize) -> Option<usize> {
        self.laid.iter().position(|clause| clause.section == section)
    }

    /// Stems that clause `from` says or shares.
    fn reached(&self, from: Option<usize>) -> impl Iterator<Item = &String> {
        let reached = move |at: &usize| from.is_none_or(|from| self.reaches(from, *at));
        (0..self.stems.len()).filter(reached).map(|at| &self.stems[at])
    }

    /// Whether a word stands in the sentence, but only in clauses about another number than `from`.
    fn elsewhere(&self, from: Option<usize>, stem: &str) -> bool {
        self.stems.iter().any(|held| akin(held, stem)) && !self.reached(from).any(|held| akin(held, stem))
    }

    /// Whether a relation contradicts those of clause `from`.
    fn contradicts(&self, from: Option<usize>, relation: usize) -> bool {
        let near = |held: &&(usize, Option<usize>)| from.is_none() || held.1.is_none() || held.1 == from;
        let mut opposed = false;
        for (held, _) in self.relations.iter().filter(near) {
            if *held == relation {
                return false;
            }
            opposed |= RELATIONS[*held].0 == RELATIONS[relation].0;
        }
        opposed
    }

    fn numbers(&self) -> impl Iterator<Item = usize> {
        (0..self.stems.len()).filter(|at| is_number(&self.stems[*at]))
    }
}

/// A claim beside the question that it answers: what the answer leaves out, the question says.
#[derive(Debug)]
pub struct Claim<'a> {
    /// The sentence of the answer.
    pub said: &'a Clauses,
    /// The question.
    pub asked: &'a Clauses,
    /// Words that stand in the headings above the quote.
    pub heading: &'a [String],
}

impl Claim<'_> {
    /// Whether each number of the claim stands in a clause of the quote that says the claim's words too, and none of them stands in
    /// another number's clause only.
    pub fn fits(&self, quote: &[&Clauses]) -> bool {
        if self.said.numbers().next().is_none() {
            return self.fits_asked(quote);
        }
        let mut whole = false;
        for at in self.said.numbers() {
            let clause = self.said.of[at];
            let own: Vec<&String> = self.said.reached_own(clause).filter(|stem| tells(stem)).collect();
            let left_out: Vec<&String> = self.left_out().collect();
            let mut found = false;
            for (sentence, from) in places(quote, &self.said.stems[at]) {
                let misplaced = |stem: &&String| self.misplaced(sentence, from, stem);
                let relations = |of: &Clauses, within: Option<usize>| {
                    let near = |held: &&(usize, Option<usize>)| {
                        within.is_none() || held.1.is_none_or(|c| Some(c) == within)
                    };
                    of.relations
                        .iter()
                        .filter(near)
                        .any(|(relation, _)| sentence.contradicts(from, *relation))
                };
                if own.iter().any(misplaced) || relations(self.said, clause) {
                    continue;
                }
                found = true;
                let split = !sentence.laid.is_empty();
                whole |= !split
                    || !(left_out.iter().any(misplaced)
                        || (self.said.relations.is_empty() && relations(self.asked, None)));
            }
            if !found {
                return false;
            }
        }
        whole
    }

    /// Of a claim without numbers: whether it stands where the question's number does.
    fn fits_asked(&self, quote: &[&Clauses]) -> bool {
        let told: Vec<&String> = self.said.stems.iter().filter(|stem| tells(stem)).collect();
        let stands = |at: usize| {
            let number = &self.asked.stems[at];
            self.heading.contains(number)
                || places(quote, number)
                    .any(|(sentence, from)| !told.iter().any(|stem| self.misplaced(sentence, from, stem)))
        };
        self.asked.numbers().all(stands)
    }

    fn misplaced(&self, sentence: &Clauses, from: Option<usize>, stem: &str) -> bool {
        sentence.elsewhere(from, stem) && !self.heading.iter().any(|held| akin(held, stem))
    }

    fn left_out(&self) -> impl Iterator<Item = &String> {
        let left = |stem: &&String| tells(stem) && !self.said.stems.iter().any(|said| akin(said, stem));
        self.asked.stems.iter().filter(left)
    }
}

impl Clauses {
    /// Stems of a clause, and those said of all clauses: what the claim itself says of a number.
    fn reached_own(&self, from: Option<usize>) -> impl Iterator<Item = &String> {
        let own = move |at: &usize| from.is_none() || self.of[*at].is_none() || self.of[*at] == from;
        (0..self.stems.len()).filter(own).map(|at| &self.stems[at])
    }
}

/// Whether a word says what a number is about.
fn tells(stem: &str) -> bool {
    !is_number(stem) && !is_asking(stem)
}

/// Where a number stands in a quote: sentence and clause.
fn places<'a>(
    quote: &'a [&'a Clauses],
    number: &'a str,
) -> impl Iterator<Item = (&'a Clauses, Option<usize>)> {
    quote.iter().flat_map(move |sentence| {
        sentence
            .numbers()
            .filter(move |at| sentence.stems[*at] == number)
            .map(|at| (*sentence, sentence.of[at]))
    })
}

fn pieces(text: &str) -> (Vec<String>, Vec<Piece>) {
    let mut stems: Vec<String> = Vec::new();
    let mut pieces = vec![Piece::default()];
    let (mut end, mut section, mut related) = (0, 0, false);
    for (at, word) in text.unicode_word_indices() {
        let gap = &text[end..at];
        end = at + word.len();
        let lower = word.to_lowercase();
        let semicolon = gap.contains([';', '.', '!', '?']);
        section += usize::from(semicolon);
        let punctuated = semicolon || gap.contains([',', ':', '(', ')', '–', '—']);
        let coordinated = COORDINATORS.contains(&lower.as_str());
        if punctuated || coordinated {
            // “…, and …” is one break.
            let start = stems.len()..stems.len();
            let fresh = Piece { stems: start, section, punctuated, ..Piece::default() };
            match pieces.last_mut() {
                Some(last) if last.words == 0 => {
                    *last = Piece { punctuated: punctuated || last.punctuated, ..fresh };
                }
                _ => pieces.push(fresh),
            }
        }
        let Some(piece) = pieces.last_mut().filter(|_| !coordinated) else { continue };
        let stem = content(&lower);
        if piece.words == 0 && ARTICLES.contains(&lower.as_str()) {
            continue;
        }
        piece.begins_with_content |= piece.words == 0 && stem.as_ref().is_some_and(|stem| !is_number(stem));
        piece.words += 1;
        piece.points_back |= POINTING_BACK.contains(&lower.as_str())
            || (related && matches!(lower.as_str(), "it" | "that" | "them" | "this" | "those"));
        if AUXILIARIES.contains(&lower.as_str()) {
            piece.auxiliary.get_or_insert(stems.len());
        }
        let relation = RELATIONS.iter().position(|(_, forms)| forms.contains(&lower.as_str()));
        related = relation.is_some() || lower == "of";
        piece.relations.extend(relation);
        stems.extend(stem);
        piece.stems.end = stems.len();
    }
    (stems, pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(question: &str, sentence: &str, quote: &str) -> bool {
        let (said, asked, quote) = (Clauses::of(sentence), Clauses::of(question), Clauses::of(quote));
        Claim { said: &said, asked: &asked, heading: &[] }.fits(&[&quote])
    }

    type Case = (&'static str, &'static [(&'static str, &'static str, bool)]);

    /// A quote, and claims about it with the question that they answer: true ones and false ones.
    const CASES: &[Case] = &[
        (
            "The daily allowance is 45 euros in Norway and 38 euros in Portugal.",
            &[
                ("", "The daily allowance in Portugal is 45 euros.", false),
                ("", "The daily allowance in Portugal is 38 euros.", true),
                ("", "The daily allowance in Norway is 45 euros.", true),
                ("", "The daily allowance is 45 euros in Norway and 38 euros in Portugal.", true),
                ("", "The daily allowance is 38 euros in Norway and 45 euros in Portugal.", false),
                ("What is the daily allowance in Portugal?", "The daily allowance is 45 euros.", false),
                ("What is the daily allowance in Portugal?", "38 euros.", true),
            ],
        ),
        (
            "The notice period is one month during the trial period and three months afterwards, for both sides.",
            &[
                ("", "The notice period is one month after the trial period.", false),
                ("", "The notice period is one month during the trial period.", true),
                ("", "The notice period is three months for both sides.", true),
                ("", "It is three months after the trial period.", true),
                ("", "It is three months during the trial period.", false),
                (
                    "How long is the notice period after the trial period?",
                    "The notice period is one month.",
                    false,
                ),
                ("How long is the notice period after the trial period?", "Three months.", true),
            ],
        ),
        (
            "The warranty is three years, for river gauges five.",
            &[
                ("", "The warranty on river gauges is three years.", false),
                ("", "The warranty on river gauges is five years.", true),
                ("How long is the warranty on river gauges?", "The warranty is three years.", false),
                (
                    "What is the warranty period of ordinary instruments?",
                    "The warranty is three years.",
                    true,
                ),
                ("", "The warranty is three years, for river gauges five.", true),
            ],
        ),
        (
            "Purchases up to 200 euros need no approval; up to 2,000 euros the lead approves; above that the director.",
            &[
                ("Who approves a purchase of 150 euros?", "The director.", false),
                ("Who approves purchases up to 2,000 euros?", "The lead approves.", true),
                ("Who approves purchases up to 200 euros?", "The director.", false),
                ("", "Purchases up to 200 euros need no approval.", true),
            ],
        ),
        (
            "Rain gauges are calibrated every 24 months, river gauges every twelve.",
            &[
                ("", "Rain gauges are calibrated every twelve months.", false),
                ("", "River gauges are calibrated every twelve months.", true),
                ("", "River gauges are calibrated every 24 months.", false),
            ],
        ),
        (
            "Readings are stored in the cluster for seven years; raw radio frames for 30 days.",
            &[
                ("", "Raw radio frames are stored for 30 days.", true),
                ("", "Raw radio frames are stored for seven years.", false),
                ("", "Readings are stored for 30 days.", false),
            ],
        ),
        (
            "When a call is missed, the coordinator calls back after ten minutes and alerts the rescue after thirty.",
            &[
                ("", "The coordinator alerts the rescue after thirty minutes.", true),
                ("", "The coordinator alerts the rescue after ten minutes.", false),
                ("When is the rescue alerted?", "After ten minutes.", false),
            ],
        ),
        (
            "Crews report every two hours; when a call is missed, the lead calls back after ten minutes and alerts rescue after thirty.",
            &[
                (
                    "",
                    "When a call is missed, the lead calls back after ten minutes and alerts rescue after thirty.",
                    true,
                ),
                ("When is rescue alerted?", "Crews report every two hours.", false),
            ],
        ),
        (
            "Below that customers get 10 percent of the fee back, below 99 percent half of it.",
            &[
                ("What do customers get back below 99 percent?", "Below 99 percent half of it.", true),
                ("What do customers get back below 99 percent?", "10 percent of the fee.", true),
            ],
        ),
        (
            "Severity 1 means that customers lose data; severity 2 that a service is degraded.",
            &[
                ("What does severity 2 mean?", "Customers lose data.", false),
                ("What does severity 1 mean?", "Customers lose data.", true),
                ("What does severity 4 mean?", "Customers lose data.", false),
            ],
        ),
        (
            "Requests are made at least ten working days before the first day of leave.",
            &[
                ("", "Requests are made ten working days after the first day.", false),
                ("", "Requests are made ten working days ahead of the first day.", true),
            ],
        ),
    ];

    #[test]
    fn a_number_is_of_its_own_clause() {
        for (quote, claims) in CASES {
            for (question, sentence, want) in *claims {
                assert_eq!(fits(question, sentence, quote), *want, "{question} {sentence}");
            }
        }
    }
}
