//! PDF: the text layer, page by page. Spans and lines count in the extracted text, which `modelhub rag text FILE` prints, since
//! a PDF's bytes are not text; the page says where to look in the file.

use super::{Block, BlockKind, Document, ReadError, SourceMap, plain};

pub fn read(path: &str, bytes: &[u8]) -> Result<Document, ReadError> {
    // The PDF reader panics on some malformed files; a bad file is an error of that file only.
    let pages = std::panic::catch_unwind(|| pdf_extract::extract_text_from_mem_by_pages(bytes))
        .map_err(|_| "its structure is damaged".to_owned())
        .and_then(|pages| pages.map_err(|e| e.to_string()))
        .map_err(|reason| ReadError::Pdf { path: path.to_owned(), reason })?;
    let mut text = String::new();
    let mut blocks = Vec::new();
    let mut numbers = Vec::new();
    for (i, page) in pages.iter().enumerate() {
        if page.trim().is_empty() {
            continue;
        }
        let title = text.len();
        numbers.push((title, u32::try_from(i + 1).unwrap_or(u32::MAX)));
        text.push_str("page ");
        text.push_str(&(i + 1).to_string());
        blocks.push(Block { span: title..text.len(), kind: BlockKind::Heading(1) });
        text.push_str("\n\n");
        let start = text.len();
        let body = page.replace('\0', " ");
        let shifted = plain(&body)
            .blocks
            .into_iter()
            .map(|b| Block { span: b.span.start + start..b.span.end + start, ..b });
        blocks.extend(shifted);
        text.push_str(&body);
        text.push_str("\n\n");
    }
    if blocks.is_empty() {
        return Err(ReadError::NoText { path: path.to_owned() });
    }
    let source = SourceMap::identity(&text);
    Ok(Document { text, blocks, source, pages: numbers })
}
