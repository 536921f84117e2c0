//! TLS towards a server that a manifest names: whom it trusts, what it shows, and what the server must be called.

use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// What a manifest gives for an `https://` address, as PEM.
#[derive(Clone)]
pub(crate) struct Certificates {
    /// CA of the server's certificate.
    pub authority: String,
    /// Certificate and key that are shown to it.
    pub identity: Option<(String, String)>,
    /// Name that its certificate must carry, if that is not the host.
    pub server_name: Option<String>,
}

impl Certificates {
    pub(super) fn config(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        for ca in chain(&self.authority).map_err(|why| format!("ca.crt: {why}"))? {
            roots.add(ca).map_err(|error| format!("ca.crt: {error}"))?;
        }
        match &self.identity {
            None => Ok(trusting(roots).with_no_client_auth()),
            Some((certificate, key)) => {
                let certificate = chain(certificate).map_err(|why| format!("tls.crt: {why}"))?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                    .map_err(|error| format!("tls.key: {error}"))?;
                trusting(roots)
                    .with_client_auth_cert(certificate, key)
                    .map_err(|error| format!("tls.crt: {error}"))
            }
        }
    }

    pub(super) fn name(&self) -> Result<Option<ServerName<'static>>, String> {
        let Some(name) = &self.server_name else { return Ok(None) };
        let name = ServerName::try_from(name.clone());
        name.map(Some).map_err(|_| "tls.serverName is neither a DNS name nor an IP address".to_owned())
    }
}

/// For servers that nothing is said of: the CAs of this machine.
pub(super) fn of_this_machine() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    // Certificates that cannot be read are left out, as browsers do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    trusting(roots).with_no_client_auth()
}

fn trusting(roots: RootCertStore) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_root_certificates(roots)
}

/// Whether who trusts these CAs may know that certificate. What else may be amiss with it, such as its age, is not asked, and what cannot be
/// read is told of by who uses it.
pub(crate) fn may_know(authority: &str, certificate: &str) -> bool {
    let (Ok(authority), Ok(certificates)) = (chain(authority), chain(certificate)) else { return true };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authority);
    let Some((own, others)) = certificates.split_first() else { return true };
    let Ok(own) = ParsedCertificate::try_from(own) else { return true };
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    let known = verify_server_cert_signed_by_trust_anchor(&own, &roots, others, UnixTime::now(), algorithms);
    // CAs of one name are told apart by what they sign.
    let is_anothers = |error: &CertificateError| {
        matches!(
            error,
            CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
        )
    };
    !matches!(known, Err(Error::InvalidCertificate(error)) if is_anothers(&error))
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| error.to_string())?;
    if found.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(found) }
}
