//! The vector store over the Qdrant gRPC protocol, in the project's own terms.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aistack_api::modelhub::VectorConfig;
use aistack_chassis::tls::Watched;
use arc_swap::ArcSwapOption;
use qdrant_client::Payload;
use qdrant_client::qdrant::collections_client::CollectionsClient;
use qdrant_client::qdrant::points_client::PointsClient;
use qdrant_client::qdrant::{
    Condition, CountPointsBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder,
    DeleteCollection, DeletePointsBuilder, Distance, FieldType, Filter, GetCollectionInfoRequest,
    GetPointsBuilder, PointId, PointStruct, PointsIdsList, Query, QueryPointsBuilder, ScrollPointsBuilder,
    UpsertPointsBuilder, VectorParamsBuilder, VectorsOutput, vector_output, vectors_config, vectors_output,
};
use serde::{Deserialize, Serialize};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::client_tls::{ClientTlsError, explained};
use crate::error::ApiError;
use crate::renewal;

/// Points sent in one request.
const BATCH: usize = 256;

/// Why the vector store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// The key file cannot be read, or holds what cannot be a header.
    #[error("vector.api_key_file {path}: {reason}")]
    Key {
        /// Path of the file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The endpoint is not an address that can be called.
    #[error("vector.endpoint {endpoint}: {reason}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
    /// The store does not answer, or refused.
    #[error("the vector store at {endpoint} did not {operation}: {reason}")]
    Store {
        /// What was asked of it.
        operation: &'static str,
        /// Where it should be.
        endpoint: String,
        /// What it said.
        reason: String,
        /// What kind of failure that is.
        trouble: Trouble,
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

/// What kind of failure a store's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The collection is missing.
    Missing,
    /// The store has no space left.
    Full,
    /// Another try may succeed.
    Passing,
    /// It will say the same again.
    Refused,
}

impl VectorError {
    /// Whether the collection does not exist.
    pub fn missing(&self) -> bool {
        matches!(self, Self::Store { trouble: Trouble::Missing, .. })
    }
}

impl From<VectorError> for ApiError {
    fn from(error: VectorError) -> Self {
        match &error {
            VectorError::Store { trouble: Trouble::Passing, .. } => Self::unavailable(
                "vector_store_unavailable",
                format!("{error}; is it running? (aistack status)"),
                2,
            ),
            VectorError::Store { trouble: Trouble::Full, .. } => Self::new(
                http::StatusCode::INSUFFICIENT_STORAGE,
                "vector_store_full",
                format!("{error}; give it more space, then send the file again"),
            ),
            VectorError::Store { trouble: Trouble::Missing, .. } => Self::conflict(
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
    /// Page that it stands on, from 1; only where the file has pages (pdf).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Of each sentence: start and end in `text`, start and end in the file, first and last line. Only where the text is not
    /// the file's bytes (html).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sentences: Vec<[u64; 6]>,
}

impl Stored {
    /// What is embedded: the headings say what a short passage is about.
    pub fn embedded_text(&self) -> String {
        let context = crate::text::context(&self.heading);
        if context.is_empty() { self.text.clone() } else { format!("{context}\n{}", self.text) }
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

/// Puts the store's key and the current trace into every request.
#[derive(Clone)]
struct Headers {
    key: Arc<ArcSwapOption<AsciiMetadataValue>>,
}

impl Interceptor for Headers {
    fn call(&mut self, request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let mut request = aistack_chassis::trace::GrpcInject.call(request)?;
        if let Some(key) = &*self.key.load() {
            request.metadata_mut().insert("api-key", AsciiMetadataValue::clone(key));
        }
        Ok(request)
    }
}

fn read_key(path: &Path) -> Result<AsciiMetadataValue, VectorError> {
    let wrong = |reason| VectorError::Key { path: path.display().to_string(), reason };
    let key = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let key = AsciiMetadataValue::try_from(key.trim());
    key.map_err(|_| wrong("not one line of printable characters".to_owned()))
}

type Connection = InterceptedService<Channel, Headers>;

/// A connection to the store. Cheap to clone.
#[derive(Clone)]
pub struct Vectors {
    connection: Connection,
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
        let wrong = |e: tonic::transport::Error| VectorError::Endpoint {
            endpoint: config.endpoint.clone(),
            reason: crate::innermost(&e),
        };
        let prepared = Endpoint::from_shared(endpoint.clone())
            .map_err(wrong)?
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_mins(1))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        let tls = config.tls.clone().unwrap_or_default();
        let channel = renewal::channel("vector.tls", vec![prepared], &tls)?;
        let key = Arc::<ArcSwapOption<AsciiMetadataValue>>::default();
        if let Some(path) = config.api_key_file.clone() {
            let files = Watched::new(vec![path.clone()]);
            key.store(Some(Arc::new(read_key(&path)?)));
            let key = key.clone();
            renewal::follow(files, move || {
                let renewed = read_key(&path);
                match &renewed {
                    Ok(renewed) => key.store(Some(Arc::new(renewed.clone()))),
                    Err(error) => tracing::warn!(%error, "the one from before stays in use"),
                }
                std::future::ready(renewed.is_ok())
            });
        }
        let connection = InterceptedService::new(channel, Headers { key });
        Ok(Self { connection, endpoint })
    }

    fn points(&self) -> PointsClient<Connection> {
        PointsClient::new(self.connection.clone()).max_decoding_message_size(usize::MAX)
    }

    fn collections(&self) -> CollectionsClient<Connection> {
        CollectionsClient::new(self.connection.clone()).max_decoding_message_size(usize::MAX)
    }

    fn error(&self, operation: &'static str) -> impl Fn(Status) -> VectorError + '_ {
        move |status| store_error(operation, &self.endpoint, &status)
    }

    /// Length of the vectors of a collection; `None` when there is no such collection.
    pub async fn dimension(&self, collection: &str) -> Result<Option<u64>, VectorError> {
        let request = GetCollectionInfoRequest { collection_name: collection.to_owned() };
        let info = match self.collections().get(request).await.map_err(self.error("describe a collection")) {
            Ok(info) => info.into_inner(),
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
            .vectors_config(VectorParamsBuilder::new(dimension, Distance::Cosine))
            .build();
        if let Err(error) = self.collections().create(create).await {
            // Another ingest may have made it meanwhile.
            if self.dimension(collection).await?.is_none() {
                return Err(self.error("create a collection")(error));
            }
        }
        let index =
            CreateFieldIndexCollectionBuilder::new(collection, "file", FieldType::Keyword).wait(true).build();
        self.points().create_field_index(index).await.map_err(self.error("index the file field"))?;
        Ok(())
    }

    /// Deletes the collection if it exists.
    pub async fn drop_collection(&self, collection: &str) -> Result<(), VectorError> {
        let request = DeleteCollection { collection_name: collection.to_owned(), timeout: None };
        match self.collections().delete(request).await.map_err(self.error("delete a collection")) {
            Err(error) if !error.missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Number of points; 0 when there is no such collection.
    pub async fn count(&self, collection: &str) -> Result<u64, VectorError> {
        self.count_where(collection, Filter::default()).await
    }

    /// Number of points of one version of a file; 0 when there is no such collection.
    pub async fn count_file(&self, collection: &str, file: &str, sha256: &str) -> Result<u64, VectorError> {
        let version =
            [Condition::matches("file", file.to_owned()), Condition::matches("sha256", sha256.to_owned())];
        self.count_where(collection, Filter::must(version)).await
    }

    async fn count_where(&self, collection: &str, filter: Filter) -> Result<u64, VectorError> {
        let request = CountPointsBuilder::new(collection).filter(filter).exact(true).build();
        match self.points().count(request).await.map_err(self.error("count")) {
            Ok(response) => Ok(response.into_inner().result.map_or(0, |r| r.count)),
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
            let payload = Payload::try_from(payload).map_err(|e| VectorError::Store {
                operation: "take a payload",
                endpoint: self.endpoint.clone(),
                reason: e.to_string(),
                trouble: Trouble::Refused,
            })?;
            structs.push(PointStruct::new(point.id, point.vector, payload));
        }
        for batch in structs.chunks(BATCH) {
            let request = UpsertPointsBuilder::new(collection, batch.to_vec()).wait(true).build();
            self.points().upsert(request).await.map_err(self.error("write points"))?;
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
        let request = DeletePointsBuilder::new(collection).points(filter).wait(true).build();
        match self.points().delete(request).await.map_err(self.error("delete points")) {
            Err(error) if !error.missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes points by id.
    pub async fn delete_points(&self, collection: &str, ids: &[String]) -> Result<(), VectorError> {
        let ids = PointsIdsList { ids: ids.iter().map(|id| PointId::from(id.as_str())).collect() };
        let request = DeletePointsBuilder::new(collection).points(ids).wait(true).build();
        match self.points().delete(request).await.map_err(self.error("delete points")) {
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
            .with_vectors(true)
            .build();
        let response = self.points().query(request).await.map_err(self.error("search"))?.into_inner();
        let hit = |point: qdrant_client::qdrant::ScoredPoint| {
            let passage = passage(collection, point.payload)?;
            Ok(Hit { score: point.score, vector: dense(point.vectors), passage })
        };
        response.result.into_iter().map(hit).collect()
    }

    /// Points whose text holds one of these words, in no order; their score is 0, since nothing was compared.
    pub async fn mentioning(
        &self,
        collection: &str,
        forms: &[String],
        limit: u32,
    ) -> Result<Vec<Hit>, VectorError> {
        let any = forms.iter().map(|form| Condition::matches_text("text", form.clone()));
        let request = ScrollPointsBuilder::new(collection)
            .filter(Filter::should(any.collect::<Vec<_>>()))
            .limit(limit)
            .with_payload(true)
            .with_vectors(true)
            .build();
        let found = self.points().scroll(request).await.map_err(self.error("look for a word"))?.into_inner();
        let hit = |point: qdrant_client::qdrant::RetrievedPoint| {
            let passage = passage(collection, point.payload)?;
            Ok(Hit { score: 0.0, vector: dense(point.vectors), passage })
        };
        found.result.into_iter().map(hit).collect()
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
        let response =
            self.points().scroll(request.build()).await.map_err(self.error("list points"))?.into_inner();
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
        let request = GetPointsBuilder::new(collection, ids).with_payload(false).with_vectors(false).build();
        match self.points().get(request).await.map_err(self.error("read points")) {
            Ok(response) => {
                Ok(response.get_ref().result.iter().filter_map(|p| p.id.as_ref()).map(id_text).collect())
            }
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

fn store_error(operation: &'static str, endpoint: &str, status: &Status) -> VectorError {
    let said = status.message();
    let trouble = match status.code() {
        Code::NotFound => Trouble::Missing,
        Code::InvalidArgument if said.contains("doesn't exist") => Trouble::Missing,
        // The system's sentence, in whatever the store wraps it.
        _ if said.contains("No space left on device") => Trouble::Full,
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::ResourceExhausted
        | Code::Unknown => Trouble::Passing,
        _ => Trouble::Refused,
    };
    let cause = std::error::Error::source(status).map(crate::innermost);
    let reason = explained(endpoint, cause.unwrap_or_else(|| said.to_owned()));
    VectorError::Store { operation, endpoint: endpoint.to_owned(), reason, trouble }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_says_becomes_what_to_do() {
        let full = "Service unavailable: Write /d/wal: No space left on device (os error 28)";
        let cases = [
            (Status::unavailable("closing"), 503, "vector_store_unavailable", "closing"),
            (Status::unavailable(full), 507, "vector_store_full", "No space left"),
            (Status::internal(full), 507, "vector_store_full", "give it more space"),
            (Status::not_found("Collection `x` doesn't exist!"), 409, "collection_missing", "doesn't exist"),
            (Status::invalid_argument("Wrong input: vector"), 502, "vector_store_error", "Wrong input"),
            (Status::unauthenticated("Must provide an API key"), 502, "vector_store_error", "API key"),
        ];
        for (status, want, code, part) in cases {
            let error = ApiError::from(store_error("search", "http://h:1", &status));
            assert_eq!((error.status.as_u16(), error.code), (want, code), "{error}");
            assert!(error.message.contains(part) && !error.message.contains("tonic::"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_told_in_plain_words() {
        let config = VectorConfig {
            kind: aistack_api::modelhub::VectorKind::Qdrant,
            endpoint: "http://127.0.0.1:1".into(),
            api_key_file: None,
            tls: None,
        };
        let error = Vectors::connect(&config).expect("no call yet").count("c").await.expect_err("nobody");
        let error = ApiError::from(error);
        assert_eq!(error.code, "vector_store_unavailable");
        assert!(error.message.contains("connection refused"), "{error}");
    }
}
