//! Protocol code from `components/wire/proto`, by protox (no `protoc` is needed) and tonic's generator.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Generates the code of every contract and returns it by target path.
pub fn generate(root: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let wire = root.join("components/wire");
    let proto = wire.join("proto");
    let out = std::env::temp_dir().join(format!("aistack-gen-{}", std::process::id()));
    std::fs::create_dir_all(&out)?;

    let services = ["rpc", "lock", "election"].map(|name| format!("etcd/{name}.proto"));
    let etcd = protox::compile(&services, [&proto]).context("compile etcd's protocol")?;
    let contracts =
        ["kv", "vector", "inference", "environment"].map(|name| format!("platform/v1/{name}.proto"));
    let platform = protox::compile(&contracts, [&proto]).context("compile platform.v1")?;
    // Without comments and positions: what gRPC reflection answers with, and JSON is read by.
    let descriptors = |files: &[String]| -> Result<Vec<u8>> {
        let mut compiler = protox::Compiler::new([&proto])?;
        compiler.include_source_info(false).include_imports(true).open_files(files)?;
        Ok(compiler.encode_file_descriptor_set())
    };
    let mut files = vec![
        (wire.join("src/generated/platform.v1.bin"), descriptors(&contracts)?),
        (wire.join("src/generated/etcd.bin"), descriptors(&services)?),
    ];

    tonic_prost_build::configure()
        .out_dir(&out)
        .bytes(".")
        .compile_fds(etcd)
        .context("generate etcd's code")?;
    tonic_prost_build::configure()
        .out_dir(&out)
        .bytes(".")
        .compile_fds(platform)
        .context("generate platform.v1's code")?;

    for entry in std::fs::read_dir(&out)? {
        let path = entry?.path();
        let name = path.file_name().context("a generated file has a name")?.to_owned();
        files.push((wire.join("src/generated").join(name), std::fs::read(&path)?));
    }
    files.sort();
    std::fs::remove_dir_all(&out)?;
    Ok(files)
}
