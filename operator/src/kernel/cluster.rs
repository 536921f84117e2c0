//! The cluster as controllers see it: a client with its scope, and the caches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use aistack_api::operator::ImagesConfig;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;

use super::absent::Absent;
use super::backoff::Backoff;
use super::child::{ChildKey, ChildKind};
use super::key::{Key, ObjectName};
use super::metrics::{QueueMetrics, ReconcileMetrics};
use super::patience::Patience;
use super::queue::Queue;
use super::references::{Reference, References};
use super::watch::{Children, Synced};
use crate::meta::MANAGER;
use crate::outside::Outside;

/// Which namespaces the operator sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Cluster,
    /// One.
    Namespace(String),
}

type SecretData = BTreeMap<String, ByteString>;

/// A Secret as it was at a version.
#[derive(Clone)]
struct ReadSecret {
    version: String,
    data: Arc<SecretData>,
}

/// What all controllers share.
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// What it sees.
    pub scope: Scope,
    /// What is to be reconciled.
    pub queue: Arc<Queue>,
    /// Children of all objects.
    pub children: Children,
    /// Who refers to what.
    pub references: References,
    /// What is not to be tried again at once.
    pub(super) patience: Patience,
    /// Kinds that there are not.
    pub(super) absent: Absent,
    /// Whether the watches have listed.
    pub synced: Synced,
    pub(crate) metrics: ReconcileMetrics,
    recorder: Recorder,
    /// Secrets whose contents the operator itself needs.
    secrets: Mutex<HashMap<ObjectName, ReadSecret>>,
    addresses: BTreeMap<String, String>,
    /// The way to what is not the API server.
    pub(crate) outside: Outside,
    pub(super) images: ImagesConfig,
    /// PriorityClass of stores whose manifests name none.
    pub(super) store_priority: Option<String>,
    pub(super) pods_otlp_endpoint: Option<String>,
}

impl Cluster {
    /// A cluster of which nothing is known yet.
    pub fn new(client: Client, scope: Scope, queue: QueueMetrics, metrics: ReconcileMetrics) -> Self {
        let reporter = Reporter { controller: MANAGER.into(), instance: std::env::var("POD_NAME").ok() };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            scope,
            queue: Arc::new(Queue::new(Backoff::default(), queue)),
            children: Children::default(),
            references: References::default(),
            patience: Patience::default(),
            absent: Absent::default(),
            synced: Synced::default(),
            metrics,
            secrets: Mutex::default(),
            addresses: BTreeMap::new(),
            outside: Outside::new(false),
            images: ImagesConfig::default(),
            store_priority: None,
            pods_otlp_endpoint: None,
        }
    }

    /// With a collector for the traces and figures of servers.
    #[must_use]
    pub fn with_pods_otlp_endpoint(self, pods_otlp_endpoint: Option<String>) -> Self {
        Self { pods_otlp_endpoint, ..self }
    }

    /// With images for pods whose manifests name no tag.
    #[must_use]
    pub fn with_images(self, images: ImagesConfig) -> Self {
        Self { images, ..self }
    }

    /// With a PriorityClass for stores whose manifests name none.
    #[must_use]
    pub fn with_store_priority(self, store_priority: Option<String>) -> Self {
        Self { store_priority, ..self }
    }

    /// With addresses to use in place of Services', by `service.namespace`.
    #[must_use]
    pub fn with_addresses(self, addresses: BTreeMap<String, String>) -> Self {
        Self { addresses, ..self }
    }

    /// With endpoints on the operator's own machine, if `local`.
    #[must_use]
    pub fn with_local_endpoints(self, local: bool) -> Self {
        Self { outside: Outside::new(local), ..self }
    }

    /// Base URL of a Service, without a slash at its end.
    pub fn service_url(&self, service: &ObjectName, port: u16) -> String {
        let ObjectName { namespace, name } = service;
        match self.addresses.get(&format!("{name}.{namespace}")) {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{name}.{namespace}.svc:{port}"),
        }
    }

    /// All objects of a kind that are seen.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.scope {
            Scope::Cluster => Api::all(self.client.clone()),
            Scope::Namespace(namespace) => Api::namespaced(self.client.clone(), namespace),
        }
    }

    /// The same for a kind that is known at run time.
    pub(super) fn api_with<K>(&self, resource: &ApiResource) -> Api<K>
    where
        K: Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>,
    {
        match &self.scope {
            Scope::Cluster => Api::all_with(self.client.clone(), resource),
            Scope::Namespace(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
        }
    }

    /// Whether there is a Secret of this name.
    pub fn has_secret(&self, secret: &ObjectName) -> bool {
        let key = ChildKey { kind: ChildKind::Secret, object: secret.clone() };
        self.children.meta(&key).is_some_and(|meta| !meta.is_leaving)
    }

    /// Text of a Secret's key; `None` where there is no such key. Read once for each version of the Secret.
    pub async fn secret_text(&self, secret: &ObjectName, key: &str) -> Result<Option<String>, kube::Error> {
        let child = ChildKey { kind: ChildKind::Secret, object: secret.clone() };
        let version = self.children.meta(&child).map(|meta| meta.resource_version);
        let known = self.secrets.lock().get(secret).cloned();
        let data = match known.filter(|known| Some(&known.version) == version.as_ref()) {
            Some(known) => known.data,
            None => self.read_secret(secret).await?,
        };
        let text = data.get(key).and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
        Ok(text.map(|text| text.trim().to_owned()))
    }

    async fn read_secret(&self, secret: &ObjectName) -> Result<Arc<SecretData>, kube::Error> {
        let Some(found) = self.get_secret(secret).await? else {
            self.secrets.lock().remove(secret);
            return Ok(Arc::default());
        };
        let version = found.metadata.resource_version.unwrap_or_default();
        let data = Arc::new(found.data.unwrap_or_default());
        self.keep_secret(secret, ReadSecret { version, data: data.clone() });
        Ok(data)
    }

    /// Keeps what was read, if the watch knows that version: of one that was deleted meanwhile it would tell nothing any more.
    fn keep_secret(&self, secret: &ObjectName, read: ReadSecret) {
        let child = ChildKey { kind: ChildKind::Secret, object: secret.clone() };
        let mut secrets = self.secrets.lock();
        if self.children.meta(&child).is_some_and(|meta| meta.resource_version == read.version) {
            secrets.insert(secret.clone(), read);
        }
    }

    /// Keys of a Secret; none where there is no such Secret. Nothing of it is kept.
    pub(super) async fn secret_keys(&self, secret: &ObjectName) -> Result<BTreeSet<String>, kube::Error> {
        let found = self.get_secret(secret).await?;
        Ok(found.and_then(|found| found.data).unwrap_or_default().into_keys().collect())
    }

    async fn get_secret(&self, secret: &ObjectName) -> Result<Option<Secret>, kube::Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &secret.namespace);
        api.get_opt(&secret.name).await
    }

    /// Contents of a Secret are kept in memory no longer than it is there and somebody refers to it.
    pub(super) fn forget_secret(&self, secret: &ObjectName) {
        self.secrets.lock().remove(secret);
    }

    /// From now on `key` refers to these, and to nothing else.
    pub(super) fn refers(&self, key: &Key, references: Vec<Reference>) {
        self.forget_secrets(self.references.set(key, references));
    }

    /// From now on `key` refers to these as well.
    pub(super) fn refers_also(&self, key: &Key, references: &[Reference]) {
        self.references.add(key, references);
    }

    /// `key` is no more.
    pub(super) fn refers_no_more(&self, key: &Key) {
        self.forget_secrets(self.references.forget(key));
    }

    fn forget_secrets(&self, lonely: Vec<Reference>) {
        for reference in lonely {
            if let Reference::Secret(secret) = reference {
                self.forget_secret(&secret);
            }
        }
    }

    /// Tells of something that happened to an object. That it could not be told is no failure of what happened.
    pub async fn tell(&self, about: &ObjectReference, is_bad: bool, reason: &str, note: String) {
        // The recorder counts Events as one when all but their notes are the same: what happened to another pod would not be told.
        let mut words = DefaultHasher::new();
        note.hash(&mut words);
        let words = words.finish();
        let event = Event {
            type_: if is_bad { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note),
            action: format!("Reconcile-{words:016x}"),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::warn!(%error, reason, "an Event could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use aistack_crds::Kind;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::super::stub;
    use super::super::watch::{self, ChildMeta};
    use super::*;

    #[tokio::test]
    async fn contents_of_a_secret_are_kept_while_it_is_there_and_referred_to() {
        let there = json!({"metadata": {"name": "s", "namespace": "n", "resourceVersion": "1"}, "data": {"k": "dGV4dA=="}});
        let (cluster, _) = stub::cluster(200, &there);
        let secret = ObjectName::new("n", "s");
        let child = ChildKey { kind: ChildKind::Secret, object: secret.clone() };
        let (a, b) = (
            Key::new(Kind::KVCluster, ObjectName::new("n", "a")),
            Key::new(Kind::KVCluster, ObjectName::new("n", "b")),
        );
        let there = ObjectMeta { resource_version: Some("1".to_owned()), ..ObjectMeta::default() };
        let read = async || {
            let text = cluster.secret_text(&secret, "k").await.expect("it is read");
            assert_eq!(text.as_deref(), Some("text"));
        };
        let kept = || cluster.secrets.lock().len();
        read().await;
        assert_eq!(kept(), 0, "no watch would tell that it is gone");
        cluster.children.insert(child.clone(), ChildMeta::of(&there));
        cluster.refers(&a, vec![Reference::Secret(secret.clone())]);
        cluster.refers(&b, vec![Reference::Secret(secret.clone())]);
        read().await;
        cluster.refers(&a, Vec::new());
        assert_eq!(kept(), 1, "b needs it");
        cluster.refers_no_more(&b);
        assert_eq!(kept(), 0, "nobody does");
        read().await;
        assert_eq!(kept(), 1);
        watch::forget(&cluster, &child);
        assert_eq!(kept(), 0, "it was deleted");
    }
}
