//! `aistack version`.

use serde::Serialize;

use super::{print, print_as};
use crate::cli::Output;
use crate::fail::Failure;

#[derive(Serialize)]
struct Version {
    version: &'static str,
    api: &'static str,
}

/// Runs the command.
pub fn run(output: Output) -> Result<(), Failure> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), api: aistack_crds::API_VERSION };
    if output == Output::Table {
        print(&format!("aistack {}   {}", version.version, version.api));
        return Ok(());
    }
    print_as(output, &version)
}
