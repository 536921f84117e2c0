//! Which images pods run whose manifests name no repository, or no tag: those that whoever installed the operator named.

use aistack_api::operator::ImagesConfig;

use crate::manifest::Manifests;
use crate::meta::DEFAULT_REPOSITORY;

/// Writes the references that the settings ask for into pods.
pub(super) fn settle(images: &ImagesConfig, manifests: &mut Manifests) {
    if *images == ImagesConfig::default() {
        return;
    }
    for pod in manifests.pods_mut() {
        for container in pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten()) {
            if let Some(image) = container.image.as_mut()
                && let Some(settled) = settled(images, image)
            {
                *image = settled;
            }
        }
    }
}

/// What stands in place of a reference; `None` where a manifest says more than the settings, or the image is somebody else's.
fn settled(images: &ImagesConfig, reference: &str) -> Option<String> {
    let (repository, name) = reference.rsplit_once('/')?;
    let given = (repository == DEFAULT_REPOSITORY).then_some(images.repository.as_deref()).flatten();
    let repository = given.unwrap_or(repository);
    // A digest is of this version's image.
    let component = name.strip_suffix(concat!(":", env!("CARGO_PKG_VERSION")));
    match component.and_then(|component| Some((component, images.digests.get(component)?))) {
        Some((component, digest)) => Some(format!("{repository}/{component}@{digest}")),
        None => given.map(|_| format!("{repository}/{name}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_a_manifest_leaves_open_is_settled_and_nothing_else() {
        let version = env!("CARGO_PKG_VERSION");
        let digest = format!("sha256:{}", "a".repeat(64));
        let digests = BTreeMap::from([("tinykv".to_owned(), digest.clone())]);
        let pinned = ImagesConfig { repository: None, digests: digests.clone() };
        let mirror = ImagesConfig { repository: Some("mirror:5000/ai".to_owned()), digests: BTreeMap::new() };
        let both = ImagesConfig { digests, ..mirror.clone() };
        let table = [
            (&pinned, format!("aistack/tinykv:{version}"), Some(format!("aistack/tinykv@{digest}"))),
            (&pinned, format!("host:1/x/tinykv:{version}"), Some(format!("host:1/x/tinykv@{digest}"))),
            (&pinned, "aistack/tinykv:other".to_owned(), None),
            (&pinned, format!("aistack/modelhub:{version}"), None),
            (
                &mirror,
                format!("aistack/modelhub:{version}"),
                Some(format!("mirror:5000/ai/modelhub:{version}")),
            ),
            (&mirror, "aistack/tinykv:other".to_owned(), Some("mirror:5000/ai/tinykv:other".to_owned())),
            (&mirror, format!("host:1/x/modelhub:{version}"), None),
            (&mirror, "vllm/vllm-openai:v0.11.0".to_owned(), None),
            (&both, "aistack/tinykv:other".to_owned(), Some("mirror:5000/ai/tinykv:other".to_owned())),
            (&both, format!("aistack/tinykv:{version}"), Some(format!("mirror:5000/ai/tinykv@{digest}"))),
        ];
        for (images, reference, expected) in table {
            assert_eq!(settled(images, &reference), expected, "{reference}");
        }
    }
}
