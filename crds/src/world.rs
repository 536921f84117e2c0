//! `World`: a generated company or shop, as a database with rules.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::parts::{BYTES_PATTERN, ResourceSpec};
use crate::rules;
use crate::status::BasicStatus;

/// A generated world that tasks play in: a database with a schema, rules and seeded data.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "platform.dev",
    version = "v1",
    kind = "World",
    plural = "worlds",
    namespaced,
    shortname = "world",
    category = "aistack",
    status = "BasicStatus",
    derive = "PartialEq",
    doc = "A generated world that tasks play in: a database with a schema, rules and seeded data.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Seed", type_ = "integer", json_path = ".spec.seed"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name is longer than 40 characters; names of Jobs and volumes are made from it"),
    validation = rules::label(),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("cannot change; a world is made once, so create a new World"))]
pub struct WorldSpec {
    /// Tables and their relations.
    pub schema: WorldSchema,
    /// Rules that every state of the world obeys.
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    #[x_kube(validation = Rule::new("self.all(rule, rule.matches('[^ \\t\\r\\n]'))").message("has a rule that is empty; write what it says, or remove it"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Rows of the largest table, in thousands.
    #[schemars(range(min = 1, max = 100000))]
    #[serde(default = "crate::parts::one")]
    pub scale: i32,
    /// Seed of every random choice: the same seed gives the same world, byte for byte.
    #[schemars(range(min = 0, max = 9007199254740991_i64))]
    #[serde(default)]
    pub seed: i64,
    /// Where the world is kept.
    #[serde(default)]
    pub output: WorldOutput,
    /// CPU and memory of the Job that makes it.
    #[serde(default)]
    pub resources: ResourceSpec,
}

/// Where the schema comes from: exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.builtin), has(self.inline), has(self.configMap)].filter(given, given).size() == 1")
    .message("needs exactly one of builtin, inline and configMap; for example builtin: helpdesk"))]
pub struct WorldSchema {
    /// Name of a schema that the generator ships.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')").message("is no name of a schema; write lower-case letters, digits and '-', for example helpdesk"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builtin: Option<String>,
    /// The schema itself, as SQL `CREATE TABLE` statements.
    #[schemars(length(min = 1, max = 65536))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// Name of a ConfigMap with the key `schema.sql`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map: Option<String>,
}

/// Where a world is kept: a volume, or object storage when `url` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorldOutput {
    /// Size of the volume.
    #[schemars(length(max = 24), regex(pattern = BYTES_PATTERN))]
    #[x_kube(validation = rules::size())]
    #[serde(default = "default_storage")]
    pub storage: String,
    /// Object storage URL, in place of the volume.
    #[schemars(length(min = 5, max = 512), regex(pattern = "^(s3|gs|az|https?)://[^\\s]+$"))]
    #[x_kube(validation = rules::no_password_here())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl Default for WorldOutput {
    fn default() -> Self {
        Self { storage: default_storage(), url: None }
    }
}

fn default_storage() -> String {
    "1Gi".to_owned()
}
