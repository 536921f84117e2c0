//! The command line: `modelhub serve`, and the nouns that talk to a running server.

mod benchmark;
mod client;
mod deploy;
mod eval;
mod fetch;
mod ingest;
mod keys;
mod models;
mod output;
mod predict;
mod rag;
mod traffic;
mod walk;

use std::process::ExitCode;

use aistack_api::modelhub::ModelhubConfig;
use aistack_chassis::{CommonArgs, Component};
use clap::{CommandFactory, Parser, Subcommand};

pub use client::{ClientError, HubClient};
use output::Output;

const COMPONENT: Component =
    Component { name: "modelhub", env_prefix: "MODELHUB_", version: env!("CARGO_PKG_VERSION") };

/// Model registry, OpenAI gateway and cited answers.
#[derive(Debug, Parser)]
#[command(name = "modelhub", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  modelhub serve --config modelhub.yaml
  modelhub rag ingest handbook ./docs
  modelhub rag query handbook \"How many days in advance must leave be requested?\"
  modelhub models push sentiment ./model.onnx --label team=search
  modelhub predict smollm2-135m-instruct \"Say hello\"
  modelhub benchmark smollm2-135m-instruct --concurrency 4 --requests 50";

/// Which server the commands talk to.
#[derive(Debug, Clone, clap::Args)]
pub struct Remote {
    /// URL of the server.
    #[arg(
        long,
        global = true,
        env = "AISTACK_MODELHUB_URL",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    url: String,
    /// API key, where the server asks for one.
    #[arg(long, global = true, env = "AISTACK_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// How results are printed.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    #[command(
        after_help = "Examples:\n  modelhub serve --config modelhub.yaml\n  modelhub serve --print-config\n  \
                            modelhub serve --set listen=0.0.0.0:8080 --set 'kv.endpoints=[\"http://127.0.0.1:2379\"]'"
    )]
    Serve(Serve),
    /// Models in the registry: push, list, show, label, pull, delete
    #[command(
        subcommand,
        after_help = "Examples:\n  modelhub models push sentiment ./model.onnx --label team=search\n  \
                      modelhub models list\n  modelhub models pull sentiment:1 ./here"
    )]
    Models(models::Models),
    /// Put a model version into service (not in this version)
    Deploy(deploy::Deploy),
    /// What is being served, and by which engine
    Deployments(deploy::Deployments),
    /// Ask a model
    Predict(predict::Predict),
    /// Measure a model through the gateway: latency percentiles, time to first token, tokens a second
    Benchmark(benchmark::Benchmark),
    /// Questions about your own files, answered with citations
    #[command(
        subcommand,
        after_help = "Examples:\n  modelhub rag ingest handbook ./docs\n  \
                      modelhub rag query handbook \"Who approves travel?\"\n  modelhub rag list"
    )]
    Rag(rag::RagCommand),
    /// How requests are shared among the versions of a model: show, set, promote, rollback, restart, delete
    #[command(
        subcommand,
        after_help = "Examples:\n  modelhub traffic show\n  modelhub traffic set sentiment 3=90 4=10\n  \
                      modelhub traffic rollback sentiment"
    )]
    Traffic(traffic::Traffic),
    /// Bring a model's files into a folder, verified by SHA-256: what pods do before their engine starts
    #[command(
        after_help = "Examples:\n  modelhub fetch --from modelhub://sentiment/3 --into /var/cache/aistack/models/sentiment-3\n  \
                      modelhub fetch --from https://example.com/model.gguf --sha256 9f86d0…b0f00a08 --into ./models/m\n\n\
                      What is there already and is what it should be is not fetched again. s3://, gs:// and az:// take their\n\
                      credentials from the usual environment variables."
    )]
    Fetch(fetch::Fetch),
    /// Do nothing until told to end: what keeps a pod on its node whose work was a fetch
    #[command(after_help = "Example:\n  modelhub wait")]
    Wait,
    /// API keys: create, list, revoke
    #[command(
        subcommand,
        after_help = "Examples:\n  modelhub keys create ci --requests-per-minute 60\n  modelhub keys list\n  \
                      modelhub keys revoke 3f1c9a0b7d2e"
    )]
    Keys(keys::KeysCommand),
    /// Print the completion script of a shell
    #[command(after_help = "Example:\n  modelhub completions bash > /etc/bash_completion.d/modelhub")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    common: CommonArgs,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Serve(serve) = cli.command {
        return run_server(&serve.common);
    }
    // A second provider in the process is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the runtime cannot start: {error}")),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}

fn run_server(common: &CommonArgs) -> ExitCode {
    let loaded = aistack_chassis::config::load::<ModelhubConfig>(&COMPONENT, common, serde_json::Value::Null);
    let config = match loaded {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    if let Err(error) = config.validate() {
        return fail(&format!("configuration: {error}"));
    }
    let server = config.server.clone();
    aistack_chassis::run(COMPONENT, common, server, |ctx| crate::server::serve(config, ctx))
}

/// Why a command failed; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A local file.
    #[error("{path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not what the command needs.
    #[error("{0}")]
    Usage(String),
    /// What this version does not do.
    #[error("{0}")]
    NotHere(&'static str),
    /// A check that the command makes did not hold.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File { path: path.display().to_string(), source }
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let output = cli.remote.output;
    let client = || HubClient::new(&cli.remote.url, cli.remote.api_key.as_deref());
    match cli.command {
        Command::Serve(_) => Ok(()),
        Command::Models(command) => models::run(command, &client()?, output).await,
        Command::Deploy(command) => deploy::deploy(&command),
        Command::Deployments(command) => deploy::deployments(&command, &client()?, output).await,
        Command::Predict(command) => predict::run(command, &client()?, output).await,
        Command::Benchmark(command) => benchmark::run(command, &client()?, output).await,
        Command::Rag(command) => rag::run(command, &client()?, output).await,
        Command::Traffic(command) => traffic::run(command, &client()?, output).await,
        Command::Fetch(command) => fetch::run(&command, &client()?).await,
        Command::Wait => fetch::wait().await,
        Command::Keys(command) => keys::run(command, &client()?, output).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "modelhub", &mut std::io::stdout());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_explains_itself() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("modelhub "), "{} --help shows an example", sub.get_name());
            // The names that the quickstart serves its models under.
            assert!(!examples.contains("SmolLM2") && !examples.contains("MiniLM"), "{examples}");
            let leaves: Vec<_> = sub.get_subcommands().filter(|c| c.get_name() != "help").collect();
            let leaves = if leaves.is_empty() { vec![sub] } else { leaves };
            for leaf in leaves {
                let name = format!("{} {}", sub.get_name(), leaf.get_name());
                assert!(leaf.get_about().is_some(), "{name} says what it does");
                let example = leaf.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(example.contains("modelhub "), "{name} --help shows an example");
            }
        }
    }
}
