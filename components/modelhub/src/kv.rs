//! The key-value store over the etcd v3 protocol, in the project's own terms: entries with revisions, and changes that happen
//! only if what they were decided on still holds.

use std::time::{Duration, Instant};

use aistack_api::modelhub::KvConfig;
use aistack_chassis::tls::Watched;
use etcd_client::{
    Channel, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, KvClient, Txn, TxnOp,
    WatchOptions,
};
use http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::transport::Endpoint;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use crate::client_tls::{ClientTlsError, explained};
use crate::error::ApiError;
use crate::renewal;

/// Every key of ModelHub begins with this, so that `etcdctl get --prefix /registry/` shows all it knows.
pub const ROOT: &str = "/registry/";
/// Keys read in one message.
const PAGE: i64 = 200;
/// How often a change is decided anew when others change the same keys.
const TRIES: usize = 32;

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The password file cannot be read.
    #[error("kv.password_file {path}: {source}")]
    Password {
        /// Path of the file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store does not answer, or refused.
    #[error("the key-value store at {endpoints} did not {operation}: {reason}")]
    Store {
        /// What was asked of it.
        operation: &'static str,
        /// Where it should be.
        endpoints: String,
        /// Its innermost cause.
        reason: String,
        /// What the client said.
        source: Box<etcd_client::Error>,
    },
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
    /// A record is not what was written.
    #[error("the record {key} in the key-value store is not readable: {source}")]
    Record {
        /// Its key.
        key: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Others changed the same keys again and again.
    #[error("{key} was changed by others {TRIES} times while this change was being decided; try again")]
    Contended {
        /// The key.
        key: String,
    },
}

impl From<KvError> for ApiError {
    fn from(error: KvError) -> Self {
        match &error {
            KvError::Store { source, .. } => match trouble(source) {
                Trouble::Passing => {
                    let message = format!("{error}; is it running? (aistack status)");
                    Self::unavailable("kv_store_unavailable", message, 2)
                }
                Trouble::Full => {
                    let message = format!("{error}; compact it or give it more space, then try again");
                    Self::new(StatusCode::INSUFFICIENT_STORAGE, "kv_store_full", message)
                }
                Trouble::Refused => Self::new(StatusCode::BAD_GATEWAY, "kv_store_error", error.to_string()),
            },
            KvError::Contended { .. } => Self::conflict("contended", error.to_string()),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "kv_store_error", error.to_string()),
        }
    }
}

/// A value and the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub value: Vec<u8>,
    /// Revision of its last change.
    pub revision: i64,
}

impl Entry {
    /// Reads the value as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, KvError> {
        serde_json::from_slice(&self.value)
            .map_err(|source| KvError::Record { key: self.key.clone(), source })
    }
}

/// What must still hold for a change to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent(String),
    /// The key was last changed at this revision.
    At(String, i64),
}

/// One part of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Write a value.
    Put(String, Vec<u8>),
    /// Delete a key.
    Delete(String),
    /// Delete every key with this prefix.
    DeletePrefix(String),
}

impl Change {
    /// Writes a value as JSON.
    pub fn put_json<T: Serialize>(key: impl Into<String>, value: &T) -> Self {
        Self::Put(key.into(), serde_json::to_vec(value).expect("records are plain data with text keys"))
    }
}

/// A connection to the store. Cheap to clone.
#[derive(Clone)]
pub struct Kv {
    client: Client,
    endpoints: String,
    /// How long another member is tried when one does not do; nothing when there is one only.
    patience: Duration,
}

impl std::fmt::Debug for Kv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kv").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Kv {
    /// Prepares the connection; the store need not be up yet unless a user name is configured.
    pub async fn connect(config: &KvConfig) -> Result<Self, KvError> {
        let mut options = ConnectOptions::new();
        let secrets = Watched::new(config.password_file.iter().cloned().collect());
        if let Some(user) = &config.username {
            // A token that was not used for minutes counts no more.
            options = options.with_user(user, password(config)?).with_auto_token_refresh(true);
        }
        let endpoints = config.endpoints.join(", ");
        let prepared = prepared(config).map_err(|e| store_error("connect", &endpoints, e.into()))?;
        let channel = renewal::channel("kv.tls", prepared, &config.tls.clone().unwrap_or_default())?;
        let client = Client::from_channel(traced(channel), Some(options))
            .await
            .map_err(|e| store_error("connect", &endpoints, e))?;
        if config.username.is_some() && config.password_file.is_some() {
            follow_password(&client, config, secrets);
        }
        let patience = match config.endpoints.len() {
            ..=1 => Duration::ZERO,
            _ => Duration::from_millis(config.timeout_ms),
        };
        Ok(Self { client, endpoints, patience })
    }

    /// Asks again while that may help: what was on its way to a member that dies fails, and so does what is sent there until
    /// its connection is known to be broken.
    async fn asked<T, A: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        operation: &'static str,
        may_help: fn(&etcd_client::Error) -> bool,
        ask: impl Fn() -> A,
    ) -> Result<T, KvError> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match ask().await {
                Err(error) if begun.elapsed() < self.patience && may_help(&error) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
                answer => return answer.map_err(self.error(operation)),
            }
        }
    }

    fn error(&self, operation: &'static str) -> impl FnOnce(etcd_client::Error) -> KvError + '_ {
        move |source| store_error(operation, &self.endpoints, source)
    }

    /// Reads one key.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, KvError> {
        let ask = || {
            let (mut kv, key) = (self.kv(), key.to_owned());
            async move { kv.get(key, None).await }
        };
        let mut response = self.asked("read", passes, ask).await?;
        Ok(response.take_kvs().into_iter().next().map(entry))
    }

    /// Reads one key as JSON, with its revision.
    pub async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, i64)>, KvError> {
        match self.get(key).await? {
            Some(entry) => Ok(Some((entry.json()?, entry.revision))),
            None => Ok(None),
        }
    }

    /// Reads every key with a prefix, in key order, and the revision of the reading. Pages of one revision: a registry may be
    /// larger than a message.
    pub async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, i64), KvError> {
        let end = prefix_end(prefix.as_bytes());
        let (mut entries, mut revision) = (Vec::new(), 0);
        let mut from = prefix.as_bytes().to_vec();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            let options = if revision == 0 { options } else { options.with_revision(revision) };
            let ask = || {
                let (mut kv, from, options) = (self.kv(), from.clone(), options.clone());
                async move { kv.get(from, Some(options)).await }
            };
            let mut response = self.asked("list", passes, ask).await?;
            if revision == 0 {
                revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            let more = response.more();
            let page = response.take_kvs();
            from = page.last().map(|kv| [kv.key(), b"\0"].concat()).unwrap_or_default();
            entries.extend(page.into_iter().map(entry));
            if !more || from.is_empty() {
                return Ok((entries, revision));
            }
        }
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(usize::MAX)
    }

    /// Makes the changes if everything expected holds; says whether it did.
    pub async fn change(&self, expected: &[Expect], changes: Vec<Change>) -> Result<bool, KvError> {
        let compares: Vec<Compare> = expected
            .iter()
            .map(|expect| match expect {
                Expect::Absent(key) => Compare::version(key.as_str(), CompareOp::Equal, 0),
                Expect::At(key, revision) => Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision),
            })
            .collect();
        let operations: Vec<TxnOp> = changes
            .into_iter()
            .map(|change| match change {
                Change::Put(key, value) => TxnOp::put(key, value, None),
                Change::Delete(key) => TxnOp::delete(key, None),
                Change::DeletePrefix(prefix) => {
                    TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix()))
                }
            })
            .collect();
        let txn = Txn::new().when(compares).and_then(operations);
        let ask = || {
            let (mut kv, txn) = (self.kv(), txn.clone());
            async move { kv.txn(txn).await }
        };
        // What may have been done is not done twice.
        let response = self.asked("commit a change", never_arrived, ask).await?;
        Ok(response.succeeded())
    }

    /// Changes one JSON record by a decision on its present value, again when somebody else was faster. A decision of `None`
    /// leaves things as they are.
    pub async fn update<T, E>(
        &self,
        key: &str,
        decide: impl Fn(Option<T>) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E>
    where
        T: DeserializeOwned + Serialize,
        E: From<KvError>,
    {
        for _ in 0..TRIES {
            let (present, expected) = match self.get_json::<T>(key).await? {
                Some((value, revision)) => (Some(value), Expect::At(key.to_owned(), revision)),
                None => (None, Expect::Absent(key.to_owned())),
            };
            let Some(next) = decide(present)? else { return Ok(None) };
            if self.change(&[expected], vec![Change::put_json(key, &next)]).await? {
                return Ok(Some(next));
            }
        }
        Err(KvError::Contended { key: key.to_owned() }.into())
    }

    /// Waits until some key with the prefix changes after `revision`.
    pub async fn changed(&self, prefix: &str, revision: i64) -> Result<(), KvError> {
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let mut stream =
            self.client.watch_client().watch(prefix, Some(options)).await.map_err(self.error("watch"))?;
        while let Some(response) = stream.message().await.map_err(self.error("watch"))? {
            if response.canceled() || !response.events().is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// The first key after all that begin with a prefix.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // All bytes are 0xff: to the end of the keys.
    vec![0]
}

fn password(config: &KvConfig) -> Result<String, KvError> {
    let Some(path) = &config.password_file else { return Ok(String::new()) };
    let read = std::fs::read_to_string(path).map(|password| password.trim().to_owned());
    read.map_err(|source| KvError::Password { path: path.display().to_string(), source })
}

/// Shows another password once its file has it and the store takes it.
fn follow_password(client: &Client, config: &KvConfig, files: Watched) {
    let (client, config) = (client.clone(), config.clone());
    renewal::follow(files, move || {
        let (mut client, user, password) =
            (client.clone(), config.username.clone().unwrap_or_default(), password(&config));
        async move {
            let renewed = match password {
                Ok(password) => {
                    client.update_user(Some((user, password))).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = &renewed {
                tracing::warn!(error, "kv.password_file: the password from before stays in use");
            }
            renewed.is_ok()
        }
    });
}

/// The endpoints as they are called; a host without a scheme is spoken to in the clear.
fn prepared(config: &KvConfig) -> Result<Vec<Endpoint>, tonic::transport::Error> {
    let patience = Duration::from_millis(config.timeout_ms);
    let prepared = config.endpoints.iter().map(|endpoint| {
        let address = if endpoint.contains("://") { endpoint.clone() } else { format!("http://{endpoint}") };
        let endpoint = Endpoint::from_shared(address)?;
        Ok(endpoint
            .connect_timeout(Duration::from_secs(2))
            .timeout(patience)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(patience)
            .keep_alive_while_idle(true))
    });
    prepared.collect()
}

/// The same channel, on which every request carries the current trace's context: etcd's client has no place for it.
fn traced(channel: tonic::transport::Channel) -> Channel {
    let inject = |mut request: http::Request<tonic::body::Body>| {
        aistack_chassis::trace::inject(request.headers_mut());
        request
    };
    Channel::Custom(BoxCloneSyncService::new(channel.map_request(inject).map_err(tower::BoxError::from)))
}

fn entry(kv: etcd_client::KeyValue) -> Entry {
    let revision = kv.mod_revision();
    let (key, value) = kv.into_key_value();
    Entry { key: String::from_utf8_lossy(&key).into_owned(), value, revision }
}

fn store_error(operation: &'static str, endpoints: &str, source: etcd_client::Error) -> KvError {
    let reason = match &source {
        etcd_client::Error::GRpcStatus(status) => match std::error::Error::source(status) {
            Some(cause) => crate::innermost(cause),
            None => status.message().to_owned(),
        },
        other => crate::innermost(other),
    };
    let reason = explained(endpoints, reason);
    KvError::Store { operation, endpoints: endpoints.to_owned(), reason, source: Box::new(source) }
}

/// What kind of failure a store's is.
enum Trouble {
    /// Another try may succeed.
    Passing,
    /// It has no space left.
    Full,
    /// It will say the same again.
    Refused,
}

fn trouble(error: &etcd_client::Error) -> Trouble {
    use tonic::Code;
    let etcd_client::Error::GRpcStatus(status) = error else {
        return match error {
            etcd_client::Error::InvalidArgs(_) => Trouble::Refused,
            _ => Trouble::Passing,
        };
    };
    match status.code() {
        Code::ResourceExhausted if status.message().contains("space") => Trouble::Full,
        Code::InvalidArgument
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::OutOfRange => Trouble::Refused,
        _ => Trouble::Passing,
    }
}

/// Whether another try of a read may succeed.
fn passes(error: &etcd_client::Error) -> bool {
    matches!(trouble(error), Trouble::Passing)
}

/// Whether nobody was there to take a request.
fn never_arrived(error: &etcd_client::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match error {
        etcd_client::Error::GRpcStatus(status) => std::error::Error::source(status),
        other => std::error::Error::source(other),
    };
    while let Some(error) = cause {
        let refused = std::io::ErrorKind::ConnectionRefused;
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == refused) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn a_write_is_repeated_only_when_nobody_took_it() {
        let of = |status: Status| etcd_client::Error::GRpcStatus(status);
        let caused = |kind: std::io::ErrorKind| {
            let mut status = Status::unavailable("tcp connect error");
            status.set_source(std::sync::Arc::new(std::io::Error::from(kind)));
            of(status)
        };
        assert!(never_arrived(&caused(std::io::ErrorKind::ConnectionRefused)));
        assert!(!never_arrived(&caused(std::io::ErrorKind::ConnectionReset)), "it may have been done");
        assert!(!never_arrived(&of(Status::unavailable("etcdserver: leader changed"))));
        assert!(passes(&of(Status::unavailable("etcdserver: leader changed"))));
        assert!(!passes(&of(Status::permission_denied("etcdserver: permission denied"))));
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        let cases: [(&[u8], &[u8]); 4] = [(b"/a/", b"/a0"), (b"a\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0")];
        for (prefix, want) in cases {
            assert_eq!(prefix_end(prefix), want);
        }
    }

    #[test]
    fn what_the_store_says_becomes_what_to_do() {
        let cases = [
            (Status::resource_exhausted("etcdserver: mvcc: database space exceeded"), 507, "kv_store_full"),
            (Status::resource_exhausted("etcdserver: too many requests"), 503, "kv_store_unavailable"),
            (Status::unavailable("etcdserver: no leader"), 503, "kv_store_unavailable"),
            (Status::unauthenticated("etcdserver: invalid auth token"), 502, "kv_store_error"),
            (Status::permission_denied("etcdserver: permission denied"), 502, "kv_store_error"),
        ];
        for (status, want, code) in cases {
            let said = status.message().to_owned();
            let error = store_error("read", "http://h:1", etcd_client::Error::GRpcStatus(status));
            let error = ApiError::from(error);
            assert_eq!((error.status.as_u16(), error.code), (want, code), "{error}");
            assert!(error.message.contains(&said), "{error}");
        }
    }
}
