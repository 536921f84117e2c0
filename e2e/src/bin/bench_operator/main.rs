//! L1 to L6: the operator with a crowd of objects, on a control plane with hollow nodes; and a peer on the same.

mod bed;
mod figures;
mod ours;
mod peer;
mod phases;
mod subject;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Measures an operator with many objects; a line of JSON a figure.
#[derive(Debug, Parser)]
struct Cli {
    /// The program aistack-operator.
    #[arg(long, default_value = "aistack-operator")]
    operator: PathBuf,
    /// Objects that are applied, a multiple of twenty.
    #[arg(long, default_value_t = 1000)]
    objects: usize,
    /// How long it is watched at rest.
    #[arg(long, default_value_t = 600)]
    rest_seconds: u64,
    /// Only these figures, such as L1,L2.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measure KubeRay's operator in its place: this program,
    #[arg(long, requires = "peer_kinds")]
    peer: Option<PathBuf>,
    /// with its kinds in this folder,
    #[arg(long)]
    peer_kinds: Option<PathBuf>,
    /// and so many reconciliations at a time; 1 is its default.
    #[arg(long, default_value_t = 1)]
    peer_workers: usize,
    /// What was built.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Where it is measured.
    #[arg(long, default_value = "unknown")]
    machine: String,
    /// The day.
    #[arg(long, default_value = "unknown")]
    date: String,
}

impl Cli {
    /// Whether a figure is wanted: all are when none is named.
    fn wants(&self, id: &str) -> bool {
        self.only.iter().all(String::is_empty) || self.only.iter().any(|only| only == id)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    match (&cli.peer, &cli.peer_kinds) {
        (Some(program), Some(kinds)) => peer::measure(&cli, program, kinds).await,
        _ => ours::measure(&cli).await,
    }
}
