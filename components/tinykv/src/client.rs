//! The way to a running cluster, for the subcommands that are its clients.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::auth_client::AuthClient;

/// How long connecting to a member may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Which cluster, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientArgs {
    /// Addresses of members.
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
    /// Whose requests these are, where users count.
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub user: Option<String>,
}

/// Why a cluster is not reached.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
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
    /// A member does not answer.
    #[error("no member answers; {endpoint}: {}", because(source))]
    Connect {
        /// The last one that was tried.
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
    /// A file of a certificate.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The innermost reason: those around it say only that there is one.
fn because(error: &tonic::transport::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    reason.to_string()
}

/// A connection to a member that answers.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its address, with a scheme.
    pub endpoint: String,
    /// The connection.
    pub channel: Channel,
}

impl ClientArgs {
    /// A connection to the first member that answers.
    pub async fn reach(&self) -> Result<Member, ClientError> {
        let tls = self.tls()?;
        let mut last = None;
        for endpoint in &self.endpoints {
            match reach(endpoint, tls.as_ref()).await {
                Err(error @ ClientError::Connect { .. }) => last = Some(error),
                other => return other,
            }
        }
        let none =
            || ClientError::Endpoint { endpoint: String::new(), reason: "no member is named".to_owned() };
        Err(last.unwrap_or_else(none))
    }

    /// `count` connections, one after the other to each of the members; all of them answer.
    pub async fn reach_all(&self, count: usize) -> Result<Vec<Member>, ClientError> {
        let tls = self.tls()?;
        let to_each = self.endpoints.iter().cycle().take(count);
        futures::future::try_join_all(to_each.map(|endpoint| reach(endpoint, tls.as_ref()))).await
    }

    /// What proves to a member who asks: its token, where there is a user.
    pub async fn log_in(&self, member: &Member) -> Result<Option<MetadataValue<Ascii>>, ClientError> {
        let Some(user) = &self.user else { return Ok(None) };
        let (name, password) = user.split_once(':').ok_or(ClientError::User)?;
        let asked = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let answer = AuthClient::new(member.channel.clone()).authenticate(asked).await;
        let token = answer.map_err(member.refuses("logging in"))?.into_inner().token;
        let token = MetadataValue::try_from(token).map_err(|error| Status::internal(error.to_string()));
        Ok(Some(token.map_err(member.refuses("logging in"))?))
    }

    fn tls(&self) -> Result<Option<ClientTlsConfig>, ClientError> {
        let pem = |path: &PathBuf| {
            fs::read(path).map_err(|source| ClientError::File { path: path.clone(), source })
        };
        let Some(cacert) = &self.cacert else { return Ok(None) };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem(cacert)?));
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(pem(cert)?, pem(key)?));
        }
        Ok(Some(tls))
    }
}

async fn reach(endpoint: &str, tls: Option<&ClientTlsConfig>) -> Result<Member, ClientError> {
    let wrong = |reason: String| ClientError::Endpoint { endpoint: endpoint.to_owned(), reason };
    let url = match (endpoint.contains("://"), tls) {
        (true, _) => endpoint.to_owned(),
        (false, None) => format!("http://{endpoint}"),
        (false, Some(_)) => format!("https://{endpoint}"),
    };
    let mut target = Endpoint::from_shared(url.clone()).map_err(|error| wrong(error.to_string()))?;
    if url.starts_with("https://") {
        let tls =
            tls.cloned().ok_or_else(|| wrong("name the CA of its certificate: --cacert FILE".to_owned()))?;
        target = target.tls_config(tls).map_err(|error| wrong(because(&error)))?;
    }
    match target.connect_timeout(CONNECT_LIMIT).connect().await {
        Ok(channel) => Ok(Member { endpoint: url, channel }),
        Err(source) => Err(ClientError::Connect { endpoint: url, source }),
    }
}

impl Member {
    /// The error of a member that refused `what`.
    pub fn refuses(&self, what: &'static str) -> impl Fn(Status) -> ClientError + use<> {
        let endpoint = self.endpoint.clone();
        move |status| ClientError::Refused { endpoint: endpoint.clone(), what, status: Box::new(status) }
    }
}

/// A request with the proof of who asks.
pub fn signed<T>(message: T, token: Option<&MetadataValue<Ascii>>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.clone());
    }
    request
}
