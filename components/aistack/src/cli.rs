//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// One manifest, a whole AI platform: on this machine now, on a cluster later.
#[derive(Debug, Parser)]
#[command(
    name = "aistack",
    version,
    about,
    after_help = "Examples:\n  \
        aistack up -f examples/quickstart/stack.yaml    start a stack and follow its logs\n  \
        aistack up --detach -f stack.yaml               start it in the background\n  \
        aistack status                                  how it is\n  \
        aistack ask \"How do I request leave?\"           ask it\n  \
        aistack down                                    stop it\n  \
        aistack -k status                               stacks on a cluster; the same as kubectl aistack\n\n\
        Exit codes: 0 well, 1 failed, 2 command line or manifest refused, 3 up already or not up, 4 not Ready."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a stack on this machine.
    #[command(
        after_help = "Examples:\n  aistack up -f examples/quickstart/stack.yaml\n  aistack up --detach -f stack.yaml\n  \
        aistack up --port 8090 -f stack.yaml\n  aistack up --detach --traces -f stack.yaml\n\n\
        Runs the same StatefulSets and Deployments that `aistack render` prints, as processes on the loopback address.\n\
        Ctrl-C stops them in order; a second Ctrl-C at once. Data stays until `aistack down --purge`."
    )]
    Up(UpArgs),
    /// Stop a stack.
    #[command(after_help = "Examples:\n  aistack down\n  aistack down --purge     delete its data too")]
    Down(DownArgs),
    /// Show how a stack is.
    #[command(
        after_help = "Examples:\n  aistack status\n  aistack status -o json\n\nExit code 4 when a pod is not Ready."
    )]
    Status(StatusArgs),
    /// Print what the pods print.
    #[command(
        after_help = "Examples:\n  aistack logs\n  aistack logs -f modelhub-0\n  aistack logs --tail 20 tinykv-0 vectorforge-0"
    )]
    Logs(LogsArgs),
    /// Print the Kubernetes objects that a manifest becomes.
    #[command(
        after_help = "Examples:\n  aistack render -f stack.yaml | kubectl apply -f -\n  aistack render -f stack.yaml --children\n  \
        aistack render -f stack.yaml -o json\n\nWhat this version cannot do yet is said on stderr."
    )]
    Render(RenderArgs),
    /// Ask a question about ingested documents, and see the answer with its sources.
    #[command(
        after_help = "Examples:\n  aistack ask \"How many days in advance must leave be requested?\"\n  \
        aistack ask --rag handbook -o json \"Who approves travel?\"\n\n\
        Ingest documents first: modelhub rag create handbook && modelhub rag ingest handbook ./my-docs"
    )]
    Ask(AskArgs),
    /// Show where the time of one request went, over all components.
    #[command(after_help = "Examples:\n  aistack trace                      the latest ask\n  \
        aistack trace 7e0e53a5             the one whose id `aistack ask` printed; its beginning is enough\n  \
        aistack trace --list               the latest ones\n  \
        aistack trace -o jaeger > t.json   for the upload of Jaeger's UI\n\n\
        The stack must have been started with `aistack up --traces`.")]
    Trace(TraceArgs),
    /// Say what is missing on this machine, and how to get it.
    #[command(
        after_help = "Examples:\n  aistack doctor\n  aistack doctor -o json\n\nExit code 1 when something needed is missing."
    )]
    Doctor(OutputArgs),
    /// Print the version.
    #[command(after_help = "Examples:\n  aistack version\n  aistack version -o json")]
    Version(OutputArgs),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Examples:\n  source <(aistack completions bash)\n  aistack completions zsh > ~/.zfunc/_aistack\n  \
        aistack completions fish > ~/.config/fish/completions/aistack.fish"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Runs a stack that was started in the background.
    #[command(name = crate::commands::up::SUPERVISE, hide = true)]
    Supervise {
        /// Folder of the stack.
        folder: PathBuf,
        /// Manifest that it was started from.
        manifest: PathBuf,
    },
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Which stack.
#[derive(Clone, Debug, Args)]
pub struct StackArgs {
    /// Name of the stack. Needed only when several are up.
    #[arg(long, value_name = "NAME", value_parser = stack_name)]
    pub stack: Option<String>,
}

/// `aistack up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Manifest; `-` reads standard input.
    #[arg(short, long, value_name = "FILE", default_value = "stack.yaml")]
    pub file: PathBuf,
    /// Return once every pod is Ready, and leave the stack running.
    #[arg(short, long)]
    pub detach: bool,
    /// Port of the front door. Left out: the manifest's, 8080.
    #[arg(short, long, value_name = "N", value_parser = port)]
    pub port: Option<u16>,
    /// Record the spans of every request under the stack's state, for `aistack trace`; at most 32 MiB a pod are kept.
    #[arg(long)]
    pub traces: bool,
    /// Longest wait for Ready with --detach, such as 90s or 10m.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: std::time::Duration,
}

/// `aistack down`.
#[derive(Clone, Debug, Args)]
pub struct DownArgs {
    /// Which stack.
    #[command(flatten)]
    pub stack: StackArgs,
    /// Delete its data, logs and keys too.
    #[arg(long)]
    pub purge: bool,
}

/// `aistack status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Which stack.
    #[command(flatten)]
    pub stack: StackArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `aistack logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArgs {
    /// Which stack.
    #[command(flatten)]
    pub stack: StackArgs,
    /// Pods; all when none is named.
    pub pods: Vec<String>,
    /// Go on printing what they print.
    #[arg(short, long)]
    pub follow: bool,
    /// Lines of each pod to begin with.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub tail: usize,
    /// Print lines as the pods wrote them, JSON as JSON.
    #[arg(long)]
    pub raw: bool,
}

/// `aistack render`.
#[derive(Clone, Debug, Args)]
pub struct RenderArgs {
    /// Manifest; `-` reads standard input.
    #[arg(short, long, value_name = "FILE", default_value = "stack.yaml")]
    pub file: PathBuf,
    /// Print the child objects that a stack's controller applies, in place of what they become.
    #[arg(long)]
    pub children: bool,
    /// How to print; a table lists the objects.
    #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
    pub output: Output,
}

fn port(given: &str) -> Result<u16, String> {
    given
        .parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| "a port is a number from 1 to 65535, such as 8090".to_owned())
}

fn duration(given: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(given).map_err(|_| "write a time with its unit, such as 90s or 10m".to_owned())
}

fn url(given: &str) -> Result<String, String> {
    let parsed = reqwest::Url::parse(given).ok();
    if parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        return Ok(given.to_owned());
    }
    Err("write an address such as http://127.0.0.1:8080".to_owned())
}

/// A stack's name is a folder's as well, so nothing else than a name may come through.
fn stack_name(given: &str) -> Result<String, String> {
    if aistack_api::operator::is_label(given) {
        return Ok(given.to_owned());
    }
    Err("a stack's name is the metadata.name of its manifest: up to 63 lower-case letters, digits and '-'"
        .to_owned())
}

/// How to print a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TraceOutput {
    /// For people.
    #[default]
    Table,
    /// Its spans, for programs.
    Json,
    /// Its spans, for both.
    Yaml,
    /// OTLP JSON, an `ExportTraceServiceRequest`: for collectors, and for Jaeger's upload.
    Otlp,
    /// Jaeger's own JSON, for the upload of its UI.
    Jaeger,
}

/// `aistack trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Trace id, or its beginning. Left out: the latest ask.
    #[arg(value_name = "TRACE_ID", value_parser = trace_id)]
    pub id: Option<String>,
    /// List the latest traces instead, newest first.
    #[arg(long, conflicts_with = "id")]
    pub list: bool,
    /// Which stack.
    #[command(flatten)]
    pub stack: StackArgs,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: TraceOutput,
}

fn trace_id(given: &str) -> Result<String, String> {
    let given = given.trim_end_matches('…');
    if (1..=32).contains(&given.len()) && given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(given.to_ascii_lowercase());
    }
    Err("a trace id has up to 32 hex digits, such as 7e0e53a5; `aistack ask` prints it, `aistack trace --list` lists them".to_owned())
}

/// `aistack ask`.
#[derive(Clone, Debug, Args)]
pub struct AskArgs {
    /// The question; quotes around it may be left out.
    #[arg(required = true, num_args = 1..)]
    pub question: Vec<String>,
    /// Name of the rag. Needed only when there are several.
    #[arg(long, value_name = "NAME")]
    pub rag: Option<String>,
    /// Which stack.
    #[command(flatten)]
    pub stack: StackArgs,
    /// Address of a ModelHub, in place of a stack's on this machine.
    #[arg(long, value_name = "URL", env = "AISTACK_MODELHUB_URL", value_parser = url)]
    pub url: Option<String>,
    /// API key, where the ModelHub asks for one.
    #[arg(long, value_name = "KEY", env = "AISTACK_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Passages to retrieve. Left out: the server's default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub top_k: Option<u32>,
    /// How to print; json and yaml print the whole answer at its end.
    #[command(flatten)]
    pub output: OutputArgs,
}
