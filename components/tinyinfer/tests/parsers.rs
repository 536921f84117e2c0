//! Model files that are truncated, lie, or are noise: an error, never a panic and never a huge allocation.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../fuzz/exercise.rs"]
mod exercise;

use std::path::Path;

use tinyinfer::gguf::{GgufError, Header, Value};

/// Writes GGUF piece by piece, honestly or not.
#[derive(Clone, Default)]
struct Builder(Vec<u8>);

impl Builder {
    fn header(version: u32, tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(entries)
    }
    fn bytes(mut self, b: &[u8]) -> Self {
        self.0.extend(b);
        self
    }
    fn u32(self, n: u32) -> Self {
        self.bytes(&n.to_le_bytes())
    }
    fn u64(self, n: u64) -> Self {
        self.bytes(&n.to_le_bytes())
    }
    fn text(self, t: &str) -> Self {
        self.u64(t.len() as u64).bytes(t.as_bytes())
    }
    fn texts(self, key: &str, items: &[&str]) -> Self {
        let list = self.text(key).u32(9).u32(8).u64(items.len() as u64);
        items.iter().fold(list, |b, t| b.text(t))
    }
    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let b = dims.iter().fold(self.text(name).u32(dims.len() as u32), |b, &d| b.u64(d));
        b.u32(kind).u64(offset)
    }
    fn data(mut self, n: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 7);
        self.0
    }
}

/// A small honest file with one of everything.
fn honest() -> Vec<u8> {
    Builder::header(3, 4, 12)
        .text("general.architecture")
        .u32(8)
        .text("llama")
        .text("a.bool")
        .u32(7)
        .bytes(&[1])
        .text("a.i8")
        .u32(1)
        .bytes(&[0xff])
        .text("a.f64")
        .u32(12)
        .bytes(&0.5f64.to_le_bytes())
        .text("a.nested")
        .u32(9)
        .u32(9)
        .u64(1)
        .u32(0)
        .u64(2)
        .bytes(&[1, 2])
        .text("a.floats")
        .u32(9)
        .u32(6)
        .u64(1)
        .bytes(&1.5f32.to_le_bytes())
        .text("tokenizer.ggml.model")
        .u32(8)
        .text("gpt2")
        .text("tokenizer.ggml.pre")
        .u32(8)
        .text("smollm")
        .texts("tokenizer.ggml.tokens", &["<|im_end|>", "a", "b", "ab", "Ġ"])
        .texts("tokenizer.ggml.merges", &["a b"])
        .text("tokenizer.ggml.token_type")
        .u32(9)
        .u32(5)
        .u64(5)
        .u32(3)
        .u32(1)
        .u32(1)
        .u32(1)
        .u32(1)
        .text("tokenizer.ggml.eos_token_id")
        .u32(4)
        .u32(0)
        .tensor("q4_1", &[64, 2], 3, 0)
        .tensor("q6_k", &[256], 14, 96)
        .tensor("q4_k", &[256, 1], 12, 320)
        .tensor("bf16", &[3], 30, 480)
        .data(486)
}

#[test]
fn an_honest_file_is_read() {
    let file = honest();
    let header = Header::parse(&file).unwrap();
    assert_eq!(header.text("general.architecture").unwrap(), "llama");
    assert_eq!(header.metadata["a.i8"], Value::Signed(-1));
    assert_eq!(header.metadata["a.nested"], Value::Nested);
    assert_eq!(header.metadata["a.floats"], Value::Numbers(vec![1.5]));
    let tensor = header.tensor("q4_1").unwrap();
    assert_eq!((tensor.columns(), tensor.rows(), tensor.bytes), (64, 2, 80));
    assert!(matches!(header.integer("a.bool"), Err(GgufError::Metadata { .. })));
    assert!(matches!(header.tensor("none"), Err(GgufError::MissingTensor(_))));
    assert!(exercise::gguf(&file));
    let tokenizer = tinyinfer::tokenizer::Tokenizer::from_gguf(&header).unwrap();
    assert_eq!(tokenizer.encode("ab a<|im_end|>", false).unwrap().ids, [3, 4, 1, 0]);
}

#[test]
fn every_prefix_of_a_file_is_an_error() {
    let file = honest();
    for end in 0..file.len() {
        assert!(Header::parse(&file[..end]).is_err(), "{end} of {} bytes", file.len());
    }
}

#[test]
fn lies_are_named() {
    let huge = u64::MAX / 2;
    let entry = |b: Builder| b.text("k");
    let one = || Builder::header(3, 1, 0);
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("begins with", b"GGML\0\0\0\0".to_vec()),
        ("big endian", Builder::header(0x0300_0000, 0, 0).0),
        ("version 1 ", Builder::header(1, 0, 0).0),
        ("metadata needs", Builder::header(3, 0, huge).0),
        ("tensor descriptions needs", Builder::header(3, huge, 0).0),
        ("metadata key", Builder::header(3, 0, 1).u64(huge).0.into_iter().chain([0; 16]).collect()),
        ("metadata value needs", entry(Builder::header(3, 0, 1)).u32(8).u64(huge).0),
        ("array needs", entry(Builder::header(3, 0, 1)).u32(9).u32(4).u64(huge).0),
        ("array needs", entry(Builder::header(3, 0, 1)).u32(9).u32(8).u64(huge / 8).0),
        ("value type 13", entry(Builder::header(3, 0, 1)).u32(13).data(8)),
        ("value type 99", entry(Builder::header(3, 0, 1)).u32(9).u32(99).u64(0).0),
        ("not UTF-8", entry(Builder::header(3, 0, 1)).u32(8).u64(2).bytes(&[0xc3, 0x28]).0),
        (
            "k appears twice",
            Builder::header(3, 0, 2).text("k").u32(7).bytes(&[0]).text("k").u32(7).bytes(&[0]).data(0),
        ),
        ("alignment 3 ", Builder::header(3, 0, 1).text("general.alignment").u32(4).u32(3).0),
        ("0 dimensions", one().tensor("t", &[], 0, 0).data(64)),
        ("5 dimensions", one().tensor("t", &[1; 5], 0, 0).data(64)),
        ("a dimension of 0", one().tensor("t", &[0], 0, 0).data(64)),
        ("overflow", one().tensor("t", &[1 << 40, 1 << 40], 0, 0).data(64)),
        ("no whole number of Q4_1 blocks", one().tensor("t", &[33], 3, 0).data(64)),
        ("Q5_K is not supported", one().tensor("t", &[256], 13, 0).data(256)),
        ("type 1000 is not", one().tensor("t", &[256], 1000, 0).data(256)),
        ("of a file of", one().tensor("t", &[17], 0, 0).data(64)),
        ("overflows", one().tensor("t", &[16], 0, u64::MAX - 8).data(64)),
        ("not aligned", one().tensor("t", &[1], 0, 4).data(64)),
        ("overlaps", Builder::header(3, 2, 0).tensor("a", &[16], 0, 0).tensor("b", &[1], 0, 32).data(64)),
        (
            "t appears twice",
            Builder::header(3, 2, 0).tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 32).data(64),
        ),
    ];
    for (what, file) in table {
        let error = Header::parse(&file).expect_err(what).to_string();
        assert!(error.contains(what), "{error:?} does not say {what:?}");
    }
    let mut deep = entry(Builder::header(3, 0, 1)).u32(9);
    for _ in 0..64 {
        deep = deep.u32(9).u64(1);
    }
    assert!(Header::parse(&deep.data(64)).unwrap_err().to_string().contains("nested too deep"));
}

/// A safetensors file with the given header text.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(vec![1; data]);
    file
}

const SAFETENSORS: &str = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;

#[test]
fn safetensors_that_lie_are_refused() {
    let good = safetensors(SAFETENSORS, 32);
    assert!(exercise::safetensors(&good));
    for end in 0..good.len() {
        assert!(!exercise::safetensors(&good[..end]), "{end} of {} bytes", good.len());
    }
    let entry = |shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (shape, offsets) in [
        ("[2,3]", "[0,20]"),
        ("[2,3]", "[8,32]"),
        ("[2,3]", "[24,0]"),
        ("[4294967296,4294967296]", "[0,24]"),
        ("[18446744073709551615]", "[0,24]"),
        ("[-1]", "[0,24]"),
    ] {
        assert!(!exercise::safetensors(&safetensors(&entry(shape, offsets), 24)), "{shape} {offsets}");
    }
    let mut long = good.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(!exercise::safetensors(&long));
}

#[test]
fn the_fuzz_corpus_and_thousands_of_mutations_of_it_do_no_harm() {
    let of = |target: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let named = |file: Vec<u8>| [("honest".to_owned(), file)];
    corpus::replay(&of("gguf"), &named(honest()), exercise::gguf).unwrap();
    let file = safetensors(SAFETENSORS, 32);
    corpus::replay(&of("safetensors"), &named(file), exercise::safetensors).unwrap();
}
