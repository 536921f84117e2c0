//! `aistack`: one manifest, a whole AI platform.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == aistack_cli::local::shim::COMMAND) {
        eprintln!("aistack: {}", aistack_cli::local::shim::become_pod(args));
        return ExitCode::from(127);
    }
    match aistack_cli::run(aistack_cli::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("{} {}", console::style("error:").red().bold().for_stderr(), failure.message);
            }
            ExitCode::from(failure.code as u8)
        }
    }
}
