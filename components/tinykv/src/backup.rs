//! A backup of a running cluster, this program's or etcd's, by what any member serves to any client.
//!
//! The file appears under its name when it is whole, on disk, and has been read back.

use crate::etcd::snapshot::{Contents, SnapshotError, read, unseal};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::auth_client::AuthClient;
use wire::etcd::etcdserverpb::maintenance_client::MaintenanceClient;

/// How long connecting to a member may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Where a backup comes from, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct BackupArgs {
    /// The file to write; one that is there is replaced when the new one is whole.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Members, of which the first that answers is asked.
    #[arg(long, value_name = "URL,…", default_value = "http://127.0.0.1:2379", value_delimiter = ',')]
    pub endpoints: Vec<String>,
    /// PEM file of the CAs that the members' certificates chain to.
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// PEM file of the certificate to show.
    #[arg(long, value_name = "FILE", requires = "key", requires = "cacert")]
    pub cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// A user of the role root, where users count.
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub user: Option<String>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// An address that is none.
    #[error("--endpoints {endpoint}: {reason}")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// A user without a password.
    #[error("--user: write NAME:PASSWORD")]
    User,
    /// No member answered; what the last said.
    #[error("no member answers; {endpoint}: {}", because(source))]
    Connect {
        /// The last one.
        endpoint: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// A member refused, or the connection broke.
    #[error("{endpoint}: {what}: {}", status.message())]
    Refused {
        /// The member.
        endpoint: String,
        /// What was asked.
        what: &'static str,
        /// What it said.
        status: Box<Status>,
    },
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
}

/// The innermost reason: those around it say only that there is one.
fn because(error: &tonic::transport::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    reason.to_string()
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
}

/// Makes a backup.
pub async fn backup(wanted: &BackupArgs) -> Result<Backup, BackupError> {
    let member = Member::reach(wanted).await?;
    let mut stream = member.snapshot(wanted.user.as_deref()).await?;
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
    Ok(Backup { endpoint: member.endpoint.clone(), contents, bytes })
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

/// A member that answers.
struct Member {
    endpoint: String,
    channel: Channel,
}

impl Member {
    /// The first one that does.
    async fn reach(wanted: &BackupArgs) -> Result<Self, BackupError> {
        let tls = tls(wanted)?;
        let mut last = None;
        for endpoint in &wanted.endpoints {
            let wrong = |reason: String| BackupError::Endpoint { endpoint: endpoint.clone(), reason };
            let url = match (endpoint.contains("://"), &tls) {
                (true, _) => endpoint.clone(),
                (false, None) => format!("http://{endpoint}"),
                (false, Some(_)) => format!("https://{endpoint}"),
            };
            let mut target = Endpoint::from_shared(url.clone()).map_err(|error| wrong(error.to_string()))?;
            if url.starts_with("https://") {
                let tls = tls
                    .clone()
                    .ok_or_else(|| wrong("name the CA of its certificate: --cacert FILE".to_owned()))?;
                target = target.tls_config(tls).map_err(|error| wrong(because(&error)))?;
            }
            match target.connect_timeout(CONNECT_LIMIT).connect().await {
                Ok(channel) => return Ok(Self { endpoint: url, channel }),
                Err(source) => last = Some(BackupError::Connect { endpoint: url, source }),
            }
        }
        let none =
            || BackupError::Endpoint { endpoint: String::new(), reason: "no member is named".to_owned() };
        Err(last.unwrap_or_else(none))
    }

    async fn snapshot(&self, user: Option<&str>) -> Result<Streaming<pb::SnapshotResponse>, BackupError> {
        let mut request = Request::new(pb::SnapshotRequest {});
        if let Some(user) = user {
            let (name, password) = user.split_once(':').ok_or(BackupError::User)?;
            let asked = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            let answer = AuthClient::new(self.channel.clone()).authenticate(asked).await;
            let token = answer.map_err(self.refuses("logging in"))?.into_inner().token;
            let token = MetadataValue::try_from(token).map_err(|error| Status::internal(error.to_string()));
            request.metadata_mut().insert("token", token.map_err(self.refuses("logging in"))?);
        }
        let answer = MaintenanceClient::new(self.channel.clone()).snapshot(request).await;
        Ok(answer.map_err(self.refuses("asking for a snapshot"))?.into_inner())
    }

    fn refuses(&self, what: &'static str) -> impl Fn(Status) -> BackupError {
        let endpoint = self.endpoint.clone();
        move |status| BackupError::Refused { endpoint: endpoint.clone(), what, status: Box::new(status) }
    }
}

fn tls(wanted: &BackupArgs) -> Result<Option<ClientTlsConfig>, BackupError> {
    let pem =
        |path: &PathBuf| fs::read(path).map_err(|source| BackupError::File { path: path.clone(), source });
    let Some(cacert) = &wanted.cacert else { return Ok(None) };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem(cacert)?));
    if let (Some(cert), Some(key)) = (&wanted.cert, &wanted.key) {
        tls = tls.identity(Identity::from_pem(pem(cert)?, pem(key)?));
    }
    Ok(Some(tls))
}
