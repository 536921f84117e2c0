//! What fuzzing drives: everything that reads bytes of a model file before any arithmetic. Shared with `tests/parsers.rs`.

use tinyinfer::gguf::Header;
use tinyinfer::model::safetensors_file;
use tinyinfer::tokenizer::Tokenizer;
use tinykernels::cpu::format::dequantize_row;

/// Longest row that is decoded.
const LONGEST_ROW: usize = 1 << 16;

/// Parses a GGUF file, reads each tensor's first row and builds the tokenizer. Returns whether the header parsed.
pub fn gguf(data: &[u8]) -> bool {
    let Ok(header) = Header::parse(data) else { return false };
    for tensor in header.tensors.values() {
        let bytes = &data[tensor.offset..tensor.offset + tensor.bytes];
        let columns = tensor.columns();
        assert_eq!(bytes.len() % tensor.rows(), 0, "rows are whole");
        if columns <= LONGEST_ROW {
            let mut row = vec![0f32; columns];
            dequantize_row(tensor.kind, &bytes[..bytes.len() / tensor.rows()], &mut row);
        }
    }
    let _ = Tokenizer::from_gguf(&header);
    true
}

/// Parses a safetensors file and finds each tensor. Returns whether that worked.
pub fn safetensors(data: &[u8]) -> bool {
    safetensors_file::probe(data).is_ok()
}
