//! `KVCluster`: a TinyKV group, spoken to as etcd.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parts::{BYTES_PATTERN, ImageSpec, PodOverrides, ResourceSpec, SecretKeyRef, one};
use crate::rules;
use crate::status::ScaledStatus;

/// Most voters that a group may have.
pub const MOST_MEMBERS: u16 = 7;

/// A replicated key-value store that speaks etcd v3: one Raft group of TinyKV.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "platform.dev",
    version = "v1",
    kind = "KVCluster",
    plural = "kvclusters",
    namespaced,
    shortname = "kv",
    category = "aistack",
    selectable = ".status.version",
    status = "ScaledStatus",
    derive = "PartialEq",
    doc = "A replicated key-value store that speaks etcd v3: one Raft group of TinyKV.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name is longer than 40 characters; names of pods and Services are made from it"),
    validation = rules::service_name(),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("cannot be added, changed or removed: the storage class of a volume is for ever; create a new KVCluster and restore a backup into it")
        .field_path(".storageClassName"),
    validation = Rule::new("!has(self.restore) || (has(oldSelf.restore) && self.restore.source == oldSelf.restore.source)")
        .message("what a cluster began with cannot change; create a new KVCluster that restores this backup")
        .field_path(".restore"),
    // The default is let through: volumes of 1Gi with nothing said of the quota are many.
    validation = Rule::new("self.quota == '2Gi' || quantity(self.quota).compareTo(quantity(self.storage)) <= 0")
        .message("is above storage: the volume would be full before etcd's alarm says so; lower it, or raise storage")
        .field_path(".quota"),
    // Members that speak TLS and members that do not would have nothing to do with one another while pods are made anew.
    validation = Rule::new("has(self.tls) == has(oldSelf.tls)")
        .message("encryption cannot be switched on or off under a group that runs; create a new KVCluster with or without tls and restore a backup into it")
        .field_path(".tls"),
)]
pub struct KVClusterSpec {
    /// Voters of the Raft group: odd, so that a majority is never a tie. Members are added and removed one at a time.
    #[schemars(range(min = 1, max = MOST_MEMBERS))]
    #[x_kube(validation = Rule::new("self % 2 == 1").message(Message::Expression(
        // Spelled out: the API server estimates string(int) as unbounded and would refuse the kind for its cost.
        "self < 1 ? 'is no number of voters; use 1 (laptop) or 3, 5, 7' : self == 2 ? '2 is even; a Raft cluster of 2 survives no failure; use 1 (laptop) or 3, 5, 7' : self == 4 ? '4 is even; a Raft cluster of 4 survives no more failures than one of 3; use 1 (laptop) or 3, 5, 7' : '6 is even; a Raft cluster of 6 survives no more failures than one of 5; use 1 (laptop) or 3, 5, 7'".into()
    )))]
    #[serde(default = "one")]
    pub replicas: i32,
    /// Size of each member's volume. It can grow and never shrinks.
    #[schemars(length(max = 24), regex(pattern = BYTES_PATTERN))]
    #[x_kube(validation = rules::size(), validation = Rule::new("quantity(self).compareTo(quantity(oldSelf)) >= 0").message(Message::Expression(
        "self + ' is smaller than ' + oldSelf + '; a volume can grow but not shrink'".into()
    )))]
    #[serde(default = "default_storage")]
    pub storage: String,
    /// StorageClass of the volumes; left out, the cluster's default. Cannot change.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// VolumeAttributesClass of the volumes, such as one with more operations a second. It can change; Kubernetes 1.34 and newer.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_attributes_class_name: Option<String>,
    /// Most bytes the store may hold before writes are refused with etcd's NOSPACE alarm.
    #[schemars(length(max = 24), regex(pattern = BYTES_PATTERN))]
    #[x_kube(validation = rules::size())]
    #[serde(default = "default_quota")]
    pub quota: String,
    /// Refused: users are not of this version. Do not run `etcdctl auth enable` either: the operator has no user, and could look after the
    /// cluster and take backups no more. Keep clients out by network policies.
    #[x_kube(validation = Rule::new("false")
        .message("is not done by this version, and every client would be let in; remove auth, and keep clients out by network policies. Do not run etcdctl auth enable either: the operator has no user, and could look after the cluster and take backups no more"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<KvAuth>,
    /// Encryption of the traffic with clients and, with several replicas, between members. Left out, clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<KvTls>,
    /// Scheduled copies to object storage or to a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<KvBackup>,
    /// The backup that the cluster begins with. Left out, it begins empty, or with the volumes that an earlier cluster of its name left;
    /// a backup is never restored over these (`RestoreRefused`). It cannot change, and may be taken away once the cluster is
    /// ready: until then every pod that starts needs the volume or the Secret that it names. Pods are made anew without it, one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<KvRestore>,
    /// CPU and memory of each member.
    #[serde(default)]
    pub resources: ResourceSpec,
    /// Where the images come from.
    #[serde(default)]
    pub image: ImageSpec,
    /// Where the pods may run.
    #[serde(default)]
    pub pod: PodOverrides,
}

impl Default for KVClusterSpec {
    fn default() -> Self {
        Self {
            replicas: one(),
            storage: default_storage(),
            storage_class_name: None,
            volume_attributes_class_name: None,
            quota: default_quota(),
            auth: None,
            tls: None,
            backup: None,
            restore: None,
            resources: ResourceSpec::default(),
            image: ImageSpec::default(),
            pod: PodOverrides::default(),
        }
    }
}

/// Authentication of a KVCluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvAuth {
    /// Secret that holds root's password.
    pub root_password: SecretKeyRef,
}

/// TLS of a KVCluster: one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretName) != has(self.issuerRef)")
        .message("name either secretName, a Secret that somebody else makes, or issuerRef, an issuer of cert-manager; with an issuer the Secret is called after the cluster, NAME-tls"),
)]
pub struct KvTls {
    /// Secret of type `kubernetes.io/tls` with `tls.crt`, `tls.key` and the CA's `ca.crt`. The certificate is for the cluster's
    /// name and, with several replicas, for `NAME-0.NAME-members` and so on: members know one another by it, so that it
    /// must allow the authentication of servers and of clients.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// Who signs a certificate that the operator asks cert-manager for, and that cert-manager renews: it writes the Secret `NAME-tls`.
    /// It must be an issuer that knows its CA, since members and clients check one another by the Secret's `ca.crt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<KvIssuer>,
}

/// An issuer of cert-manager, or one that is spoken to as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvIssuer {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// `Issuer`, which is of the same namespace, or `ClusterIssuer`; other groups have kinds of their own.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Z][A-Za-z0-9]*$"))]
    #[serde(default = "default_issuer_kind")]
    pub kind: String,
    /// API group of that kind.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default = "default_issuer_group")]
    pub group: String,
}

/// Scheduled backups of a KVCluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvBackup {
    /// Five fields of cron, in UTC: minute, hour, day of the month, month, day of the week, such as `0 3 * * *`.
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = rules::schedule(), validation = rules::upwards(), validation = rules::comes())]
    pub schedule: String,
    /// Object storage URL that backups are written under, such as `s3://bucket/path`, or `pvc://CLAIM/path` for a volume that is
    /// there already. They lie in a folder `NAMESPACE/NAME` there, so that several clusters may name the same place.
    #[schemars(length(min = 5, max = 512), regex(pattern = "^(s3|gs|az|https?|pvc)://[^\\s]+$"))]
    #[x_kube(validation = rules::place(), validation = rules::no_password())]
    pub destination: String,
    /// Backups kept; older ones are deleted.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default = "default_keep")]
    pub keep: i32,
    /// Secret with the storage's credentials as environment variables.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// Restores the newest backup now and then, into a pod that goes again, and tells whether a cluster could begin with it. Left
    /// out, nobody knows before it is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drill: Option<KvDrill>,
}

/// Restore drills of a KVCluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvDrill {
    /// Five fields of cron, in UTC, such as `0 5 * * 0`: some time after a backup.
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = rules::schedule(), validation = rules::upwards(), validation = rules::comes())]
    pub schedule: String,
}

/// Where a KVCluster's first data comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvRestore {
    /// URL of one backup, such as `s3://bucket/path/NAME.db`, or `pvc://CLAIM/path/NAME.db` for one on a volume that all members can
    /// read. It is read once, by the members that found the cluster.
    #[schemars(length(min = 5, max = 512), regex(pattern = "^(s3|gs|az|https?|pvc)://[^\\s]+[.]db$"))]
    #[x_kube(validation = rules::place(), validation = rules::no_password())]
    pub source: String,
    /// Secret with the storage's credentials as environment variables.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
}

fn default_storage() -> String {
    "8Gi".to_owned()
}

fn default_quota() -> String {
    "2Gi".to_owned()
}

fn default_issuer_kind() -> String {
    "Issuer".to_owned()
}

fn default_issuer_group() -> String {
    "cert-manager.io".to_owned()
}

fn default_keep() -> i32 {
    7
}
