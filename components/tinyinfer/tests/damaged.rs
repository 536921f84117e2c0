//! Real model files with damage that no header shows: weights that are no numbers.
#![allow(clippy::unwrap_used, missing_docs)]

mod models;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use models::model_path;
use tinyinfer::executor::{LoadOptions, load};
use tinyinfer::gguf::Gguf;

/// Overwrites four bytes of a copy with ones, which every float format reads as NaN.
fn damage(path: &Path, at: usize) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xff; 4], at as u64).unwrap();
}

#[test]
fn a_model_with_nan_in_its_weights_is_refused_by_the_tensors_name() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("model.gguf");
    for name in ["output_norm.weight", "blk.17.ffn_down.weight", "token_embd.weight"] {
        fs::copy(model_path("smollm2-135m-instruct/model.gguf"), &copy).unwrap();
        let header = Gguf::open(&copy).unwrap().header;
        let tensor = header.tensor(name).unwrap();
        damage(&copy, tensor.offset);
        let error = load(&copy, &LoadOptions::default()).err().expect("refused").to_string();
        assert!(error.contains(name) && error.contains("no finite numbers"), "{error}");
    }
}

#[test]
fn an_embedding_model_with_nan_in_its_weights_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = model_path("all-minilm-l6-v2");
    fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    for file in [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ] {
        fs::copy(model.join(file), folder.path().join(file)).unwrap();
    }
    let weights = folder.path().join("model.safetensors");
    let end = fs::metadata(&weights).unwrap().len() as usize;
    damage(&weights, end / 3 / 8 * 8); // in the table of word embeddings
    let error = load(folder.path(), &LoadOptions::default()).err().expect("refused").to_string();
    assert!(error.contains("no finite numbers"), "{error}");
}
