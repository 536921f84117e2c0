//! InferenceServices before a real API server and a real ModelHub: versions, canaries, autoscaling, sleep, devices, and what is said.

mod bed;
mod keda;
mod names;
mod plugin;
mod preload;
mod vectors;

use aistack_crds::InferenceService;
use anyhow::{Context as _, Result};
use e2e::story::says;
use e2e::wait;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use bed::{Bed, weights};

fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: platform.dev/v1\nkind: InferenceService\nmetadata: {{name: {name}}}\nspec:\n  stackRef: {{name: s}}\n{spec}"
    )
}

#[tokio::test]
async fn another_runtime_takes_over_once_its_pods_are_ready() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-runtime").await? else { return Ok(()) };
    let alone = |runtime: &str| {
        format!(
            "apiVersion: platform.dev/v1\nkind: InferenceService\nmetadata: {{name: alone}}\nspec: {{model: {{name: a}}, runtime: {runtime}}}"
        )
    };
    let routed = |runtime: &str| service("talk", &format!("  model: {{name: m}}\n  runtime: {runtime}\n"));
    let apply_both = async |runtime: &str| {
        bed.apply(&alone(runtime)).await?;
        bed.apply(&routed(runtime)).await
    };
    apply_both("tinyinfer").await?;
    for name in ["alone", "talk"] {
        let old = format!("tinyinfer-{name}");
        bed.until(&old, "its Deployment", |_: &Deployment| true).await?;
        bed.pods_are_ready(&old).await?;
        bed.until_says(name, "Ready", "Ready").await?;
    }
    apply_both("vllm").await?;
    for name in ["alone", "talk"] {
        let (old, new) = (format!("tinyinfer-{name}"), format!("vllm-{name}"));
        bed.until(&new, "the new runtime's Deployment", |_: &Deployment| true).await?;
        let waits = bed.until_says(name, "Available", "ServesMeanwhile").await?;
        let at = waits.status.and_then(|status| status.endpoint).context("an endpoint")?;
        assert_eq!(at, format!("http://{old}:8000"));
        bed.api::<Deployment>().get(&old).await.context("what serves stays")?;
        bed.api::<Service>().get(&old).await.context("and its Service")?;
        bed.pods_are_ready(&new).await?;
        bed.story.until_gone::<Deployment>(&old).await?;
        bed.until_says(name, "Ready", "Ready").await?;
        let at = format!("http://{new}:8000");
        let is_told = |service: &InferenceService| {
            service.status.as_ref().and_then(|status| status.endpoint.as_ref()) == Some(&at)
        };
        bed.until(name, "the new Service is told", is_told).await?;
    }
    let route = bed.route("m").await?.context("a route")?.route;
    let led: Vec<_> = route.targets.iter().map(|it| (it.name.as_str(), it.endpoint.as_str())).collect();
    assert_eq!(led, [("current", "http://vllm-talk:8000")]);
    bed.story.operator.stop().await
}

#[tokio::test]
async fn a_version_takes_over_in_steps_or_goes_back_and_nobody_waits_for_it() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-canary").await? else { return Ok(()) };
    bed.apply(&service("talk", "  model: {name: m, version: '1'}\n")).await?;
    let deployment =
        bed.until("tinyinfer-talk-v1", "a Deployment of the version", |_: &Deployment| true).await?;
    let pod = serde_json::to_value(&deployment.spec.template.spec)?;
    let args = pod.pointer("/initContainers/0/args").cloned().unwrap_or_default();
    assert!(
        args.to_string().contains("modelhub://m/1") && args.to_string().contains("http://modelhub:8080"),
        "{args}"
    );
    assert_eq!(pod.pointer("/initContainers/0/securityContext/readOnlyRootFilesystem"), Some(&json!(true)));
    let first = bed.until_route("m", "its route", |route| weights(route) == [("1", 100)]).await?;
    assert_eq!(first.route.owner, "InferenceService isvc-canary/talk");
    bed.until_says("talk", "Ready", "WaitingForPods").await?;
    bed.pods_are_ready("tinyinfer-talk-v1").await?;
    let ready = bed.until_says("talk", "Ready", "Ready").await?;
    assert!(ready.status.as_ref().is_some_and(|status| says(&status.conditions, "Routed", "Routed")));

    // A canary: its pods come first, then its share.
    let canary =
        "  model: {name: m, version: '1'}\n  canary: {version: '2', steps: [10, 100], stepSeconds: 3600}\n";
    bed.apply(&service("talk", canary)).await?;
    bed.until("tinyinfer-talk-v2", "the new version's Deployment", |_: &Deployment| true).await?;
    bed.until_says("talk", "CanaryTaken", "CanaryWaiting").await?;
    assert_eq!(
        weights(&bed.route("m").await?.context("a route")?.route),
        [("1", 100)],
        "nothing is led there yet"
    );
    bed.pods_are_ready("tinyinfer-talk-v2").await?;
    let state = bed.until_route("m", "the canary's route", |route| route.canary.is_some()).await?;
    assert_eq!(state.targets.iter().map(|t| t.percent).collect::<Vec<_>>(), [90.0, 10.0]);
    bed.until_says("talk", "CanaryTaken", "CanaryRunning").await?;

    // It goes back: ModelHub says so, and the object tells it, with an Event.
    let hub = format!("{}/api/v1/traffic/m", bed.hub);
    bed.http.post(&hub).json(&json!({"canary": "rollback"})).send().await?.error_for_status()?;
    let back = bed.until_says("talk", "Degraded", "CanaryRolledBack").await?;
    assert!(back.status.as_ref().is_some_and(|status| says(&status.conditions, "Ready", "CanaryRolledBack")));
    wait::until("an Event tells of it", || async {
        let events = bed.api::<Event>().list(&ListParams::default()).await?;
        Ok(events.items.iter().any(|event| event.reason.as_deref() == Some("CanaryRolledBack")).then_some(()))
    })
    .await?;

    // Taken over by hand all the same: the old version's pods go once requests are led elsewhere, not before.
    bed.apply(&service("talk", "  model: {name: m, version: '2'}\n")).await?;
    bed.until_route("m", "the new version has everything", |route| weights(route) == [("2", 100)]).await?;
    bed.story.until_gone::<Deployment>("tinyinfer-talk-v1").await?;
    // A new version without steps: the old one serves until the new one can.
    bed.apply(&service("talk", "  model: {name: m, version: '3'}\n")).await?;
    bed.until("tinyinfer-talk-v3", "the next version", |_: &Deployment| true).await?;
    bed.until_says("talk", "Routed", "WaitingForPods").await?;
    assert_eq!(weights(&bed.route("m").await?.context("a route")?.route), [("2", 100)]);
    assert!(bed.api::<Deployment>().get_opt("tinyinfer-talk-v2").await?.is_some());
    bed.pods_are_ready("tinyinfer-talk-v3").await?;
    bed.until_route("m", "it has everything", |route| weights(route) == [("3", 100)]).await?;
    bed.until_says("talk", "Routed", "Routed").await?;

    // At rest nothing is written, and the route goes with the service.
    let writes = bed.operator.until_settled().await?;
    bed.operator.until_reconciled(bed.operator.reconciled() + 5).await?;
    assert_eq!(bed.operator.writes(), writes);
    bed.api::<InferenceService>().delete("talk", &DeleteParams::default()).await?;
    wait::until("its route is gone", || async { Ok(bed.route("m").await?.is_none().then_some(())) }).await?;
    bed.story.operator.stop().await
}

#[tokio::test]
async fn what_modelhub_does_not_reach_takes_nothing_over() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-away").await? else { return Ok(()) };
    let version = |version: &str| service("talk", &format!("  model: {{name: m, version: '{version}'}}\n"));
    bed.apply(&version("1")).await?;
    bed.pods_are_ready("tinyinfer-talk-v1").await?;
    bed.until_says("talk", "Ready", "Ready").await?;
    // The kubelet finds its pods ready; a policy of the network, say, keeps ModelHub from them.
    bed.apply(&version("2")).await?;
    bed.pods_are_said_to_be_ready("tinyinfer-talk-v2").await?;
    let told = bed.until_says("talk", "Routed", "TargetAway").await?;
    let conditions = &told.status.context("a status")?.conditions;
    assert!(
        says(conditions, "Ready", "TargetAway") && says(conditions, "Available", "ServesMeanwhile"),
        "{conditions:?}"
    );
    let route = bed.route("m").await?.context("a route")?.route;
    assert_eq!(weights(&route), [("1", 100), ("2", 0)]);
    assert!(bed.api::<Deployment>().get_opt("tinyinfer-talk-v1").await?.is_some());
    bed.engines.answers("tinyinfer-talk-v2").await?;
    bed.until_route("m", "the new version has everything", |route| weights(route) == [("2", 100)]).await?;
    bed.story.until_gone::<Deployment>("tinyinfer-talk-v1").await?;
    bed.until_says("talk", "Ready", "Ready").await?;
    bed.story.operator.stop().await
}

#[tokio::test]
async fn requests_are_led_to_a_server_of_somebody_elses() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-external").await? else { return Ok(()) };
    // Any OpenAI server will do; one is at hand.
    let at = |endpoint: &str| {
        service("theirs", &format!("  model: {{name: m}}\n  runtime: external\n  endpoint: '{endpoint}'\n"))
    };
    bed.apply(&at(&bed.hub)).await?;
    let state = bed.until_route("m", "its route", |route| weights(route) == [("current", 100)]).await?;
    assert_eq!(state.route.targets[0].endpoint, bed.hub);
    bed.until_says("theirs", "Routed", "Routed").await?;
    bed.until_says("theirs", "Ready", "Reachable").await?;
    // Another address gets the requests once it answers.
    bed.apply(&at("http://127.0.0.1:1")).await?;
    bed.until_says("theirs", "Routed", "WaitingForServer").await?;
    bed.until_says("theirs", "Degraded", "Unreachable").await?;
    let route = bed.route("m").await?.context("a route")?.route;
    assert_eq!(route.targets[0].endpoint, bed.hub);
    // The route goes with the reference to the stack, and nothing of it is left to bar the name.
    let alone = json!([{"op": "remove", "path": "/spec/stackRef"}]);
    let patch = Patch::Json::<()>(serde_json::from_value(alone)?);
    bed.api::<InferenceService>().patch("theirs", &PatchParams::default(), &patch).await?;
    wait::until("its route is gone", || async { Ok(bed.route("m").await?.is_none().then_some(())) }).await?;
    bed.api::<InferenceService>().delete("theirs", &DeleteParams::default()).await?;
    bed.story.until_gone::<InferenceService>("theirs").await?;
    bed.story.operator.stop().await
}

#[tokio::test]
async fn shares_shadows_and_names_that_are_taken() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-shares").await? else { return Ok(()) };
    let spec = "  model: {name: m}\n  traffic:\n  - {version: '1', percent: 90}\n  - {version: '2', percent: 10, headers: {x-beta: 'yes'}}\n  - {version: '3', percent: 50, shadow: true}\n";
    bed.apply(&service("talk", spec)).await?;
    let state = bed.until_route("m", "its route", |route| route.targets.len() == 3).await?;
    assert_eq!(state.targets.iter().map(|t| t.percent).collect::<Vec<_>>(), [90.0, 10.0, 0.0]);
    assert!(state.route.targets[2].shadow && state.route.targets[1].headers.contains_key("x-beta"));
    for version in 1..=3 {
        let name = format!("tinyinfer-talk-v{version}");
        let service = bed.until(&name, "a Service of the version", |_: &Service| true).await?;
        let selector = service.spec.and_then(|spec| spec.selector).context("a selector")?;
        assert_eq!(selector["app.kubernetes.io/instance"], format!("talk-v{version}"));
        bed.pods_are_ready(&name).await?;
    }
    bed.until_says("talk", "Ready", "Ready").await?;
    // What somebody changes in ModelHub is put back.
    let mut other = state.route.clone();
    other.targets[0].weight = 1;
    bed.http.put(format!("{}/api/v1/traffic/m", bed.hub)).json(&other).send().await?.error_for_status()?;
    bed.apply(&service("talk", &spec.replace("percent: 50", "percent: 60"))).await?;
    bed.until_route("m", "the spec's shares", |route| weights(route) == [("1", 90), ("2", 10), ("3", 60)])
        .await?;
    // Away from a version that died requests are led although it is not there.
    bed.pods_are_gone("tinyinfer-talk-v1").await?;
    bed.until_says("talk", "Ready", "WaitingForPods").await?;
    bed.apply(&service(
        "talk",
        &spec.replace("percent: 90", "percent: 0").replace("percent: 10", "percent: 100"),
    ))
    .await?;
    bed.until_route("m", "all to the other", |route| weights(route) == [("1", 0), ("2", 100), ("3", 50)])
        .await?;
    // A second service of the same model is told who has it.
    bed.apply(&service("other", "  model: {name: m}\n")).await?;
    bed.pods_are_ready("tinyinfer-other").await?;
    let told = bed.until_says("other", "Routed", "RouteTaken").await?;
    let message =
        told.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == "Routed").context("told")?;
    assert!(message.message.contains("InferenceService isvc-shares/talk"), "{}", message.message);
    // Another name leaves no route behind.
    bed.apply(&service("other", "  model: {name: n}\n")).await?;
    bed.until_route("n", "a route of its own", |route| weights(route) == [("current", 100)]).await?;
    // It stays until the pods are of the next name.
    bed.apply(&service("other", "  model: {name: o}\n")).await?;
    bed.until_says("other", "Routed", "RouteLeft").await?;
    assert!(bed.route("o").await?.is_none() && bed.route("n").await?.is_some());
    bed.pods_are_ready("tinyinfer-other").await?;
    bed.until_route("o", "a route of its own", |_| true).await?;
    wait::until("the old one is gone", || async { Ok(bed.route("n").await?.is_none().then_some(())) })
        .await?;
    bed.story.operator.stop().await
}

#[tokio::test]
async fn a_service_sleeps_until_somebody_asks_and_the_autoscaler_owns_the_number_of_pods() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-sleep").await? else { return Ok(()) };
    let spec = "  model: {name: m}\n  scaling: {minReplicas: 0, maxReplicas: 5, idleSeconds: 10, holdSeconds: 3000}\n";
    bed.apply(&service("talk", spec)).await?;
    let replicas = |wanted: i32| move |deployment: &Deployment| deployment.spec.replicas == Some(wanted);
    bed.until("tinyinfer-talk", "nobody asked for it yet", replicas(0)).await?;
    bed.until_says("talk", "Ready", "Asleep").await?;
    let scaler = bed.until("tinyinfer-talk", "an autoscaler", |_: &HorizontalPodAutoscaler| true).await?;
    let scaler = serde_json::to_value(scaler.spec)?;
    assert_eq!((&scaler["minReplicas"], &scaler["maxReplicas"]), (&json!(1), &json!(5)));
    assert_eq!(scaler.pointer("/metrics/0/pods/metric/name"), Some(&json!("aistack_requests_in_flight")));
    // A request is held, and wakes it.
    let ask = bed
        .http
        .post(format!("{}/v1/chat/completions", bed.hub))
        .json(&json!({"model": "m", "messages": []}));
    let asked = tokio::spawn(ask.send());
    bed.until("tinyinfer-talk", "somebody waits for it", replicas(1)).await?;
    assert_eq!(bed.route("m").await?.context("a route")?.held, 1);
    // Another write leaves their number to the autoscaler; nobody here sees it but for this.
    bed.operator.until_reconciled(bed.operator.reconciled() + 3).await?;
    bed.pods_are_ready("tinyinfer-talk").await?;
    bed.until_says("talk", "Ready", "Ready").await?;
    // The autoscaler says four, and nobody takes that back.
    let scale = json!({"spec": {"replicas": 4}});
    let deployments = bed.api::<Deployment>();
    deployments.patch_scale("tinyinfer-talk", &PatchParams::default(), &Patch::Merge(&scale)).await?;
    let label = json!({"metadata": {"labels": {"team": "search"}}});
    bed.api::<InferenceService>().patch("talk", &PatchParams::default(), &Patch::Merge(&label)).await?;
    bed.operator.until_reconciled(bed.operator.reconciled() + 3).await?;
    assert_eq!(deployments.get("tinyinfer-talk").await?.spec.replicas, Some(4));
    // The autoscaler's own trouble is told.
    let status = json!({"status": {"conditions": [{"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric",
        "message": "no custom metrics API", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let scalers = bed.api::<HorizontalPodAutoscaler>();
    scalers.patch_status("tinyinfer-talk", &PatchParams::default(), &Patch::Merge(&status)).await?;
    bed.until_says("talk", "Autoscaling", "NoMetric").await?;
    // The client leaves, nobody asks any more, and it goes to sleep.
    asked.abort();
    bed.until("tinyinfer-talk", "it sleeps again", replicas(0)).await?;
    bed.until_says("talk", "Ready", "Asleep").await?;
    bed.story.operator.stop().await
}

#[tokio::test]
async fn what_keeps_pods_away_is_said_and_devices_are_claimed() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-gpu").await? else { return Ok(()) };
    let spec = "  model: {name: m}\n  runtime: vllm\n  gpu: {product: nvidia-h200, count: 2, memory: 80Gi, allocation: dra}\n";
    bed.apply(&service("big", spec)).await?;
    let named = |deployment: &Deployment| {
        let pod = serde_json::to_value(&deployment.spec.template.spec).unwrap_or_default();
        let name = pod.pointer("/resourceClaims/0/resourceClaimTemplateName").and_then(|name| name.as_str());
        (name.unwrap_or_default().to_owned(), pod)
    };
    let deployment = bed.until("vllm-big", "its Deployment", |_: &Deployment| true).await?;
    let (claim, pod) = named(&deployment);
    assert_eq!(pod.pointer("/containers/0/resources/claims/0/name"), Some(&json!("gpu")));
    assert_eq!(pod.pointer("/containers/0/resources/limits/nvidia.com~1gpu"), None);
    let devices = |template: &ResourceClaimTemplate| {
        let spec = template.spec.as_ref().and_then(|spec| spec.spec.as_ref());
        serde_json::to_value(spec).unwrap_or_default().pointer("/devices/requests/0/exactly").cloned()
    };
    let template = bed.until(&claim, "a claim's template", |_: &ResourceClaimTemplate| true).await?;
    let asked = devices(&template).context("devices")?;
    assert_eq!((&asked["deviceClassName"], &asked["count"]), (&json!("gpu.nvidia.com"), &json!(2)));
    let selectors = asked["selectors"].to_string();
    // A card that is sold with 80 GB reports less.
    assert!(selectors.contains("NVIDIA H200") && selectors.contains("76458Mi"), "{selectors}");

    // A template that is there cannot be changed: another claim is another template, and the old one stays while pods may ask for it.
    bed.apply(&service("big", &spec.replace("count: 2", "count: 1"))).await?;
    let deployment = bed
        .until("vllm-big", "another claim", |deployment: &Deployment| named(deployment).0 != claim)
        .await?;
    let other = named(&deployment).0;
    let template = bed.until(&other, "its template", |_: &ResourceClaimTemplate| true).await?;
    assert_eq!(devices(&template).context("devices")?["count"], json!(1));
    assert!(bed.api::<ResourceClaimTemplate>().get_opt(&claim).await?.is_some());
    bed.pods_are_ready("vllm-big").await?;
    bed.story.until_gone::<ResourceClaimTemplate>(&claim).await?;
    bed.apply(&service("big", &spec.replace("count: 2", "count: 4"))).await?;
    let deployment =
        bed.until("vllm-big", "a third", |deployment: &Deployment| named(deployment).0 != other).await?;
    // What the scheduler would say of a pod of it.
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
    bed.api::<ServiceAccount>().create(&PostParams::default(), &account).await?;
    let labels = deployment.spec.template.metadata.context("metadata")?.labels;
    let stuck: Pod = serde_json::from_value(json!({"metadata": {"name": "vllm-big-x", "labels": labels},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "vllm", "image": "i"}]}}))?;
    bed.api::<Pod>().create(&PostParams::default(), &stuck).await?;
    let why = "0/3 nodes are available: 3 cannot allocate all claims.";
    let status = json!({"status": {"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}]}});
    bed.api::<Pod>().patch_status("vllm-big-x", &PatchParams::default(), &Patch::Merge(&status)).await?;
    let told = bed.until_says("big", "Degraded", "Unschedulable").await?;
    let conditions: Vec<_> = told.status.iter().flat_map(|status| &status.conditions).collect();
    assert!(
        conditions.iter().any(|c| c.type_ == "Scheduled" && why.starts_with(&c.message)),
        "{conditions:?}"
    );
    assert!(
        bed.api::<ResourceClaimTemplate>().get_opt(&other).await?.is_some(),
        "pods of before may come anew"
    );
    bed.story.operator.stop().await
}

#[tokio::test]
async fn what_needs_a_gateway_says_so_without_one() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-alone").await? else { return Ok(()) };
    let alone = |name: &str, spec: &str| service(name, spec).replace("  stackRef: {name: s}\n", "");
    bed.apply(&alone(
        "plain",
        "  model: {name: m}\n  scaling: {maxReplicas: 3, metric: cpu}\n  resources: {cpu: '1'}\n",
    ))
    .await?;
    bed.until("tinyinfer-plain", "it needs none", |_: &HorizontalPodAutoscaler| true).await?;
    bed.apply(&alone("sleepy", "  model: {name: m}\n  scaling: {minReplicas: 0, maxReplicas: 3}\n")).await?;
    bed.apply(&alone("split", "  model: {name: m, version: '1'}\n")).await?;
    bed.apply(&service("lost", "  model: {name: m}\n").replace("{name: s}", "{name: elsewhere}")).await?;
    for (name, reason, words) in [
        ("sleepy", "Invalid", "spec.scaling.minReplicas: needs a stack's ModelHub"),
        ("split", "Invalid", "spec.model.version: needs a stack's ModelHub"),
        ("lost", "WaitingForStack", "there is no AIStack elsewhere"),
    ] {
        let told = bed.until_says(name, "Ready", reason).await?;
        let message = &told.status.context("a status")?.conditions[0].message;
        assert!(message.contains(words), "{name}: {message}");
    }
    bed.story.operator.stop().await
}
