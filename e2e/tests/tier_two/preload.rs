//! Weights on the nodes that may run a version's pods, and on no others.

use anyhow::Result;
use e2e::wait;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;

use super::hub::Bed;

fn service(version: u8, more: &str) -> String {
    format!(
        "apiVersion: platform.dev/v1\nkind: InferenceService\nmetadata: {{name: talk}}\nspec:\n  stackRef: {{name: s}}\n  \
         model: {{name: m, version: '{version}'}}\n  runtime: vllm\n  modelCache: {{hostPath: /var/cache/aistack, preload: true}}\n{more}"
    )
}

async fn nodes(bed: &Bed) -> Result<Vec<String>> {
    let preloads = ListParams::default().labels("app.kubernetes.io/name=preload");
    let pods = bed.api::<Pod>().list(&preloads).await?.items.into_iter();
    let mut nodes: Vec<String> = pods.filter_map(|pod| pod.spec?.node_name).collect();
    nodes.sort();
    Ok(nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_that_may_run_a_versions_pods_has_its_weights_and_no_other() -> Result<()> {
    let Some(shared) = e2e::Bed::shared() else { return Ok(()) };
    shared.hollow.stand_in("preload");
    let bed = Bed::begin_on(&shared.plane, "preload", Vec::new()).await?;
    for name in ["vllm-talk-v1", "vllm-talk-v2"] {
        bed.engines.answers(name).await?;
    }
    bed.apply(&service(1, "  pod: {nodeSelector: {kubernetes.io/hostname: node-with-another}}\n")).await?;
    bed.until_says("talk", "ModelPreloaded", "Preloaded").await?;
    assert_eq!(nodes(&bed).await?, ["node-with-another"], "no pod of it may run on the others");
    bed.until_says("talk", "Ready", "Ready").await?;

    bed.apply(&service(2, "")).await?;
    bed.until_says("talk", "Ready", "Ready").await?;
    bed.until_says("talk", "ModelPreloaded", "Preloaded").await?;
    wait::until("the first version and its preload go", || async {
        let set = bed.api::<DaemonSet>().get_opt("vllm-talk-v1-preload").await?;
        let deployment = bed.api::<Deployment>().get_opt("vllm-talk-v1").await?;
        Ok((set.is_none() && deployment.is_none() && nodes(&bed).await?.len() == 4).then_some(()))
    })
    .await?;
    bed.story.operator.stop().await
}
