//! Compiles `cuda/**/*.cu` to cubins for Hopper when feature `cuda` is on, and writes the module that embeds them.
//!
//! nvcc is `$TINYKERNELS_NVCC`, or the one `hack/gpu/nvcc.sh` installs, or `nvcc` on the path. It must be of CUDA 13.0: an older driver refuses
//! what a newer one wrote. What it wrote is kept in `~/.cache/aistack/cubins` by the content of the source, its headers, the arguments and the
//! compiler's version, so that a clean clone compiles only what nobody compiled on this machine before.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const ARGUMENTS: [&str; 6] =
    ["-cubin", "-gencode=arch=compute_90a,code=sm_90a", "-O3", "-std=c++17", "-Xptxas", "-v"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-env-changed=TINYKERNELS_NVCC");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    if let Err(reason) = compile_all() {
        println!("cargo::error={reason}");
    }
}

fn compile_all() -> Result<(), String> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?)
        .join("cuda");
    let nvcc = find_nvcc()?;
    let version = version_of(&nvcc)?;
    let kept = kept_at(&out)?;
    let mut sources = Vec::new();
    collect(&root, "cu", &mut sources)?;
    sources.sort();
    let (mut images, mut report) = (String::new(), String::new());
    let compiled = compile_side_by_side(&nvcc, &version, &sources, &kept);
    for (source, compiled) in sources.iter().zip(compiled) {
        let name = source
            .file_stem()
            .and_then(|s| s.to_str())
            .ok_or_else(|| format!("{} has no name", source.display()))?;
        let Compiled { cubin, report: said } = compiled?;
        // The crate embeds its own copy: the cache may be emptied at any time.
        std::fs::copy(&cubin, out.join(name).with_extension("cubin"))
            .map_err(|e| format!("cannot copy {}: {e}", cubin.display()))?;
        write!(report, "== {name}\n{said}").map_err(|e| e.to_string())?;
        writeln!(
            images,
            "pub static {name}: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.cubin\"));"
        )
        .map_err(|e| e.to_string())?;
    }
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
    };
    write(&out.join("images.rs"), &images)?;
    write(&out.join("ptxas.txt"), &report)?;
    println!("cargo::rustc-env=TINYKERNELS_PTXAS_REPORT={}", out.join("ptxas.txt").display());
    Ok(())
}

/// The installed toolkit's layout is that of NVIDIA's wheels: `lib/python3.*/site-packages/nvidia/cu13`.
fn find_nvcc() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("TINYKERNELS_NVCC") {
        return Ok(path.into());
    }
    if let Some(home) = std::env::var_os("HOME") {
        for install in entries(&PathBuf::from(home).join(".cache/aistack"), "nvcc-") {
            for python in entries(&install.join("lib"), "python3") {
                let nvcc = python.join("site-packages/nvidia/cu13/bin/nvcc");
                if install.join("whole").exists() && nvcc.exists() {
                    return Ok(nvcc);
                }
            }
        }
    }
    if Command::new("nvcc").arg("--version").output().is_ok() {
        return Ok("nvcc".into());
    }
    Err("feature cuda needs nvcc 13.0: run hack/gpu/nvcc.sh, or set TINYKERNELS_NVCC".into())
}

/// What of a folder begins with `prefix`, the last name first.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.reverse();
    found
}

/// What the compiler says of itself.
fn version_of(nvcc: &Path) -> Result<String, String> {
    let said = Command::new(nvcc)
        .arg("--version")
        .output()
        .map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    if said.contains("release 13.0") {
        return Ok(said);
    }
    Err(format!("{} is not of CUDA 13.0: {}", nvcc.display(), said.replace('\n', " | ")))
}

/// Where compiled kernels are kept: beside the compiler, or with this build where there is no home.
fn kept_at(out: &Path) -> Result<PathBuf, String> {
    let folder = std::env::var_os("HOME").map_or_else(|| out.to_path_buf(), PathBuf::from);
    let folder = folder.join(".cache/aistack/cubins");
    std::fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    Ok(folder)
}

fn collect(folder: &Path, extension: &str, sources: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() {
            collect(&path, extension, sources)?;
        } else if path.extension().is_some_and(|e| e == extension) {
            sources.push(path);
        }
    }
    Ok(())
}

/// An image, and what the assembler said of its kernels, which the compile gate reads.
#[derive(Clone)]
struct Compiled {
    cubin: PathBuf,
    report: String,
}

/// Every source's image or error, in order; as many compilers at a time as cargo allows.
fn compile_side_by_side(
    nvcc: &Path,
    version: &str,
    sources: &[PathBuf],
    kept: &Path,
) -> Vec<Result<Compiled, String>> {
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![Err(String::new()); sources.len()]);
    std::thread::scope(|scope| {
        for _ in 0..usize::min(jobs, sources.len()) {
            scope.spawn(|| {
                while let Some((at, source)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    sources.get(at).map(|source| (at, source))
                } {
                    let compiled = compile_changed(nvcc, version, source, kept);
                    if let Ok(mut done) = done.lock() {
                        done[at] = compiled;
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_default()
}

/// Of a source and every header it includes by a relative path, and they in turn.
fn fingerprint(source: &Path, hasher: &mut DefaultHasher) {
    let text = std::fs::read_to_string(source).unwrap_or_default();
    text.hash(hasher);
    let folder = source.parent().unwrap_or(Path::new("."));
    for line in text.lines() {
        if let Some(header) = line.trim().strip_prefix("#include \"").and_then(|l| l.split('"').next()) {
            fingerprint(&folder.join(header), hasher);
        }
    }
}

/// [`compile`], or what is kept of the same source, headers, arguments and compiler.
fn compile_changed(nvcc: &Path, version: &str, source: &Path, kept: &Path) -> Result<Compiled, String> {
    let mut hasher = DefaultHasher::new();
    (version, ARGUMENTS).hash(&mut hasher);
    fingerprint(source, &mut hasher);
    let name = source.file_stem().unwrap_or_default().to_string_lossy();
    let cubin = kept.join(format!("{name}-{:016x}.cubin", hasher.finish()));
    let beside = cubin.with_extension("report");
    if let (true, Ok(report)) = (cubin.exists(), std::fs::read_to_string(&beside)) {
        return Ok(Compiled { cubin, report });
    }
    // Whole files appear under their names: another build of this machine may look for the same at this moment.
    let own = |what: &str| cubin.with_extension(format!("{what}.{}", std::process::id()));
    let (part, part_beside) = (own("cubin"), own("report"));
    let report = compile(nvcc, source, &part)?;
    std::fs::write(&part_beside, &report)
        .and_then(|()| std::fs::rename(&part, &cubin))
        .and_then(|()| std::fs::rename(&part_beside, &beside))
        .map_err(|e| format!("cannot keep {}: {e}", cubin.display()))?;
    Ok(Compiled { cubin, report })
}

/// Returns the assembler's resource report.
fn compile(nvcc: &Path, source: &Path, cubin: &Path) -> Result<String, String> {
    let include = nvcc.parent().and_then(Path::parent).map(|p| p.join("include"));
    let mut command = Command::new(nvcc);
    command.args(ARGUMENTS);
    if let Some(include) = include.filter(|i| i.exists()) {
        command.arg("-I").arg(&include).arg("-I").arg(include.join("cccl"));
    }
    let output = command
        .arg("-o")
        .arg(cubin)
        .arg(source)
        .output()
        .map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    let report =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(report);
    }
    Err(format!("{} does not compile: {}", source.display(), report.replace('\n', " | ")))
}
