//! Sentence boundaries: Unicode's rules (UAX #29) with line wraps read as spaces and common abbreviations kept whole.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Words before a full stop that do not end a sentence.
const ABBREVIATIONS: &[&str] = &[
    "e.g", "i.e", "etc", "cf", "vs", "dr", "mr", "mrs", "ms", "prof", "st", "no", "nr", "fig", "sec", "art",
    "p", "pp", "approx", "dept", "inc", "ltd", "co", "corp", "al", "ca", "resp",
];

/// Spans of the sentences of `text`, without the white space between them. A blank line always ends a sentence.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut start = 0;
    for paragraph in paragraphs(text) {
        debug_assert!(start <= paragraph.start);
        start = paragraph.end;
        sentences_of_paragraph(text, paragraph, &mut spans);
    }
    spans
}

/// Pieces between blank lines.
fn paragraphs(text: &str) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if line.trim().is_empty() {
            pieces.push(start..offset);
            start = offset + line.len();
        }
        offset += line.len();
    }
    pieces.push(start..text.len());
    pieces
}

fn sentences_of_paragraph(text: &str, span: Range<usize>, spans: &mut Vec<Range<usize>>) {
    // UAX #29 ends a sentence at every line break; in wrapped prose a break is a space. A break before a list marker stays.
    let unwrapped = unwrap_lines(&text[span.clone()]);
    let mut open: Option<Range<usize>> = None;
    for (at, piece) in unwrapped.split_sentence_bound_indices() {
        let from = open.take().map_or(span.start + at, |o| o.start);
        let whole = super::trim(text, from..span.start + at + piece.len());
        if whole.is_empty() {
            continue;
        }
        if continues(&text[whole.clone()]) {
            open = Some(whole);
        } else {
            spans.push(whole);
        }
    }
    spans.extend(open);
}

/// A copy of the same length in which a wrapped line goes on with a space.
fn unwrap_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\n') {
        out.push_str(&rest[..at]);
        let next = &rest[at + 1..];
        out.push(if starts_item(next) { '\n' } else { ' ' });
        rest = next;
    }
    out.push_str(rest);
    // A carriage return would end a sentence as well.
    out.replace('\r', " ")
}

/// Whether a line begins a list item or a table row.
fn starts_item(line: &str) -> bool {
    let line = line.trim_start();
    if line.starts_with(['|', '•']) || ["- ", "* ", "+ "].iter().any(|m| line.starts_with(m)) {
        return true;
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    (1..=3).contains(&digits) && (line[digits..].starts_with(". ") || line[digits..].starts_with(") "))
}

/// Whether a piece that Unicode's rules ended is only the beginning of a sentence.
fn continues(piece: &str) -> bool {
    let Some(body) = piece.strip_suffix('.') else {
        // A lone list marker belongs to what follows.
        return matches!(piece, "-" | "*" | "+" | "•");
    };
    let last = body.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or(body);
    // "1." and "- 1." number an item; a single letter is an initial.
    let numbers_item = body.trim_start_matches(['-', '*', ' ']).bytes().all(|b| b.is_ascii_digit());
    let mut letters = last.chars();
    let initial = letters.next().is_some_and(char::is_uppercase) && letters.next().is_none();
    numbers_item || initial || ABBREVIATIONS.contains(&last.to_lowercase().as_str())
}

/// Cuts a growing text into sentences: what a stream of tokens needs.
#[derive(Debug, Default)]
pub struct Sentences {
    pending: String,
}

impl Sentences {
    /// Appends a piece and takes out the sentences that are now complete, each with the white space that follows it.
    pub fn push(&mut self, piece: &str) -> Vec<(String, String)> {
        self.pending.push_str(piece);
        self.take(false)
    }

    /// Takes out the rest.
    pub fn finish(&mut self) -> Vec<(String, String)> {
        self.take(true)
    }

    /// What is not part of a complete sentence yet.
    pub fn pending(&self) -> &str {
        &self.pending
    }

    fn take(&mut self, all: bool) -> Vec<(String, String)> {
        let spans = sentences(&self.pending);
        let complete = if all { spans.len() } else { spans.len().saturating_sub(1) };
        let mut out = Vec::with_capacity(complete);
        let mut from = 0;
        for (i, span) in spans.iter().take(complete).enumerate() {
            let next = spans.get(i + 1).map_or(self.pending.len(), |s| s.start);
            out.push((self.pending[from..span.end].to_owned(), self.pending[span.end..next].to_owned()));
            from = next;
        }
        self.pending.drain(..from);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_readers_end_them() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("One.", &["One."]),
            ("One. Two! Three?", &["One.", "Two!", "Three?"]),
            ("Wrapped\nlines go\non. Next.", &["Wrapped\nlines go\non.", "Next."]),
            ("No stop\n\nNew paragraph", &["No stop", "New paragraph"]),
            ("See e.g. Annex 3. Then B.", &["See e.g. Annex 3.", "Then B."]),
            ("Ask J. Weber. He knows.", &["Ask J. Weber.", "He knows."]),
            ("Ask Dr. Weber. He knows.", &["Ask Dr. Weber.", "He knows."]),
            ("1. First item.\n2. Second item.", &["1. First item.", "2. Second item."]),
            ("Bring:\n- a laptop\n- a badge", &["Bring:", "- a laptop", "- a badge"]),
            ("It costs 3.50 EUR. Pay.", &["It costs 3.50 EUR.", "Pay."]),
            ("Version 2.1 is out.", &["Version 2.1 is out."]),
            ("He said “Stop.” Then left.", &["He said “Stop.”", "Then left."]),
        ];
        for (text, want) in cases {
            let got: Vec<&str> = sentences(text).into_iter().map(|s| &text[s]).collect();
            assert_eq!(got, *want, "{text:?}");
        }
    }

    #[test]
    fn a_stream_gives_the_same_sentences() {
        let text = "Leave is requested ten days ahead. In an emergency, e.g. illness, call.\n\nThat is all";
        for size in 1..9 {
            let mut stream = Sentences::default();
            let mut got = Vec::new();
            let letters: Vec<char> = text.chars().collect();
            for piece in letters.chunks(size) {
                got.extend(stream.push(&piece.iter().collect::<String>()));
            }
            got.extend(stream.finish());
            let joined: String = got.iter().flat_map(|(s, w)| [s.as_str(), w]).collect();
            assert_eq!(joined, text, "nothing is lost, pieces of {size}");
            let sentences: Vec<&str> = got.iter().map(|(s, _)| s.as_str()).collect();
            assert_eq!(
                sentences,
                ["Leave is requested ten days ahead.", "In an emergency, e.g. illness, call.", "That is all"]
            );
        }
    }
}
