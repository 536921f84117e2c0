//! Tenants of one operator that sees the whole cluster, before a real API server.

use std::time::Duration;

use aistack_api::operator::OperatorConfig;
use aistack_crds::{InferenceService, InferenceServiceSpec, KVCluster, KVClusterSpec};
use anyhow::Result;
use e2e::{Plane, Running, wait};
use kube::api::{Api, PostParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_never_answer_keep_nobody_else_waiting() -> Result<()> {
    const TENANTS: usize = 12;
    let Some(plane) = Plane::shared().await else { return Ok(()) };
    // Takes connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", silent.local_addr()?);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            kept.push(stream);
        }
    });
    let mut config = OperatorConfig { local_endpoints: true, ..OperatorConfig::default() };
    config.lease.enabled = false;
    let operator = Running::begin(plane, &config)?;
    wait::until("the operator is ready", || async { Ok(operator.health.is_ready().then_some(())) }).await?;
    let service: InferenceServiceSpec =
        serde_json::from_value(json!({"model": {"name": "m"}, "runtime": "external", "endpoint": endpoint}))?;
    for tenant in 0..TENANTS {
        let namespace = plane.namespace(&format!("silent-{tenant}")).await?;
        let services: Api<InferenceService> = Api::namespaced(plane.client(), &namespace);
        for number in 0..8 {
            let service = InferenceService::new(&format!("s-{number}"), service.clone());
            services.create(&PostParams::default(), &service).await?;
        }
    }
    let others = plane.namespace("beside-silent").await?;
    let clusters: Api<KVCluster> = Api::namespaced(plane.client(), &others);
    wait::until("more wait outside than there are workers", || async {
        Ok((operator.sum("workqueue_outside") > 10).then_some(()))
    })
    .await?;
    let mut longest = Duration::ZERO;
    for number in 0..20 {
        let (name, began) = (format!("kv-{number}"), std::time::Instant::now());
        clusters.create(&PostParams::default(), &KVCluster::new(&name, KVClusterSpec::default())).await?;
        let says = |kv: &KVCluster| kv.status.as_ref().is_some_and(|status| !status.conditions.is_empty());
        wait::object(&clusters, &plane.client(), &name, "it is looked at", says).await?;
        longest = longest.max(began.elapsed());
    }
    println!("the longest of 20 took {} ms beside {TENANTS} tenants of silent servers", longest.as_millis());
    assert!(longest < Duration::from_secs(3), "{longest:?}: less than one silent server is given");
    operator.stop().await
}
