//! `POST /v1/chat/completions`: conversations, streamed or whole.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, missing, wrong_type, wrong_value};
use super::logprobs::{chat_logprobs, prompt_logprobs};
use super::params::{Generation, MOST_LOGPROBS};
use super::replies::{Head, Replies, Totals, reasons};
use super::sse::{self, Chunks};
use crate::chat::RenderOptions;
use crate::engine::{Event, TokenRecord, TokenTexts};
use crate::sampling::TokenLogprobs;
use crate::served::{Generator, Served};

/// A request that the engine has taken.
pub struct Running {
    replies: Replies,
    writer: Writer,
    stream: bool,
}

/// Reads a request and hands it to the engine.
pub fn start(served: &Served, generator: &Generator, fields: &Fields) -> Result<Running, ApiError> {
    refuse_unsupported(fields)?;
    let mut generation = Generation::read(fields, generator, served.limits, 1)?;
    generation.sampling.logprobs = logprobs(fields)?;
    let prompt = prompt(generator, fields)?;
    let room = generator.room(&prompt, generation.max_tokens, None);
    let max_tokens = room.map_err(|error| ApiError::from(error).about("messages"))?;
    let request = generation.request(prompt.clone(), max_tokens);
    let replies = Replies::submit(&generator.engine, vec![request])?;
    let writer = Writer {
        head: Head::new("chatcmpl", served.name()),
        texts: generator.engine.texts().clone(),
        logprobs: generation.sampling.logprobs.is_some(),
        prompt_logprobs: generation.prompt_logprobs.is_some(),
        include_usage: generation.include_usage,
        written: vec![Written::default(); generation.choices],
        scores: Vec::new(),
        prompt,
    };
    Ok(Running { replies, writer, stream: generation.stream })
}

/// Answers it.
pub async fn answer(running: Running) -> Result<Response, ApiError> {
    let Running { replies, writer, stream } = running;
    if stream { Ok(sse::respond(replies, writer)) } else { whole(replies, writer).await }
}

/// The conversation as the tokens that the model continues. Also what `/tokenize` shows.
pub fn prompt(generator: &Generator, fields: &Fields) -> Result<Vec<u32>, ApiError> {
    let messages = messages(fields)?;
    let continue_final_message = fields.flag("continue_final_message", false)?;
    let options = RenderOptions {
        add_generation_prompt: fields.flag("add_generation_prompt", !continue_final_message)?,
        continue_final_message,
        extra: fields.object("chat_template_kwargs")?.map(Fields::into_map).unwrap_or_default(),
        ..RenderOptions::default()
    };
    if options.add_generation_prompt && continue_final_message {
        let message = "it cannot be combined with add_generation_prompt";
        return Err(wrong_value("continue_final_message", message));
    }
    let rendered = generator.render(&messages, &options).ok_or_else(|| {
        ApiError::invalid("This model has no chat template; use /v1/completions.").about("messages")
    })??;
    generator.check_size(&rendered).map_err(|error| ApiError::from(error).about("messages"))?;
    // The template writes all special tokens itself.
    Ok(generator.encode(&rendered, fields.flag("add_special_tokens", false)?)?)
}

fn refuse_unsupported(fields: &Fields) -> Result<(), ApiError> {
    let tools = "Tool calling is not supported by this server yet.";
    fields.refuse("tools", tools)?;
    fields.refuse("functions", tools)?;
    fields.refuse("audio", "Audio is not supported by this server.")?;
    fields.refuse("chat_template", "A chat template from the request is not supported by this server.")?;
    fields.refuse("documents", "documents is not supported by this server; put them into a message.")?;
    let modalities = fields.array("modalities")?.unwrap_or_default();
    if modalities.iter().any(|modality| modality != "text") {
        return Err(ApiError::unsupported("modalities", "This server produces text only."));
    }
    Ok(())
}

fn logprobs(fields: &Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs", false)?;
    let top = fields.count("top_logprobs", 0, MOST_LOGPROBS)?;
    if top.is_some_and(|top| top > 0) && !wanted {
        return Err(wrong_value("top_logprobs", "it needs 'logprobs' to be true"));
    }
    Ok(wanted.then(|| top.unwrap_or(0)))
}

/// Checks the messages and brings their content into the form that templates read: a string.
fn messages(fields: &Fields) -> Result<Vec<Value>, ApiError> {
    let given = fields.array("messages")?.ok_or_else(|| missing("messages"))?;
    if given.is_empty() {
        return Err(wrong_value("messages", "the array is empty; give at least one message"));
    }
    given.iter().enumerate().map(|(at, message)| read_message(&format!("messages[{at}]"), message)).collect()
}

fn read_message(name: &str, message: &Value) -> Result<Value, ApiError> {
    const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
    let Value::Object(message) = message else { return Err(wrong_type(name, "an object", message)) };
    let mut message = message.clone();
    let role_name = format!("{name}.role");
    let role = match message.get("role") {
        None | Some(Value::Null) => return Err(missing(&role_name)),
        Some(Value::String(role)) => role.clone(),
        Some(other) => return Err(wrong_type(&role_name, "a string", other)),
    };
    if !ROLES.contains(&role.as_str()) {
        return Err(wrong_value(&role_name, &format!("'{role}' is none of {}", ROLES.join(", "))));
    }
    // What o1 calls developer is everyone else's system.
    if role == "developer" {
        message.insert("role".to_owned(), json!("system"));
    }
    if message.get("tool_calls").is_some_and(|calls| calls.as_array().is_none_or(|calls| !calls.is_empty())) {
        let sentence = "Tool calling is not supported by this server yet.";
        return Err(ApiError::unsupported(&format!("{name}.tool_calls"), sentence));
    }
    let content_name = format!("{name}.content");
    let text = match message.get("content") {
        None | Some(Value::Null) if role == "assistant" => String::new(),
        None | Some(Value::Null) => return Err(missing(&content_name)),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts =
                parts.iter().enumerate().map(|(at, part)| read_part(&format!("{content_name}[{at}]"), part));
            texts.collect::<Result<Vec<_>, _>>()?.join("\n")
        }
        Some(other) => return Err(wrong_type(&content_name, "a string or an array of parts", other)),
    };
    message.insert("content".to_owned(), json!(text));
    Ok(Value::Object(message))
}

fn read_part(name: &str, part: &Value) -> Result<String, ApiError> {
    match (part.get("type").and_then(Value::as_str), part.get("text")) {
        (Some("text"), Some(Value::String(text))) => Ok(text.clone()),
        (Some("text"), Some(other)) => Err(wrong_type(&format!("{name}.text"), "a string", other)),
        (Some("text"), None) => Err(missing(&format!("{name}.text"))),
        (Some(kind), _) => {
            let message = format!("'{kind}' is not supported: this model reads text only");
            Err(wrong_value(&format!("{name}.type"), &message))
        }
        (None, _) => Err(missing(&format!("{name}.type"))),
    }
}

#[derive(Debug, Clone, Default)]
struct Written {
    text: String,
    tokens: Vec<TokenRecord>,
    finish: Option<(&'static str, Value)>,
}

struct Writer {
    head: Head,
    texts: TokenTexts,
    prompt: Vec<u32>,
    logprobs: bool,
    prompt_logprobs: bool,
    include_usage: bool,
    written: Vec<Written>,
    scores: Vec<TokenLogprobs>,
}

async fn whole(mut replies: Replies, mut writer: Writer) -> Result<Response, ApiError> {
    while let Some((_, event)) = replies.next().await? {
        match event {
            Event::PromptScored(scores) => writer.scores = scores,
            Event::Delta { choice, text, tokens } => {
                let written = &mut writer.written[choice];
                written.text.push_str(&text);
                written.tokens.extend(tokens);
            }
            Event::Finished { choice, finish } => writer.written[choice].finish = Some(reasons(&finish)),
            Event::Failed(_) => {}
        }
    }
    let choice = |(index, written): (usize, &Written)| {
        let (reason, stop_reason) = written.finish.clone().unwrap_or(("stop", Value::Null));
        json!({
            "index": index,
            "message": {"role": "assistant", "content": written.text, "refusal": null},
            "logprobs": writer.logprobs.then(|| chat_logprobs(&writer.texts, &written.tokens)),
            "finish_reason": reason,
            "stop_reason": stop_reason,
        })
    };
    let mut body = writer.head.object("chat.completion");
    body.insert("choices".to_owned(), writer.written.iter().enumerate().map(choice).collect());
    body.insert("usage".to_owned(), replies.totals.usage());
    body.insert("timings".to_owned(), replies.totals.timings());
    if writer.prompt_logprobs {
        let scores = prompt_logprobs(&writer.texts, &writer.prompt, &writer.scores);
        body.insert("prompt_logprobs".to_owned(), scores);
    }
    Ok(Json(body).into_response())
}

impl Writer {
    fn chunk(
        &self,
        index: usize,
        delta: &Value,
        tokens: &[TokenRecord],
        finish: Option<&(&str, Value)>,
    ) -> Value {
        let mut chunk = self.head.object("chat.completion.chunk");
        let logprobs = (self.logprobs && !tokens.is_empty()).then(|| chat_logprobs(&self.texts, tokens));
        let mut choice = json!({
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish.map(|(reason, _)| reason),
        });
        if let Some((_, stop_reason)) = finish {
            choice["stop_reason"] = stop_reason.clone();
        }
        chunk.insert("choices".to_owned(), json!([choice]));
        if self.include_usage {
            chunk.insert("usage".to_owned(), Value::Null);
        }
        Value::Object(chunk)
    }
}

impl Chunks for Writer {
    fn begin(&mut self) -> Vec<Value> {
        let role = json!({"role": "assistant", "content": ""});
        (0..self.written.len()).map(|index| self.chunk(index, &role, &[], None)).collect()
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<Value> {
        match event {
            Event::Delta { choice, text, tokens } => {
                vec![self.chunk(choice, &json!({"content": text}), &tokens, None)]
            }
            Event::Finished { choice, finish } => {
                vec![self.chunk(choice, &json!({}), &[], Some(&reasons(&finish)))]
            }
            Event::PromptScored(_) | Event::Failed(_) => Vec::new(),
        }
    }

    fn end(&mut self, totals: &Totals) -> Vec<Value> {
        if !self.include_usage {
            return Vec::new();
        }
        let mut chunk = self.head.object("chat.completion.chunk");
        chunk.insert("choices".to_owned(), json!([]));
        chunk.insert("usage".to_owned(), totals.usage());
        chunk.insert("timings".to_owned(), totals.timings());
        vec![Value::Object(chunk)]
    }
}
