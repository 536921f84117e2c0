//! What ModelHub's registry and key endpoints take and return.
//!
//! | call | body | reply |
//! |---|---|---|
//! | `POST /api/v1/models` | [`ModelCreate`] | [`ModelInfo`] |
//! | `GET /api/v1/models` | – | [`ModelList`] |
//! | `GET`, `PATCH`, `DELETE /api/v1/models/{name}` | –, [`Update`], – | [`ModelInfo`], [`ModelInfo`], [`Deleted`] |
//! | `POST`, `GET /api/v1/models/{name}/versions` | [`VersionCreate`], – | [`VersionInfo`], [`VersionList`] |
//! | `GET`, `PATCH`, `DELETE …/versions/{version}` (`latest` too) | –, [`Update`], – | [`VersionInfo`], [`VersionInfo`], [`Deleted`] |
//! | `PUT …/versions/{version}/files/{path}` | the file; `x-checksum-sha256` is checked when given | [`FileInfo`] |
//! | `POST …/versions/{version}/files/{path}` | [`FileLink`] | [`FileInfo`], or 404 when no artefact has that digest |
//! | `GET …/versions/{version}/files/{path}` | – | the file |
//! | `POST`, `GET /api/v1/keys` | [`KeyCreate`], – | [`KeyCreated`], [`KeyList`] |
//! | `DELETE /api/v1/keys/{id}` | – | [`Deleted`] |

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Free-form labels.
pub type Labels = BTreeMap<String, String>;

/// A new model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelCreate {
    /// Its name. Letters, digits, `-`, `_`, `.`; at most 63.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
}

/// A model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Labels.
    pub labels: Labels,
    /// Number of the newest version whose files are all here (`latest`); 0 when there is none yet.
    pub latest_version: u64,
    /// Number that was given last: above `latest_version` while an upload is under way, or after one that was broken off.
    #[serde(default)]
    pub newest_version: u64,
    /// Creation time, Unix milliseconds.
    pub created_ms: u64,
    /// Time of the last change, Unix milliseconds.
    pub updated_ms: u64,
}

/// All models.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelList {
    /// Sorted by name.
    pub models: Vec<ModelInfo>,
}

/// A new version of a model; files are uploaded into it afterwards.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionCreate {
    /// What changed.
    #[serde(default)]
    pub description: String,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// Schema of its inputs and outputs (JSON Schema or any JSON).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
    /// Paths of the files that will be uploaded: until all are here the version is unfinished and not `latest`. When none is
    /// named, it is complete with its first file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// Where a version came from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lineage {
    /// The version that it was made from, as `model:version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The data that it was trained on: a name, URL or digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The run that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The code that made it: a commit or URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// A version of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionInfo {
    /// Name of the model.
    pub model: String,
    /// Its number, from 1.
    pub version: u64,
    /// What changed.
    pub description: String,
    /// Labels.
    pub labels: Labels,
    /// Schema of its inputs and outputs.
    pub schema: Option<serde_json::Value>,
    /// Where it came from.
    pub lineage: Option<Lineage>,
    /// Its files, sorted by path.
    pub files: Vec<FileInfo>,
    /// Paths of files that were announced and are not here: their upload is under way, or was broken off.
    #[serde(default)]
    pub awaiting: Vec<String>,
    /// Creation time, Unix milliseconds.
    pub created_ms: u64,
}

impl VersionInfo {
    /// Whether all its files are here; only then can it be `latest`.
    pub fn is_complete(&self) -> bool {
        self.awaiting.is_empty() && !self.files.is_empty()
    }
}

/// The versions of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionList {
    /// Oldest first.
    pub versions: Vec<VersionInfo>,
}

/// A file of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileInfo {
    /// Path in the version.
    pub path: String,
    /// SHA-256 of its bytes, in hex; also its address among the artefacts.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

/// Adds a file whose content the registry has already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileLink {
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// A change to a model or version; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// New description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Labels to set; `null` removes one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// New schema (versions only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// New lineage (versions only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
}

/// Reply to a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deleted {
    /// What is gone.
    pub deleted: String,
    /// Bytes of artefacts that nothing refers to any more and that went with it.
    pub freed_bytes: u64,
}

/// A new API key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyCreate {
    /// What to call it.
    pub name: String,
    /// Limits; absent = none.
    #[serde(default)]
    pub limits: Limits,
}

/// Limits of an API key; absent = none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens, read and written, in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

/// The key itself, shown this once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyCreated {
    /// The key: send it as `Authorization: Bearer <key>`.
    pub key: String,
    /// Its public part.
    pub id: String,
    /// What it is called.
    pub name: String,
}

/// A key as it can be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyInfo {
    /// Its public part.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Limits.
    pub limits: Limits,
    /// Requests that reached an engine.
    pub requests: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Creation time, Unix milliseconds.
    pub created_ms: u64,
}

/// All keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyList {
    /// Oldest first.
    pub keys: Vec<KeyInfo>,
}
