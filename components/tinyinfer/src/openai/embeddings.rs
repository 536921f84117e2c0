//! `POST /v1/embeddings`, and reranking by the cosine of embeddings.

use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{Fields, missing, token, wrong_type, wrong_value};
use crate::served::{Served, TextEmbedder};

/// A request of `POST /v1/embeddings`, read.
pub struct Embed {
    texts: Vec<Vec<u32>>,
    as_base64: bool,
}

/// Reads one.
pub fn read(served: &Served, embedder: &TextEmbedder, fields: &Fields) -> Result<Embed, ApiError> {
    let as_base64 = match fields.text("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            return Err(wrong_value("encoding_format", &format!("'{other}' is neither float nor base64")));
        }
    };
    let dimension = embedder.queue.model().dimension();
    if fields.count("dimensions", 1, usize::MAX)?.is_some_and(|asked| asked != dimension) {
        let message = format!("this model's embeddings have {dimension} dimensions and cannot be shortened");
        return Err(wrong_value("dimensions", &message));
    }
    Ok(Embed { texts: inputs(served, embedder, fields)?, as_base64 })
}

/// Answers it.
pub async fn answer(served: &Served, embedder: &TextEmbedder, request: Embed) -> Result<Response, ApiError> {
    let started = Instant::now();
    let Embed { texts, as_base64 } = request;
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let vectors = embedder.queue.embed(texts, served.limits.deadline()).await?;
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if as_base64 { json!(base64_of(vector)) } else { json!(vector) };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let body = json!({
        "object": "list",
        "data": data,
        "model": served.name(),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "timings": {"embed_ms": started.elapsed().as_secs_f64() * 1e3},
    });
    Ok(Json(body).into_response())
}

/// Little-endian floats, as OpenAI sends them.
fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

fn inputs(served: &Served, embedder: &TextEmbedder, fields: &Fields) -> Result<Vec<Vec<u32>>, ApiError> {
    let cut = truncation(fields, embedder)?;
    let from_text = |name: &str, text: &str| encode(embedder, name, text, cut);
    let from_tokens = |name: &str, items: &[Value]| -> Result<Vec<u32>, ApiError> {
        let ids = items.iter().enumerate().map(|(at, item)| token(&format!("{name}[{at}]"), item));
        let ids: Vec<u32> = ids.collect::<Result<_, _>>()?;
        let vocab = embedder.queue.model().vocab();
        if let Some(unknown) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(wrong_value(
                name,
                &format!("token {unknown} is not in the vocabulary of {vocab} tokens"),
            ));
        }
        fit(embedder, name, ids, cut)
    };
    let texts = match fields.given("input") {
        None => return Err(missing("input")),
        Some(Value::String(text)) => vec![from_text("input", text)?],
        Some(Value::Array(items)) if items.is_empty() => {
            return Err(wrong_value("input", "the array is empty"));
        }
        Some(Value::Array(items)) if items[0].is_number() => vec![from_tokens("input", items)?],
        Some(Value::Array(items)) => {
            let most = served.limits.max_inputs;
            if items.len() > most {
                return Err(wrong_value(
                    "input",
                    &format!("{} texts, this server takes at most {most}", items.len()),
                ));
            }
            let read = |(at, item): (usize, &Value)| {
                let name = format!("input[{at}]");
                match item {
                    Value::String(text) => from_text(&name, text),
                    Value::Array(tokens) => from_tokens(&name, tokens),
                    other => Err(wrong_type(&name, "a string or an array of tokens", other)),
                }
            };
            items.iter().enumerate().map(read).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(wrong_type("input", "a string or an array", other)),
    };
    Ok(texts)
}

/// vLLM's `truncate_prompt_tokens`: cut texts to this many tokens; -1 is what the model takes.
fn truncation(fields: &Fields, embedder: &TextEmbedder) -> Result<Option<usize>, ApiError> {
    let most = embedder.max_tokens as i64;
    let given = fields.integer("truncate_prompt_tokens", -1..=most)?;
    Ok(given.map(|tokens| if tokens < 1 { embedder.max_tokens } else { tokens as usize }))
}

fn encode(embedder: &TextEmbedder, name: &str, text: &str, cut: Option<usize>) -> Result<Vec<u32>, ApiError> {
    if text.is_empty() {
        return Err(wrong_value(name, "the text is empty"));
    }
    fit(embedder, name, embedder.tokenizer.encode(text, true)?.ids, cut)
}

/// Checks a text's length; with `cut`, shortens it and keeps its last token, which closes it.
fn fit(
    embedder: &TextEmbedder,
    name: &str,
    mut ids: Vec<u32>,
    cut: Option<usize>,
) -> Result<Vec<u32>, ApiError> {
    if ids.is_empty() {
        return Err(wrong_value(name, "there are no tokens"));
    }
    if let Some(cut) = cut
        && ids.len() > cut
    {
        let last = ids[ids.len() - 1];
        ids.truncate(cut);
        ids[cut - 1] = last;
    }
    let most = embedder.max_tokens;
    if ids.len() > most {
        let message = format!(
            "This model's maximum context length is {most} tokens. However, {name} resulted in {} tokens. Please \
             shorten it, or set truncate_prompt_tokens to -1.",
            ids.len()
        );
        return Err(ApiError::parameter(name, "context_length_exceeded", message));
    }
    Ok(ids)
}

/// A request of `POST /rerank`, `/v1/rerank` or `/v2/rerank`, read: documents by the cosine of their embedding and the
/// query's.
pub struct Rerank {
    /// The query's tokens, then each document's.
    texts: Vec<Vec<u32>>,
    /// To be shown beside their scores.
    documents: Option<Vec<String>>,
    top: usize,
}

/// Reads one.
pub fn read_rerank(served: &Served, embedder: &TextEmbedder, fields: &Fields) -> Result<Rerank, ApiError> {
    let cut = truncation(fields, embedder)?;
    let query = fields.text("query")?.ok_or_else(|| missing("query"))?;
    let given = fields.array("documents")?.ok_or_else(|| missing("documents"))?;
    if given.is_empty() {
        return Err(wrong_value("documents", "the array is empty"));
    }
    let most = served.limits.max_inputs.saturating_sub(1);
    if given.len() > most {
        return Err(wrong_value(
            "documents",
            &format!("{} texts, this server takes at most {most}", given.len()),
        ));
    }
    let documents =
        given.iter().enumerate().map(|(at, document)| document_text(&format!("documents[{at}]"), document));
    let documents: Vec<&str> = documents.collect::<Result<_, _>>()?;
    let top = fields.count("top_n", 1, usize::MAX)?.unwrap_or(documents.len());
    let with_documents = fields.flag("return_documents", false)?;

    let mut texts = vec![encode(embedder, "query", query, cut)?];
    for (at, document) in documents.iter().enumerate() {
        texts.push(encode(embedder, &format!("documents[{at}]"), document, cut)?);
    }
    let documents = with_documents.then(|| documents.into_iter().map(str::to_owned).collect());
    Ok(Rerank { texts, documents, top })
}

/// Answers it.
pub async fn answer_rerank(
    served: &Served,
    embedder: &TextEmbedder,
    request: Rerank,
) -> Result<Response, ApiError> {
    let Rerank { texts, documents, top } = request;
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let vectors = embedder.queue.embed(texts, served.limits.deadline()).await?;
    let (query, vectors) =
        vectors.split_first().ok_or_else(|| ApiError::invalid("The model gave no vectors."))?;
    let mut ranked: Vec<(usize, f32)> =
        vectors.iter().map(|vector| cosine(query, vector)).enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let results = ranked.into_iter().take(top).map(|(index, score)| {
        let mut result = Map::new();
        result.insert("index".to_owned(), json!(index));
        if let Some(documents) = &documents {
            result.insert("document".to_owned(), json!({"text": documents[index]}));
        }
        result.insert("relevance_score".to_owned(), json!(score));
        Value::Object(result)
    });
    let body = json!({
        "id": format!("rerank-{}", uuid::Uuid::new_v4().simple()),
        "model": served.name(),
        // Said openly: this is no cross-encoder.
        "scored_by": "cosine of embeddings",
        "results": results.collect::<Vec<_>>(),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    });
    Ok(Json(body).into_response())
}

fn document_text<'a>(name: &str, document: &'a Value) -> Result<&'a str, ApiError> {
    match (document, document.get("text")) {
        (Value::String(text), _) | (_, Some(Value::String(text))) => Ok(text),
        _ => Err(wrong_type(name, "a string or an object with 'text'", document)),
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { (dot(a, b) / lengths) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_little_endian_floats() {
        assert_eq!(base64_of(&[1.0, -2.5]), "AACAPwAAIMA=");
    }

    #[test]
    fn cosine_is_scale_free_and_has_no_zero_division() {
        assert!((cosine(&[1.0, 0.0], &[5.0, 5.0]) - 0.707_106_77).abs() < 1e-6);
        assert!(cosine(&[0.0, 0.0], &[1.0, 0.0]).abs() < f32::EPSILON);
    }
}
