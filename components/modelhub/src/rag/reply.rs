//! An engine's streamed answer: chat completion chunks of any OpenAI server.

use std::collections::VecDeque;

use axum::body::{Body, BodyDataStream};
use futures::StreamExt;
use http::StatusCode;
use serde::Deserialize;

use crate::error::ApiError;
use crate::sse;

/// An answer's text as the engine streams it.
pub struct Reply {
    model: String,
    stream: BodyDataStream,
    reader: sse::Reader,
    ready: VecDeque<String>,
    /// Known once the text is over.
    pub facts: Facts,
}

/// What the engine says about the whole.
#[derive(Debug, Default)]
pub struct Facts {
    /// Tokens.
    pub usage: Option<ChunkUsage>,
    /// The engine's own clock.
    pub timings: Option<ChunkTimings>,
    complete: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<ChunkChoice>,
    #[serde(default)]
    usage: Option<ChunkUsage>,
    #[serde(default)]
    timings: Option<ChunkTimings>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct ChunkChoice {
    #[serde(default)]
    delta: ChunkDelta,
}

#[derive(Debug, Default, Deserialize)]
struct ChunkDelta {
    #[serde(default)]
    content: Option<String>,
}

/// Tokens of a reply.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ChunkUsage {
    /// Read.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Written.
    #[serde(default)]
    pub completion_tokens: u64,
}

/// The engine's own clock: TinyInfer's names, and llama.cpp's as aliases.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ChunkTimings {
    /// Reading the prompt.
    #[serde(default, alias = "prompt_ms")]
    pub prefill_ms: Option<f64>,
    /// Writing the answer.
    #[serde(default, alias = "predicted_ms")]
    pub decode_ms: Option<f64>,
}

impl Reply {
    /// Reads a body of server-sent events.
    pub fn new(model: &str, body: Body) -> Self {
        Self {
            model: model.to_owned(),
            stream: body.into_data_stream(),
            reader: sse::Reader::default(),
            ready: VecDeque::new(),
            facts: Facts::default(),
        }
    }

    /// The next piece of text.
    pub async fn next(&mut self) -> Result<Option<String>, ApiError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            let broke = |why: String| {
                ApiError::unavailable("engine_broke_off", format!("{} broke off: {why}", self.model), 1)
            };
            match self.stream.next().await {
                Some(Ok(piece)) => {
                    for event in self.reader.push(&piece) {
                        self.take(&event.data)?;
                    }
                }
                Some(Err(error)) => return Err(broke(crate::innermost(&error))),
                None if self.facts.complete => return Ok(None),
                None => return Err(broke("the stream ended before its end; ask again".to_owned())),
            }
        }
    }

    fn take(&mut self, data: &str) -> Result<(), ApiError> {
        if data == "[DONE]" {
            self.facts.complete = true;
            return Ok(());
        }
        let Ok(chunk) = serde_json::from_str::<Chunk>(data) else { return Ok(()) };
        if let Some(error) = chunk.error {
            let body = serde_json::json!({ "error": error }).to_string();
            return Err(crate::gateway::engine_error(&self.model, StatusCode::BAD_GATEWAY, body.as_bytes()));
        }
        self.facts.usage = chunk.usage.or(self.facts.usage.take());
        self.facts.timings = chunk.timings.or(self.facts.timings.take());
        let texts = chunk.choices.into_iter().filter_map(|c| c.delta.content).filter(|t| !t.is_empty());
        self.ready.extend(texts);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_every_engine_are_read() {
        let cases = [
            (r#"{"choices":[{"delta":{"role":"assistant","content":"Hi"}}]}"#, Some("Hi")),
            (r#"{"choices":[{"delta":{"role":"assistant"}}],"usage":null}"#, None),
            (
                r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2},"timings":{"prompt_ms":3.5}}"#,
                None,
            ),
        ];
        for (json, want) in cases {
            let chunk: Chunk = serde_json::from_str(json).expect(json);
            assert_eq!(chunk.choices.first().and_then(|c| c.delta.content.as_deref()), want);
        }
        let timings: ChunkTimings =
            serde_json::from_str(r#"{"prefill_ms":1.0,"decode_ms":2.0}"#).expect("ours");
        assert_eq!((timings.prefill_ms, timings.decode_ms), (Some(1.0), Some(2.0)));
    }
}
