//! Alerts and dashboards ask for figures that a component has, and for nobody else's of the same name; every alert has a page that says
//! what to do.

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

/// How names begin that nobody else gives.
const OURS: [&str; 2] = ["aistack_", "modelhub_"];

/// Other names are those of controller-runtime, client-go, etcd and vLLM, so others have them too: what tells ours from theirs. The
/// monitors give these labels, which e2e/walks/charts.py looks at; whoever scrapes by annotations has the pods' labels by the same names.
const OPERATOR: &str = r#"app_kubernetes_io_name="aistack-operator""#;
const STACKS: &str = r#"app_kubernetes_io_managed_by="aistack-operator""#;

/// Figures whose own labels say whose they are.
const SAYS_WHOSE: &[(&str, &str)] = &[("leader_election_master_status", r#"name="aistack-operator""#)];

/// Names that the sources have.
#[derive(Default)]
struct Known {
    stacks: BTreeSet<String>,
    /// Those of engines among them, which the operator has autoscalers ask for.
    operator: BTreeSet<String>,
}

impl Known {
    /// What tells a figure from others of its name, if there is such a figure.
    fn whose(&self, name: &str) -> Option<&'static str> {
        if let Some((_, label)) = SAYS_WHOSE.iter().find(|(figure, _)| *figure == name) {
            return Some(label);
        }
        let stem =
            ["_total", "_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let is_in =
            |names: &BTreeSet<String>| names.contains(name) || stem.is_some_and(|stem| names.contains(stem));
        let label = if is_in(&self.stacks) { STACKS } else { OPERATOR };
        (label == STACKS || is_in(&self.operator)).then_some(label)
    }
}

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

/// Names of figures, as the sources have them.
fn known(root: &Path) -> Result<Known> {
    let literal = Regex::new(r#""([a-z][a-z0-9]*[_:][a-z0-9_:]+)""#).context("a pattern")?;
    let mut known = Known::default();
    for (folder, names) in [("operator/src", &mut known.operator), ("components", &mut known.stacks)] {
        for entry in WalkDir::new(root.join(folder)) {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(entry.path())?;
                names.extend(literal.captures_iter(&source).map(|found| found[1].to_owned()));
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

fn expression(known: &Known, place: &str, text: &str, findings: &mut Vec<String>) -> Result<()> {
    for (name, selector) in figures(text)? {
        match known.whose(&name) {
            None => findings.push(format!("{place}: no component has the figure {name}")),
            Some(whose) if !OURS.iter().any(|ours| name.starts_with(ours)) && !has(&selector, whose) => {
                findings.push(format!("{place}: others have a figure {name} too; ask for {name}{{{whose}}}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether a selector has this very matcher: `name="a"` is not in `{app_name="a"}`.
fn has(selector: &str, matcher: &str) -> bool {
    selector.trim_matches(['{', '}']).split(',').any(|one| one.trim() == matcher)
}

/// Figures of an expression with their selectors: words with an underscore or a colon outside texts and groupings.
fn figures(text: &str) -> Result<BTreeSet<(String, String)>> {
    let word = Regex::new(
        r#"(?x)
        "[^"]*" | '[^']*' | \[[^\]]*\]
        | \b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)
        | (?<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?<selector>\{(?:[^"}]|"[^"]*")*\})?"#,
    )
    .context("a pattern")?;
    let functions = ["histogram_quantile", "clamp_max", "count_values"];
    // A variable: the values that a label of a figure has.
    let (text, most) = match text.strip_prefix("label_values(") {
        Some(figure) => (figure, 1),
        None => (text, usize::MAX),
    };
    let words = word.captures_iter(text).filter_map(|found| {
        let selector = found.name("selector").map_or("", |selector| selector.as_str());
        Some((found.name("name")?.as_str().to_owned(), selector.to_owned()))
    });
    let figures = words.filter(|(name, _)| name.contains(['_', ':']) && !functions.contains(&name.as_str()));
    Ok(figures.take(most).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_from_labels_and_functions() {
        let table = [
            (
                "histogram_quantile(0.99, sum by (le, app_kubernetes_io_instance) (rate(a_b_bucket{c_d=\"e_f}\"}[5m]))) > vllm:g",
                &[("a_b_bucket", "{c_d=\"e_f}\"}"), ("vllm:g", "")][..],
            ),
            ("label_values(a_b, label_c)", &[("a_b", "")]),
            ("label_values(a_b{c=\"d\", e=\"f\"}, label_c)", &[("a_b", "{c=\"d\", e=\"f\"}")]),
        ];
        for (text, expected) in table {
            let found = figures(text).unwrap();
            let found: Vec<_> =
                found.iter().map(|(name, selector)| (name.as_str(), selector.as_str())).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_figure_that_others_have_too_is_asked_for_as_ours() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let known = Known {
            stacks: names(&["etcd_b", "modelhub_c", "vllm:d"]),
            operator: names(&["workqueue_depth", "leader_election_master_status", "vllm:d_total"]),
        };
        let table = [
            ("max(workqueue_depth) > 50", 1),
            (r#"workqueue_depth{app_kubernetes_io_name="aistack-operator"}"#, 0),
            (r#"workqueue_depth{job="a", app_kubernetes_io_name="aistack-operator"}"#, 0),
            (r#"workqueue_depth{name="aistack-operator"}"#, 1),
            (r#"workqueue_depth{app_kubernetes_io_name!="aistack-operator"}"#, 1),
            (r#"etcd_b{app_kubernetes_io_managed_by="aistack-operator"} / etcd_b"#, 1),
            (r#"etcd_b{app_kubernetes_io_name="aistack-operator"}"#, 1),
            (r#"vllm:d_total{app_kubernetes_io_managed_by="aistack-operator"}"#, 0),
            (r#"leader_election_master_status{name="aistack-operator"}"#, 0),
            ("leader_election_master_status", 1),
            ("label_values(etcd_b, namespace)", 1),
            ("rate(modelhub_c_total[5m])", 0),
            ("nobodys_figure", 1),
        ];
        for (text, expected) in table {
            let mut findings = Vec::new();
            expression(&known, "here", text, &mut findings).unwrap();
            assert_eq!(findings.len(), expected, "{text}: {findings:?}");
        }
    }
}
