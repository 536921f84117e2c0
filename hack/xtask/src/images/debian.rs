//! The files of Debian packages that our programs need beside them: the C library's, the authorities that the web trusts, and the licences
//! of both.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::tar::Tree;

/// The package with the authorities.
const AUTHORITIES: &str = "ca-certificates";
const AUTHORITIES_FOLDER: &str = "/usr/share/ca-certificates/mozilla";

/// A package of which an image has files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
}

/// The packages of which `tree` now has files: those that the programs link, and the authorities.
pub(super) fn add(tree: &mut Tree, programs: &[PathBuf]) -> Result<Vec<Package>> {
    let mut names = BTreeSet::from([AUTHORITIES.to_owned()]);
    for library in libraries(programs)? {
        let bytes = std::fs::read(&library).with_context(|| format!("read {}", library.display()))?;
        tree.file(&library.to_string_lossy()[1..], 0o755, bytes);
        names.insert(package_of(&library)?);
    }
    tree.file("etc/ssl/certs/ca-certificates.crt", 0o644, authorities()?);
    // A file that is not as its package has it belongs into nobody's image.
    let altered = output("dpkg", &["--verify"], &names)?;
    ensure!(altered.trim().is_empty(), "these files are not as their Debian packages have them:\n{altered}");
    for name in &names {
        let licence = format!("usr/share/doc/{}/copyright", name.split(':').next().unwrap_or(name));
        let text =
            std::fs::read(Path::new("/").join(&licence)).with_context(|| format!("read /{licence}"))?;
        tree.file(&licence, 0o644, text);
    }
    let known = output("dpkg-query", &["-W", "-f", "${Package} ${Version}\\n"], &names)?;
    let package = |line: &str| {
        let (name, version) = line.split_once(' ')?;
        Some(Package { name: name.to_owned(), version: version.to_owned() })
    };
    Ok(known.lines().filter_map(package).collect())
}

/// The shared libraries that the programs link, and the loader, where the loader finds them.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for program in programs {
        let said = Command::new("ldd").arg(program).output().context("run ldd")?;
        let said = String::from_utf8(said.stdout)?;
        for line in said.lines() {
            ensure!(!line.contains("not found"), "{}: {}", program.display(), line.trim());
            // `libc.so.6 => /lib/…/libc.so.6 (0x…)`, and the loader by its path alone.
            found.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
        }
    }
    Ok(found)
}

/// The package that brought a file: Debian names some below /lib and some below /usr/lib, which are one folder.
fn package_of(file: &Path) -> Result<String> {
    let real = file.canonicalize()?;
    let real = real.to_string_lossy();
    let asked = [
        file.to_string_lossy().into_owned(),
        format!("/usr{}", file.display()),
        real.clone().into_owned(),
        real.trim_start_matches("/usr").to_owned(),
    ];
    for path in asked {
        let said = Command::new("dpkg-query").args(["-S", &path]).output().context("run dpkg-query")?;
        // `libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6`
        if said.status.success()
            && let Some((package, _)) = String::from_utf8_lossy(&said.stdout).split_once(": ")
        {
            return Ok(package.to_owned());
        }
    }
    anyhow::bail!(
        "no Debian package has {}; images are made on Debian, or by hack/images/Dockerfile",
        file.display()
    )
}

/// Mozilla's authorities as the package has them. The machine's own list is not used: it may hold authorities of the machine's owner.
fn authorities() -> Result<Vec<u8>> {
    let folder = std::fs::read_dir(AUTHORITIES_FOLDER)
        .with_context(|| format!("read {AUTHORITIES_FOLDER} (Debian package {AUTHORITIES})"))?;
    let mut files = folder.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    ensure!(!files.is_empty(), "{AUTHORITIES_FOLDER} is empty");
    let mut all = Vec::new();
    for file in files {
        all.extend(std::fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    Ok(all)
}

fn output(program: &str, arguments: &[&str], names: &BTreeSet<String>) -> Result<String> {
    let said = Command::new(program).args(arguments).args(names).output();
    let said = said
        .with_context(|| format!("run {program}; images are made on Debian, or by hack/images/Dockerfile"))?;
    Ok(String::from_utf8(said.stdout)?)
}
