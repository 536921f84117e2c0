//! The chart takes every setting of the operator under `config`, and no other: an operator that is given one that it lacks does not begin.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::text;
use crate::reference;

const SCHEMA: &str = "charts/aistack/values.schema.json";

pub(super) fn check(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let schema: Value = serde_json::from_str(&text(root, SCHEMA)?)?;
    let settings = reference::settings_of_the_operator()?;
    let mut taken = Vec::new();
    walk(&schema["properties"]["config"], "", &mut taken, findings);
    // A group that may be absent is listed besides what is in it, and one that the chart sets is refused as a whole.
    let is_within = |inner: &str, outer: &str| inner == outer || inner.starts_with(&format!("{outer}."));
    for setting in &settings {
        if !taken.iter().any(|path| is_within(setting, path) || is_within(path, setting)) {
            findings.push(format!("{SCHEMA}: config lacks the operator's setting {setting}"));
        }
    }
    for path in &taken {
        if !settings.iter().any(|setting| is_within(setting, path)) {
            findings.push(format!("{SCHEMA}: config.{path} is no setting of the operator"));
        }
    }
    Ok(())
}

/// Lists what a schema takes, or refuses by name.
fn walk(schema: &Value, path: &str, taken: &mut Vec<String>, findings: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        taken.push(path.to_owned());
        return;
    };
    if schema["additionalProperties"] != false {
        findings.push(format!("{SCHEMA}: config.{path} takes settings that it does not name"));
    }
    for (name, property) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        walk(property, &path, taken, findings);
    }
}
