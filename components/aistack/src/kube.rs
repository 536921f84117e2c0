//! `aistack -k …`, and this program under the name `kubectl-aistack`: stacks on a cluster.

use std::ffi::OsString;
use std::path::Path;

use aistack_operator::plugin::{self, Cli, PluginError};
use clap::Parser as _;

/// The command line after the program's name, when a cluster is meant.
pub fn asked(args: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let args: Vec<OsString> = args.collect();
    let program =
        args.first().and_then(|program| Path::new(program).file_stem()?.to_str()).unwrap_or_default();
    if program == "kubectl-aistack" {
        return Some(args);
    }
    let first = args.get(1)?;
    (first == "-k" || first == "--kubernetes").then(|| {
        let program = args.first().cloned();
        program.into_iter().chain(args.into_iter().skip(2)).collect()
    })
}

/// Runs it.
pub fn run(args: Vec<OsString>) -> Result<(), PluginError> {
    let cli = Cli::parse_from(args);
    // A second provider in the process is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| PluginError { code: 1, message: format!("the runtime cannot start: {error}") })?;
    runtime.block_on(plugin::run(cli))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_meant_by_a_flag_or_by_the_programs_name() {
        let asked = |args: &[&str]| {
            let args = super::asked(args.iter().map(OsString::from))?;
            Some(args.into_iter().skip(1).map(|arg| arg.into_string().expect("text")).collect::<Vec<_>>())
        };
        assert_eq!(
            asked(&["aistack", "-k", "status", "-o", "json"]),
            Some(vec!["status".into(), "-o".into(), "json".into()])
        );
        assert_eq!(asked(&["/usr/bin/kubectl-aistack", "doctor"]), Some(vec!["doctor".into()]));
        assert_eq!(asked(&["aistack", "status"]), None);
        assert_eq!(asked(&["aistack"]), None);
    }
}
