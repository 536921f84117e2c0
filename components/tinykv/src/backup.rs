//! A backup of a running cluster, this program's or etcd's, by what any member serves to any client.
//!
//! The file appears under its name when it is whole, on disk, and has been read back.

use crate::client::{ClientArgs, ClientError, signed};
use crate::etcd::snapshot::{Contents, SnapshotError, read, unseal};
use crate::shelf::{Shelf, ShelfError, is_url};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::maintenance_client::MaintenanceClient;

/// Where a backup comes from, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct BackupArgs {
    /// The file to write; one that is there is replaced when the new one is whole. Or a URL such as `s3://bucket/path` or
    /// `file:///folder`: a backup is added there, under a name of its own.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Of those that were added to that URL, keep so many, the newest.
    #[arg(long, value_name = "COUNT")]
    pub keep: Option<usize>,
    /// The cluster; the first member that answers is asked. The user must have the role root.
    #[command(flatten)]
    pub cluster: ClientArgs,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The cluster.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What came is no snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Where it was to be put.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// A file has no others beside it that are ours.
    #[error("--keep: {file} is a file; give a URL such as file:///folder", file = file.display())]
    Keep {
        /// As it was given.
        file: PathBuf,
    },
}

/// A backup that is there.
#[derive(Debug)]
pub struct Backup {
    /// The member that it comes from.
    pub endpoint: String,
    /// What it holds.
    pub contents: Contents,
    /// Its size, with the digest.
    pub bytes: u64,
    /// Its path, or its URL.
    pub place: String,
    /// Why older ones stayed that were to go: the new one is there all the same.
    pub stayed: Option<ShelfError>,
}

/// Makes a backup, and puts it where it is to be.
pub async fn backup(wanted: &BackupArgs) -> Result<Backup, BackupError> {
    if !is_url(&wanted.file) {
        return match wanted.keep {
            Some(_) => Err(BackupError::Keep { file: wanted.file.clone() }),
            None => to_file(wanted).await,
        };
    }
    // A place that is not there is found out about before the cluster is asked for all that it has.
    let shelf = Shelf::open(&wanted.file.to_string_lossy())?;
    let folder = Shelf::aside()?;
    let file = folder.path().join("backup.db");
    let made = to_file(&BackupArgs { file: file.clone(), ..wanted.clone() }).await?;
    let name = shelf.put(&file, made.contents.rest.revision).await?;
    let pruned = match wanted.keep {
        Some(keep) => shelf.prune(keep).await.map(drop),
        None => Ok(()),
    };
    Ok(Backup { place: shelf.url_of(&name), stayed: pruned.err(), ..made })
}

async fn to_file(wanted: &BackupArgs) -> Result<Backup, BackupError> {
    let member = wanted.cluster.reach().await?;
    let token = wanted.cluster.log_in(&member).await?;
    let request = signed(pb::SnapshotRequest {}, token.as_ref());
    let answer = MaintenanceClient::new(member.channel.clone()).snapshot(request).await;
    let mut stream = answer.map_err(member.refuses("asking for a snapshot"))?.into_inner();
    let part = Part(beside(&wanted.file));
    let failed = |source| BackupError::File { path: part.0.clone(), source };
    let mut file = fs::OpenOptions::new();
    // It holds the hashes of passwords.
    let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(&part.0).map_err(failed)?;
    let bar = bar();
    let mut bytes = 0;
    while let Some(message) = stream.message().await.map_err(member.refuses("reading the snapshot"))? {
        file.write_all(&message.blob).map_err(failed)?;
        bytes += message.blob.len() as u64;
        bar.set_length(bytes + message.remaining_bytes);
        bar.set_position(bytes);
    }
    bar.finish_and_clear();
    file.sync_all().map_err(failed)?;
    drop(file);
    let sealed = unseal(&part.0, false)?;
    let contents = read(&part.0, sealed.length, |_, _| Ok(()))?;
    fs::rename(&part.0, &wanted.file).map_err(failed)?;
    let dir = wanted.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(Backup {
        endpoint: member.endpoint.clone(),
        contents,
        bytes,
        place: wanted.file.display().to_string(),
        stayed: None,
    })
}

/// A file that is gone again unless it gets another name.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // It has its name by now, mostly.
        let _ = fs::remove_file(&self.0);
    }
}

fn beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".part");
    name.into()
}

/// On a terminal; silent elsewhere.
fn bar() -> ProgressBar {
    let terminal = io::stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    match ProgressStyle::with_template("  backup [{bar:30}] {bytes} of {total_bytes}  {elapsed}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
