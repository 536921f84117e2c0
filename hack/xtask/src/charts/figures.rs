//! Alerts and dashboards ask for figures that a component has, and every alert has a page that says what to do.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use regex::Regex;
use serde_json::Value;
use walkdir::WalkDir;

use super::yaml;

const ALERTS: &str = "charts/aistack/files/alerts.yaml";
const DASHBOARDS: &str = "charts/aistack/dashboards";
const RUNBOOKS: &str = "docs/runbooks";

/// Figures whose name another library writes, or Kubernetes.
const ELSEWHERE: &[&str] = &["up", "process_resident_memory_bytes", "process_cpu_seconds_total"];

/// Runs the checks.
pub(super) fn check(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let known = known(root)?;
    let mut named = BTreeSet::new();
    let alerts: Value = yaml(root, ALERTS)?;
    for rule in alerts["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|group| group["rules"].as_array())
        .flatten()
    {
        let alert = rule["alert"].as_str().context("every rule is an alert")?;
        named.insert(format!("{alert}.md"));
        expression(
            &known,
            &format!("{ALERTS}: {alert}"),
            rule["expr"].as_str().unwrap_or_default(),
            findings,
        )?;
    }
    for entry in WalkDir::new(root.join(DASHBOARDS)).sort_by_file_name() {
        let entry = entry?;
        if !entry.file_type().is_file() {
            continue;
        }
        let name = format!("{DASHBOARDS}/{}", entry.file_name().to_string_lossy());
        let dashboard: Value =
            serde_json::from_slice(&std::fs::read(entry.path())?).with_context(|| name.clone())?;
        let mut expressions = Vec::new();
        gather(&dashboard, &mut expressions);
        for text in expressions {
            expression(&known, &name, &text, findings)?;
        }
    }
    let pages: BTreeSet<String> = std::fs::read_dir(root.join(RUNBOOKS))
        .context("read docs/runbooks")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    for page in named.difference(&pages) {
        findings.push(format!("{RUNBOOKS}/{page} is missing: every alert has a page"));
    }
    for page in pages.difference(&named).filter(|page| *page != "README.md") {
        findings.push(format!("{RUNBOOKS}/{page}: there is no such alert in {ALERTS}"));
    }
    Ok(())
}

/// Names of figures, as the components' sources have them.
fn known(root: &Path) -> Result<BTreeSet<String>> {
    let literal = Regex::new(r#""([a-z][a-z0-9]*[_:][a-z0-9_:]+)""#).context("a pattern")?;
    let mut known: BTreeSet<String> = ELSEWHERE.iter().map(|name| (*name).to_owned()).collect();
    for folder in ["components", "operator/src"] {
        for entry in WalkDir::new(root.join(folder)) {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(entry.path())?;
                known.extend(literal.captures_iter(&source).map(|found| found[1].to_owned()));
            }
        }
    }
    Ok(known)
}

/// Every `expr` of a dashboard, and the queries of its variables.
fn gather(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("expr" | "definition", Value::String(text)) => found.push(text.clone()),
                    _ => gather(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, found)),
        _ => {}
    }
}

fn expression(known: &BTreeSet<String>, place: &str, text: &str, findings: &mut Vec<String>) -> Result<()> {
    for name in figures(text)? {
        let stem =
            ["_total", "_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        if !known.contains(&name) && !stem.is_some_and(|stem| known.contains(stem)) {
            findings.push(format!("{place}: no component has the figure {name}"));
        }
    }
    Ok(())
}

/// Names of figures in an expression: words with an underscore or a colon outside labels, texts and groupings.
fn figures(text: &str) -> Result<BTreeSet<String>> {
    if text.starts_with("label_values(") {
        // A variable: the values that a label of a figure has.
        let figure = text.trim_start_matches("label_values(").split(',').next().unwrap_or_default();
        return Ok(BTreeSet::from([figure.trim().to_owned()]));
    }
    let noise = Regex::new(
        r#""[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"#,
    )
    .context("a pattern")?;
    let functions = ["histogram_quantile", "clamp_max", "count_values"];
    let word = Regex::new(r"[a-zA-Z_:][a-zA-Z0-9_:]*").context("a pattern")?;
    let bare = noise.replace_all(text, " ");
    let names = word.find_iter(&bare).map(|found| found.as_str().to_owned());
    Ok(names.filter(|name| name.contains(['_', ':']) && !functions.contains(&name.as_str())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_from_labels_and_functions() {
        let text = "histogram_quantile(0.99, sum by (le, app_kubernetes_io_instance) (rate(a_b_bucket{c_d=\"e_f\"}[5m]))) > vllm:g";
        let found: Vec<_> = figures(text).unwrap().into_iter().collect();
        assert_eq!(found, ["a_b_bucket", "vllm:g"]);
        let found: Vec<_> = figures("label_values(a_b, label_c)").unwrap().into_iter().collect();
        assert_eq!(found, ["a_b"]);
    }
}
