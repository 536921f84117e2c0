//! Cuts a document into passages.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::tokens::{TokenGuess, guess_tokens};
use super::{Block, BlockKind, Document, sentences};

/// A piece of a document that is embedded, searched and cited as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Span in the document's text.
    pub span: Range<usize>,
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

/// The longest passage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In words.
    pub words: usize,
    /// In tokens of the embedding model, its special tokens and the headings included.
    pub tokens: usize,
}

/// Tokens that the headings above a passage may take of it.
const HEADING_TOKENS: usize = 48;
/// Tokens that the model adds, and the line break between headings and text.
const EXTRA_TOKENS: usize = 3;
/// However long the headings and however small the model: a passage has room for so many tokens.
const LEAST_TOKENS: usize = 16;

/// Cuts a document into passages: at headings always, else between blocks, else between sentences, lines, words, and inside a
/// word only where it alone is too long.
pub fn passages(document: &Document, limits: Limits) -> Vec<Passage> {
    let mut cutter = Cutter {
        document,
        limits,
        heading: Vec::new(),
        room: Size { words: limits.words, tokens: room(limits, &[]) },
        open: None,
        size: Size::default(),
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

/// The headings that are embedded with a passage: the innermost ones, as many as leave room for the text.
pub fn context(heading: &[String]) -> String {
    let mut first = heading.len();
    let mut tokens = 0;
    while let Some(title) = first.checked_sub(1).map(|i| &heading[i]) {
        tokens += guess_tokens(title) + 1;
        if tokens > HEADING_TOKENS {
            break;
        }
        first -= 1;
    }
    match heading.last() {
        Some(title) if first == heading.len() => {
            let end = graphemes_within(title, HEADING_TOKENS);
            title[..end].to_owned()
        }
        _ => heading[first..].join(" > "),
    }
}

/// Both halves of a passage that turned out to be too long, cut at the best place near its middle; `None` when it is a single
/// character.
pub fn halve(document: &Document, passage: &Passage) -> Option<[Passage; 2]> {
    let text = &document.text[passage.span.clone()];
    let at = middle(text)?;
    let halves = [super::trim(text, 0..at), super::trim(text, at..text.len())];
    if halves.iter().any(Range::is_empty) {
        return None;
    }
    let start = passage.span.start;
    Some(halves.map(|half| passage_at(document, &(start + half.start..start + half.end), &passage.heading)))
}

/// Where to cut: the place nearest to the middle between paragraphs, else sentences, lines, words, characters; a better kind of
/// place only within the middle half.
fn middle(text: &str) -> Option<usize> {
    let starts = |spans: Vec<Range<usize>>| spans.into_iter().map(|s| s.start).collect::<Vec<_>>();
    let paragraphs = || memchr::memmem::find_iter(text.as_bytes(), b"\n\n").collect();
    let word_starts =
        || text.split_whitespace().map(|w| w.as_ptr() as usize - text.as_ptr() as usize).collect();
    let graphemes = || text.grapheme_indices(true).map(|(at, _)| at).collect();
    let kinds: [&dyn Fn() -> Vec<usize>; 5] = [
        &paragraphs,
        &|| starts(sentences(text)),
        &|| starts(lines(text, 0..text.len())),
        &word_starts,
        &graphemes,
    ];
    let half = text.len() / 2;
    let quarter = text.len() / 4;
    let nearest =
        |places: Vec<usize>| places.into_iter().filter(|at| *at > 0).min_by_key(|at| at.abs_diff(half));
    let good = kinds.iter().filter_map(|kind| nearest(kind())).find(|at| at.abs_diff(half) <= quarter);
    good.or_else(|| nearest(graphemes()))
}

/// Length of a piece of text in both measures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    words: usize,
    tokens: usize,
}

impl Size {
    fn of(text: &str) -> Self {
        Self { words: count_words(text), tokens: guess_tokens(text) }
    }

    fn plus(self, other: Self) -> Self {
        Self { words: self.words + other.words, tokens: self.tokens + other.tokens }
    }

    fn fits(self, room: Self) -> bool {
        self.words <= room.words && self.tokens <= room.tokens
    }
}

/// Tokens that a passage's text may have below these headings.
fn room(limits: Limits, heading: &[String]) -> usize {
    let taken = EXTRA_TOKENS + guess_tokens(&context(heading));
    limits.tokens.saturating_sub(taken).max(LEAST_TOKENS)
}

struct Cutter<'a> {
    document: &'a Document,
    limits: Limits,
    heading: Vec<(u8, String)>,
    room: Size,
    open: Option<Range<usize>>,
    size: Size,
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
            self.room.tokens = room(self.limits, &self.titles());
            self.bare = Some((level, block.span.clone()));
            return;
        }
        self.bare = None;
        self.take(&block.span, block.kind);
    }

    fn take(&mut self, span: &Range<usize>, kind: BlockKind) {
        let size = Size::of(&self.document.text[span.clone()]);
        if !self.size.plus(size).fits(self.room) {
            self.flush();
        }
        if size.fits(self.room) {
            self.extend(span.clone(), size);
            return;
        }
        for piece in pieces(&self.document.text, span.clone(), kind, self.room) {
            let size = Size::of(&self.document.text[piece.clone()]);
            if !self.size.plus(size).fits(self.room) {
                self.flush();
            }
            self.extend(piece, size);
        }
    }

    fn extend(&mut self, span: Range<usize>, size: Size) {
        let start = self.open.as_ref().map_or(span.start, |open| open.start);
        self.open = Some(start..span.end);
        self.size = self.size.plus(size);
    }

    fn flush(&mut self) {
        self.size = Size::default();
        if let Some(span) = self.open.take() {
            self.out.push(passage_at(self.document, &span, &self.titles()));
        }
    }

    fn flush_bare(&mut self) {
        if let Some((_, span)) = self.bare.take() {
            self.take(&span, BlockKind::Prose);
            self.flush();
        }
    }

    fn titles(&self) -> Vec<String> {
        self.heading.iter().map(|(_, title)| title.clone()).collect()
    }
}

fn passage_at(document: &Document, span: &Range<usize>, heading: &[String]) -> Passage {
    let source = &document.source;
    let bytes = source.file_span(span);
    let text = &document.text[span.clone()];
    let place = |sentence: Range<usize>| {
        let file = source.file_span(&(span.start + sentence.start..span.start + sentence.end));
        let (first, last) = source.lines(&file);
        [sentence.start as u64, sentence.end as u64, file.start as u64, file.end as u64, first, last]
    };
    Passage {
        span: span.clone(),
        lines: source.lines(&bytes),
        bytes,
        heading: heading.to_vec(),
        text: text.to_owned(),
        page: document.page(span.start),
        sentences: if source.is_identity() {
            Vec::new()
        } else {
            sentences(text).into_iter().map(place).collect()
        },
    }
}

/// Pieces of a block that is longer than a passage: sentences or lines, and smaller ones where even those are too long.
fn pieces(text: &str, span: Range<usize>, kind: BlockKind, room: Size) -> Vec<Range<usize>> {
    let natural = match kind {
        BlockKind::Lines => lines(text, span),
        BlockKind::Prose | BlockKind::Heading(_) => {
            let at = span.start;
            sentences(&text[span]).into_iter().map(|s| at + s.start..at + s.end).collect()
        }
    };
    let mut out = Vec::new();
    for piece in natural {
        if Size::of(&text[piece.clone()]).fits(room) {
            out.push(piece);
            continue;
        }
        for line in lines(text, piece) {
            if Size::of(&text[line.clone()]).fits(room) {
                out.push(line);
            } else {
                split_words(text, line, room, &mut out);
            }
        }
    }
    out
}

fn lines(text: &str, span: Range<usize>) -> Vec<Range<usize>> {
    let mut offset = span.start;
    let mut out = Vec::new();
    for line in text[span].split_inclusive('\n') {
        if !line.trim().is_empty() {
            out.push(super::trim(text, offset..offset + line.len()));
        }
        offset += line.len();
    }
    out
}

fn split_words(text: &str, span: Range<usize>, room: Size, out: &mut Vec<Range<usize>>) {
    let mut open: Option<Range<usize>> = None;
    let mut size = Size::default();
    for word in text[span].split_whitespace() {
        let at = word.as_ptr() as usize - text.as_ptr() as usize;
        let own = Size { words: 1, tokens: guess_tokens(word) };
        if !size.plus(own).fits(room) {
            out.extend(open.take());
            size = Size::default();
        }
        if own.fits(room) {
            let start = open.as_ref().map_or(at, |open| open.start);
            open = Some(start..at + word.len());
            size = size.plus(own);
        } else {
            split_word(text, at..at + word.len(), room, out);
        }
    }
    out.extend(open);
}

/// Cuts a word, or text of a script without spaces, between characters as readers see them.
fn split_word(text: &str, word: Range<usize>, room: Size, out: &mut Vec<Range<usize>>) {
    let mut start = word.start;
    while start < word.end {
        let end = start + graphemes_within(&text[start..word.end], room.tokens);
        out.push(start..end);
        start = end;
    }
}

/// End of the longest beginning of `text` of at most `tokens` tokens; at least one character as readers see it.
fn graphemes_within(text: &str, tokens: usize) -> usize {
    let mut guess = TokenGuess::default();
    for (at, grapheme) in text.grapheme_indices(true) {
        grapheme.chars().for_each(|c| guess.push(c));
        if guess.total() > tokens && at > 0 {
            return at;
        }
    }
    text.len()
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
        passages(&document, Limits { words: max_words, tokens: 256 })
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
        let got = passages(&document, Limits { words: 50, tokens: 256 });
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

    /// What an adversary tried: text that 120 words do not bound.
    fn unbounded() -> Vec<(&'static str, String)> {
        let repeated =
            |times: usize, line: &dyn Fn(usize) -> String| (0..times).map(line).collect::<String>();
        let table = repeated(40, &|i| {
            format!("| [page {i}](https://example.org/a/very/long/path?id={i}&token=9f2e{i}) | yes |\n")
        });
        let lock =
            repeated(60, &|i| format!("name = \"crate-{i}\"\nchecksum = \"9f2e4b0c77aa11d0{i:040}\"\n"));
        vec![
            (
                "code.md",
                format!("# Code\n\n```rust\n{}```\n", "let limits = Self::of(&config.server)?;\n".repeat(80)),
            ),
            ("table.md", format!("# Links\n\n| page | ok |\n|---|---|\n{table}")),
            ("lock.txt", lock),
            ("chinese.txt", "请假至少提前十个工作日申请，紧急情况下组长可以免除这个期限".repeat(60)),
            ("family.txt", "👩‍👩‍👧‍👦".repeat(500)),
            ("word.txt", "x".repeat(20_000)),
            (
                "heading.md",
                format!(
                    "# {}\n\nShort text.\n\n# {}\n",
                    "A long title ".repeat(200),
                    "Nothing below ".repeat(200)
                ),
            ),
        ]
    }

    #[test]
    fn every_passage_fits_the_embedding_model() {
        for (path, file) in unbounded() {
            let document = read(path, file.as_bytes()).expect(path);
            let cut = passages(&document, Limits { words: 120, tokens: 256 });
            let mut before = 0;
            for passage in &cut {
                let embedded = guess_tokens(&context(&passage.heading)) + guess_tokens(&passage.text);
                assert!(embedded + EXTRA_TOKENS <= 256, "{path}: {embedded} tokens: {}", passage.text);
                assert_eq!(passage.text, file[passage.bytes.clone()], "{path}: the span is the text");
                assert!(passage.bytes.start >= before, "{path}: in order, none twice");
                before = passage.bytes.end;
            }
            let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
            if file.starts_with(&cut[0].text) {
                let held: usize = cut.iter().map(|p| letters(&p.text)).sum();
                assert_eq!(held, letters(&file), "{path}: nothing is lost");
            }
        }
    }

    #[test]
    fn a_refused_passage_is_halved_until_it_fits() {
        for (path, file) in unbounded() {
            let document = read(path, file.as_bytes()).expect(path);
            let mut pending = passages(&document, Limits { words: 120, tokens: 256 });
            // A tokenizer that makes a token of every character.
            while let Some(passage) = pending.pop() {
                if passage.text.chars().count() <= 20 {
                    continue;
                }
                let halves = halve(&document, &passage).expect(path);
                for half in &halves {
                    assert_eq!(half.text, file[half.bytes.clone()], "{path}");
                    assert!(half.text.len() < passage.text.len() && !half.text.is_empty(), "{path}");
                }
                pending.extend(halves);
            }
        }
        let file = "One sentence here. Another one there.";
        let document = read("a.txt", file.as_bytes()).expect("text");
        let whole = &passages(&document, Limits { words: 120, tokens: 256 })[0];
        let halves = halve(&document, whole).expect("two");
        assert_eq!(halves.map(|h| h.text), ["One sentence here.", "Another one there."]);
    }

    #[test]
    fn headings_leave_room_for_the_text() {
        let titles = |titles: &[&str]| context(&titles.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(titles(&["Leave", "Asking"]), "Leave > Asking");
        assert_eq!(titles(&[]), "");
        let long = "long title ".repeat(100);
        assert_eq!(titles(&[&long, "Asking"]), "Asking");
        assert!(guess_tokens(&titles(&["Leave", &long])) <= HEADING_TOKENS);
    }
}
