//! What the controllers of Kubernetes make of what the operator applies.

use aistack_crds::{InferenceService, KVCluster};
use anyhow::{Context as _, Result};
use e2e::{Bed, Story, wait};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

fn service(name: &str, gpu: &str) -> String {
    format!(
        "apiVersion: platform.dev/v1\nkind: InferenceService\nmetadata: {{name: {name}}}\n\
         spec: {{model: {{name: m}}, runtime: vllm, replicas: 2{gpu}}}\n"
    )
}

#[tokio::test]
async fn pods_come_up_where_they_fit_and_go_with_their_object() -> Result<()> {
    let Some(bed) = Bed::shared() else { return Ok(()) };
    let story = Story::on(&bed.plane, "objects").await?;
    story.apply(&service("plain", "")).await?;
    story.apply(&service("on-gpus", ", gpu: {product: nvidia-a100, count: 1}")).await?;
    let ready = |wanted: i32| {
        move |service: &InferenceService| {
            let status = service.status.as_ref();
            status.is_some_and(|status| status.ready_replicas == wanted && status.replicas == 2)
        }
    };
    let plain: InferenceService = story.until("plain", "both pods are ready", ready(2)).await?;
    let conditions = plain.status.context("a status")?.conditions;
    assert_eq!((conditions[0].type_.as_str(), conditions[0].status.as_str()), ("Ready", "True"));
    story.until::<InferenceService>("on-gpus", "there is one GPU for two pods", ready(1)).await?;
    let told = |service: &InferenceService| {
        let conditions = service.status.iter().flat_map(|status| &status.conditions);
        conditions
            .filter(|it| it.reason == "Unschedulable" && it.type_ == "Degraded" && it.status == "True")
            .any(|it| it.message.contains("nvidia.com/gpu"))
    };
    story.until::<InferenceService>("on-gpus", "what the scheduler lacks is said", told).await?;

    story.api::<InferenceService>().delete("plain", &DeleteParams::default()).await?;
    wait::until("its children are collected", || async {
        let left = story.api::<Deployment>().get_opt("vllm-plain").await?.is_some();
        let labelled = ListParams::default().labels("app.kubernetes.io/instance=plain");
        Ok((!left && story.api::<Pod>().list(&labelled).await?.items.is_empty()).then_some(()))
    })
    .await?;
    story.operator.stop().await
}

/// Clusters whose volumes go with them.
const GOING: usize = 8;

fn with_policy(name: &str, policy: &str) -> String {
    format!(
        "apiVersion: platform.dev/v1\nkind: KVCluster\nmetadata: {{name: {name}, annotations: {{platform.dev/retention: {policy}}}}}\nspec: {{}}\n"
    )
}

#[tokio::test]
async fn volumes_stay_or_go_with_their_owner_as_it_says() -> Result<()> {
    let Some(bed) = Bed::shared() else { return Ok(()) };
    let story = Story::on(&bed.plane, "retention").await?;
    // Several go, each while the operator is at something else of it.
    let gone: Vec<String> = (0..GOING).map(|number| format!("gone-{number}")).collect();
    story.apply(&with_policy("kept", "Retain")).await?;
    for name in &gone {
        story.apply(&with_policy(name, "Delete")).await?;
    }
    let bound = |claim: &PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    };
    story.until("data-kept-0", "it has a volume", bound).await?;
    story.api::<KVCluster>().delete("kept", &DeleteParams::default()).await?;
    let owned = |claim: &PersistentVolumeClaim| claim.metadata.owner_references.is_some();
    for name in &gone {
        story.until(&format!("data-{name}-0"), "it belongs to its set", owned).await?;
        story.api::<KVCluster>().delete(name, &DeleteParams::default()).await?;
    }
    for name in &gone {
        story.until_gone::<PersistentVolumeClaim>(&format!("data-{name}-0")).await?;
    }
    let pods = story.api::<Pod>();
    wait::until("no pod is left", || async {
        Ok(pods.list(&ListParams::default()).await?.items.is_empty().then_some(()))
    })
    .await?;
    let kept = story.api::<PersistentVolumeClaim>().get("data-kept-0").await?;
    assert!(kept.metadata.deletion_timestamp.is_none(), "{}", json!(kept.metadata));
    story.operator.stop().await
}
