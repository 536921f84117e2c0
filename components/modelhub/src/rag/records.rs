//! What the key-value store remembers of rags: one record a rag, one a file.

use aistack_api::rag::{RagInfo, RagState};
use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::kv::{Kv, ROOT};

/// A rag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RagRecord {
    /// Its name and its collection's.
    pub name: String,
    /// Model that embeds.
    pub embed_model: String,
    /// Length of its vectors; 0 until the first passage.
    pub dimension: u64,
    /// Model that answers, when fixed.
    pub chat_model: Option<String>,
    /// Longest passage in words.
    pub passage_words: u32,
    /// Similarity below which a passage is not relevant.
    pub min_score: f32,
    /// Whether it can answer.
    pub state: RagState,
    /// What a rebuild is doing, while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<Rebuild>,
    /// Creation time, Unix milliseconds.
    pub created_ms: u64,
}

/// How far a rebuild is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    /// Model that embeds anew.
    pub embed_model: String,
    /// Length of its vectors.
    pub dimension: u64,
    /// True once every passage is in the staging collection: from then on the rag's collection is replaced.
    pub staged: bool,
}

/// A file of a rag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// SHA-256 of its bytes, in hex; empty until its first ingest is complete.
    pub sha256: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Passages that it was cut into.
    pub passages: u64,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Key of a rag's record.
pub fn rag_key(name: &str) -> String {
    format!("{ROOT}rags/{name}")
}

/// Prefix of the rags' records.
pub fn rags_prefix() -> String {
    format!("{ROOT}rags/")
}

/// Prefix of the records of a rag's files.
pub fn files_prefix(name: &str) -> String {
    format!("{ROOT}rag-files/{name}/")
}

/// Key of a file's record.
pub fn file_key(name: &str, path: &str) -> String {
    format!("{}{path}", files_prefix(name))
}

/// Reads a rag's record with its revision.
pub async fn read(kv: &Kv, name: &str) -> Result<(RagRecord, i64), ApiError> {
    if let Some(found) = kv.get_json(&rag_key(name)).await? {
        return Ok(found);
    }
    let (entries, _) = kv.list(&rags_prefix()).await?;
    let names: Vec<&str> = entries.iter().filter_map(|e| e.key.strip_prefix(&rags_prefix())).collect();
    let near = crate::gateway::closest(name, names.iter().copied());
    let hint = match (near.is_empty(), names.is_empty()) {
        (false, _) => format!("did you mean {}?", near.join(" or ")),
        (true, false) => format!("there are: {}", names.join(", ")),
        (true, true) => format!("make it with  modelhub rag create {name}"),
    };
    Err(ApiError::not_found("rag_not_found", format!("there is no rag {name}; {hint}")))
}

/// Reads the records of a rag's files: path and record.
pub async fn files(kv: &Kv, name: &str) -> Result<Vec<(String, FileRecord)>, ApiError> {
    let prefix = files_prefix(name);
    let (entries, _) = kv.list(&prefix).await?;
    let mut out = Vec::with_capacity(entries.len());
    for entry in entries {
        let path = entry.key.strip_prefix(&prefix).unwrap_or(&entry.key).to_owned();
        out.push((path, entry.json()?));
    }
    Ok(out)
}

/// What clients see of a rag; `stored` is what the vector store holds, when it says so.
pub fn info(record: &RagRecord, files: &[(String, FileRecord)], stored: Option<u64>) -> RagInfo {
    RagInfo {
        name: record.name.clone(),
        embed_model: record.embed_model.clone(),
        dimension: record.dimension,
        chat_model: record.chat_model.clone(),
        passage_words: record.passage_words,
        min_score: record.min_score,
        files: files.iter().filter(|(_, f)| !f.sha256.is_empty()).count() as u64,
        passages: files.iter().map(|(_, f)| f.passages).sum(),
        stored,
        state: record.state,
        created_ms: record.created_ms,
    }
}

/// Refuses names that a collection, a key or a path cannot have.
pub fn check_name(name: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 63 && name.chars().all(allowed) && !name.starts_with('.') {
        return Ok(());
    }
    let message = format!(
        "{name:?} cannot be a name: use 1 to 63 letters, digits, '-', '_' or '.', not beginning with '.'"
    );
    Err(ApiError::invalid("invalid_name", message))
}

/// Refuses paths that are not plain relative paths.
pub fn check_path(path: &str) -> Result<(), ApiError> {
    let plain = !path.is_empty()
        && path.len() <= 1_024
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.contains(char::is_control);
    if plain {
        return Ok(());
    }
    let message =
        format!("{path:?} cannot be a file's path: give a relative path with '/' and without '.' and '..'");
    Err(ApiError::invalid("invalid_path", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_plain() {
        for name in ["handbook", "a.b-c_1"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "a/b", "a b", "é", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for path in ["a.md", "people/leave.md", "Ä b.txt"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
        for path in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\nb"] {
            assert!(check_path(path).is_err(), "{path}");
        }
    }
}
