//! Changes that cannot be carried out: what serves goes on serving, and whoever waits for the change is told that it is not done, and why.

use aistack_crds::{AIStack, KVCluster};
use anyhow::{Context as _, Result};
use e2e::story::{message, says};
use e2e::{Bed, Story};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::day_two::founded;
use super::monitor::until_at_rest;

fn of_stack(stack: &AIStack) -> &[Condition] {
    stack.status.as_ref().map_or(&[], |status| status.conditions.as_slice())
}

fn of_cluster(kv: &KVCluster) -> &[Condition] {
    kv.status.as_ref().map_or(&[], |status| status.conditions.as_slice())
}

/// Whether it tells why the members that it is to have do not come.
fn does_not_grow(kv: &KVCluster, why: &str) -> bool {
    ["Degraded", "Progressing"].iter().all(|kind| message(of_cluster(kv), kind).contains(why))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_that_finds_no_node_says_so_and_takes_no_second_voter() -> Result<()> {
    let Some((_, story)) = founded("stuck", 3).await? else { return Ok(()) };
    story.edit::<KVCluster>("kv", &json!({"spec": {"pod": {"nodeSelector": {"there": "is-none"}}}})).await?;
    let is_told = |kv: &KVCluster| {
        let conditions = of_cluster(kv);
        says(conditions, "Degraded", "VoterAway")
            && message(conditions, "Degraded").contains("fits on no node")
            && !message(conditions, "Degraded").contains("replace-member")
            && !message(conditions, "Progressing").is_empty()
            && !message(conditions, "Reconciling").is_empty()
            && !message(conditions, "Available").is_empty()
    };
    story.until::<KVCluster>("kv", "it tells what its pod waits for", is_told).await?;
    let pods = story.api::<Pod>().list(&kube::api::ListParams::default()).await?.items;
    let selected = pods.iter().filter(|pod| {
        pod.spec
            .as_ref()
            .and_then(|spec| spec.node_selector.as_ref())
            .is_some_and(|it| it.contains_key("there"))
    });
    assert_eq!(selected.count(), 1, "one voter is taken, and no other");
    story.edit::<KVCluster>("kv", &json!({"spec": {"pod": {"nodeSelector": null}}})).await?;
    until_at_rest(&story, "kv", 3).await?;
    // A member that fits on no node is no member that catches up.
    story
        .edit::<KVCluster>(
            "kv",
            &json!({"spec": {"replicas": 5, "pod": {"nodeSelector": {"there": "is-none"}}}}),
        )
        .await?;
    let waits = |kv: &KVCluster| does_not_grow(kv, "fits on no node");
    story.until::<KVCluster>("kv", "it tells why it does not grow", waits).await?;
    story.edit::<KVCluster>("kv", &json!({"spec": {"pod": {"nodeSelector": null}}})).await?;
    until_at_rest(&story, "kv", 5).await?;
    story.operator.stop().await
}

#[tokio::test]
async fn a_stack_tells_of_a_change_that_its_child_cannot_carry_out() -> Result<()> {
    let Some(bed) = Bed::of_processes() else { return Ok(()) };
    let story = Story::on(&bed.plane, "stuck-child").await?;
    let stack = |kv: &str| {
        format!(
            "apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {{name: s}}\nspec: {{tinykv: {{{kv}}}}}\n"
        )
    };
    story.apply(&stack("")).await?;
    let is_ready = |stack: &AIStack| {
        let conditions = of_stack(stack);
        says(conditions, "Ready", "Ready") && message(conditions, "Progressing").is_empty()
    };
    story.until("s", "it serves", is_ready).await?;
    story.apply(&stack("replicas: 3, pod: {nodeSelector: {there: is-none}}")).await?;
    let is_told = |stack: &AIStack| {
        let conditions = of_stack(stack);
        says(conditions, "Degraded", "PartDegraded")
            && message(conditions, "Degraded").contains("fits on no node")
            && message(conditions, "Progressing").starts_with("tinykv: ")
            && !message(conditions, "Reconciling").is_empty()
            && !message(conditions, "Available").is_empty()
    };
    let told = story.until("s", "it tells of its child", is_told).await?;
    let summary = told.status.and_then(|status| status.summary).context("a line")?;
    assert!(summary.contains("tinykv: WaitingForPods"), "{summary}");
    story.apply(&stack("")).await?;
    story.until("s", "it is taken back", is_ready).await?;
    story.operator.stop().await
}

#[tokio::test]
async fn a_secret_that_is_not_there_takes_no_pod_away() -> Result<()> {
    let Some(bed) = Bed::shared() else { return Ok(()) };
    let story = Story::on(&bed.plane, "no-secret").await?;
    let secret = |name: &str| -> Result<Secret> {
        Ok(serde_json::from_value(json!({"metadata": {"name": name}, "stringData": {"key": "k"}}))?)
    };
    let secrets = story.api::<Secret>();
    secrets.create(&PostParams::default(), &secret("there")?).await?;
    story
        .apply(
            "apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {name: s}\nspec: {tinykv: {}, vectorforge: {}, inference: {type: vllm, model: m}, modelhub: {secretRef: {name: there, key: key}}}\n",
        )
        .await?;
    let is_up = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
    };
    let before = story.until::<Pod>("modelhub-0", "it serves", is_up).await?;
    let set = story.api::<StatefulSet>().get("modelhub").await?;
    let name = |name: &str| json!({"spec": {"modelhub": {"secretRef": {"name": name}}}});
    story.edit::<AIStack>("s", &name("mistyped")).await?;
    let is_told = |stack: &AIStack| {
        let conditions = of_stack(stack);
        says(conditions, "Degraded", "SecretMissing") && !message(conditions, "Progressing").is_empty()
    };
    story.until("s", "it tells what it waits for", is_told).await?;
    story.operator.until_reconciled(story.operator.reconciled()).await?;
    let generation = story.api::<StatefulSet>().get("modelhub").await?.metadata.generation;
    assert_eq!(generation, set.metadata.generation, "nothing was asked of its pods");
    let now = story.api::<Pod>().get("modelhub-0").await?;
    assert_eq!(
        (now.uid(), now.metadata.deletion_timestamp.is_none()),
        (before.uid(), true),
        "the hub serves"
    );
    secrets.create(&PostParams::default(), &secret("mistyped")?).await?;
    let is_new = |pod: &Pod| pod.uid() != before.uid() && is_up(pod);
    let before = story.until::<Pod>("modelhub-0", "it has the new one", is_new).await?;

    // The same for the key of an engine that the hub asks, and for a key that the Secret has not.
    let generation = async || {
        let set = story.api::<StatefulSet>().get("modelhub").await?;
        Ok::<_, anyhow::Error>(set.metadata.generation)
    };
    let at_rest = generation().await?;
    let engine = |key: &str| {
        json!({"spec": {"inference": {"type": "external", "endpoint": "http://127.0.0.1:9",
            "secretRef": {"name": "engine", "key": key}}}})
    };
    let tells = |words: &'static str| {
        move |stack: &AIStack| {
            let conditions = of_stack(stack);
            says(conditions, "Degraded", "SecretMissing") && message(conditions, "Degraded").contains(words)
        }
    };
    story.edit::<AIStack>("s", &engine("token")).await?;
    story.until("s", "the engine's key", tells("Secret engine is not in this namespace")).await?;
    assert_eq!(generation().await?, at_rest, "nothing was asked of its pods");
    secrets.create(&PostParams::default(), &secret("engine")?).await?;
    story.until("s", "it looks into it", tells("Secret engine has no key token")).await?;
    assert_eq!(generation().await?, at_rest, "nothing was asked of its pods yet");
    assert_eq!(story.api::<Pod>().get("modelhub-0").await?.uid(), before.uid());
    story.edit::<AIStack>("s", &engine("key")).await?;
    let is_new = |pod: &Pod| pod.uid() != before.uid() && is_up(pod);
    story.until::<Pod>("modelhub-0", "it has the engine's key", is_new).await?;

    // What the hub of now needs stays until the next one may come: its store, and the settings that it was made with.
    let store = story.api::<KVCluster>().get("tinykv").await?;
    let (hub, at_rest) = (story.api::<StatefulSet>().get("modelhub").await?, generation().await?);
    let volumes = hub.spec.template.spec.and_then(|pod| pod.volumes).context("volumes")?;
    let settings = volumes.into_iter().find_map(|volume| volume.config_map).context("its settings")?.name;
    let etcd = json!({"spec": {"tinykv": null, "kvStore": {"type": "etcd", "endpoints": ["http://127.0.0.1:9"],
        "username": "u", "secretRef": {"name": "later", "key": "key"}}}});
    story.edit::<AIStack>("s", &etcd).await?;
    story.until("s", "the store's key", tells("Secret later is not in this namespace")).await?;
    story.operator.until_reconciled(story.operator.reconciled() + 1).await?;
    assert_eq!(generation().await?, at_rest, "nothing was asked of its pods");
    let now = story.api::<KVCluster>().get("tinykv").await?;
    assert_eq!(
        (now.uid(), now.metadata.deletion_timestamp.is_none()),
        (store.uid(), true),
        "the store stays"
    );
    story.api::<ConfigMap>().get(&settings).await.context("its settings stay")?;
    secrets.create(&PostParams::default(), &secret("later")?).await?;
    story.until_gone::<KVCluster>("tinykv").await?;
    story.until_gone::<ConfigMap>(&settings).await?;
    story.operator.stop().await
}

#[tokio::test]
async fn pods_that_may_not_be_made_are_told_of_by_whom_and_no_volume_is_given_up_for_it() -> Result<()> {
    let Some((_, story)) = founded("refused", 3).await? else { return Ok(()) };
    let quota = json!({"metadata": {"name": "few"}, "spec": {"hard": {"pods": "3"}}});
    let quotas = story.api::<ResourceQuota>();
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    let is_known = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.used.is_some());
    story.until::<ResourceQuota>("few", "it counts", is_known).await?;
    story.edit::<KVCluster>("kv", &json!({"spec": {"replicas": 5}})).await?;
    let waits = |kv: &KVCluster| does_not_grow(kv, "exceeded quota");
    story.until::<KVCluster>("kv", "it tells why it does not grow", waits).await?;
    // One voter less than there is room for.
    let fewer = json!({"spec": {"hard": {"pods": "2"}}});
    quotas.patch("few", &PatchParams::default(), &Patch::Merge(&fewer)).await?;
    story.api::<Pod>().delete("kv-1", &DeleteParams::default()).await?;
    let is_told = |kv: &KVCluster| {
        let conditions = of_cluster(kv);
        says(conditions, "Degraded", "VoterAway")
            && message(conditions, "Degraded").contains("exceeded quota")
            && !message(conditions, "Degraded").contains("replace-member")
    };
    story.until::<KVCluster>("kv", "it tells why its voter is away", is_told).await?;
    quotas.delete("few", &DeleteParams::default()).await?;
    until_at_rest(&story, "kv", 5).await?;
    story.operator.stop().await
}

#[tokio::test]
async fn a_secret_without_its_ca_is_told_of_before_there_is_a_member() -> Result<()> {
    let Some(bed) = Bed::shared() else { return Ok(()) };
    let story = Story::on(&bed.plane, "no-ca").await?;
    let half = json!({"metadata": {"name": "half"}, "type": "kubernetes.io/tls", "stringData": {"tls.crt": "", "tls.key": ""}});
    story.api::<Secret>().create(&PostParams::default(), &serde_json::from_value(half)?).await?;
    story
        .apply("apiVersion: platform.dev/v1\nkind: KVCluster\nmetadata: {name: kv}\nspec: {tls: {secretName: half}}\n")
        .await?;
    // A hollow pod has an address before it has its volumes, and then it is the operator's own question that lacks the CA.
    let is_told = |kv: &KVCluster| {
        let said = message(of_cluster(kv), "Degraded");
        said.contains("Secret half has no") && said.contains("ca.crt")
    };
    story.until::<KVCluster>("kv", "it tells which key it lacks", is_told).await?;
    story.operator.stop().await
}
