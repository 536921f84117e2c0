//! `POST /v1/completions`: prompts as text or tokens, `echo`, logprobs, `n`, streaming.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, missing, token, wrong_type, wrong_value};
use super::logprobs::{CompletionLogprobs, characters_before, prompt_logprobs};
use super::params::{Generation, MOST_LOGPROBS};
use super::replies::{Head, Replies, Totals, reasons};
use super::sse::{self, Chunks};
use crate::engine::{Event, TokenTexts};
use crate::sampling::TokenLogprobs;
use crate::served::{Generator, Served};

/// OpenAI's default.
const DEFAULT_MAX_TOKENS: usize = 16;

/// A prompt in tokens and as the text to echo: what the client sent, or what its tokens stand for.
struct Prompt {
    tokens: Vec<u32>,
    text: String,
}

/// A request that the engine has taken.
pub struct Running {
    replies: Replies,
    writer: Writer,
    stream: bool,
}

/// Reads a request and hands it to the engine.
pub fn start(served: &Served, generator: &Generator, fields: &Fields) -> Result<Running, ApiError> {
    fields.refuse("suffix", "Insertion with a suffix is not supported by this server.")?;
    let mut generation = Generation::read(fields, generator, served.limits, 0)?;
    let echo = fields.flag("echo", false)?;
    let logprobs = fields.count("logprobs", 0, MOST_LOGPROBS)?;
    generation.sampling.logprobs = logprobs;
    let wants_prompt_logprobs = generation.prompt_logprobs.is_some();
    if echo {
        generation.prompt_logprobs = generation.prompt_logprobs.max(logprobs);
    }
    let prompts = prompts(fields, generator)?;
    let most = served.limits.max_inputs.min(generator.engine.places());
    if prompts.len() * generation.choices > most {
        return Err(wrong_value("prompt", &format!("prompts times n is over this server's limit of {most}")));
    }
    let mut requests = Vec::new();
    for prompt in &prompts {
        let room = generator.room(&prompt.tokens, generation.max_tokens, Some(DEFAULT_MAX_TOKENS));
        let max_tokens = room.map_err(|error| ApiError::from(error).about("prompt"))?;
        requests.push(generation.request(prompt.tokens.clone(), max_tokens));
    }
    let replies = Replies::submit(&generator.engine, requests)?;
    let writer = Writer {
        head: Head::new("cmpl", served.name()),
        texts: generator.engine.texts().clone(),
        choices: generation.choices,
        echo,
        logprobs: logprobs.is_some(),
        prompt_logprobs: wants_prompt_logprobs,
        include_usage: generation.include_usage,
        written: vec![Written::default(); prompts.len() * generation.choices],
        prompts,
    };
    Ok(Running { replies, writer, stream: generation.stream })
}

/// Answers it.
pub async fn answer(running: Running) -> Result<Response, ApiError> {
    let Running { replies, writer, stream } = running;
    if stream { Ok(sse::respond(replies, writer)) } else { whole(replies, writer).await }
}

fn prompts(fields: &Fields, generator: &Generator) -> Result<Vec<Prompt>, ApiError> {
    let add_special = fields.flag("add_special_tokens", true)?;
    let from_text = |text: &str| -> Result<Prompt, ApiError> {
        generator.check_size(text).map_err(|error| ApiError::from(error).about("prompt"))?;
        Ok(Prompt { tokens: generator.encode(text, add_special)?, text: text.to_owned() })
    };
    let from_tokens = |name: &str, items: &[Value]| -> Result<Prompt, ApiError> {
        let ids = items.iter().enumerate().map(|(at, item)| token(&format!("{name}[{at}]"), item));
        let tokens: Vec<u32> = ids.collect::<Result<_, _>>()?;
        let bytes: Vec<u8> =
            tokens.iter().flat_map(|&token| generator.engine.texts().bytes(token)).copied().collect();
        Ok(Prompt { text: String::from_utf8_lossy(&bytes).into_owned(), tokens })
    };
    let expected = "a string, an array of strings, an array of tokens or an array of token arrays";
    match fields.given("prompt") {
        None => Err(missing("prompt")),
        Some(Value::String(text)) => Ok(vec![from_text(text)?]),
        Some(Value::Array(items)) if items.is_empty() => Err(wrong_value("prompt", "the array is empty")),
        Some(Value::Array(items)) if items[0].is_number() => Ok(vec![from_tokens("prompt", items)?]),
        Some(Value::Array(items)) => {
            let read = |(at, item): (usize, &Value)| match item {
                Value::String(text) => from_text(text),
                Value::Array(tokens) => from_tokens(&format!("prompt[{at}]"), tokens),
                other => Err(wrong_type(&format!("prompt[{at}]"), "a string or an array of tokens", other)),
            };
            items.iter().enumerate().map(read).collect()
        }
        Some(other) => Err(wrong_type("prompt", expected, other)),
    }
}

/// What a choice has told its client.
#[derive(Debug, Clone, Default)]
struct Written {
    text: String,
    logprobs: CompletionLogprobs,
    finish: Option<(&'static str, Value)>,
    scores: Option<Vec<TokenLogprobs>>,
    echoed: bool,
}

struct Writer {
    head: Head,
    texts: TokenTexts,
    prompts: Vec<Prompt>,
    choices: usize,
    echo: bool,
    logprobs: bool,
    prompt_logprobs: bool,
    include_usage: bool,
    written: Vec<Written>,
}

impl Writer {
    /// Takes an event in; returns the choice and its new text and logprobs.
    fn take(&mut self, prompt: usize, event: Event) -> Option<(usize, String, CompletionLogprobs)> {
        match event {
            Event::PromptScored(scores) => {
                for choice in 0..self.choices {
                    self.written[prompt * self.choices + choice].scores = Some(scores.clone());
                }
                None
            }
            Event::Delta { choice, text, tokens } => {
                let index = prompt * self.choices + choice;
                let (mut new_text, mut new_logprobs) = self.echoed(prompt, index);
                let written = &mut self.written[index];
                let before = written.text.len();
                written.text.push_str(&text);
                // Offsets are of the generated text; an echoed prompt is in front of it.
                let prompt_bytes = if self.echo { self.prompts[prompt].text.len() } else { 0 };
                for record in tokens {
                    if self.logprobs {
                        let offset = characters_before(&written.text, prompt_bytes + record.offset);
                        new_logprobs.push(&self.texts, record.token, record.logprobs.as_ref(), offset);
                    }
                }
                new_text.push_str(&written.text[before..]);
                Some((index, new_text, new_logprobs))
            }
            Event::Finished { choice, finish } => {
                let index = prompt * self.choices + choice;
                let (text, logprobs) = self.echoed(prompt, index);
                self.written[index].finish = Some(reasons(&finish));
                Some((index, text, logprobs))
            }
            Event::Failed(_) => None,
        }
    }

    /// The prompt's own text and logprobs, once, when they are echoed.
    fn echoed(&mut self, prompt: usize, index: usize) -> (String, CompletionLogprobs) {
        let mut logprobs = CompletionLogprobs::default();
        let written = &mut self.written[index];
        if !self.echo || written.echoed {
            return (String::new(), logprobs);
        }
        written.echoed = true;
        let prompt = &self.prompts[prompt];
        let text = prompt.text.clone();
        written.text.push_str(&text);
        if self.logprobs {
            let mut at = 0;
            for (position, &token) in prompt.tokens.iter().enumerate() {
                let score = position.checked_sub(1).and_then(|at| written.scores.as_ref()?.get(at));
                logprobs.push(&self.texts, token, score, characters_before(&text, at));
                at += self.texts.bytes(token).len();
            }
        }
        (text, logprobs)
    }

    fn choice(&self, index: usize, text: &str, logprobs: Option<&Value>) -> Value {
        let (reason, stop_reason) = match &self.written[index].finish {
            Some((reason, stop)) => (json!(reason), stop.clone()),
            None => (Value::Null, Value::Null),
        };
        json!({
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason,
            "stop_reason": stop_reason,
        })
    }
}

async fn whole(mut replies: Replies, mut writer: Writer) -> Result<Response, ApiError> {
    while let Some((prompt, event)) = replies.next().await? {
        if let Some((index, _, mut logprobs)) = writer.take(prompt, event) {
            writer.written[index].logprobs.append(&mut logprobs);
        }
    }
    let choices: Vec<Value> = (0..writer.written.len())
        .map(|index| {
            let written = &writer.written[index];
            let logprobs = writer.logprobs.then(|| written.logprobs.json());
            let mut choice = writer.choice(index, &written.text, logprobs.as_ref());
            if writer.prompt_logprobs {
                let prompt = &writer.prompts[index / writer.choices].tokens;
                let scores = written.scores.as_deref().unwrap_or_default();
                choice["prompt_logprobs"] = prompt_logprobs(&writer.texts, prompt, scores);
            }
            choice
        })
        .collect();
    let mut body = writer.head.object("text_completion");
    body.insert("choices".to_owned(), Value::Array(choices));
    body.insert("usage".to_owned(), replies.totals.usage());
    body.insert("timings".to_owned(), replies.totals.timings());
    Ok(Json(body).into_response())
}

impl Chunks for Writer {
    fn begin(&mut self) -> Vec<Value> {
        Vec::new()
    }

    fn event(&mut self, prompt: usize, event: Event) -> Vec<Value> {
        let Some((index, text, logprobs)) = self.take(prompt, event) else { return Vec::new() };
        let logprobs = (self.logprobs && !logprobs.is_empty()).then(|| logprobs.json());
        let mut chunk = self.head.object("text_completion");
        chunk.insert("choices".to_owned(), json!([self.choice(index, &text, logprobs.as_ref())]));
        if self.include_usage {
            chunk.insert("usage".to_owned(), Value::Null);
        }
        vec![Value::Object(chunk)]
    }

    fn end(&mut self, totals: &Totals) -> Vec<Value> {
        if !self.include_usage {
            return Vec::new();
        }
        let mut chunk = self.head.object("text_completion");
        chunk.insert("choices".to_owned(), json!([]));
        chunk.insert("usage".to_owned(), totals.usage());
        chunk.insert("timings".to_owned(), totals.timings());
        vec![Value::Object(chunk)]
    }
}
