//! `cargo xtask`: generated files (`gen`), the gates of the house style (`tidy`), the models (`models`), container images (`images`).

mod bundle;
mod charts;
mod conditions;
mod images;
mod kinds;
mod models;
mod protos;
mod reference;
mod tidy;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Repository chores", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write every generated file: protocol code, CRDs and their chart, reference pages.
    #[command(
        after_help = "Example:\n  cargo xtask gen          write them\n  cargo xtask gen --check  fail where one is out of date"
    )]
    Gen {
        /// Write nothing; fail when a file would change.
        #[arg(long)]
        check: bool,
    },
    /// Check the gates of the house style: crate edges, file sizes, module names, where features may appear.
    Tidy,
    /// Fetch the models of the quickstart into the model cache ($AISTACK_MODELS, else the XDG cache).
    #[command(after_help = "Example:\n  cargo xtask models\n  AISTACK_MODELS=/srv/models cargo xtask models")]
    Models,
    /// Write the container images of the platform as an OCI archive, without a daemon, and the list of what is in them.
    #[command(
        after_help = "Example:\n  make build && cargo xtask images\n  cargo xtask images --model smollm2-135m-instruct --model all-minilm-l6-v2\n  ctr -n k8s.io images import out/images/aistack-*.oci.tar\n  docker load -i out/images/aistack-*.oci.tar"
    )]
    Images(images::ImagesArgs),
    /// Write the image of one static program.
    Image(images::ImageArgs),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Gen { check } => generate(check),
        Command::Tidy => tidy::run(&root()?),
        Command::Models => models::fetch_all(),
        Command::Images(args) => images::platform(&root()?, &args),
        Command::Image(args) => images::single(&args),
    }
}

/// Files derived from code, by path below the root.
fn derived(root: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = protos::generate(root)?;
    files.extend(reference::generate(root)?.into_iter().map(|(path, text)| (path, text.into_bytes())));
    files.extend(bundle::generate(root)?.into_iter().map(|(path, text)| (path, text.into_bytes())));
    files.extend(kinds::generate(root)?.into_iter().map(|(path, text)| (path, text.into_bytes())));
    let (path, text) = conditions::generate(root)?;
    files.push((path, text.into_bytes()));
    for (name, text) in aistack_crds::generated() {
        let template = charts::template(&name, &text)?;
        files.push((root.join("charts/aistack-crds/templates").join(&name), template.into()));
        files.push((root.join("crds/generated").join(name), text.into()));
    }
    Ok(files)
}

fn generate(check: bool) -> Result<()> {
    let root = root()?;
    let mut stale = Vec::new();
    for (path, content) in derived(&root)? {
        if std::fs::read(&path).is_ok_and(|present| present == content) {
            continue;
        }
        let shown = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        if check {
            stale.push(shown);
            continue;
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, content).with_context(|| format!("write {shown}"))?;
        println!("wrote {shown}");
    }
    anyhow::ensure!(stale.is_empty(), "out of date: {}\n  run: cargo xtask gen", stale.join(", "));
    Ok(())
}

/// The workspace's root: two folders above this crate.
fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.ancestors().nth(2).context("the crate lies two folders below the root")?.to_path_buf())
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_files_are_up_to_date() {
        super::generate(true).unwrap();
    }

    #[test]
    fn the_tree_is_tidy() {
        super::tidy::run(&super::root().unwrap()).unwrap();
    }
}
