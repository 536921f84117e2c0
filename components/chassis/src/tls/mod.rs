//! TLS: of listeners for clients, and between processes that check one another. Certificates are read again when their
//! files change; connections that stand are not touched.

mod mutual;
mod own;
mod reload;
mod revoked;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aistack_api::server::TlsVersion;
use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem};

pub use self::mutual::{Allowed, MutualFiles, MutualTls, TlsVersions, unchecking_client};
pub use self::own::{Pair, self_signed};
pub use self::reload::Watched;
pub(crate) use self::server::Acceptors;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file could not be read.
    #[error("TLS file {}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The file holds no certificate.
    #[error("TLS file {} holds no certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit, or a CA is no CA.
    #[error("TLS with {}: {source}", path.display())]
    Rustls {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The CAs of the others, or their lists of revoked certificates, were refused.
    #[error("CAs in {}: {source}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::server::VerifierBuilderError,
    },
    /// The file of revoked certificates could not be read.
    #[error("list of revoked certificates {}: {source}", path.display())]
    Revoked {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// rustls does not have that cipher suite.
    #[error("server.tls.cipher_suites names {name}, which is unknown or not safe; there are {known}")]
    CipherSuite {
        /// The name.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {source}")]
    Make {
        /// What the generator said.
        source: rcgen::Error,
    },
    /// A certificate that was made could not be kept.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The common name in the certificate that a client showed, empty where there is none in it: an extension of every
/// request of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(pub Arc<str>);

/// The name of the client at the other end, where it showed a certificate that was verified.
pub(crate) fn client_name(connection: &rustls::ServerConnection) -> Option<ClientName> {
    let certificate = connection.peer_certificates()?.first()?;
    Some(ClientName(common_name(certificate)?.into()))
}

/// Of several common names the last, which is the most specific; of none, the empty one.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().last();
    name.map_or(Some(String::new()), |name| name.as_str().ok().map(str::to_owned))
}

/// Whether a client is let in whose certificate was verified: one that is valid for one of the hosts, where any are named.
pub(crate) fn is_allowed(connection: &rustls::ServerConnection, hosts: &[String]) -> Result<(), String> {
    if hosts.is_empty() {
        return Ok(());
    }
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    valid_for_one(certificate.ok_or("it showed no certificate")?, hosts)
}

fn valid_for_one(certificate: &CertificateDer<'_>, hosts: &[String]) -> Result<(), String> {
    let parsed = ParsedCertificate::try_from(certificate).map_err(|error| error.to_string())?;
    let valid = |host: &String| {
        ServerName::try_from(host.as_str()).is_ok_and(|host| verify_server_name(&parsed, &host).is_ok())
    };
    let said = || format!("its certificate is valid for none of {hosts:?}");
    hosts.iter().any(valid).then_some(()).ok_or_else(said)
}

/// The versions of TLS from one to another.
fn versions(
    min: Option<TlsVersion>,
    max: Option<TlsVersion>,
) -> &'static [&'static rustls::SupportedProtocolVersion] {
    static NEW: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    static OLD: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
    match (min, max) {
        (Some(TlsVersion::V1_3), _) => &NEW,
        (_, Some(TlsVersion::V1_2)) => &OLD,
        _ => rustls::ALL_VERSIONS,
    }
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(path)? {
        roots.add(ca).map_err(|source| TlsError::Rustls { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Pem { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { path: path.to_owned(), source };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}
