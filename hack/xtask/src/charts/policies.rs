//! The admission policies know every field of our kinds that they are about.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aistack_crds::Kind;
use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use super::yaml;

const FIELDS: &str = "charts/aistack/files/admission.yaml";

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    secrets: BTreeSet<String>,
    repositories: BTreeSet<String>,
    replicas: BTreeSet<String>,
    gpus: BTreeSet<String>,
}

/// Compares the file with the schemas.
pub(super) fn check(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let written: BTreeMap<String, Fields> = yaml(root, FIELDS)?;
    let mut expected = BTreeMap::new();
    for kind in Kind::ALL {
        let crd = serde_json::to_value(kind.crd())?;
        let plural = crd.pointer("/spec/names/plural").and_then(Value::as_str).context("a plural")?;
        let spec = crd
            .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
            .with_context(|| format!("{plural} has a spec"))?;
        let mut fields = Fields::default();
        walk(spec, "spec", &mut fields);
        if fields != Fields::default() {
            expected.insert(plural.to_owned(), fields);
        }
    }
    if written != expected {
        findings.push(format!("{FIELDS} is not what the kinds have, which is {expected:#?}"));
    }
    Ok(())
}

fn walk(schema: &Value, path: &str, fields: &mut Fields) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match name.as_str() {
            "secretName" => fields.secrets.insert(path.clone()),
            "secretRef" | "rootPassword" => fields.secrets.insert(format!("{path}.name")),
            "repository" => fields.repositories.insert(path.clone()),
            "replicas" | "maxReplicas" => fields.replicas.insert(path.clone()),
            "gpuCount" => fields.gpus.insert(path.clone()),
            "count" if path.ends_with("gpu.count") => fields.gpus.insert(path.clone()),
            _ => false,
        };
        walk(property, &path, fields);
    }
}
