//! `EnvPool`: many forks of a world that agents act in.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parts::{ImageSpec, ObjectRef, PodOverrides, ResourceSpec, URL_PATTERN, one};
use crate::rules;
use crate::status::ScaledStatus;

/// A pool of environments: each episode acts in its own fork of a world.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "platform.dev",
    version = "v1",
    kind = "EnvPool",
    plural = "envpools",
    namespaced,
    shortname = "envs",
    category = "aistack",
    selectable = ".spec.worldRef.name",
    status = "ScaledStatus",
    derive = "PartialEq",
    doc = "A pool of environments: each episode acts in its own fork of a world.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "World", type_ = "string", json_path = ".spec.worldRef.name"),
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
    validation = Rule::new("!has(self.scaling) || (has(self.resources) && has(self.resources.cpu))")
        .message("is by a share of the CPU that a server requests; set resources.cpu too")
        .field_path(".scaling"),
    validation = Rule::new("!has(self.scaling) || self.replicas == 1")
        .message("is the autoscaler's to choose while there is scaling; remove replicas, or scaling")
        .field_path(".replicas"),
)]
pub struct EnvPoolSpec {
    /// World that is forked.
    pub world_ref: ObjectRef,
    /// Tasks that episodes are drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_set_ref: Option<ObjectRef>,
    /// Servers, when no autoscaler owns the number.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(default = "one")]
    pub replicas: i32,
    /// Bounds and target of the autoscaler, which owns the number of servers then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<PoolScalingSpec>,
    /// Episodes that one server runs at a time.
    #[schemars(range(min = 1, max = 100000))]
    #[serde(default = "default_episodes")]
    pub episodes_per_replica: i32,
    /// Doors through which agents act.
    #[serde(default)]
    pub interfaces: InterfacesSpec,
    /// Agent that plays. Left out, agents connect from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentSpec>,
    /// CPU and memory of each server.
    #[serde(default)]
    pub resources: ResourceSpec,
    /// Where the images come from.
    #[serde(default)]
    pub image: ImageSpec,
    /// Where the pods may run.
    #[serde(default)]
    pub pod: PodOverrides,
}

/// Bounds and target of a pool's autoscaler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message("has minReplicas above maxReplicas; swap them or raise maxReplicas"))]
pub struct PoolScalingSpec {
    /// Fewest servers.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default = "one")]
    pub min_replicas: i32,
    /// Most servers.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Percent of the requested CPU that the autoscaler steers to.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default = "default_cpu_percent")]
    pub target_cpu_percent: i32,
}

/// Doors through which agents act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.web || self.mcp || self.rest || self.openenv")
    .message("are all off; an environment without a door cannot be acted in, so turn one on"))]
pub struct InterfacesSpec {
    /// Generated web pages.
    #[serde(default)]
    pub web: bool,
    /// Model Context Protocol over streamable HTTP.
    #[serde(default = "yes")]
    pub mcp: bool,
    /// REST.
    #[serde(default)]
    pub rest: bool,
    /// OpenEnv over HTTP and WebSocket.
    #[serde(default = "yes")]
    pub openenv: bool,
}

impl Default for InterfacesSpec {
    fn default() -> Self {
        Self { web: false, mcp: true, rest: false, openenv: true }
    }
}

/// Agent that plays the episodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSpec {
    /// Address of its OpenAI server.
    #[schemars(length(max = 512), regex(pattern = URL_PATTERN))]
    pub endpoint: String,
    /// Model it asks for.
    #[schemars(length(min = 1, max = 128))]
    pub model: String,
}

fn default_cpu_percent() -> i32 {
    70
}

fn default_episodes() -> i32 {
    16
}

fn yes() -> bool {
    true
}
