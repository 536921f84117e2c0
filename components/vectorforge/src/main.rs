//! Entry point of `vectorforge`.

use std::process::ExitCode;

use aistack_api::vectorforge::VectorforgeConfig;
use aistack_chassis::{CommonArgs, Component};
use clap::Parser;
use vectorforge::Server;

const COMPONENT: Component =
    Component { name: "vectorforge", env_prefix: "VECTORFORGE_", version: env!("CARGO_PKG_VERSION") };

/// A vector database that speaks Qdrant's REST and gRPC interfaces.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  vectorforge --set data_dir=/var/lib/vectorforge\n  \
                  VECTORFORGE_LISTEN_HTTP=0.0.0.0:6333 vectorforge --config vectorforge.yaml\n  \
                  vectorforge --print-config"
)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
}

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
    let config: VectorforgeConfig =
        aistack_chassis::config::load(&COMPONENT, &cli.common, serde_json::Value::Null)?;
    config.validate()?;
    Ok(config)
}
