//! Many objects of all kinds at once, on hollow nodes, and what is measured of those who look after them.
//!
//! What answers for the programs in the pods is as little as will do: members of KVClusters by [`crate::Hollow::stand_in`], vector
//! servers by [`Engines`]. Everything between the objects and the pods is Kubernetes' own.

pub mod census;
pub mod edits;
mod engines;
pub mod ledger;
pub mod mix;
pub mod usage;

use std::collections::BTreeMap;

use aistack_crds::Kind;
use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::Value;

use crate::hollow::Hollow;
use crate::plane::Plane;

pub use census::Census;
pub use engines::Engines;
pub use ledger::Ledger;

/// Requests at a time of whoever applies.
const APPLIED_AT_A_TIME: usize = 16;

/// Objects, by the namespace that they are applied to.
pub struct Crowd {
    namespaces: Vec<String>,
    each: usize,
    has_gpus: bool,
}

impl Crowd {
    /// So many namespaces `PREFIX-N` of `each` objects.
    pub fn new(prefix: &str, namespaces: usize, each: usize) -> Self {
        let namespaces = (0..namespaces).map(|number| format!("{prefix}-{number}"));
        Self { namespaces: namespaces.collect(), each, has_gpus: true }
    }

    /// For nodes that have no GPUs to spare.
    #[must_use]
    pub fn without_gpus(self) -> Self {
        Self { has_gpus: false, ..self }
    }

    /// Their namespaces.
    pub fn namespaces(&self) -> &[String] {
        &self.namespaces
    }

    /// How many are applied. Stacks make more.
    pub fn len(&self) -> usize {
        self.namespaces.len() * self.each
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the operator reaches the vector servers of these.
    pub fn addresses(&self, engines: &Engines) -> BTreeMap<String, String> {
        let servers = |namespace: &String| {
            let url = engines.url(namespace);
            let named = mix::vector_servers(self.each);
            named.map(|server| (format!("{server}.{namespace}"), url.clone())).collect::<Vec<_>>()
        };
        self.namespaces.iter().flat_map(servers).collect()
    }

    /// Makes their namespaces, in which nothing real runs.
    pub async fn settle_in(&self, plane: &Plane, hollow: &Hollow) -> Result<()> {
        for namespace in &self.namespaces {
            hollow.stand_in(namespace);
            plane.namespace(namespace).await?;
        }
        Ok(())
    }

    /// Applies all of them as kubectl does, server-side.
    pub async fn apply(&self, client: &Client) -> Result<()> {
        let namespaces = self.namespaces.iter();
        let objects = namespaces.flat_map(|namespace| {
            let objects = mix::objects(self.each, self.has_gpus);
            objects.into_iter().map(move |object| (namespace, object))
        });
        stream::iter(objects)
            .map(|(namespace, object)| apply(client, namespace, object))
            .buffer_unordered(APPLIED_AT_A_TIME)
            .try_collect()
            .await
    }

    /// Names of InferenceServices whose pods are counted by `replicas`, with their namespaces.
    pub fn services(&self) -> Vec<(String, String)> {
        let of = |namespace: &String| {
            let named = mix::scaled_services(self.each);
            named.map(|name| (namespace.clone(), name)).collect::<Vec<_>>()
        };
        self.namespaces.iter().flat_map(of).collect()
    }
}

async fn apply(client: &Client, namespace: &str, object: Value) -> Result<()> {
    let kind = object["kind"].as_str().and_then(Kind::from_name).context("a kind of ours")?;
    let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    api.patch(&name, &PatchParams::apply("kubectl"), &Patch::Apply(&object))
        .await
        .map(drop)
        .with_context(|| format!("apply {kind} {namespace}/{name}"))
}
