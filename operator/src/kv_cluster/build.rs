//! A KVCluster becomes a StatefulSet of TinyKV.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use aistack_api::server::TlsConfig;
use aistack_api::tinykv::{TinykvConfig, TinykvPeerTls};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetOrdinals, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{ConfigMapEnvSource, EnvFromSource, EnvVar};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::backup;
use super::certificate::{self, Identity};
use super::planner::{self, Kept};
use super::record::{self, Record};
use super::{ADMIN_PORT, CLIENT_PORT, COMPONENT, PEER_PORT, Tls, ValidatedKvCluster};
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
    /// By which certificate its members know one another.
    pub identity: Option<Identity>,
}

impl Shape {
    /// Where no operator looks after it.
    pub(super) fn alone(cluster: &ValidatedKvCluster) -> Self {
        let kept = Kept::to(cluster.voters);
        Self {
            record: Record::founding_alone(cluster, kept),
            kept,
            stay: planner::stay_of(cluster.voters),
            identity: Identity::next(cluster, &[]),
        }
    }
}

/// What a KVCluster becomes where no operator looks after it.
pub fn build(cluster: &ValidatedKvCluster) -> Manifests {
    shaped(cluster, &Shape::alone(cluster))
}

/// What it becomes as the group is. The pods' template says nothing of how many there are: a group that grows or shrinks
/// leaves those alone that stay.
pub(super) fn shaped(cluster: &ValidatedKvCluster, shape: &Shape) -> Manifests {
    let mut manifests = Manifests::default();
    manifests.push(shape.record.manifest(cluster));
    if let Some(issuer) = &cluster.issuer {
        manifests.push(certificate::manifest(cluster, issuer));
    }
    manifests.append(workload(cluster, shape.identity.as_ref()).stateful(&cluster.claim));
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
        let secret = shape.identity.as_ref().map(|identity| &identity.secret);
        for job in backup::cron_jobs(cluster, schedule, secret) {
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
    if let (Some(place), Some(pod)) = (&cluster.restore, &mut spec.template.spec) {
        backup::begin_with(place, &config(cluster), pod);
        let labels = &mut spec.template.metadata.get_or_insert_default().labels;
        labels.get_or_insert_default().insert(backup::RESTORES.to_owned(), "true".to_owned());
    }
}

/// The configuration of every member.
fn config(cluster: &ValidatedKvCluster) -> ConfigFile {
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
    if cluster.tls != Tls::Off {
        let path = |key: &str| PathBuf::from(tls_file("", key).path());
        config.peer_tls = Some(TinykvPeerTls {
            cert_file: Some(path(CERTIFICATE)),
            key_file: Some(path(KEY)),
            ca_file: Some(path(AUTHORITY)),
            ..TinykvPeerTls::default()
        });
        config.server.tls = Some(TlsConfig::of(path(CERTIFICATE), path(KEY)));
    }
    ConfigFile::yaml(COMPONENT, &config)
}

fn workload(cluster: &ValidatedKvCluster, identity: Option<&Identity>) -> Workload {
    let config = config(cluster);
    let files =
        |identity: &Identity| [CERTIFICATE, KEY, AUTHORITY].map(|key| tls_file(&identity.secret, key));
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
        env: environment(cluster, identity),
        secrets: identity.map(files).into_iter().flatten().collect(),
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

fn environment(cluster: &ValidatedKvCluster, identity: Option<&Identity>) -> Vec<EnvVar> {
    let own = cluster.client_url(&cluster.host(&format!("$({NAME})")));
    let mut variables = vec![
        pod_name_env(NAME),
        pod_name_env("TINYKV_SERVER__TELEMETRY__INSTANCE"),
        env("TINYKV_ADVERTISE_CLIENT_URLS", &format!("[\"{own}\"]")),
    ];
    if identity.is_some_and(|identity| identity.is_named) {
        variables.push(env(certificate::NAMED, &format!("[\"{}\"]", certificate::host(cluster))));
    }
    variables
}

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";

/// A file of the Secret by which clients are served and members known.
fn tls_file(secret: &str, key: &str) -> SecretFile {
    SecretFile { volume: certificate::VOLUME, secret: secret.to_owned(), key: key.to_owned() }
}
