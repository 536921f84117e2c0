//! Rebuilding: every passage is embedded anew, with the embedding model that is served now, from the text that the vector store
//! keeps. Two steps, each resumable:
//! 1. *stage*: passages go to a second collection with their new vectors; meanwhile the old ones answer;
//! 2. *swap*: the rag's collection is made anew and filled from the staged one; meanwhile questions are asked to wait.

use aistack_api::modelhub::EngineTask;
use aistack_api::rag::{RagInfo, RagState, RebuildEvent};
use tokio::sync::mpsc;

use super::Rag;
use super::records::{self, RagRecord, Rebuild, rag_key};
use super::vectors::Stored;
use crate::error::ApiError;

/// Points handled at a time.
const PAGE: u32 = 128;

/// Name of the collection that a rebuild fills first.
pub fn staging(name: &str) -> String {
    format!("{name}.rebuild")
}

type Progress = mpsc::Sender<RebuildEvent>;

impl Rag {
    /// Rebuilds a rag, or goes on with an interrupted rebuild; the last event is `Done` or `Error`.
    pub async fn rebuild(&self, name: &str, progress: Progress) {
        let _turn = self.rebuilding.lock().await;
        let event = match self.rebuild_inner(name, &progress).await {
            Ok(rag) => RebuildEvent::Done { rag },
            Err(error) => RebuildEvent::Error { message: error.message },
        };
        // Nobody may be listening any more; the record says how far it came.
        let _ = progress.send(event).await;
    }

    async fn rebuild_inner(&self, name: &str, progress: &Progress) -> Result<RagInfo, ApiError> {
        let (record, _) = records::read(&self.kv, name).await?;
        let plan = match record.rebuild.clone() {
            Some(plan) => plan,
            None => self.start(&record).await?,
        };
        if record.dimension != 0 {
            if !plan.staged {
                self.stage(name, &plan, progress).await?;
                self.note(name, |r| RagRecord {
                    rebuild: Some(Rebuild { staged: true, ..plan.clone() }),
                    ..r
                })
                .await?;
            }
            self.swap(name, &plan).await?;
        }
        let finish = |r| RagRecord {
            embed_model: plan.embed_model.clone(),
            dimension: plan.dimension,
            state: RagState::Ready,
            rebuild: None,
            ..r
        };
        self.note(name, finish).await?;
        self.vectors.drop_collection(&staging(name)).await?;
        self.get(name).await
    }

    async fn start(&self, record: &RagRecord) -> Result<Rebuild, ApiError> {
        let embed_model = match &self.defaults.embed_model {
            Some(model) => model.clone(),
            None => self.gateway.default_model(EngineTask::Embed)?,
        };
        let probe = self.embed(&embed_model, &["dimension".to_owned()]).await?;
        let dimension = if record.dimension == 0 { 0 } else { probe.first().map_or(0, |v| v.len() as u64) };
        let plan = Rebuild { embed_model, dimension, staged: false };
        self.vectors.drop_collection(&staging(&record.name)).await?;
        self.note(&record.name, |r| RagRecord {
            state: RagState::Rebuilding,
            rebuild: Some(plan.clone()),
            ..r
        })
        .await?;
        Ok(plan)
    }

    async fn stage(&self, name: &str, plan: &Rebuild, progress: &Progress) -> Result<(), ApiError> {
        let stage = staging(name);
        self.vectors.ensure(&stage, plan.dimension).await?;
        let total = self.vectors.count(name).await?;
        let (mut done, mut from) = (0, None);
        loop {
            let (points, next) = self.vectors.page(name, from, PAGE, false).await?;
            done += points.len() as u64;
            let ids: Vec<String> = points.iter().map(|p| p.id.clone()).collect();
            // What an interrupted run staged already is not embedded again.
            let staged = self.vectors.present(&stage, &ids).await?;
            let mut missing: Vec<_> = points.into_iter().filter(|p| !staged.contains(&p.id)).collect();
            let texts: Vec<String> = missing.iter().map(|p| Stored::embedded_text(&p.passage)).collect();
            let vectors = self.embed(&plan.embed_model, &texts).await?;
            for (point, vector) in missing.iter_mut().zip(vectors) {
                point.vector = vector;
            }
            if !missing.is_empty() {
                self.vectors.upsert(&stage, missing).await?;
            }
            // A listener that left does not stop the rebuild.
            let _ = progress.send(RebuildEvent::Progress { done, total }).await;
            match next {
                Some(next) => from = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn swap(&self, name: &str, plan: &Rebuild) -> Result<(), ApiError> {
        let stage = staging(name);
        self.vectors.drop_collection(name).await?;
        self.vectors.ensure(name, plan.dimension).await?;
        let mut from = None;
        loop {
            let (points, next) = self.vectors.page(&stage, from, PAGE, true).await?;
            if !points.is_empty() {
                self.vectors.upsert(name, points).await?;
            }
            match next {
                Some(next) => from = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn note(&self, name: &str, change: impl Fn(RagRecord) -> RagRecord) -> Result<(), ApiError> {
        let decide = |record: Option<RagRecord>| match record {
            Some(record) => Ok(Some(change(record))),
            None => Err(ApiError::not_found("rag_not_found", format!("rag {name} was deleted meanwhile"))),
        };
        self.kv.update(&rag_key(name), decide).await?;
        Ok(())
    }
}
