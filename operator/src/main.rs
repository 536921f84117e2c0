//! Entry point of `aistack-operator`.

use std::process::ExitCode;

use aistack_api::operator::OperatorConfig;
use aistack_chassis::{CommonArgs, Component};
use aistack_operator::run::Operator;
use clap::Parser;
use serde_json::{Map, json};

const COMPONENT: Component = Component {
    name: "aistack-operator",
    env_prefix: "AISTACK_OPERATOR_",
    version: env!("CARGO_PKG_VERSION"),
};

/// Makes what the kinds of platform.dev/v1 ask for, and keeps it so.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  aistack-operator\n  KUBECONFIG=~/.kube/config aistack-operator --namespace team\n  \
                  aistack-operator --print-config"
)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,

    /// The one namespace that it sees; left out, all.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
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
        Operator::infer(&config, &ctx.metrics).await?.run(ctx.health, ctx.shutdown).await
    })
}

fn load(cli: &Cli) -> Result<OperatorConfig, Box<dyn std::error::Error>> {
    let mut settings = Map::new();
    if let Some(namespace) = &cli.namespace {
        settings.insert("namespace".to_owned(), json!(namespace));
    }
    let config: OperatorConfig = aistack_chassis::config::load(&COMPONENT, &cli.common, settings.into())?;
    config.validate()?;
    Ok(config)
}
