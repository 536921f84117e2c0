//! Container images, written without a daemon: one set of layers with all our programs, and a name for each of them.
//!
//! Every byte of an image follows from the programs and from the Debian packages whose files stand beside them: the same input has the
//! same digest, on whichever day and in whichever order it was read.

mod archive;
mod debian;
mod sbom;
mod tar;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use archive::{Image, Layer};
use clap::Args;
use tar::Tree;

/// What an image is for, by program. Each gets a name of its own, and all have the same layers: a node pulls them once.
const PROGRAMS: &[&str] = &["aistack", "aistack-operator", "modelhub", "tinyinfer", "tinykv", "vectorforge"];

/// The user of distroless images who is not root, and the one that the operator's pods run as.
const USER: u32 = 65532;

/// Where an image carries models, and TinyInfer looks for what its cache lacks.
const MODELS: &str = "usr/share/aistack/models";

/// The most that nodes pull for the programs.
const LIMIT_BYTES: usize = 60_000_000;

/// Images of the platform.
#[derive(Args)]
pub(crate) struct ImagesArgs {
    /// Folder of the archives and of the list of packages (SPDX).
    #[arg(long, default_value = "out/images")]
    out: PathBuf,
    /// Folder with the built programs; without it, the one that this program lies in.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Registry and path in front of the names.
    #[arg(long, default_value = "docker.io/aistack")]
    repository: String,
    /// Tag; without it, this version.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Another layer with a model of the model cache, for clusters that fetch nothing. May be given again.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Another layer with the CUDA kernels: the library that hack/gpu/build.sh wrote.
    #[arg(long, value_name = "LIBRARY")]
    cuda: Option<PathBuf>,
}

/// An image of one program that needs no other file.
#[derive(Args)]
pub(crate) struct ImageArgs {
    /// The program, statically linked.
    program: PathBuf,
    /// Name, such as `docker.io/aistack/pause:1`.
    name: String,
    /// The archive.
    archive: PathBuf,
}

/// Writes the images of the platform.
pub(crate) fn platform(root: &Path, args: &ImagesArgs) -> Result<()> {
    let folder = match &args.programs {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?.parent().context("a program lies in a folder")?.to_path_buf(),
    };
    let programs: Vec<PathBuf> = PROGRAMS.iter().map(|name| folder.join(name)).collect();
    for program in &programs {
        ensure!(
            program.is_file(),
            "{} is not there\n  build the programs first: make build",
            program.display()
        );
    }
    let (base, packages) = base(&programs)?;
    let mut layers = vec![base, Layer::of("programs", &stripped(&programs)?)?];
    let pulled: usize = layers.iter().map(Layer::compressed).sum();
    ensure!(pulled < LIMIT_BYTES, "{pulled} bytes would be pulled, and {LIMIT_BYTES} are the limit");
    let document = serde_json::to_vec_pretty(&sbom::document(root, &args.tag, &packages)?)?;
    let mut listed = Tree::default();
    listed.file("usr/share/doc/aistack/sbom.spdx.json", 0o644, document.clone());
    layers.push(Layer::of("list of packages", &listed)?);
    for model in &args.models {
        layers.push(Layer::of("model", &model_tree(model)?)?);
    }
    if let Some(library) = &args.cuda {
        layers.push(Layer::of("CUDA kernels", &kernels(library)?)?);
    }
    let layers: Vec<&Layer> = layers.iter().collect();
    let images: Vec<Image<'_>> = PROGRAMS.iter().map(|program| image(args, program, &layers)).collect();
    let stem = format!("aistack-{}-{}", args.tag, archive::architecture());
    let path = args.out.join(format!("{stem}.oci.tar"));
    let digests = archive::write(&path, &images)?;
    std::fs::write(args.out.join(format!("{stem}.spdx.json")), document)?;
    std::fs::write(args.out.join(format!("{stem}.values.yaml")), values(args, &digests))?;
    println!("{}: {:.1} MB to pull for the programs", path.display(), pulled as f64 / 1e6);
    for (image, digest) in images.iter().zip(digests) {
        println!("  {digest}  {}", image.name);
    }
    Ok(())
}

/// Values that make the chart pull these images and no others.
fn values(args: &ImagesArgs, digests: &[String]) -> String {
    let repository = &args.repository;
    let digest = |program: &str| {
        let position = PROGRAMS.iter().position(|name| *name == program).expect("it is one of the list");
        &digests[position]
    };
    // Nobody's pods run `aistack`.
    let components = ["modelhub", "tinyinfer", "tinykv", "vectorforge"];
    let components = components.map(|component| format!("    {component}: {}\n", digest(component)));
    format!(
        "# helm install … -f FILE: these images, whatever their tags lead to later.\n\
         image:\n  repository: {repository}/aistack-operator\n  digest: {}\n\
         components:\n  repository: {repository}\n  digests:\n{}",
        digest("aistack-operator"),
        components.concat(),
    )
}

/// Writes the image of one program.
pub(crate) fn single(args: &ImageArgs) -> Result<()> {
    let name = args.program.file_name().context("a program has a name")?.to_string_lossy();
    let said = Command::new("ldd").arg(&args.program).output().context("run ldd")?;
    ensure!(
        !said.status.success(),
        "{} needs other files; an image of one program is static",
        args.program.display()
    );
    let mut tree = Tree::default();
    tree.file(&name, 0o755, std::fs::read(&args.program).with_context(|| format!("read {name}"))?);
    let layer = Layer::of("program", &tree)?;
    let image = Image {
        name: args.name.clone(),
        layers: &[&layer],
        entry: format!("/{name}"),
        env: BTreeMap::new(),
        user: USER,
        labels: BTreeMap::from([("org.opencontainers.image.title".to_owned(), name.into_owned())]),
    };
    archive::write(&args.archive, &[image])?;
    Ok(())
}

fn image<'a>(args: &ImagesArgs, program: &str, layers: &'a [&'a Layer]) -> Image<'a> {
    let label = |name: &str, value: &str| (format!("org.opencontainers.image.{name}"), value.to_owned());
    let mut env = BTreeMap::from([
        ("HOME", "/home/nonroot"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
    ]);
    if args.cuda.is_some() {
        // What NVIDIA's runtime gives a container.
        env.extend([("NVIDIA_VISIBLE_DEVICES", "all"), ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility")]);
    }
    Image {
        name: format!("{}/{program}:{}", args.repository, args.tag),
        layers,
        entry: format!("/usr/bin/{program}"),
        env,
        user: USER,
        labels: BTreeMap::from([
            label("title", program),
            label("version", &args.tag),
            label("vendor", "AIStack"),
            label("licenses", "Apache-2.0"),
            label("source", env!("CARGO_PKG_REPOSITORY")),
            label("documentation", concat!(env!("CARGO_PKG_REPOSITORY"), "/tree/main/docs")),
        ]),
    }
}

/// What is below the programs, as distroless has it: a user, names, authorities, the C library, and folders that may be written to.
fn base(programs: &[PathBuf]) -> Result<(Layer, Vec<debian::Package>)> {
    let mut tree = Tree::default();
    let packages = debian::add(&mut tree, programs)?;
    let user =
        "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n";
    tree.file("etc/passwd", 0o644, user.into());
    tree.file("etc/group", 0o644, "root:x:0:\nnonroot:x:65532:\n".into());
    tree.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n".into());
    tree.folder("tmp", 0o1777, 0);
    for folder in ["home/nonroot", "var/lib/aistack", "var/cache/aistack"] {
        tree.folder(folder, 0o755, USER);
    }
    Ok((Layer::of("Debian's files", &tree)?, packages))
}

/// The programs without what only a debugger reads.
fn stripped(programs: &[PathBuf]) -> Result<Tree> {
    let scratch = std::env::temp_dir().join(format!("xtask-images-{}", std::process::id()));
    let mut tree = Tree::default();
    for program in programs {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        let status = Command::new("strip").arg("-o").arg(&scratch).arg(program).status();
        ensure!(status.context("run strip (Debian package: binutils)")?.success(), "strip failed on {name}");
        tree.file(&format!("usr/bin/{name}"), 0o755, std::fs::read(&scratch)?);
    }
    std::fs::remove_file(&scratch)?;
    Ok(tree)
}

/// A model of the model cache.
fn model_tree(name: &str) -> Result<Tree> {
    let folder = crate::models::cache_dir()?.join(name);
    ensure!(
        folder.is_dir(),
        "{} is not there\n  fetch the models first: cargo xtask models",
        folder.display()
    );
    let mut tree = Tree::default();
    for entry in walkdir::WalkDir::new(&folder) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let inside = entry.path().strip_prefix(&folder)?.to_string_lossy().into_owned();
            tree.file(&format!("{MODELS}/{name}/{inside}"), 0o644, std::fs::read(entry.path())?);
        }
    }
    Ok(tree)
}

fn kernels(library: &Path) -> Result<Tree> {
    let bytes = std::fs::read(library)
        .with_context(|| format!("read {}; hack/gpu/build.sh writes it", library.display()))?;
    let name = library.file_name().context("a library has a name")?.to_string_lossy();
    let mut tree = Tree::default();
    tree.file(&format!("usr/lib/aistack/{name}"), 0o755, bytes);
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same programs, copied at another time and named in another order.
    #[test]
    fn what_is_the_same_has_the_same_digest() {
        let folder = tempfile::tempdir().unwrap();
        let test = std::env::current_exe().unwrap();
        let build = |name: &str, order: [&str; 2]| {
            let copies = folder.path().join(name);
            std::fs::create_dir(&copies).unwrap();
            let programs = order.map(|program| {
                let copy = copies.join(program);
                std::fs::copy(&test, &copy).unwrap();
                copy
            });
            let (base, packages) = base(&programs).unwrap();
            let programs = Layer::of("programs", &stripped(&programs).unwrap()).unwrap();
            let layers = [&base, &programs];
            let image = Image {
                name: "docker.io/aistack/one:1".to_owned(),
                layers: &layers,
                entry: "/usr/bin/one".to_owned(),
                env: BTreeMap::new(),
                user: USER,
                labels: BTreeMap::new(),
            };
            let path = folder.path().join(format!("{name}.tar"));
            let digests = archive::write(&path, &[image]).unwrap();
            (archive::digest(&std::fs::read(path).unwrap()), digests, packages)
        };
        let first = build("first", ["one", "two"]);
        assert_eq!(first, build("second", ["two", "one"]));
        let names: Vec<&str> = first.2.iter().map(|package| package.name.as_str()).collect();
        assert!(names.contains(&"ca-certificates") && names.contains(&"libc6"), "{names:?}");
    }

    #[test]
    fn every_package_of_an_image_is_listed() {
        let packages = [debian::Package { name: "libc6".to_owned(), version: "2.36-9+deb12u10".to_owned() }];
        let root = crate::root().unwrap();
        let document = sbom::document(&root, "1", &packages).unwrap();
        assert_eq!(document, sbom::document(&root, "1", &packages).unwrap());
        let listed = document["packages"].as_array().unwrap();
        let names: Vec<&str> = listed.iter().filter_map(|package| package["name"].as_str()).collect();
        for name in ["tinykv", "vectorforge", "aistack-operator", "tokio", "rustls", "libc6"] {
            assert!(names.contains(&name), "{name} is not listed");
        }
        for name in ["e2e", "xtask", "criterion", "proptest"] {
            assert!(!names.contains(&name), "{name} is in no image");
        }
        let of = |name: &str| listed.iter().find(|package| package["name"] == name).unwrap();
        assert_eq!(of("tokio")["checksums"][0]["checksumValue"].as_str().unwrap().len(), 64);
        assert_eq!(
            of("libc6")["externalRefs"][0]["referenceLocator"],
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10"
        );
        let mut ids: Vec<&str> = listed.iter().filter_map(|package| package["SPDXID"].as_str()).collect();
        ids.sort_unstable();
        let before = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), before, "an identifier is given once");
        assert_eq!(document["relationships"].as_array().unwrap().len(), before);
    }
}
