//! Retrieval-augmented generation: files in, cited answers out.
//!
//! Reading order: [`records`] (what is remembered), `ingest` (files → passages → vectors), `query` (question → passages →
//! answer → citations); the pure parts are `rank`, `focus`, `relevance`, `prompt`, `clauses` and `cite`.

mod answer;
mod cite;
mod clauses;
mod door;
mod embed;
mod focus;
mod ingest;
mod lexical;
mod prompt;
mod query;
mod rank;
mod rebuild;
mod records;
mod refuse;
mod relevance;
mod reply;
mod turns;
mod vectors;

use std::sync::Arc;

use aistack_api::modelhub::{EngineTask, RagDefaults};
use aistack_api::rag::{RagCreate, RagDeleted, RagInfo, RagList, RagState};

use crate::error::ApiError;
use crate::gateway::Gateway;
use crate::kv::{Change, Expect, Kv};

pub use door::router;
pub use records::{check_name, check_path};
pub use vectors::{VectorError, Vectors};

use records::{RagRecord, files, files_prefix, info, rag_key, rags_prefix};

/// Everything RAG needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rag {
    kv: Kv,
    vectors: Vectors,
    gateway: Arc<Gateway>,
    defaults: RagDefaults,
    turns: Arc<turns::Turns>,
    /// One rebuild at a time.
    rebuilding: Arc<tokio::sync::Mutex<()>>,
}

/// Refuses what no similarity can be compared with.
fn check_min_score(score: Option<f32>) -> Result<(), ApiError> {
    match score {
        Some(score) if !(-1.0..=1.0).contains(&score) => {
            let message = format!("min_score is {score}, outside -1 to 1: it is a cosine similarity");
            Err(ApiError::invalid("invalid_min_score", message))
        }
        _ => Ok(()),
    }
}

impl Rag {
    /// RAG on a key-value store, a vector store, and the gateway's engines.
    pub fn new(kv: Kv, vectors: Vectors, gateway: Arc<Gateway>, defaults: RagDefaults) -> Self {
        Self { kv, vectors, gateway, defaults, turns: Arc::default(), rebuilding: Arc::default() }
    }

    /// Makes a rag.
    pub async fn create(&self, request: RagCreate) -> Result<RagInfo, ApiError> {
        check_name(&request.name)?;
        let embed_model = match request.embed_model.or_else(|| self.defaults.embed_model.clone()) {
            Some(model) => {
                self.gateway.route(&model)?;
                model
            }
            None => self.gateway.default_model(EngineTask::Embed)?,
        };
        if let Some(model) = &request.chat_model {
            self.gateway.route(model)?;
        }
        let passage_words = request.passage_words.unwrap_or(self.defaults.passage_words);
        if !(20..=2_000).contains(&passage_words) {
            let message = format!("passage_words is {passage_words}, outside 20 to 2000");
            return Err(ApiError::invalid("invalid_passage_words", message));
        }
        check_min_score(request.min_score)?;
        let record = RagRecord {
            embed_model,
            dimension: 0,
            chat_model: request.chat_model,
            passage_words,
            min_score: request.min_score.unwrap_or(self.defaults.min_score),
            state: RagState::Ready,
            rebuild: None,
            created_ms: crate::now_ms(),
            name: request.name,
        };
        let key = rag_key(&record.name);
        if !self.kv.change(&[Expect::Absent(key.clone())], vec![Change::put_json(key, &record)]).await? {
            let message = format!("rag {} exists already; ingest into it, or delete it first", record.name);
            return Err(ApiError::conflict("rag_exists", message));
        }
        Ok(info(&record, &[], Some(0)))
    }

    /// All rags.
    pub async fn list(&self) -> Result<RagList, ApiError> {
        let (entries, _) = self.kv.list(&rags_prefix()).await?;
        let mut rags = Vec::with_capacity(entries.len());
        for entry in entries {
            let record: RagRecord = entry.json()?;
            rags.push(self.info_of(&record).await?);
        }
        Ok(RagList { rags })
    }

    /// One rag.
    pub async fn get(&self, name: &str) -> Result<RagInfo, ApiError> {
        let (record, _) = records::read(&self.kv, name).await?;
        self.info_of(&record).await
    }

    /// Counts what the vector store holds too: a collection may be lost behind our back. A store that is away hides no rag.
    async fn info_of(&self, record: &RagRecord) -> Result<RagInfo, ApiError> {
        let stored = self.vectors.count(&record.name).await.ok();
        Ok(info(record, &files(&self.kv, &record.name).await?, stored))
    }

    /// Deletes a rag with everything in it.
    pub async fn delete(&self, name: &str) -> Result<RagDeleted, ApiError> {
        let rag = self.get(name).await?;
        self.vectors.drop_collection(name).await?;
        self.vectors.drop_collection(&rebuild::staging(name)).await?;
        let changes = vec![Change::Delete(rag_key(name)), Change::DeletePrefix(files_prefix(name))];
        self.kv.change(&[], changes).await?;
        Ok(RagDeleted { deleted: rag.name, passages: rag.passages })
    }
}
