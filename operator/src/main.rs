//! Entry point of `aistack-operator`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use aistack_api::operator::OperatorConfig;
use aistack_chassis::{CommonArgs, Component};
use aistack_operator::run::Operator;
use clap::Parser;
use serde_json::{Map, json};

/// Lists of objects come and go, and what they took is given back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COMPONENT: Component = Component {
    name: "aistack-operator",
    env_prefix: "AISTACK_OPERATOR_",
    version: env!("CARGO_PKG_VERSION"),
};

/// How long an operator that is asked may take to answer well.
const PATIENCE: Duration = Duration::from_mins(1);

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

    /// Ask a running operator for this page, such as http://aistack-operator:8090/readyz, until it answers well, for a minute at most.
    #[arg(long, value_name = "URL")]
    ask: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(url) = &cli.ask {
        return ask(url);
    }
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

/// What `helm test` runs: the operator's image has no other program that could ask.
fn ask(url: &str) -> ExitCode {
    let began = Instant::now();
    loop {
        match answer(url) {
            Ok(text) => {
                println!("{text}");
                return ExitCode::SUCCESS;
            }
            Err(error) if began.elapsed() > PATIENCE => {
                eprintln!("error: {url}: {error}");
                return ExitCode::FAILURE;
            }
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

fn answer(url: &str) -> Result<String, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(aistack_operator::run::ask(url))?)
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
