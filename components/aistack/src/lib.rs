//! # aistack
//!
//! The command line: `up`, `down`, `status`, `logs`, `render`, `ask`, `trace`, `doctor`, `version`, `completions`. `up` runs the very
//! StatefulSets and Deployments that `render` prints, as processes of this machine: probes, restarts with back-off,
//! config and secrets as files, Service names resolved to loopback ports.
//!
//! It refuses to know what a component does. It knows manifests (through `aistack-operator`), processes, and for `status`
//! and `ask` the protocols that the components speak.
//!
//! ```
//! use aistack_cli::local::rewrite::{Rewriter, Target};
//!
//! let mut rewriter = Rewriter::default();
//! rewriter.names.insert("tinykv".into(), Target { ports: [(2379, 40001)].into(), pods: ["tinykv-0".to_owned()].into() });
//! let (config, needs) = rewriter.document("kv: {endpoints: ['http://tinykv:2379']}");
//! assert!(config.contains("http://127.0.0.1:40001"));
//! assert!(needs.contains("tinykv-0"));
//! ```

pub mod cli;
pub mod commands;
pub mod fail;
pub mod kube;
pub mod local;
pub mod log_line;
pub mod spans;
pub mod view;

use cli::{Cli, Command};
use fail::Failure;

/// Runs a command.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Up(args) => commands::up::run(&args),
        Command::Down(args) => commands::down::run(&args),
        Command::Status(args) => commands::status::run(&args),
        Command::Logs(args) => commands::logs::run(&args),
        Command::Render(args) => commands::render::run(&args),
        Command::Ask(args) => commands::ask::run(&args),
        Command::Trace(args) => commands::trace::run(&args),
        Command::Doctor(args) => commands::doctor::run(args.output),
        Command::Version(args) => commands::version::run(args.output),
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "aistack", &mut std::io::stdout());
            Ok(())
        }
        Command::Supervise { folder, manifest } => commands::up::supervise(folder, manifest),
    }
}
