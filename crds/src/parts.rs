//! Pieces that several kinds embed: resources, GPUs, pod placement, images, references.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::rules;

/// A model's name, such as `org/model`. No part begins with a dot: names stand in paths of URLs and of folders.
pub(crate) const MODEL_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$";

/// A Kubernetes quantity of bytes in text form, such as `100Gi` or `500Mi`.
pub(crate) const BYTES_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$";
/// A Kubernetes quantity of CPU, such as `2` or `500m`.
pub(crate) const CPU_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?m?$";
/// A name that Kubernetes accepts as a DNS label.
pub(crate) const LABEL_PATTERN: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";
/// An `http(s)` address with an optional path.
pub(crate) const URL_PATTERN: &str = r"^https?://[A-Za-z0-9._:\[\]-]+(/[^\s]*)?$";

/// CPU and memory of one container. A value left out is neither requested nor limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.cpu) || !has(self.cpuLimit) || quantity(self.cpu).compareTo(quantity(self.cpuLimit)) <= 0")
        .message("is above cpuLimit; lower it, or raise the limit")
        .field_path(".cpu"),
)]
pub struct ResourceSpec {
    /// CPU that the scheduler reserves, in cores (`2`) or thousandths (`500m`).
    #[schemars(length(max = 16), regex(pattern = CPU_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory that the scheduler reserves and that the container is limited to, such as `4Gi`.
    #[schemars(length(max = 24), regex(pattern = BYTES_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// CPU limit in cores. Left out, the container may use idle cores of its node.
    #[schemars(length(max = 16), regex(pattern = CPU_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<String>,
}

/// GPUs of one replica. Each given property narrows the nodes that can run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.resource) || self.allocation != 'dra'")
        .message("is a resource of the device plugin, and allocation is dra; remove one of the two")
        .field_path(".resource"),
)]
pub struct GpuSpec {
    /// Product as the node label `nvidia.com/gpu.product` names it, such as `NVIDIA-H200`, or the short name of a family: `nvidia-a100`,
    /// `nvidia-h100`, `nvidia-h200`, `nvidia-b200`, `nvidia-l4`, `nvidia-l40s`, `nvidia-a10`, `nvidia-t4`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// GPUs a replica holds; more than one shards the model over them.
    #[schemars(range(min = 1, max = 16))]
    #[serde(default = "one")]
    pub count: i32,
    /// Least memory of each GPU as it is sold, such as `40Gi`: cards report up to a fifteenth less.
    #[schemars(length(max = 24), regex(pattern = BYTES_PATTERN))]
    #[x_kube(validation = rules::size())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Least compute capability, such as `8.0`: the node labels `nvidia.com/gpu.compute.major` and `.minor`.
    #[schemars(length(max = 5), regex(pattern = "^[1-9][0-9]?[.][0-9]$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<String>,
    /// What the device plugin calls a part of a GPU, such as `nvidia.com/mig-3g.40gb`; then `count` counts those. Left out: whole ones,
    /// `nvidia.com/gpu`.
    #[schemars(length(max = 63), regex(pattern = "^nvidia[.]com/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Who hands the GPUs out.
    #[serde(default)]
    pub allocation: GpuAllocation,
}

impl Default for GpuSpec {
    fn default() -> Self {
        Self {
            product: None,
            count: one(),
            memory: None,
            compute_capability: None,
            resource: None,
            allocation: GpuAllocation::default(),
        }
    }
}

/// Who hands GPUs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GpuAllocation {
    /// NVIDIA's device plugin: limits of `nvidia.com/gpu`, and node labels of its feature discovery.
    #[default]
    DevicePlugin,
    /// Dynamic resource allocation: a claim on the device class `gpu.nvidia.com`, for clusters with NVIDIA's DRA driver.
    Dra,
    /// By DRA where the cluster has that device class, else by the device plugin. When the class comes or goes, the pods are made anew.
    Auto,
}

/// Where a child's pods may run. Deliberately small: a full pod template does not belong in a platform's manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodOverrides {
    /// Labels that a node must carry.
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = bounded_text(63)))]
    #[x_kube(validation = rules::labels())]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[schemars(schema_with = "bounded_tolerations")]
    #[x_kube(
        validation = rules::taints(),
        validation = rules::exists_alone(),
        validation = rules::keyed(),
        validation = rules::seconds_of_evictions(),
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Name of the PriorityClass of the pods.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Extra annotations of the pods, for a service mesh or a cost tool.
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = bounded_text(4096)))]
    #[x_kube(validation = rules::annotations())]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Container images of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Registry and path in front of the component's name, such as `registry.example.com/aistack`.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = rules::repository())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Tag of every component; left out, the version of the operator.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// When the node pulls.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Secrets of type `kubernetes.io/dockerconfigjson` in the same namespace with which nodes pull, for a registry that asks who they are.
    /// Left out, those of the namespace's ServiceAccount `default`.
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = rules::object_names())]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<String>,
}

/// When the kubelet pulls an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// Pull if the node lacks the image.
    #[default]
    IfNotPresent,
    /// Ask the registry at every start.
    Always,
    /// Never pull: the image was put on the node by other means.
    Never,
}

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::secret_key())]
    #[serde(default = "default_secret_key")]
    pub key: String,
}

/// Certificates for the `https://` address of something that already runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientTlsSpec {
    /// Secret with the CA that signed the server's certificate, under `ca.crt`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub secret_name: String,
    /// Whether that Secret's `tls.crt` and `tls.key` are shown to the server, for servers that ask for a client certificate.
    #[serde(default)]
    pub client_certificate: bool,
    /// Name that the server's certificate must carry. Left out: the host of the address.
    #[schemars(length(min = 1, max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// An object of a kind that the field's documentation names, in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub name: String,
}

/// Schema of a map's values.
pub(crate) fn bounded_text(most: u32) -> serde_json::Value {
    serde_json::json!({"type": "string", "maxLength": most})
}

/// Kubernetes' own type leaves its texts without a bound; a taint's key has at most 253 characters, a slash and 63 more.
fn bounded_tolerations(generator: &mut SchemaGenerator) -> Schema {
    let mut item = Toleration::json_schema(generator).to_value();
    for property in item["properties"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
        if property["type"] == "string" {
            property["maxLength"] = 317.into();
        }
    }
    item["properties"]["operator"]["enum"] = serde_json::json!(["Exists", "Equal"]);
    item["properties"]["effect"]["enum"] =
        serde_json::json!(["", "NoSchedule", "PreferNoSchedule", "NoExecute"]);
    json_schema!({"type": "array", "maxItems": 16, "items": item})
}

pub(crate) fn one() -> i32 {
    1
}

fn default_secret_key() -> String {
    "api-key".to_owned()
}
