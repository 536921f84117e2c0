//! The answer as it is written: sentences get their marks as they end, everything else flows on at once.

use std::ops::Range;

use aistack_api::rag::{AnswerSentence, Citation, Citations, Passage};

use super::cite::{Evidence, Support, mark_position};
use super::vectors::Hit;
use crate::text::Sentences;

/// Where the quotable pieces of a passage stand in its file.
#[derive(Debug, Clone)]
pub struct Source {
    /// What clients see.
    pub passage: Passage,
    /// Text span, byte span in the file, lines of each sentence, where the text is not the file's bytes.
    pub sentences: Vec<[u64; 6]>,
    /// The passage's vector.
    pub vector: Vec<f32>,
}

impl Source {
    /// A found passage with its number.
    pub fn new(number: u32, hit: Hit) -> Self {
        let Hit { score, vector, passage: stored } = hit;
        let passage = Passage {
            number,
            file: stored.file,
            start_byte: stored.start_byte,
            end_byte: stored.end_byte,
            start_line: stored.start_line,
            end_line: stored.end_line,
            page: stored.page,
            heading: stored.heading,
            text: stored.text,
            score,
        };
        Self { passage, sentences: stored.sentences, vector }
    }

    /// A citation of a span of the passage's text.
    fn cite(&self, number: u32, quote: &Range<usize>) -> Citation {
        let passage = &self.passage;
        let (bytes, lines) =
            if self.sentences.is_empty() { self.by_counting(quote) } else { self.by_table(quote) };
        Citation {
            number,
            file: passage.file.clone(),
            start_byte: bytes.0,
            end_byte: bytes.1,
            start_line: lines.0,
            end_line: lines.1,
            page: passage.page,
            quote: passage.text[quote.clone()].to_owned(),
            score: passage.score,
        }
    }

    fn by_counting(&self, quote: &Range<usize>) -> ((u64, u64), (u64, u64)) {
        let passage = &self.passage;
        let breaks = |text: &str| memchr::memchr_iter(b'\n', text.as_bytes()).count() as u64;
        let first = passage.start_line + breaks(&passage.text[..quote.start]);
        let last = first + breaks(&passage.text[quote.clone()]);
        ((passage.start_byte + quote.start as u64, passage.start_byte + quote.end as u64), (first, last))
    }

    fn by_table(&self, quote: &Range<usize>) -> ((u64, u64), (u64, u64)) {
        let inside = self.sentences.iter().filter(|s| s[0] < quote.end as u64 && s[1] > quote.start as u64);
        let mut found: Option<((u64, u64), (u64, u64))> = None;
        for &[_, _, start, end, first, last] in inside {
            let from = found.map_or((start, first), |(bytes, lines)| (bytes.0, lines.0));
            found = Some(((from.0, end), (from.1, last)));
        }
        let passage = &self.passage;
        found.unwrap_or(((passage.start_byte, passage.end_byte), (passage.start_line, passage.end_line)))
    }
}

/// A sentence that ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The sentence.
    pub text: String,
    /// White space after it.
    pub space: String,
    /// What supports it.
    pub supports: Vec<Support>,
}

/// Writes an answer.
#[derive(Debug)]
pub struct Writer {
    sources: Vec<Source>,
    evidence: Evidence,
    sentences: Sentences,
    /// Bytes of the pending sentence that the client has already.
    emitted: usize,
    answer: String,
    done: Vec<AnswerSentence>,
    citations: Vec<Citation>,
    /// Sources in order of first citation: the first is `[1]`.
    cited: Vec<usize>,
    /// Whether nothing relevant was found.
    refused: bool,
}

impl Writer {
    /// A writer for an answer to `question` from these passages.
    pub fn new(question: &str, sources: Vec<Source>) -> Self {
        let headings: Vec<String> = sources.iter().map(|s| s.passage.heading.join(" > ")).collect();
        let texts = sources.iter().map(|s| s.passage.text.as_str());
        let passages: Vec<(&str, &str)> = headings.iter().map(String::as_str).zip(texts).collect();
        let evidence = Evidence::new(question, &passages);
        Self {
            evidence,
            sources,
            sentences: Sentences::default(),
            emitted: 0,
            answer: String::new(),
            done: Vec::new(),
            citations: Vec::new(),
            cited: Vec::new(),
            refused: false,
        }
    }

    /// Takes a piece of the model's text; gives the sentences that it completed.
    pub fn push(&mut self, piece: &str) -> Vec<Ended> {
        // A model likes to begin with a line break; an answer does not.
        let piece = if self.done.is_empty() && self.sentences.pending().is_empty() {
            piece.trim_start()
        } else {
            piece
        };
        let ended = self.sentences.push(piece);
        self.judge(ended)
    }

    /// Takes out the last sentence.
    pub fn finish(&mut self) -> Vec<Ended> {
        let ended = self.sentences.finish();
        self.judge(ended)
    }

    fn judge(&self, ended: Vec<(String, String)>) -> Vec<Ended> {
        let judged = ended.into_iter().map(|(text, space)| Ended {
            supports: self.evidence.judge(&text),
            text,
            space,
        });
        judged.collect()
    }

    /// Whether a sentence was written before: a small model that repeats itself is stopped.
    pub fn repeats(&self, sentence: &str) -> bool {
        self.done.iter().any(|s| s.text == sentence)
    }

    /// Adds a sentence; gives the text that the client lacks.
    pub fn accept(&mut self, ended: &Ended) -> String {
        let Ended { text, space, supports } = ended;
        let at = mark_position(text).max(self.emitted.min(text.len()));
        let mut out = text.get(self.emitted..at).unwrap_or_default().to_owned();
        self.emitted = 0;
        let denial = is_denial(text);
        let mut numbers = Vec::new();
        for support in supports.iter().filter(|_| !denial) {
            numbers.push(self.add_citation(support.passage, &support.quote));
        }
        let marks = marks(&numbers, denial);
        out.push_str(&marks);
        out.push_str(&text[at..]);
        out.push_str(space);
        for piece in [&text[..at], &marks, &text[at..], space] {
            self.answer.push_str(piece);
        }
        let supported = !numbers.is_empty();
        self.done.push(AnswerSentence { text: text.clone(), citations: numbers, supported });
        out
    }

    /// Cites a span of a source; gives its number.
    fn add_citation(&mut self, source: usize, quote: &Range<usize>) -> u32 {
        let place = self.cited.iter().position(|cited| *cited == source).unwrap_or_else(|| {
            self.cited.push(source);
            self.cited.len() - 1
        });
        let citation = self.sources[source].cite(place as u32 + 1, quote);
        let number = citation.number;
        // One passage may be quoted at several places; the same place only once.
        let same = |known: &Citation| known.number == number && known.start_byte == citation.start_byte;
        if !self.citations.iter().any(same) {
            self.citations.push(citation);
        }
        number
    }

    /// When the model wrote nothing that a passage supports, adds the passage's own words; gives the text to show.
    pub fn quote_instead(&mut self, source: usize, span: &Range<usize>) -> Option<String> {
        if self.done.iter().any(|s| s.supported || is_denial(&s.text)) {
            return None;
        }
        Some(self.quote(source, span))
    }

    /// Refuses to answer, in these words, and shows what came closest.
    pub fn refuse(&mut self, why: &str, source: usize, span: &Range<usize>) -> String {
        why.clone_into(&mut self.answer);
        self.done.push(AnswerSentence { text: why.to_owned(), citations: Vec::new(), supported: false });
        self.refused = true;
        why.to_owned() + &self.quote(source, span)
    }

    fn quote(&mut self, source: usize, span: &Range<usize>) -> String {
        let number = self.add_citation(source, span);
        let quote = &self.sources[source].passage.text[span.clone()];
        let quote = quote.split_whitespace().collect::<Vec<_>>().join(" ");
        self.answer.truncate(self.answer.trim_end().len());
        let gap = if self.answer.is_empty() { "" } else { "\n\n" };
        let shown = format!("{gap}The closest passage says: “{quote}” [{number}]");
        self.answer.push_str(&shown);
        self.done.push(AnswerSentence { text: quote, citations: vec![number], supported: true });
        shown
    }

    /// What of the pending sentence can be shown already: all but its end, where a mark may have to go, and nothing while it
    /// could be a repetition.
    pub fn flow(&mut self) -> String {
        let pending = self.sentences.pending().trim_end();
        let end = mark_position(pending);
        let end = pending[..end].trim_end().len();
        if end <= self.emitted || self.done.iter().any(|s| s.text.starts_with(pending)) {
            return String::new();
        }
        let out = pending[self.emitted..end].to_owned();
        self.emitted = end;
        out
    }

    /// The finished answer.
    pub fn into_citations(self) -> Citations {
        let answered = !self.refused && self.done.iter().any(|s| !is_denial(&s.text));
        Citations {
            answer: self.answer.trim_end().to_owned(),
            answered,
            sentences: self.done,
            citations: self.citations,
        }
    }
}

/// The marks of a sentence.
fn marks(numbers: &[u32], denial: bool) -> String {
    if numbers.is_empty() && !denial {
        return " [?]".to_owned();
    }
    numbers.iter().fold(String::new(), |marks, n| marks + " [" + &n.to_string() + "]")
}

/// “I don't know” claims nothing and needs no source.
fn is_denial(sentence: &str) -> bool {
    let plain = sentence.to_lowercase().replace('’', "'");
    plain.starts_with("i don't know") || plain.starts_with("i do not know")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::vectors::Stored;

    fn source(number: u32, text: &str, start_byte: u64, start_line: u64) -> Source {
        let stored = Stored {
            file: "leave.md".into(),
            start_byte,
            end_byte: start_byte + text.len() as u64,
            start_line,
            end_line: start_line,
            text: text.into(),
            ..Stored::default()
        };
        Source::new(number, Hit { score: 0.8, vector: vec![], passage: stored })
    }

    fn write(answer: &str, size: usize) -> (String, Citations) {
        let sources = vec![
            source(
                1,
                "Requests are made at least ten working\ndays before the leave. Use the calendar.",
                100,
                12,
            ),
            source(2, "In an emergency the team lead may waive this.", 300, 21),
        ];
        let mut writer = Writer::new("How many days in advance must leave be requested?", sources);
        let mut shown = String::new();
        let letters: Vec<char> = answer.chars().collect();
        let settle = |writer: &mut Writer, ended: Vec<Ended>, shown: &mut String| {
            for sentence in ended {
                shown.push_str(&writer.accept(&sentence));
            }
        };
        for piece in letters.chunks(size) {
            let ended = writer.push(&piece.iter().collect::<String>());
            settle(&mut writer, ended, &mut shown);
            shown.push_str(&writer.flow());
        }
        let ended = writer.finish();
        settle(&mut writer, ended, &mut shown);
        (shown, writer.into_citations())
    }

    #[test]
    fn marks_stand_where_sentences_end() {
        let cases = [
            (
                "\nRequests are made at least ten working days before. In an emergency, the team lead may waive this.",
                "Requests are made at least ten working days before [1]. In an emergency, the team lead may waive this [2].",
            ),
            ("The moon is made of cheese.", "The moon is made of cheese [?]."),
            ("I don't know.", "I don't know."),
            ("Ten working days before the leave", "Ten working days before the leave [1]"),
        ];
        for (answer, want) in cases {
            for size in [1, 3, 1_000] {
                let (shown, done) = write(answer, size);
                assert_eq!(shown, want, "pieces of {size}");
                assert_eq!(done.answer, want);
            }
        }
    }

    #[test]
    fn a_citation_says_where_its_quote_stands() {
        let (_, done) = write("Requests are made at least ten working days before.", 5);
        let citation = &done.citations[0];
        assert_eq!(citation.quote, "Requests are made at least ten working\ndays before the leave.");
        assert_eq!((citation.start_byte, citation.end_byte), (100, 161));
        assert_eq!((citation.start_line, citation.end_line), (12, 13));
        assert!(done.answered && done.sentences[0].supported);
    }

    #[test]
    fn html_quotes_take_their_place_from_the_table() {
        let mut html = source(1, "Ask early. Then wait.", 50, 3);
        html.sentences = vec![[0, 10, 50, 70, 3, 3], [11, 21, 80, 99, 4, 5]];
        let citation = html.cite(1, &(0..21));
        assert_eq!(
            (citation.start_byte, citation.end_byte, citation.start_line, citation.end_line),
            (50, 99, 3, 5)
        );
        let citation = html.cite(1, &(11..21));
        assert_eq!(
            (citation.start_byte, citation.end_byte, citation.start_line, citation.end_line),
            (80, 99, 4, 5)
        );
    }

    #[test]
    fn an_answer_without_support_is_followed_by_a_quote() {
        let mut writer = Writer::new("When?", vec![source(1, "Ask early. Then wait.", 0, 1)]);
        writer.push("The moon is made of cheese.");
        for sentence in writer.finish() {
            writer.accept(&sentence);
        }
        assert!(writer.quote_instead(0, &(0..10)).is_some());
        let done = writer.into_citations();
        assert_eq!(
            done.answer,
            "The moon is made of cheese [?].\n\nThe closest passage says: “Ask early.” [1]"
        );
        assert_eq!((done.citations[0].start_byte, done.citations[0].end_byte), (0, 10));
    }

    #[test]
    fn numbers_begin_with_one_in_order_of_first_use() {
        let (shown, done) = write("In an emergency the team lead may waive this. Use the calendar.", 4);
        assert_eq!(shown, "In an emergency the team lead may waive this [1]. Use the calendar [2].");
        let places: Vec<(u32, u64)> = done.citations.iter().map(|c| (c.number, c.start_byte)).collect();
        assert_eq!(places, [(1, 300), (2, 162)]);
        assert!(
            done.citations.iter().all(|c| c.score.to_bits() == 0.8_f32.to_bits()),
            "the passages' similarity"
        );
    }

    #[test]
    fn a_refusal_shows_what_came_closest() {
        let mut writer = Writer::new("A jet?", vec![source(1, "Ask early. Then wait.", 0, 1)]);
        let shown = writer.refuse("I don't know: nothing about “jet”.", 0, &(0..10));
        let done = writer.into_citations();
        assert_eq!(done.answer, shown);
        assert_eq!(shown, "I don't know: nothing about “jet”.\n\nThe closest passage says: “Ask early.” [1]");
        assert!(!done.answered && done.citations.len() == 1);
    }

    #[test]
    fn a_denial_is_no_answer() {
        assert!(!write("I don’t know.", 3).1.answered);
    }
}
