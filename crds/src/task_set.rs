//! `TaskSet`: tasks in a world, each proved solvable.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parts::{ObjectRef, ResourceSpec};
use crate::rules;
use crate::status::BasicStatus;

/// Tasks in a world, by level of difficulty, each proved solvable by an oracle.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "platform.dev",
    version = "v1",
    kind = "TaskSet",
    plural = "tasksets",
    namespaced,
    shortname = "tasks",
    category = "aistack",
    selectable = ".spec.worldRef.name",
    status = "BasicStatus",
    derive = "PartialEq",
    doc = "Tasks in a world, by level of difficulty, each proved solvable by an oracle.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "World", type_ = "string", json_path = ".spec.worldRef.name"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name is longer than 40 characters; names of Jobs and volumes are made from it"),
    validation = rules::label(),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("cannot change; a task set is made once, so create a new TaskSet"))]
pub struct TaskSetSpec {
    /// World that the tasks play in.
    pub world_ref: ObjectRef,
    /// Names of the templates that tasks are made from. Left out, all that fit the world.
    #[schemars(length(max = 128), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(name, self.exists_one(other, other == name))").message("names a template twice; name each once"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<String>,
    /// Tasks of each level, from 1 (one step) to 5 (many steps over several tables).
    #[schemars(extend("maxProperties" = 5), extend("minProperties" = 1))]
    #[x_kube(validation = Rule::new("self.all(level, level in ['1', '2', '3', '4', '5'])")
        .message("has a level other than 1 to 5; write for example {1: 200, 3: 50}"),
        validation = Rule::new("self.exists(level, self[level] > 0)")
        .message("ask for no task at all; give a level a number above 0, for example {1: 200}"))]
    pub levels: BTreeMap<String, LevelCount>,
    /// Seed of every random choice.
    #[schemars(range(min = 0, max = 9007199254740991_i64))]
    #[serde(default)]
    pub seed: i64,
    /// How the tasks are divided.
    #[serde(default)]
    pub split: SplitSpec,
    /// CPU and memory of the Job that makes them.
    #[serde(default)]
    pub resources: ResourceSpec,
}

/// Tasks of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LevelCount(#[schemars(range(min = 0, max = 1000000))] pub i32);

/// Percent of the tasks in each part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.train + self.validation + self.test == 100").message("must share exactly 100 percent among train, validation and test"))]
pub struct SplitSpec {
    /// For training.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default = "default_train")]
    pub train: i32,
    /// For choosing between models.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default = "default_part")]
    pub validation: i32,
    /// For the final figure only.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default = "default_part")]
    pub test: i32,
}

impl Default for SplitSpec {
    fn default() -> Self {
        Self { train: default_train(), validation: default_part(), test: default_part() }
    }
}

fn default_train() -> i32 {
    80
}

fn default_part() -> i32 {
    10
}
