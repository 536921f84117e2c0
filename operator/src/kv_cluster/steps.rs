//! Steps of the planner that no applied object says.

use aistack_crds::KVCluster;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod as KubePod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions as Only};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use serde_json::json;

use super::control::Found;
use super::members::Members;
use super::planner::{Role, Step};
use super::seen::CONDEMNED;
use super::{ValidatedKvCluster, wish};
use crate::kernel::apply::said;
use crate::kernel::cluster::Cluster;
use crate::kernel::controller::StepError;

/// Whose step it is.
pub(super) struct Doer<'a> {
    pub cluster: &'a Cluster,
    pub object: &'a KVCluster,
    pub kv: &'a ValidatedKvCluster,
    pub found: &'a Found,
}

impl Doer<'_> {
    /// Carries out what concerns members, pods and volumes; what is told to the StatefulSet was applied with the other objects.
    pub(super) async fn carry_out(&self) -> Result<(), StepError> {
        match &self.found.step {
            Step::Rest | Step::Wait(_) | Step::Keep(_) | Step::Isolate(_) => Ok(()),
            Step::AddLearner(_) | Step::Promote(_) | Step::MoveLeader { .. } | Step::Remove { .. } => {
                let group = &self.found.group;
                let leader = group.members.iter().find(|member| member.role == Role::Leader);
                let members = Members::of(self.cluster, self.kv, &self.found.seen).await?;
                members.change(leader.map(|leader| leader.ordinal), &self.found.step).await
            }
            Step::Replace(ordinal) => self.evict(*ordinal).await,
            Step::Condemn(ordinal) => {
                let mark = json!({"metadata": {"annotations": {CONDEMNED: "true"}}});
                self.patch_claim(*ordinal, &mark).await?;
                wish::let_go(self.cluster, self.object).await
            }
            Step::Pardon(ordinal) => {
                let unmarked = json!({"metadata": {"annotations": {CONDEMNED: null}}});
                self.patch_claim(*ordinal, &unmarked).await
            }
            Step::Discard(ordinal) => {
                self.delete_claim(*ordinal).await?;
                self.delete_pod(*ordinal).await
            }
            Step::Restart(ordinal) => self.delete_pod(*ordinal).await,
            Step::Fulfilled | Step::Decline(_) => wish::let_go(self.cluster, self.object).await,
        }
    }

    fn pods(&self) -> Api<KubePod> {
        Api::namespaced(self.cluster.client.clone(), &self.kv.owner.namespace)
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.cluster.client.clone(), &self.kv.owner.namespace)
    }

    /// By eviction, so that the disruption budget has its say: a node that is drained may have taken one already.
    async fn evict(&self, ordinal: u16) -> Result<(), StepError> {
        let name = self.kv.member(ordinal);
        let Some(pod) = self.found.seen.pods.get(&ordinal) else { return Ok(()) };
        let (api, eviction) = (self.pods(), eviction(&name, &pod.uid));
        let evicted: Result<Status, _> =
            api.create_subresource("eviction", &name, &PostParams::default(), &eviction).await;
        gone_is_fine(evicted.map(drop))
            .map_err(|error| failed("EvictionRefused", &format!("pod {name} may not go yet"), &error))
    }

    async fn delete_pod(&self, ordinal: u16) -> Result<(), StepError> {
        let name = self.kv.member(ordinal);
        let Some(pod) = self.found.seen.pods.get(&ordinal) else { return Ok(()) };
        let only_this = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        let api = self.pods();
        gone_is_fine(api.delete(&name, &params).await.map(drop))
            .map_err(|error| failed("DeleteFailed", &format!("pod {name} could not be deleted"), &error))
    }

    async fn delete_claim(&self, ordinal: u16) -> Result<(), StepError> {
        let name = self.kv.claim_name(ordinal);
        let Some(uid) = self.found.seen.claim_uids.get(&ordinal) else { return Ok(()) };
        // A claim of that name that came meanwhile may be a person's.
        let only_this = Preconditions { uid: Some(uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        let api = self.claims();
        gone_is_fine(api.delete(&name, &params).await.map(drop))
            .map_err(|error| failed("DeleteFailed", &format!("claim {name} could not be deleted"), &error))
    }

    async fn patch_claim(&self, ordinal: u16, patch: &serde_json::Value) -> Result<(), StepError> {
        let name = self.kv.claim_name(ordinal);
        let mut patch = patch.clone();
        patch["metadata"]["uid"] = json!(self.found.seen.claim_uids.get(&ordinal));
        let patch = &patch;
        let api = self.claims();
        let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).map_err(|error| failed("ClaimRefused", &format!("claim {name}"), &error))
    }
}

/// That of one pod: one of its name that came meanwhile is not the one that was looked at. (`Api::evict` of kube 5.0 sends options under a
/// name that the API server does not know.)
fn eviction(pod: &str, uid: &str) -> Eviction {
    let only = Only { uid: Some(uid.to_owned()), resource_version: None };
    Eviction {
        metadata: ObjectMeta { name: Some(pod.to_owned()), ..ObjectMeta::default() },
        delete_options: Some(DeleteOptions { preconditions: Some(only), ..DeleteOptions::default() }),
    }
}

/// What is to go and is gone, or is another by now, is as it should be.
fn gone_is_fine(done: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match done {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        done => done,
    }
}

fn failed(reason: &'static str, what: &str, error: &kube::Error) -> StepError {
    StepError { reason, message: format!("{what}: {}", said(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eviction_is_of_one_pod_and_of_none_that_came_after_it() {
        let sent = serde_json::to_value(eviction("kv-2", "u")).expect("plain data");
        assert_eq!(sent["deleteOptions"]["preconditions"], json!({"uid": "u"}), "{sent}");
        assert_eq!((&sent["kind"], &sent["metadata"]), (&json!("Eviction"), &json!({"name": "kv-2"})));
    }
}
