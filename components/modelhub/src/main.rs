//! `modelhub serve` and the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    modelhub::cli::main()
}
