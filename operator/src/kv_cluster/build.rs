//! A KVCluster becomes a StatefulSet of TinyKV.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use aistack_api::server::TlsConfig;
use aistack_api::tinykv::{TinykvConfig, TinykvPeerTls};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetOrdinals, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{ConfigMapEnvSource, EnvFromSource, EnvVar};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::planner::{self, Kept};
use super::record::{self, Record};
use super::{ADMIN_PORT, CLIENT_PORT, COMPONENT, PEER_PORT, Tls, ValidatedKvCluster};
use super::{backup, certificate};
use crate::ending::Ending;
use crate::gpu::Gpu;
use crate::manifest::{Manifest, Manifests};
use crate::pod::{env, pod_name_env};
use crate::workload::{
    ADMIN_PORT as ADMIN, ConfigFile, DATA_DIR, MEMBERS_PORT, Port, Probes, Reach, SecretFile, Workload,
};

/// The variable that holds a member's name, which is its pod's.
const NAME: &str = "TINYKV_NAME";

/// What of it is decided by how the group is, and not by the spec alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Who belongs to it.
    pub record: Record,
    /// Its pods.
    pub kept: Kept,
    /// Pods that have to be ready for another to be evicted.
    pub stay: u16,
}

impl Shape {
    /// Before there is anything.
    pub(super) fn founding(cluster: &ValidatedKvCluster) -> Self {
        let kept = Kept::to(cluster.voters);
        Self { record: Record::founding(cluster, kept), kept, stay: planner::stay_of(cluster.voters) }
    }
}

/// What a KVCluster becomes, to begin with.
pub fn build(cluster: &ValidatedKvCluster) -> Manifests {
    shaped(cluster, &Shape::founding(cluster))
}

/// What it becomes as the group is. The pods' template says nothing of how many there are: a group that grows or shrinks
/// leaves those alone that stay.
pub(super) fn shaped(cluster: &ValidatedKvCluster, shape: &Shape) -> Manifests {
    let mut manifests = Manifests::default();
    manifests.push(shape.record.manifest(cluster));
    if let Some(issuer) = &cluster.issuer {
        manifests.push(certificate::manifest(cluster, issuer));
    }
    manifests.append(workload(cluster).stateful(&cluster.claim));
    if cluster.voters < 2 && shape.kept.count() < 2 {
        manifests.0.retain(|manifest| !matches!(manifest, Manifest::PodDisruptionBudget(_)));
    }
    for manifest in &mut manifests.0 {
        match manifest {
            Manifest::StatefulSet(set) => fit(cluster, shape, set),
            Manifest::PodDisruptionBudget(budget) => {
                let spec = budget.spec.get_or_insert_default();
                (spec.max_unavailable, spec.min_available) =
                    (None, Some(IntOrString::Int(i32::from(shape.stay))));
                // A member that is down anyway may be made anew whatever the others do.
                spec.unhealthy_pod_eviction_policy = Some("AlwaysAllow".to_owned());
            }
            _ => {}
        }
    }
    if let Some(schedule) = &cluster.backup {
        for job in backup::cron_jobs(cluster, schedule) {
            manifests.push(job);
        }
    }
    manifests
}

fn fit(cluster: &ValidatedKvCluster, shape: &Shape, set: &mut StatefulSet) {
    let spec = &mut set.spec;
    spec.replicas = Some(i32::from(shape.kept.count()));
    let first = i32::from(shape.kept.first);
    spec.ordinals = (first > 0).then_some(StatefulSetOrdinals { start: Some(first) });
    // Kubernetes knows nothing of followers and leaders: pods are replaced by us.
    spec.update_strategy =
        Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None });
    for container in spec.template.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
        let source = ConfigMapEnvSource { name: record::name(&cluster.name), optional: None };
        container.env_from =
            Some(vec![EnvFromSource { config_map_ref: Some(source), ..EnvFromSource::default() }]);
    }
    if let (Some(place), Some(spec)) = (&cluster.restore, &mut spec.template.spec) {
        backup::begin_with(place, &config(cluster).0, spec);
    }
}

/// The configuration of every member, and the Secrets that it reads.
fn config(cluster: &ValidatedKvCluster) -> (ConfigFile, Vec<SecretFile>) {
    let any = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let mut config = TinykvConfig {
        data_dir: PathBuf::from(DATA_DIR),
        listen_client: any(CLIENT_PORT),
        listen_peer: any(PEER_PORT),
        // A changed number of replicas must not found a second cluster beside the data of the first.
        found_together: true,
        quota_bytes: cluster.quota.bytes(),
        ..TinykvConfig::default()
    };
    config.server.admin_listen = any(ADMIN_PORT);
    config.server.limits.drain_timeout_ms = Ending::MEMBER.drain_ms();
    let secrets = certificates(cluster, &mut config);
    (ConfigFile::yaml(COMPONENT, &config), secrets)
}

fn workload(cluster: &ValidatedKvCluster) -> Workload {
    let (config, secrets) = config(cluster);
    Workload {
        name: cluster.name.clone(),
        owner: cluster.owner.clone(),
        // More than one at any time: a group that shrinks to one has a budget until the others are gone.
        replicas: cluster.voters.max(2),
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
        ending: Ending::MEMBER,
        overrides: cluster.pod.clone(),
        service_annotations: BTreeMap::new(),
    }
}

fn environment(cluster: &ValidatedKvCluster) -> Vec<EnvVar> {
    let own = cluster.client_url(&cluster.host(&format!("$({NAME})")));
    vec![
        pod_name_env(NAME),
        pod_name_env("TINYKV_SERVER__TELEMETRY__INSTANCE"),
        env("TINYKV_ADVERTISE_CLIENT_URLS", &format!("[\"{own}\"]")),
    ]
}

/// Has clients served, and members known, by the certificate in the cluster's Secret.
fn certificates(cluster: &ValidatedKvCluster, config: &mut TinykvConfig) -> Vec<SecretFile> {
    let Tls::Secret(secret) = &cluster.tls else { return Vec::new() };
    let file = |key: &str| SecretFile { volume: "tls", secret: secret.clone(), key: key.to_owned() };
    let mut files = vec![file("tls.crt"), file("tls.key")];
    let (cert, key) = (PathBuf::from(files[0].path()), PathBuf::from(files[1].path()));
    let ca = file("ca.crt");
    config.peer_tls = Some(TinykvPeerTls {
        cert_file: Some(cert.clone()),
        key_file: Some(key.clone()),
        ca_file: Some(PathBuf::from(ca.path())),
        ..TinykvPeerTls::default()
    });
    files.push(ca);
    config.server.tls = Some(TlsConfig::of(cert, key));
    files
}
