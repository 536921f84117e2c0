//! Weights that are on the nodes before pods are. Nobody makes a DaemonSet's pods here: the test says how many nodes have them.

use aistack_crds::InferenceService;
use anyhow::{Context as _, Result};
use e2e::wait;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::bed::{Bed, weights};
use super::service;

const CACHE: &str = "  modelCache: {hostPath: /var/cache/aistack/team, preload: true}\n";

/// What a DaemonSet's controller would say while so many of its nodes have the weights.
async fn fetched(bed: &Bed, name: &str, ready: i32, nodes: i32) -> Result<()> {
    let set = bed.until(name, "its DaemonSet", |_: &DaemonSet| true).await?;
    let status = json!({"status": {"observedGeneration": set.metadata.generation, "desiredNumberScheduled": nodes,
        "currentNumberScheduled": nodes, "updatedNumberScheduled": nodes, "numberReady": ready,
        "numberAvailable": ready, "numberMisscheduled": 0}});
    bed.api::<DaemonSet>().patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

async fn said(bed: &Bed, words: &str) -> Result<()> {
    let told = |service: &InferenceService| {
        let conditions = service.status.iter().flat_map(|status| &status.conditions);
        conditions.filter(|it| it.type_ == "ModelPreloaded").any(|it| it.message.contains(words))
    };
    bed.until("talk", words, told).await.map(drop)
}

async fn is_there(bed: &Bed, version: u8) -> Result<bool> {
    Ok(bed.api::<Deployment>().get_opt(&format!("tinyinfer-talk-v{version}")).await?.is_some())
}

/// A pod of a preload whose fetch fails.
async fn fails(bed: &Bed, set: &str, why: &str) -> Result<()> {
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
    bed.api::<ServiceAccount>().create(&PostParams::default(), &account).await?;
    let template = bed.api::<DaemonSet>().get(set).await?.spec.template;
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "stuck", "labels": template.metadata.context("metadata")?.labels},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "wait", "image": "i"}]}}),
    )?;
    bed.api::<Pod>().create(&PostParams::default(), &pod).await?;
    let status = json!({"status": {"initContainerStatuses": [{"name": "fetch", "image": "i", "imageID": "", "ready": false,
        "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "message": why}}}]}});
    bed.api::<Pod>().patch_status("stuck", &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

#[tokio::test]
async fn pods_of_a_version_come_once_a_node_has_its_weights() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-preload").await? else { return Ok(()) };
    bed.apply(&service("talk", &format!("  model: {{name: m, version: '1'}}\n{CACHE}"))).await?;
    bed.until_says("talk", "Ready", "Preloading").await?;
    assert!(!is_there(&bed, 1).await?, "no pod waits for its weights");
    fetched(&bed, "tinyinfer-talk-v1-preload", 0, 2).await?;
    said(&bed, "0 of 2 nodes have version 1").await?;
    assert!(!is_there(&bed, 1).await?, "no node has the weights");
    fetched(&bed, "tinyinfer-talk-v1-preload", 1, 2).await?;
    bed.pods_are_ready("tinyinfer-talk-v1").await?;
    said(&bed, "1 of 2 nodes have version 1").await?;
    bed.until_says("talk", "Ready", "Ready").await?;
    fetched(&bed, "tinyinfer-talk-v1-preload", 2, 2).await?;
    bed.until_says("talk", "ModelPreloaded", "Preloaded").await?;
    let first = bed.until_route("m", "its route", |route| weights(route) == [("1", 100)]).await?;

    // At rest nothing is written.
    bed.operator.until_settled().await?;

    // A canary's weights come first as well; what keeps them is said, and the version before serves.
    let canary = format!("  model: {{name: m, version: '1'}}\n  canary: {{version: '2'}}\n{CACHE}");
    bed.apply(&service("talk", &canary)).await?;
    fetched(&bed, "tinyinfer-talk-v2-preload", 0, 2).await?;
    said(&bed, "2 of 2 nodes have version 1, 0 of 2 nodes have version 2").await?;
    fails(&bed, "tinyinfer-talk-v2-preload", "error: m:2 has no files in the registry\n").await?;
    bed.until_says("talk", "Degraded", "FetchFailed").await?;
    said(&bed, "error: m:2 has no files in the registry").await?;
    assert!(!is_there(&bed, 2).await?, "its pods would only wait");
    assert_eq!(bed.route("m").await?.context("a route")?.route, first.route);
    bed.api::<Pod>().delete("stuck", &kube::api::DeleteParams::default().grace_period(0)).await?;
    fetched(&bed, "tinyinfer-talk-v2-preload", 2, 2).await?;
    bed.pods_are_ready("tinyinfer-talk-v2").await?;
    bed.until_says("talk", "ModelPreloaded", "Preloaded").await?;

    // The preload of a version goes with it.
    bed.apply(&service("talk", &canary.replace("'1'", "'2'").replace("  canary: {version: '2'}\n", "")))
        .await?;
    wait::until("the old version's preload goes", || async {
        let left = bed.api::<DaemonSet>().get_opt("tinyinfer-talk-v1-preload").await?;
        Ok(left.is_none().then_some(()))
    })
    .await?;
    assert!(bed.api::<DaemonSet>().get_opt("tinyinfer-talk-v2-preload").await?.is_some());
    bed.story.operator.stop().await
}

#[tokio::test]
async fn a_service_that_sleeps_has_its_weights_all_the_same() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-preload-sleep").await? else { return Ok(()) };
    let spec =
        format!("  model: {{name: m, version: '1'}}\n  scaling: {{minReplicas: 0, maxReplicas: 3}}\n{CACHE}");
    bed.apply(&service("talk", &spec)).await?;
    let sleeps = |deployment: &Deployment| deployment.spec.replicas == Some(0);
    bed.until("tinyinfer-talk-v1", "it sleeps, and a request may wake it", sleeps).await?;
    fetched(&bed, "tinyinfer-talk-v1-preload", 2, 2).await?;
    bed.until_says("talk", "ModelPreloaded", "Preloaded").await?;
    bed.until_says("talk", "Ready", "Asleep").await?;
    bed.story.operator.stop().await
}
