//! The cluster as controllers see it: a client with its scope, and the caches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aistack_api::operator::ImagesConfig;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;

use super::backoff::Backoff;
use super::child::{ChildKey, ChildKind};
use super::key::ObjectName;
use super::metrics::{QueueMetrics, ReconcileMetrics};
use super::queue::Queue;
use super::references::References;
use super::watch::{Children, Synced};
use crate::meta::MANAGER;

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
    pub queue: Queue,
    /// Children of all objects.
    pub children: Children,
    /// Who refers to what.
    pub references: References,
    /// Whether the watches have listed.
    pub synced: Synced,
    pub(super) metrics: ReconcileMetrics,
    recorder: Recorder,
    /// Secrets whose contents the operator itself needs.
    secrets: Mutex<HashMap<ObjectName, ReadSecret>>,
    addresses: BTreeMap<String, String>,
    pub(super) images: ImagesConfig,
}

impl Cluster {
    /// A cluster of which nothing is known yet.
    pub fn new(client: Client, scope: Scope, queue: QueueMetrics, metrics: ReconcileMetrics) -> Self {
        let reporter = Reporter { controller: MANAGER.into(), instance: std::env::var("POD_NAME").ok() };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            scope,
            queue: Queue::new(Backoff::default(), queue),
            children: Children::default(),
            references: References::default(),
            synced: Synced::default(),
            metrics,
            secrets: Mutex::default(),
            addresses: BTreeMap::new(),
            images: ImagesConfig::default(),
        }
    }

    /// With images for pods whose manifests name no tag.
    #[must_use]
    pub fn with_images(self, images: ImagesConfig) -> Self {
        Self { images, ..self }
    }

    /// With addresses to use in place of Services', by `service.namespace`.
    #[must_use]
    pub fn with_addresses(self, addresses: BTreeMap<String, String>) -> Self {
        Self { addresses, ..self }
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
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &secret.namespace);
        let Some(found) = api.get_opt(&secret.name).await? else {
            self.secrets.lock().remove(secret);
            return Ok(Arc::default());
        };
        let version = found.metadata.resource_version.unwrap_or_default();
        let data = Arc::new(found.data.unwrap_or_default());
        self.secrets.lock().insert(secret.clone(), ReadSecret { version, data: data.clone() });
        Ok(data)
    }

    /// Tells of something that happened to an object. That it could not be told is no failure of what happened.
    pub async fn tell(&self, about: &ObjectReference, is_bad: bool, reason: &str, note: String) {
        let event = Event {
            type_: if is_bad { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::warn!(%error, reason, "an Event could not be written");
        }
    }
}
