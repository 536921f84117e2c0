//! Command-line arguments that every server takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Flatten this into a server's command line.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonArgs {
    /// Configuration file (YAML). Environment variables and flags override it.
    #[arg(long, short = 'c', value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Override one setting, such as `--set server.limits.max_connections=100`. May be given again.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,

    /// Print the effective configuration as YAML and exit.
    #[arg(long)]
    pub print_config: bool,

    /// How log lines look. Default: pretty on a terminal, JSON elsewhere.
    #[arg(long, value_enum, value_name = "FORMAT", env = "AISTACK_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,tinykv=debug`.
    #[arg(long, value_name = "LEVEL", env = "AISTACK_LOG")]
    pub log_level: Option<String>,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line, with the trace id.
    Json,
}
