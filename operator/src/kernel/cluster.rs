//! The cluster as controllers see it: a client with its scope, and the caches.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};

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
    addresses: BTreeMap<String, String>,
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
            addresses: BTreeMap::new(),
        }
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
