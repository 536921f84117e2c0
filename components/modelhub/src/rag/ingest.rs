//! Files into a rag: idempotent by content hash, resumable file by file.

use std::collections::{HashMap, HashSet, VecDeque};

use aistack_api::rag::{FileIngested, RagState, SyncPlan, SyncRequest};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Rag;
use super::records::{self, FileRecord, RagRecord, check_path, file_key, files, rag_key};
use super::vectors::{Point, Stored};
use crate::error::ApiError;
use crate::kv::Change;
use crate::text::{self, Document, Limits, halve};

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
        let _turn = self.turns.take(name, path).await;
        let held = self.kv.get_json::<FileRecord>(&file_key(name, path)).await?.map(|(held, _)| held);
        if let Some(held) = &held
            && held.sha256 == sha256
            && self.vectors.count_file(name, path, &sha256).await? == held.passages
        {
            if held.source != source {
                let file = FileRecord { source, ..held.clone() };
                self.kv.change(&[], vec![Change::put_json(file_key(name, path), &file)]).await?;
            }
            return Ok(reply(held.passages, true));
        }
        let limits =
            Limits { words: record.passage_words as usize, tokens: self.embed_context(&record.embed_model) };
        let (document, passages) = cut(path, bytes, limits).await?;
        if held.is_none() {
            // What an ingest leaves behind that breaks off has an owner, so that it goes when the file goes.
            let begun =
                FileRecord { sha256: String::new(), bytes: length, passages: 0, source: source.clone() };
            self.kv.change(&[], vec![Change::put_json(file_key(name, path), &begun)]).await?;
        }
        let version = Version { record: &record, path, sha256: &sha256 };
        let count = self.put_passages(version, &document, passages).await?;
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

    /// Embeds and stores a file's passages, batch by batch: what an attempt that broke off stored is not embedded again.
    async fn put_passages(
        &self,
        version: Version<'_>,
        document: &Document,
        passages: Vec<text::Passage>,
    ) -> Result<u64, ApiError> {
        let path = version.path;
        let passages: Vec<Numbered> =
            (0..).zip(passages).map(|(ordinal, passage)| Numbered { ordinal, passage }).collect();
        let mut count = 0;
        for batch in passages.chunks(self.defaults.embed_batch.max(1) as usize) {
            let stored = self.put_batch(version, document, batch.to_vec()).await.map_err(|error| {
                let kept = match count {
                    0 => String::new(),
                    count => {
                        format!("\n  {count} of its passages are kept; ingest again to go on from there")
                    }
                };
                ApiError { message: format!("{path}: {}{kept}", error.message), ..error }
            });
            count += stored?;
        }
        Ok(count)
    }

    async fn put_batch(
        &self,
        version: Version<'_>,
        document: &Document,
        batch: Vec<Numbered>,
    ) -> Result<u64, ApiError> {
        let name = &version.record.name;
        let ids: Vec<String> = batch.iter().map(|n| point_id(name, &version.stored(n))).collect();
        let present = self.vectors.present(name, &ids).await?;
        let held = present.len() as u64;
        let missing = batch.into_iter().zip(&ids).filter(|(_, id)| !present.contains(id));
        let missing: Vec<Numbered> = missing.map(|(numbered, _)| numbered).collect();
        if missing.is_empty() {
            return Ok(held);
        }
        let embedded = self.embed_fitting(version, document, missing).await?;
        let dimension = embedded.first().map_or(0, |(_, vector)| vector.len() as u64);
        if version.record.dimension == 0 {
            self.fix_dimension(name, dimension).await?;
        }
        self.vectors.ensure(name, dimension).await?;
        let points = embedded.into_iter().map(|(numbered, vector)| {
            let passage = version.stored(&numbered);
            Point { id: point_id(name, &passage), vector, passage }
        });
        let points: Vec<Point> = points.collect();
        let count = held + points.len() as u64;
        let ids: Vec<String> = points.iter().map(|point| point.id.clone()).collect();
        if let Err(error) = self.vectors.upsert(name, points).await {
            self.take_back(name, version.path, &ids).await;
            return Err(error.into());
        }
        Ok(count)
    }

    /// Embeds passages; one that the model refuses as too long is halved until it fits. Tokens are guessed when passages are cut,
    /// so this is rare.
    async fn embed_fitting(
        &self,
        version: Version<'_>,
        document: &Document,
        passages: Vec<Numbered>,
    ) -> Result<Vec<(Numbered, Vec<f32>)>, ApiError> {
        let most = self.defaults.embed_batch.max(1) as usize;
        let mut queue = VecDeque::from([passages]);
        let mut out = Vec::new();
        while let Some(mut batch) = queue.pop_front() {
            if batch.len() > most {
                queue.push_front(batch.split_off(most));
            }
            let texts: Vec<String> = batch.iter().map(|n| version.stored(n).embedded_text()).collect();
            let refused = match self.embed_for(version.record, &texts).await {
                Ok(vectors) => {
                    out.extend(batch.into_iter().zip(vectors));
                    continue;
                }
                Err(error) if too_long(&error) => error,
                Err(error) => return Err(error),
            };
            let one = if batch.len() == 1 { Some(0) } else { named_input(&refused.message) };
            match one.filter(|one| *one < batch.len()) {
                // It does not say which: the halves of the batch will.
                None => queue.push_front(batch.split_off(batch.len() / 2)),
                Some(one) => {
                    let Numbered { ordinal, passage } = &batch[one];
                    let halves = halve(document, passage).ok_or(refused)?;
                    let halves = halves.map(|passage| Numbered { ordinal: *ordinal, passage });
                    batch.splice(one..=one, halves);
                }
            }
            queue.push_front(batch);
        }
        Ok(out)
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

/// A file's content on its way into a rag.
#[derive(Debug, Clone, Copy)]
struct Version<'a> {
    record: &'a RagRecord,
    path: &'a str,
    sha256: &'a str,
}

/// A passage with its place among those that the file was first cut into; halves of one share it.
#[derive(Debug, Clone)]
struct Numbered {
    ordinal: u64,
    passage: text::Passage,
}

impl Version<'_> {
    fn stored(&self, numbered: &Numbered) -> Stored {
        let text::Passage { bytes, lines, heading, text, page, sentences, .. } = numbered.passage.clone();
        Stored {
            file: self.path.to_owned(),
            sha256: self.sha256.to_owned(),
            ordinal: numbered.ordinal,
            start_byte: bytes.start as u64,
            end_byte: bytes.end as u64,
            start_line: lines.0,
            end_line: lines.1,
            heading,
            text,
            page,
            sentences,
        }
    }
}

/// Whether an engine refused an input for its length: each has its own words for that.
pub(super) fn too_long(error: &ApiError) -> bool {
    let says = error.message.to_lowercase();
    let about_length = ["token", "context", "input", "length"].iter().any(|word| says.contains(word));
    let over = ["maximum", "exceed", "too long", "too large", "less than", "longer than"];
    matches!(error.status.as_u16(), 400 | 413 | 422 | 500)
        && about_length
        && over.iter().any(|word| says.contains(word))
}

/// The input that a refusal names, as in `input[2] resulted in 337 tokens`.
fn named_input(message: &str) -> Option<usize> {
    let (_, rest) = message.split_once("input[")?;
    rest.split_once(']')?.0.parse().ok()
}

/// Reads and cuts a file; off the async threads, since a PDF takes its time.
async fn cut(path: &str, bytes: Bytes, limits: Limits) -> Result<(Document, Vec<text::Passage>), ApiError> {
    let path = path.to_owned();
    let work = move || {
        let document = text::read(&path, &bytes)?;
        let passages = text::passages(&document, limits);
        Ok::<_, text::ReadError>((document, passages))
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn refusals_for_length_are_told_from_others() {
        let cases = [
            (
                400,
                "all-minilm-l6-v2 answered 400: This model's maximum context length is 256 tokens. However, input[2] resulted in 337 tokens.",
                true,
                Some(2),
            ),
            (
                413,
                "e5 answered 413: Input validation error: `inputs` must have less than 512 tokens. Given: 600",
                true,
                None,
            ),
            (
                500,
                "m answered 500: input is too large to process. increase the physical batch size",
                true,
                None,
            ),
            (400, "m answered 400: the input length exceeds the context length", true, None),
            (400, "m answered 400: unknown field dimensions", false, None),
            (429, "m answered 429: you exceeded your quota of tokens", false, None),
            (503, "model m has no healthy engine", false, None),
        ];
        for (status, message, long, input) in cases {
            let error =
                ApiError::new(StatusCode::from_u16(status).expect("a status"), "engine_error", message);
            assert_eq!((too_long(&error), named_input(message)), (long, input), "{message}");
        }
    }
}
