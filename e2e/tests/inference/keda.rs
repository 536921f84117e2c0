//! A service that KEDA scales. The kind is KEDA's own; the test is KEDA.

use aistack_crds::InferenceService;
use aistack_operator::scaled_object::{PAUSED_REPLICAS, ScaledObject};
use anyhow::{Context as _, Result, ensure};
use e2e::{module, wait};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::bed::{Bed, PROMETHEUS};
use super::service;

const MODULE: &str = "github.com/kedacore/keda/v2@v2.17.2";
const NAME: &str = "tinyinfer-talk";

/// How many pods there are to be while KEDA rests.
fn paused(scaled: &ScaledObject) -> Option<&str> {
    scaled.annotations().get(PAUSED_REPLICAS).map(String::as_str)
}

/// KEDA says how it fares.
async fn says(bed: &Bed, is_ready: bool, words: &str) -> Result<()> {
    let status = if is_ready { "True" } else { "False" };
    let status = json!({"status": {"conditions": [
        {"type": "Ready", "status": status, "reason": "AsItIs", "message": words}]}});
    let scaled = bed.api::<ScaledObject>();
    scaled.patch_status(NAME, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

/// Has the service scaled by another, and waits until it is; pods stay as they are.
async fn changes(bed: &Bed, by: &str) -> Result<()> {
    bed.story.edit::<InferenceService>("talk", &json!({"spec": {"scaling": {"by": by}}})).await?;
    let (scaled, scalers) = (bed.api::<ScaledObject>(), bed.api::<HorizontalPodAutoscaler>());
    wait::until(&format!("{by} alone scales it"), || async {
        let there = (scaled.get_opt(NAME).await?.is_some(), scalers.get_opt(NAME).await?.is_some());
        Ok((there == (by == "keda", by == "hpa")).then_some(()))
    })
    .await?;
    bed.operator.until_reconciled(bed.operator.reconciled() + 2).await?;
    ensure!(bed.api::<Deployment>().get(NAME).await?.spec.replicas == Some(4), "no pod goes for it");
    Ok(())
}

#[tokio::test]
async fn keda_scales_in_place_of_kubernetes_and_lets_a_service_sleep() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-keda").await? else { return Ok(()) };
    let spec = "  model: {name: m}\n  scaling: {by: keda, minReplicas: 0, maxReplicas: 5, idleSeconds: 86400, holdSeconds: 3000}\n";
    bed.apply(&service("talk", spec)).await?;
    let told = bed.until_says("talk", "Degraded", "KindMissing").await?;
    ensure!(format!("{:?}", told.status).contains("install KEDA"), "{:?}", told.status);
    let kinds: Api<CustomResourceDefinition> = Api::all(bed.client.clone());
    let kind = module::kind(MODULE, "config/crd/bases/keda.sh_scaledobjects.yaml")?;
    kinds.create(&PostParams::default(), &kind).await?;

    // It sleeps: KEDA is not to call pods back.
    let scaled = bed.until(NAME, "KEDA is asked", |_: &ScaledObject| true).await?;
    assert_eq!(paused(&scaled), Some("0"));
    assert_eq!((scaled.spec.min_replica_count, scaled.spec.max_replica_count), (1, 5));
    assert_eq!(scaled.spec.scale_target_ref.name, NAME);
    let trigger = &scaled.spec.triggers[0];
    assert_eq!(
        (trigger.type_.as_str(), trigger.metadata["serverAddress"].as_str()),
        ("prometheus", PROMETHEUS)
    );
    bed.until_says("talk", "Autoscaling", "WaitingForKeda").await?;
    says(&bed, false, "no server answers").await?;
    let told = bed.until_says("talk", "Autoscaling", "ScaledObjectNotReady").await?;
    ensure!(format!("{:?}", told.status).contains("no server answers"), "{:?}", told.status);
    says(&bed, true, "it is defined").await?;
    bed.until_says("talk", "Autoscaling", "ScaledObjectReady").await?;

    // A request wakes it, and KEDA may scale it from then on.
    let url = format!("{}/v1/chat/completions", bed.hub);
    let ask = bed.http.post(url).json(&json!({"model": "m", "messages": []}));
    let asked = tokio::spawn(ask.send());
    let one = |deployment: &Deployment| deployment.spec.replicas == Some(1);
    bed.until(NAME, "somebody waits for it", one).await?;
    bed.until(NAME, "KEDA scales it", |scaled: &ScaledObject| paused(scaled).is_none()).await?;
    let scale = json!({"spec": {"replicas": 4}});
    let deployments = bed.api::<Deployment>();
    deployments.patch_scale(NAME, &PatchParams::default(), &Patch::Merge(&scale)).await?;

    for by in ["hpa", "keda", "hpa"] {
        changes(&bed, by).await.with_context(|| by.to_owned())?;
    }
    asked.abort();
    bed.story.operator.stop().await
}
