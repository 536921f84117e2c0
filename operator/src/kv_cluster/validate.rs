//! From what an API server accepts to what `build` cannot fail on.

use aistack_crds::KVCluster;
use aistack_crds::kv_cluster::{KvIssuer, KvTls};
use aistack_crds::parts::{ClientTlsSpec, PodOverrides, ResourceSpec};

use super::backup::{Place, Schedule};
use super::{COMPONENT, certificate};
use crate::gap::Gap;
use crate::meta::{Image, Owner};
use crate::object;
use crate::pod::DATA_VOLUME;
use crate::problem::Problem;
use crate::size::Size;
use crate::workload::{Claim, StorageClass, headless_name};

/// A KVCluster that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedKvCluster {
    pub(super) owner: Owner,
    pub(super) name: String,
    /// Of the object; empty where no API server keeps it.
    pub(super) uid: String,
    pub(super) voters: u16,
    pub(super) claim: Claim,
    pub(super) quota: Size,
    pub(super) tls: Tls,
    /// Who signs what is in that Secret, when cert-manager is asked for it.
    pub(super) issuer: Option<KvIssuer>,
    pub(super) image: Image,
    pub(super) resources: ResourceSpec,
    pub(super) pod: PodOverrides,
    pub(super) backup: Option<Schedule>,
    pub(super) restore: Option<Place>,
    gaps: Vec<Gap>,
}

/// How clients of a KVCluster are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Clear text.
    Off,
    /// Certificates from a Secret of type `kubernetes.io/tls`.
    Secret(String),
}

impl ValidatedKvCluster {
    /// What this version cannot do of it.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// URL that clients in the same namespace use.
    pub fn endpoint(&self) -> String {
        self.client_url(&self.name)
    }

    /// URLs of the members, for clients in the same namespace that go to another when one is gone.
    pub fn endpoints(&self) -> Vec<String> {
        if self.voters == 1 {
            return vec![self.endpoint()];
        }
        self.members().map(|member| self.client_url(&self.host(&member))).collect()
    }

    /// How components of the same stack check that it is this cluster that they talk to.
    pub fn client_tls(&self) -> Option<ClientTlsSpec> {
        let Tls::Secret(secret) = &self.tls else { return None };
        Some(ClientTlsSpec {
            secret_name: secret.clone(),
            client_certificate: false,
            server_name: Some(self.name.clone()),
        })
    }

    /// Names of the members: those of their pods.
    fn members(&self) -> impl Iterator<Item = String> {
        (0..self.voters).map(|ordinal| self.member(ordinal))
    }

    /// Name of a member, which is its pod's.
    pub(super) fn member(&self, ordinal: u16) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Name of a member's claim.
    pub(super) fn claim_name(&self, ordinal: u16) -> String {
        format!("{DATA_VOLUME}-{}-{ordinal}", self.name)
    }

    /// Where the others reach a member.
    pub(super) fn peer_url(&self, member: &str) -> String {
        format!("{}://{}:{}", self.scheme(), self.host(member), super::PEER_PORT)
    }

    fn scheme(&self) -> &'static str {
        if self.tls == Tls::Off { "http" } else { "https" }
    }

    /// Where a member is found, in the same namespace.
    pub(super) fn host(&self, member: &str) -> String {
        format!("{member}.{}", headless_name(&self.name))
    }

    pub(super) fn client_url(&self, host: &str) -> String {
        format!("{}://{host}:{}", self.scheme(), super::CLIENT_PORT)
    }
}

/// Checks a KVCluster that passed its schema. `part_of` is the stack it belongs to, or its own name.
pub fn validate(cluster: &KVCluster, part_of: &str) -> Result<ValidatedKvCluster, Vec<Problem>> {
    let name = object::name(cluster);
    let title = format!("KVCluster {name}");
    let spec = &cluster.spec;
    let mut problems = Vec::new();
    let storage = object::size("spec.storage", &spec.storage, &mut problems);
    let quota = object::size("spec.quota", &spec.quota, &mut problems);
    let voters = u16::try_from(spec.replicas).unwrap_or_default();
    if voters == 0 || voters % 2 == 0 {
        problems.push(Problem::new(
            "spec.replicas",
            format!("{voters} voters have no majority"),
            "use 1 (laptop) or 3, 5, 7",
        ));
    }
    let backup = spec.backup.as_ref().and_then(|backup| {
        let place = place(
            "spec.backup.destination",
            &backup.destination,
            backup.secret_name.as_ref(),
            &mut problems,
        )?;
        let place = place.of_cluster(cluster.metadata.namespace.as_deref().unwrap_or_default(), &name);
        let drill = backup.drill.as_ref().map(|drill| drill.schedule.clone());
        Some(Schedule { cron: backup.schedule.clone(), place, keep: backup.keep, drill })
    });
    let restore = spec.restore.as_ref().and_then(|restore| {
        place("spec.restore.source", &restore.source, restore.secret_name.as_ref(), &mut problems)
    });
    if name.contains('.') && spec.tls.as_ref().is_some_and(|tls| tls.issuer_ref.is_some()) {
        problems.push(Problem::new(
            "metadata.name",
            format!("{name} has a dot, so no certificate is made out to it"),
            "use lower-case letters, digits and -",
        ));
    }
    let (Some(storage), Some(quota), true) = (storage, quota, problems.is_empty()) else {
        return Err(problems.into_iter().map(|problem| problem.of(&title)).collect());
    };
    Ok(ValidatedKvCluster {
        owner: object::owner(cluster, COMPONENT, part_of),
        gaps: gaps(cluster).into_iter().map(|gap| gap.of(&title)).collect(),
        voters,
        claim: Claim {
            size: storage,
            class: StorageClass::of(spec.storage_class_name.as_ref()),
            attributes: spec.volume_attributes_class_name.clone(),
            deleted_with_owner: object::deletes_volumes(cluster),
        },
        quota,
        tls: spec.tls.as_ref().map_or(Tls::Off, |tls| Tls::Secret(secret_of(&name, tls))),
        issuer: spec.tls.as_ref().and_then(|tls| tls.issuer_ref.clone()),
        name,
        uid: cluster.metadata.uid.clone().unwrap_or_default(),
        image: Image::of(COMPONENT, &spec.image),
        resources: spec.resources.clone(),
        pod: spec.pod.clone(),
        backup,
        restore,
    })
}

/// The Secret with the certificate of a cluster of that name: the one that is named, or the one that cert-manager is asked for.
pub(super) fn secret_of(cluster: &str, tls: &KvTls) -> String {
    tls.secret_name.clone().unwrap_or_else(|| certificate::name(cluster))
}

fn place(path: &str, url: &str, secret: Option<&String>, problems: &mut Vec<Problem>) -> Option<Place> {
    let place = Place::of(url, secret);
    if place.is_none() {
        problems.push(Problem::new(
            path,
            format!("`{url}` names no claim"),
            "write pvc://CLAIM/path, with the name of a PersistentVolumeClaim of this namespace",
        ));
    }
    place
}

fn gaps(cluster: &KVCluster) -> Vec<Gap> {
    let spec = &cluster.spec;
    let mut gaps = Vec::new();
    if spec.auth.is_some() {
        gaps.push(Gap::everywhere(
            "spec.auth",
            "users are not of this version, and every client would be let in",
            "remove auth, and keep clients out by network policies; after etcdctl auth enable the operator, which has no user, could look after nothing",
        ));
    }
    if spec.backup.is_some() {
        gaps.push(Gap::local(
            "spec.backup",
            "aistack up takes no backups by itself",
            "remove backup; take one with tinykv backup when you want one",
        ));
    }
    if spec.restore.is_some() {
        gaps.push(Gap::local(
            "spec.restore",
            "aistack up begins with what is in its folder, or with nothing",
            "remove restore; fill the folder with tinykv restore before",
        ));
    }
    if spec.tls.is_some() {
        gaps.push(Gap::local(
            "spec.tls",
            "aistack up has no Secret of that name",
            "remove tls; the stack listens on the loopback address only",
        ));
    }
    gaps
}
