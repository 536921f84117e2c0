//! Messages of `platform.v1` to OpenAI calls, and replies back.

use std::collections::VecDeque;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use wire::platform::v1::embed_response::Embedding;
use wire::platform::v1::infer_request::Input;
use wire::platform::v1::{
    EmbedRequest, EmbedResponse, GenerateChunk, InferRequest, InferResponse, SamplingParameters, Usage,
};

use crate::error::ApiError;
use crate::gateway::engine_error;
use crate::sse;

/// A call for an engine.
#[derive(Debug)]
pub struct Outgoing {
    /// Path on the engine.
    pub path: &'static str,
    /// Name of the model.
    pub model: String,
    /// JSON.
    pub body: Bytes,
    /// Whether the reply is a stream of events.
    pub stream: bool,
    /// Longest answer, when limited.
    pub max_tokens: Option<u64>,
}

/// A prompt becomes a completion, a conversation a chat completion.
pub fn infer(request: &InferRequest, stream: bool) -> Result<Outgoing, ApiError> {
    let model = model(&request.model)?;
    let sampling = request.sampling.clone().unwrap_or_default();
    let (path, name, input) = match &request.input {
        None => return Err(invalid("input: give a prompt or a conversation")),
        Some(Input::Prompt(prompt)) => ("/v1/completions", "prompt", json!(prompt)),
        Some(Input::Conversation(conversation)) if conversation.messages.is_empty() => {
            return Err(invalid("conversation.messages is empty"));
        }
        Some(Input::Conversation(conversation)) => {
            let messages = conversation.messages.iter();
            let messages: Vec<Value> =
                messages.map(|m| json!({"role": m.role, "content": m.content})).collect();
            ("/v1/chat/completions", "messages", Value::from(messages))
        }
    };
    let mut body = json!({"model": model, name: input, "stream": stream});
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    add_sampling(&mut body, &sampling)?;
    let max_tokens = (sampling.max_tokens > 0).then_some(u64::from(sampling.max_tokens));
    Ok(Outgoing { path, model: model.to_owned(), body: body.to_string().into(), stream, max_tokens })
}

/// Texts become one embeddings call.
pub fn embed(request: &EmbedRequest) -> Result<Outgoing, ApiError> {
    let model = model(&request.model)?;
    if request.inputs.is_empty() {
        return Err(invalid("inputs is empty: give at least one text"));
    }
    let body = json!({"model": model, "input": request.inputs, "encoding_format": "float"}).to_string();
    Ok(Outgoing {
        path: "/v1/embeddings",
        model: model.to_owned(),
        body: body.into(),
        stream: false,
        max_tokens: Some(0),
    })
}

fn model(name: &str) -> Result<&str, ApiError> {
    if name.is_empty() {
        let message = "model is missing: name one of those that GET /v1/models lists";
        return Err(ApiError::invalid("model_missing", message));
    }
    Ok(name)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::invalid("invalid_message", message)
}

/// What is not given is left to the engine. JSON has no NaN, so ranges are checked before anything is written.
fn add_sampling(body: &mut Value, given: &SamplingParameters) -> Result<(), ApiError> {
    if given.max_tokens > 0 {
        body["max_tokens"] = json!(given.max_tokens);
    }
    let shares =
        [("temperature", given.temperature, 2.0), ("top_p", given.top_p, 1.0), ("min_p", given.min_p, 1.0)];
    for (name, value, most) in shares {
        let Some(value) = value else { continue };
        if !(0.0..=most).contains(&value) {
            return Err(invalid(format!("{name} is {value}; it lies between 0 and {most}")));
        }
        body[name] = json!(shortest(value));
    }
    if let Some(top_k) = given.top_k.filter(|k| *k > 0) {
        body["top_k"] = json!(top_k);
    }
    if let Some(seed) = given.seed {
        body["seed"] = json!(seed);
    }
    if given.stop.iter().any(String::is_empty) {
        return Err(invalid("stop holds an empty string"));
    }
    if !given.stop.is_empty() {
        body["stop"] = json!(given.stop);
    }
    Ok(())
}

/// The number that a person would have written: 0.7, not 0.699999988079071.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[derive(Debug, Default, Deserialize)]
struct Reply {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<ReplyUsage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Choice {
    #[serde(default)]
    text: Option<String>,
    #[serde(default, alias = "delta")]
    message: Option<Message>,
    #[serde(default)]
    finish_reason: Option<String>,
}

impl Choice {
    fn into_text(self) -> String {
        self.text.or_else(|| self.message.and_then(|m| m.content)).unwrap_or_default()
    }
}

#[derive(Debug, Default, Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct ReplyUsage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Default, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

impl From<ReplyUsage> for Usage {
    fn from(usage: ReplyUsage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_tokens: usage.prompt_tokens_details.and_then(|d| d.cached_tokens).unwrap_or(0),
        }
    }
}

/// A whole completion.
pub fn completion(model: &str, reply: &[u8]) -> Result<InferResponse, ApiError> {
    let reply: Reply = parse(model, reply)?;
    let Some(mut choice) = reply.choices.into_iter().next() else {
        return Err(strange(model, "a completion without choices"));
    };
    let finish_reason = choice.finish_reason.take().unwrap_or_default();
    Ok(InferResponse { text: choice.into_text(), finish_reason, usage: reply.usage.map(Usage::from) })
}

#[derive(Debug, Deserialize)]
struct Vectors {
    data: Vec<VectorItem>,
    #[serde(default)]
    usage: Option<ReplyUsage>,
}

#[derive(Debug, Deserialize)]
struct VectorItem {
    #[serde(default)]
    index: usize,
    embedding: Vec<f32>,
}

/// The vectors of an embeddings reply, in the order of the texts.
pub fn embeddings(model: &str, texts: usize, reply: &[u8]) -> Result<EmbedResponse, ApiError> {
    let mut reply: Vectors = parse(model, reply)?;
    reply.data.sort_by_key(|item| item.index);
    if reply.data.len() != texts {
        return Err(strange(model, &format!("{} vectors for {texts} texts", reply.data.len())));
    }
    Ok(EmbedResponse {
        embeddings: reply.data.into_iter().map(|item| Embedding { values: item.embedding }).collect(),
        usage: reply.usage.map(Usage::from),
    })
}

fn parse<T: serde::de::DeserializeOwned>(model: &str, reply: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(reply)
        .map_err(|e| strange(model, &format!("something that is no OpenAI reply: {e}")))
}

fn strange(model: &str, what: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, "engine_reply_unreadable", format!("{model} answered {what}"))
}

/// An engine that went away in the middle.
pub fn broke_off(model: &str, why: &str) -> ApiError {
    ApiError::unavailable("engine_broke_off", format!("{model} broke off: {why}"), 1)
}

/// A streamed answer, chunk by chunk.
pub struct Words {
    model: String,
    stream: BodyDataStream,
    reader: sse::Reader,
    ready: VecDeque<GenerateChunk>,
    finish_reason: String,
    usage: Option<Usage>,
    ended: bool,
}

impl Words {
    /// Reads a reply; a refusal of the engine's is an error at once.
    pub async fn new(model: &str, response: http::Response<Body>) -> Result<Self, ApiError> {
        let status = response.status();
        if !status.is_success() {
            let body = response.into_body().collect().await;
            let body = body.map_err(|e| broke_off(model, &crate::innermost(&e)))?.to_bytes();
            return Err(engine_error(model, status, &body));
        }
        Ok(Self {
            model: model.to_owned(),
            stream: response.into_body().into_data_stream(),
            reader: sse::Reader::default(),
            ready: VecDeque::new(),
            finish_reason: String::new(),
            usage: None,
            ended: false,
        })
    }

    /// The next chunk; the last one carries the reason and the usage.
    pub async fn next(&mut self) -> Result<Option<GenerateChunk>, ApiError> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            if self.ended {
                return Ok(None);
            }
            match self.stream.next().await {
                Some(Ok(piece)) => {
                    for event in self.reader.push(&piece) {
                        self.take(&event.data)?;
                    }
                }
                Some(Err(error)) => return Err(broke_off(&self.model, &crate::innermost(&error))),
                None => return Err(broke_off(&self.model, "the stream ended before its end; ask again")),
            }
        }
    }

    fn take(&mut self, data: &str) -> Result<(), ApiError> {
        if self.ended {
            return Ok(());
        }
        if data == "[DONE]" {
            self.ended = true;
            self.ready.push_back(GenerateChunk {
                text: String::new(),
                finish_reason: std::mem::take(&mut self.finish_reason),
                usage: self.usage.take(),
            });
            return Ok(());
        }
        let chunk: Reply = parse(&self.model, data.as_bytes())?;
        if let Some(error) = chunk.error {
            let body = json!({ "error": error }).to_string();
            return Err(engine_error(&self.model, StatusCode::BAD_GATEWAY, body.as_bytes()));
        }
        self.usage = chunk.usage.map(Usage::from).or(self.usage.take());
        for mut choice in chunk.choices {
            if let Some(reason) = choice.finish_reason.take() {
                self.finish_reason = reason;
            }
            let text = choice.into_text();
            if !text.is_empty() {
                self.ready.push_back(GenerateChunk { text, ..GenerateChunk::default() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::platform::v1::{Conversation, Message as WireMessage};

    fn prompt(sampling: Option<SamplingParameters>) -> InferRequest {
        InferRequest { model: "m".into(), input: Some(Input::Prompt("Hi".into())), sampling }
    }

    fn conversation(messages: &[(&str, &str)]) -> InferRequest {
        let message =
            |&(role, content): &(&str, &str)| WireMessage { role: role.into(), content: content.into() };
        let messages = messages.iter().map(message).collect();
        InferRequest {
            model: "m".into(),
            input: Some(Input::Conversation(Conversation { messages })),
            sampling: None,
        }
    }

    #[test]
    fn messages_become_openai_calls() {
        let everything = SamplingParameters {
            max_tokens: 5,
            temperature: Some(0.7),
            top_p: Some(1.0),
            top_k: Some(0),
            min_p: Some(0.0),
            seed: Some(u64::MAX),
            stop: vec!["\n".into()],
        };
        let cases = [
            (prompt(None), false, "/v1/completions", json!({"model": "m", "prompt": "Hi", "stream": false})),
            (
                prompt(Some(everything)),
                true,
                "/v1/completions",
                json!({
                    "model": "m", "prompt": "Hi", "stream": true, "stream_options": {"include_usage": true},
                    "max_tokens": 5, "temperature": 0.7, "top_p": 1.0, "min_p": 0.0, "seed": u64::MAX, "stop": ["\n"]
                }),
            ),
            (
                conversation(&[("user", "Hi \"you\"")]),
                false,
                "/v1/chat/completions",
                json!({"model": "m", "messages": [{"role": "user", "content": "Hi \"you\""}], "stream": false}),
            ),
        ];
        for (request, stream, path, want) in cases {
            let got = infer(&request, stream).expect("a call");
            assert_eq!((got.path, got.stream), (path, stream));
            assert_eq!(serde_json::from_slice::<Value>(&got.body).expect("JSON"), want);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_any_engine_sees_it() {
        let with = |change: fn(&mut SamplingParameters)| {
            let mut sampling = SamplingParameters::default();
            change(&mut sampling);
            prompt(Some(sampling))
        };
        let cases = [
            (InferRequest { model: String::new(), ..prompt(None) }, "model is missing"),
            (InferRequest { input: None, ..prompt(None) }, "give a prompt or a conversation"),
            (conversation(&[]), "messages is empty"),
            (with(|s| s.temperature = Some(f32::NAN)), "temperature is NaN"),
            (with(|s| s.temperature = Some(f32::INFINITY)), "temperature is inf"),
            (with(|s| s.top_p = Some(1.5)), "top_p is 1.5"),
            (with(|s| s.min_p = Some(-0.1)), "min_p is -0.1"),
            (with(|s| s.stop = vec![String::new()]), "stop holds an empty string"),
        ];
        for (request, want) in cases {
            let error = infer(&request, true).expect_err(want);
            assert!(error.status == 400 && error.message.contains(want), "{error}");
        }
        let none = EmbedRequest { model: "m".into(), inputs: vec![] };
        assert!(embed(&none).expect_err("nothing").message.contains("inputs is empty"));
    }

    #[test]
    fn replies_of_every_engine_are_read() {
        let chat = r#"{"choices":[{"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],
            "usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        let got = completion("m", chat.as_bytes()).expect("a reply");
        assert_eq!((got.text.as_str(), got.finish_reason.as_str()), ("Hi", "stop"));
        assert_eq!(got.usage, Some(Usage { prompt_tokens: 7, completion_tokens: 3, cached_tokens: 4 }));
        let plain = r#"{"choices":[{"text":"Hi","finish_reason":"length"}],"usage":null}"#;
        let got = completion("m", plain.as_bytes()).expect("a reply");
        assert_eq!((got.text.as_str(), got.usage), ("Hi", None));
        for wrong in ["", "[]", r#"{"choices":[]}"#, "<html>"] {
            assert_eq!(completion("m", wrong.as_bytes()).expect_err(wrong).status, 502);
        }
        let vectors = r#"{"data":[{"index":1,"embedding":[2.0]},{"index":0,"embedding":[1.0]}]}"#;
        let got = embeddings("m", 2, vectors.as_bytes()).expect("vectors");
        assert_eq!(got.embeddings[1].values, [2.0]);
        assert!(embeddings("m", 3, vectors.as_bytes()).is_err());
    }
}
