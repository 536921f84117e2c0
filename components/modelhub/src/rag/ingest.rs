//! Files into a rag: idempotent by content hash, resumable file by file.

use std::collections::{HashMap, HashSet};

use aistack_api::rag::{FileIngested, RagState, SyncPlan, SyncRequest};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Rag;
use super::records::{self, FileRecord, RagRecord, check_path, file_key, files, rag_key};
use super::vectors::{Point, Stored};
use crate::error::ApiError;
use crate::kv::Change;
use crate::text;

impl Rag {
    /// Tells a client which of its files are new or changed, and deletes those that it has no more when it asks for that.
    pub async fn sync(&self, name: &str, request: SyncRequest) -> Result<SyncPlan, ApiError> {
        let (record, _) = records::read(&self.kv, name).await?;
        writable(&record)?;
        let held = files(&self.kv, name).await?;
        let whole = self.vectors_are_whole(&record, &held).await?;
        let held: HashMap<&str, &FileRecord> =
            held.iter().map(|(path, file)| (path.as_str(), file)).collect();
        let mut plan = SyncPlan::default();
        let mut named = HashSet::new();
        for file in &request.files {
            check_path(&file.path)?;
            named.insert(file.path.as_str());
            let same = held.get(file.path.as_str()).filter(|h| whole && h.sha256 == file.sha256);
            // A file that moved with its directory belongs to the new place.
            if same.is_some_and(|h| request.source.is_none() || h.source == request.source) {
                plan.unchanged += 1;
            } else {
                plan.needed.push(file.path.clone());
            }
        }
        if request.prune {
            let ours = |file: &FileRecord| request.source.is_none() || file.source == request.source;
            let gone = held.iter().filter(|(path, file)| ours(file) && !named.contains(*path));
            let mut vanished: Vec<&str> = gone.map(|(path, _)| *path).collect();
            vanished.sort_unstable();
            for path in vanished {
                let _turn = self.turns.take(name, path).await;
                self.remove_file(&record, path).await?;
                plan.deleted.push(path.to_owned());
            }
        }
        Ok(plan)
    }

    /// Whether the vector store still holds every passage that the records say it does.
    async fn vectors_are_whole(
        &self,
        record: &RagRecord,
        held: &[(String, FileRecord)],
    ) -> Result<bool, ApiError> {
        let expected: u64 = held.iter().map(|(_, file)| file.passages).sum();
        if expected == 0 {
            return Ok(true);
        }
        let present = self.vectors.count(&record.name).await?;
        if present < expected {
            tracing::warn!(
                rag = record.name,
                present,
                expected,
                "the vector store lost passages; all files are asked for again"
            );
        }
        Ok(present >= expected)
    }

    /// Deletes one file of a rag.
    pub async fn delete_file(&self, name: &str, path: &str) -> Result<(), ApiError> {
        let (record, _) = records::read(&self.kv, name).await?;
        writable(&record)?;
        let _turn = self.turns.take(name, path).await;
        if self.kv.get(&file_key(name, path)).await?.is_none() {
            return Err(ApiError::not_found("file_not_found", format!("rag {name} holds no file {path}")));
        }
        self.remove_file(&record, path).await
    }

    async fn remove_file(&self, record: &RagRecord, path: &str) -> Result<(), ApiError> {
        self.vectors.delete_file(&record.name, path, None).await?;
        self.kv.change(&[], vec![Change::Delete(file_key(&record.name, path))]).await?;
        Ok(())
    }

    /// Takes one file in. The new passages are durable before those of the former version go, and the record comes last: an
    /// ingest that breaks off anywhere is repaired by sending the file again. Where the vector store refuses in the middle
    /// (a full disk), the passages that it took are taken back.
    pub async fn ingest_file(
        &self,
        name: &str,
        path: &str,
        bytes: Bytes,
        source: Option<String>,
    ) -> Result<FileIngested, ApiError> {
        check_path(path)?;
        let (record, _) = records::read(&self.kv, name).await?;
        writable(&record)?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let reply = |passages, unchanged| FileIngested {
            path: path.to_owned(),
            sha256: sha256.clone(),
            passages,
            unchanged,
        };
        let length = bytes.len() as u64;
        let passages = cut(path, bytes, record.passage_words as usize, &sha256).await?;
        let count = passages.len() as u64;
        let ids: Vec<String> = passages.iter().map(|p| point_id(name, p)).collect();
        let _turn = self.turns.take(name, path).await;
        let held = self.kv.get_json::<FileRecord>(&file_key(name, path)).await?.map(|(held, _)| held);
        let known = held.as_ref().is_some_and(|held| held.sha256 == sha256);
        if let Some(held) = held
            && known
            && self.vectors.present(name, &ids).await?.len() == ids.len()
        {
            if held.source != source {
                let file = FileRecord { source, ..held.clone() };
                self.kv.change(&[], vec![Change::put_json(file_key(name, path), &file)]).await?;
            }
            return Ok(reply(held.passages, true));
        }
        if !passages.is_empty() {
            let texts: Vec<String> = passages.iter().map(Stored::embedded_text).collect();
            let vectors = self.embed_for(&record, &texts).await?;
            let dimension = vectors.first().map_or(0, |v| v.len() as u64);
            self.fix_dimension(name, dimension).await?;
            self.vectors.ensure(name, dimension).await?;
            let points = passages.into_iter().zip(vectors).zip(&ids);
            let points =
                points.map(|((passage, vector), id)| Point { id: id.clone(), vector, passage }).collect();
            if let Err(error) = self.vectors.upsert(name, points).await {
                if !known {
                    self.take_back(name, path, &ids).await;
                }
                return Err(error.into());
            }
        }
        self.vectors.delete_file(name, path, Some(&sha256)).await?;
        let file = FileRecord { sha256: sha256.clone(), bytes: length, passages: count, source };
        self.kv.change(&[], vec![Change::put_json(file_key(name, path), &file)]).await?;
        Ok(reply(count, false))
    }

    /// Deletes the passages of an ingest that failed, as far as the store allows: the next ingest of the file does the rest.
    async fn take_back(&self, name: &str, path: &str, ids: &[String]) {
        if let Err(error) = self.vectors.delete_points(name, ids).await {
            tracing::warn!(rag = name, file = path, %error, "passages of a failed ingest stay until the next one");
        }
    }

    /// Records the length of the first vectors.
    async fn fix_dimension(&self, name: &str, dimension: u64) -> Result<(), ApiError> {
        let decide = |record: Option<RagRecord>| match record {
            None => Err(ApiError::not_found("rag_not_found", format!("rag {name} was deleted meanwhile"))),
            Some(record) if record.dimension == 0 => Ok(Some(RagRecord { dimension, ..record })),
            Some(_) => Ok(None),
        };
        self.kv.update(&rag_key(name), decide).await?;
        Ok(())
    }
}

fn writable(record: &RagRecord) -> Result<(), ApiError> {
    if record.state == RagState::Ready {
        return Ok(());
    }
    let name = &record.name;
    let message = format!(
        "rag {name} is being rebuilt; when that was interrupted, go on with  modelhub rag rebuild {name}"
    );
    Err(ApiError::conflict("rag_rebuilding", message))
}

/// Reads and cuts a file; off the async threads, since a PDF takes its time.
async fn cut(path: &str, bytes: Bytes, words: usize, sha256: &str) -> Result<Vec<Stored>, ApiError> {
    let (path, sha256) = (path.to_owned(), sha256.to_owned());
    let work = move || {
        let document = text::read(&path, &bytes)?;
        let stored = text::passages(&document, words).into_iter().zip(0..).map(|(passage, ordinal)| Stored {
            file: path.clone(),
            sha256: sha256.clone(),
            ordinal,
            start_byte: passage.bytes.start as u64,
            end_byte: passage.bytes.end as u64,
            start_line: passage.lines.0,
            end_line: passage.lines.1,
            heading: passage.heading,
            text: passage.text,
            page: passage.page,
            sentences: passage.sentences,
        });
        Ok::<_, text::ReadError>(stored.collect())
    };
    let failed = |why: String| ApiError::new(http::StatusCode::INTERNAL_SERVER_ERROR, "read_failed", why);
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| failed(e.to_string()))?
        .map_err(|e| ApiError::new(http::StatusCode::UNPROCESSABLE_ENTITY, "unreadable_file", e.to_string()))
}

/// The same passage of the same content has the same id, so that sending a file again changes nothing.
fn point_id(rag: &str, passage: &Stored) -> String {
    let Stored { file, sha256, ordinal, start_byte, end_byte, .. } = passage;
    let digest = Sha256::digest(format!("{rag}\0{file}\0{sha256}\0{ordinal}\0{start_byte}\0{end_byte}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}
