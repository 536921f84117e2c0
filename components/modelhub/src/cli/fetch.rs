//! Brings a model's files into a folder that pods of a node share: once, whoever comes first, and verified every time.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Instant;

use aistack_api::registry::VersionInfo;
use bytes::Bytes;
use clap::Args;
use futures::{Stream, StreamExt as _};
use http::Method;
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{encode, file_segments, name_segment};
use super::{CliError, HubClient, output};

/// `modelhub fetch`
#[derive(Debug, Args)]
pub struct Fetch {
    /// Where it is: `modelhub://NAME/VERSION` in the registry of the server, or a file at `https://`, `http://`, `file://`, `s3://`, `gs://`
    /// or `az://`.
    #[arg(long, value_name = "URI")]
    from: String,
    /// SHA-256 that the file must have, in hex. The registry knows its own.
    #[arg(long, value_name = "HEX", value_parser = digest)]
    sha256: Option<String>,
    /// Folder that gets the files.
    #[arg(long, value_name = "FOLDER")]
    into: PathBuf,
}

/// Until it is told to end: a container's first process is ended by no signal that it does not ask for.
pub async fn wait() -> Result<(), CliError> {
    let hear =
        |kind| signal(kind).map_err(|error| CliError::Failed(format!("signals cannot be heard: {error}")));
    let (mut terminate, mut interrupt) = (hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn digest(given: &str) -> Result<String, String> {
    let lower = given.to_ascii_lowercase();
    if lower.len() == 64 && lower.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(lower);
    }
    Err("a SHA-256 has 64 hex digits".to_owned())
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// A file that is wanted.
struct Wanted {
    name: String,
    sha256: Option<String>,
}

pub async fn run(command: &Fetch, client: &HubClient) -> Result<(), CliError> {
    std::fs::create_dir_all(&command.into).map_err(|error| CliError::file(&command.into, error))?;
    // Pods of one node start at a time: one fetches, the others wait and find it there.
    let lock = command.into.join(".lock");
    let held = File::create(&lock).and_then(|file| file.lock().map(|()| file));
    let _held = held.map_err(|error| CliError::file(&lock, error))?;
    if let Some(rest) = command.from.strip_prefix("modelhub://") {
        return from_registry(command, client, rest).await;
    }
    let name = command.from.split(['?', '#']).next().and_then(|path| path.rsplit('/').next());
    let name = name.filter(|name| !name.is_empty() && *name != "." && *name != "..").ok_or_else(|| {
        CliError::Usage(format!("--from {}: its last part is no name of a file", command.from))
    })?;
    let wanted = Wanted { name: name.to_owned(), sha256: command.sha256.clone() };
    if is_there(&command.into, &wanted)? {
        return Ok(());
    }
    let pieces = open(&command.from).await?;
    store(&command.into, &wanted, pieces).await
}

async fn from_registry(command: &Fetch, client: &HubClient, rest: &str) -> Result<(), CliError> {
    let (model, version) = rest.split_once('/').unwrap_or((rest, "latest"));
    let at = format!("/api/v1/models/{}/versions/{}", name_segment(model)?, encode(version));
    let info: VersionInfo = client.get(&at).await?;
    if info.files.is_empty() {
        return Err(CliError::Failed(format!("{model}:{version} has no files in the registry")));
    }
    for file in &info.files {
        let wanted = Wanted { name: file.path.clone(), sha256: Some(file.sha256.clone()) };
        // The registry's own rule: no path leads out of the folder.
        let path = file_segments(&file.path)?;
        if is_there(&command.into, &wanted)? {
            continue;
        }
        let response = client.send(client.request(Method::GET, &format!("{at}/files/{path}"))).await?;
        let pieces = response.bytes_stream().map(|piece| piece.map_err(|error| crate::innermost(&error)));
        store(&command.into, &wanted, Box::pin(pieces)).await?;
    }
    Ok(())
}

async fn open(uri: &str) -> Result<Pieces, CliError> {
    let failed = |why: String| CliError::Failed(format!("{uri} cannot be fetched: {why}"));
    if uri.starts_with("http://") || uri.starts_with("https://") {
        let response = reqwest::get(uri).await.map_err(|error| failed(crate::innermost(&error)))?;
        if !response.status().is_success() {
            return Err(failed(format!("it answers {}", response.status())));
        }
        let pieces = response.bytes_stream().map(|piece| piece.map_err(|error| crate::innermost(&error)));
        return Ok(Box::pin(pieces));
    }
    let url = uri.parse().map_err(|error| failed(format!("{error}")))?;
    let settings = std::env::vars().map(|(name, value)| (name.to_lowercase(), value));
    let (store, path) =
        object_store::parse_url_opts(&url, settings).map_err(|error| failed(error.to_string()))?;
    let found = object_store::ObjectStoreExt::get(&*store, &path).await;
    let found = found.map_err(|error| failed(crate::innermost(&error)))?;
    let pieces = found.into_stream().map(|piece| piece.map_err(|error| crate::innermost(&error)));
    Ok(Box::pin(pieces))
}

/// Whether a file is there and is what it should be. One that is not is fetched again.
fn is_there(folder: &Path, wanted: &Wanted) -> Result<bool, CliError> {
    let path = folder.join(&wanted.name);
    let Ok(mut file) = File::open(&path) else { return Ok(false) };
    let Some(sha256) = &wanted.sha256 else {
        println!("{} is there; nobody said what its SHA-256 should be", path.display());
        return Ok(true);
    };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(|error| CliError::file(&path, error))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    let found = hex::encode(hash.finalize());
    if found == *sha256 {
        println!("{} is there, sha256 {found}", path.display());
        return Ok(true);
    }
    println!("{} has sha256 {found}, not {sha256}: it is fetched again", path.display());
    Ok(false)
}

/// Writes a file beside its place, and moves it there when it is what it should be.
async fn store(folder: &Path, wanted: &Wanted, mut pieces: Pieces) -> Result<(), CliError> {
    let path = folder.join(&wanted.name);
    let part = folder.join(format!("{}.part", wanted.name));
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| CliError::file(&path, error)
    };
    if let Some(parent) = part.parent() {
        std::fs::create_dir_all(parent).map_err(at(parent))?;
    }
    let began = Instant::now();
    let mut file = File::create(&part).map_err(at(&part))?;
    let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
    let mut written = Ok(());
    while let Some(piece) = pieces.next().await {
        written = match piece {
            Ok(piece) => {
                hash.update(&piece);
                bytes += piece.len() as u64;
                file.write_all(&piece).map_err(at(&part))
            }
            Err(why) => Err(CliError::Failed(format!(
                "{} broke off after {}: {why}",
                wanted.name,
                output::bytes(bytes)
            ))),
        };
        if written.is_err() {
            break;
        }
    }
    let found = hex::encode(hash.finalize());
    let checked = written.and_then(|()| match &wanted.sha256 {
        Some(sha256) if *sha256 != found => Err(CliError::Failed(format!(
            "{} has sha256 {found}, not {sha256}: it is not what was asked for, and is not kept",
            wanted.name
        ))),
        _ => Ok(()),
    });
    if let Err(error) = checked {
        // The failure itself is what counts.
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    file.sync_all().map_err(at(&part))?;
    std::fs::rename(&part, &path).map_err(at(&path))?;
    let took = began.elapsed().as_secs_f64();
    println!("{} fetched, {} in {took:.1} s, sha256 {found}", path.display(), output::bytes(bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(from: String, sha256: Option<String>, into: &Path) -> Result<(), CliError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = HubClient::new("http://127.0.0.1:9", None).expect("a client");
        runtime.block_on(run(&Fetch { from, sha256, into: into.to_owned() }, &client))
    }

    #[test]
    fn a_file_is_fetched_once_and_verified_every_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, into) = (folder.path().join("model.gguf"), folder.path().join("cache"));
        std::fs::write(&source, b"weights").expect("a file");
        let right = hex::encode(Sha256::digest(b"weights"));
        let from = format!("file://{}", source.display());
        let wrong = fetch(from.clone(), Some("0".repeat(64)), &into).expect_err("not that file").to_string();
        assert!(wrong.contains("is not kept"), "{wrong}");
        assert!(!into.join("model.gguf").exists() && !into.join("model.gguf.part").exists());
        fetch(from.clone(), Some(right.clone()), &into).expect("fetched");
        // The source may be away from now on.
        std::fs::remove_file(&source).expect("it was there");
        fetch(from.clone(), Some(right.clone()), &into).expect("it is there");
        // What rots on the disk is noticed.
        std::fs::write(into.join("model.gguf"), b"weighty").expect("a file");
        let gone = fetch(from, Some(right), &into).expect_err("rotten, and the source is away").to_string();
        assert!(gone.contains("cannot be fetched"), "{gone}");
    }

    #[test]
    fn many_pods_of_a_node_fetch_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, into) = (folder.path().join("m.bin"), folder.path().join("cache"));
        std::fs::write(&source, vec![7; 3 << 20]).expect("a file");
        let right = hex::encode(Sha256::digest(vec![7; 3 << 20]));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let from = format!("file://{}", source.display());
                let (right, into) = (right.clone(), into.clone());
                scope.spawn(move || fetch(from, Some(right), &into).expect("there"));
            }
        });
        assert_eq!(std::fs::metadata(into.join("m.bin")).expect("there").len(), 3 << 20);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for from in
            ["https://h/", "ftp://h/m.gguf", "m.gguf", "file:///nowhere/m.gguf", "https://127.0.0.1:9/m"]
        {
            let error = fetch(from.to_owned(), None, folder.path()).expect_err(from).to_string();
            assert!(error.contains(from), "{from}: {error}");
        }
    }
}
