//! HTML: a tokenizer that keeps, for every piece of readable text, the bytes of the file it came from. (DOM parsers build a
//! better tree and forget the bytes; a citation needs the bytes.)

use std::ops::Range;

use super::{Block, BlockKind, Document, SourceMap};

/// Elements whose content is not for reading.
const HIDDEN: &[&str] =
    &["script", "style", "template", "noscript", "svg", "head", "nav", "iframe", "object", "select"];
/// Elements that begin and end a block.
const BLOCKS: &[&str] = &[
    "p",
    "div",
    "section",
    "article",
    "main",
    "aside",
    "header",
    "footer",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "table",
    "tr",
    "thead",
    "tbody",
    "blockquote",
    "pre",
    "figure",
    "figcaption",
    "form",
    "hr",
    "address",
    "details",
    "summary",
    "body",
    "html",
    "caption",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "title",
];

pub fn read(file: &str) -> Document {
    let mut reader = Reader {
        file,
        text: String::new(),
        blocks: Vec::new(),
        source: SourceMap::empty(file),
        start: None,
        heading: None,
    };
    let mut at = 0;
    while at < file.len() {
        at = if file.as_bytes()[at] == b'<' { reader.markup(at) } else { reader.words(at) };
    }
    reader.end_block();
    Document { text: reader.text, blocks: reader.blocks, source: reader.source, pages: Vec::new() }
}

struct Reader<'a> {
    file: &'a str,
    text: String,
    blocks: Vec<Block>,
    source: SourceMap,
    /// Where the open block's text starts.
    start: Option<usize>,
    heading: Option<u8>,
}

impl Reader<'_> {
    /// Reads what begins with `<` at `at`; returns where it ends.
    fn markup(&mut self, at: usize) -> usize {
        let rest = &self.file[at..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            return comment.find("-->").map_or(self.file.len(), |end| at + 4 + end + 3);
        }
        let closing = rest.starts_with("</");
        let name_at = if closing { 2 } else { 1 };
        let name_len = rest[name_at..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        if name_len == 0 {
            if rest.starts_with("<!") || rest.starts_with("<?") || closing {
                return tag_end(self.file, at);
            }
            self.put(at..at + 1, "<");
            return at + 1;
        }
        let name = rest[name_at..name_at + name_len].to_ascii_lowercase();
        let end = tag_end(self.file, at);
        if !closing && HIDDEN.contains(&name.as_str()) && !self.file[at..end].ends_with("/>") {
            self.end_block();
            return close_of(self.file, end, &name);
        }
        if BLOCKS.contains(&name.as_str()) {
            self.end_block();
            if !closing {
                self.heading = heading_level(&name);
            }
        } else if matches!(name.as_str(), "br" | "td" | "th") {
            self.space(at..end);
        }
        end
    }

    /// Reads text up to the next `<`; returns where it ends.
    fn words(&mut self, at: usize) -> usize {
        let end = self.file[at..].find('<').map_or(self.file.len(), |e| at + e);
        let mut from = at;
        while from < end {
            let piece = &self.file[from..end];
            let stop = piece.find(|c: char| c.is_whitespace() || c == '&').unwrap_or(piece.len());
            if stop > 0 {
                self.put(from..from + stop, &self.file[from..from + stop]);
                from += stop;
            } else if piece.starts_with('&') {
                let (len, decoded) = entity(piece);
                self.put(from..from + len, &decoded);
                from += len;
            } else {
                let len = piece.len() - piece.trim_start().len();
                self.space(from..from + len);
                from += len;
            }
        }
        end
    }

    fn put(&mut self, file: Range<usize>, piece: &str) {
        let start = self.text.len();
        self.text.push_str(piece);
        self.source.push(start..self.text.len(), file);
        self.start.get_or_insert(start);
    }

    /// One space for any white space inside a block.
    fn space(&mut self, file: Range<usize>) {
        if self.start.is_some() && !self.text.ends_with([' ', '\n']) {
            let start = self.text.len();
            self.text.push(' ');
            self.source.push(start..start + 1, file);
        }
    }

    fn end_block(&mut self) {
        let heading = self.heading.take();
        let Some(start) = self.start.take() else { return };
        let span = super::trim(&self.text, start..self.text.len());
        if !span.is_empty() {
            self.blocks.push(Block { span, kind: heading.map_or(BlockKind::Prose, BlockKind::Heading) });
        }
        self.text.push_str("\n\n");
    }
}

fn heading_level(name: &str) -> Option<u8> {
    match name.as_bytes() {
        [b'h', level @ b'1'..=b'6'] => Some(level - b'0'),
        _ => None,
    }
}

/// Position after the `>` that ends the tag at `at`, quotes respected.
fn tag_end(file: &str, at: usize) -> usize {
    let mut quote = None;
    for (i, byte) in file.bytes().enumerate().skip(at + 1) {
        match (quote, byte) {
            (None, b'>') => return i + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    file.len()
}

/// Position after the closing tag of a hidden element.
fn close_of(file: &str, from: usize, name: &str) -> usize {
    let mut at = from;
    while let Some(next) = file[at..].find("</") {
        let tag = at + next;
        let candidate = file.as_bytes().get(tag + 2..tag + 2 + name.len()).unwrap_or_default();
        let after = file.as_bytes().get(tag + 2 + name.len());
        if candidate.eq_ignore_ascii_case(name.as_bytes()) && !after.is_some_and(u8::is_ascii_alphanumeric) {
            return tag_end(file, tag);
        }
        at = tag + 2;
    }
    file.len()
}

/// Length of the entity that `piece` begins with, and its character; an unknown one stands for itself.
fn entity(piece: &str) -> (usize, String) {
    let literal = (1, "&".to_owned());
    let Some(end) = piece.bytes().take(34).position(|b| b == b';') else { return literal };
    let name = &piece[1..end];
    let decoded = if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => number.parse().ok(),
        };
        code.and_then(char::from_u32)
    } else {
        named_entity(name)
    };
    decoded.map_or(literal, |c| (end + 1, if c == '\u{a0}' { " ".to_owned() } else { c.to_string() }))
}

/// The entities that occur in prose; others stay as written.
fn named_entity(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "ndash" => '–',
        "mdash" => '—',
        "hellip" => '…',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "bull" => '•',
        "middot" => '·',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        "euro" => '€',
        "pound" => '£',
        "sect" => '§',
        "deg" => '°',
        "times" => '×',
        "plusmn" => '±',
        "rarr" => '→',
        "larr" => '←',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "Auml" => 'Ä',
        "Ouml" => 'Ö',
        "Uuml" => 'Ü',
        "szlig" => 'ß',
        "eacute" => 'é',
        "egrave" => 'è',
        "agrave" => 'à',
        "ccedil" => 'ç',
        "ntilde" => 'ñ',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_text_keeps_its_place_in_the_file() {
        let file = "<!doctype html><html><head><title>T</title><style>p{}</style></head><body>\n<h1 id=\"a>b\">Leave &amp; travel</h1>\n\
                    <script>if (a < b) {}</script><p>Ask\n  <b>early</b>: it&rsquo;s 3 &lt; 5 &nosuch;.</p><!-- <p>no</p> -->\
                    <table><tr><td>a</td><td>b</td></tr></table>1 < 2</body>";
        let document = read(file);
        let got: Vec<(BlockKind, &str, &str)> = document
            .blocks
            .iter()
            .map(|b| (b.kind, &document.text[b.span.clone()], &file[document.source.file_span(&b.span)]))
            .collect();
        use BlockKind::{Heading, Prose};
        assert_eq!(
            got,
            [
                (Heading(1), "Leave & travel", "Leave &amp; travel"),
                (
                    Prose,
                    "Ask early: it’s 3 < 5 &nosuch;.",
                    "Ask\n  <b>early</b>: it&rsquo;s 3 &lt; 5 &nosuch;."
                ),
                (Prose, "a b", "a</td><td>b"),
                (Prose, "1 < 2", "1 < 2"),
            ]
        );
    }

    #[test]
    fn broken_html_ends() {
        for file in ["<", "<p", "<!--", "<script>", "&", "&#xffffffff;", "</", "<p a='", "é<é"] {
            read(file);
        }
    }
}
