//! Whose children are applied.

use aistack_crds::Kind;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::core::DynamicObject;

use super::cluster::Cluster;

/// An object that has children.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its namespace.
    pub namespace: String,
    /// How its children point at it.
    pub reference: OwnerReference,
    /// Whether this is its first turn.
    pub is_new: bool,
}

impl Parent {
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
    use std::sync::Arc;

    use aistack_chassis::{Component, Metrics};
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::Client;
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::json;

    use super::super::apply;
    use super::super::cluster::Scope;
    use super::super::metrics::{QueueMetrics, ReconcileMetrics};
    use super::*;
    use crate::manifest::Manifests;

    /// Calls that an API server got which answers all of them with a status and an object.
    fn cluster(code: u16, metadata: &serde_json::Value) -> (Cluster, Arc<Mutex<Vec<http::Method>>>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (noted, object) = (calls.clone(), json!({"metadata": metadata, "code": code}).to_string());
        let answer = move |request: http::Request<Body>| {
            noted.lock().push(request.method().clone());
            let body = Body::from(object.clone().into_bytes());
            let answer = http::Response::builder().status(code).body(body).expect("an answer");
            async { Ok::<_, std::convert::Infallible>(answer) }
        };
        let client = Client::new(tower::service_fn(answer), "n");
        let component = Component { name: "test", env_prefix: "TEST_", version: "0" };
        let metrics = ReconcileMetrics::register(&Metrics::new(component));
        (Cluster::new(client, Scope::Cluster, QueueMetrics::default(), metrics), calls)
    }

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
            let (cluster, calls) = cluster(code, &metadata);
            let reference = OwnerReference {
                kind: "KVCluster".to_owned(),
                name: "kv".to_owned(),
                uid: "1".to_owned(),
                ..OwnerReference::default()
            };
            let parent = Parent { namespace: "n".to_owned(), reference, is_new };
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
