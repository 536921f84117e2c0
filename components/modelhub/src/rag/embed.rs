//! Texts to vectors, through the gateway like any other client.

use serde::Deserialize;

use super::Rag;
use super::records::RagRecord;
use crate::error::ApiError;
use aistack_api::modelhub::EngineTask;

#[derive(Debug, Deserialize)]
struct Reply {
    data: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(default)]
    index: usize,
    embedding: Vec<f32>,
}

/// Context assumed of an embedding model that does not tell: that of the smallest in use.
const DEFAULT_EMBED_CONTEXT: u64 = 256;

impl Rag {
    /// Tokens that an embedding model reads of a text.
    pub(super) fn embed_context(&self, model: &str) -> usize {
        let told = self.gateway.engines.route(model).and_then(|route| route.context);
        usize::try_from(told.unwrap_or(DEFAULT_EMBED_CONTEXT)).unwrap_or(usize::MAX)
    }

    /// Embeds texts with a model, in the order given.
    pub(super) async fn embed(&self, model: &str, texts: &[String]) -> Result<Vec<Vec<f32>>, ApiError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(self.defaults.embed_batch.max(1) as usize) {
            let body = serde_json::json!({"model": model, "input": batch, "encoding_format": "float"});
            let reply = self.gateway.call_json("/v1/embeddings", model, &body).await?;
            let unusable = |why: String| {
                ApiError::new(
                    http::StatusCode::BAD_GATEWAY,
                    "engine_error",
                    format!("{model} gave no usable vectors: {why}"),
                )
            };
            let mut reply: Reply = serde_json::from_slice(&reply).map_err(|e| unusable(e.to_string()))?;
            if reply.data.len() != batch.len() {
                return Err(unusable(format!("{} for {} texts", reply.data.len(), batch.len())));
            }
            reply.data.sort_by_key(|item| item.index);
            if reply.data.iter().any(|item| item.embedding.iter().any(|x| !x.is_finite())) {
                return Err(unusable("a value is not finite".to_owned()));
            }
            vectors.extend(reply.data.into_iter().map(|item| item.embedding));
        }
        Ok(vectors)
    }

    /// Embeds texts for a rag; refuses when the model is not the one that the rag was built with.
    pub(super) async fn embed_for(
        &self,
        rag: &RagRecord,
        texts: &[String],
    ) -> Result<Vec<Vec<f32>>, ApiError> {
        if self.gateway.engines.route(&rag.embed_model).is_none()
            && let Some(served) = self.gateway.engines.default_model(EngineTask::Embed)
            && served != rag.embed_model
        {
            let probe = self.embed(&served, &["dimension".to_owned()]).await?;
            return Err(mismatch(rag, &served, probe.first().map_or(0, Vec::len) as u64));
        }
        let vectors = self.embed(&rag.embed_model, texts).await?;
        let dimension = vectors.first().map_or(rag.dimension, |v| v.len() as u64);
        if rag.dimension != 0 && dimension != rag.dimension {
            return Err(mismatch(rag, &rag.embed_model, dimension));
        }
        Ok(vectors)
    }
}

fn mismatch(rag: &RagRecord, served: &str, dimension: u64) -> ApiError {
    let RagRecord { name, embed_model, dimension: built, .. } = rag;
    let why = if *built == dimension { "same size, other meaning" } else { "other size" };
    let message = format!(
        "rag {name} was built with {embed_model} ({built} d); embed now serves {served} ({dimension} d)\n  \
         {why}: re-ingest with  modelhub rag rebuild {name}"
    );
    ApiError::conflict("embedding_model_changed", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aistack_api::rag::RagState;

    #[test]
    fn another_embedding_model_is_refused_with_the_way_out() {
        let rag = RagRecord {
            name: "handbook".into(),
            embed_model: "all-MiniLM-L6-v2".into(),
            dimension: 384,
            chat_model: None,
            passage_words: 120,
            min_score: 0.3,
            state: RagState::Ready,
            rebuild: None,
            created_ms: 0,
        };
        assert_eq!(
            mismatch(&rag, "e5-small", 384).message,
            "rag handbook was built with all-MiniLM-L6-v2 (384 d); embed now serves e5-small (384 d)\n  \
             same size, other meaning: re-ingest with  modelhub rag rebuild handbook"
        );
        assert!(mismatch(&rag, "e5-base", 768).message.contains("other size"));
    }
}
