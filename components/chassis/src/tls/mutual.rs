//! TLS between processes of one kind: each shows its certificate, and checks the other's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aistack_api::server::TlsVersion;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, CommonState, DigitallySignedStruct, Error,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::own::Pair;
use super::reload::Reloading;
use super::revoked::revoked;
use super::{TlsError, certificates, common_name, private_key, roots, valid_for_one, versions};

/// What the one who accepts says once it has taken the other's certificate: in TLS 1.3 the other would not learn it.
const TAKEN: u8 = 1;
/// How a TLS connection begins.
const HANDSHAKE: u8 = 22;

/// By which certificates processes meet.
#[derive(Debug, Clone)]
pub struct MutualFiles {
    /// What this one shows those that connect to it.
    pub own: Pair,
    /// What it shows those that it connects to, if that is another.
    pub own_as_client: Option<Pair>,
    /// PEM file of the CAs that the others' certificates must chain to.
    pub ca_file: PathBuf,
    /// File of the certificates that their CAs revoked.
    pub crl_file: Option<PathBuf>,
    /// Which of them are let in.
    pub allowed: Allowed,
    /// The oldest and the newest version of TLS; none for all.
    pub versions: TlsVersions,
}

/// The oldest and the newest version of TLS; none for all that there are.
pub type TlsVersions = (Option<TlsVersion>, Option<TlsVersion>);

/// Which certificates of the CA are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// All.
    Any,
    /// Those with one of these common names.
    CommonNames(Vec<String>),
    /// Those that are valid for one of these hosts.
    Hosts(Vec<String>),
}

/// Connects and accepts by the certificates that lie in the files at that time.
pub struct MutualTls {
    configs: Reloading<(Arc<ServerConfig>, Arc<ClientConfig>)>,
    /// `None`: nobody's certificate is checked.
    files: Option<MutualFiles>,
    own: PathBuf,
}

impl MutualTls {
    /// Each checks the other.
    pub fn verified(files: MutualFiles) -> Result<Self, TlsError> {
        let MutualFiles { own, own_as_client, ca_file, crl_file, versions, .. } = files.clone();
        let as_client = own_as_client.unwrap_or_else(|| own.clone());
        let mut watched = vec![own.cert_file.clone(), own.key_file.clone(), ca_file.clone()];
        watched.extend([as_client.cert_file.clone(), as_client.key_file.clone()]);
        watched.extend(crl_file.clone());
        let shown = own.cert_file.clone();
        let build = move || configs(&own, &as_client, &ca_file, crl_file.as_deref(), versions);
        Ok(Self { configs: Reloading::new(watched, Box::new(build))?, files: Some(files), own: shown })
    }

    /// The connection is encrypted, and nobody is checked.
    pub fn unverified(own: Pair, versions: TlsVersions) -> Result<Self, TlsError> {
        let watched = vec![own.cert_file.clone(), own.key_file.clone()];
        let shown = own.cert_file.clone();
        let build = move || unchecked_configs(&own, versions);
        Ok(Self { configs: Reloading::new(watched, Box::new(build))?, files: None, own: shown })
    }

    /// Greets whoever listens at the other end, as `address` (host and port) names it. The error says what to do.
    pub async fn connect(&self, stream: TcpStream, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let explain = |error| self.explained(address, &error);
        let connector = TlsConnector::from(self.configs.current().1);
        let mut stream = connector.connect(name, stream).await.map_err(explain)?;
        self.let_in(stream.get_ref().1).map_err(|reason| refused(address, &reason))?;
        match stream.read_u8().await.map_err(explain)? {
            TAKEN => Ok(stream.into()),
            other => Err(refused(address, &format!("it answered {other}"))),
        }
    }

    /// Greets whoever has connected. The error says what to do.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let from = stream.peer_addr().map_or_else(|_| "somebody".to_owned(), |from| from.ip().to_string());
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
            let reason = "it does not encrypt, and this process does: set both to the same";
            return Err(refused(&from, reason));
        }
        let explain = |error| self.explained(&from, &error);
        let acceptor = TlsAcceptor::from(self.configs.current().0);
        let mut stream = acceptor.accept(stream).await.map_err(explain)?;
        self.let_in(stream.get_ref().1).map_err(|reason| {
            refused(&from, &format!("client certificate authentication failed: {reason}"))
        })?;
        stream.write_u8(TAKEN).await?;
        stream.flush().await?;
        Ok(stream.into())
    }

    /// Whether the other's certificate, which is verified, is one of those allowed.
    fn let_in(&self, other: &CommonState) -> Result<(), String> {
        let Some(files) = &self.files else { return Ok(()) };
        let certificate = other.peer_certificates().and_then(<[_]>::first);
        let certificate = certificate.ok_or("it showed no certificate")?;
        match &files.allowed {
            Allowed::Any => Ok(()),
            Allowed::CommonNames(names) => {
                let name = common_name(certificate).unwrap_or_default();
                let said = || format!("its certificate's common name {name:?} is none of {names:?}");
                // Who has no name is not let in by an empty one.
                (!name.is_empty() && names.contains(&name)).then_some(()).ok_or_else(said)
            }
            Allowed::Hosts(hosts) => valid_for_one(certificate, hosts),
        }
    }

    fn explained(&self, who: &str, error: &io::Error) -> io::Error {
        let kind = error.kind();
        let advice = error.get_ref().and_then(|inner| inner.downcast_ref()).map(|inner| self.advice(inner));
        let advice = advice.unwrap_or_else(|| "see its log; perhaps it does not encrypt".to_owned());
        io::Error::new(kind, format!("TLS with {who}: {error}: {advice}"))
    }

    /// What to do about it.
    fn advice(&self, error: &Error) -> String {
        let ca = self.files.as_ref().map_or(Path::new(""), |files| &files.ca_file).display();
        let own = self.own.display();
        match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                format!("its certificate must chain to a CA in {ca}")
            }
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => "its certificate must name that host among its subject alternative names".to_owned(),
            Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => "replace its certificate; new files are read without a restart".to_owned(),
            Error::InvalidCertificate(CertificateError::Revoked) => {
                "its CA has revoked its certificate; it needs another one".to_owned()
            }
            Error::NoCertificatesPresented => {
                format!("it must show a certificate that chains to a CA in {ca}")
            }
            Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::DecryptError
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked,
            ) => format!("it does not take the certificate in {own}; see its log"),
            _ => format!("see its log, and compare {own} and the CAs on both sides"),
        }
    }
}

fn refused(who: &str, reason: &str) -> io::Error {
    io::Error::other(format!("TLS with {who}: {reason}"))
}

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

fn configs(
    own: &Pair,
    as_client: &Pair,
    ca_file: &Path,
    crl_file: Option<&Path>,
    (min, max): TlsVersions,
) -> Result<Configs, TlsError> {
    let versions = versions(min, max);
    let cas = Arc::new(roots(ca_file)?);
    let lists = revoked(crl_file)?;
    let about = |source| TlsError::Ca { path: ca_file.to_owned(), source };
    let verifier = WebPkiClientVerifier::builder(Arc::clone(&cas))
        .with_crls(lists.clone())
        .allow_unknown_revocation_status()
        .build()
        .map_err(about)?;
    let server = ServerConfig::builder_with_protocol_versions(versions).with_client_cert_verifier(verifier);
    let verifier = WebPkiServerVerifier::builder(cas)
        .with_crls(lists)
        .allow_unknown_revocation_status()
        .build()
        .map_err(about)?;
    let client = ClientConfig::builder_with_protocol_versions(versions)
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(certificates(&as_client.cert_file)?, private_key(&as_client.key_file)?)
        .map_err(|source| TlsError::Rustls { path: as_client.cert_file.clone(), source })?;
    Ok((showing(server, own)?, Arc::new(client)))
}

fn unchecked_configs(own: &Pair, (min, max): TlsVersions) -> Result<Configs, TlsError> {
    let versions = versions(min, max);
    let server = ServerConfig::builder_with_protocol_versions(versions).with_no_client_auth();
    let server = showing(server, own)?;
    let anybody = Arc::new(Anybody(Arc::clone(server.crypto_provider())));
    let client = ClientConfig::builder_with_protocol_versions(versions)
        .dangerous()
        .with_custom_certificate_verifier(anybody)
        .with_no_client_auth();
    Ok((server, Arc::new(client)))
}

/// Connects as a client of HTTP/2 to whoever answers, without checking who it is.
pub fn unchecking_client() -> TlsConnector {
    let anybody = Arc::new(Anybody(Arc::new(ring::default_provider())));
    let mut client =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(client))
}

fn showing(
    builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
    own: &Pair,
) -> Result<Arc<ServerConfig>, TlsError> {
    let server = builder
        .with_single_cert(certificates(&own.cert_file)?, private_key(&own.key_file)?)
        .map_err(|source| TlsError::Rustls { path: own.cert_file.clone(), source })?;
    Ok(Arc::new(server))
}

/// Takes every certificate whose key the other holds.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
