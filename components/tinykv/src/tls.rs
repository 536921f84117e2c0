//! Certificates: of this member for the others, and those that it makes for itself.

use aistack_api::server::TlsConfig;
use aistack_api::tinykv::{PeerCertificates, PeerSecurity, TinykvConfig};
use aistack_chassis::tls::{Allowed, MutualFiles, MutualTls, Pair, TlsError, TlsVersions, self_signed};
use replication::{Channel, Clear, Connection, Opening};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;

use crate::node::NodeStartError;

/// How this member and the others talk.
pub fn channel(config: &TinykvConfig) -> Result<Arc<dyn Channel>, NodeStartError> {
    let versions = (config.tls_min_version, config.tls_max_version);
    Ok(match config.peer_security()? {
        PeerSecurity::Clear => Arc::new(Clear),
        PeerSecurity::SelfSigned => {
            let pair = self_signed(&config.data_dir.join("fixtures/peer"), &hosts(config.listen_peer))?;
            Arc::new(Encrypted(Arc::new(MutualTls::unverified(pair, versions)?)))
        }
        PeerSecurity::Mutual(certificates) => {
            Arc::new(Encrypted(Arc::new(MutualTls::verified(files_of(certificates, versions))?)))
        }
    })
}

fn files_of(certificates: PeerCertificates, versions: TlsVersions) -> MutualFiles {
    let pair = |(cert_file, key_file): (PathBuf, PathBuf)| Pair { cert_file, key_file };
    let PeerCertificates { own, own_as_client, ca_file, crl_file, allowed_common_names, allowed_hosts } =
        certificates;
    let allowed = if !allowed_common_names.is_empty() {
        Allowed::CommonNames(allowed_common_names)
    } else if !allowed_hosts.is_empty() {
        Allowed::Hosts(allowed_hosts)
    } else {
        Allowed::Any
    };
    MutualFiles {
        own: pair(own),
        own_as_client: own_as_client.map(pair),
        ca_file,
        crl_file,
        allowed,
        versions,
    }
}

/// Makes the certificate for clients, where one is asked for and none is named; has the versions of TLS hold for clients too.
pub fn for_clients(config: &mut TinykvConfig) -> Result<(), TlsError> {
    if config.auto_tls && config.server.tls.is_none() {
        let dir = config.data_dir.join("fixtures/client");
        let Pair { cert_file, key_file } = self_signed(&dir, &hosts(config.listen_client))?;
        config.server.tls = Some(TlsConfig::of(cert_file, key_file));
    }
    if let Some(tls) = &mut config.server.tls {
        tls.min_version = tls.min_version.or(config.tls_min_version);
        tls.max_version = tls.max_version.or(config.tls_max_version);
    }
    Ok(())
}

fn hosts(listens: SocketAddr) -> Vec<String> {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), listens.ip().to_string()];
    hosts.dedup();
    hosts
}

struct Encrypted(Arc<MutualTls>);

impl Channel for Encrypted {
    fn connected(&self, stream: TcpStream, address: &str) -> Opening {
        let (tls, address) = (Arc::clone(&self.0), address.to_owned());
        Box::pin(async move { Ok(Connection::of(tls.connect(stream, &address).await?)) })
    }

    fn accepted(&self, stream: TcpStream) -> Opening {
        let tls = Arc::clone(&self.0);
        Box::pin(async move { io::Result::Ok(Connection::of(tls.accept(stream).await?)) })
    }
}
