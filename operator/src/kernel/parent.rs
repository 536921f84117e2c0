//! Whose children are applied.

use aistack_crds::Kind;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::core::DynamicObject;
use serde_json::json;

use super::cluster::Cluster;
use crate::digest::digest;

/// An object that has children.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its namespace.
    pub namespace: String,
    /// How its children point at it.
    pub reference: OwnerReference,
    /// Whether this is its first turn.
    pub is_new: bool,
    /// Secrets that its children bring.
    pub brings: Vec<String>,
    /// What it was made last by whoever edits it.
    pub edition: String,
}

impl Parent {
    /// The edition of an object: another after each edit of its spec, labels or annotations.
    pub(super) fn edition(meta: &ObjectMeta) -> String {
        let edited = json!([meta.generation, meta.labels, meta.annotations]);
        digest(&edited.to_string(), 6)
    }

    /// The same, as Events name it.
    pub(super) fn about(&self) -> ObjectReference {
        let OwnerReference { api_version, kind, name, uid, .. } = self.reference.clone();
        ObjectReference {
            api_version: Some(api_version),
            kind: Some(kind),
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            uid: Some(uid),
            ..ObjectReference::default()
        }
    }

    /// Whether it may have children. One that had them and lacks them was perhaps deleted while its turn waited for something: the
    /// garbage collector takes the children first that a watch tells of. What is made for an object that is gone goes, too, but
    /// a StatefulSet that lives for a moment leaves a volume behind that belongs to nobody.
    pub(super) async fn is_there(&self, cluster: &Cluster) -> Result<bool, kube::Error> {
        if self.is_new {
            return Ok(true);
        }
        let kind = Kind::from_name(&self.reference.kind).expect("parents are of our kinds");
        let api: Api<DynamicObject> =
            Api::namespaced_with(cluster.client.clone(), &self.namespace, &kind.resource());
        let found = api.get_metadata_opt(&self.reference.name).await?;
        Ok(found.is_some_and(|found| {
            found.metadata.uid.as_ref() == Some(&self.reference.uid)
                && found.metadata.deletion_timestamp.is_none()
        }))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::super::{apply, stub};
    use super::*;
    use crate::manifest::Manifests;

    #[tokio::test]
    async fn nothing_is_made_for_one_that_went() {
        let (here, gone, another, leaving) = (
            (200, json!({"name": "kv", "uid": "1"})),
            (404, json!({})),
            (200, json!({"name": "kv", "uid": "2"})),
            (200, json!({"name": "kv", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"})),
        );
        for ((code, metadata), is_new, made) in
            [(here.clone(), false, true), (here, true, true), (gone, false, false)]
                .into_iter()
                .chain([(another, false, false), (leaving, false, false)])
        {
            let (cluster, calls) = stub::cluster(code, &json!({"metadata": metadata, "code": code}));
            let reference = OwnerReference {
                kind: "KVCluster".to_owned(),
                name: "kv".to_owned(),
                uid: "1".to_owned(),
                ..OwnerReference::default()
            };
            let parent = Parent {
                namespace: "n".to_owned(),
                reference,
                is_new,
                brings: Vec::new(),
                edition: String::new(),
            };
            let name = ObjectMeta { name: Some("kv-config".to_owned()), ..ObjectMeta::default() };
            let mut wanted = Manifests::default();
            wanted.push(ConfigMap { metadata: name, ..ConfigMap::default() });
            let tried = apply::apply(&cluster, &parent, &wanted, Vec::new()).await;
            assert_eq!(tried.refused.is_empty(), made, "{metadata}: {:?}", tried.refused);
            let calls = calls.lock();
            assert_eq!(calls.contains(&http::Method::POST), made, "{metadata}: {calls:?}");
        }
    }
}
