//! `aistack status`: one glance at a stack, in the words of `kubectl get`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aistack_api::rag::RagList;
use console::style;
use futures::future::join_all;
use serde::Serialize;
use serde_json::{Map, Value};

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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Row {
    kind: String,
    name: String,
    ready: String,
    /// Where clients reach its pods.
    addresses: Vec<String>,
    detail: String,
    /// What stands in `detail`, each by its name.
    facts: Map<String, Value>,
    /// Its pods, where each has something to say for itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<Row>,
}

/// What an object says of itself: a line for people, and the same by name.
#[derive(Clone, Debug, Default, PartialEq)]
struct Detail {
    parts: Vec<String>,
    facts: Map<String, Value>,
}

impl Detail {
    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    fn say(&mut self, part: String) {
        self.parts.push(part);
    }
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
    let mut rows: Vec<(String, &Row)> = Vec::new();
    for row in &report.objects {
        rows.push((row.kind.clone(), row));
        rows.extend(row.members.iter().map(|member| (format!("  {}", member.kind), member)));
    }
    let kinds = rows.iter().map(|(kind, _)| kind.len()).max().unwrap_or(0);
    let names = rows.iter().map(|(_, row)| row.name.len()).max().unwrap_or(0);
    // Where members follow, each with its own address, all of them in one line would only be wide.
    let address = |row: &Row| if row.members.is_empty() { row.addresses.join(", ") } else { String::new() };
    let addresses = rows.iter().map(|(_, row)| address(row).len()).max().unwrap_or(0);
    for (kind, row) in rows {
        let Row { name, ready, detail, .. } = row;
        let line =
            format!("  {kind:<kinds$}  {name:<names$}  {ready:>4}   {:<addresses$}   {detail}", address(row));
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
            addresses: pods.iter().filter_map(|pod| address(pod)).collect(),
            ..Row::default()
        };
        if kind == "KVCluster" {
            self.cluster(&mut row, pods).await;
            return vec![row];
        }
        let Some(pod) = pods.iter().find(|pod| pod.phase == Phase::Ready) else { return vec![row] };
        let mut collections = Vec::new();
        let (detail, between) = match kind {
            "InferenceService" => (model(&self.metrics(pod, "admin").await, pod), "   "),
            "ModelHub" => (self.hub(pod).await, ", "),
            "VectorForge" | "VectorCollection" => {
                collections = self.collections(pod).await;
                let mut detail = Detail::default();
                detail.fact("collections", collections.len());
                detail.say(plural(collections.len(), "collection"));
                (detail, ", ")
            }
            _ => (Detail::default(), ""),
        };
        row.detail = detail.parts.join(between);
        row.facts = detail.facts;
        let mut rows = vec![row];
        rows.append(&mut collections);
        rows
    }

    /// What the members of a TinyKV say; the cluster's own line is that of whoever leads, or of the first that answers.
    async fn cluster(&self, row: &mut Row, pods: &[&PodStatus]) {
        // The gauges of etcd are where etcd has them: on the client port.
        let asked = pods.iter().map(async |pod| match pod.phase {
            Phase::Ready => self.metrics(pod, "client").await,
            _ => BTreeMap::new(),
        });
        let told = join_all(asked).await;
        let all = || pods.iter().zip(&told);
        let first =
            all().find(|(_, metrics)| leads(metrics)).or_else(|| all().find(|(_, told)| !told.is_empty()));
        if let Some((pod, metrics)) = first {
            let detail = store(metrics, &pod.name);
            (row.detail, row.facts) = (detail.parts.join("   "), detail.facts);
        }
        if pods.len() > 1 {
            row.members = all().map(|(pod, metrics)| member(pod, metrics)).collect();
        }
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

    async fn hub(&self, pod: &PodStatus) -> Detail {
        let (models, keys, rags) = futures::join!(
            self.json(pod, "/v1/models"),
            self.json(pod, "/api/v1/keys"),
            self.json(pod, "/api/v1/rag")
        );
        let mut detail = Detail::default();
        if let Some(models) = models.as_ref().and_then(|models| models["data"].as_array()) {
            detail.fact("models", models.len());
            detail.say(plural(models.len(), "model"));
        }
        if let Some(keys) = keys.as_ref().and_then(|keys| keys["keys"].as_array()) {
            detail.fact("keys", keys.len());
            detail.say(plural(keys.len(), "key"));
        }
        if let Some(rags) = rags.and_then(|rags| serde_json::from_value::<RagList>(rags).ok()) {
            let passages: u64 = rags.rags.iter().map(|rag| rag.passages).sum();
            detail.fact("rags", rags.rags.len());
            detail.fact("passages", passages);
            detail.say(plural(rags.rags.len(), "rag"));
            detail.say(plural_of(passages, "passage"));
        }
        detail
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
            Row {
                kind: "VectorCollection".to_owned(),
                name,
                detail: detail.parts.join(", "),
                facts: detail.facts,
                ..Row::default()
            }
        }))
        .await
    }
}

/// Where a pod is reached by the clients of its peer.
fn address(pod: &PodStatus) -> Option<String> {
    let port = pod.port("http").or_else(|| pod.port("client"))?;
    Some(format!("127.0.0.1:{port}"))
}

fn plural(number: usize, what: &str) -> String {
    plural_of(number as u64, what)
}

fn plural_of(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
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

fn leads(metrics: &BTreeMap<String, f64>) -> bool {
    metrics.get("etcd_server_is_leader").is_some_and(|leader| *leader > 0.0)
}

/// One of several TinyKV pods, by etcd's metric names.
fn member(pod: &PodStatus, metrics: &BTreeMap<String, f64>) -> Row {
    let mut detail = Detail::default();
    let role = match metrics.get("etcd_server_has_leader") {
        Some(_) if leads(metrics) => "leader",
        Some(led) if *led > 0.0 => "follower",
        Some(_) => "no leader",
        None => "",
    };
    if !role.is_empty() {
        detail.fact("role", role);
        detail.say(role.to_owned());
    }
    size_of_store(metrics, &mut detail);
    Row {
        kind: "member".to_owned(),
        name: pod.name.clone(),
        ready: format!("{}/1", u8::from(pod.phase == Phase::Ready)),
        addresses: address(pod).into_iter().collect(),
        detail: detail.parts.join("   "),
        facts: detail.facts,
        members: Vec::new(),
    }
}

/// A TinyKV cluster, by what one of its pods says.
fn store(metrics: &BTreeMap<String, f64>, pod: &str) -> Detail {
    let mut detail = Detail::default();
    if leads(metrics) {
        detail.fact("leader", pod);
        detail.say(format!("leader {pod}"));
    }
    size_of_store(metrics, &mut detail);
    detail
}

fn size_of_store(metrics: &BTreeMap<String, f64>, detail: &mut Detail) {
    if let Some(revision) = metrics.get("etcd_debugging_mvcc_current_revision") {
        detail.fact("revision", *revision as u64);
        detail.say(format!("rev {}", count(*revision as u64)));
    }
    if let Some(bytes) = metrics.get("etcd_mvcc_db_total_size_in_bytes") {
        detail.fact("bytes", *bytes as u64);
        detail.say(size(*bytes as u64));
    }
}

/// A TinyInfer pod, by vLLM's metric names.
fn model(metrics: &BTreeMap<String, f64>, pod: &PodStatus) -> Detail {
    let mut detail = Detail::default();
    detail.fact("model", pod.serves.as_str());
    detail.say(pod.serves.clone());
    let running = metrics.get("vllm:num_requests_running");
    let waiting = metrics.get("vllm:num_requests_waiting");
    if let (Some(running), Some(waiting)) = (running, waiting) {
        detail.fact("running", *running as u64);
        detail.fact("waiting", *waiting as u64);
        detail.say(format!("{} running, {} waiting", *running as u64, *waiting as u64));
    }
    // A model that only embeds has no such cache, and then its sizes are not there either.
    let cache = metrics.get("vllm:kv_cache_usage_perc");
    if let Some(usage) = cache.filter(|_| metrics.contains_key("vllm:cache_config_info")) {
        detail.fact("kv_cache_usage", *usage);
        detail.say(format!("KV {:.0} %", usage * 100.0));
    }
    detail
}

/// A collection, by Qdrant's description of it.
fn collection(info: &Value) -> Detail {
    let mut detail = Detail::default();
    let points = info["points_count"].as_u64().unwrap_or_default();
    let vectors = &info["config"]["params"]["vectors"];
    detail.fact("points", points);
    detail.say(plural_of(points, "point"));
    if let (Some(dimension), Some(distance)) = (vectors["size"].as_u64(), vectors["distance"].as_str()) {
        detail.fact("dimension", dimension);
        detail.fact("distance", distance);
        detail.say(format!("{dimension} d, {distance}"));
    }
    if let Some(status) = info["status"].as_str() {
        detail.fact("status", status);
        detail.say(status.to_owned());
    }
    detail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_come_from_the_peers_own_names() {
        let metrics = parse_metrics(
            "# HELP x\netcd_server_is_leader 1\netcd_debugging_mvcc_current_revision 1204\netcd_mvcc_db_total_size_in_bytes 3250585\n",
        );
        let told = store(&metrics, "tinykv-0");
        assert_eq!(told.parts, ["leader tinykv-0", "rev 1,204", "3.1 MiB"]);
        assert_eq!((&told.facts["revision"], &told.facts["bytes"]), (&1204.into(), &3250585.into()));
        let follower = parse_metrics(
            "etcd_server_has_leader 1\netcd_server_is_leader 0\netcd_debugging_mvcc_current_revision 7\n",
        );
        let pod =
            PodStatus { name: "tinykv-1".into(), ports: vec![("client".into(), 9)], ..PodStatus::default() };
        let row = member(&pod, &follower);
        assert_eq!((row.detail.as_str(), row.ready.as_str()), ("follower   rev 7", "0/1"));
        assert_eq!(row.addresses, ["127.0.0.1:9"]);
        let alone = parse_metrics("etcd_server_has_leader 0\netcd_server_is_leader 0\n");
        assert_eq!(member(&pod, &alone).detail, "no leader");
        let metrics = parse_metrics(
            "vllm:num_requests_running{model_name=\"m\"} 1\nvllm:num_requests_waiting{model_name=\"m\"} 0\nvllm:kv_cache_usage_perc{model_name=\"m\"} 0.02\nvllm:cache_config_info{block_size=\"16\"} 1\n",
        );
        let pod = PodStatus { serves: "m".into(), ..PodStatus::default() };
        assert_eq!(model(&metrics, &pod).parts, ["m", "1 running, 0 waiting", "KV 2 %"]);
        let info = serde_json::json!({"points_count": 412, "status": "green", "config": {"params": {"vectors": {"size": 384, "distance": "Cosine"}}}});
        assert_eq!(collection(&info).parts, ["412 points", "384 d, Cosine", "green"]);
        assert_eq!(
            store(&BTreeMap::new(), "tinykv-0"),
            Detail::default(),
            "a pod that does not answer has no details"
        );
    }
}
