//! The client's side of TLS towards engines and stores: which CAs are trusted, and which certificate is shown.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aistack_api::modelhub::ClientTlsConfig;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// Why TLS towards an `https://` endpoint cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// A PEM file cannot be read, or holds something else.
    #[error("{field} {}: {reason}", path.display())]
    File {
        /// Path of the setting, such as `kv.tls.ca_file`.
        field: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system trusts nobody.
    #[error(
        "{field}: this machine has no CA certificates (Debian: apt install ca-certificates); or set {field}.ca_file"
    )]
    NoSystemCas {
        /// Path of the setting.
        field: String,
    },
    /// Certificate and key do not fit.
    #[error("{field}: {source}")]
    Rustls {
        /// Path of the setting.
        field: String,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The name is none.
    #[error("{field}.server_name {name:?} is neither a DNS name nor an IP address")]
    ServerName {
        /// Path of the setting.
        field: String,
        /// As configured.
        name: String,
    },
    /// The gRPC library refused.
    #[error("{field}: {source}")]
    Grpc {
        /// Path of the setting.
        field: String,
        /// What it said.
        source: tonic::transport::Error,
    },
}

/// A configuration for rustls; `field` is the setting's path, for errors.
pub fn rustls_config(field: &str, tls: &ClientTlsConfig) -> Result<ClientConfig, ClientTlsError> {
    let failed = |source| ClientTlsError::Rustls { field: field.to_owned(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(failed)?.with_root_certificates(roots(field, tls.ca_file.as_deref())?);
    let (Some(cert_file), Some(key_file)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&format!("{field}.cert_file"), cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| ClientTlsError::File {
        field: format!("{field}.key_file"),
        path: key_file.clone(),
        reason: e.to_string(),
    })?;
    builder.with_client_auth_cert(chain, key).map_err(failed)
}

/// The name that the server's certificate must carry, when it is not the endpoint's host.
pub fn server_name(
    field: &str,
    tls: &ClientTlsConfig,
) -> Result<Option<ServerName<'static>>, ClientTlsError> {
    let Some(name) = &tls.server_name else { return Ok(None) };
    let wrong = |_| ClientTlsError::ServerName { field: field.to_owned(), name: name.clone() };
    ServerName::try_from(name.clone()).map(Some).map_err(wrong)
}

/// The same settings for gRPC clients. Everything is checked here, since the library takes files without certificates.
pub fn grpc_config(
    field: &str,
    tls: &ClientTlsConfig,
) -> Result<tonic::transport::ClientTlsConfig, ClientTlsError> {
    use tonic::transport::{Certificate, Identity};
    rustls_config(field, tls)?;
    server_name(field, tls)?;
    let read = |name: &str, path: &Path| {
        std::fs::read(path).map_err(|e| ClientTlsError::File {
            field: format!("{field}.{name}"),
            path: path.to_owned(),
            reason: e.to_string(),
        })
    };
    let mut config = tonic::transport::ClientTlsConfig::new();
    config = match &tls.ca_file {
        Some(path) => config.ca_certificate(Certificate::from_pem(read("ca_file", path)?)),
        None => config.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        config = config.identity(Identity::from_pem(read("cert_file", cert)?, read("key_file", key)?));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name);
    }
    Ok(config)
}

fn roots(field: &str, ca_file: Option<&Path>) -> Result<RootCertStore, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        // Certificates of the system that cannot be read are left out, as browsers do.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(ClientTlsError::NoSystemCas { field: field.to_owned() });
        }
        return Ok(roots);
    };
    let field = format!("{field}.ca_file");
    for ca in certificates(&field, path)? {
        roots.add(ca).map_err(|e| ClientTlsError::File {
            field: field.clone(),
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
    }
    Ok(roots)
}

fn certificates(field: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let wrong =
        |reason: String| ClientTlsError::File { field: field.to_owned(), path: path.to_owned(), reason };
    let found = CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|e| wrong(e.to_string()))?;
    if found.is_empty() {
        return Err(wrong(
            "holds no certificate (a PEM file begins with -----BEGIN CERTIFICATE-----)".to_owned(),
        ));
    }
    Ok(found)
}

/// Why an encrypted connection to `endpoint` failed, with what a server that asks for a client certificate may mean: some hang
/// up before their complaint is read.
pub fn explained(endpoint: &str, cause: String) -> String {
    const HUNG_UP: [&str; 4] =
        ["connection closed", "connection reset", "broken pipe", "unexpected end of file"];
    let said = cause.to_lowercase();
    if endpoint.starts_with("https://") && HUNG_UP.iter().any(|sign| said.contains(sign)) {
        return cause + "; if it asks for a client certificate: set tls.cert_file and tls.key_file";
    }
    cause
}

/// What to do about a failed handshake; empty when `cause` is something else.
pub fn advice(cause: &str) -> &'static str {
    const ADVICE: &[(&str, &str)] = &[
        ("UnknownIssuer", "; set tls.ca_file to the CA that signed its certificate"),
        ("BadSignature", "; tls.ca_file holds a CA of its issuer's name, but of another key"),
        ("not valid for name", "; call it by a name of its certificate, or set tls.server_name"),
        ("NotValidForName", "; call it by a name of its certificate, or set tls.server_name"),
        ("certificate expired", "; its certificate must be renewed"),
        ("Expired", "; its certificate must be renewed"),
        ("CertificateRequired", "; it asks for a client certificate: set tls.cert_file and tls.key_file"),
        ("UnknownCA", "; it does not trust the client certificate of tls.cert_file"),
        ("DecryptError", "; it does not trust the client certificate of tls.cert_file"),
        ("InvalidContentType", "; it does not speak TLS there: try http://"),
    ];
    ADVICE.iter().find(|(sign, _)| cause.contains(sign)).map_or("", |(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_will_not_do_is_named_with_its_setting() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("a file");
            path
        };
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let cert = file("cert.pem", &signed.cert.pem());
        let key = file("key.pem", &signed.signing_key.serialize_pem());
        let other_key = file("other.pem", &other.signing_key.serialize_pem());
        let empty = file("empty.pem", "not a certificate");
        let absent = folder.path().join("absent.pem");
        let of =
            |ca: Option<&PathBuf>, pair: Option<(&PathBuf, &PathBuf)>, name: Option<&str>| ClientTlsConfig {
                ca_file: ca.cloned(),
                cert_file: pair.map(|p| p.0.clone()),
                key_file: pair.map(|p| p.1.clone()),
                server_name: name.map(str::to_owned),
            };
        let cases = [
            (of(Some(&cert), None, None), ""),
            (of(Some(&cert), Some((&cert, &key)), Some("localhost")), ""),
            (of(Some(&absent), None, None), "kv.tls.ca_file"),
            (of(Some(&empty), None, None), "holds no certificate"),
            (of(Some(&cert), Some((&cert, &empty)), None), "kv.tls.key_file"),
            (of(Some(&cert), Some((&empty, &key)), None), "kv.tls.cert_file"),
            (of(Some(&cert), Some((&cert, &other_key)), None), "kv.tls: "),
            (of(Some(&cert), None, Some("not a name")), "kv.tls.server_name \"not a name\""),
        ];
        for (config, want) in cases {
            let got = grpc_config("kv.tls", &config).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{want:?}: {got:?}");
        }
    }
}
