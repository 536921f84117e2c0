//! The `tinyinfer` binary.

use std::process::ExitCode;

use aistack_api::tinyinfer::TinyinferConfig;
use aistack_chassis::{CommonArgs, Component, ListenArgs, config};
use clap::Parser;
use serde_json::{Value, json};

const COMPONENT: Component =
    Component { name: "tinyinfer", env_prefix: "TINYINFER_", version: env!("CARGO_PKG_VERSION") };

/// HTTP port when only `--host` is given.
const DEFAULT_PORT: u16 = 8000;

const EXAMPLES: &str = "\
Examples:
  tinyinfer --model smollm2-135m-instruct
  tinyinfer --model ./model.gguf --served-name chat --port 9000
  tinyinfer --model all-minilm-l6-v2 --port 8010
  tinyinfer --config tinyinfer.yaml --set max_running=16
  TINYINFER_MODEL=smollm2-135m-instruct TINYINFER_THREADS=4 tinyinfer

  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"stream\": true}'
";

/// Serves one model, a text generator or an embedder, over OpenAI's HTTP API and gRPC.
#[derive(Debug, Parser)]
#[command(name = "tinyinfer", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,

    /// The model: a name in the model cache ($AISTACK_MODELS, else ~/.cache/aistack/models), a .gguf file, or a folder
    /// with safetensors.
    #[arg(long, short = 'm', value_name = "NAME_OR_PATH")]
    model: Option<String>,

    /// Name that clients call the model by. May be given again; the first is the one in replies.
    #[arg(long = "served-name", value_name = "NAME")]
    served_names: Vec<String>,

    #[command(flatten)]
    listen: ListenArgs,

    /// Threads that compute. 0: one for each core.
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,

    /// Longest prompt and reply together, in tokens.
    #[arg(long, value_name = "TOKENS")]
    max_context: Option<usize>,
}

impl Cli {
    /// The flags that were given, as settings.
    fn overrides(&self) -> Value {
        let mut settings = self.listen.settings(DEFAULT_PORT);
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                settings.insert(name.to_owned(), value);
            }
        };
        set("model", self.model.as_ref().map(|model| json!(model)));
        set("served_names", (!self.served_names.is_empty()).then(|| json!(self.served_names)));
        set("threads", self.threads.map(|threads| json!(threads)));
        set("max_context", self.max_context.map(|tokens| json!(tokens)));
        Value::Object(settings)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match config::load::<TinyinferConfig>(&COMPONENT, &cli.common, cli.overrides()) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    if let Err(error) = config.validate() {
        return fail(&error);
    }
    let server = config.server.clone();
    aistack_chassis::run(COMPONENT, &cli.common, server, |ctx| tinyinfer::server::run(config, ctx))
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}
