//! One thread that joins scheduler, executor and sampler, and the handle by which the doors reach it.
//!
//! A request's events come through a channel of its own. Dropping the [`Reply`] cancels the request: before the next
//! step its sequences are gone and their KV blocks free.

mod embedding;
mod metrics;
mod reply_text;
#[cfg(test)]
mod tests;
mod token_text;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc as thread_channel;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub use embedding::{EmbedError, EmbedQueue};
pub use metrics::EngineMetrics;
pub use token_text::TokenTexts;

use crate::executor::{Executor, ModelConfig};
use crate::sampling::{SamplingParams, TokenLogprobs};
use crate::scheduler::{SequenceId, Sizes};

/// What ends a reply, beside its length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StopRules {
    /// Strings that end it.
    pub strings: Vec<String>,
    /// Tokens that end it, beside the model's own.
    pub tokens: Vec<u32>,
    /// Whether the model's own end tokens are ignored.
    pub ignore_eos: bool,
    /// Whether the string that ended it stays in the text.
    pub keep: bool,
}

/// A prompt to be continued, `choices` times.
#[derive(Debug, Clone)]
pub struct Request {
    /// At least one token.
    pub prompt: Vec<u32>,
    /// Most tokens of each choice; 0 only scores the prompt.
    pub max_tokens: usize,
    /// Independent replies; choice `i` samples with `seed + i`.
    pub choices: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// What ends a reply.
    pub stop: StopRules,
    /// Alternatives to report beside each prompt token; `None` scores none.
    pub prompt_logprobs: Option<usize>,
    /// Whether special tokens are left out of the text.
    pub skip_special: bool,
    /// Requests share cached prompt blocks only under the same salt.
    pub salt: u64,
    /// When it must be done.
    pub deadline: Option<Instant>,
}

/// A generated token beside the text it begins at.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRecord {
    /// The token.
    pub token: u32,
    /// When asked for.
    pub logprobs: Option<TokenLogprobs>,
    /// Byte offset in the choice's text at which its own text begins.
    pub offset: usize,
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq)]
pub enum FinishReason {
    /// The model's own end of text or turn.
    EndOfText,
    /// One of [`StopRules::strings`].
    StopString(String),
    /// One of [`StopRules::tokens`].
    StopToken(u32),
    /// `max_tokens`.
    Length,
}

/// Where a choice's time went. Prefill of a second choice is short: it shares the first one's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// From arrival to admission.
    pub queue: Duration,
    /// From admission to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// The end of a choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Tokens generated, the one that ended the reply included.
    pub completion_tokens: usize,
    /// Prompt tokens read from the prefix cache.
    pub cached_tokens: usize,
    /// Where the time went.
    pub timings: Timings,
}

/// What comes back for a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt's tokens after the first, scored. Comes once, before any text.
    PromptScored(Vec<TokenLogprobs>),
    /// More of a choice's text; the text may be empty when only logprobs were due.
    Delta {
        /// The choice.
        choice: usize,
        /// Whole characters, never part of a stop string.
        text: String,
        /// The tokens that begin in the text shown so far and were not reported before.
        tokens: Vec<TokenRecord>,
    },
    /// A choice is done.
    Finished {
        /// The choice.
        choice: usize,
        /// How.
        finish: Finish,
    },
    /// The request failed; nothing follows.
    Failed(EngineError),
}

/// Why the engine took or finished a request not.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// As many sequences are in the engine as may be.
    #[error("{waiting} requests are waiting for the model, which is the limit of this server")]
    Busy {
        /// Sequences waiting.
        waiting: usize,
        /// A guess of when a place is free.
        retry_after: Duration,
    },
    /// It needs more KV cache than there is.
    #[error("the request needs room for {tokens} tokens and the KV cache of this server holds {capacity}")]
    NeverFits {
        /// Tokens of prompt and reply.
        tokens: usize,
        /// Tokens the cache holds.
        capacity: usize,
    },
    /// The deadline passed.
    #[error("the request was not done in time and was stopped after {completion_tokens} tokens")]
    TimedOut {
        /// Tokens of its longest choice.
        completion_tokens: usize,
    },
    /// The model failed on this request.
    #[error("the model failed on this request: {reason}")]
    Model {
        /// What it said.
        reason: String,
    },
    /// The engine's thread is gone.
    #[error("the engine has stopped; the server's log says why")]
    Stopped,
}

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct Reply {
    events: mpsc::UnboundedReceiver<Event>,
    wake: thread_channel::Sender<Command>,
    id: u64,
}

impl Reply {
    /// The next event; [`EngineError::Stopped`] when the engine died.
    pub async fn next(&mut self) -> Event {
        self.events.recv().await.unwrap_or(Event::Failed(EngineError::Stopped))
    }
}

impl futures::Stream for Reply {
    type Item = Event;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // The engine may be gone, and then there is nothing to cancel.
        let _ = self.wake.send(Command::Cancel(self.id));
    }
}

enum Command {
    Submit(Box<Submission>),
    Cancel(u64),
    ResetPrefixCache,
}

struct Submission {
    id: u64,
    request: Request,
    events: mpsc::UnboundedSender<Event>,
    arrived: Instant,
    span: tracing::Span,
}

/// The doors' way to the engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    commands: thread_channel::Sender<Command>,
}

/// What doors and engine thread both see.
struct Shared {
    model: ModelConfig,
    sizes: Sizes,
    texts: TokenTexts,
    metrics: EngineMetrics,
    /// Sequences submitted and not yet done.
    in_engine: AtomicUsize,
    next_id: AtomicU64,
    alive: AtomicBool,
    /// Microseconds that requests took lately, a moving average.
    recent_micros: AtomicU64,
}

impl Engine {
    /// Starts the engine's thread. `on_death` is called when it ends for any reason but the last handle's drop.
    pub fn start(
        executor: Box<dyn Executor>,
        texts: TokenTexts,
        sizes: Sizes,
        metrics: EngineMetrics,
        on_death: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = thread_channel::channel();
        let shared = Arc::new(Shared {
            model: executor.config().clone(),
            sizes,
            texts,
            metrics,
            in_engine: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            alive: AtomicBool::new(true),
            recent_micros: AtomicU64::new(0),
        });
        let for_thread = shared.clone();
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || worker::run(executor, &for_thread, &inbox, on_death))?;
        Ok(Self { shared, commands })
    }

    /// What the model is.
    pub fn model(&self) -> &ModelConfig {
        &self.shared.model
    }

    /// The scheduler's sizes.
    pub fn sizes(&self) -> Sizes {
        self.shared.sizes
    }

    /// Sequences that can be in the engine at a time, running and waiting.
    pub fn places(&self) -> usize {
        self.shared.sizes.max_running + self.shared.sizes.max_waiting
    }

    /// The text of each token.
    pub fn texts(&self) -> &TokenTexts {
        &self.shared.texts
    }

    /// Whether the engine's thread runs.
    pub fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// Hands a request in. Refusals come at once, however busy the engine is.
    pub fn submit(&self, request: Request) -> Result<Reply, EngineError> {
        if !self.is_alive() {
            return Err(EngineError::Stopped);
        }
        let sizes = self.shared.sizes;
        let capacity = sizes.blocks * sizes.block_size;
        let tokens = request.prompt.len() + request.max_tokens.saturating_sub(1);
        if tokens > capacity {
            return Err(EngineError::NeverFits { tokens, capacity });
        }
        let places = self.places();
        let choices = request.choices.max(1);
        let taken = self.shared.in_engine.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            (taken + choices <= places).then_some(taken + choices)
        });
        if let Err(taken) = taken {
            let waiting = taken.saturating_sub(sizes.max_running);
            return Err(EngineError::Busy { waiting, retry_after: self.retry_after(waiting) });
        }
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = mpsc::unbounded_channel();
        let submission = Submission {
            id,
            request,
            events: sender,
            arrived: Instant::now(),
            span: tracing::Span::current(),
        };
        if self.commands.send(Command::Submit(Box::new(submission))).is_err() {
            self.shared.in_engine.fetch_sub(choices, Ordering::AcqRel);
            return Err(EngineError::Stopped);
        }
        Ok(Reply { events, wake: self.commands.clone(), id })
    }

    /// Forgets all cached prompt blocks.
    pub fn reset_prefix_cache(&self) {
        // A stopped engine has no cache to forget.
        let _ = self.commands.send(Command::ResetPrefixCache);
    }

    /// The requests in front, at the pace of the last ones; between one second and one minute.
    fn retry_after(&self, waiting: usize) -> Duration {
        let recent = Duration::from_micros(self.shared.recent_micros.load(Ordering::Relaxed));
        let rounds = (waiting + 1).div_ceil(self.shared.sizes.max_running.max(1));
        (recent * rounds as u32).clamp(Duration::from_secs(1), Duration::from_mins(1))
    }
}

/// Sequences are numbered over all requests.
type Sequences = Vec<SequenceId>;
