//! Compiles `cuda/**/*.cu` to cubins for Hopper when feature `cuda` is on, and writes the module that embeds them.
//!
//! nvcc is `$TINYKERNELS_NVCC`, or the one `hack/gpu/nvcc.sh` installs, or `nvcc` on the path. It must be of CUDA 13.0: an older driver refuses
//! what a newer one wrote.

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
    let mut sources = Vec::new();
    collect(&root, "cu", &mut sources)?;
    sources.sort();
    let (mut images, mut report) = (String::new(), String::new());
    let compiled = compile_side_by_side(&nvcc, &sources, &out);
    for (source, compiled) in sources.iter().zip(compiled) {
        let name = source
            .file_stem()
            .and_then(|s| s.to_str())
            .ok_or_else(|| format!("{} has no name", source.display()))?;
        write!(report, "== {name}\n{}", compiled?).map_err(|e| e.to_string())?;
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
        let lib = PathBuf::from(home).join(".cache/aistack/venv-nvcc/lib");
        for entry in std::fs::read_dir(lib).into_iter().flatten().flatten() {
            let nvcc = entry.path().join("site-packages/nvidia/cu13/bin/nvcc");
            if nvcc.exists() {
                return Ok(nvcc);
            }
        }
    }
    if Command::new("nvcc").arg("--version").output().is_ok() {
        return Ok("nvcc".into());
    }
    Err("feature cuda needs nvcc 13.0: run hack/gpu/nvcc.sh, or set TINYKERNELS_NVCC".into())
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

/// Every source's report or error, in order; as many compilers at a time as cargo allows.
fn compile_side_by_side(nvcc: &Path, sources: &[PathBuf], out: &Path) -> Vec<Result<String, String>> {
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
                    let cubin = out.join(source.with_extension("cubin").file_name().unwrap_or_default());
                    let report = compile_changed(nvcc, source, &cubin);
                    if let Ok(mut done) = done.lock() {
                        done[at] = report;
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

/// [`compile`], or the report of last time where neither the source, a header of its nor the compiler changed.
fn compile_changed(nvcc: &Path, source: &Path, cubin: &Path) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    (nvcc, ARGUMENTS).hash(&mut hasher);
    fingerprint(source, &mut hasher);
    let kept = cubin.with_extension(format!("{:016x}.report", hasher.finish()));
    if let (true, Ok(report)) = (cubin.exists(), std::fs::read_to_string(&kept)) {
        return Ok(report);
    }
    // A report stands for the cubin beside it: of another fingerprint, none may stay.
    let stem = format!("{}.", cubin.file_stem().unwrap_or_default().to_string_lossy());
    for entry in cubin.parent().and_then(|p| std::fs::read_dir(p).ok()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&stem) && name.ends_with(".report") {
            std::fs::remove_file(entry.path()).map_err(|e| e.to_string())?;
        }
    }
    let report = compile(nvcc, source, cubin)?;
    std::fs::write(&kept, &report).map_err(|e| format!("cannot write {}: {e}", kept.display()))?;
    Ok(report)
}

/// Returns the assembler's resource report, which the compile gate reads.
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
