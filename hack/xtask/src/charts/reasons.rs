//! What pages say that a condition says, a condition can say.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use regex::Regex;
use walkdir::WalkDir;

/// Pages that name conditions and their reasons, in backquotes.
const PAGES: &[&str] = &["docs/runbooks", "docs/operator.md"];
/// Where they come from: conditions and reasons from the sources, alerts and kinds of Kubernetes' own from the chart.
const SOURCES: &[&str] = &["operator/src", "crds/src", "charts/aistack"];

/// Runs the check.
pub(super) fn check(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let word = Regex::new(r"`([A-Z][a-z]+(?:[A-Z]+[a-z]+)+)(?::[^`]*)?`").context("a pattern")?;
    let known = known(root)?;
    for page in files(root, PAGES)? {
        let text = std::fs::read_to_string(root.join(&page)).with_context(|| page.clone())?;
        for found in word.captures_iter(&text) {
            if !known.contains(&found[1]) {
                findings.push(format!("{page}: no condition, reason or alert is called {}", &found[1]));
            }
        }
    }
    Ok(())
}

fn known(root: &Path) -> Result<BTreeSet<String>> {
    let word = Regex::new(r"\b[A-Z][a-z]+(?:[A-Z]+[a-z]+)+\b").context("a pattern")?;
    let mut known = BTreeSet::new();
    for file in files(root, SOURCES)? {
        // A dashboard's picture is no text, and names nothing.
        let Ok(text) = std::fs::read_to_string(root.join(&file)) else { continue };
        known.extend(word.find_iter(&text).map(|found| found.as_str().to_owned()));
    }
    Ok(known)
}

fn files(root: &Path, places: &[&str]) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for place in places {
        for entry in WalkDir::new(root.join(place)).sort_by_file_name() {
            let entry = entry.with_context(|| (*place).to_owned())?;
            if entry.file_type().is_file() {
                files.push(entry.path().strip_prefix(root)?.display().to_string());
            }
        }
    }
    Ok(files)
}
