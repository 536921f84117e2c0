//! Pods that find no node: what the scheduler says of them.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};

use super::apply::{Applied, AppliedChild, ApplyError};
use super::child::Progress;
use super::cluster::Cluster;
use super::parent::Parent;
use crate::manifest::{Manifest, Manifests};

/// Asks why pods are not there yet, of each child that waits for some.
pub(super) async fn explain(
    cluster: &Cluster,
    parent: &Parent,
    wanted: &Manifests,
    applied: &mut Applied,
) -> Result<(), ApplyError> {
    for manifest in wanted {
        let is_it = |child: &&mut AppliedChild| {
            child.key.kind.name() == manifest.kind() && child.key.object.name == manifest.name()
        };
        // One that was refused is not there.
        let Some(child) = applied.0.iter_mut().find(is_it) else { continue };
        let Progress::Pods(pods) = &mut child.progress else { continue };
        if !pods.is_current || pods.ready >= pods.wanted {
            continue;
        }
        let Some(selector) = selector(manifest) else { continue };
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &parent.namespace);
        // From the API server's memory: what is not there yet is seen when it is asked again.
        let params = ListParams::default().labels(&selector).fields("status.phase=Pending").match_any();
        let list = api
            .list(&params)
            .await
            .map_err(|source| ApplyError::Read { child: child.key.clone(), source: Box::new(source) })?;
        pods.unschedulable = list.items.iter().find_map(unschedulable);
    }
    Ok(())
}

fn selector(manifest: &Manifest) -> Option<String> {
    let selector = match manifest {
        Manifest::StatefulSet(set) => &set.spec.selector,
        Manifest::Deployment(deployment) => &deployment.spec.selector,
        _ => return None,
    };
    let labels = selector.match_labels.as_ref()?.iter().map(|(key, value)| format!("{key}={value}"));
    Some(labels.collect::<Vec<_>>().join(","))
}

/// What the scheduler says of a pod; what it says of preemption is about others.
pub(crate) fn without_preemption(said: &str) -> &str {
    said.split(". preemption").next().unwrap_or(said).trim_end_matches('.')
}

/// Why no node takes a pod, when the scheduler said so.
pub(crate) fn unschedulable(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    if scheduled.status != "False" {
        return None;
    }
    let said = without_preemption(scheduled.message.as_deref().unwrap_or("the scheduler does not say why"));
    let name = pod.metadata.name.as_deref().unwrap_or("a pod");
    Some(format!("{name} fits on no node: {said}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_scheduler_says_is_told() {
        let pod = |status: &str, message: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"conditions": [
                {"type": "PodScheduled", "status": status, "reason": "Unschedulable", "message": message}]}}))
            .expect("a pod")
        };
        let message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: none.";
        let told = unschedulable(&pod("False", message));
        assert_eq!(
            told.as_deref(),
            Some("p fits on no node: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
        );
        assert_eq!(unschedulable(&pod("True", "")), None);
    }
}
