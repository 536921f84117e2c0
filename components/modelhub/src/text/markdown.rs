//! Markdown (CommonMark with tables): blocks as byte spans of the file itself.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::{Block, BlockKind, Document, SourceMap, trim};

pub fn read(text: &str) -> Document {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS | Options::ENABLE_TASKLISTS;
    let mut blocks = Vec::new();
    // Start of the part of each open list item that no block covers yet.
    let mut items: Vec<usize> = Vec::new();
    for (event, span) in Parser::new_ext(text, options).into_offset_iter() {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                let title = heading_text(text, trim(text, span));
                blocks.push(Block { span: title, kind: BlockKind::Heading(level as u8) });
            }
            Event::Start(Tag::Paragraph) if items.is_empty() => {
                push(text, &mut blocks, span, BlockKind::Prose);
            }
            Event::Start(Tag::CodeBlock(_) | Tag::TableHead | Tag::TableRow) => {
                if let Some(from) = items.last_mut() {
                    push(text, &mut blocks, *from..span.start, BlockKind::Prose);
                    *from = span.end;
                }
                push(text, &mut blocks, span, BlockKind::Lines);
            }
            Event::Start(Tag::HtmlBlock) if items.is_empty() => {
                push(text, &mut blocks, span, BlockKind::Lines);
            }
            Event::Start(Tag::Item) => items.push(span.start),
            Event::Start(Tag::List(_)) => {
                if let Some(from) = items.last_mut() {
                    push(text, &mut blocks, *from..span.start, BlockKind::Prose);
                    *from = span.end;
                }
            }
            Event::End(TagEnd::Item) => {
                if let Some(from) = items.pop() {
                    push(text, &mut blocks, from..span.end.max(from), BlockKind::Prose);
                }
            }
            _ => {}
        }
    }
    Document { text: text.to_owned(), blocks, source: SourceMap::identity(text), pages: Vec::new() }
}

fn push(text: &str, blocks: &mut Vec<Block>, span: std::ops::Range<usize>, kind: BlockKind) {
    let span = trim(text, span);
    if !span.is_empty() {
        blocks.push(Block { span, kind });
    }
}

/// A heading's words without `##` around them or `===` below them.
fn heading_text(text: &str, span: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let line = text[span.clone()].lines().next().unwrap_or_default();
    let line = span.start..span.start + line.len();
    let words = text[line.clone()].trim_end_matches('#').trim_end();
    let skipped = words.len() - words.trim_start_matches('#').trim_start().len();
    if words.len() == skipped { line } else { line.start + skipped..line.start + words.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_the_authors_structure() {
        let text = "---\ntitle: x\n---\n# Leave #\n\nAsk early.\nVery early.\n\nDays\n----\n- full time: 28\n  days\n- part time\n  - half: 14\n\n\
                    | a | b |\n|---|---|\n| 1 | 2 |\n\n```\nlet x;\n```\n";
        let document = read(text);
        let got: Vec<(BlockKind, &str)> =
            document.blocks.iter().map(|b| (b.kind, &document.text[b.span.clone()])).collect();
        use BlockKind::{Heading, Lines, Prose};
        assert_eq!(
            got,
            [
                (Heading(1), "Leave"),
                (Prose, "Ask early.\nVery early."),
                (Heading(2), "Days"),
                (Prose, "- full time: 28\n  days"),
                (Prose, "- part time"),
                (Prose, "- half: 14"),
                (Lines, "| a | b |"),
                (Lines, "| 1 | 2 |"),
                (Lines, "```\nlet x;\n```"),
            ]
        );
    }
}
