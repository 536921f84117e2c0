//! Builds the tokenizer that GGUF metadata describes: byte-level BPE with one of the known ways to cut text into words.
//!
//! GGUF names the cut (`tokenizer.ggml.pre`), it does not describe it, so each name is a fact to know. An unknown name is refused:
//! a tokenizer that is almost right ruins a model quietly.

use serde_json::{Map, Value, json};

use super::{Tokenizer, TokenizerError};
use crate::gguf::{GgufError, Header};

/// Values of `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Control tokens that end a text or a turn, whatever model uses them.
const ENDS: [&str; 6] = ["<|endoftext|>", "<|im_end|>", "<|end|>", "<|eot_id|>", "<|end_of_text|>", "</s>"];

fn bad(reason: impl Into<String>) -> TokenizerError {
    TokenizerError::Metadata { reason: reason.into() }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn from(error: GgufError) -> TokenizerError {
    bad(error.to_string())
}

pub(super) fn build(header: &Header) -> Result<Tokenizer, TokenizerError> {
    let model = header.text("tokenizer.ggml.model").map_err(from)?;
    if model != "gpt2" {
        return Err(bad(format!("tokenizer.ggml.model {model} is not supported (gpt2, byte-level BPE, is)")));
    }
    let pre = Header::optional(header.text("tokenizer.ggml.pre")).map_err(from)?.unwrap_or("gpt-2");
    let tokens = header.texts("tokenizer.ggml.tokens").map_err(from)?;
    let types = header.integers("tokenizer.ggml.token_type").map_err(from)?;
    let merges = header.texts("tokenizer.ggml.merges").map_err(from)?;
    if types.len() != tokens.len() {
        return Err(bad(format!("{} tokens but {} token types", tokens.len(), types.len())));
    }
    let description = describe(pre, tokens, types, merges)?;
    let inner = tokenizers::Tokenizer::from_bytes(description.to_string()).map_err(|e| bad(e.to_string()))?;
    let id = |key: &str| -> Result<Option<u32>, TokenizerError> {
        let id = Header::optional(header.integer(key)).map_err(from)?;
        match id {
            Some(id) if id as usize >= tokens.len() => {
                Err(bad(format!("{key} is {id}, there are {}", tokens.len())))
            }
            id => Ok(id.map(|id| id as u32)),
        }
    };
    let mut eos: Vec<u32> = [id("tokenizer.ggml.eos_token_id")?, id("tokenizer.ggml.eot_token_id")?]
        .into_iter()
        .flatten()
        .collect();
    let ends = tokens
        .iter()
        .zip(types)
        .enumerate()
        .filter(|(_, (token, kind))| **kind == CONTROL && ENDS.contains(&token.as_str()));
    eos.extend(ends.map(|(id, _)| id as u32));
    eos.sort_unstable();
    eos.dedup();
    Ok(Tokenizer::new(inner, eos, id("tokenizer.ggml.bos_token_id")?))
}

/// The same facts as a `tokenizer.json`.
fn describe(pre: &str, tokens: &[String], types: &[i64], merges: &[String]) -> Result<Value, TokenizerError> {
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let cut = match pre {
        // Every numeric character alone, then the words of GPT-2.
        "smollm" => {
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)]})
        }
        "gpt-2" => byte_level(true),
        other => {
            return Err(bad(format!("tokenizer.ggml.pre {other} is not supported (smollm and gpt-2 are)")));
        }
    };
    let mut vocab = Map::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if vocab.insert(token.clone(), json!(id)).is_some() {
            return Err(bad(format!("token {token:?} appears twice")));
        }
    }
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        let (a, b) = merge.split_once(' ').ok_or_else(|| bad(format!("merge {merge:?} is no pair")))?;
        pairs.push(json!([a, b]));
    }
    let added: Vec<Value> = tokens
        .iter()
        .zip(types)
        .enumerate()
        .filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED))
        .map(|(id, (token, kind))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": *kind == CONTROL})
        })
        .collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added,
        "pre_tokenizer": cut,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": pairs,
        },
    }))
}
