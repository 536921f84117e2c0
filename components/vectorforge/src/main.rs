//! Entry point of `vectorforge`.

use std::path::PathBuf;
use std::process::ExitCode;

use aistack_api::vectorforge::VectorforgeConfig;
use aistack_chassis::{CommonArgs, Component, ListenArgs};
use clap::Parser;
use serde_json::json;
use vectorforge::Server;

const COMPONENT: Component =
    Component { name: "vectorforge", env_prefix: "VECTORFORGE_", version: env!("CARGO_PKG_VERSION") };

/// A vector database that speaks Qdrant's REST and gRPC interfaces.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  vectorforge --data-dir /var/lib/vectorforge --port 6333\n  \
                  VECTORFORGE_LISTEN_HTTP=0.0.0.0:6333 vectorforge --config vectorforge.yaml\n  \
                  vectorforge --print-config"
)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    listen: ListenArgs,

    /// Directory of the collections.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// HTTP port when only `--host` is given.
const DEFAULT_PORT: u16 = 6333;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match load(&cli) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    aistack_chassis::run(COMPONENT, &cli.common, config.server.clone(), |ctx| async move {
        Server::bind(config, ctx).await?.run().await
    })
}

fn load(cli: &Cli) -> Result<VectorforgeConfig, Box<dyn std::error::Error>> {
    let mut settings = cli.listen.settings(DEFAULT_PORT);
    if let Some(folder) = &cli.data_dir {
        settings.insert("data_dir".to_owned(), json!(folder));
    }
    let config: VectorforgeConfig = aistack_chassis::config::load(&COMPONENT, &cli.common, settings.into())?;
    config.validate()?;
    Ok(config)
}
