//! The operator beside the controllers of Kubernetes, on nodes that run nothing (tier two).

use aistack_crds::InferenceService;
use anyhow::{Context as _, Result};
use e2e::{Hollow, HollowNode, Plane, Running, Tier, wait};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

fn service(name: &str, gpu: Option<&str>) -> serde_json::Value {
    let mut object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService", "metadata": {"name": name},
        "spec": {"model": {"name": "m"}, "runtime": "vllm", "replicas": 2}});
    if let Some(product) = gpu {
        object["spec"]["gpu"] = json!({"product": product, "count": 1});
    }
    object
}

#[tokio::test]
async fn pods_come_up_where_they_fit_and_go_with_their_object() -> Result<()> {
    if Plane::programs()?.is_none() {
        eprintln!("no Go toolchain to build the control plane with: not run");
        return Ok(());
    }
    let plane = Plane::start(Tier::Controllers).await?;
    plane.install_kinds().await?;
    let client = plane.client();
    let gpu =
        HollowNode { gpus: Some((1, "NVIDIA-A100-SXM4-80GB".to_owned())), ..HollowNode::new("with-a-gpu") };
    let hollow = Hollow::start(client.clone(), vec![HollowNode::new("without"), gpu]).await?;
    let namespace = plane.namespace("hollow").await?;
    let operator = Running::start(&plane, &namespace).await?;
    let api: Api<InferenceService> = Api::namespaced(client.clone(), &namespace);
    for object in [service("plain", None), service("on-gpus", Some("nvidia-a100"))] {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        api.patch(name, &PatchParams::apply("kubectl"), &Patch::Apply(&object)).await?;
    }
    let ready = |wanted: i32| {
        move |service: &InferenceService| {
            let status = service.status.as_ref();
            status.is_some_and(|status| status.ready_replicas == wanted && status.replicas == 2)
        }
    };
    let plain = wait::object(&api, &client, "plain", "both pods are ready", ready(2)).await?;
    let conditions = plain.status.context("a status")?.conditions;
    assert_eq!((conditions[0].type_.as_str(), conditions[0].status.as_str()), ("Ready", "True"));
    wait::object(&api, &client, "on-gpus", "there is one GPU for two pods", ready(1)).await?;

    api.delete("plain", &DeleteParams::default()).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    wait::until("its children are collected", || async {
        let left = deployments.get_opt("vllm-plain").await?.is_some();
        let labelled = ListParams::default().labels("app.kubernetes.io/instance=plain");
        Ok((!left && pods.list(&labelled).await?.items.is_empty()).then_some(()))
    })
    .await?;
    operator.stop().await?;
    hollow.stop();
    Ok(())
}
