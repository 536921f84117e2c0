//! TLS of a listener for clients.

use std::sync::Arc;

use aistack_api::server::TlsConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, SupportedCipherSuite};
use tokio_rustls::TlsAcceptor;

use super::reload::Reloading;
use super::revoked::revoked;
use super::{TlsError, certificates, private_key, roots, versions};

/// Acceptors that offer HTTP/2 and HTTP/1.1, by the certificates that lie in the files now.
pub(crate) struct Acceptors(Reloading<Arc<ServerConfig>>);

impl Acceptors {
    pub fn new(config: &TlsConfig) -> Result<Self, TlsError> {
        let config = config.clone();
        let mut files = vec![config.cert_file.clone(), config.key_file.clone()];
        files.extend(config.client_ca_file.clone());
        files.extend(config.client_crl_file.clone());
        Ok(Self(Reloading::new(files, Box::new(move || server_config(&config)))?))
    }

    /// One for the next connection.
    pub fn current(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.current())
    }
}

fn server_config(config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    let about = |source| TlsError::Rustls { path: config.cert_file.clone(), source };
    let provider = Arc::new(provider(&config.cipher_suites)?);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(config.min_version, config.max_version))
        .map_err(about)?;
    let builder = match &config.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider)
                .with_crls(revoked(config.client_crl_file.as_deref())?)
                .allow_unknown_revocation_status()
                .build()
                .map_err(|source| TlsError::Ca { path: path.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder
        .with_single_cert(certificates(&config.cert_file)?, private_key(&config.key_file)?)
        .map_err(about)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

/// What TLS is made of, with those suites of TLS 1.2 that are named; with all where none is.
fn provider(named: &[String]) -> Result<CryptoProvider, TlsError> {
    let mut provider = ring::default_provider();
    if named.is_empty() {
        return Ok(provider);
    }
    let known: Vec<String> = provider.cipher_suites.iter().map(name_of).collect();
    // Go leaves the hash out of two names.
    let is = |known: &str, name: &str| known == name || known.strip_suffix("_SHA256") == Some(name);
    for name in named {
        if !known.iter().any(|known| is(known, name)) {
            return Err(TlsError::CipherSuite { name: name.clone(), known: known.join(", ") });
        }
    }
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some() || named.iter().any(|name| is(&name_of(suite), name)));
    Ok(provider)
}

/// IANA's name. rustls leaves the version in those of TLS 1.3.
fn name_of(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_suites_of_tls_1_2_are_left_and_unknown_ones_refused() {
        let left = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            provider(&names).map(|provider| provider.cipher_suites.len())
        };
        let all = left(&[]).expect("all");
        let of_13 = left(&["TLS_AES_128_GCM_SHA256"]).expect("known");
        assert!(of_13 < all);
        assert_eq!(left(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]).expect("known"), of_13 + 1);
        assert_eq!(left(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]).expect("as Go calls it"), of_13 + 1);
        let error = left(&["TLS_RSA_WITH_3DES_EDE_CBC_SHA"]).expect_err("not safe").to_string();
        assert!(error.contains("TLS_RSA_WITH_3DES_EDE_CBC_SHA") && error.contains("TLS_ECDHE_"), "{error}");
    }
}
