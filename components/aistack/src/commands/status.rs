//! `aistack status`: one glance at a stack, in the words of `kubectl get`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aistack_api::rag::RagList;
use console::style;
use futures::future::join_all;
use serde::Serialize;
use serde_json::Value;

use super::{print, print_as, running_stack, runtime};
use crate::cli::{Output, StatusArgs};
use crate::fail::Failure;
use crate::local::plan::secret_file;
use crate::local::state::{Phase, PodStatus, StackFolder, StackStatus};
use crate::view::{count, phase, size, span};

/// A component that does not answer in this time is shown without details.
const PATIENCE: Duration = Duration::from_millis(800);

/// What is printed for programs.
#[derive(Serialize)]
struct Report {
    stack: String,
    ready: bool,
    url: String,
    up_seconds: u64,
    objects: Vec<Row>,
    pods: Vec<PodStatus>,
}

/// One object of ours.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    kind: String,
    name: String,
    ready: String,
    detail: String,
}

/// Runs the command.
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let folder = running_stack(&args.stack)?;
    let status = folder.status()?;
    let objects = runtime()?.block_on(objects(&status, &folder));
    let report = Report {
        stack: status.stack.clone(),
        ready: status.all_ready(),
        url: status.url.clone(),
        up_seconds: up_seconds(&status),
        objects,
        pods: status.pods.clone(),
    };
    if args.output.output == Output::Table {
        table(&report, &status);
    } else {
        print_as(args.output.output, &report)?;
    }
    // The table says it; the exit code says it to scripts.
    if report.ready { Ok(()) } else { Err(Failure::not_ready("")) }
}

fn up_seconds(status: &StackStatus) -> u64 {
    let started = UNIX_EPOCH + Duration::from_millis(status.started_ms);
    SystemTime::now().duration_since(started).unwrap_or_default().as_secs()
}

fn table(report: &Report, status: &StackStatus) {
    let readiness = format!("{}/{}", status.ready(), status.pods.len());
    let word = if report.ready { style("Ready").green() } else { style("NotReady").red() };
    let up = span(Duration::from_secs(report.up_seconds));
    print(&format!("stack {}   {word} {readiness}   up {up}   {}", style(&report.stack).bold(), report.url));
    let kinds = report.objects.iter().map(|row| row.kind.len()).max().unwrap_or(0);
    let names = report.objects.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in &report.objects {
        let line = format!("  {:<kinds$}  {:<names$}  {:>4}   {}", row.kind, row.name, row.ready, row.detail);
        print(line.trim_end());
    }
    let troubled: Vec<&PodStatus> =
        report.pods.iter().filter(|pod| pod.phase != Phase::Ready || pod.restarts > 0).collect();
    for pod in troubled {
        let restarts = match pod.restarts {
            0 => String::new(),
            several => format!("   {}", plural(several as usize, "restart")),
        };
        let line = format!("  pod {}   {}{restarts}   {}", pod.name, phase(pod.phase, 0), pod.message);
        print(line.trim_end());
    }
}

/// One row for each object, with what its pods say of themselves.
async fn objects(status: &StackStatus, folder: &StackFolder) -> Vec<Row> {
    let Ok(client) = reqwest::Client::builder().timeout(PATIENCE).build() else { return Vec::new() };
    let asker = Asker {
        client,
        key: std::fs::read_to_string(secret_file(folder.path(), "modelhub-admin", "admin-key")).ok(),
    };
    let mut owners: Vec<(&str, Vec<&PodStatus>)> = Vec::new();
    for pod in &status.pods {
        match owners.iter_mut().find(|(owner, _)| *owner == pod.owner) {
            Some((_, pods)) => pods.push(pod),
            None => owners.push((&pod.owner, vec![pod])),
        }
    }
    let rows = owners.iter().map(|(owner, pods)| asker.rows(owner, pods));
    join_all(rows).await.into_iter().flatten().collect()
}

struct Asker {
    client: reqwest::Client,
    key: Option<String>,
}

impl Asker {
    async fn rows(&self, owner: &str, pods: &[&PodStatus]) -> Vec<Row> {
        let (kind, name) = owner.split_once(' ').unwrap_or((owner, ""));
        let ready = pods.iter().filter(|pod| pod.phase == Phase::Ready).count();
        let mut row = Row {
            kind: kind.to_owned(),
            name: name.to_owned(),
            ready: format!("{ready}/{}", pods.len()),
            detail: String::new(),
        };
        let Some(pod) = pods.iter().find(|pod| pod.phase == Phase::Ready) else { return vec![row] };
        let mut collections = Vec::new();
        match kind {
            // The gauges of etcd are where etcd has them: on the client port.
            "KVCluster" => row.detail = store(&self.metrics(pod, "client").await, &pod.name),
            "InferenceService" => row.detail = model(&self.metrics(pod, "admin").await, pod),
            "ModelHub" => row.detail = self.hub(pod).await,
            "VectorForge" | "VectorCollection" => {
                collections = self.collections(pod).await;
                row.detail = plural(collections.len(), "collection");
            }
            _ => {}
        }
        let mut rows = vec![row];
        rows.append(&mut collections);
        rows
    }

    async fn json(&self, pod: &PodStatus, path: &str) -> Option<Value> {
        let port = pod.port("http")?;
        let request = self.client.get(format!("http://127.0.0.1:{port}{path}"));
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.trim()),
            None => request,
        };
        request.send().await.ok()?.error_for_status().ok()?.json().await.ok()
    }

    /// Metrics of a pod, summed over their labels.
    async fn metrics(&self, pod: &PodStatus, port: &str) -> BTreeMap<String, f64> {
        let Some(port) = pod.port(port) else { return BTreeMap::new() };
        let reply = self.client.get(format!("http://127.0.0.1:{port}/metrics")).send().await;
        let Ok(reply) = reply else { return BTreeMap::new() };
        parse_metrics(&reply.text().await.unwrap_or_default())
    }

    async fn hub(&self, pod: &PodStatus) -> String {
        let (models, rags) = futures::join!(self.json(pod, "/v1/models"), self.json(pod, "/api/v1/rag"));
        let mut parts = Vec::new();
        if let Some(models) = models.as_ref().and_then(|models| models["data"].as_array()) {
            parts.push(plural(models.len(), "model"));
        }
        if let Some(rags) = rags.and_then(|rags| serde_json::from_value::<RagList>(rags).ok()) {
            let passages: u64 = rags.rags.iter().map(|rag| rag.passages).sum();
            parts.push(format!("{}, {} passages", plural(rags.rags.len(), "rag"), count(passages)));
        }
        parts.join(", ")
    }

    async fn collections(&self, pod: &PodStatus) -> Vec<Row> {
        let Some(list) = self.json(pod, "/collections").await else { return Vec::new() };
        let names: Vec<String> = list["result"]["collections"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|collection| collection["name"].as_str().map(str::to_owned))
            .collect();
        join_all(names.into_iter().map(async |name| {
            let info = self.json(pod, &format!("/collections/{name}")).await.unwrap_or_default();
            let detail = collection(&info["result"]);
            Row { kind: "VectorCollection".to_owned(), name, ready: String::new(), detail }
        }))
        .await
    }
}

fn plural(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The Prometheus text format, without labels: `name{…} value` adds to `name`.
fn parse_metrics(text: &str) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        if let Ok(value) = value.parse::<f64>() {
            *metrics.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
    metrics
}

/// A TinyKV pod, by etcd's metric names.
fn store(metrics: &BTreeMap<String, f64>, pod: &str) -> String {
    let mut parts = Vec::new();
    if metrics.get("etcd_server_is_leader").is_some_and(|leader| *leader > 0.0) {
        parts.push(format!("leader {pod}"));
    }
    if let Some(revision) = metrics.get("etcd_debugging_mvcc_current_revision") {
        parts.push(format!("rev {}", count(*revision as u64)));
    }
    if let Some(bytes) = metrics.get("etcd_mvcc_db_total_size_in_bytes") {
        parts.push(size(*bytes as u64));
    }
    parts.join("   ")
}

/// A TinyInfer pod, by vLLM's metric names.
fn model(metrics: &BTreeMap<String, f64>, pod: &PodStatus) -> String {
    let mut parts = vec![pod.serves.clone()];
    let running = metrics.get("vllm:num_requests_running");
    let waiting = metrics.get("vllm:num_requests_waiting");
    if let (Some(running), Some(waiting)) = (running, waiting) {
        parts.push(format!("{} running, {} waiting", *running as u64, *waiting as u64));
    }
    if let Some(usage) = metrics.get("vllm:kv_cache_usage_perc") {
        parts.push(format!("KV {:.0} %", usage * 100.0));
    }
    parts.join("   ")
}

/// A collection, by Qdrant's description of it.
fn collection(info: &Value) -> String {
    let points = info["points_count"].as_u64().unwrap_or_default();
    let vectors = &info["config"]["params"]["vectors"];
    let mut parts = vec![format!("{} points", count(points))];
    if let (Some(dimension), Some(distance)) = (vectors["size"].as_u64(), vectors["distance"].as_str()) {
        parts.push(format!("{dimension} d, {distance}"));
    }
    parts.extend(info["status"].as_str().map(str::to_owned));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_come_from_the_peers_own_names() {
        let metrics = parse_metrics(
            "# HELP x\netcd_server_is_leader 1\netcd_debugging_mvcc_current_revision 1204\netcd_mvcc_db_total_size_in_bytes 3250585\n",
        );
        assert_eq!(store(&metrics, "tinykv-0"), "leader tinykv-0   rev 1,204   3.1 MiB");
        let metrics = parse_metrics(
            "vllm:num_requests_running{model_name=\"m\"} 1\nvllm:num_requests_waiting{model_name=\"m\"} 0\nvllm:kv_cache_usage_perc{model_name=\"m\"} 0.02\n",
        );
        let pod = PodStatus { serves: "m".into(), ..PodStatus::default() };
        assert_eq!(model(&metrics, &pod), "m   1 running, 0 waiting   KV 2 %");
        let info = serde_json::json!({"points_count": 412, "status": "green", "config": {"params": {"vectors": {"size": 384, "distance": "Cosine"}}}});
        assert_eq!(collection(&info), "412 points, 384 d, Cosine, green");
        assert_eq!(store(&BTreeMap::new(), "tinykv-0"), "", "a pod that does not answer has no details");
    }
}
