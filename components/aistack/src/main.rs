//! `aistack`: one manifest, a whole AI platform.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == aistack_cli::local::shim::COMMAND) {
        eprintln!("aistack: {}", aistack_cli::local::shim::become_pod(args));
        return ExitCode::from(127);
    }
    if let Some(args) = aistack_cli::kube::asked(std::env::args_os()) {
        return match aistack_cli::kube::run(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                if !error.message.is_empty() {
                    eprintln!("{} {}", console::style("error:").red().bold().for_stderr(), error.message);
                }
                ExitCode::from(error.code)
            }
        };
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
