//! The engine's one error type.

use std::path::PathBuf;

use super::point::PointId;

/// Whatever can go wrong between a door and the disk. Variants name the failed operation and carry its ids.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The name cannot be a collection or alias.
    #[error("`{name}` cannot be a collection name: {reason}")]
    InvalidName {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A collection (or an alias) of that name is there already.
    #[error("collection `{name}` already exists")]
    CollectionExists {
        /// The taken name.
        name: String,
    },
    /// Neither a collection nor an alias has that name.
    #[error("collection `{name}` doesn't exist")]
    CollectionNotFound {
        /// The name asked for.
        name: String,
    },
    /// No alias has that name.
    #[error("alias `{alias}` doesn't exist")]
    AliasNotFound {
        /// The alias asked for.
        alias: String,
    },
    /// A point that the operation needs is absent.
    #[error("no point with id {id} found")]
    PointNotFound {
        /// The point asked for.
        id: PointId,
    },
    /// A vector's length differs from the collection's dimension.
    #[error("wrong input: vector dimension error: expected dim: {expected}, got {got} (vector `{vector}`)")]
    WrongDimension {
        /// Name of the vector field, empty for the unnamed one.
        vector: String,
        /// Components the collection was created with.
        expected: usize,
        /// Components given.
        got: usize,
    },
    /// A vector holds NaN or an infinity.
    #[error("wrong input: vector `{vector}` has a component that is not finite, at position {position}")]
    NotFinite {
        /// Name of the vector field, empty for the unnamed one.
        vector: String,
        /// Index of the first such component.
        position: usize,
    },
    /// The collection has no vector field of that name.
    #[error("wrong input: not existing vector name `{vector}`")]
    UnknownVector {
        /// The name asked for.
        vector: String,
    },
    /// A payload key path that does not parse.
    #[error("wrong input: payload key `{path}`: {reason}")]
    InvalidPath {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A configuration or a request outside its documented limits.
    #[error("wrong input: {what} is {got}, allowed is {allowed}")]
    Limit {
        /// The quantity.
        what: &'static str,
        /// Its value.
        got: u64,
        /// The limit, in words.
        allowed: &'static str,
    },
    /// The operation needs a payload index that is not there.
    #[error(
        "wrong input: {operation} on key `{key}` needs a payload index of kind {kinds}; create one for it"
    )]
    IndexRequired {
        /// What was asked for.
        operation: &'static str,
        /// The payload key.
        key: String,
        /// Kinds of index that would do.
        kinds: &'static str,
    },
    /// A feature that this engine does not have.
    #[error("not supported: {what}")]
    Unsupported {
        /// The feature, in words.
        what: String,
    },
    /// Another process holds the data directory.
    #[error("data directory {dir} is in use by another process")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// A file fails its checksum or contradicts itself. Nothing from it was used.
    #[error("corrupt file {file}: {detail}")]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What does not fit, with the offset where known.
        detail: String,
    },
    /// The operating system refused a file operation.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried, in words.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// An earlier fsync failed, so that writes are refused until the process restarts and replays its log.
    #[error(
        "collection `{collection}` refuses writes since its log could not be made durable: {reason}; restart to recover"
    )]
    WritesRefused {
        /// The collection.
        collection: String,
        /// The first failure.
        reason: String,
    },
    /// The graph builder failed; the points stay searchable by exact scan.
    #[error("building the graph of collection `{collection}` failed: {reason}")]
    GraphBuild {
        /// The collection.
        collection: String,
        /// Why.
        reason: String,
    },
}

/// What a door needs to pick a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request is wrong (400, `InvalidArgument`).
    BadInput,
    /// Something named in the request is absent (404, `NotFound`).
    NotFound,
    /// The name is taken (409, `AlreadyExists`).
    Conflict,
    /// The feature is absent (501 or 400, `Unimplemented`).
    Unsupported,
    /// Disk full, writes refused after a failed fsync (503 or 507, `ResourceExhausted` / `Unavailable`).
    Unavailable,
    /// Corruption and other I/O errors (500, `Internal`).
    Internal,
}

impl EngineError {
    /// The class of this error, for the mapping to a protocol's status codes.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidName { .. }
            | Self::WrongDimension { .. }
            | Self::NotFinite { .. }
            | Self::UnknownVector { .. }
            | Self::InvalidPath { .. }
            | Self::Limit { .. }
            | Self::IndexRequired { .. } => ErrorClass::BadInput,
            Self::CollectionNotFound { .. } | Self::AliasNotFound { .. } | Self::PointNotFound { .. } => {
                ErrorClass::NotFound
            }
            Self::CollectionExists { .. } => ErrorClass::Conflict,
            Self::Unsupported { .. } => ErrorClass::Unsupported,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorClass::Unavailable
            }
            Self::WritesRefused { .. } => ErrorClass::Unavailable,
            Self::Locked { .. } | Self::Corrupt { .. } | Self::Io { .. } | Self::GraphBuild { .. } => {
                ErrorClass::Internal
            }
        }
    }

    /// Shorthand for an [`EngineError::Io`]: `map_err(EngineError::io("read", path))`.
    pub(crate) fn io(operation: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { operation, path, source }
    }

    /// Shorthand for an [`EngineError::Corrupt`].
    pub(crate) fn corrupt(file: &std::path::Path, detail: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_path_buf(), detail: detail.into() }
    }
}
