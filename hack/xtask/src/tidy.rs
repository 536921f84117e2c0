//! The gates of the house style. Each check names the file and what to do.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::MetadataCommand;
use walkdir::WalkDir;

/// Which of our crates a crate may depend on, outside tests. `docs/architecture.md` says why.
const EDGES: &[(&str, &[&str])] = &[
    ("aistack-crds", &[]),
    ("aistack-api", &[]),
    ("wire", &[]),
    ("corpus", &[]),
    ("cowtree", &[]),
    ("tinykernels", &[]),
    ("aistack-chassis", &["aistack-api"]),
    ("aistack-operator", &["aistack-crds", "aistack-api", "aistack-chassis"]),
    ("replication", &["cowtree"]),
    ("tinykv", &["aistack-api", "aistack-chassis", "wire", "replication", "cowtree"]),
    ("vectorforge", &["aistack-api", "aistack-chassis", "wire", "replication", "tinykernels"]),
    ("tinyinfer", &["aistack-api", "aistack-chassis", "wire", "tinykernels"]),
    ("modelhub", &["aistack-api", "aistack-chassis", "wire"]),
    ("aistack", &["aistack-api", "aistack-chassis", "aistack-crds", "aistack-operator"]),
    ("e2e", &["aistack-api", "aistack-crds", "aistack-operator", "aistack-chassis", "wire"]),
    ("xtask", &["aistack-api", "aistack-crds", "aistack-operator"]),
];

/// Third-party crates that only some of ours may see.
const FENCED: &[(&str, &[&str])] = &[
    ("kube", &["aistack-crds", "aistack-operator", "modelhub", "e2e"]),
    ("k8s-openapi", &["aistack-crds", "aistack-operator", "aistack", "modelhub", "e2e"]),
    ("cudarc", &["tinykernels"]),
    ("openraft", &["replication"]),
];

/// Folders whose code may say `cfg(feature = "cuda")`.
const CUDA: &[&str] =
    &["kernels/", "components/tinyinfer/src/executor", "components/vectorforge/src/executor"];

/// Folders whose code may hold `unsafe`: kernels, SIMD modules, shims over foreign functions and memory maps.
const UNSAFE: &[&str] =
    &["kernels/", "/simd", "/mmap", "/ffi", "components/vectorforge/src/engine/storage/map.rs"];

const BARRED_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "stuff"];

/// Files over the limit of 800 lines, each with the reason why it is one piece.
const LONG_FILES: &[(&str, &str)] = &[];

const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "Makefile",
    "LICENSE",
    "README.md",
    "CONTRIBUTING.md",
    "clippy.toml",
    "rustfmt.toml",
    "components",
    "operator",
    "crds",
    "charts",
    "kernels",
    "e2e",
    "hack",
    "docs",
    "examples",
    "target",
    "out",
    "shared",
];

/// Runs every gate and lists all findings at once.
pub fn run(root: &Path) -> Result<()> {
    let mut findings = Vec::new();
    edges(root, &mut findings)?;
    top_level(root, &mut findings)?;
    crate::charts::check(root, &mut findings)?;
    crate::conditions::check(root, &mut findings)?;
    for file in sources(root) {
        source(root, &file, &mut findings)?;
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    ensure!(findings.is_empty(), "{} findings", findings.len());
    Ok(())
}

fn edges(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .context("cargo metadata")?;
    let allowed: BTreeMap<_, _> = EDGES.iter().copied().collect();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some(may_see) = allowed.get(name) else {
            findings.push(format!("crate {name} has no row in the table of edges (hack/xtask/src/tidy.rs)"));
            continue;
        };
        for dependency in &package.dependencies {
            let is_test = dependency.kind == cargo_metadata::DependencyKind::Development;
            let target = dependency.name.as_str();
            if allowed.contains_key(target) && !is_test && !may_see.contains(&target) {
                findings
                    .push(format!("crate {name} depends on {target}, which the architecture does not allow"));
            }
            let fence = FENCED.iter().find(|(fenced, _)| *fenced == target);
            if let Some((_, friends)) = fence
                && !is_test
                && !friends.contains(&name)
            {
                findings.push(format!("crate {name} depends on {target}; only {} may", friends.join(", ")));
            }
        }
    }
    Ok(())
}

fn top_level(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()) {
            findings.push(format!("{name}: not among the fixed top level"));
        }
    }
    Ok(())
}

fn sources(root: &Path) -> impl Iterator<Item = walkdir::DirEntry> {
    let skipped = ["target", "node_modules", "generated", "fuzz", ".git", ".gpu", "out", "shared"];
    WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(move |entry| !skipped.iter().any(|skip| entry.file_name() == *skip))
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"))
}

fn source(root: &Path, file: &walkdir::DirEntry, findings: &mut Vec<String>) -> Result<()> {
    let path = file.path().strip_prefix(root)?.display().to_string();
    let text = std::fs::read_to_string(file.path()).with_context(|| format!("read {path}"))?;
    let stem = file.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let folder =
        file.path().parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    for name in [Some(stem), folder].into_iter().flatten() {
        if BARRED_NAMES.contains(&name.as_str()) {
            findings.push(format!("{path}: `{name}` names nothing; name the module after what it does"));
        }
    }
    let lines = code_lines(&text);
    if lines > 800 && !LONG_FILES.iter().any(|(long, _)| *long == path) {
        findings
            .push(format!("{path}: {lines} lines outside tests; split it (500 is the aim, 800 the limit)"));
    }
    if path.starts_with("hack/xtask/") {
        return Ok(());
    }
    let is_test_file = path.contains("/tests/") || path.contains("/benches/") || path.contains("/examples/");
    let mut in_tests = is_test_file;
    for (number, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", number + 1);
        in_tests |= line.trim_start().starts_with("#[cfg(test)]");
        if line.contains("feature = \"cuda\"") && !CUDA.iter().any(|place| path.contains(place)) {
            findings.push(format!("{at}: cfg(feature = \"cuda\") belongs in kernels and the executors"));
        }
        let is_main = path.ends_with("/main.rs") || path.starts_with("e2e/");
        if !in_tests && !is_main && line.contains("anyhow") && !line.trim_start().starts_with("//") {
            findings
                .push(format!("{at}: anyhow belongs in main, xtask and e2e; a library has an error enum"));
        }
        if line.trim_start().starts_with("#[ignore") {
            findings.push(format!("{at}: #[ignore] hides a test; give it a make target or delete it"));
        }
        if !in_tests
            && line.contains("allow(unsafe_code)")
            && !UNSAFE.iter().any(|place| path.contains(place))
        {
            findings.push(format!("{at}: unsafe belongs in kernels, SIMD modules and shims"));
        }
    }
    Ok(())
}

/// Lines before the first `#[cfg(test)]`; all of them where there is none.
fn code_lines(text: &str) -> usize {
    text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count_as_code() {
        assert_eq!(code_lines("a\nb\n#[cfg(test)]\nmod tests {}\n"), 2);
        assert_eq!(code_lines("a\nb\n"), 2);
    }

    #[test]
    fn every_edge_names_a_known_crate() {
        let known: Vec<_> = EDGES.iter().map(|(name, _)| *name).collect();
        for (name, targets) in EDGES {
            for target in *targets {
                assert!(known.contains(target), "{name} → {target}");
            }
        }
    }
}
