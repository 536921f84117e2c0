//! The admission policies know every field of our kinds that they are about.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aistack_crds::Kind;
use anyhow::{Context as _, Result};
use regex::Regex;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{text, yaml};

const FIELDS: &str = "charts/aistack/files/admission.yaml";
const VALIDATE: &str = "operator/src/inference_service/validate.rs";

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fields {
    secrets: BTreeSet<String>,
    #[serde(default)]
    recipients: BTreeSet<String>,
    #[serde(default)]
    others: BTreeSet<String>,
    #[serde(default)]
    issuers: BTreeSet<String>,
    #[serde(deserialize_with = "paths")]
    repositories: BTreeSet<String>,
    replicas: BTreeSet<String>,
    gpus: BTreeSet<String>,
    claims: BTreeSet<String>,
    host_paths: BTreeSet<String>,
    priority_classes: BTreeSet<String>,
    #[serde(default)]
    engines: Vec<Engine>,
}

/// Where images come from.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repository {
    path: String,
    #[serde(default, rename = "inherits")]
    _inherits: Option<String>,
    #[serde(default, rename = "unless")]
    _unless: Option<String>,
}

fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let all = Vec::<Repository>::deserialize(deserializer)?;
    Ok(all.into_iter().map(|repository| repository.path).collect())
}

/// When the operator runs an image of somebody else's.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Engine {
    path: String,
    is: String,
    #[serde(default, rename = "without")]
    _without: Option<String>,
    image: String,
}

/// Compares the file with the schemas.
pub(super) fn check(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let mut written: BTreeMap<String, Fields> = yaml(root, FIELDS)?;
    let engines = written.values_mut().flat_map(|fields| std::mem::take(&mut fields.engines));
    engines_are_those_that_run(root, &engines.collect::<Vec<_>>(), findings)?;
    let mut expected = BTreeMap::new();
    for kind in Kind::ALL {
        let crd = serde_json::to_value(kind.crd())?;
        let plural = crd.pointer("/spec/names/plural").and_then(Value::as_str).context("a plural")?;
        let spec = crd
            .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
            .with_context(|| format!("{plural} has a spec"))?;
        let mut fields = Fields::default();
        walk(spec, "spec", &mut fields);
        if !fields.secrets.is_empty() {
            let others = written.get(plural).map(|fields| fields.others.clone()).unwrap_or_default();
            let all = spec["properties"].as_object().into_iter().flatten();
            let all = all.map(|(name, _)| format!("spec.{name}"));
            // Who adds a field has to say which of the two it is.
            (fields.others, fields.recipients) = all.partition(|field| others.contains(field));
        }
        if fields != Fields::default() {
            expected.insert(plural.to_owned(), fields);
        }
    }
    if written != expected {
        findings.push(format!("{FIELDS} is not what the kinds have, which is {expected:#?}"));
    }
    Ok(())
}

/// Images of others, as the operator's source has them.
fn engines_are_those_that_run(root: &Path, engines: &[Engine], findings: &mut Vec<String>) -> Result<()> {
    let source = text(root, VALIDATE)?;
    let image = Regex::new(r#"const \w+_IMAGE: &str = "([^"]+)";"#).context("a pattern")?;
    let run: BTreeSet<&str> = image.captures_iter(&source).map(|found| found.extract::<1>().1[0]).collect();
    let known: BTreeSet<&str> = engines.iter().map(|engine| engine.image.as_str()).collect();
    if run != known {
        findings.push(format!("{FIELDS}: engines have the images {known:?}, and {VALIDATE} runs {run:?}"));
    }
    for engine in engines.iter().filter(|engine| engine.path.is_empty() || engine.is.is_empty()) {
        findings.push(format!("{FIELDS}: nothing says when {} runs", engine.image));
    }
    Ok(())
}

fn walk(schema: &Value, path: &str, fields: &mut Fields) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match name.as_str() {
            "secretName" | "artefactsSecretName" => fields.secrets.insert(path.clone()),
            "issuerRef" => fields.issuers.insert(path.clone()),
            "secretRef" | "rootPassword" => fields.secrets.insert(format!("{path}.name")),
            "repository" => fields.repositories.insert(path.clone()),
            "replicas" | "maxReplicas" => fields.replicas.insert(path.clone()),
            "claimName" => fields.claims.insert(path.clone()),
            "hostPath" => fields.host_paths.insert(path.clone()),
            "priorityClassName" => fields.priority_classes.insert(path.clone()),
            "gpuCount" => fields.gpus.insert(path.clone()),
            "count" if path.ends_with("gpu.count") => fields.gpus.insert(path.clone()),
            // An address that may name a claim says so in its pattern.
            _ if property["pattern"].as_str().is_some_and(|pattern| pattern.contains("|pvc")) => {
                fields.claims.insert(path.clone())
            }
            _ => false,
        };
        walk(property, &path, fields);
    }
}
