//! How long an edit takes from a person's hand to the child that it is about.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aistack_crds::InferenceService;
use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long one edit may take before it is called lost.
const PATIENCE: Duration = Duration::from_mins(3);

type Awaited = Arc<Mutex<HashMap<(String, String), (i32, oneshot::Sender<Instant>)>>>;

/// How long one took, from just before it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Until the API server had taken the edit itself.
    pub answered: Duration,
    /// Until a watch told of the Deployment that it changes.
    pub seen: Duration,
}

/// Scales InferenceServices, and watches their Deployments.
pub struct Edits {
    client: Client,
    awaited: Awaited,
    task: JoinHandle<()>,
}

impl Edits {
    /// Begins to watch.
    pub fn begin(client: &Client) -> Self {
        let awaited = Awaited::default();
        Self {
            client: client.clone(),
            awaited: awaited.clone(),
            task: tokio::spawn(follow(client.clone(), awaited)),
        }
    }

    /// Scales one, and waits for its Deployment.
    pub async fn scale(&self, namespace: &str, service: &str, replicas: i32) -> Result<Edit> {
        let (sender, receiver) = oneshot::channel();
        let deployment = format!("tinyinfer-{service}");
        self.awaited.lock().insert((namespace.to_owned(), deployment), (replicas, sender));
        let api: Api<InferenceService> = Api::namespaced(self.client.clone(), namespace);
        let began = Instant::now();
        let edit = json!({"spec": {"replicas": replicas}});
        api.patch(service, &PatchParams::default(), &Patch::Merge(&edit)).await.context("edit")?;
        let answered = began.elapsed();
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(seen)) => Ok(Edit { answered, seen: seen.saturating_duration_since(began) }),
            _ => bail!("the Deployment of {namespace}/{service} was not scaled to {replicas}"),
        }
    }
}

impl Drop for Edits {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(client: Client, awaited: Awaited) {
    let mut events = watcher(Api::<Deployment>::all(client), watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(deployment) | Event::InitApply(deployment)) = event else { continue };
        let key = (deployment.namespace().unwrap_or_default(), deployment.name_any());
        let replicas = deployment.spec.replicas;
        let mut awaited = awaited.lock();
        if awaited.get(&key).is_some_and(|(wanted, _)| Some(*wanted) == replicas)
            && let Some((_, sender)) = awaited.remove(&key)
        {
            let _ = sender.send(Instant::now());
        }
    }
}

/// The value that so many of a hundred do not exceed.
pub fn percentile(times: &mut [Duration], hundredths: usize) -> Duration {
    times.sort_unstable();
    let place = (times.len() * hundredths).div_ceil(100).clamp(1, times.len().max(1)) - 1;
    times.get(place).copied().unwrap_or_default()
}
