//! Connections to stores that go on when certificates and keys are renewed, by another authority too.

use std::path::PathBuf;
use std::time::Duration;

use aistack_api::modelhub::ClientTlsConfig;
use aistack_chassis::tls::Watched;
use tokio::sync::mpsc::Sender;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint};

use crate::client_tls::{ClientTlsError, grpc_config};

/// How often the files are looked at. Between the store's side of a renewal and ours, new connections fail.
const LOOK: Duration = Duration::from_secs(5);

/// The files of a client's side of TLS.
pub fn client_files(tls: &ClientTlsConfig) -> impl Iterator<Item = PathBuf> {
    [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten().cloned()
}

/// Acts whenever one of some files changes, and again until that succeeds: the other side may learn of a new key later.
pub fn follow<A>(mut files: Watched, act: impl Fn() -> A + Send + 'static)
where
    A: Future<Output = bool> + Send,
{
    tokio::spawn(async move {
        let mut is_due = false;
        loop {
            tokio::time::sleep(LOOK).await;
            is_due |= files.have_changed();
            if is_due && act().await {
                is_due = false;
            }
        }
    });
}

/// A channel over all of these endpoints, of which those that are encrypted are spoken to by `tls`. `field` is the setting's path.
pub fn channel(
    field: &'static str,
    endpoints: Vec<Endpoint>,
    tls: &ClientTlsConfig,
) -> Result<Channel, ClientTlsError> {
    let (channel, changes) = Channel::balance_channel(endpoints.len().max(1));
    let store = Store { field, tls: tls.clone(), endpoints };
    // Before they are read: a change in between is seen the next time.
    let files = Watched::new(client_files(tls).collect());
    for (place, endpoint) in store.prepared()?.into_iter().enumerate() {
        changes
            .try_send(Change::Insert(place, endpoint))
            .expect("there is room for all, and somebody listens");
    }
    if store.is_encrypted() {
        tokio::spawn(store.follow(files, changes));
    }
    Ok(channel)
}

struct Store {
    field: &'static str,
    tls: ClientTlsConfig,
    endpoints: Vec<Endpoint>,
}

impl Store {
    fn is_encrypted(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.uri().scheme_str() == Some("https"))
    }

    /// The endpoints, with certificates as the files have them.
    fn prepared(&self) -> Result<Vec<Endpoint>, ClientTlsError> {
        if !self.is_encrypted() {
            return Ok(self.endpoints.clone());
        }
        let tls = grpc_config(self.field, &self.tls)?;
        let failed = |source| ClientTlsError::Grpc { field: self.field.to_owned(), source };
        let prepared = self.endpoints.iter().cloned().map(|endpoint| match endpoint.uri().scheme_str() {
            Some("https") => endpoint.tls_config(tls.clone()).map_err(failed),
            _ => Ok(endpoint),
        });
        prepared.collect()
    }

    /// Replaces the endpoints whenever the files change, for as long as somebody has the channel. What is on its way stays on its way.
    async fn follow(self, mut files: Watched, changes: Sender<Change<usize, Endpoint>>) {
        loop {
            tokio::select! {
                () = changes.closed() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if !files.have_changed() {
                continue;
            }
            match self.prepared() {
                Ok(prepared) => {
                    tracing::info!(field = self.field, "certificates were read again");
                    for (place, endpoint) in prepared.into_iter().enumerate() {
                        if changes.send(Change::Insert(place, endpoint)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "new certificates cannot be used yet; those from before stay in use");
                }
            }
        }
    }
}
