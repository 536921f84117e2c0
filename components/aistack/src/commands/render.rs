//! `aistack render`: what a manifest becomes, for review and GitOps.

use aistack_operator::Outlet;

use super::{print, print_as, read_manifest};
use crate::cli::{Output, RenderArgs};
use crate::fail::Failure;

/// Runs the command.
pub fn run(args: &RenderArgs) -> Result<(), Failure> {
    let compiled = read_manifest(&args.file)?;
    for gap in compiled.gaps_at(Outlet::Cluster) {
        eprintln!(
            "{} {}: {gap}",
            console::style("warning:").yellow().bold().for_stderr(),
            args.file.display()
        );
    }
    let manifests = if args.children { &compiled.children } else { &compiled.manifests };
    match args.output {
        Output::Yaml => print(manifests.to_yaml().trim_end()),
        Output::Json => {
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": manifests});
            print_as(Output::Json, &list)?;
        }
        Output::Table => {
            for manifest in manifests {
                print(&format!("{:<20} {}", manifest.kind(), manifest.name()));
            }
        }
    }
    Ok(())
}
