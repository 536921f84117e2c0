//! What an image holds, as SPDX 2.3: the crates that were linked into its programs, and the Debian packages beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, NodeDep, Package, PackageId};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{PROGRAMS, debian};

/// The document, the same for the same tree.
pub(super) fn document(root: &Path, version: &str, debian: &[debian::Package]) -> Result<Value> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .features(CargoOpt::SomeFeatures(Vec::new()))
        .other_options(vec!["--locked".to_owned(), "--filter-platform".to_owned(), target()])
        .exec()
        .context("cargo metadata")?;
    let checksums = checksums(&std::fs::read_to_string(root.join("Cargo.lock")).context("read Cargo.lock")?);
    let linked = linked(root, &metadata)?;
    let mut packages = vec![json!({
        "SPDXID": "SPDXRef-image", "name": "aistack", "versionInfo": version,
        "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION", "licenseDeclared": "Apache-2.0", "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
    })];
    packages.extend(linked.iter().map(|package| of_crate(package, &checksums)));
    packages.extend(debian.iter().map(of_debian));
    let contains = |package: &Value| json!({"spdxElementId": "SPDXRef-image", "relationshipType": "CONTAINS", "relatedSpdxElement": package["SPDXID"]});
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-image",
    })];
    relationships.extend(packages.iter().skip(1).map(contains));
    // A document's name is its content's.
    let content = hex::encode(Sha256::digest(serde_json::to_vec(&packages)?));
    Ok(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("aistack-{version}"),
        "documentNamespace": format!("https://platform.dev/spdx/aistack-{version}-{content}"),
        "creationInfo": {"created": "1970-01-01T00:00:00Z", "creators": ["Tool: cargo-xtask-images"]},
        "packages": packages,
        "relationships": relationships,
    }))
}

fn target() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{}-unknown-linux-{libc}", std::env::consts::ARCH)
}

/// The packages that our programs link, ours among them: what only builds or tests them is in no image.
fn linked<'a>(root: &Path, metadata: &'a Metadata) -> Result<Vec<&'a Package>> {
    let there = built(root)?;
    let there: BTreeSet<(&str, &str)> = there.lines().filter_map(name_and_version).collect();
    let reached = reached(metadata)?;
    let mut packages: Vec<&Package> = metadata
        .packages
        .iter()
        .filter(|package| reached.contains(&package.id))
        .filter(|package| there.contains(&(package.name.as_str(), package.version.to_string().as_str())))
        .collect();
    packages.sort_by_key(|package| (package.name.to_string(), package.version.clone()));
    Ok(packages)
}

/// What is built for them, without macros, which run in the compiler. `cargo metadata` knows all that some feature could bring; which features
/// are on is known to `cargo tree`.
fn built(root: &Path) -> Result<String> {
    let said = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        .args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"])
        .args(["--target", &target()])
        .args(PROGRAMS.iter().flat_map(|program| ["--package", program]))
        .output()
        .context("run cargo tree")?;
    ensure!(said.status.success(), "cargo tree: {}", String::from_utf8_lossy(&said.stderr));
    Ok(String::from_utf8(said.stdout)?)
}

/// What the packages of our programs depend on, however far.
fn reached(metadata: &Metadata) -> Result<BTreeSet<&PackageId>> {
    let graph = metadata.resolve.as_ref().context("cargo metadata resolved nothing")?;
    let nodes: BTreeMap<&PackageId, _> = graph.nodes.iter().map(|node| (&node.id, node)).collect();
    let ours = metadata.workspace_packages();
    let mut due: Vec<&PackageId> = ours
        .into_iter()
        .filter(|package| PROGRAMS.contains(&package.name.as_str()))
        .map(|package| &package.id)
        .collect();
    let mut found = BTreeSet::new();
    while let Some(id) = due.pop() {
        if found.insert(id) {
            due.extend(nodes[id].deps.iter().filter(|one| is_linked(one)).map(|one| &one.pkg));
        }
    }
    Ok(found)
}

fn is_linked(dependency: &NodeDep) -> bool {
    dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
}

/// `tokio v1.47.0`, and of ours `tinykv v0.1.0 (/path)`.
fn name_and_version(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_once(" v")?;
    Some((name, rest.split(' ').next().unwrap_or(rest)))
}

/// SHA-256 of what crates.io serves, by name and version, out of Cargo.lock.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let of = |block: &str| {
        let value = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    };
    lock.split("[[package]]").filter_map(of).collect()
}

fn of_crate(package: &Package, checksums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (package.name.to_string(), package.version.to_string());
    let checksum = checksums.get(&(name.clone(), version.clone()));
    let (location, purl) = match checksum {
        Some(_) => (
            format!("https://crates.io/api/v1/crates/{name}/{version}/download"),
            Some(format!("pkg:cargo/{name}@{version}")),
        ),
        None => ("NOASSERTION".to_owned(), None),
    };
    let mut value = json!({
        "SPDXID": format!("SPDXRef-crate-{}", identifier(&format!("{name}-{version}"))),
        "name": name, "versionInfo": version, "downloadLocation": location, "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        // Older crates wrote a slash where SPDX says OR.
        "licenseDeclared": package.license.as_ref().map_or_else(|| "NOASSERTION".to_owned(), |text| text.replace('/', " OR ")),
        "copyrightText": "NOASSERTION",
    });
    if let Some(checksum) = checksum {
        value["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": checksum}]);
    }
    if let Some(purl) = purl {
        value["externalRefs"] = located(&purl);
    }
    value
}

fn of_debian(package: &debian::Package) -> Value {
    let debian::Package { name, version } = package;
    let purl = format!("pkg:deb/debian/{name}@{}", version.replace('+', "%2B"));
    json!({
        "SPDXID": format!("SPDXRef-deb-{}", identifier(name)),
        "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
        "comment": format!("its licences are in the image: /usr/share/doc/{name}/copyright"),
        "externalRefs": located(&purl),
    })
}

fn located(purl: &str) -> Value {
    json!([{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}])
}

/// Letters, digits, dots and hyphens: all that an SPDX identifier may hold.
fn identifier(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}
