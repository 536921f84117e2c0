//! The charts: the kinds' templates, which are generated, and what must agree with code. Each check names the file and what to do.

mod access;
mod figures;
mod kinds;
mod policies;
mod settings;

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use kinds::template;

/// All checks.
pub fn check(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    versions(root, findings)?;
    access::check(root, findings)?;
    policies::check(root, findings)?;
    figures::check(root, findings)?;
    settings::check(root, findings)
}

/// Both charts have the version of the workspace, which is that of the images.
fn versions(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let expected = env!("CARGO_PKG_VERSION");
    for chart in ["aistack-crds", "aistack"] {
        let path = format!("charts/{chart}/Chart.yaml");
        let written: Value = yaml(root, &path)?;
        for field in ["version", "appVersion"] {
            if written[field] != expected {
                findings.push(format!(
                    "{path}: {field} is {}, and the workspace's is {expected}",
                    written[field]
                ));
            }
        }
    }
    Ok(())
}

/// What the operator may do with objects and with the Lease `lease`.
pub fn rules(root: &Path, lease: &str) -> Result<Vec<Value>> {
    let mut rules = Vec::new();
    for path in access::RULES {
        let text = text(root, path)?.replace("[LEASE]", &format!("[{lease}]"));
        rules.extend(serde_yaml_ng::from_str::<Vec<Value>>(&text).with_context(|| format!("parse {path}"))?);
    }
    Ok(rules)
}

fn text(root: &Path, path: &str) -> Result<String> {
    std::fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))
}

fn yaml<T: DeserializeOwned>(root: &Path, path: &str) -> Result<T> {
    serde_yaml_ng::from_str(&text(root, path)?).with_context(|| format!("parse {path}"))
}
