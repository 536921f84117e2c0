//! Cuts a document into passages.

use std::ops::Range;

use super::{Block, BlockKind, Document, sentences};

/// A piece of a document that is embedded, searched and cited as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Byte span in the file.
    pub bytes: Range<usize>,
    /// First and last line in the file, from 1.
    pub lines: (u64, u64),
    /// Headings above it, outermost first.
    pub heading: Vec<String>,
    /// Its text.
    pub text: String,
    /// Page that it stands on, from 1, where the file has pages.
    pub page: Option<u32>,
    /// Of each sentence: start and end in `text`, start and end in the file, first and last line. Only where the text is not
    /// the file's bytes.
    pub sentences: Vec<[u64; 6]>,
}

/// Cuts a document into passages of at most `max_words` words: at headings always, else between blocks, else between
/// sentences, else between words.
pub fn passages(document: &Document, max_words: usize) -> Vec<Passage> {
    let mut cutter = Cutter {
        document,
        max_words,
        heading: Vec::new(),
        open: None,
        words: 0,
        bare: None,
        out: Vec::new(),
    };
    for block in &document.blocks {
        cutter.add(block);
    }
    cutter.flush();
    cutter.flush_bare();
    cutter.out
}

struct Cutter<'a> {
    document: &'a Document,
    max_words: usize,
    heading: Vec<(u8, String)>,
    open: Option<Range<usize>>,
    words: usize,
    /// A heading that nothing stands under yet: a passage of its own when nothing ever does.
    bare: Option<(u8, Range<usize>)>,
    out: Vec<Passage>,
}

impl Cutter<'_> {
    fn add(&mut self, block: &Block) {
        let text = &self.document.text[block.span.clone()];
        if let BlockKind::Heading(level) = block.kind {
            self.flush();
            if self.bare.as_ref().is_some_and(|(above, _)| *above >= level) {
                self.flush_bare();
            }
            self.heading.retain(|(above, _)| *above < level);
            self.heading.push((level, one_line(text)));
            self.bare = Some((level, block.span.clone()));
            return;
        }
        self.bare = None;
        let words = count_words(text);
        if self.words + words > self.max_words {
            self.flush();
        }
        if words <= self.max_words {
            self.extend(block.span.clone(), words);
            return;
        }
        for piece in pieces(text, block.kind, self.max_words) {
            let span = block.span.start + piece.start..block.span.start + piece.end;
            let words = count_words(&self.document.text[span.clone()]);
            if self.words + words > self.max_words {
                self.flush();
            }
            self.extend(span, words);
        }
    }

    fn extend(&mut self, span: Range<usize>, words: usize) {
        let start = self.open.as_ref().map_or(span.start, |open| open.start);
        self.open = Some(start..span.end);
        self.words += words;
    }

    fn flush(&mut self) {
        self.words = 0;
        if let Some(span) = self.open.take() {
            self.emit(&span);
        }
    }

    fn flush_bare(&mut self) {
        if let Some((_, span)) = self.bare.take() {
            self.emit(&span);
        }
    }

    fn emit(&mut self, span: &Range<usize>) {
        let source = &self.document.source;
        let bytes = source.file_span(span);
        let text = &self.document.text[span.clone()];
        let place = |sentence: Range<usize>| {
            let file = source.file_span(&(span.start + sentence.start..span.start + sentence.end));
            let (first, last) = source.lines(&file);
            [sentence.start as u64, sentence.end as u64, file.start as u64, file.end as u64, first, last]
        };
        self.out.push(Passage {
            lines: source.lines(&bytes),
            bytes,
            heading: self.heading.iter().map(|(_, title)| title.clone()).collect(),
            text: text.to_owned(),
            page: self.document.page(span.start),
            sentences: if source.is_identity() {
                Vec::new()
            } else {
                sentences(text).into_iter().map(place).collect()
            },
        });
    }
}

/// Pieces of a block that is longer than a passage: sentences or lines, and words where even those are too long.
fn pieces(text: &str, kind: BlockKind, max_words: usize) -> Vec<Range<usize>> {
    let natural = match kind {
        BlockKind::Lines => lines(text),
        BlockKind::Prose | BlockKind::Heading(_) => sentences(text),
    };
    let mut out = Vec::new();
    for piece in natural {
        if count_words(&text[piece.clone()]) <= max_words {
            out.push(piece);
        } else {
            split_words(text, piece, max_words, &mut out);
        }
    }
    out
}

fn lines(text: &str) -> Vec<Range<usize>> {
    let mut offset = 0;
    let mut out = Vec::new();
    for line in text.split_inclusive('\n') {
        if !line.trim().is_empty() {
            out.push(super::trim(text, offset..offset + line.len()));
        }
        offset += line.len();
    }
    out
}

fn split_words(text: &str, span: Range<usize>, max_words: usize, out: &mut Vec<Range<usize>>) {
    let mut start: Option<usize> = None;
    let mut end = span.start;
    let mut count = 0;
    for word in text[span].split_whitespace() {
        let at = word.as_ptr() as usize - text.as_ptr() as usize;
        start.get_or_insert(at);
        end = at + word.len();
        count += 1;
        if count == max_words {
            out.extend(start.take().map(|s| s..end));
            count = 0;
        }
    }
    out.extend(start.map(|s| s..end));
}

fn count_words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::read;

    fn cut(path: &str, file: &str, max_words: usize) -> Vec<(String, String, (u64, u64))> {
        let document = read(path, file.as_bytes()).expect(path);
        passages(&document, max_words)
            .into_iter()
            .map(|p| {
                if !path.ends_with("html") {
                    assert_eq!(p.text, file[p.bytes.clone()], "the span is the text");
                }
                (p.heading.join(" > "), p.text, p.lines)
            })
            .collect()
    }

    #[test]
    fn passages_break_at_headings_then_blocks_then_sentences() {
        let file = "Intro here.\n\n# A\n\nOne two three.\n\nFour five.\n\n## B\n\nA long one. It has two sentences. And three.\n\n# C\n";
        let got = cut("a.md", file, 5);
        let want = [
            ("", "Intro here.", (1, 1)),
            ("A", "One two three.\n\nFour five.", (5, 7)),
            ("A > B", "A long one.", (11, 11)),
            ("A > B", "It has two sentences.", (11, 11)),
            ("A > B", "And three.", (11, 11)),
            ("C", "C", (13, 13)),
        ];
        let got: Vec<(&str, &str, (u64, u64))> =
            got.iter().map(|(h, t, l)| (h.as_str(), t.as_str(), *l)).collect();
        // “It has two sentences.” has four words and “And three.” two: together they are over five.
        assert_eq!(got, want);
    }

    #[test]
    fn a_sentence_longer_than_a_passage_breaks_between_words() {
        let got = cut("a.txt", "a b c d e f g", 3);
        let texts: Vec<&str> = got.iter().map(|(_, t, _)| t.as_str()).collect();
        assert_eq!(texts, ["a b c", "d e f", "g"]);
    }

    #[test]
    fn html_passages_point_into_the_file() {
        let file = "<h1>Leave</h1>\n<p>Ask <b>early</b>.</p>\n<p>Then &amp; wait.</p>";
        let document = read("a.html", file.as_bytes()).expect("html");
        let got = passages(&document, 50);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].heading, ["Leave"]);
        assert_eq!(&file[got[0].bytes.clone()], "Ask <b>early</b>.</p>\n<p>Then &amp; wait.");
        assert_eq!(got[0].lines, (2, 3));
    }

    #[test]
    fn nothing_is_lost() {
        let words: Vec<String> =
            (0..500).map(|i| format!("w{i}{}", if i % 7 == 0 { "." } else { "" })).collect();
        let file = words.join(" ");
        let got = cut("a.txt", &file, 20);
        let joined: Vec<&str> = got.iter().flat_map(|(_, t, _)| t.split_whitespace()).collect();
        assert_eq!(joined, words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(got.iter().all(|(_, t, _)| count_words(t) <= 20));
    }
}
