//! A stack becomes its children and its own servers.

use super::meanwhile::Meanwhile;
use super::modelhub;
use super::validate::{Hub, Kv, ValidatedStack, Vector};
use crate::manifest::Manifests;
use crate::{inference_service, kv_cluster, vector_collection};

/// What a stack becomes, before and after its children are built.
#[derive(Clone, Debug, PartialEq)]
pub struct StackManifests {
    /// Child objects, for a controller that builds them in their own reconciliation.
    pub children: Manifests,
    /// Servers that have no kind of their own: VectorForge and ModelHub.
    pub own: Manifests,
    /// Everything down to StatefulSets and Deployments, in the order in which it starts.
    pub flat: Manifests,
}

/// What an AIStack becomes.
pub fn build(stack: &ValidatedStack) -> StackManifests {
    beside(stack, &Meanwhile::default())
}

/// What it becomes while some of its children are still something else.
pub(super) fn beside(stack: &ValidatedStack, meanwhile: &Meanwhile) -> StackManifests {
    let mut children = Manifests::default();
    let mut own = Manifests::default();
    let mut flat = Manifests::default();
    if let Kv::Own(kv) = &stack.kv {
        children.push(kv.0.clone());
        flat.append(kv_cluster::build(&kv.1));
    }
    if let Vector::Own(vector) = &stack.vector {
        let server = vector_collection::server(&vector.0, &vector.1);
        own.append(server.clone());
        flat.append(server);
    }
    for service in &stack.services {
        children.push(service.object.clone());
        flat.append(inference_service::build(&service.validated));
    }
    if let Hub::Present(hub) = &stack.hub {
        let hub = modelhub::build(hub, stack, meanwhile);
        own.append(hub.clone());
        flat.append(hub);
    }
    StackManifests { children, own, flat }
}
