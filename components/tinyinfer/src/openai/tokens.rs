//! `POST /tokenize` and `/detokenize`, as vLLM serves them.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error::ApiError;
use super::fields::{Fields, missing, wrong_value};
use super::{chat, logprobs::token_text};
use crate::engine::TokenTexts;
use crate::served::{Model, Served};

/// A text, or a conversation through the model's template, as tokens.
pub fn tokenize(served: &Served, fields: &Fields) -> Result<Response, ApiError> {
    let tokens = match (&served.model, fields.text("prompt")?) {
        (_, Some(text)) => served.tokenizer().encode(text, fields.flag("add_special_tokens", true)?)?.ids,
        (Model::Generator(generator), None) if fields.given("messages").is_some() => {
            chat::prompt(generator, fields)?
        }
        (_, None) => return Err(missing("prompt")),
    };
    let mut body = json!({"count": tokens.len(), "max_model_len": served.max_tokens(), "tokens": tokens});
    if fields.flag("return_token_strs", false)? {
        let texts = match &served.model {
            Model::Generator(generator) => generator.engine.texts().clone(),
            Model::Embedder(embedder) => TokenTexts::of(&embedder.tokenizer, embedder.queue.model().vocab()),
        };
        body["token_strs"] = tokens.iter().map(|&token| token_text(&texts, token)).collect();
    }
    Ok(Json(body).into_response())
}

/// Tokens as text, special ones included.
pub fn detokenize(served: &Served, fields: &Fields) -> Result<Response, ApiError> {
    let tokens = fields.tokens("tokens")?.ok_or_else(|| missing("tokens"))?;
    let tokenizer = served.tokenizer();
    if let Some(unknown) = tokens.iter().find(|&&token| tokenizer.token(token).is_none()) {
        return Err(wrong_value("tokens", &format!("token {unknown} is not in the vocabulary")));
    }
    Ok(Json(json!({"prompt": tokenizer.decode(&tokens, false)?})).into_response())
}
