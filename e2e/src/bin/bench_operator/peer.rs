//! KubeRay's operator on the same bed, with as many RayClusters of one pod each.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Census, wait};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};

use super::Cli;
use super::bed::Bed;
use super::figures::Figures;
use super::phases;
use super::subject::{Recipe, Subject};

/// Clusters of a namespace.
const EACH: usize = 20;
const PATIENCE: Duration = Duration::from_mins(40);
const IDLE_EDITS: usize = 30;

fn kind() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("ray.io", "v1", "RayCluster"), "rayclusters")
}

/// A head, and room for a worker that an edit asks for.
fn cluster(name: &str) -> Value {
    let pod = |name: &str| {
        json!({"spec": {"containers": [{"name": name, "image": "rayproject/ray:2.46.0",
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}}]}})
    };
    json!({"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": name}, "spec": {
        "rayVersion": "2.46.0",
        "headGroupSpec": {"rayStartParams": {}, "template": pod("ray-head")},
        "workerGroupSpecs": [{"groupName": "workers", "replicas": 0, "minReplicas": 0, "maxReplicas": 5,
            "rayStartParams": {}, "template": pod("ray-worker")}],
    }})
}

fn unsettled(object: &DynamicObject) -> Option<String> {
    let status = &object.data["status"];
    let is_ready =
        status["state"] == "ready" && status["observedGeneration"].as_i64() == object.metadata.generation;
    (!is_ready).then(|| status["state"].as_str().unwrap_or("not looked at").to_owned())
}

async fn install(bed: &Bed, folder: &Path) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(bed.client.clone());
    for file in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let text = std::fs::read_to_string(file?.path())?;
        let crd: CustomResourceDefinition = serde_yaml_ng::from_str(&text)?;
        let name = crd.name_any();
        api.patch(&name, &PatchParams::apply("bench").force(), &Patch::Apply(&crd)).await?;
        wait::until(&format!("{name} is established"), || async {
            let conditions =
                api.get(&name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|it| it.type_ == "Established" && it.status == "True").then_some(()))
        })
        .await?;
    }
    Ok(())
}

fn recipe(program: &Path, bed: &Bed, workers: usize) -> Result<Recipe> {
    let kubeconfig = bed.plane.audited_kubeconfig().display().to_string();
    let args = [
        "--metrics-addr=127.0.0.1:{metrics}",
        "--health-probe-bind-address=127.0.0.1:{probe}",
        "--enable-leader-election=true",
        "--leader-election-namespace=default",
    ];
    let workers = format!("--reconcile-concurrency={workers}");
    Ok(Recipe {
        name: "kuberay".to_owned(),
        program: std::fs::canonicalize(program).context("KubeRay's operator")?,
        args: args.map(str::to_owned).into_iter().chain([workers]).collect(),
        env: vec![("KUBECONFIG".to_owned(), kubeconfig)],
        ready: "/readyz",
        metrics: "/metrics",
    })
}

/// What it does with so many clusters.
pub async fn measure(cli: &Cli, program: &Path, kinds: &Path) -> Result<()> {
    ensure!(cli.objects.is_multiple_of(EACH), "--objects is no multiple of {EACH}");
    let figures = Figures::of(cli, &format!("KubeRay 1.4.2, {} workers", cli.peer_workers));
    let mut bed = Bed::start().await?;
    install(&bed, kinds).await?;
    let mut clusters = Vec::new();
    for number in 0..cli.objects / EACH {
        let namespace = bed.plane.namespace(&format!("rays-{number}")).await?;
        clusters.extend((0..EACH).map(|number| (namespace.clone(), format!("ray-{number}"))));
    }
    let recipe = recipe(program, &bed, cli.peer_workers)?;
    let mut operator = Subject::start(&recipe, bed.hollow.folder())?;
    operator.until_ready().await?;
    let census = Census::of(&bed.client, None, vec![kind()], unsettled);
    bed.until_silent(Duration::from_secs(2)).await?;

    let of = format!("{} RayClusters", clusters.len());
    let before = (bed.cpu(&operator)?, Instant::now());
    stream::iter(&clusters)
        .map(|(namespace, name)| {
            let api: Api<DynamicObject> = Api::namespaced_with(bed.client.clone(), namespace, &kind());
            async move { api.patch(name, &PatchParams::apply("kubectl"), &Patch::Apply(cluster(name))).await }
        })
        .buffer_unordered(16)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    census.until_all_settled(clusters.len(), PATIENCE).await?;
    figures.tell("L1", &format!("{of} from apply to all Ready"), "s", before.1.elapsed().as_secs_f64());
    for (name, spent) in bed.cpu(&operator)? {
        let took = spent.saturating_sub(before.0[&name]).as_secs_f64();
        figures.tell("L1", &format!("{of}: CPU of {name}"), "s", took);
    }
    let writes = bed.until_silent(Duration::from_secs(5)).await?;
    phases::tell_writes(&figures, &of, clusters.len(), &writes);
    let (now, most) = operator.memory()?;
    figures.tell("L2", &format!("{of}: resident"), "MiB", now);
    figures.tell("L2", &format!("{of}: most resident"), "MiB", most);
    if cli.wants("L5") {
        let times = edits(&bed, &clusters).await?;
        phases::tell_times(&figures, "edit to child applied, idle", times);
    }
    if cli.wants("L3") {
        phases::rest(&mut bed, &operator, &figures, census.len(), cli.rest_seconds).await?;
    }
    if cli.wants("L4") {
        operator.stop().await?;
        operator = phases::restart(&mut bed, &recipe, &figures, census.len()).await?;
    }
    operator.stop().await.map(drop)
}

/// From an edit that asks for a worker to its pod.
async fn edits(bed: &Bed, clusters: &[(String, String)]) -> Result<Vec<Duration>> {
    let workers = watcher::Config::default().labels("ray.io/node-type=worker");
    let mut pods = watcher(Api::<Pod>::all(bed.client.clone()), workers).boxed();
    while !matches!(pods.next().await.context("pods")??, Event::InitDone) {}
    let mut times = Vec::new();
    for (namespace, name) in clusters.iter().take(IDLE_EDITS) {
        let api: Api<DynamicObject> = Api::namespaced_with(bed.client.clone(), namespace, &kind());
        let mut edited = cluster(name);
        edited["spec"]["workerGroupSpecs"][0]["replicas"] = json!(1);
        let began = Instant::now();
        api.patch(name, &PatchParams::default(), &Patch::Merge(&edited)).await?;
        loop {
            let Event::Apply(pod) = pods.next().await.context("pods")?? else { continue };
            let is_its = pod.labels().get("ray.io/cluster") == Some(name);
            if is_its && pod.namespace().as_ref() == Some(namespace) {
                break;
            }
        }
        times.push(began.elapsed());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(times)
}
