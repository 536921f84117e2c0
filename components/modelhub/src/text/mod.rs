//! From a file's bytes to passages: pure functions, no I/O.
//!
//! A file becomes a [`Document`]: its readable text, the blocks of that text, and a map from the text back to the file's
//! bytes. [`passages`] cuts the document where its author did: at headings, then paragraphs and list items, then
//! sentences, so that each passage fits the embedding model. Every passage keeps its byte span and line range in the file, so that a citation opens at the quoted text.

mod chunk;
mod html;
mod markdown;
mod pdf;
mod sentences;
mod source;
mod tokens;

pub use chunk::{Limits, Passage, context, halve, passages};
pub use sentences::{Sentences, sentences};
pub use source::SourceMap;

use std::ops::Range;

/// A file's readable text and its structure.
#[derive(Debug, Clone)]
pub struct Document {
    /// Readable text; for plain text and Markdown the file itself.
    pub text: String,
    /// Blocks in reading order, spans in `text`.
    pub blocks: Vec<Block>,
    /// Where the text stands in the file. A PDF's bytes are not text: there, spans and lines count in `text` itself.
    pub source: SourceMap,
    /// Of each page with text on it: where it starts in `text`, and its number from 1. Empty where a file has no pages.
    pub pages: Vec<(usize, u32)>,
}

impl Document {
    /// The page that a position of the text stands on.
    pub fn page(&self, at: usize) -> Option<u32> {
        let next = self.pages.partition_point(|(start, _)| *start <= at);
        Some(self.pages[next.checked_sub(1)?].1)
    }
}

/// A heading, a paragraph, a list item, a table row, a piece of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Bytes of the document's text.
    pub span: Range<usize>,
    /// What it is.
    pub kind: BlockKind,
}

/// What a block is, as far as cutting is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// A heading of this level, 1 the outermost.
    Heading(u8),
    /// Prose: may be cut between sentences.
    Prose,
    /// Code or a table: may be cut between lines.
    Lines,
}

/// The kinds of file that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Plain text.
    Text,
    /// CommonMark with tables.
    Markdown,
    /// HTML.
    Html,
    /// PDF with a text layer.
    Pdf,
}

impl FileKind {
    /// The kind that a file's extension names; `None` when it cannot be read here.
    pub fn of(path: &str) -> Option<Self> {
        let extension = path.rsplit_once('.')?.1.to_ascii_lowercase();
        Some(match extension.as_str() {
            "txt" | "text" => Self::Text,
            "md" | "markdown" => Self::Markdown,
            "html" | "htm" => Self::Html,
            "pdf" => Self::Pdf,
            _ => return None,
        })
    }
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// The extension is unknown.
    #[error("{path}: only .txt, .md, .html and .pdf files can be ingested; convert it, or leave it out")]
    Kind {
        /// Path of the file.
        path: String,
    },
    /// The bytes are not UTF-8.
    #[error("{path}: byte {offset} is not UTF-8; convert it with  iconv -t UTF-8")]
    Utf8 {
        /// Path of the file.
        path: String,
        /// Offset of the first wrong byte.
        offset: usize,
    },
    /// The PDF reader gave up.
    #[error("{path}: not a readable PDF: {reason}")]
    Pdf {
        /// Path of the file.
        path: String,
        /// What the reader said.
        reason: String,
    },
    /// A PDF of images.
    #[error(
        "{path}: this PDF has no text layer (a scan?); run it through an OCR tool such as ocrmypdf first"
    )]
    NoText {
        /// Path of the file.
        path: String,
    },
}

/// Reads a file's bytes by the kind that its path names.
pub fn read(path: &str, bytes: &[u8]) -> Result<Document, ReadError> {
    let kind = FileKind::of(path).ok_or_else(|| ReadError::Kind { path: path.to_owned() })?;
    if kind == FileKind::Pdf {
        return pdf::read(path, bytes);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| ReadError::Utf8 { path: path.to_owned(), offset: e.valid_up_to() })?;
    Ok(match kind {
        FileKind::Markdown => markdown::read(text),
        FileKind::Html => html::read(text),
        FileKind::Text | FileKind::Pdf => plain(text),
    })
}

/// Plain text: blocks are what blank lines separate.
fn plain(text: &str) -> Document {
    let mut blocks = Vec::new();
    let mut start = None;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let end = offset + line.len();
        if line.trim().is_empty() {
            push_block(text, &mut blocks, start.take(), offset);
        } else if start.is_none() {
            start = Some(offset);
        }
        offset = end;
    }
    push_block(text, &mut blocks, start, offset);
    Document { text: text.to_owned(), blocks, source: SourceMap::identity(text), pages: Vec::new() }
}

fn push_block(text: &str, blocks: &mut Vec<Block>, start: Option<usize>, end: usize) {
    if let Some(start) = start {
        let span = trim(text, start..end);
        if !span.is_empty() {
            blocks.push(Block { span, kind: BlockKind::Prose });
        }
    }
}

/// The span without the white space at its ends.
fn trim(text: &str, span: Range<usize>) -> Range<usize> {
    let piece = &text[span.clone()];
    let start = span.start + (piece.len() - piece.trim_start().len());
    start..start + piece.trim().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_says_why() {
        let cases: &[(&str, &[u8], &str)] = &[
            ("notes.docx", b"PK", "notes.docx: only .txt"),
            ("LICENSE", b"x", "LICENSE: only .txt"),
            ("a.txt", b"ok\xff", "a.txt: byte 2 is not UTF-8"),
            ("a.pdf", b"not a pdf", "a.pdf: not a readable PDF"),
        ];
        for (path, bytes, want) in cases {
            let error = read(path, bytes).expect_err(path).to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn plain_text_breaks_at_blank_lines() {
        let text = "One.\nStill one.\n\n \n  Two.\r\n\r\nThree";
        let document = read("a.txt", text.as_bytes()).expect("text");
        let blocks: Vec<&str> = document.blocks.iter().map(|b| &document.text[b.span.clone()]).collect();
        assert_eq!(blocks, ["One.\nStill one.", "Two.", "Three"]);
    }
}
