//! The vector store over the Qdrant gRPC protocol, in the project's own terms.

use std::time::Duration;

use aistack_api::modelhub::VectorConfig;
use qdrant_client::qdrant::{
    Condition, CountPointsBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder,
    DeletePointsBuilder, Distance, FieldType, Filter, PointId, PointStruct, Query, QueryPointsBuilder,
    ScrollPointsBuilder, UpsertPointsBuilder, VectorParamsBuilder, VectorsOutput, vector_output,
    vectors_config, vectors_output,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// Points sent in one request.
const BATCH: usize = 256;

/// Why the vector store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// The key file cannot be read.
    #[error("vector.api_key_file {path}: {source}")]
    Key {
        /// Path of the file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store does not answer, or refused.
    #[error("the vector store at {endpoint} did not {operation}: {reason}")]
    Store {
        /// What was asked of it.
        operation: &'static str,
        /// Where it should be.
        endpoint: String,
        /// What it said.
        reason: String,
        /// Whether the collection is missing.
        missing: bool,
        /// Whether another try may succeed.
        passing: bool,
    },
    /// A payload is not what was written.
    #[error("a point of collection {collection} is not a passage: {source}")]
    Payload {
        /// The collection.
        collection: String,
        /// What the parser said.
        source: serde_json::Error,
    },
}

impl VectorError {
    /// Whether the collection does not exist.
    pub fn missing(&self) -> bool {
        matches!(self, Self::Store { missing: true, .. })
    }
}

impl From<VectorError> for ApiError {
    fn from(error: VectorError) -> Self {
        match &error {
            VectorError::Store { passing: true, .. } => Self::unavailable(
                "vector_store_unavailable",
                format!("{error}; is it running? (aistack status)"),
                2,
            ),
            VectorError::Store { missing: true, .. } => Self::conflict(
                "collection_missing",
                format!("{error}; ingest again: what is lost is put back"),
            ),
            _ => Self::new(http::StatusCode::BAD_GATEWAY, "vector_store_error", error.to_string()),
        }
    }
}

/// A passage as a point's payload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Path of its file in the rag.
    pub file: String,
    /// SHA-256 of that file's bytes, in hex.
    pub sha256: String,
    /// Position among the file's passages.
    pub ordinal: u64,
    /// Byte span in the file.
    pub start_byte: u64,
    /// End of the span.
    pub end_byte: u64,
    /// First line, from 1.
    pub start_line: u64,
    /// Last line.
    pub end_line: u64,
    /// Headings above it.
    pub heading: Vec<String>,
    /// Its text.
    pub text: String,
    /// Of each sentence: start and end in `text`, start and end in the file, first and last line. Only where the text is not
    /// the file's bytes (html).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sentences: Vec<[u64; 6]>,
}

impl Stored {
    /// What is embedded: the headings say what a short passage is about.
    pub fn embedded_text(&self) -> String {
        if self.heading.is_empty() {
            self.text.clone()
        } else {
            format!("{}\n{}", self.heading.join(" > "), self.text)
        }
    }
}

/// A passage with its id and vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// UUID.
    pub id: String,
    /// As embedded.
    pub vector: Vec<f32>,
    /// The passage.
    pub passage: Stored,
}

/// A found passage.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Cosine similarity with the question.
    pub score: f32,
    /// Its vector, when the store gave it.
    pub vector: Vec<f32>,
    /// The passage.
    pub passage: Stored,
}

/// A connection to the store. Cheap to clone.
#[derive(Clone)]
pub struct Vectors {
    client: Qdrant,
    endpoint: String,
}

impl std::fmt::Debug for Vectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vectors").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Vectors {
    /// Prepares the connection; the store need not be up yet.
    pub fn connect(config: &VectorConfig) -> Result<Self, VectorError> {
        let endpoint = config.endpoint.clone();
        let mut builder = Qdrant::from_url(&endpoint)
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_mins(1))
            .keep_alive_while_idle()
            .skip_compatibility_check();
        if let Some(path) = &config.api_key_file {
            let key = std::fs::read_to_string(path)
                .map_err(|source| VectorError::Key { path: path.display().to_string(), source })?;
            builder.set_api_key(key.trim());
        }
        let client = builder.build().map_err(|e| store_error("accept the address", &endpoint, &e))?;
        Ok(Self { client, endpoint })
    }

    /// The client with the current trace's context in its headers.
    fn traced(&self) -> Qdrant {
        let mut headers = http::HeaderMap::new();
        aistack_chassis::trace::inject(&mut headers);
        match headers.get("traceparent").and_then(|v| v.to_str().ok()) {
            Some(value) => self.client.with_header("traceparent", value),
            None => self.client.clone(),
        }
    }

    fn error(&self, operation: &'static str) -> impl Fn(QdrantError) -> VectorError + '_ {
        move |source| store_error(operation, &self.endpoint, &source)
    }

    /// Length of the vectors of a collection; `None` when there is no such collection.
    pub async fn dimension(&self, collection: &str) -> Result<Option<u64>, VectorError> {
        let info = match self
            .traced()
            .collection_info(collection)
            .await
            .map_err(self.error("describe a collection"))
        {
            Ok(info) => info,
            Err(error) if error.missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        let params = info.result.and_then(|r| r.config).and_then(|c| c.params).and_then(|p| p.vectors_config);
        Ok(match params.and_then(|c| c.config) {
            Some(vectors_config::Config::Params(params)) => Some(params.size),
            _ => Some(0),
        })
    }

    /// Makes the collection unless it exists.
    pub async fn ensure(&self, collection: &str, dimension: u64) -> Result<(), VectorError> {
        if self.dimension(collection).await?.is_some() {
            return Ok(());
        }
        let create = CreateCollectionBuilder::new(collection)
            .vectors_config(VectorParamsBuilder::new(dimension, Distance::Cosine));
        if let Err(error) = self.traced().create_collection(create).await {
            // Another ingest may have made it meanwhile.
            if self.dimension(collection).await?.is_none() {
                return Err(self.error("create a collection")(error));
            }
        }
        let index = CreateFieldIndexCollectionBuilder::new(collection, "file", FieldType::Keyword).wait(true);
        self.traced().create_field_index(index).await.map_err(self.error("index the file field"))?;
        Ok(())
    }

    /// Deletes the collection if it exists.
    pub async fn drop_collection(&self, collection: &str) -> Result<(), VectorError> {
        match self.traced().delete_collection(collection).await.map_err(self.error("delete a collection")) {
            Err(error) if !error.missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Number of points; 0 when there is no such collection.
    pub async fn count(&self, collection: &str) -> Result<u64, VectorError> {
        let request = CountPointsBuilder::new(collection).exact(true);
        match self.traced().count(request).await.map_err(self.error("count")) {
            Ok(response) => Ok(response.result.map_or(0, |r| r.count)),
            Err(error) if error.missing() => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Writes points and waits until they are durable.
    pub async fn upsert(&self, collection: &str, points: Vec<Point>) -> Result<(), VectorError> {
        let mut structs = Vec::with_capacity(points.len());
        for point in points {
            let payload = serde_json::to_value(&point.passage)
                .map_err(|source| VectorError::Payload { collection: collection.to_owned(), source })?;
            let payload = Payload::try_from(payload).map_err(self.error("take a payload"))?;
            structs.push(PointStruct::new(point.id, point.vector, payload));
        }
        for batch in structs.chunks(BATCH) {
            let request = UpsertPointsBuilder::new(collection, batch.to_vec()).wait(true);
            self.traced().upsert_points(request).await.map_err(self.error("write points"))?;
        }
        Ok(())
    }

    /// Deletes the points of a file; those of the version `keep` stay.
    pub async fn delete_file(
        &self,
        collection: &str,
        file: &str,
        keep: Option<&str>,
    ) -> Result<(), VectorError> {
        let mut filter = Filter::must([Condition::matches("file", file.to_owned())]);
        if let Some(sha256) = keep {
            filter.must_not = vec![Condition::matches("sha256", sha256.to_owned())];
        }
        let request = DeletePointsBuilder::new(collection).points(filter).wait(true);
        match self.traced().delete_points(request).await.map_err(self.error("delete points")) {
            Err(error) if !error.missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// The points nearest to a vector, nearest first.
    pub async fn search(
        &self,
        collection: &str,
        vector: Vec<f32>,
        limit: u64,
    ) -> Result<Vec<Hit>, VectorError> {
        let request = QueryPointsBuilder::new(collection)
            .query(Query::new_nearest(vector))
            .limit(limit)
            .with_payload(true)
            .with_vectors(true);
        let response = self.traced().query(request).await.map_err(self.error("search"))?;
        let hit = |point: qdrant_client::qdrant::ScoredPoint| {
            let passage = passage(collection, point.payload)?;
            Ok(Hit { score: point.score, vector: dense(point.vectors), passage })
        };
        response.result.into_iter().map(hit).collect()
    }

    /// A page of points in id order, without or with vectors, and where the next page starts.
    pub async fn page(
        &self,
        collection: &str,
        from: Option<PointId>,
        limit: u32,
        with_vectors: bool,
    ) -> Result<(Vec<Point>, Option<PointId>), VectorError> {
        let mut request =
            ScrollPointsBuilder::new(collection).limit(limit).with_payload(true).with_vectors(with_vectors);
        if let Some(from) = from {
            request = request.offset(from);
        }
        let response = self.traced().scroll(request).await.map_err(self.error("list points"))?;
        let mut points = Vec::with_capacity(response.result.len());
        for point in response.result {
            let id = point.id.as_ref().map(id_text).unwrap_or_default();
            points.push(Point {
                id,
                vector: dense(point.vectors),
                passage: passage(collection, point.payload)?,
            });
        }
        Ok((points, response.next_page_offset))
    }

    /// Ids of the points of a collection among `ids`.
    pub async fn present(&self, collection: &str, ids: &[String]) -> Result<Vec<String>, VectorError> {
        let ids: Vec<PointId> = ids.iter().map(|id| PointId::from(id.as_str())).collect();
        let request = qdrant_client::qdrant::GetPointsBuilder::new(collection, ids)
            .with_payload(false)
            .with_vectors(false);
        match self.traced().get_points(request).await.map_err(self.error("read points")) {
            Ok(response) => Ok(response.result.iter().filter_map(|p| p.id.as_ref()).map(id_text).collect()),
            Err(error) if error.missing() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn id_text(id: &PointId) -> String {
    use qdrant_client::qdrant::point_id::PointIdOptions;
    match &id.point_id_options {
        Some(PointIdOptions::Uuid(uuid)) => uuid.clone(),
        Some(PointIdOptions::Num(number)) => number.to_string(),
        None => String::new(),
    }
}

fn dense(vectors: Option<VectorsOutput>) -> Vec<f32> {
    let Some(vectors_output::VectorsOptions::Vector(vector)) = vectors.and_then(|v| v.vectors_options) else {
        return Vec::new();
    };
    if let Some(vector_output::Vector::Dense(dense)) = vector.vector {
        return dense.data;
    }
    // Servers before 1.16 fill the old field.
    #[allow(deprecated)]
    vector.data
}

fn passage(
    collection: &str,
    payload: std::collections::HashMap<String, qdrant_client::qdrant::Value>,
) -> Result<Stored, VectorError> {
    let value = serde_json::Value::from(Payload::from(payload));
    serde_json::from_value(value)
        .map_err(|source| VectorError::Payload { collection: collection.to_owned(), source })
}

fn store_error(operation: &'static str, endpoint: &str, error: &QdrantError) -> VectorError {
    use tonic::Code;
    let (reason, missing, passing) = match error {
        QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => {
            let missing = status.code() == Code::NotFound
                || (status.code() == Code::InvalidArgument && status.message().contains("doesn't exist"));
            let passing = matches!(
                status.code(),
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::ResourceExhausted
                    | Code::Unknown
            );
            // The client reports a connection that failed as an internal error with its innards printed.
            if status.code() == Code::Internal && status.message().starts_with("Failed to connect") {
                let refused = status.message().contains("refused");
                let reason = if refused { "connection refused" } else { "no connection" };
                (reason.to_owned(), false, true)
            } else {
                let cause = std::error::Error::source(status).map(crate::innermost);
                (cause.unwrap_or_else(|| status.message().to_owned()), missing, passing)
            }
        }
        other => (crate::innermost(other), false, matches!(other, QdrantError::Io(_))),
    };
    VectorError::Store { operation, endpoint: endpoint.to_owned(), reason, missing, passing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_says_becomes_what_to_do() {
        use tonic::Status;
        let lost = "Failed to connect to http://h:1/: tonic::transport::Error(Transport, … \"Connection refused\" …)";
        let cases = [
            (Status::internal(lost), "vector_store_unavailable", "connection refused"),
            (Status::unavailable("closing"), "vector_store_unavailable", "closing"),
            (Status::not_found("Collection `x` doesn't exist!"), "collection_missing", "doesn't exist"),
            (Status::invalid_argument("Wrong input: vector"), "vector_store_error", "Wrong input"),
        ];
        for (status, code, part) in cases {
            let error = store_error("search", "http://h:1", &QdrantError::ResponseError { status });
            let error = ApiError::from(error);
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(part) && !error.message.contains("tonic::"), "{error}");
        }
    }
}
