//! What objects say of themselves: a page of all conditions and reasons, and the checks that the operator's source has no others and
//! that pages name none that are not there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use aistack_crds::reasons::{CONDITIONS, REASONS};
use anyhow::{Context as _, Result};
use regex::Regex;
use walkdir::WalkDir;

/// The page, by path.
pub fn generate(root: &Path) -> Result<(PathBuf, String)> {
    let mut text = "# Conditions and their reasons\n\n\
        Generated from `crds/src/reasons.rs` by `cargo xtask gen`. Do not edit.\n\n\
        `kubectl get KIND NAME -o yaml` shows them under `status.conditions`, `kubectl describe` beside the Events; messages name the field and what \
        to do.\n\n| Condition | While it is `True` |\n|---|---|\n"
        .to_owned();
    CONDITIONS.iter().try_for_each(|(name, meaning)| writeln!(text, "| {name} | {meaning} |"))?;
    writeln!(text, "\n| Reason | Meaning |\n|---|---|")?;
    REASONS.iter().try_for_each(|(name, meaning)| writeln!(text, "| {name} | {meaning} |"))?;
    Ok((root.join("docs/reference/conditions.md"), text))
}

/// Where the operator's source gives a reason.
const GIVEN: [&str; 8] = [
    r#"Because::new\(\s*"(\w+)""#,
    r#"reason: "(\w+)""#,
    r#"(?:of|step_error|failed)\(\s*"([A-Z]\w+)""#,
    r#"say\(\s*"\w+",\s*[^,]+,\s*"(\w+)""#,
    r#"\.tell\([^"]*"(\w+)""#,
    r#"Self::\w+ \{ \.\. \}(?: \| Self::\w+ \{ \.\. \})* => "(\w+)""#,
    r#"Self::(?:Status|Finalizer)\(_\) => "(\w+)""#,
    r#"(?:HubError::\w+(?:\(_\))? => |\(Some\(\w+\), |\(None, )"([A-Z]\w+)""#,
];
/// Where it gives a type of a condition.
const NAMED: [&str; 3] =
    [r#"Extra \{\s*kind: "(\w+)""#, r#"say\(\s*"(\w+)""#, r#"condition: "(\w+)"|type_: "(Paused)""#];

/// Pages that name conditions, reasons and alerts in backquotes.
const PAGES: [&str; 2] = ["docs/runbooks", "docs/operator.md"];
/// Where alerts are.
const ALERTS: &str = "charts/aistack/files/alerts.yaml";

/// Compares the table with the source, and pages with the table.
pub fn check(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    check_source(root, findings)?;
    check_pages(root, findings)
}

fn check_pages(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let alerts = std::fs::read_to_string(root.join(ALERTS)).context(ALERTS)?;
    let mut known = found(&alerts, &[r"alert: (\w+)"])?;
    known.extend(CONDITIONS.iter().chain(REASONS).map(|(name, _)| *name));
    for entry in PAGES.iter().flat_map(|page| WalkDir::new(root.join(page)).sort_by_file_name()) {
        let entry = entry?;
        if !entry.file_type().is_file() {
            continue;
        }
        let page = entry.path().strip_prefix(root)?.display();
        let text = std::fs::read_to_string(entry.path()).with_context(|| page.to_string())?;
        for name in found(&text, &[r"`([A-Z][a-z]+(?:[A-Z]+[a-z]+)+)(?:: [^`]*)?`"])?.difference(&known) {
            findings.push(format!("{page}: no condition, reason or alert is called {name}"));
        }
    }
    Ok(())
}

fn check_source(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let source = source(root)?;
    for (what, patterns, table) in
        [("reason", GIVEN.as_slice(), REASONS), ("condition", NAMED.as_slice(), CONDITIONS)]
    {
        let given = found(&source, patterns)?;
        let known: BTreeSet<&str> = table.iter().map(|(name, _)| *name).collect();
        for name in given.difference(&known) {
            findings
                .push(format!("crds/src/reasons.rs: the {what} {name} of operator/src is not in the table"));
        }
        for name in known.difference(&given) {
            findings.push(format!("crds/src/reasons.rs: nothing in operator/src gives the {what} {name}"));
        }
        if !table.is_sorted_by_key(|(name, _)| *name) && what == "reason" {
            findings.push("crds/src/reasons.rs: reasons are not in the order of the alphabet".to_owned());
        }
    }
    Ok(())
}

fn found<'a>(source: &'a str, patterns: &[&str]) -> Result<BTreeSet<&'a str>> {
    let mut names = BTreeSet::new();
    for pattern in patterns {
        let pattern = Regex::new(pattern).context("a pattern")?;
        names.extend(
            pattern
                .captures_iter(source)
                .filter_map(|found| found.get(1).or(found.get(2)))
                .map(|name| name.as_str()),
        );
    }
    Ok(names)
}

/// The operator's source without its tests, and without what prints for people.
fn source(root: &Path) -> Result<String> {
    let mut all = String::new();
    let folder = root.join("operator/src");
    for entry in WalkDir::new(&folder).sort_by_file_name() {
        let entry = entry?;
        let is_source = entry.path().extension().is_some_and(|extension| extension == "rs");
        if !is_source || entry.path().starts_with(folder.join("plugin")) {
            continue;
        }
        let text = std::fs::read_to_string(entry.path())?;
        all += text.split("#[cfg(test)]").next().unwrap_or_default();
    }
    Ok(all)
}
