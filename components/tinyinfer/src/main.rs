//! The `tinyinfer` binary.

use std::process::ExitCode;

use aistack_api::tinyinfer::TinyinferConfig;
use aistack_chassis::{CommonArgs, Component, config};
use clap::Parser;
use serde_json::{Map, Value, json};

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

    /// Address to listen on, for HTTP, gRPC and the admin port.
    #[arg(long, value_name = "ADDRESS")]
    host: Option<std::net::IpAddr>,

    /// HTTP port; gRPC takes the next one and the admin port the one after, unless they are set.
    #[arg(long, short = 'p', value_name = "PORT")]
    port: Option<u16>,

    /// gRPC port.
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<u16>,

    /// Admin port: /metrics, /healthz, /readyz.
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,

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
        let mut settings = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                settings.insert(name.to_owned(), value);
            }
        };
        let host = self.host.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
        let address = |port: u16| json!(std::net::SocketAddr::new(host, port));
        let port = self.port.or(self.host.map(|_| DEFAULT_PORT));
        let after = |offset: u16| port.filter(|port| *port > 0).map(|port| port.saturating_add(offset));
        set("model", self.model.as_ref().map(|model| json!(model)));
        set("served_names", (!self.served_names.is_empty()).then(|| json!(self.served_names)));
        set("listen_http", port.map(address));
        set("listen_grpc", self.grpc_port.or(after(1)).map(address));
        let admin = self.admin_port.or(after(2)).map(address);
        set("server", admin.map(|admin| json!({"admin_listen": admin})));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_sets_all_three() {
        let overrides = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["tinyinfer"], args].concat()).expect("valid arguments");
            cli.overrides().to_string()
        };
        assert_eq!(overrides(&[]), "{}");
        assert_eq!(
            overrides(&["--port", "9000", "--admin-port", "9100"]),
            r#"{"listen_http":"127.0.0.1:9000","listen_grpc":"127.0.0.1:9001","server":{"admin_listen":"127.0.0.1:9100"}}"#
        );
        assert_eq!(
            overrides(&["--host", "0.0.0.0", "--port", "1", "-m", "x"]),
            r#"{"model":"x","listen_http":"0.0.0.0:1","listen_grpc":"0.0.0.0:2","server":{"admin_listen":"0.0.0.0:3"}}"#
        );
    }
}
