//! A kubelet that runs nothing: pods that the scheduler gives to its node come up after a while, and go when they are told to.
//!
//! It does for objects what a kubelet and a provisioner of volumes do (heartbeats, pods' statuses, bound and grown claims), and nothing for
//! processes: no image is pulled, no port is served. What needs an answer from a pod needs a real one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Name of the StorageClass whose volumes are hollow too.
const CLASS: &str = "hollow";
/// Between two heartbeats; the node lifecycle controller gives up after forty seconds.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a hollow node is.
#[derive(Clone, Debug)]
pub struct HollowNode {
    /// Its name.
    pub name: String,
    /// Cores.
    pub cpu: u32,
    /// Memory in GiB.
    pub memory_gib: u32,
    /// GPUs, and the product that GPU feature discovery would label the node with.
    pub gpus: Option<(u32, String)>,
    /// From scheduled to ready.
    pub start: Duration,
    /// From told to go to gone.
    pub stop: Duration,
}

impl HollowNode {
    /// A large node without GPUs whose pods come up at once.
    pub fn new(name: &str) -> Self {
        let at_once = Duration::ZERO;
        Self { name: name.to_owned(), cpu: 1000, memory_gib: 4000, gpus: None, start: at_once, stop: at_once }
    }
}

/// Hollow nodes that live until they are dropped.
pub struct Hollow {
    tasks: JoinSet<()>,
}

impl Hollow {
    /// Brings nodes up, with a default StorageClass.
    pub async fn start(client: Client, nodes: Vec<HollowNode>) -> Result<Self> {
        storage_class(&client).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(claims(client.clone()));
        for (number, node) in nodes.into_iter().enumerate() {
            let kubelet = Arc::new(Kubelet { client: client.clone(), node, number, pods: AtomicU32::new(0) });
            kubelet.register().await?;
            tasks.spawn(kubelet.clone().beat());
            tasks.spawn(kubelet.follow());
        }
        Ok(Self { tasks })
    }

    /// Takes all of them away, as a power cut does.
    pub fn stop(mut self) {
        self.tasks.abort_all();
    }
}

struct Kubelet {
    client: Client,
    node: HollowNode,
    number: usize,
    pods: AtomicU32,
}

impl Kubelet {
    async fn register(&self) -> Result<()> {
        let node = &self.node;
        let mut capacity = BTreeMap::from([
            ("cpu", node.cpu.to_string()),
            ("memory", format!("{}Gi", node.memory_gib)),
            ("pods", "10000".to_owned()),
        ]);
        let mut labels = BTreeMap::from([("kubernetes.io/hostname", node.name.clone())]);
        if let Some((count, product)) = &node.gpus {
            capacity.insert("nvidia.com/gpu", count.to_string());
            labels.insert("nvidia.com/gpu.product", product.clone());
        }
        let object =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}});
        let api: Api<Node> = Api::all(self.client.clone());
        let params = PatchParams::apply("hollow").force();
        api.patch(&node.name, &params, &Patch::Apply(&object)).await.context("register a node")?;
        let now = Timestamp::now().to_string();
        let ready = json!({"type": "Ready", "status": "True", "reason": "Hollow", "message": "runs nothing",
            "lastHeartbeatTime": now, "lastTransitionTime": now});
        let status = json!({"apiVersion": "v1", "kind": "Node",
            "status": {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}});
        api.patch_status(&node.name, &params, &Patch::Apply(&status)).await.context("report a node")?;
        Ok(())
    }

    async fn beat(self: Arc<Self>) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let name = &self.node.name;
        loop {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40,
                    "renewTime": format!("{:.6}", Timestamp::now())}});
            let params = PatchParams::apply("hollow").force();
            if let Err(error) = api.patch(name, &params, &Patch::Apply(&lease)).await {
                eprintln!("hollow node {name}: {error}");
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    async fn follow(self: Arc<Self>) {
        let api: Api<Pod> = Api::all(self.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node.name));
        let mut pods = watcher(api, config).default_backoff().applied_objects().boxed();
        let mut tasks = JoinSet::new();
        while let Some(pod) = pods.next().await {
            while tasks.try_join_next().is_some() {}
            if let Ok(pod) = pod {
                tasks.spawn(self.clone().act(pod));
            }
        }
    }

    async fn act(self: Arc<Self>, pod: Pod) {
        let name = pod.name_any();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        let done = if pod.metadata.deletion_timestamp.is_some() {
            tokio::time::sleep(self.node.stop).await;
            api.delete(&name, &DeleteParams::default().grace_period(0)).await.map(drop)
        } else if phase == "Pending" {
            tokio::time::sleep(self.node.start).await;
            let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": self.status(&pod)});
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.map(drop)
        } else {
            Ok(())
        };
        match done {
            // It went meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => eprintln!("hollow pod {name}: {error}"),
            Ok(()) => {}
        }
    }

    fn status(&self, pod: &Pod) -> Value {
        let now = Timestamp::now().to_string();
        let spec = pod.spec.as_ref();
        let ends = spec.is_some_and(|spec| spec.restart_policy.as_deref() == Some("Never"));
        let condition = |kind: &str| {
            let is_so =
                if ends && kind != "Initialized" && kind != "PodScheduled" { "False" } else { "True" };
            json!({"type": kind, "status": is_so, "lastTransitionTime": now})
        };
        let container = |container: &k8s_openapi::api::core::v1::Container| {
            let state = if ends {
                json!({"terminated": {"exitCode": 0, "startedAt": now, "finishedAt": now}})
            } else {
                json!({"running": {"startedAt": now}})
            };
            json!({"name": container.name, "image": container.image, "imageID": "", "ready": !ends, "started": !ends,
                "restartCount": 0, "state": state})
        };
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
        let containers: Vec<Value> =
            spec.into_iter().flat_map(|spec| &spec.containers).map(container).collect();
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let ip = format!("10.{}.{}.{}", 64 + self.number % 64, (number / 250) % 250, number % 250 + 1);
        json!({
            "phase": if ends { "Succeeded" } else { "Running" },
            "startTime": now,
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": conditions,
            "containerStatuses": containers,
        })
    }
}

async fn storage_class(client: &Client) -> Result<()> {
    let api: Api<StorageClass> = Api::all(client.clone());
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "Immediate", "allowVolumeExpansion": true});
    let params = PatchParams::apply("hollow").force();
    api.patch(CLASS, &params, &Patch::Apply(&class)).await.context("make a StorageClass")?;
    Ok(())
}

/// Makes a volume for each claim, and lets it grow when the claim does.
async fn claims(client: Client) {
    let api: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let mut claims = watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
    while let Some(claim) = claims.next().await {
        let Ok(claim) = claim else { continue };
        if let Err(error) = settle(&client, &claim).await {
            eprintln!("hollow claim {}: {error}", claim.name_any());
        }
    }
}

async fn settle(client: &Client, claim: &PersistentVolumeClaim) -> Result<()> {
    let value = serde_json::to_value(claim)?;
    let asked = value.pointer("/spec/resources/requests/storage").cloned().unwrap_or_default();
    let has = value.pointer("/status/capacity/storage").cloned().unwrap_or_default();
    if claim.metadata.deletion_timestamp.is_some() || asked == has {
        return Ok(());
    }
    let namespace = claim.namespace().unwrap_or_default();
    let name = format!("hollow-{}", claim.uid().unwrap_or_default());
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "capacity": {"storage": asked},
        "accessModes": value.pointer("/spec/accessModes"),
        "storageClassName": value.pointer("/spec/storageClassName"),
        "persistentVolumeReclaimPolicy": "Delete",
        "hostPath": {"path": "/nowhere"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace,
            "name": claim.name_any(), "uid": claim.uid()},
    }});
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    volumes.patch(&name, &PatchParams::apply("hollow").force(), &Patch::Apply(&volume)).await?;
    // What is bound already was made larger.
    if !has.is_null() {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
        let grown = json!({"status": {"capacity": {"storage": asked}}});
        claims.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(&grown)).await?;
    }
    Ok(())
}
