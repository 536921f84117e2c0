//! Why pods that are not ready are not: what the scheduler, the fetch and the engine say.

use k8s_openapi::api::core::v1::Pod;

use super::fetch::FETCH;
use crate::kernel::apply::said;
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::Because;
use crate::kernel::controller::StepError;
use crate::kernel::pending::{self, ended, without_preemption};
use crate::meta::Owner;
use crate::report;

/// What keeps pods from being ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// No node takes them.
    pub unschedulable: Option<String>,
    /// Their weights do not come.
    pub fetch: Option<String>,
    /// The engine ends again and again.
    pub engine: Option<Because>,
}

impl Trouble {
    /// All that is said of several.
    pub fn or(self, other: Self) -> Self {
        Self {
            unschedulable: self.unschedulable.or(other.unschedulable),
            fetch: self.fetch.or(other.fetch),
            engine: self.engine.or(other.engine),
        }
    }
}

/// Asks the pods of an owner.
pub async fn ask(cluster: &Cluster, owner: &Owner) -> Result<Trouble, StepError> {
    let found = pending::pods(cluster, &owner.namespace, &report::selector(owner)).await;
    let pods = found.map_err(|error| StepError {
        reason: "ReadFailed",
        message: format!("the pods could not be listed: {}", said(&error)),
    })?;
    Ok(pods.iter().map(of).fold(Trouble::default(), Trouble::or))
}

/// What one pod says.
pub fn of(pod: &Pod) -> Trouble {
    let Some(status) = &pod.status else { return Trouble::default() };
    let refused = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    let fetch = status.init_container_statuses.iter().flatten().find(|container| container.name == FETCH);
    // One that is ready tells how it ended before, maybe days ago.
    let mut containers = status.container_statuses.iter().flatten().filter(|container| !container.ready);
    let engine = containers.find_map(ended);
    Trouble {
        unschedulable: refused
            .map(|condition| without_preemption(condition.message.as_deref().unwrap_or_default()).to_owned()),
        fetch: fetch.and_then(ended).map(|because| because.message),
        engine,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn trouble(status: &Value) -> Trouble {
        of(&serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).expect("a pod"))
    }

    #[test]
    fn a_fetch_that_ended_well_tells_nothing_of_the_times_before() {
        let fetched =
            trouble(&json!({"initContainerStatuses": [{"name": "fetch", "image": "i", "imageID": "",
            "ready": true, "restartCount": 1, "state": {"terminated": {"exitCode": 0}},
            "lastState": {"terminated": {"exitCode": 1, "message": "the registry was away"}}}]}));
        assert_eq!(fetched, Trouble::default());
    }

    #[test]
    fn pods_say_what_keeps_them() {
        let none = trouble(&json!({"conditions": [{"type": "PodScheduled", "status": "True"}]}));
        assert_eq!(none, Trouble::default());
        let gpu = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu";
        let stuck = trouble(&json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": format!("{gpu}. preemption: 0/3 nodes are available.")}]}));
        assert_eq!(stuck.unschedulable.as_deref(), Some(gpu));
        let said = "model.gguf fetched\nerror: model.gguf has sha256 aa, not bb: it is not what was asked for, and is not kept\n";
        let fetch = trouble(&json!({"initContainerStatuses": [{"name": "fetch", "image": "i", "imageID": "",
            "ready": false, "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "message": said}}}]}));
        assert!(fetch.fetch.is_some_and(|why| why.starts_with("error: model.gguf has sha256 aa")));
        let image = trouble(
            &json!({"containerStatuses": [{"name": "tinyinfer", "image": "x/tinyinfer:1", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
        );
        assert_eq!(image.engine.map(|because| because.reason), Some("ImageMissing"));
        for (ready, reason) in [(true, None), (false, Some("EngineFailed"))] {
            let ended = trouble(
                &json!({"containerStatuses": [{"name": "tinyinfer", "image": "x/tinyinfer:1", "imageID": "",
                "ready": ready, "restartCount": 1, "state": {"running": {}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
            );
            assert_eq!(ended.engine.map(|because| because.reason), reason, "ready: {ready}");
        }
    }
}
