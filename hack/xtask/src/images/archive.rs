//! OCI archives, written without a daemon: blobs named by their SHA-256, an index of names, and what older `docker load` reads.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::tar::Tree;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The moment of every image: what is the same has the same digest, whenever it was made.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A layer, compressed.
pub(super) struct Layer {
    what: &'static str,
    blob: Vec<u8>,
    /// SHA-256 of the archive before it was compressed.
    diff_id: String,
}

impl Layer {
    /// Compresses a tree.
    pub(super) fn of(what: &'static str, tree: &Tree) -> Result<Self> {
        let archive = tree.archive()?;
        let diff_id = digest(&archive);
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(&archive)?;
        Ok(Self { what, blob: gzip.finish()?, diff_id })
    }

    /// Bytes that a node pulls.
    pub(super) fn compressed(&self) -> usize {
        self.blob.len()
    }
}

/// One name of an archive: which layers it has, and what runs.
pub(super) struct Image<'a> {
    /// With registry and tag, such as `docker.io/aistack/tinykv:0.1.0`.
    pub(super) name: String,
    pub(super) layers: &'a [&'a Layer],
    pub(super) entry: String,
    pub(super) env: BTreeMap<&'static str, &'static str>,
    /// Numeric, with its group.
    pub(super) user: u32,
    pub(super) labels: BTreeMap<String, String>,
}

/// Writes the images into one archive, and returns the digest of each.
pub(super) fn write(path: &Path, images: &[Image<'_>]) -> Result<Vec<String>> {
    let mut tree = Tree::default();
    let (mut index, mut docker, mut digests) = (Vec::new(), Vec::new(), Vec::new());
    for image in images {
        for layer in image.layers {
            put(&mut tree, layer.blob.clone());
        }
        let config = serde_json::to_vec(&config(image))?;
        let manifest = serde_json::to_vec(&manifest(image, &config))?;
        index.push(json!({
            "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
            "platform": {"os": "linux", "architecture": architecture()},
            "annotations": {
                "io.containerd.image.name": image.name,
                "org.opencontainers.image.ref.name": image.name.rsplit(':').next(),
            },
        }));
        let blob = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
        docker.push(json!({
            "Config": blob(&digest(&config)),
            "RepoTags": [image.name.trim_start_matches("docker.io/")],
            "Layers": image.layers.iter().map(|layer| blob(&digest(&layer.blob))).collect::<Vec<_>>(),
        }));
        digests.push(digest(&manifest));
        put(&mut tree, config);
        put(&mut tree, manifest);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": index});
    tree.file("index.json", 0o644, serde_json::to_vec(&index)?);
    tree.file("manifest.json", 0o644, serde_json::to_vec(&docker)?);
    tree.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Beside its place, then renamed: nobody reads half an archive.
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, tree.archive()?)
        .with_context(|| format!("write {}", unfinished.display()))?;
    std::fs::rename(&unfinished, path)?;
    Ok(digests)
}

fn put(tree: &mut Tree, blob: Vec<u8>) {
    tree.file(&format!("blobs/{}", digest(&blob).replace(':', "/")), 0o644, blob);
}

/// SHA-256, as OCI writes it.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// This machine's, in the words of OCI.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn config(image: &Image<'_>) -> Value {
    let env: Vec<String> = image.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let history = |layer: &&Layer| json!({"created": CREATED, "created_by": format!("cargo xtask images: {}", layer.what)});
    json!({
        "created": CREATED,
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "User": format!("{0}:{0}", image.user),
            "Env": env,
            "Entrypoint": [image.entry],
            "WorkingDir": "/",
            "Labels": image.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": image.layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>()},
        "history": image.layers.iter().map(history).collect::<Vec<_>>(),
    })
}

fn manifest(image: &Image<'_>, config: &[u8]) -> Value {
    let descriptor =
        |kind: &str, blob: &[u8]| json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()});
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": image.layers.iter().map(|layer| descriptor(LAYER, &layer.blob)).collect::<Vec<_>>(),
        "annotations": image.labels,
    })
}
