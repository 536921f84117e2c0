//! `crds/generated/` is what the types say.

use std::path::Path;

#[test]
fn generated_files_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    let mut wanted = Vec::new();
    for (name, yaml) in aistack_crds::generated() {
        let found = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(found == yaml, "crds/generated/{name} has drifted from crds/src; run: cargo xtask gen");
        wanted.push(name);
    }
    for entry in std::fs::read_dir(&folder).expect("crds/generated exists") {
        let name = entry.expect("readable folder").file_name().into_string().expect("UTF-8 name");
        assert!(wanted.contains(&name), "crds/generated/{name} belongs to no kind; run: cargo xtask gen");
    }
}
