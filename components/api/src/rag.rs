//! What ModelHub's RAG endpoints take and return. The same shapes travel between `modelhub serve`, the `modelhub rag`
//! commands and `aistack ask`.
//!
//! | call | body | reply |
//! |---|---|---|
//! | `POST /api/v1/rag` | [`RagCreate`] | [`RagInfo`] |
//! | `GET /api/v1/rag` | – | [`RagList`] |
//! | `GET /api/v1/rag/{name}` | – | [`RagInfo`] |
//! | `DELETE /api/v1/rag/{name}` | – | [`RagDeleted`] |
//! | `POST /api/v1/rag/{name}/sync` | [`SyncRequest`] | [`SyncPlan`] |
//! | `PUT /api/v1/rag/{name}/files/{path}` (`?source=…`) | the file | [`FileIngested`] |
//! | `DELETE /api/v1/rag/{name}/files/{path}` | – | 204 |
//! | `POST /api/v1/rag/{name}/rebuild` | – | lines of [`RebuildEvent`] (`application/x-ndjson`) |
//! | `POST /api/v1/rag/{name}/search` | [`RagQuery`] | [`Passages`] |
//! | `POST /api/v1/rag/{name}/query` | [`RagQuery`] | [`Answer`]; with `"stream": true` server-sent events, see [`QueryEvent`] |
//!
//! Errors are `{"error": {"message", "type", "code"}}`, the form of the OpenAI API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A new rag: a named set of passages with the model that embeds them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RagCreate {
    /// Name; also the name of its collection in the vector store. Letters, digits, `-`, `_`, `.`; at most 63.
    pub name: String,
    /// Model that embeds; absent = the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embed_model: Option<String>,
    /// Model that answers; absent = the server's default at the time of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_model: Option<String>,
    /// Longest passage in words; absent = the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passage_words: Option<u32>,
    /// Similarity below which a passage is not relevant; absent = the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f32>,
}

/// A rag as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RagInfo {
    /// Name of the rag and of its collection.
    pub name: String,
    /// Model that embeds passages and questions.
    pub embed_model: String,
    /// Length of its vectors; 0 until the first passage is embedded.
    pub dimension: u64,
    /// Model that answers, when fixed.
    pub chat_model: Option<String>,
    /// Longest passage in words.
    pub passage_words: u32,
    /// Similarity below which a passage is not relevant.
    pub min_score: f32,
    /// Files ingested.
    pub files: u64,
    /// Passages of those files.
    pub passages: u64,
    /// Passages that the vector store holds; other than `passages` when it lost some (ingest again) or an ingest broke off.
    /// Absent when the store did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<u64>,
    /// `ready`, or `rebuilding` while (or after an interrupted) `rebuild`.
    pub state: RagState,
    /// Creation time, Unix milliseconds.
    pub created_ms: u64,
}

/// Whether a rag can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RagState {
    /// Can be asked and ingested into.
    #[default]
    Ready,
    /// A rebuild runs or was interrupted; `rebuild` again resumes it.
    Rebuilding,
}

/// All rags.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RagList {
    /// Sorted by name.
    pub rags: Vec<RagInfo>,
}

/// Reply to a deletion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RagDeleted {
    /// Name of the rag that is gone.
    pub deleted: String,
    /// Passages that went with it.
    pub passages: u64,
}

/// What the client has: the server answers what it lacks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// Every file of the source.
    pub files: Vec<SourceFile>,
    /// Delete what the rag holds of this source and `files` does not name; of every source when none is named.
    #[serde(default)]
    pub prune: bool,
    /// Where the files come from, such as a directory: one rag may have several sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Path relative to the source, with `/`.
    pub path: String,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// What a client should send, and what was deleted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SyncPlan {
    /// Paths that are new or changed.
    pub needed: Vec<String>,
    /// Number of files that the rag already holds with this content.
    pub unchanged: u64,
    /// Paths that were deleted from the rag because the source has them no more.
    pub deleted: Vec<String>,
}

/// Reply to one ingested file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileIngested {
    /// Path in the rag.
    pub path: String,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// Passages that it was cut into.
    pub passages: u64,
    /// True when the rag already held this content and nothing was done.
    pub unchanged: bool,
}

/// One line of a rebuild's progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum RebuildEvent {
    /// So many passages are embedded anew.
    Progress {
        /// Passages done.
        done: u64,
        /// Passages in all.
        total: u64,
    },
    /// The rag answers with the new vectors.
    Done {
        /// The rag now.
        rag: RagInfo,
    },
    /// The rebuild stopped; starting it again resumes it.
    Error {
        /// What went wrong and what to do.
        message: String,
    },
}

/// A question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RagQuery {
    /// The question, in plain words.
    pub question: String,
    /// Send events while the answer is written.
    #[serde(default)]
    pub stream: bool,
    /// How many passages to retrieve; absent = the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Similarity below which a passage is not relevant; absent = the rag's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f32>,
    /// Longest answer in tokens; absent = the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Model that answers; absent = the rag's, else the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A retrieved passage. Lines and numbers count from 1, bytes from 0; ends are exclusive for bytes, inclusive for lines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Passage {
    /// Its rank: 1 is the best. Citations have numbers of their own.
    pub number: u32,
    /// Path of its file in the rag.
    pub file: String,
    /// Byte span in the file: `text` is exactly these bytes. A PDF's spans and lines count in its extracted text, which
    /// `modelhub rag text FILE` prints.
    pub start_byte: u64,
    /// End of the span.
    pub end_byte: u64,
    /// First line.
    pub start_line: u64,
    /// Last line.
    pub end_line: u64,
    /// Page that it stands on, from 1; only where the file has pages (pdf).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Headings above it, outermost first.
    #[serde(default)]
    pub heading: Vec<String>,
    /// Its text.
    pub text: String,
    /// Cosine similarity with the question.
    pub score: f32,
}

/// The passages retrieved for a question, best first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Passages {
    /// Best first; empty when none is relevant.
    pub passages: Vec<Passage>,
}

/// A quoted piece of a passage that supports the answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Citation {
    /// Number shown in the answer as `[n]`: 1 is the passage that the answer cites first.
    pub number: u32,
    /// Path of the file in the rag.
    pub file: String,
    /// Byte span of `quote` in the file.
    pub start_byte: u64,
    /// End of the span.
    pub end_byte: u64,
    /// First line of the quote.
    pub start_line: u64,
    /// Last line of the quote.
    pub end_line: u64,
    /// Page that the quote stands on, from 1; only where the file has pages (pdf).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// The sentences of the file that support the answer, exactly as they stand there.
    pub quote: String,
    /// Cosine similarity of the quoted passage with the question, as in [`Passage::score`].
    pub score: f32,
}

/// A sentence of the answer and what supports it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AnswerSentence {
    /// The sentence as the model wrote it, without marks.
    pub text: String,
    /// Numbers of the citations that support it; empty = no passage does.
    pub citations: Vec<u32>,
    /// False when no passage supports it: shown as `[?]`.
    pub supported: bool,
}

/// Where the time went. Milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// Embedding the question.
    pub embed_ms: f64,
    /// Searching the vector store.
    pub search_ms: f64,
    /// Everything that ModelHub itself did: ranking, prompt, citations.
    pub rag_ms: f64,
    /// Reading the prompt; measured as time to the first token when the engine does not tell.
    pub prefill_ms: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Writing the answer.
    pub decode_ms: f64,
    /// Tokens of the answer.
    pub answer_tokens: u64,
    /// From the question's arrival to the end of the answer.
    pub total_ms: f64,
}

/// A whole answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The answer, with `[n]` after each supported sentence and `[?]` after each unsupported one.
    pub answer: String,
    /// False when no passage was relevant: `answer` is then “I don't know …” and no model was asked.
    pub answered: bool,
    /// The answer's sentences in order.
    pub sentences: Vec<AnswerSentence>,
    /// The quotes behind the numbers, in order of first mention.
    pub citations: Vec<Citation>,
    /// The retrieved passages, best first.
    pub passages: Vec<Passage>,
    /// Where the time went.
    pub timings: Timings,
    /// Model that answered; empty when none was asked.
    pub model: String,
    /// W3C trace id, in hex; empty when tracing is off.
    pub trace_id: String,
}

/// The events of a streamed answer, in this order: `passages`, any number of `delta`, `citations`, `timings`, `done`; or
/// `error` as the last one at any point. On the wire: `event: <name>` and `data: <the variant's content as JSON>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", content = "data", rename_all = "lowercase")]
pub enum QueryEvent {
    /// What was retrieved.
    Passages(Passages),
    /// A piece of the answer, marks `[n]` and `[?]` included: print them as they come.
    Delta(Delta),
    /// The quotes behind the marks.
    Citations(Citations),
    /// Where the time went.
    Timings(Timings),
    /// The end.
    Done(Done),
    /// The answer broke off.
    Error(QueryError),
}

/// A piece of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delta {
    /// Text to append.
    pub text: String,
}

/// The quotes behind the marks of an answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Citations {
    /// The whole answer, marks included.
    pub answer: String,
    /// False when no passage was relevant.
    pub answered: bool,
    /// The answer's sentences in order.
    pub sentences: Vec<AnswerSentence>,
    /// The quotes, in order of first mention.
    pub citations: Vec<Citation>,
}

/// The end of a streamed answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// Model that answered; empty when none was asked.
    pub model: String,
    /// W3C trace id, in hex; empty when tracing is off.
    pub trace_id: String,
}

/// Why an answer broke off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueryError {
    /// What went wrong and what to do.
    pub message: String,
    /// Short name of the kind of failure, such as `vector_store_unavailable`.
    pub code: String,
    /// HTTP status that the failure has where nothing was streamed yet; 4xx = the question must change. 0 = not told.
    #[serde(default)]
    pub status: u16,
}

impl QueryEvent {
    /// Name on the `event:` line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passages(_) => "passages",
            Self::Delta(_) => "delta",
            Self::Citations(_) => "citations",
            Self::Timings(_) => "timings",
            Self::Done(_) => "done",
            Self::Error(_) => "error",
        }
    }

    /// JSON of the `data:` line.
    pub fn data(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Passages(v) => serde_json::to_string(v),
            Self::Delta(v) => serde_json::to_string(v),
            Self::Citations(v) => serde_json::to_string(v),
            Self::Timings(v) => serde_json::to_string(v),
            Self::Done(v) => serde_json::to_string(v),
            Self::Error(v) => serde_json::to_string(v),
        }
    }

    /// Reads an event back from its two lines; `None` for an event of a name that this version does not know.
    pub fn parse(name: &str, data: &str) -> Result<Option<Self>, serde_json::Error> {
        Ok(Some(match name {
            "passages" => Self::Passages(serde_json::from_str(data)?),
            "delta" => Self::Delta(serde_json::from_str(data)?),
            "citations" => Self::Citations(serde_json::from_str(data)?),
            "timings" => Self::Timings(serde_json::from_str(data)?),
            "done" => Self::Done(serde_json::from_str(data)?),
            "error" => Self::Error(serde_json::from_str(data)?),
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_wire() {
        let events = [
            QueryEvent::Passages(Passages { passages: vec![Passage { number: 1, ..Passage::default() }] }),
            QueryEvent::Delta(Delta { text: "ten days [1].\n".into() }),
            QueryEvent::Citations(Citations { answered: true, ..Citations::default() }),
            QueryEvent::Timings(Timings { embed_ms: 11.5, ..Timings::default() }),
            QueryEvent::Done(Done { model: "m".into(), trace_id: "4bf92f35".into() }),
            QueryEvent::Error(QueryError { message: "why".into(), code: "c".into(), status: 400 }),
        ];
        for event in events {
            let data = event.data().expect("plain data");
            assert!(!data.contains('\n'), "one line: {data}");
            assert_eq!(QueryEvent::parse(event.name(), &data).expect("own JSON"), Some(event));
        }
        assert_eq!(QueryEvent::parse("later", "{}").expect("ignored"), None);
    }
}
