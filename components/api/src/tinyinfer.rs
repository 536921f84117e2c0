//! TinyInfer's configuration.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::EngineTask;
use crate::server::{ServerConfig, ServerConfigError};

/// Configuration of one `tinyinfer` process: one model, one HTTP and one gRPC listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinyinferConfig {
    /// Admin port, TLS, API keys, limits, telemetry.
    pub server: ServerConfig,
    /// Address of the OpenAI HTTP API.
    pub listen_http: SocketAddr,
    /// Address of the gRPC API (`platform.v1.InferenceService`).
    pub listen_grpc: SocketAddr,
    /// The model: a name in the model cache (`$AISTACK_MODELS`, else `~/.cache/aistack/models`), such as
    /// `smollm2-135m-instruct`, or the path of a `.gguf` file or of a folder with safetensors.
    pub model: String,
    /// What the model must be for: `chat` or `embed`. A model of the other kind is refused at start. Unset: either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<EngineTask>,
    /// Names that clients may call the model by; the first is the one in replies. Empty: the model's own name.
    pub served_names: Vec<String>,
    /// Threads that compute. 0: one for each core.
    pub threads: usize,
    /// Longest prompt and reply together, in tokens. 0: what the model was trained for.
    pub max_context: usize,
    /// Memory of the KV cache, in bytes.
    pub kv_memory_bytes: usize,
    /// Tokens of one KV block: 16 or 32.
    pub block_size: usize,
    /// Sequences that compute at a time; each choice of a request (`n`) is one.
    pub max_running: usize,
    /// Sequences that may wait beyond those. Over it: 429 with `Retry-After`.
    pub max_waiting: usize,
    /// Tokens computed in one step over all sequences; at least `max_running`.
    pub step_tokens: usize,
    /// Prompt tokens that one sequence computes in one step. Smaller: others stream more evenly. Larger: long prompts
    /// start sooner.
    pub prefill_chunk: usize,
    /// Longest time a request may take from arrival to its last token, in milliseconds. 0: no limit.
    pub request_timeout_ms: u64,
    /// Most choices (`n`) of one request.
    pub max_choices: usize,
    /// Most texts of one embedding or rerank request.
    pub max_inputs: usize,
}

impl Default for TinyinferConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig::with_admin(([127, 0, 0, 1], 8002).into()),
            listen_http: ([127, 0, 0, 1], 8000).into(),
            listen_grpc: ([127, 0, 0, 1], 8001).into(),
            model: "smollm2-135m-instruct".to_owned(),
            task: None,
            served_names: Vec::new(),
            threads: 0,
            max_context: 0,
            kv_memory_bytes: 512 << 20,
            block_size: 16,
            max_running: 32,
            max_waiting: 512,
            step_tokens: 512,
            prefill_chunk: 256,
            request_timeout_ms: 600_000,
            max_choices: 32,
            max_inputs: 2048,
        }
    }
}

impl TinyinferConfig {
    /// Checks the values that serde cannot.
    pub fn validate(&self) -> Result<(), TinyinferConfigError> {
        self.server.validate()?;
        if self.model.trim().is_empty() {
            return Err(TinyinferConfigError::NoModel);
        }
        if self.served_names.iter().any(|name| name.trim().is_empty()) {
            return Err(TinyinferConfigError::EmptyName);
        }
        if ![16, 32].contains(&self.block_size) {
            return Err(TinyinferConfigError::BlockSize { given: self.block_size });
        }
        let positive = [
            ("kv_memory_bytes", self.kv_memory_bytes),
            ("max_running", self.max_running),
            ("prefill_chunk", self.prefill_chunk),
            ("max_choices", self.max_choices),
            ("max_inputs", self.max_inputs),
        ];
        if let Some((field, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(TinyinferConfigError::Zero { field });
        }
        if self.step_tokens < self.max_running {
            return Err(TinyinferConfigError::StepTokens {
                step: self.step_tokens,
                running: self.max_running,
            });
        }
        if self.listen_http.port() != 0 && self.listen_http == self.listen_grpc {
            return Err(TinyinferConfigError::SameAddress { address: self.listen_http });
        }
        Ok(())
    }
}

/// What is wrong with a [`TinyinferConfig`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TinyinferConfigError {
    /// The shared part.
    #[error(transparent)]
    Server(#[from] ServerConfigError),
    /// No model is named.
    #[error("model is empty; name one, such as smollm2-135m-instruct, or give the path of a .gguf file")]
    NoModel,
    /// A served name is empty.
    #[error("served_names holds an empty name")]
    EmptyName,
    /// The kernels know two block sizes.
    #[error("block_size is {given}; it is 16 or 32 tokens")]
    BlockSize {
        /// The value given.
        given: usize,
    },
    /// A size of zero would stop all work.
    #[error("{field} is 0, which would refuse every request; leave it out for the default")]
    Zero {
        /// The field.
        field: &'static str,
    },
    /// Some running sequences would never get their token.
    #[error(
        "step_tokens is {step} and max_running {running}; a step must hold one token for each running sequence"
    )]
    StepTokens {
        /// Tokens a step.
        step: usize,
        /// Sequences running.
        running: usize,
    },
    /// Two listeners on one address.
    #[error("listen_http and listen_grpc are both {address}; give them different ports")]
    SameAddress {
        /// The address.
        address: SocketAddr,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation_names_the_field() {
        type Change = fn(&mut TinyinferConfig);
        let table: &[(Change, Option<&str>)] = &[
            (|_| {}, None),
            (|c| c.model = " ".into(), Some("model")),
            (|c| c.served_names = vec![String::new()], Some("served_names")),
            (|c| c.block_size = 20, Some("block_size")),
            (|c| c.max_running = 0, Some("max_running")),
            (|c| c.prefill_chunk = 0, Some("prefill_chunk")),
            (|c| c.step_tokens = 3, Some("step_tokens")),
            (|c| c.listen_grpc = c.listen_http, Some("listen_grpc")),
            (|c| c.server.limits.max_connections = 0, Some("max_connections")),
        ];
        for (change, expected) in table {
            let mut config = TinyinferConfig::default();
            change(&mut config);
            match (config.validate(), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(field)) => assert!(error.to_string().contains(field), "{error}"),
                (result, expected) => panic!("{result:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_file_may_name_the_model_alone() {
        let config: TinyinferConfig = serde_json::from_str(r#"{"model":"all-minilm-l6-v2"}"#).expect("valid");
        assert_eq!((config.model.as_str(), config.listen_http.port()), ("all-minilm-l6-v2", 8000));
        let error = serde_json::from_str::<TinyinferConfig>(r#"{"modle":"x"}"#).expect_err("no such field");
        assert!(error.to_string().contains("unknown field `modle`"), "{error}");
    }
}
