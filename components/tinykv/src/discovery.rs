//! Finding the members of a new cluster through one that runs already, as etcd's members do.
//!
//! ```text
//! /_etcd/registry/TOKEN/_config/size   how many they are; somebody puts it there first
//! /_etcd/registry/TOKEN/members/ID     NAME=URL, which each member puts there; the first so many are the cluster
//! ```
//!
//! What was found is kept in the data directory: a member that starts again founds the same cluster.

use crate::identity::{self, member_id};
use aistack_api::tinykv::{Founder, TinykvConfig, TinykvDiscovery};
use aistack_chassis::tls::unchecking_client;
use axum::http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::auth_client::AuthClient;
use wire::etcd::etcdserverpb::kv_client::KvClient;

/// How often the others are looked for.
const PAUSE: Duration = Duration::from_millis(300);
/// The file that keeps what was found.
const KEPT: &str = "discovered.json";

/// Why the other members are not found.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// An endpoint cannot be used.
    #[error("discovery.endpoints {endpoint}: {reason}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The other cluster refuses.
    #[error("discovery: {what}: {}", status.message())]
    Refused {
        /// What was asked.
        what: &'static str,
        /// What it said.
        status: Box<Status>,
    },
    /// Nobody said how many members there will be.
    #[error("discovery: the other cluster has no number at {key}; put it there first: etcdctl put {key} 3")]
    Size {
        /// Where it should be.
        key: String,
    },
    /// The cluster has all its members.
    #[error(
        "discovery: {token} has {size} members already, and this one is not among them; use another token"
    )]
    Full {
        /// The cluster's name.
        token: String,
        /// Its size.
        size: usize,
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
}

/// Sets `peers` to those that were found, where the settings ask for it.
pub async fn resolve(config: &mut TinykvConfig) -> Result<(), DiscoveryError> {
    let Some(wanted) = config.discovery.clone() else { return Ok(()) };
    let path = config.data_dir.join(KEPT);
    let failed = |source| DiscoveryError::File { path: path.clone(), source };
    match fs::read(&path) {
        Ok(bytes) => {
            config.peers = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Err(_) if identity::is_taken(&config.data_dir) => {}
        Err(_) => {
            config.peers = Registry::reach(&wanted).await?.join(config).await?;
            fs::create_dir_all(&config.data_dir).map_err(failed)?;
            keep(&path, &config.peers).map_err(failed)?;
        }
    }
    Ok(())
}

fn keep(path: &Path, peers: &[String]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec(peers)?)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

/// A member as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Registered {
    key: Vec<u8>,
    /// `NAME=URL`.
    entry: String,
    /// When it came.
    revision: i64,
}

/// The other cluster.
struct Registry<'a> {
    wanted: &'a TinykvDiscovery,
    channel: Channel,
    token: Option<MetadataValue<tonic::metadata::Ascii>>,
}

impl<'a> Registry<'a> {
    async fn reach(wanted: &'a TinykvDiscovery) -> Result<Self, DiscoveryError> {
        let mut last = None;
        for endpoint in &wanted.endpoints {
            match connect(wanted, endpoint).await {
                Ok(channel) => {
                    let mut registry = Self { wanted, channel, token: None };
                    registry.log_in().await?;
                    return Ok(registry);
                }
                Err(reason) => {
                    last = Some(DiscoveryError::Endpoint { endpoint: endpoint.clone(), reason });
                }
            }
        }
        Err(last.expect("the settings were checked to name an endpoint"))
    }

    async fn log_in(&mut self) -> Result<(), DiscoveryError> {
        let Some((name, password)) = self.wanted.credentials() else {
            return Ok(());
        };
        let what = "logging in";
        let asked = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let answer = AuthClient::new(self.channel.clone()).authenticate(asked).await;
        let token = answer.map_err(|status| refused(what, status))?.into_inner().token;
        let token = token.parse().map_err(|_| refused(what, Status::internal("its token is no text")))?;
        self.token = Some(token);
        Ok(())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_millis(self.wanted.request_timeout_ms));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    fn path(&self, rest: &str) -> String {
        format!("/_etcd/registry/{}/{rest}", self.wanted.token)
    }

    async fn size(&self) -> Result<usize, DiscoveryError> {
        let key = self.path("_config/size");
        let asked = pb::RangeRequest { key: key.clone().into_bytes().into(), ..pb::RangeRequest::default() };
        let answer = KvClient::new(self.channel.clone()).range(self.request(asked)).await;
        let answer = answer.map_err(|status| refused("reading the cluster's size", status))?.into_inner();
        let size =
            answer.kvs.first().and_then(|pair| std::str::from_utf8(&pair.value).ok()?.trim().parse().ok());
        size.filter(|size| *size > 0).ok_or(DiscoveryError::Size { key })
    }

    /// Those that have come, the first ones first.
    async fn members(&self) -> Result<Vec<Registered>, Status> {
        let prefix = self.path("members/").into_bytes();
        let mut end = prefix.clone();
        *end.last_mut().expect("a path ends with a slash") += 1;
        let asked =
            pb::RangeRequest { key: prefix.into(), range_end: end.into(), ..pb::RangeRequest::default() };
        let answer = KvClient::new(self.channel.clone()).range(self.request(asked)).await?.into_inner();
        let registered = answer.kvs.into_iter().map(|pair| Registered {
            key: pair.key.to_vec(),
            entry: String::from_utf8_lossy(&pair.value).into_owned(),
            revision: pair.create_revision,
        });
        let mut members: Vec<_> = registered.collect();
        members.sort_by_key(|member| member.revision);
        Ok(members)
    }

    /// Takes a place, and waits until all are taken; answers who has them.
    async fn join(&self, config: &TinykvConfig) -> Result<Vec<String>, DiscoveryError> {
        let own = own_founder(config);
        let key = self.path(&format!("members/{:x}", member_id(&own))).into_bytes();
        let entry = format!("{}={}", own.name, own.address);
        let size = self.size().await?;
        let full = || DiscoveryError::Full { token: self.wanted.token.clone(), size };
        let looking = |status| refused("looking for the members", status);
        let has_place = |members: &[Registered]| members.iter().take(size).any(|member| member.key == key);
        let there = self.members().await.map_err(looking)?;
        if !has_place(&there) {
            if there.len() >= size {
                return Err(full());
            }
            let put = pb::PutRequest {
                key: key.clone().into(),
                value: entry.into_bytes().into(),
                ..pb::PutRequest::default()
            };
            let answer = KvClient::new(self.channel.clone()).put(self.request(put)).await;
            answer.map_err(|status| refused("taking a place", status))?;
        }
        let mut seen = 0;
        loop {
            match self.members().await {
                Ok(members) if !has_place(&members) && members.len() >= size => return Err(full()),
                Ok(members) if members.len() >= size => {
                    let first = members.into_iter().take(size).map(|member| one_url(&member.entry));
                    return Ok(first.collect());
                }
                Ok(members) => {
                    if members.len() != seen {
                        seen = members.len();
                        tracing::info!(found = seen, size, "discovery: waiting for the other members");
                    }
                }
                // That cluster may be changing its leader.
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
                    tracing::warn!(error = status.message(), "discovery: asking again");
                }
                Err(status) => return Err(looking(status)),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn refused(what: &'static str, status: Status) -> DiscoveryError {
    DiscoveryError::Refused { what, status: Box::new(status) }
}

/// This member; its address is a URL here.
fn own_founder(config: &TinykvConfig) -> Founder {
    let url = config.advertise_peer_urls.first().cloned();
    let address = url.unwrap_or_else(|| format!("{}{}", config.peer_scheme(), config.listen_peer));
    Founder { name: config.name.clone(), address }
}

/// etcd's members may have several URLs; the first one is called.
fn one_url(entry: &str) -> String {
    entry.split(',').next().unwrap_or_default().to_owned()
}

async fn connect(wanted: &TinykvDiscovery, endpoint: &str) -> Result<Channel, String> {
    let (scheme, address) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let encrypted = match scheme {
        "https" => true,
        "http" => false,
        _ => wanted.ca_file.is_some() || wanted.cert_file.is_some() || !wanted.insecure_transport,
    };
    let limit = Duration::from_millis(wanted.request_timeout_ms);
    let endpoint = |scheme: &str| {
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"));
        endpoint.map(|endpoint| endpoint.connect_timeout(limit)).map_err(|error| error.to_string())
    };
    let because = |error: tonic::transport::Error| {
        let mut reason: &dyn std::error::Error = &error;
        while let Some(inner) = reason.source() {
            reason = inner;
        }
        reason.to_string()
    };
    if !encrypted {
        return endpoint("http")?.connect().await.map_err(because);
    }
    if wanted.insecure_skip_verify {
        let connector = tower::service_fn(open_unchecked);
        // The connector encrypts; to tonic it is a plain stream.
        return endpoint("http")?.connect_with_connector(connector).await.map_err(because);
    }
    let pem = |path: &PathBuf| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let Some(ca_file) = &wanted.ca_file else {
        return Err("name the CA of its certificate: discovery.ca_file (--discovery-cacert)".to_owned());
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem(ca_file)?));
    if let (Some(cert), Some(key)) = (&wanted.cert_file, &wanted.key_file) {
        tls = tls.identity(Identity::from_pem(pem(cert)?, pem(key)?));
    }
    endpoint("https")?.tls_config(tls).map_err(because)?.connect().await.map_err(because)
}

/// A connection to whoever answers there.
async fn open_unchecked(uri: Uri) -> io::Result<TokioIo<impl AsyncRead + AsyncWrite + Unpin + Send>> {
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(2379));
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare.clone()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((bare, port)).await?;
    Ok(TokioIo::new(unchecking_client().connect(name, stream).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_tells_others_its_url_and_takes_the_first_of_theirs() {
        let config = TinykvConfig { name: "a".to_owned(), ..TinykvConfig::default() };
        assert_eq!(own_founder(&config).address, "http://127.0.0.1:2380");
        let told = TinykvConfig { advertise_peer_urls: vec!["https://a:1".to_owned()], ..config };
        assert_eq!(own_founder(&told).address, "https://a:1");
        assert_eq!(one_url("b=http://x:1,b=http://y:1"), "b=http://x:1");
    }
}
