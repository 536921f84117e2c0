//! `modelhub rag ingest`: sends what is new or changed, and deletes what vanished.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aistack_api::rag::{FileIngested, RagCreate, RagInfo, SourceFile, SyncPlan, SyncRequest};
use clap::Args;
use futures::StreamExt;
use http::Method;
use sha2::{Digest, Sha256};

use super::client::{encode, file_segments};
use super::output::{Output, counted, millis};
use super::rag::{bar, rag_path};
use super::walk::{Found, Links, walk};
use super::{CliError, HubClient};
use crate::text::FileKind;

/// Files sent at a time.
const FILES_AT_A_TIME: usize = 4;
/// Names shown of a list.
const NAMES_SHOWN: usize = 3;

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

/// What could not be ingested: why, and the files' names.
type Failures = BTreeMap<String, Vec<String>>;

pub async fn run(command: &Ingest, client: &HubClient, output: Output) -> Result<(), CliError> {
    let started = std::time::Instant::now();
    let base = rag_path(&command.name)?;
    let Found { files, skipped, unread } = walk(&command.path, Links::Inside)?;
    let (files, others): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(name, _)| FileKind::of(name).is_some());
    for (why, names) in &skipped {
        eprintln!("  {} skipped: {why} ({})", names.len(), shown(names));
    }
    if files.is_empty() && unread.is_empty() {
        let path = command.path.display();
        return Err(CliError::Usage(format!("{path}: no .txt, .md, .html or .pdf file is there")));
    }
    if !others.is_empty() {
        let names: Vec<String> = others.into_iter().map(|(name, _)| name).collect();
        eprintln!("  {} of other kinds left out ({})", counted(names.len() as u64, "file"), shown(&names));
    }
    ensure(client, &command.name).await?;
    let canonical = command.path.canonicalize().map_err(|e| CliError::file(&command.path, e))?;
    let source = (!command.replace).then(|| canonical.display().to_string());
    // What a folder holds that cannot be read is not known, so nothing counts as vanished.
    let prune = !command.keep && unread.is_empty();
    let mut request = SyncRequest { prune, source: source.clone(), files: Vec::with_capacity(files.len()) };
    let mut failures = Failures::new();
    for (folder, why) in unread {
        failures.entry(why).or_default().push(folder);
    }
    for (name, path) in &files {
        let sha256 = match std::fs::read(path) {
            Ok(bytes) => hex::encode(Sha256::digest(&bytes)),
            // It is named all the same, so that its passages stay.
            Err(_) => String::new(),
        };
        request.files.push(SourceFile { path: name.clone(), sha256 });
    }
    let plan: SyncPlan = client.post(&format!("{base}/sync"), &request).await?;
    let needed: std::collections::HashSet<&String> = plan.needed.iter().collect();
    let bar = bar(plan.needed.len() as u64, &command.name);
    let sends = files.iter().filter(|(name, _)| needed.contains(name)).map(|(name, path)| {
        let origin = source.as_deref().map(|s| format!("?source={}", encode(s))).unwrap_or_default();
        let at = file_segments(name).map(|file| format!("{base}/files/{file}{origin}"));
        let bar = &bar;
        async move {
            let done = match at {
                Ok(at) => send(client, &at, path).await,
                Err(error) => Err(error.to_string()),
            };
            bar.inc(1);
            done.map_err(|why| (name, why))
        }
    });
    let results: Vec<_> = futures::stream::iter(sends).buffer_unordered(FILES_AT_A_TIME).collect().await;
    bar.finish_and_clear();
    let sent = results.iter().filter(|result| result.is_ok()).count();
    for (name, why) in results.into_iter().filter_map(Result::err) {
        // The server names the file too; equal reasons of several files are told once.
        let why = why.strip_prefix(&format!("{name}: ")).unwrap_or(&why).to_owned();
        failures.entry(why).or_default().push(name.clone());
    }
    let rag: RagInfo = client.get(&base).await?;
    output.print(&rag, |rag| {
        format!(
            "{}  {}, {}  ({sent} sent, {} unchanged, {} deleted)  {}",
            rag.name,
            counted(rag.files, "file"),
            counted(rag.passages, "passage"),
            plan.unchanged,
            plan.deleted.len(),
            millis(started.elapsed().as_secs_f64() * 1e3),
        )
    });
    outcome(failures)
}

async fn send(client: &HubClient, at: &str, path: &Path) -> Result<FileIngested, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot be read: {e}"))?;
    client.json(client.request(Method::PUT, at).body(bytes)).await.map_err(|e| e.to_string())
}

async fn ensure(client: &HubClient, name: &str) -> Result<(), CliError> {
    match client.get::<RagInfo>(&rag_path(name)?).await {
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

/// A file that failed does not stop the others, but the command fails in the end.
fn outcome(failures: Failures) -> Result<(), CliError> {
    if failures.is_empty() {
        return Ok(());
    }
    let lines = failures.into_iter().map(|(why, mut names)| {
        names.sort();
        match names.as_slice() {
            [name] => format!("{name}: {why}"),
            names => format!("{}: {why}", counted_names(names)),
        }
    });
    Err(CliError::Failed(format!(
        "some files could not be ingested; the others were, and ingesting again sends only these:\n  {}",
        lines.collect::<Vec<_>>().join("\n  ")
    )))
}

/// “4 files (a.md, b.md, c.md, …)”.
fn counted_names(names: &[String]) -> String {
    format!("{} ({})", counted(names.len() as u64, "file"), shown(names))
}

fn shown(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().map(String::as_str).take(NAMES_SHOWN).collect();
    first.join(", ") + if names.len() > NAMES_SHOWN { ", …" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_failures_of_several_files_are_one_line_with_their_names() {
        let long = "the passage is too long".to_owned();
        let names = ["b.md", "a.md", "d.md", "c.md"].map(str::to_owned).to_vec();
        let failures = Failures::from([(long, names), ("not a PDF".to_owned(), vec!["x.pdf".to_owned()])]);
        let error = outcome(failures).expect_err("failures").to_string();
        assert!(error.contains("\n  4 files (a.md, b.md, c.md, …): the passage is too long"), "{error}");
        assert!(error.contains("\n  x.pdf: not a PDF"), "{error}");
        assert!(outcome(Failures::new()).is_ok());
    }
}
