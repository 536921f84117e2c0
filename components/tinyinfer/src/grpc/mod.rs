//! The gRPC door: `platform.v1.InferenceService`.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use serde_json::{Value, json};
use tonic::{Code, Request, Response, Status};
use wire::platform::v1::inference_service_server::{InferenceService, InferenceServiceServer};
use wire::platform::v1::{
    EmbedRequest, EmbedResponse, GenerateChunk, InferRequest, InferResponse, SamplingParameters, Usage,
    embed_response::Embedding, infer_request::Input,
};

use crate::chat::RenderOptions;
use crate::engine::{self, EmbedError, EngineError, Event, Finish, FinishReason, Reply, StopRules};
use crate::sampling::SamplingParams;
use crate::served::{Generator, Model, RoomError, Served, TextEmbedder};

/// The service around the served model.
pub fn service(served: Arc<Served>) -> InferenceServiceServer<Door> {
    InferenceServiceServer::new(Door { served })
}

/// Implements the service.
pub struct Door {
    served: Arc<Served>,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<GenerateChunk, Status>> + Send>>;

#[tonic::async_trait]
impl InferenceService for Door {
    type GenerateStream = Chunks;

    async fn infer(&self, request: Request<InferRequest>) -> Result<Response<InferResponse>, Status> {
        let (mut reply, prompt_tokens) = self.submit(request.into_inner())?;
        let mut response = InferResponse::default();
        loop {
            match reply.next().await {
                Event::Delta { text, .. } => response.text.push_str(&text),
                Event::Finished { finish, .. } => {
                    response.finish_reason = reason(&finish);
                    response.usage = Some(usage(prompt_tokens, &finish));
                    return Ok(Response::new(response));
                }
                Event::Failed(error) => return Err(engine_status(&error)),
                Event::PromptScored(_) => {}
            }
        }
    }

    async fn generate(&self, request: Request<InferRequest>) -> Result<Response<Chunks>, Status> {
        let (reply, prompt_tokens) = self.submit(request.into_inner())?;
        let stream = futures::stream::unfold(Some(reply), move |reply| async move {
            let mut reply = reply?;
            loop {
                match reply.next().await {
                    Event::Delta { text, .. } if text.is_empty() => {}
                    Event::Delta { text, .. } => {
                        let chunk = GenerateChunk { text, ..GenerateChunk::default() };
                        return Some((Ok(chunk), Some(reply)));
                    }
                    Event::Finished { finish, .. } => {
                        let chunk = GenerateChunk {
                            text: String::new(),
                            finish_reason: reason(&finish),
                            usage: Some(usage(prompt_tokens, &finish)),
                        };
                        return Some((Ok(chunk), None));
                    }
                    Event::Failed(error) => return Some((Err(engine_status(&error)), None)),
                    Event::PromptScored(_) => {}
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let request = request.into_inner();
        self.check_model(&request.model)?;
        let embedder = self.embedder()?;
        let most = self.served.limits.max_inputs;
        if request.inputs.is_empty() || request.inputs.len() > most {
            let sentence = format!("inputs: {} texts; give between 1 and {most}", request.inputs.len());
            return Err(Status::invalid_argument(sentence));
        }
        let texts: Vec<Vec<u32>> = request
            .inputs
            .iter()
            .enumerate()
            .map(|(at, text)| tokens_of(embedder, at, text))
            .collect::<Result<_, _>>()?;
        let prompt_tokens = texts.iter().map(Vec::len).sum::<usize>() as u32;
        let vectors = embedder.queue.embed(texts, self.served.limits.deadline()).await;
        let vectors = vectors.map_err(|error| embed_status(&error))?;
        Ok(Response::new(EmbedResponse {
            embeddings: vectors.into_iter().map(|values| Embedding { values }).collect(),
            usage: Some(Usage { prompt_tokens, completion_tokens: 0, cached_tokens: 0 }),
        }))
    }
}

impl Door {
    fn check_model(&self, asked: &str) -> Result<(), Status> {
        if asked.is_empty() || self.served.names.iter().any(|name| name == asked) {
            return Ok(());
        }
        let served = self.served.names.join(", ");
        Err(Status::not_found(format!("the model `{asked}` does not exist; this server serves: {served}")))
    }

    fn generator(&self) -> Result<&Generator, Status> {
        match &self.served.model {
            Model::Generator(generator) => Ok(generator),
            Model::Embedder(_) => {
                let name = self.served.name();
                Err(Status::failed_precondition(format!("{name} is an embedding model; use Embed")))
            }
        }
    }

    fn embedder(&self) -> Result<&TextEmbedder, Status> {
        match &self.served.model {
            Model::Embedder(embedder) => Ok(embedder),
            Model::Generator(_) => {
                let name = self.served.name();
                Err(Status::failed_precondition(format!("{name} is a text generator; use Infer or Generate")))
            }
        }
    }

    /// Reads a request and hands it to the engine; gives the reply and the tokens of the prompt.
    fn submit(&self, request: InferRequest) -> Result<(Reply, u32), Status> {
        self.check_model(&request.model)?;
        let generator = self.generator()?;
        let prompt = match request.input {
            None => return Err(Status::invalid_argument("input: give a prompt or a conversation")),
            Some(Input::Prompt(text)) => encode(generator, &text, true)?,
            Some(Input::Conversation(conversation)) => {
                let messages: Vec<Value> = conversation
                    .messages
                    .iter()
                    .map(|message| json!({"role": message.role, "content": message.content}))
                    .collect();
                if messages.is_empty() {
                    return Err(Status::invalid_argument("conversation.messages is empty"));
                }
                let rendered = generator.render(&messages, &RenderOptions::default());
                let rendered = rendered
                    .ok_or_else(|| {
                        Status::failed_precondition("this model has no chat template; use prompt")
                    })?
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
                encode(generator, &rendered, false)?
            }
        };
        let given = request.sampling.unwrap_or_default();
        let asked = (given.max_tokens > 0).then_some(given.max_tokens as usize);
        let max_tokens = generator.room(&prompt, asked, None).map_err(|error| room_status(&error))?;
        let stop = StopRules { strings: given.stop.clone(), ..StopRules::default() };
        let prompt_tokens = prompt.len() as u32;
        let reply = generator.engine.submit(engine::Request {
            prompt,
            max_tokens,
            choices: 1,
            sampling: sampling(&given)?,
            stop,
            prompt_logprobs: None,
            skip_special: true,
            salt: 0,
            deadline: self.served.limits.deadline(),
        });
        Ok((reply.map_err(|error| engine_status(&error))?, prompt_tokens))
    }
}

fn encode(generator: &Generator, text: &str, add_special: bool) -> Result<Vec<u32>, Status> {
    generator.check_size(text).map_err(|error| room_status(&error))?;
    generator.encode(text, add_special).map_err(|error| Status::internal(error.to_string()))
}

fn tokens_of(embedder: &TextEmbedder, at: usize, text: &str) -> Result<Vec<u32>, Status> {
    let ids = embedder.tokenizer.encode(text, true).map_err(|error| Status::internal(error.to_string()))?.ids;
    let most = embedder.max_tokens;
    if text.is_empty() || ids.len() > most {
        let sentence = format!("inputs[{at}] has {} tokens; give between 1 and {most}", ids.len());
        return Err(Status::invalid_argument(sentence));
    }
    Ok(ids)
}

fn sampling(given: &SamplingParameters) -> Result<SamplingParams, Status> {
    let default = SamplingParams::default();
    let within = |name: &str, value: Option<f32>, most: f32, default: f32| match value {
        None => Ok(default),
        Some(value) if (0.0..=most).contains(&value) => Ok(value),
        Some(value) => {
            Err(Status::invalid_argument(format!("{name} is {value}; it lies between 0 and {most}")))
        }
    };
    if given.stop.iter().any(String::is_empty) {
        return Err(Status::invalid_argument("stop holds an empty string"));
    }
    Ok(SamplingParams {
        temperature: within("temperature", given.temperature, 2.0, default.temperature)?,
        top_p: within("top_p", given.top_p, 1.0, default.top_p)?,
        min_p: within("min_p", given.min_p, 1.0, default.min_p)?,
        top_k: given.top_k.unwrap_or(0) as usize,
        seed: given.seed.unwrap_or_else(rand::random),
        ..default
    })
}

fn reason(finish: &Finish) -> String {
    if finish.reason == FinishReason::Length { "length" } else { "stop" }.to_owned()
}

fn usage(prompt_tokens: u32, finish: &Finish) -> Usage {
    Usage {
        prompt_tokens,
        completion_tokens: finish.completion_tokens as u32,
        cached_tokens: finish.cached_tokens as u32,
    }
}

fn engine_status(error: &EngineError) -> Status {
    let code = match error {
        EngineError::Busy { .. } => Code::ResourceExhausted,
        EngineError::NeverFits { .. } => Code::InvalidArgument,
        EngineError::TimedOut { .. } => Code::DeadlineExceeded,
        EngineError::Model { .. } => Code::Internal,
        EngineError::Stopped => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

fn embed_status(error: &EmbedError) -> Status {
    let code = match error {
        EmbedError::Busy { .. } => Code::ResourceExhausted,
        EmbedError::TimedOut => Code::DeadlineExceeded,
        EmbedError::Model { .. } => Code::Internal,
        EmbedError::Stopped => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

fn room_status(error: &RoomError) -> Status {
    Status::invalid_argument(error.to_string())
}
