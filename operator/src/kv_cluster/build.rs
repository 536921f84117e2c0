//! A KVCluster becomes a StatefulSet of TinyKV.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use aistack_api::server::TlsConfig;
use aistack_api::tinykv::{TinykvConfig, TinykvPeerTls};
use k8s_openapi::api::core::v1::EnvVar;

use super::{ADMIN_PORT, CLIENT_PORT, COMPONENT, PEER_PORT, Tls, ValidatedKvCluster};
use crate::gpu::Gpu;
use crate::manifest::Manifests;
use crate::pod::pod_name_env;
use crate::workload::{
    ADMIN_PORT as ADMIN, ClientsReach, ConfigFile, DATA_DIR, MEMBERS_PORT, Port, Probes, Reach, SecretFile,
    Workload,
};

/// The variable that holds a member's name, which is its pod's.
const NAME: &str = "TINYKV_NAME";

/// What a KVCluster becomes.
pub fn build(cluster: &ValidatedKvCluster) -> Manifests {
    let any = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let is_alone = cluster.voters == 1;
    let mut config = TinykvConfig {
        data_dir: PathBuf::from(DATA_DIR),
        listen_client: any(CLIENT_PORT),
        // Where there are several, each tells of its own by its environment.
        advertise_client_urls: if is_alone { vec![cluster.endpoint()] } else { Vec::new() },
        listen_peer: any(PEER_PORT),
        peers: if is_alone { Vec::new() } else { peers(cluster) },
        // A changed number of replicas must not found a second cluster beside the data of the first.
        found_together: !is_alone,
        quota_bytes: cluster.quota.bytes(),
        ..TinykvConfig::default()
    };
    config.server.admin_listen = any(ADMIN_PORT);
    let secrets = certificates(cluster, &mut config);
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
            Port { name: MEMBERS_PORT, number: PEER_PORT, reach: Reach::Members },
            Port { name: ADMIN, number: ADMIN_PORT, reach: Reach::Node },
        ],
        config: vec![config],
        env: environment(cluster),
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

fn environment(cluster: &ValidatedKvCluster) -> Vec<EnvVar> {
    let mut env = vec![pod_name_env(NAME), pod_name_env("TINYKV_SERVER__TELEMETRY__INSTANCE")];
    if cluster.voters > 1 {
        let own = cluster.client_url(&cluster.host(&format!("$({NAME})")));
        env.push(EnvVar {
            name: "TINYKV_ADVERTISE_CLIENT_URLS".to_owned(),
            value: Some(format!("[\"{own}\"]")),
            ..EnvVar::default()
        });
    }
    env
}

/// The members that found the cluster, by name.
fn peers(cluster: &ValidatedKvCluster) -> Vec<String> {
    let scheme = if cluster.tls == Tls::Off { "http" } else { "https" };
    let url = |member: String| format!("{member}={scheme}://{}:{PEER_PORT}", cluster.host(&member));
    cluster.members().map(url).collect()
}

/// Has clients served, and members known, by the certificate in the cluster's Secret.
fn certificates(cluster: &ValidatedKvCluster, config: &mut TinykvConfig) -> Vec<SecretFile> {
    let Tls::Secret(secret) = &cluster.tls else { return Vec::new() };
    let file = |key: &str| SecretFile { volume: "tls", secret: secret.clone(), key: key.to_owned() };
    let mut files = vec![file("tls.crt"), file("tls.key")];
    let (cert, key) = (PathBuf::from(files[0].path()), PathBuf::from(files[1].path()));
    if cluster.voters > 1 {
        let ca = file("ca.crt");
        config.peer_tls = Some(TinykvPeerTls {
            cert_file: Some(cert.clone()),
            key_file: Some(key.clone()),
            ca_file: Some(PathBuf::from(ca.path())),
            ..TinykvPeerTls::default()
        });
        files.push(ca);
    }
    config.server.tls = Some(TlsConfig::of(cert, key));
    files
}
