//! Writes `crds/generated/`: `cargo run --release -p aistack-crds --example generate`.

fn main() -> std::io::Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    std::fs::create_dir_all(&folder)?;
    for (name, yaml) in aistack_crds::generated() {
        std::fs::write(folder.join(&name), yaml)?;
        println!("crds/generated/{name}");
    }
    Ok(())
}
