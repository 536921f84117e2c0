//! Text to tokens and back, equal to the model's own Hugging Face tokenizer.

mod from_gguf;

use std::path::{Path, PathBuf};

/// Why a tokenizer could not be built or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// `tokenizer.json` could not be read.
    #[error("tokenizer {path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The GGUF metadata describes no tokenizer that this crate knows.
    #[error("tokenizer in GGUF metadata: {reason}")]
    Metadata {
        /// What is missing or unknown.
        reason: String,
    },
    /// A text could not be encoded or tokens not decoded.
    #[error("tokenizer: {reason}")]
    Run {
        /// What the tokenizer said.
        reason: String,
    },
}

/// One encoded text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte span of each token in the text; `(0, 0)` for special tokens added around it.
    pub spans: Vec<(usize, usize)>,
}

/// A tokenizer; cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Tokenizer {
    inner: std::sync::Arc<tokenizers::Tokenizer>,
    special: std::sync::Arc<std::collections::HashSet<u32>>,
    eos: Vec<u32>,
    bos: Option<u32>,
}

impl Tokenizer {
    /// From a Hugging Face `tokenizer.json`. Truncation and padding of the file are dropped: limits are the caller's.
    pub fn from_json(path: &Path) -> Result<Self, TokenizerError> {
        let read = |reason: String| TokenizerError::Read { path: path.to_owned(), reason };
        let mut inner = tokenizers::Tokenizer::from_file(path).map_err(|e| read(e.to_string()))?;
        inner.with_truncation(None).map_err(|e| read(e.to_string()))?;
        inner.with_padding(None);
        Ok(Self::new(inner, Vec::new(), None))
    }

    /// From the `tokenizer.*` metadata of a GGUF file.
    pub fn from_gguf(header: &crate::gguf::Header) -> Result<Self, TokenizerError> {
        from_gguf::build(header)
    }

    fn new(inner: tokenizers::Tokenizer, eos: Vec<u32>, bos: Option<u32>) -> Self {
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        Self { inner: std::sync::Arc::new(inner), special: std::sync::Arc::new(special), eos, bos }
    }

    /// Encodes a text. Special tokens written in the text (`<|im_end|>`) become their ids.
    /// `add_special` adds what the model puts around a text (`[CLS] … [SEP]`).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoded, TokenizerError> {
        let encoding = self
            .inner
            .encode(text, add_special)
            .map_err(|e| TokenizerError::Run { reason: e.to_string() })?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), spans: encoding.get_offsets().to_vec() })
    }

    /// Decodes tokens to text; bytes that are no UTF-8 (a character cut in two) become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.inner.decode(ids, skip_special).map_err(|e| TokenizerError::Run { reason: e.to_string() })
    }

    /// The token's own spelling in the vocabulary (`Ġthe`), if the id exists.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token by its spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether the token is a special one (control token).
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Tokens in the vocabulary, special ones included.
    pub fn vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Tokens that end a text or a turn.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }
}
