//! Names and labels that every object carries.

use std::collections::BTreeMap;

use aistack_crds::parts::{ImageSpec, PullPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

/// Field manager of server-side apply, and the value of `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "aistack-operator";

/// Repository of images when a manifest names none.
/// Where images are whose manifests name no repository.
pub(crate) const DEFAULT_REPOSITORY: &str = "aistack";

/// Whom a set of objects belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Component, such as `tinykv`.
    pub component: String,
    /// Object of ours that asked for it, such as the KVCluster's name.
    pub instance: String,
    /// Stack that the object is part of, or its own name when it stands alone.
    pub part_of: String,
    /// Namespace as the manifest names it; empty leaves it to whoever applies.
    pub namespace: String,
}

impl Owner {
    /// Labels that select its pods and never change.
    pub fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), self.component.clone()),
            ("app.kubernetes.io/instance".to_owned(), self.instance.clone()),
        ])
    }

    /// Selector in the API's form.
    pub fn label_selector(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(self.selector()), match_expressions: None }
    }

    /// Labels of its pods. What they are part of is none: that can change, and every edit of a pod's labels makes pods anew.
    pub fn pod_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned());
        labels
    }

    /// Labels of its objects.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.pod_labels();
        labels.insert("app.kubernetes.io/part-of".to_owned(), self.part_of.clone());
        labels
    }

    /// Metadata of one of its objects.
    pub fn metadata(&self, name: impl Into<String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: (!self.namespace.is_empty()).then(|| self.namespace.clone()),
            labels: Some(self.labels()),
            ..ObjectMeta::default()
        }
    }
}

/// Where a container's image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Name with registry and tag.
    pub reference: String,
    /// `imagePullPolicy`.
    pub pull_policy: &'static str,
    /// Names of `imagePullSecrets`.
    pub pull_secrets: Vec<String>,
}

impl Image {
    /// The image of a component of ours; every component has the version of this operator unless a tag says otherwise.
    pub fn of(component: &str, spec: &ImageSpec) -> Self {
        let repository = spec.repository.as_deref().unwrap_or(DEFAULT_REPOSITORY);
        let tag = spec.tag.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
        Self::named(format!("{repository}/{component}:{tag}"), spec)
    }

    /// Somebody else's image.
    pub fn named(reference: String, spec: &ImageSpec) -> Self {
        let pull_policy = match spec.pull_policy {
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Always => "Always",
            PullPolicy::Never => "Never",
        };
        Self { reference, pull_policy, pull_secrets: spec.pull_secrets.clone() }
    }
}
