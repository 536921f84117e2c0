//! A namespace with an operator that sees it alone: what most tests begin with.

use aistack_crds::Kind;
use anyhow::{Context as _, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::Deserialize as _;
use serde_json::Value;

use crate::operator::Running;
use crate::plane::Plane;
use crate::wait;

/// A namespace and its operator.
pub struct Story {
    /// The control plane.
    pub plane: &'static Plane,
    /// A client of its administrator.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
    /// The operator.
    pub operator: Running,
}

impl Story {
    /// Begins one on the plane that all tests of a binary share; `None` where that cannot be built.
    pub async fn begin(name: &str) -> Result<Option<Self>> {
        let Some(plane) = Plane::shared().await else { return Ok(None) };
        Self::on(plane, name).await.map(Some)
    }

    /// Begins one on a plane.
    pub async fn on(plane: &'static Plane, name: &str) -> Result<Self> {
        let namespace = plane.namespace(name).await?;
        let operator = Running::start(plane, &namespace).await?;
        Ok(Self { plane, client: plane.client(), namespace, operator })
    }

    /// Its objects of a kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies manifests as kubectl does, server-side.
    pub async fn apply(&self, text: &str) -> Result<()> {
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let object = Value::deserialize(document)?;
            let kind = object["kind"].as_str().and_then(Kind::from_name).context("a kind of ours")?;
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource());
            let name = object["metadata"]["name"].as_str().context("a name")?;
            api.patch(name, &PatchParams::apply("kubectl"), &Patch::Apply(&object))
                .await
                .context(name.to_owned())?;
        }
        Ok(())
    }

    /// Merges a patch into an object.
    pub async fn edit<K>(&self, name: &str, patch: &Value) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let patched = self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).with_context(|| format!("edit {name}"))
    }

    /// Waits until an object is as `holds` says.
    pub async fn until<K>(&self, name: &str, what: &str, holds: impl Fn(&K) -> bool) -> Result<K>
    where
        K: wait::Told + Resource<Scope = NamespaceResourceScope>,
    {
        wait::object(&self.api::<K>(), &self.client, name, what, holds).await
    }

    /// Waits until an object is there no more.
    pub async fn until_gone<K>(&self, name: &str) -> Result<()>
    where
        K: wait::Told + Resource<Scope = NamespaceResourceScope>,
    {
        wait::gone(&self.api::<K>(), &self.client, name).await
    }
}

/// Whether a condition is there for that reason.
pub fn says(conditions: &[Condition], kind: &str, reason: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.reason == reason)
}

/// What a condition says while it is true; empty, while it is not.
pub fn message<'a>(conditions: &'a [Condition], kind: &str) -> &'a str {
    conditions.iter().find(|it| it.type_ == kind && it.status == "True").map_or("", |it| it.message.as_str())
}
