//! Logprobs in the two forms of the API: parallel lists for completions, one object a token for chat.

use serde_json::{Map, Value, json};

use crate::engine::{TokenRecord, TokenTexts};
use crate::sampling::TokenLogprobs;

/// JSON has no infinity; OpenAI shows this for a token that cannot come.
const IMPOSSIBLE: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    logprob.max(IMPOSSIBLE)
}

/// A token as text; bytes that are no text are spelled out, as OpenAI does.
pub fn token_text(texts: &TokenTexts, token: u32) -> String {
    use std::fmt::Write as _;
    let bytes = texts.bytes(token);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            write!(text, "\\x{byte:02x}").expect("a String grows");
            text
        }),
    }
}

/// The legacy form, built up token by token.
#[derive(Debug, Clone, Default)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Adds a token that begins at character `offset`. The first token of a prompt has no logprobs.
    pub fn push(&mut self, texts: &TokenTexts, token: u32, logprobs: Option<&TokenLogprobs>, offset: usize) {
        self.tokens.push(token_text(texts, token));
        self.text_offset.push(offset);
        self.token_logprobs.push(logprobs.map(|l| finite(l.logprob)));
        self.top_logprobs.push(logprobs.map_or(Value::Null, |logprobs| {
            let mut top: Map<String, Value> = Map::new();
            // Two tokens can have the same text; the likelier one comes first and stays.
            for (token, logprob) in &logprobs.top {
                top.entry(token_text(texts, *token)).or_insert_with(|| json!(finite(*logprob)));
            }
            // The chosen token is always there, as in OpenAI's replies.
            top.entry(token_text(texts, token)).or_insert_with(|| json!(finite(logprobs.logprob)));
            Value::Object(top)
        }));
    }

    /// Moves the tokens of `other` behind these.
    pub fn append(&mut self, other: &mut Self) {
        self.tokens.append(&mut other.tokens);
        self.token_logprobs.append(&mut other.token_logprobs);
        self.top_logprobs.append(&mut other.top_logprobs);
        self.text_offset.append(&mut other.text_offset);
    }

    /// Whether no token was added.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}

/// The chat form of some tokens.
pub fn chat_logprobs(texts: &TokenTexts, records: &[TokenRecord]) -> Value {
    let content: Vec<Value> = records
        .iter()
        .filter_map(|record| {
            let logprobs = record.logprobs.as_ref()?;
            let mut entry = chat_token(texts, record.token, logprobs.logprob);
            let top = logprobs
                .top
                .iter()
                .map(|(token, logprob)| Value::Object(chat_token(texts, *token, *logprob)));
            entry.insert("top_logprobs".to_owned(), top.collect());
            Some(Value::Object(entry))
        })
        .collect();
    json!({"content": content, "refusal": null})
}

fn chat_token(texts: &TokenTexts, token: u32, logprob: f32) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("token".to_owned(), json!(token_text(texts, token)));
    entry.insert("logprob".to_owned(), json!(finite(logprob)));
    entry.insert("bytes".to_owned(), json!(texts.bytes(token)));
    entry
}

/// vLLM's `prompt_logprobs`: for each prompt token, an object from token id to its logprob, rank and text.
pub fn prompt_logprobs(texts: &TokenTexts, prompt: &[u32], scores: &[TokenLogprobs]) -> Value {
    let mut all = vec![Value::Null];
    for (token, score) in prompt.iter().skip(1).zip(scores) {
        let mut entry = Map::new();
        let ranked = score.top.iter().enumerate().map(|(at, (token, logprob))| (*token, *logprob, at + 1));
        for (token, logprob, rank) in std::iter::once((*token, score.logprob, score.rank)).chain(ranked) {
            let value =
                json!({"logprob": finite(logprob), "rank": rank, "decoded_token": token_text(texts, token)});
            entry.entry(token.to_string()).or_insert(value);
        }
        all.push(Value::Object(entry));
    }
    Value::Array(all)
}

/// Characters before byte `at` of `text`.
pub fn characters_before(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    bytes[..at.min(bytes.len())].iter().filter(|byte| !matches!(byte, 0x80..=0xbf)).count()
}
