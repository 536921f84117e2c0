//! Certificates made for a test.

use std::path::{Path, PathBuf};

use aistack_api::modelhub::ClientTlsConfig;
use aistack_api::server::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// A certificate authority with a folder for its files.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
    pub ca_file: PathBuf,
}

/// A certificate and its key as files.
pub struct Pair {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

fn write(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    path
}

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // Authorities of one name would be told apart by their signatures only.
        let name = format!("test authority {}", uuid::Uuid::new_v4());
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_file = write(folder.path(), "ca.pem", &params.self_signed(&key).expect("a CA").pem());
        Self { issuer: Issuer::new(params, key), folder, ca_file }
    }

    /// A certificate for this name or address.
    pub fn pair(&self, name: &str) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |kind: &str, text: &str| write(self.folder.path(), &format!("{name}.{kind}.pem"), text);
        Pair { cert_file: file("cert", &cert.pem()), key_file: file("key", &key.serialize_pem()) }
    }

    /// For a server with this name; clients must show a certificate of the given authority, if any.
    pub fn server(&self, name: &str, clients: Option<&Self>) -> TlsConfig {
        let Pair { cert_file, key_file } = self.pair(name);
        TlsConfig {
            client_ca_file: clients.map(|ca| ca.ca_file.clone()),
            ..TlsConfig::of(cert_file, key_file)
        }
    }

    /// For a client that trusts this authority.
    pub fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig { ca_file: Some(self.ca_file.clone()), ..ClientTlsConfig::default() }
    }

    /// For a client that trusts this authority and shows a certificate of it.
    pub fn client_with_certificate(&self) -> ClientTlsConfig {
        let Pair { cert_file, key_file } = self.pair("client");
        ClientTlsConfig { cert_file: Some(cert_file), key_file: Some(key_file), ..self.client() }
    }
}

/// The settings of a server of ours, as environment variables.
pub fn variables(prefix: &str, tls: &TlsConfig) -> Vec<(String, String)> {
    let file = |name: &str, path: &Path| (format!("{prefix}SERVER__TLS__{name}"), path.display().to_string());
    let mut all = vec![file("CERT_FILE", &tls.cert_file), file("KEY_FILE", &tls.key_file)];
    all.extend(tls.client_ca_file.as_ref().map(|path| file("CLIENT_CA_FILE", path)));
    all
}
