//! `modelhub models`

use std::io::Read;
use std::path::{Path, PathBuf};

use aistack_api::registry::{
    Deleted, FileInfo, FileLink, Labels, Lineage, ModelCreate, ModelInfo, ModelList, Update, VersionCreate,
    VersionInfo, VersionList,
};
use clap::{Args, Subcommand};
use futures::StreamExt;
use http::Method;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::client::{ClientError, encode, file_segments, name_segment};
use super::output::{Output, age, bytes, counted, table};
use super::walk::{Links, regular, walk};
use super::{CliError, HubClient};

/// Models in the registry.
#[derive(Debug, Subcommand)]
pub enum Models {
    /// Models with their latest versions
    #[command(
        after_help = "Examples:\n  modelhub models list\n  modelhub models list --label team=search -o json"
    )]
    List {
        /// Only models with this label (NAME=VALUE); may be given again.
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
    },
    /// A model with its versions and files
    #[command(after_help = "Example:\n  modelhub models show sentiment")]
    Show {
        /// Name of the model.
        model: String,
    },
    /// Push files as a new version; registers the model when it is new
    #[command(after_help = "Examples:\n  modelhub models push sentiment ./model.onnx\n  \
                            modelhub models push smollm2 ./smollm2 --label quant=q4_1 --parent smollm2:1 --dataset smoltalk")]
    Push(Push),
    /// Download the files of a version
    #[command(
        after_help = "Examples:\n  modelhub models pull sentiment ./here\n  modelhub models pull sentiment:2 ./here"
    )]
    Pull {
        /// Model, or model and version (`sentiment:2`); the latest version when none is named.
        model: String,
        /// Directory to write to; made when missing.
        directory: PathBuf,
    },
    /// Set or remove labels of a model or version
    #[command(
        after_help = "Examples:\n  modelhub models label sentiment team=search\n  modelhub models label sentiment:2 stage=prod old-"
    )]
    Label {
        /// Model, or model and version.
        model: String,
        /// NAME=VALUE sets a label, NAME- removes it.
        #[arg(required = true)]
        labels: Vec<String>,
    },
    /// Delete a version, or a model with all its versions
    #[command(
        after_help = "Examples:\n  modelhub models delete sentiment:2\n  modelhub models delete sentiment"
    )]
    Delete {
        /// Model, or model and version.
        model: String,
    },
}

/// What is pushed.
#[derive(Debug, Args)]
pub struct Push {
    /// Name of the model.
    model: String,
    /// Files and directories.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// What changed.
    #[arg(long, default_value = "")]
    description: String,
    /// Label of the version (NAME=VALUE); may be given again.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// JSON file with the schema of inputs and outputs.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Version that it was made from, such as `sentiment:1`.
    #[arg(long, value_name = "MODEL:VERSION")]
    parent: Option<String>,
    /// Data that it was trained on.
    #[arg(long)]
    dataset: Option<String>,
    /// Run that made it.
    #[arg(long)]
    run: Option<String>,
    /// Code that made it.
    #[arg(long)]
    code: Option<String>,
}

pub async fn run(command: Models, client: &HubClient, output: Output) -> Result<(), CliError> {
    match command {
        Models::List { labels } => list(client, output, &labels).await,
        Models::Show { model } => show(client, output, &model).await,
        Models::Push(push) => push_version(client, output, push).await,
        Models::Pull { model, directory } => pull(client, output, &model, &directory).await,
        Models::Label { model, labels } => label(client, output, &model, &labels).await,
        Models::Delete { model } => {
            let gone: Deleted = client.delete(&path_of(&model)?).await?;
            output.print(&gone, |g| {
                format!("deleted {}, {} of artefacts freed", g.deleted, bytes(g.freed_bytes))
            });
            Ok(())
        }
    }
}

/// `sentiment` or `sentiment:2` as a path of the API.
fn path_of(model: &str) -> Result<String, ClientError> {
    let Some((name, version)) = model.split_once(':') else {
        return Ok(format!("/api/v1/models/{}", name_segment(model)?));
    };
    let name = name_segment(name)?;
    crate::registry::check_version(version).map_err(|refused| ClientError::Name(refused.message))?;
    Ok(format!("/api/v1/models/{name}/versions/{version}"))
}

fn read_labels(given: &[String]) -> Result<Labels, CliError> {
    let pair = |text: &String| {
        let pair = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let named = pair.filter(|(name, _): &(String, String)| !name.trim().is_empty());
        named.ok_or_else(|| CliError::Usage(format!("--label {text}: write NAME=VALUE")))
    };
    given.iter().map(pair).collect()
}

fn show_labels(labels: &Labels) -> String {
    let shown: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(",") }
}

async fn list(client: &HubClient, output: Output, labels: &[String]) -> Result<(), CliError> {
    let query: Vec<String> = read_labels(labels)?
        .iter()
        .map(|(name, value)| format!("label={}", encode(&format!("{name}={value}"))))
        .collect();
    let list: ModelList = client.get(&format!("/api/v1/models?{}", query.join("&"))).await?;
    output.print(&list, |list| {
        if list.models.is_empty() {
            return "no models; push one with  modelhub models push NAME FILE".to_owned();
        }
        let row = |m: &ModelInfo| {
            vec![
                m.name.clone(),
                if m.latest_version == 0 { "-".to_owned() } else { m.latest_version.to_string() },
                show_labels(&m.labels),
                age(m.updated_ms),
                m.description.clone(),
            ]
        };
        let rows: Vec<Vec<String>> = list.models.iter().map(row).collect();
        table(&["name", "latest", "labels", "changed", "description"], &rows)
    });
    Ok(())
}

async fn show(client: &HubClient, output: Output, model: &str) -> Result<(), CliError> {
    #[derive(serde::Serialize)]
    struct Shown {
        model: ModelInfo,
        versions: Vec<VersionInfo>,
    }
    let info: ModelInfo = client.get(&path_of(model)?).await?;
    let versions: VersionList = client.get(&format!("{}/versions", path_of(model)?)).await?;
    output.print(&Shown { model: info, versions: versions.versions }, |shown| {
        let m = &shown.model;
        let mut text = format!("{}  {}\nlabels  {}\n\n", m.name, m.description, show_labels(&m.labels));
        let mut rows = Vec::new();
        for version in shown.versions.iter().rev() {
            let mut first = [
                if version.is_complete() {
                    version.version.to_string()
                } else {
                    format!("{} (unfinished)", version.version)
                },
                age(version.created_ms),
                show_labels(&version.labels),
                lineage(version),
            ];
            for file in &version.files {
                let mut row = first.to_vec();
                row.extend([file.path.clone(), bytes(file.bytes), file.sha256[..12].to_owned()]);
                rows.push(row);
                first = Default::default();
            }
            if version.files.is_empty() {
                rows.push(first.to_vec());
            }
        }
        text.push_str(&table(&["version", "age", "labels", "from", "file", "size", "sha256"], &rows));
        text
    });
    Ok(())
}

fn lineage(version: &VersionInfo) -> String {
    let Some(lineage) = &version.lineage else { return "-".to_owned() };
    let parts = [&lineage.parent, &lineage.dataset, &lineage.run, &lineage.code];
    parts.into_iter().flatten().cloned().collect::<Vec<_>>().join(" + ")
}

async fn push_version(client: &HubClient, output: Output, push: Push) -> Result<(), CliError> {
    let at = path_of(&push.model)?;
    if push.model.contains(':') {
        return Err(CliError::Usage("a push makes the next version: name the model without one".to_owned()));
    }
    let files = collect(&push.paths)?;
    let schema = push.schema.as_deref().map(read_schema).transpose()?;
    if let Some(parent) = &push.parent {
        check_parent(client, parent).await?;
    }
    let lineage = Lineage { parent: push.parent, dataset: push.dataset, run: push.run, code: push.code };
    let version = VersionCreate {
        description: push.description,
        labels: read_labels(&push.labels)?,
        schema,
        lineage: (lineage != Lineage::default()).then_some(lineage),
        files: files.iter().map(|(name, _)| name.clone()).collect(),
    };
    let model = ModelCreate { name: push.model.clone(), ..ModelCreate::default() };
    match client.post::<_, ModelInfo>("/api/v1/models", &model).await {
        Err(error) if !error.is("model_exists") => return Err(error.into()),
        _ => {}
    }
    let made: VersionInfo = client.post(&format!("{at}/versions"), &version).await?;
    let target = format!("{}:{}", push.model, made.version);
    for (name, path) in &files {
        if let Err(error) = push_file(client, &target, name, path).await {
            // A version without all its files must not stay as the latest.
            let _ = client.delete::<Deleted>(&path_of(&target)?).await;
            return Err(error);
        }
    }
    let done: VersionInfo = client.get(&path_of(&target)?).await?;
    output.print(&done, |v| {
        let total = v.files.iter().map(|f| f.bytes).sum();
        let files = counted(v.files.len() as u64, "file");
        format!("pushed {}:{}, {files}, {}", v.model, v.version, bytes(total))
    });
    Ok(())
}

/// Before anything is made: a version with a parent that is not here is refused by the server too.
async fn check_parent(client: &HubClient, parent: &str) -> Result<(), CliError> {
    if !parent.contains(':') {
        return Err(CliError::Usage(format!("--parent {parent}: write MODEL:VERSION, such as sentiment:1")));
    }
    match client.get::<VersionInfo>(&path_of(parent)?).await {
        Err(ClientError::Refused { status, message, .. }) if status == http::StatusCode::NOT_FOUND => {
            Err(CliError::Usage(format!("--parent {parent}: {message}")))
        }
        other => Ok(other.map(|_| ())?),
    }
}

fn read_schema(path: &Path) -> Result<serde_json::Value, CliError> {
    let text = std::fs::read_to_string(path).map_err(|e| CliError::file(path, e))?;
    serde_json::from_str(&text).map_err(|e| {
        CliError::Usage(format!("--schema {}: this file must be JSON, and is not: {e}", path.display()))
    })
}

/// Names in the version and local paths; a directory's files keep their paths below it.
fn collect(paths: &[PathBuf]) -> Result<Vec<(String, PathBuf)>, CliError> {
    let mut files = Vec::new();
    for path in paths {
        let kind = std::fs::metadata(path).map_err(|e| CliError::file(path, e))?;
        if kind.is_dir() {
            let found = walk(path, Links::Anywhere)?;
            // A version without one of its files would be another model.
            if let Some((why, names)) = found.skipped.into_iter().next() {
                return Err(CliError::Usage(format!("{}: {why}: {}", path.display(), names.join(", "))));
            }
            if let Some((folder, why)) = found.unread.into_iter().next() {
                return Err(CliError::Usage(format!("{}: {why}", path.join(folder).display())));
            }
            files.extend(found.files);
        } else {
            regular(path, kind.file_type())?;
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            files.push((name, path.clone()));
        }
    }
    files.sort();
    if let Some(pair) = files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(CliError::Usage(format!(
            "{} and {} would both be {}",
            pair[0].1.display(),
            pair[1].1.display(),
            pair[0].0
        )));
    }
    if files.is_empty() {
        return Err(CliError::Usage("there are no files to push".to_owned()));
    }
    Ok(files)
}

async fn push_file(client: &HubClient, target: &str, name: &str, path: &Path) -> Result<(), CliError> {
    let local = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || hash(&local)).await;
    let sha256 = hashed.map_err(|e| CliError::Failed(e.to_string()))?.map_err(|e| CliError::file(path, e))?;
    let at = format!("{}/files/{}", path_of(target)?, file_segments(name)?);
    match client.post::<_, FileInfo>(&at, &FileLink { sha256: sha256.clone() }).await {
        Ok(_) => {
            eprintln!("  {name}  is in the registry already");
            return Ok(());
        }
        Err(error) if error.is("artefact_not_found") => {}
        Err(error) => return Err(error.into()),
    }
    let file = tokio::fs::File::open(path).await.map_err(|e| CliError::file(path, e))?;
    let length = file.metadata().await.map_err(|e| CliError::file(path, e))?.len();
    let bar = super::rag::bar(length, name);
    let moving = bar.clone();
    let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10).inspect(move |piece| {
        if let Ok(piece) = piece {
            moving.inc(piece.len() as u64);
        }
    });
    let request = client
        .request(Method::PUT, &at)
        .header("x-checksum-sha256", &sha256)
        .header(http::header::CONTENT_LENGTH, length)
        .body(reqwest::Body::wrap_stream(stream));
    let _: FileInfo = client.json(request).await?;
    bar.finish_and_clear();
    eprintln!("  {name}  {}  sha256 {}", bytes(length), &sha256[..12]);
    Ok(())
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

async fn pull(client: &HubClient, output: Output, model: &str, directory: &Path) -> Result<(), CliError> {
    let named = if model.contains(':') { model.to_owned() } else { format!("{model}:latest") };
    let version: VersionInfo = client.get(&path_of(&named)?).await?;
    if !version.is_complete() {
        let VersionInfo { model, version, awaiting, .. } = &version;
        let what = if awaiting.is_empty() {
            "it holds no file".to_owned()
        } else {
            format!("its upload is under way or was broken off, without {}", awaiting.join(", "))
        };
        return Err(CliError::Failed(format!(
            "{model}:{version} is unfinished: {what}\n  push it again with  modelhub models push {model} FILE,  \
             or pull another version (modelhub models show {model})"
        )));
    }
    for file in &version.files {
        crate::rag::check_path(&file.path).map_err(|e| CliError::Failed(e.message))?;
        let target = directory.join(&file.path);
        if target.exists() && hash(&target).map_err(|e| CliError::file(&target, e))? == file.sha256 {
            eprintln!("  {}  is here already", file.path);
            continue;
        }
        pull_file(client, &named, file, &target).await?;
    }
    output.print(&version, |v| format!("pulled {}:{} to {}", v.model, v.version, directory.display()));
    Ok(())
}

async fn pull_file(client: &HubClient, named: &str, file: &FileInfo, target: &Path) -> Result<(), CliError> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(|e| CliError::file(parent, e))?;
    }
    let at = format!("{}/files/{}", path_of(named)?, file_segments(&file.path)?);
    let response = client.send(client.request(Method::GET, &at)).await?;
    // Under another name until it is whole and right.
    let partial = target.with_extension("part");
    let failed = |e| CliError::file(&partial, e);
    let mut out = tokio::fs::File::create(&partial).await.map_err(failed)?;
    let bar = super::rag::bar(file.bytes, &file.path);
    let mut hash = Sha256::new();
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|e| client.broke_off(&e))?;
        hash.update(&piece);
        out.write_all(&piece).await.map_err(failed)?;
        bar.inc(piece.len() as u64);
    }
    out.sync_all().await.map_err(failed)?;
    bar.finish_and_clear();
    if hex::encode(hash.finalize()) != file.sha256 {
        return Err(CliError::Failed(format!("{} was damaged on the way; pull again", file.path)));
    }
    std::fs::rename(&partial, target).map_err(failed)?;
    eprintln!("  {}  {}", file.path, bytes(file.bytes));
    Ok(())
}

async fn label(client: &HubClient, output: Output, model: &str, labels: &[String]) -> Result<(), CliError> {
    let mut update = Update::default();
    for text in labels {
        match (text.split_once('='), text.strip_suffix('-')) {
            (Some((name, value)), _) => update.labels.insert(name.to_owned(), Some(value.to_owned())),
            (None, Some(name)) => update.labels.insert(name.to_owned(), None),
            (None, None) => {
                return Err(CliError::Usage(format!(
                    "{text}: write NAME=VALUE to set a label, NAME- to remove it"
                )));
            }
        };
    }
    let changed: serde_json::Value =
        client.json(client.request(Method::PATCH, &path_of(model)?).json(&update)).await?;
    output.print(&changed, |c| {
        let labels: Labels = serde_json::from_value(c["labels"].clone()).unwrap_or_default();
        format!("{model}  {}", show_labels(&labels))
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_or_version_is_a_path() {
        for (model, path) in [
            ("a", "/api/v1/models/a"),
            ("a:2", "/api/v1/models/a/versions/2"),
            ("a.b:latest", "/api/v1/models/a.b/versions/latest"),
        ] {
            assert_eq!(path_of(model).expect("a path"), path);
        }
        for model in
            ["", "..", "../rag/x", "a/../b", "..:1", ":1", "a:", "a:..", "a:../..", "a:1/../..", "a:x"]
        {
            assert!(path_of(model).is_err(), "{model}");
        }
    }

    #[test]
    fn files_of_one_name_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["x/m.bin", "y/m.bin", "z/deep/n.bin"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, name).expect("a file");
        }
        let at = |name: &str| folder.path().join(name);
        let names: Vec<String> =
            collect(&[at("x/m.bin"), at("z")]).expect("two").into_iter().map(|f| f.0).collect();
        assert_eq!(names, ["deep/n.bin", "m.bin"]);
        assert!(collect(&[at("x/m.bin"), at("y/m.bin")]).is_err());
        assert!(collect(&[at("none")]).is_err());
    }
}
