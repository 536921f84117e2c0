//! The events of one HTTP request: several prompts, each with several choices, counted together.

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::engine::{Engine, EngineError, Event, Finish, FinishReason, Request, Timings};

/// Running replies. Dropping them cancels what is not done.
pub struct Replies {
    events: SelectAll<BoxStream<'static, (usize, Event)>>,
    open: usize,
    /// What the finished ones used.
    pub totals: Totals,
}

impl Replies {
    /// Hands all requests in, or none.
    pub fn submit(engine: &Engine, requests: Vec<Request>) -> Result<Self, ApiError> {
        let mut events = SelectAll::new();
        let mut open = 0;
        let mut totals = Totals::default();
        for (prompt, request) in requests.into_iter().enumerate() {
            open += request.choices;
            totals.prompt_tokens += request.prompt.len();
            let reply = engine.submit(request)?;
            events.push(reply.map(move |event| (prompt, event)).boxed());
        }
        Ok(Self { events, open, totals })
    }

    /// The next event with the index of its prompt; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<(usize, Event)>, ApiError> {
        if self.open == 0 {
            return Ok(None);
        }
        match self.events.next().await {
            None => Err(EngineError::Stopped.into()),
            Some((_, Event::Failed(error))) => Err(error.into()),
            Some((prompt, event)) => {
                if let Event::Finished { choice, finish } = &event {
                    self.open -= 1;
                    self.totals.add(*choice, finish);
                }
                Ok(Some((prompt, event)))
            }
        }
    }
}

/// Tokens and times of a whole request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Tokens of the prompts, each counted once however many choices it has.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Prompt tokens read from the prefix cache.
    pub cached_tokens: usize,
    timings: Timings,
}

impl Totals {
    fn add(&mut self, choice: usize, finish: &Finish) {
        self.completion_tokens += finish.completion_tokens;
        let times = finish.timings;
        if choice == 0 {
            self.cached_tokens += finish.cached_tokens;
            self.timings.queue = self.timings.queue.max(times.queue);
            self.timings.prefill = self.timings.prefill.max(times.prefill);
        }
        self.timings.decode = self.timings.decode.max(times.decode);
    }

    /// OpenAI's `usage`.
    pub fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        })
    }

    /// Where the time went, in milliseconds: of the slowest prompt, and of its slowest choice.
    pub fn timings(&self) -> Value {
        let ms = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        json!({
            "queue_ms": ms(self.timings.queue),
            "prefill_ms": ms(self.timings.prefill),
            "decode_ms": ms(self.timings.decode),
        })
    }
}

/// `finish_reason` and vLLM's `stop_reason`.
pub fn reasons(finish: &Finish) -> (&'static str, Value) {
    match &finish.reason {
        FinishReason::Length => ("length", Value::Null),
        FinishReason::EndOfText => ("stop", Value::Null),
        FinishReason::StopString(stop) => ("stop", json!(stop)),
        FinishReason::StopToken(token) => ("stop", json!(token)),
    }
}

/// Who answers: the fields that every reply and chunk begins with.
#[derive(Debug, Clone)]
pub struct Head {
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// The model's name.
    pub model: String,
}

impl Head {
    /// A new one.
    pub fn new(prefix: &str, model: &str) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: since.map_or(0, |since| since.as_secs()),
            model: model.to_owned(),
        }
    }

    /// As the beginning of an object.
    pub fn object(&self, object: &str) -> serde_json::Map<String, Value> {
        let head = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": concat!("tinyinfer-", env!("CARGO_PKG_VERSION")),
        });
        match head {
            Value::Object(map) => map,
            _ => serde_json::Map::new(),
        }
    }
}
