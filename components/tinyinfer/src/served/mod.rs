//! The one model that a process serves, ready for the doors: engine or embedder, tokenizer, chat template, limits.

mod locate;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aistack_api::engine::EngineTask;
use aistack_api::tinyinfer::TinyinferConfig;
use prometheus_client::registry::Registry;
use serde_json::Value as Json;

pub use locate::{LocateError, cache_dir, locate};

use crate::chat::{ChatError, ChatTemplate, RenderOptions};
use crate::engine::{EmbedQueue, Engine, EngineMetrics, TokenTexts};
use crate::executor::{
    Embedder, Executor, ExecutorError, LoadError, LoadOptions, LoadedModel, StepBatch, StepSequence, Want,
    load,
};
use crate::scheduler::Sizes;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is not there.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// Its file cannot be read.
    #[error("load model: {0}")]
    Load(#[from] LoadError),
    /// It is for something else than what it is started for.
    #[error("{model} is {is}, and this engine is started for the task {task}; name {wanted} as the model")]
    Task {
        /// The model.
        model: String,
        /// What it is.
        is: &'static str,
        /// The task configured.
        task: EngineTask,
        /// What does that.
        wanted: &'static str,
    },
    /// Its chat template is broken.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The KV cache is too small for a single block of text.
    #[error(
        "kv_memory_bytes is {memory}, which holds {tokens} tokens; give at least {needed} bytes, or lower max_context"
    )]
    KvMemory {
        /// Memory configured.
        memory: usize,
        /// Tokens it holds.
        tokens: usize,
        /// Bytes needed for the smallest useful context.
        needed: usize,
    },
    /// It computes nothing that could be used.
    #[error("run the model once: {0}")]
    WarmUp(#[from] ExecutorError),
    /// No thread could be started.
    #[error("start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Limits on single requests.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Most choices.
    pub max_choices: usize,
    /// Most texts.
    pub max_inputs: usize,
    /// Longest time from arrival to the last token.
    pub timeout: Option<Duration>,
}

impl RequestLimits {
    /// When a request that arrives now must be done.
    pub fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|timeout| Instant::now() + timeout)
    }
}

/// What this process serves.
pub struct Served {
    /// Names of the model, the one in replies first.
    pub names: Vec<String>,
    /// When it was loaded, in seconds since the epoch.
    pub created: u64,
    /// The model.
    pub model: Model,
    /// Limits on single requests.
    pub limits: RequestLimits,
    metrics: EngineMetrics,
}

/// A generator or an embedder.
pub enum Model {
    /// Continues texts and conversations.
    Generator(Box<Generator>),
    /// Turns texts into vectors.
    Embedder(TextEmbedder),
}

/// A text generator.
pub struct Generator {
    /// Its engine.
    pub engine: Engine,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
    /// Most tokens of prompt and reply together.
    pub max_context: usize,
}

/// A text embedder.
pub struct TextEmbedder {
    /// Its queue.
    pub queue: EmbedQueue,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Most tokens of a text, special ones included.
    pub max_tokens: usize,
}

/// Why a prompt and its reply do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    /// Nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    Empty,
    /// The prompt alone is too long.
    #[error(
        "This model's maximum context length is {context} tokens. However, your prompt resulted in {prompt} tokens. \
         Please shorten the prompt."
    )]
    Prompt {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// So long that it was not even tokenized.
    #[error(
        "This model's maximum context length is {context} tokens. However, your prompt has {bytes} bytes, which are \
         more tokens than that in any case. Please shorten the prompt."
    )]
    Text {
        /// Bytes of the text.
        bytes: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// With the reply it is.
    #[error(
        "This model's maximum context length is {context} tokens. However, you requested {total} tokens ({prompt} in \
         the prompt, {asked} in the completion). Please shorten the prompt or the completion.",
        total = prompt + asked
    )]
    Reply {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        asked: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A token id from the client that the model does not have.
    #[error("token {token} is not in the vocabulary of {vocab} tokens")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Tokens in the vocabulary.
        vocab: usize,
    },
}

impl Generator {
    /// Tokenizes a text; `add_special` adds what the model expects in front of it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.tokenizer.encode(text, add_special)?.ids)
    }

    /// Refuses a text that cannot fit however it is tokenized, without the minutes that tokenizing it would take.
    pub fn check_size(&self, text: &str) -> Result<(), RoomError> {
        let least = text.len() / self.engine.texts().longest().max(1);
        if least > self.max_context {
            return Err(RoomError::Text { bytes: text.len(), context: self.max_context });
        }
        Ok(())
    }

    /// Renders a conversation by the model's template. `None`: the model has no template.
    pub fn render(&self, messages: &[Json], options: &RenderOptions) -> Option<Result<String, ChatError>> {
        self.chat.as_ref().map(|chat| chat.render(messages, options))
    }

    /// Checks that prompt and reply fit, and gives the most tokens that the reply may have: what was asked for, else
    /// `default`, else all that is left.
    pub fn room(
        &self,
        prompt: &[u32],
        asked: Option<usize>,
        default: Option<usize>,
    ) -> Result<usize, RoomError> {
        let context = self.max_context;
        let vocab = self.engine.model().vocab;
        if prompt.is_empty() {
            return Err(RoomError::Empty);
        }
        if let Some(&token) = prompt.iter().find(|&&token| token as usize >= vocab) {
            return Err(RoomError::UnknownToken { token, vocab });
        }
        let Some(left) = context.checked_sub(prompt.len()) else {
            return Err(RoomError::Prompt { prompt: prompt.len(), context });
        };
        match asked {
            Some(asked) if asked > left => Err(RoomError::Reply { prompt: prompt.len(), asked, context }),
            Some(asked) => Ok(asked),
            None if left == 0 => Err(RoomError::Prompt { prompt: prompt.len(), context }),
            None => Ok(default.unwrap_or(left).min(left)),
        }
    }
}

/// Refuses a model that cannot do what the engine is started for.
fn check_task(config: &TinyinferConfig, loaded: &LoadedModel) -> Result<(), StartError> {
    const EMBEDS: &str = "an embedding model";
    const WRITES: &str = "a model that writes text";
    let (is, task, wanted) = match (loaded, config.task) {
        (LoadedModel::Embedder { .. }, Some(task @ EngineTask::Chat)) => (EMBEDS, task, WRITES),
        (LoadedModel::Generator { .. }, Some(task @ EngineTask::Embed)) => (WRITES, task, EMBEDS),
        _ => return Ok(()),
    };
    Err(StartError::Task { model: config.model.clone(), is, task, wanted })
}

impl Served {
    /// Finds, loads and starts the configured model. `on_death` is called when its engine breaks.
    pub fn start(
        config: &TinyinferConfig,
        on_death: impl FnOnce() + Send + 'static,
    ) -> Result<Self, StartError> {
        let path = locate(&config.model)?;
        let options = LoadOptions {
            threads: config.threads,
            kv_memory_bytes: config.kv_memory_bytes,
            block_size: config.block_size,
        };
        let mut names = config.served_names.clone();
        if names.is_empty() {
            names.push(locate::default_name(&path));
        }
        let metrics = EngineMetrics::default();
        let loaded = load(&path, &options)?;
        check_task(config, &loaded)?;
        let model = match loaded {
            LoadedModel::Generator { mut executor, tokenizer, chat_template, .. } => {
                warm_up(executor.as_mut())?;
                let template = chat_template.as_deref();
                let started =
                    start_generator(config, executor, tokenizer, template, metrics.clone(), on_death)?;
                Model::Generator(Box::new(started))
            }
            LoadedModel::Embedder { embedder, tokenizer, .. } => {
                embedder.embed(&[vec![0; WARM_TOKENS.min(embedder.max_tokens())]])?;
                Model::Embedder(start_embedder(config, embedder, tokenizer, metrics.clone())?)
            }
        };
        let timeout =
            (config.request_timeout_ms > 0).then(|| Duration::from_millis(config.request_timeout_ms));
        Ok(Self {
            names,
            metrics,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model,
            limits: RequestLimits { max_choices: config.max_choices, max_inputs: config.max_inputs, timeout },
        })
    }

    /// Shows the engine's figures in `registry`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry, self.name());
    }

    /// The name in replies.
    pub fn name(&self) -> &str {
        &self.names[0]
    }

    /// Whether the model can take requests.
    pub fn is_alive(&self) -> bool {
        match &self.model {
            Model::Generator(generator) => generator.engine.is_alive(),
            Model::Embedder(_) => true,
        }
    }

    /// Most tokens that a request may bring.
    pub fn max_tokens(&self) -> usize {
        match &self.model {
            Model::Generator(generator) => generator.max_context,
            Model::Embedder(embedder) => embedder.max_tokens,
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        match &self.model {
            Model::Generator(generator) => &generator.tokenizer,
            Model::Embedder(embedder) => &embedder.tokenizer,
        }
    }
}

/// Tokens of the text that a model runs before it counts as ready.
const WARM_TOKENS: usize = 16;

/// A prompt and the token after it: every weight is read and every buffer made before anybody waits for it, and a model that computes
/// nothing finite never counts as ready.
fn warm_up(executor: &mut dyn Executor) -> Result<(), ExecutorError> {
    let model = executor.config();
    let token = model.bos.unwrap_or(0);
    // One block is enough, and every cache has one.
    let tokens = vec![token; WARM_TOKENS.min(model.block_size).min(model.context)];
    let (prompt, next) = tokens.split_at(tokens.len() - 1);
    for (start, tokens) in [(0, prompt), (prompt.len(), next)].into_iter().filter(|part| !part.1.is_empty()) {
        let sequence = StepSequence { tokens, start, blocks: &[0], want: Want::LastLogits };
        executor.step(&StepBatch { sequences: vec![sequence] })?;
    }
    Ok(())
}

fn start_generator(
    config: &TinyinferConfig,
    executor: Box<dyn Executor>,
    tokenizer: Tokenizer,
    chat_template: Option<&str>,
    metrics: EngineMetrics,
    on_death: impl FnOnce() + Send + 'static,
) -> Result<Generator, StartError> {
    /// Fewer tokens hold no conversation.
    const SMALLEST_CONTEXT: usize = 64;
    let model = executor.config().clone();
    let capacity = model.n_blocks * model.block_size;
    let wanted = if config.max_context > 0 { config.max_context.min(model.context) } else { model.context };
    let max_context = wanted.min(capacity);
    if max_context < SMALLEST_CONTEXT.min(wanted) {
        let needed = SMALLEST_CONTEXT.div_ceil(model.block_size) * model.block_bytes;
        return Err(StartError::KvMemory { memory: config.kv_memory_bytes, tokens: capacity, needed });
    }
    if max_context < wanted {
        tracing::warn!(
            max_context,
            model_context = wanted,
            "kv_memory_bytes holds less than one full context"
        );
    }
    let spelled = |token: Option<u32>| token.and_then(|token| tokenizer.token(token)).unwrap_or_default();
    let (bos, eos) = (spelled(model.bos), spelled(model.eos.first().copied()));
    let chat = chat_template.map(|source| ChatTemplate::new(source, &bos, &eos)).transpose()?;
    let sizes = Sizes {
        block_size: model.block_size,
        blocks: model.n_blocks,
        max_running: config.max_running,
        max_waiting: config.max_waiting,
        step_tokens: config.step_tokens,
        prefill_chunk: config.prefill_chunk,
    };
    let texts = TokenTexts::of(&tokenizer, model.vocab);
    let engine = Engine::start(executor, texts, sizes, metrics, on_death)?;
    Ok(Generator { engine, tokenizer, chat, max_context })
}

fn start_embedder(
    config: &TinyinferConfig,
    embedder: Arc<dyn Embedder>,
    tokenizer: Tokenizer,
    metrics: EngineMetrics,
) -> Result<TextEmbedder, StartError> {
    let wanted = if config.max_context > 0 { config.max_context } else { usize::MAX };
    let max_tokens = embedder.max_tokens().min(wanted);
    let queue = EmbedQueue::start(embedder, config.max_waiting.max(config.max_inputs), metrics)?;
    Ok(TextEmbedder { queue, tokenizer, max_tokens })
}
