//! Where the real models are, for tests that need them.
#![allow(dead_code, reason = "each test uses its part")]

use std::path::PathBuf;
use std::sync::Arc;

use tinyinfer::executor::llama::LlamaExecutor;
use tinyinfer::executor::{Embedder, LoadOptions, LoadedModel, load};
use tinyinfer::gguf::Gguf;
use tinyinfer::model::llama::Llama;
use tinyinfer::tokenizer::Tokenizer;
use tinykernels::cpu::Cpu;

/// A file or folder of the model cache; a missing one fails the test with the command that fetches it.
pub fn model_path(name: &str) -> PathBuf {
    let cache = || {
        let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
        xdg.unwrap_or_else(home).join("aistack/models")
    };
    let path = std::env::var_os("AISTACK_MODELS").map_or_else(cache, PathBuf::from).join(name);
    assert!(path.exists(), "{} is missing: run `cargo xtask models`", path.display());
    path
}

/// The language model with room for 4,096 tokens.
pub fn smollm2(threads: usize) -> LlamaExecutor {
    smollm2_on(Cpu::new(threads), 16)
}

/// The language model on given kernels.
pub fn smollm2_on(cpu: Cpu, block_size: usize) -> LlamaExecutor {
    let path = model_path("smollm2-135m-instruct/model.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf.header).unwrap();
    let model = Llama::load(gguf, &path).unwrap();
    let kv_memory_bytes = model.kv_shape(block_size).block_bytes() * (4096 / block_size);
    LlamaExecutor::new(model, cpu, &tokenizer, &LoadOptions { threads: 0, kv_memory_bytes, block_size })
        .unwrap()
}

/// The embedding model.
pub fn all_minilm(threads: usize) -> (Arc<dyn Embedder>, Tokenizer) {
    let options = LoadOptions { threads, ..LoadOptions::default() };
    match load(&model_path("all-minilm-l6-v2"), &options).unwrap() {
        LoadedModel::Embedder { embedder, tokenizer, .. } => (embedder, tokenizer),
        LoadedModel::Generator { .. } => unreachable!("a folder with config.json is an encoder"),
    }
}
