//! A new version of a model where there is one GPU for both.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;

use super::hub::{Bed, weights};

fn service(version: u8, rollout: &str) -> String {
    format!(
        "apiVersion: platform.dev/v1\nkind: InferenceService\nmetadata: {{name: talk}}\nspec:\n  stackRef: {{name: s}}\n  \
         model: {{name: m, version: '{version}'}}\n  runtime: vllm\n  gpu: {{product: nvidia-l4}}\n  rollout: {rollout}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_takes_the_only_gpu_over_where_it_may_and_waits_where_it_may_not() -> Result<()> {
    let Some(shared) = e2e::Bed::shared() else { return Ok(()) };
    // Stores of this namespace need not run: the hub has one of its own.
    shared.hollow.stand_in("in-place");
    let bed = Bed::begin_on(&shared.plane, "in-place", Vec::new()).await?;
    // Nobody reaches the third.
    for name in ["vllm-talk-v1", "vllm-talk-v2", "vllm-talk-v4"] {
        bed.engines.answers(name).await?;
    }
    bed.apply(&service(1, "beside")).await?;
    let is_ready = |deployment: &Deployment| {
        deployment.status.as_ref().and_then(|status| status.ready_replicas) == Some(1)
    };
    bed.until("vllm-talk-v1", "the first version has the GPU", is_ready).await?;
    bed.until_route("m", "its route", |route| weights(route) == [("1", 100)]).await?;

    bed.apply(&service(2, "beside")).await?;
    bed.until_says("talk", "Scheduled", "Unschedulable").await?;
    assert_eq!(weights(&bed.route("m").await?.context("a route")?.route), [("1", 100)]);
    assert!(is_ready(&bed.api::<Deployment>().get("vllm-talk-v1").await?), "what serves is left alone");

    bed.apply(&service(2, "inPlace")).await?;
    bed.until("vllm-talk-v2", "the second version has the GPU", is_ready).await?;
    bed.until_route("m", "requests are led there", |route| weights(route) == [("2", 100)]).await?;
    bed.story.until_gone::<Deployment>("vllm-talk-v1").await?;
    bed.until_says("talk", "Ready", "Ready").await?;
    let events = bed.api::<Event>().list(&ListParams::default()).await?.items;
    let told = events.iter().filter(|event| event.reason.as_deref() == Some("MakingRoom")).count();
    assert_eq!(told, 1, "one pod was one too many");

    bed.apply(&service(3, "inPlace")).await?;
    bed.until("vllm-talk-v3", "the third version has the GPU", is_ready).await?;
    bed.until_says("talk", "Routed", "TargetAway").await?;
    bed.apply(&service(4, "inPlace")).await?;
    bed.until("vllm-talk-v4", "its correction has the GPU", is_ready).await?;
    bed.until_route("m", "requests are led there", |route| weights(route) == [("4", 100)]).await?;
    bed.story.until_gone::<Deployment>("vllm-talk-v3").await?;

    // The same with an autoscaler, which begins from no pods by itself: back to the version that made room, it has one again.
    let scaled = |version: u8| format!("{}  scaling: {{maxReplicas: 2}}\n", service(version, "inPlace"));
    bed.apply(&scaled(4)).await?;
    bed.apply(&scaled(3)).await?;
    bed.until("vllm-talk-v3", "the third version has the GPU again", is_ready).await?;
    bed.until_says("talk", "Routed", "TargetAway").await?;
    let wants = |deployment: &Deployment| deployment.spec.replicas;
    assert_eq!(wants(&bed.api::<Deployment>().get("vllm-talk-v4").await?), Some(0), "it made room");
    bed.apply(&scaled(4)).await?;
    let serves = |deployment: &Deployment| wants(deployment) == Some(1) && is_ready(deployment);
    bed.until("vllm-talk-v4", "the fourth has the GPU again", serves).await?;
    bed.until_says("talk", "Ready", "Ready").await?;
    bed.story.operator.stop().await
}
