//! `modelhub rag ingest`: sends what is new or changed, and deletes what vanished.

use std::path::{Path, PathBuf};

use aistack_api::rag::{FileIngested, RagCreate, RagInfo, SourceFile, SyncPlan, SyncRequest};
use clap::Args;
use futures::StreamExt;
use http::Method;
use sha2::{Digest, Sha256};

use super::client::encode_path;
use super::output::{Output, millis, thousands};
use super::rag::{bar, rag_path};
use super::{CliError, HubClient};
use crate::text::FileKind;

/// Files sent at a time.
const FILES_AT_A_TIME: usize = 4;

/// `rag ingest`
#[derive(Debug, Args)]
pub struct Ingest {
    /// Name of the rag; made when it does not exist.
    name: String,
    /// Directory or file.
    path: PathBuf,
    /// Keep passages of files that vanished from the source.
    #[arg(long)]
    keep: bool,
    /// Make this the only source: files of every other source are deleted.
    #[arg(long, conflicts_with = "keep")]
    replace: bool,
}

/// All files below a directory (or the file itself) with their relative paths; hidden ones are left out.
pub fn walk(root: &Path) -> Result<Vec<(String, PathBuf)>, CliError> {
    if std::fs::metadata(root).map_err(|e| CliError::file(root, e))?.is_file() {
        let name = root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(vec![(name, root.to_owned())]);
    }
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), root.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| CliError::file(&folder, e))? {
            let entry = entry.map_err(|e| CliError::file(&folder, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let path = entry.path();
            // Follows links, as people expect of a folder of documents; a broken one is left out.
            match std::fs::metadata(&path) {
                Ok(kind) if kind.is_dir() => folders.push((format!("{prefix}{name}/"), path)),
                Ok(kind) if kind.is_file() => files.push((format!("{prefix}{name}"), path)),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

pub async fn run(command: &Ingest, client: &HubClient, output: Output) -> Result<(), CliError> {
    let started = std::time::Instant::now();
    let (files, skipped): (Vec<_>, Vec<_>) =
        walk(&command.path)?.into_iter().partition(|(name, _)| FileKind::of(name).is_some());
    if files.is_empty() {
        let path = command.path.display();
        return Err(CliError::Usage(format!("{path}: no .txt, .md, .html or .pdf file is there")));
    }
    if !skipped.is_empty() {
        let names: Vec<&str> = skipped.iter().map(|(name, _)| name.as_str()).take(3).collect();
        eprintln!(
            "  {} files of other kinds are left out ({}{})",
            skipped.len(),
            names.join(", "),
            if skipped.len() > 3 { ", …" } else { "" }
        );
    }
    ensure(client, &command.name).await?;
    let canonical = command.path.canonicalize().map_err(|e| CliError::file(&command.path, e))?;
    let source = (!command.replace).then(|| canonical.display().to_string());
    let mut request =
        SyncRequest { prune: !command.keep, source: source.clone(), files: Vec::with_capacity(files.len()) };
    for (name, path) in &files {
        let bytes = std::fs::read(path).map_err(|e| CliError::file(path, e))?;
        request.files.push(SourceFile { path: name.clone(), sha256: hex::encode(Sha256::digest(&bytes)) });
    }
    let base = rag_path(&command.name);
    let plan: SyncPlan = client.post(&format!("{base}/sync"), &request).await?;
    let bar = bar(plan.needed.len() as u64, &command.name);
    let sends = files.iter().filter(|(name, _)| plan.needed.contains(name)).map(|(name, path)| {
        let origin = source.as_deref().map(|s| format!("?source={}", encode_path(s))).unwrap_or_default();
        let at = format!("{base}/files/{}{origin}", encode_path(name));
        let bar = &bar;
        async move {
            let bytes = std::fs::read(path).map_err(|e| CliError::file(path, e))?;
            let done = client.json::<FileIngested>(client.request(Method::PUT, &at).body(bytes)).await;
            bar.inc(1);
            Ok::<_, CliError>(done)
        }
    });
    let results: Vec<_> = futures::stream::iter(sends).buffer_unordered(FILES_AT_A_TIME).collect().await;
    bar.finish_and_clear();
    report(client, output, &command.name, &plan, results, started).await
}

async fn ensure(client: &HubClient, name: &str) -> Result<(), CliError> {
    match client.get::<RagInfo>(&rag_path(name)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is("rag_not_found") => {
            let request = RagCreate { name: name.to_owned(), ..RagCreate::default() };
            match client.post::<_, RagInfo>("/api/v1/rag", &request).await {
                Err(error) if !error.is("rag_exists") => Err(error.into()),
                _ => Ok(()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// What came of an ingest. An unreadable file does not stop the others, but the command fails in the end.
async fn report(
    client: &HubClient,
    output: Output,
    name: &str,
    plan: &SyncPlan,
    results: Vec<Result<Result<FileIngested, super::ClientError>, CliError>>,
    started: std::time::Instant,
) -> Result<(), CliError> {
    let mut sent = 0;
    let mut failed = Vec::new();
    for result in results {
        match result? {
            Ok(_) => sent += 1,
            Err(error @ super::ClientError::Refused { .. }) => failed.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    let rag: RagInfo = client.get(&rag_path(name)).await?;
    output.print(&rag, |rag| {
        format!(
            "{}  {} files, {} passages  ({sent} sent, {} unchanged, {} deleted)  {}",
            rag.name,
            thousands(rag.files),
            thousands(rag.passages),
            plan.unchanged,
            plan.deleted.len(),
            millis(started.elapsed().as_secs_f64() * 1e3),
        )
    });
    if failed.is_empty() {
        return Ok(());
    }
    failed.sort();
    failed.dedup();
    Err(CliError::Failed(format!(
        "some files could not be ingested; the others were, and ingesting again sends only these:\n  {}",
        failed.join("\n  ")
    )))
}
