//! Compiles `cuda/**/*.cu` to cubins for Hopper when feature `cuda` is on, and writes the module that embeds them.
//!
//! nvcc is `$TINYKERNELS_NVCC`, or the one `hack/gpu/nvcc.sh` installs, or `nvcc` on the path. It must be of CUDA 13.0: an older driver refuses
//! what a newer one wrote.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    collect(&root, &mut sources)?;
    sources.sort();
    let (mut images, mut report) = (String::new(), String::new());
    for source in &sources {
        let name = source
            .file_stem()
            .and_then(|s| s.to_str())
            .ok_or_else(|| format!("{} has no name", source.display()))?;
        let cubin = out.join(format!("{name}.cubin"));
        write!(report, "== {name}\n{}", compile(&nvcc, source, &cubin)?).map_err(|e| e.to_string())?;
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

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|e| e == "cu") {
            sources.push(path);
        }
    }
    Ok(())
}

/// Returns the assembler's resource report, which the compile gate reads.
fn compile(nvcc: &Path, source: &Path, cubin: &Path) -> Result<String, String> {
    let include = nvcc.parent().and_then(Path::parent).map(|p| p.join("include"));
    let mut command = Command::new(nvcc);
    command.args(["-cubin", "-gencode=arch=compute_90a,code=sm_90a", "-O3", "-std=c++17", "-Xptxas", "-v"]);
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
