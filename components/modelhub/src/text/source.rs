//! The way back from a document's text to the file's bytes and lines.

use std::ops::Range;

/// A stretch of text and the bytes of the file that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stretch {
    text: Range<usize>,
    file: Range<usize>,
}

/// Maps spans of a document's text to byte spans and line numbers of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceMap {
    /// In order; text that no stretch covers (separators that a reader put in) belongs to the stretch before it.
    stretches: Vec<Stretch>,
    /// Whether the text is the file.
    identity: bool,
    /// Offset of the first byte of every line of the file.
    lines: Vec<usize>,
}

impl SourceMap {
    /// For text that is the file.
    pub fn identity(file: &str) -> Self {
        let whole = 0..file.len();
        Self {
            stretches: vec![Stretch { text: whole.clone(), file: whole }],
            identity: true,
            lines: line_starts(file),
        }
    }

    /// For text that a reader will put together piece by piece.
    pub fn empty(file: &str) -> Self {
        Self { stretches: Vec::new(), identity: false, lines: line_starts(file) }
    }

    /// Whether the text is the file, byte by byte.
    pub fn is_identity(&self) -> bool {
        self.identity
    }

    /// Notes that `text` came from `file`. Stretches of equal length map byte by byte, others (an entity and its character)
    /// only as a whole.
    pub fn push(&mut self, text: Range<usize>, file: Range<usize>) {
        if let Some(last) = self.stretches.last_mut() {
            let linear = last.text.len() == last.file.len() && text.len() == file.len();
            if linear && last.text.end == text.start && last.file.end == file.start {
                last.text.end = text.end;
                last.file.end = file.end;
                return;
            }
        }
        self.stretches.push(Stretch { text, file });
    }

    /// Byte span in the file of a span of the text.
    pub fn file_span(&self, text: &Range<usize>) -> Range<usize> {
        let start = self.locate(text.start, false);
        if text.is_empty() {
            return start..start;
        }
        start..self.locate(text.end - 1, true).max(start)
    }

    /// File position of the text's byte at `at`; the position after it when `end` is set.
    fn locate(&self, at: usize, end: bool) -> usize {
        let next = self.stretches.partition_point(|s| s.text.start <= at);
        let Some(stretch) = next.checked_sub(1).map(|i| &self.stretches[i]) else {
            return self.stretches.first().map_or(0, |s| s.file.start);
        };
        if at >= stretch.text.end {
            return stretch.file.end;
        }
        if stretch.text.len() == stretch.file.len() {
            return stretch.file.start + (at - stretch.text.start) + usize::from(end);
        }
        if end { stretch.file.end } else { stretch.file.start }
    }

    /// First and last line, counted from 1, of a byte span of the file.
    pub fn lines(&self, file: &Range<usize>) -> (u64, u64) {
        let line = |at: usize| self.lines.partition_point(|&start| start <= at).max(1) as u64;
        let last = file.end.saturating_sub(1).max(file.start);
        (line(file.start), line(last))
    }
}

fn line_starts(file: &str) -> Vec<usize> {
    let after_newlines = file.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
    std::iter::once(0).chain(after_newlines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_find_their_way_back() {
        // file: "a &amp; b\n<i>c</i>", text: "a & b\nc"
        let file = "a &amp; b\n<i>c</i>";
        let mut map = SourceMap::empty(file);
        map.push(0..2, 0..2);
        map.push(2..3, 2..7);
        map.push(3..6, 7..10);
        map.push(6..7, 13..14);
        let cases: &[(Range<usize>, &str, (u64, u64))] = &[
            (0..1, "a", (1, 1)),
            (2..3, "&amp;", (1, 1)),
            (0..5, "a &amp; b", (1, 1)),
            (6..7, "c", (2, 2)),
            (4..7, "b\n<i>c", (1, 2)),
        ];
        for (text, want, lines) in cases {
            let span = map.file_span(text);
            assert_eq!(&file[span.clone()], *want, "{text:?}");
            assert_eq!(map.lines(&span), *lines, "{text:?}");
        }
    }
}
