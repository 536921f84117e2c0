//! A node as an object: what it has, and that it lives.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::HollowNode;

/// Between two heartbeats; the node lifecycle controller gives up after forty seconds.
const HEARTBEAT: Duration = Duration::from_secs(10);

pub(super) async fn register(client: &Client, node: &HollowNode, port: u16) -> Result<()> {
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
    let api: Api<Node> = Api::all(client.clone());
    let params = PatchParams::apply("hollow").force();
    api.patch(&node.name, &params, &Patch::Apply(&object)).await.context("register a node")?;
    let now = Timestamp::now().to_string();
    let ready = json!({"type": "Ready", "status": "True", "reason": "Hollow", "message": "runs nothing",
        "lastHeartbeatTime": now, "lastTransitionTime": now});
    let status = json!({"apiVersion": "v1", "kind": "Node",
        "status": {"capacity": capacity, "allocatable": capacity, "conditions": [ready],
            // Where the API server asks for what pods print.
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    api.patch_status(&node.name, &params, &Patch::Apply(&status)).await.context("report a node")?;
    Ok(())
}

pub(super) async fn beat(client: Client, name: String) {
    let api: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    loop {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40,
                "renewTime": format!("{:.6}", Timestamp::now())}});
        let params = PatchParams::apply("hollow").force();
        if let Err(error) = api.patch(&name, &params, &Patch::Apply(&lease)).await {
            eprintln!("hollow node {name}: {error}");
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}
