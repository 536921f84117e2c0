//! TLS of a listener for clients.

use std::sync::Arc;

use aistack_api::server::TlsConfig;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::reload::Reloading;
use super::{TlsError, certificates, private_key, roots};

/// Acceptors that offer HTTP/2 and HTTP/1.1, by the certificates that lie in the files now.
pub(crate) struct Acceptors(Reloading<Arc<ServerConfig>>);

impl Acceptors {
    pub fn new(config: &TlsConfig) -> Result<Self, TlsError> {
        let config = config.clone();
        let mut files = vec![config.cert_file.clone(), config.key_file.clone()];
        files.extend(config.client_ca_file.clone());
        Ok(Self(Reloading::new(files, Box::new(move || server_config(&config)))?))
    }

    /// One for the next connection.
    pub fn current(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.current())
    }
}

fn server_config(config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = match &config.client_ca_file {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots(path)?))
                .build()
                .map_err(|source| TlsError::ClientCa { path: path.clone(), source })?;
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder
        .with_single_cert(certificates(&config.cert_file)?, private_key(&config.key_file)?)
        .map_err(|source| TlsError::Rustls { path: config.cert_file.clone(), source })?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}
