//! “I don't know”: what was looked for, said truly, and a passage that comes closest.

use std::ops::Range;

use aistack_api::rag::{AnswerSentence, Citations};

use super::Rag;
use super::answer::{Source, Writer};
use super::focus::Piece;
use super::lexical::{Words, akin, seems_english, words};
use super::query::{Retrieved, cosine};
use super::relevance::{apart, refusal, telling};
use super::vectors::Hit;
use crate::text::sentences;

/// Passages read to find one that mentions a word.
const MOST_LOOKED_AT: u32 = 16;

/// What the passages nearest to the question hold, the irrelevant ones too.
#[derive(Debug, Default)]
pub struct Seen {
    texts: Vec<Words>,
    english: bool,
}

impl Seen {
    /// Remembers the candidates.
    pub fn new(texts: Vec<Words>, english: bool) -> Self {
        Self { texts, english }
    }

    fn mentions(&self, word: &str) -> bool {
        words(word).stems.iter().all(|stem| self.texts.iter().any(|text| holds(text, stem)))
    }
}

fn holds(text: &Words, stem: &str) -> bool {
    text.stems.iter().any(|held| akin(held, stem))
}

impl Rag {
    /// Refuses to answer: `missing` are the words that the best passage lacks, `nearest` is its best sentence. Gives the text to
    /// show, too.
    pub(super) async fn refuse(
        &self,
        retrieved: &Retrieved,
        missing: &[String],
        nearest: Option<&Piece>,
    ) -> (String, Citations) {
        let question = retrieved.query.question.trim();
        let english = seems_english(question);
        // A word of another language than the documents' is missing there whatever they say.
        let comparable = english || !retrieved.seen.english;
        let lacking = missing.iter().filter(|word| comparable && !retrieved.seen.mentions(word));
        let lacking = telling(lacking.cloned().collect(), english);
        let mut sources = retrieved.sources.clone();
        let mut shown = nearest.map(|piece| (piece.passage, piece.span.clone()));
        let mut why = match shown {
            // Others mention all of it, but not the one that is nearest.
            Some(_) if lacking.is_empty() && comparable => apart(&telling(missing.to_vec(), english)),
            _ => refusal(&lacking, retrieved.seen.texts.len()),
        };
        if let Some((word, hit)) = self.mentioning(retrieved, &lacking).await {
            why = format!("I don't know, but a passage mentions “{word}”.");
            shown = Some((sources.len(), sentence_with(&hit.passage.text, word)));
            sources.push(Source::new(sources.len() as u32 + 1, hit));
        }
        if let Some((source, span)) = shown {
            let mut writer = Writer::new(question, sources);
            let text = writer.refuse(&why, source, &span);
            return (text, writer.into_citations());
        }
        let sentence = AnswerSentence { text: why.clone(), citations: Vec::new(), supported: false };
        let answer = why.clone();
        let citations =
            Citations { answer, answered: false, sentences: vec![sentence], citations: Vec::new() };
        (why, citations)
    }

    /// A passage anywhere in the rag that mentions one of the words.
    async fn mentioning<'a>(
        &self,
        retrieved: &Retrieved,
        lacking: &'a [String],
    ) -> Option<(&'a String, Hit)> {
        for word in lacking {
            let found = self.vectors.mentioning(&retrieved.record.name, &forms(word), MOST_LOOKED_AT).await;
            let hits = found.unwrap_or_else(|error| {
                // A store may refuse to search what it has no index for; the refusal stands without it.
                tracing::debug!(%error, word, "looking for a word");
                Vec::new()
            });
            let stems = words(word).stems;
            let holds = |hit: &Hit| {
                let text = words(&hit.passage.text);
                stems.iter().all(|stem| holds(&text, stem))
            };
            if let Some(mut hit) = hits.into_iter().find(holds) {
                hit.score = cosine(&hit.vector, &retrieved.vector).unwrap_or(0.0);
                return Some((word, hit));
            }
        }
        None
    }
}

/// Singular and plural, small and capital: a store may compare letters as they are.
fn forms(word: &str) -> Vec<String> {
    let small = word.to_lowercase();
    let small = small.strip_suffix("'s").unwrap_or(&small).to_owned();
    let other = small.strip_suffix('s').map_or_else(|| format!("{small}s"), str::to_owned);
    let mut out = vec![word.to_owned()];
    for form in [small, other] {
        let mut letters = form.chars();
        let capital = letters.next().map(|c| c.to_uppercase().chain(letters).collect::<String>());
        out.extend(capital);
        out.push(form);
    }
    out.sort();
    out.dedup();
    out
}

/// The first sentence of a text that mentions a word, or the first one.
fn sentence_with(text: &str, word: &str) -> Range<usize> {
    let stems = words(word).stems;
    let spans = sentences(text);
    let mentions = |span: &&Range<usize>| {
        let sentence = words(&text[(*span).clone()]);
        stems.iter().all(|stem| holds(&sentence, stem))
    };
    spans.iter().find(mentions).or(spans.first()).cloned().unwrap_or(0..text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_looked_for_in_its_forms() {
        assert_eq!(forms("hotels"), ["Hotel", "Hotels", "hotel", "hotels"]);
        assert_eq!(forms("Håkon's"), ["Håkon", "Håkon's", "Håkons", "håkon", "håkons"]);
    }

    #[test]
    fn the_sentence_that_mentions_the_word_is_shown() {
        let text = "Trains are preferred. Hotels may cost 140 euros. Fly seldom.";
        assert_eq!(&text[sentence_with(text, "hotel")], "Hotels may cost 140 euros.");
        assert_eq!(&text[sentence_with(text, "boat")], "Trains are preferred.");
    }

    #[test]
    fn what_any_candidate_mentions_is_not_called_missing() {
        let seen = Seen::new(vec![words("Hotels cost 140 euros."), words("The lead signs.")], true);
        assert!(seen.mentions("hotel") && seen.mentions("lead") && !seen.mentions("stars"));
    }
}
