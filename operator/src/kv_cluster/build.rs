//! A KVCluster becomes a StatefulSet of TinyKV.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use aistack_api::server::TlsConfig;
use aistack_api::tinykv::TinykvConfig;

use super::{ADMIN_PORT, CLIENT_PORT, COMPONENT, PEER_PORT, Tls, ValidatedKvCluster};
use crate::gpu::Gpu;
use crate::manifest::Manifests;
use crate::pod::pod_name_env;
use crate::workload::{
    ADMIN_PORT as ADMIN, ClientsReach, ConfigFile, DATA_DIR, Port, Probes, Reach, SecretFile, Workload,
};

/// What a KVCluster becomes.
pub fn build(cluster: &ValidatedKvCluster) -> Manifests {
    let any = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let mut config = TinykvConfig {
        data_dir: PathBuf::from(DATA_DIR),
        listen_client: any(CLIENT_PORT),
        advertise_client_urls: vec![cluster.endpoint()],
        listen_peer: any(PEER_PORT),
        peers: peers(cluster),
        quota_bytes: cluster.quota.bytes(),
        ..TinykvConfig::default()
    };
    config.server.admin_listen = any(ADMIN_PORT);
    let mut secrets = Vec::new();
    if let Tls::Secret(secret) = &cluster.tls {
        let file = |key: &str| SecretFile { volume: "tls", secret: secret.clone(), key: key.to_owned() };
        let (cert, key) = (file("tls.crt"), file("tls.key"));
        config.server.tls = Some(TlsConfig {
            cert_file: PathBuf::from(cert.path()),
            key_file: PathBuf::from(key.path()),
            client_ca_file: None,
        });
        secrets = vec![cert, key];
    }
    let config = ConfigFile::yaml(COMPONENT, &config);
    Workload {
        name: cluster.name.clone(),
        owner: cluster.owner.clone(),
        replicas: cluster.voters,
        image: cluster.image.clone(),
        command: vec![COMPONENT.to_owned()],
        args: vec!["--config".to_owned(), config.path()],
        ports: vec![
            Port { name: "client", number: CLIENT_PORT, reach: Reach::Clients },
            Port { name: "peer", number: PEER_PORT, reach: Reach::Members },
            Port { name: ADMIN, number: ADMIN_PORT, reach: Reach::Node },
        ],
        config: vec![config],
        env: vec![pod_name_env("TINYKV_NAME"), pod_name_env("TINYKV_SERVER__TELEMETRY__INSTANCE")],
        secrets,
        models: false,
        resources: cluster.resources.clone(),
        gpu: Gpu::None,
        // Replay of the log after a crash.
        probes: Probes::admin(600),
        grace_seconds: 30,
        overrides: cluster.pod.clone(),
        service_annotations: BTreeMap::new(),
        clients_reach: ClientsReach::EveryPod,
    }
    .stateful(&cluster.claim)
}

/// The other members by name. A member that finds any here refuses to start in this version, which is better than three
/// stores that know nothing of one another behind one Service.
fn peers(cluster: &ValidatedKvCluster) -> Vec<String> {
    if cluster.voters == 1 {
        return Vec::new();
    }
    let name = &cluster.name;
    (0..cluster.voters).map(|ordinal| format!("http://{name}-{ordinal}.{name}-members:{PEER_PORT}")).collect()
}
