//! Models: [`llama`] and [`bert`] read like their papers; this file finds out which one a path holds.

pub mod bert;
pub mod llama;
pub mod safetensors_file;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tinykernels::cpu::Cpu;
use tinykernels::cpu::kv::KvError;
use tinykernels::cpu::packed::PackError;

use crate::executor::{LoadOptions, LoadedModel, ModelMetadata};
use crate::gguf::{Gguf, GgufError, Header};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing that looks like a model is there.
    #[error(
        "{path} holds no model: expected a .gguf file, or a folder with model.gguf or with config.json, tokenizer.json and model.safetensors"
    )]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The GGUF file is damaged or unsupported.
    #[error("{path}: {source}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: GgufError,
    },
    /// The safetensors file is damaged or unsupported.
    #[error("{path}: {reason}")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The configuration describes a model that this engine does not run.
    #[error("{path}: {reason}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, and what is.
        reason: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} is {given:?}, the configuration needs {needed:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, contiguous dimension first.
        given: Vec<usize>,
        /// The shape needed.
        needed: Vec<usize>,
    },
    /// A tensor holds infinity or NaN: the file is damaged, or the model's training went wrong.
    #[error("tensor {name} holds values that are no finite numbers; the file is damaged, fetch it again")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// The weights could not be packed.
    #[error("tensor {name}: {source}")]
    Pack {
        /// The tensor (the first, of several that are packed together).
        name: String,
        /// Why.
        source: PackError,
    },
    /// The KV cache could not be made.
    #[error("KV cache: {0}")]
    Kv(#[from] KvError),
    /// The memory for the KV cache does not hold a single block.
    #[error("{given} bytes of KV cache hold no block of {block} bytes; give at least {least}")]
    KvMemory {
        /// Memory given.
        given: usize,
        /// Bytes of a block.
        block: usize,
        /// Memory for one sequence of the whole context.
        least: usize,
    },
    /// An option is out of range.
    #[error("block_size {0} is not supported (16 and 32 are)")]
    BlockSize(usize),
    /// The tokenizer could not be built.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// See [`crate::executor::load`].
pub(crate) fn load(path: &Path, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    if ![16, 32].contains(&options.block_size) {
        return Err(LoadError::BlockSize(options.block_size));
    }
    let gguf = if path.is_dir() { path.join("model.gguf") } else { path.to_owned() };
    if gguf.is_file() {
        return load_gguf(&gguf, path, options);
    }
    if path.join("config.json").is_file() && path.join("model.safetensors").is_file() {
        let cpu = Cpu::new(options.threads);
        let tokenizer = Tokenizer::from_json(&path.join("tokenizer.json"))?;
        let (embedder, file_bytes) = bert::Bert::load(path, cpu)?;
        let metadata =
            ModelMetadata { name: name_of(path), path: path.to_owned(), file_bytes, license: None };
        return Ok(LoadedModel::Embedder { embedder: Arc::new(embedder), tokenizer, metadata });
    }
    Err(LoadError::NotFound { path: path.to_owned() })
}

/// A model's name when its file has none: the folder's, or the file's without ending.
fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn load_gguf(file: &Path, path: &Path, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    let error = |source| LoadError::Gguf { path: file.to_owned(), source };
    let gguf = Gguf::open(file).map_err(error)?;
    let text = |key| Header::optional(gguf.header.text(key)).map(|t| t.map(str::to_owned)).map_err(error);
    let architecture = gguf.header.text("general.architecture").map_err(error)?;
    if architecture != "llama" {
        let reason = format!("architecture {architecture} is not supported (llama is)");
        return Err(LoadError::Unsupported { path: file.to_owned(), reason });
    }
    let tokenizer = Tokenizer::from_gguf(&gguf.header)?;
    let chat_template = text("tokenizer.chat_template")?;
    let metadata = ModelMetadata {
        name: text("general.name")?.unwrap_or_else(|| name_of(path)),
        path: path.to_owned(),
        file_bytes: gguf.file_bytes(),
        license: text("general.license")?,
    };
    let model = llama::Llama::load(gguf, file)?;
    let executor =
        crate::executor::llama::LlamaExecutor::new(model, Cpu::new(options.threads), &tokenizer, options)?;
    Ok(LoadedModel::Generator { executor: Box::new(executor), tokenizer, chat_template, metadata })
}
