//! How the members of a cluster know one another.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TinykvConfig, TinykvConfigError};

/// TLS between the members of a cluster: all of them use it, or none. Certificates are read again when their files change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinykvPeerTls {
    /// Make a self-signed certificate in the data directory. Connections are encrypted, and nobody is checked: whoever
    /// reaches `listen_peer` may speak as a member. Without effect when `cert_file` is given.
    pub auto: bool,
    /// PEM file of this member's certificate chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM file of its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// PEM file of the CAs that the other members' certificates must chain to, when they connect and when they are
    /// connected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// File (PEM or DER) of the lists of revoked certificates, signed by those CAs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl_file: Option<PathBuf>,
    /// PEM file of the certificate shown when this member connects to others. Absent: `cert_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// Common names that the others' certificates may have. Empty: any.
    pub allowed_common_names: Vec<String>,
    /// Hosts that the others' certificates may be valid for: each must be for one of them. Empty: any.
    pub allowed_hosts: Vec<String>,
}

/// The same, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerSecurity {
    /// Members talk in the clear.
    Clear,
    /// They encrypt, and check nobody.
    SelfSigned,
    /// Each checks the other.
    Mutual(PeerCertificates),
}

/// By which certificates members know one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificates {
    /// Chain and key of this member.
    pub own: (PathBuf, PathBuf),
    /// Chain and key shown when it connects, if others.
    pub own_as_client: Option<(PathBuf, PathBuf)>,
    /// The CAs of the others.
    pub ca_file: PathBuf,
    /// What they revoked.
    pub crl_file: Option<PathBuf>,
    /// See [`TinykvPeerTls`].
    pub allowed_common_names: Vec<String>,
    /// See [`TinykvPeerTls`].
    pub allowed_hosts: Vec<String>,
}

/// What is wrong with `peer_tls`, and what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PeerTlsError {
    /// URLs of both kinds.
    #[error(
        "peers: {clear} is not encrypted, {encrypted} is; a cluster is either: write https:// for all of them, or http://"
    )]
    Mixed {
        /// One of the first kind.
        clear: String,
        /// One of the second.
        encrypted: String,
    },
    /// Encryption without certificates.
    #[error(
        "peers: {entry} is encrypted, but peer_tls is absent; name peer_tls.cert_file, key_file and ca_file \
         (--peer-cert-file, --peer-key-file, --peer-trusted-ca-file), or set peer_tls.auto (--peer-auto-tls)"
    )]
    NoCertificates {
        /// The entry.
        entry: String,
    },
    /// Certificates without encryption.
    #[error(
        "peers: {entry} is not encrypted, but peer_tls is given; write https:// for every member, or leave peer_tls out"
    )]
    Unused {
        /// The entry.
        entry: String,
    },
    /// A file is missing.
    #[error("peer_tls.{given} is given without {missing} ({flag})")]
    Incomplete {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
        /// etcd's flag for it.
        flag: &'static str,
    },
    /// Nothing is named.
    #[error("peer_tls names no certificate; name cert_file, key_file and ca_file, or set auto")]
    Empty,
    /// Both lists.
    #[error("peer_tls.allowed_common_names and allowed_hosts exclude one another; keep one")]
    Both,
    /// A list without anything to check it on.
    #[error("peer_tls.auto checks nobody, so no names can be allowed; name cert_file, key_file and ca_file")]
    NamesUnchecked,
}

impl TinykvPeerTls {
    fn checked(&self) -> Result<PeerSecurity, PeerTlsError> {
        let without = |given, missing, flag| Err(PeerTlsError::Incomplete { given, missing, flag });
        let names = !self.allowed_common_names.is_empty();
        let hosts = !self.allowed_hosts.is_empty();
        let own = match (&self.cert_file, &self.key_file, &self.ca_file) {
            (Some(cert), Some(key), Some(ca)) => Some((cert.clone(), key.clone(), ca.clone())),
            (Some(_), None, _) => return without("cert_file", "key_file", "--peer-key-file"),
            (None, Some(_), _) => return without("key_file", "cert_file", "--peer-cert-file"),
            (Some(_), Some(_), None) => return without("cert_file", "ca_file", "--peer-trusted-ca-file"),
            (None, None, Some(_)) if !self.auto => {
                return without("ca_file", "cert_file", "--peer-cert-file");
            }
            (None, None, _) => None,
        };
        if self.crl_file.is_some() && own.is_none() {
            return without("crl_file", "cert_file", "--peer-cert-file");
        }
        let own_as_client = match (&self.client_cert_file, &self.client_key_file) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (Some(_), None) => {
                return without("client_cert_file", "client_key_file", "--peer-client-key-file");
            }
            (None, Some(_)) => {
                return without("client_key_file", "client_cert_file", "--peer-client-cert-file");
            }
            (None, None) => None,
        };
        match own {
            Some(_) if names && hosts => Err(PeerTlsError::Both),
            Some((cert, key, ca_file)) => Ok(PeerSecurity::Mutual(PeerCertificates {
                own: (cert, key),
                own_as_client,
                ca_file,
                crl_file: self.crl_file.clone(),
                allowed_common_names: self.allowed_common_names.clone(),
                allowed_hosts: self.allowed_hosts.clone(),
            })),
            None if self.auto && (names || hosts) => Err(PeerTlsError::NamesUnchecked),
            None if self.auto => Ok(PeerSecurity::SelfSigned),
            None => Err(PeerTlsError::Empty),
        }
    }
}

impl TinykvConfig {
    /// How this member's URL for the others begins.
    pub fn peer_scheme(&self) -> &'static str {
        if self.peer_tls.is_some() { "https://" } else { "http://" }
    }

    /// How members know one another; `peers` must agree with it.
    pub fn peer_security(&self) -> Result<PeerSecurity, TinykvConfigError> {
        let security = self.peer_tls.as_ref().map_or(Ok(PeerSecurity::Clear), TinykvPeerTls::checked)?;
        let is_encrypted =
            |entry: &&String| entry.split_once('=').map_or(entry.as_str(), |it| it.1).starts_with("https://");
        let encrypted = self.peers.iter().find(is_encrypted);
        let clear = self.peers.iter().find(|entry| !is_encrypted(entry));
        match (clear, encrypted) {
            (Some(clear), Some(encrypted)) => {
                Err(PeerTlsError::Mixed { clear: clear.clone(), encrypted: encrypted.clone() }.into())
            }
            (None, Some(entry)) if security == PeerSecurity::Clear => {
                Err(PeerTlsError::NoCertificates { entry: entry.clone() }.into())
            }
            (Some(entry), None) if security != PeerSecurity::Clear => {
                Err(PeerTlsError::Unused { entry: entry.clone() }.into())
            }
            _ => Ok(security),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutual() -> TinykvPeerTls {
        let file = |name: &str| Some(PathBuf::from(name));
        TinykvPeerTls {
            cert_file: file("c"),
            key_file: file("k"),
            ca_file: file("ca"),
            ..TinykvPeerTls::default()
        }
    }

    #[test]
    fn members_encrypt_all_or_none_and_an_error_says_what_is_missing() {
        const CLEAR: &str = "a=http://x:1";
        const ENCRYPTED: &str = "b=https://y:1";
        let auto = TinykvPeerTls { auto: true, ..TinykvPeerTls::default() };
        let names = vec!["x".to_owned()];
        let table: Vec<(&[&str], Option<TinykvPeerTls>, Option<&str>)> = vec![
            (&[CLEAR], None, None),
            (&[ENCRYPTED], Some(mutual()), None),
            (&[ENCRYPTED], Some(auto.clone()), None),
            (&[], Some(mutual()), None),
            (&[CLEAR, ENCRYPTED], Some(mutual()), Some("a cluster is either")),
            (&[ENCRYPTED], None, Some("--peer-auto-tls")),
            (&[CLEAR], Some(mutual()), Some("not encrypted, but peer_tls")),
            (&["a=x:1"], Some(auto.clone()), Some("not encrypted, but peer_tls")),
            (&[ENCRYPTED], Some(TinykvPeerTls::default()), Some("names no certificate")),
            (&[ENCRYPTED], Some(TinykvPeerTls { key_file: None, ..mutual() }), Some("without key_file")),
            (&[ENCRYPTED], Some(TinykvPeerTls { cert_file: None, ..mutual() }), Some("without cert_file")),
            (&[ENCRYPTED], Some(TinykvPeerTls { ca_file: None, ..mutual() }), Some("--peer-trusted-ca-file")),
            (
                &[ENCRYPTED],
                Some(TinykvPeerTls { client_cert_file: Some("x".into()), ..mutual() }),
                Some("without client_key_file"),
            ),
            (
                &[ENCRYPTED],
                Some(TinykvPeerTls { crl_file: Some("x".into()), ..auto.clone() }),
                Some("crl_file is given without cert_file"),
            ),
            (
                &[ENCRYPTED],
                Some(TinykvPeerTls { allowed_hosts: names.clone(), ..auto }),
                Some("checks nobody"),
            ),
            (
                &[ENCRYPTED],
                Some(TinykvPeerTls { allowed_hosts: names.clone(), allowed_common_names: names, ..mutual() }),
                Some("exclude one another"),
            ),
        ];
        for (peers, peer_tls, expected) in table {
            let peers = peers.iter().map(|&peer| peer.to_owned()).collect();
            let config = TinykvConfig { peers, peer_tls, ..TinykvConfig::default() };
            match (config.peer_security(), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
                (result, expected) => panic!("{result:?}, expected {expected:?}"),
            }
        }
    }
}
