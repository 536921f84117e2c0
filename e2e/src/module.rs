//! Kinds of others, as their releases have them: files of Go modules, which the proxy keeps.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

/// The definition of a kind, from a file of a module.
pub fn kind(module: &str, file: &str) -> Result<CustomResourceDefinition> {
    let folder = tempfile::tempdir()?;
    let asked = ["mod", "download", "-json", module];
    let got = Command::new("go").args(asked).current_dir(&folder).output().context("run go")?;
    let told: Value = serde_json::from_slice(&got.stdout).context("go says where a module is")?;
    let at = PathBuf::from(told["Dir"].as_str().with_context(|| format!("{module}: {told}"))?);
    let text = std::fs::read_to_string(at.join(file)).with_context(|| format!("{module} has {file}"))?;
    let mut kind: CustomResourceDefinition = serde_yaml_ng::from_str(&text)?;
    // Those are helm's.
    kind.metadata.labels = None;
    Ok(kind)
}
