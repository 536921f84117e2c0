//! What a controller says of itself; the kernel does the rest.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use aistack_crds::Kind;
use kube::Resource;
use kube::core::NamespaceResourceScope;
use kube::core::object::HasStatus;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::apply::Applied;
use super::child::ChildKey;
use super::cluster::Cluster;
use super::conditions::{Report, Status};
use super::references::Reference;
use super::repeats::Repeats;
use crate::manifest::Manifests;
use crate::problem::Problem;

/// A step that failed: its name is the reason of the condition and the label of the metric.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// In CamelCase, from a fixed set.
    pub reason: &'static str,
    /// What a person reads. Nothing in it changes from try to try.
    pub message: String,
}

/// An object of a kind that is reconciled.
pub trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + HasStatus<Status: Status>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + HasStatus<Status: Status>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// One kind: `dereference → validate → build → apply → report`, and `act` for what no object can say.
pub trait Controller: Send + Sync + 'static {
    /// The kind's type.
    type Object: Object;
    /// What `dereference` found besides the object.
    type Found: Send + Sync;
    /// The object without a question left open.
    type Validated: Send + Sync;

    /// The kind.
    const KIND: Kind;

    /// Whether it looks at its pods itself, and so knows why they do not run.
    const LOOKS_AT_PODS: bool = false;

    /// What the object refers to. Pure; its changes begin reconciliations.
    fn references(&self, object: &Self::Object) -> Vec<Reference>;

    /// Looks at what the object refers to, and at what runs. Writes nothing.
    fn dereference(
        &self,
        cluster: &Cluster,
        object: &Self::Object,
    ) -> impl Future<Output = Result<Self::Found, StepError>> + Send;

    /// Checks what the API server cannot. Pure.
    fn validate(&self, object: &Self::Object, found: &Self::Found) -> Result<Self::Validated, Vec<Problem>>;

    /// What it becomes; `None` when nothing may be touched, not even what is there. Pure, and cannot fail.
    fn build(&self, validated: &Self::Validated, found: &Self::Found) -> Option<Manifests>;

    /// Children that are kept for now although they are not built any more: as they are, until another turn. Pure.
    fn kept(&self, _: &Self::Validated, _: &Self::Found) -> Vec<ChildKey> {
        Vec::new()
    }

    /// One step that is no object: of a group's members, of a collection on a server. Nothing, by default.
    fn act(
        &self,
        _cluster: &Cluster,
        _object: &Self::Object,
        _validated: &Self::Validated,
        _found: &Self::Found,
        _applied: &Applied,
    ) -> impl Future<Output = Result<(), StepError>> + Send {
        std::future::ready(Ok(()))
    }

    /// What to say of it all. Pure.
    fn report(&self, validated: &Self::Validated, found: &Self::Found, applied: &Applied) -> Report;

    /// Name of the finalizer, of a kind that leaves something behind outside Kubernetes.
    fn finalizer(&self, _object: &Self::Object) -> Option<&'static str> {
        None
    }

    /// Takes away what is outside Kubernetes. Called until it succeeds, unless the escape annotation is set.
    fn clean_up(
        &self,
        _cluster: &Cluster,
        _object: &Self::Object,
    ) -> impl Future<Output = Result<(), StepError>> + Send {
        std::future::ready(Ok(()))
    }
}

/// A controller with the objects of its kind.
pub(super) struct Typed<C: Controller> {
    pub controller: C,
    pub objects: Arc<super::watch::Objects<C::Object>>,
    pub repeats: Repeats,
}
