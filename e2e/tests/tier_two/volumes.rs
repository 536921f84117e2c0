//! Volumes that grow under their pods, of everything that has some; and a child that is refused, beside which all goes on.

use std::collections::BTreeMap;

use aistack_crds::{AIStack, KVCluster, VectorCollection};
use anyhow::{Context as _, Result};
use e2e::{Bed, Story, story::says, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::json;

use super::day_two::founded;

/// Uids of the pods and StatefulSets, by name.
async fn uids(story: &Story) -> Result<BTreeMap<String, String>> {
    let mut uids = BTreeMap::new();
    for pod in story.api::<Pod>().list(&ListParams::default()).await?.items {
        uids.insert(format!("pod {}", pod.name_any()), pod.uid().unwrap_or_default());
    }
    for set in story.api::<StatefulSet>().list(&ListParams::default()).await?.items {
        uids.insert(format!("set {}", set.name_any()), set.uid().unwrap_or_default());
    }
    Ok(uids)
}

async fn until_claims_have(story: &Story, names: &[&str], size: &str) -> Result<()> {
    let claims = story.api::<PersistentVolumeClaim>();
    wait::until(&format!("{names:?} have {size}"), || async {
        for name in names {
            let claim = serde_json::to_value(claims.get_opt(name).await?).unwrap_or_default();
            if claim.pointer("/status/capacity/storage") != Some(&json!(size)) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn every_volume_of_a_stack_grows_and_no_pod_starts_anew_for_it() -> Result<()> {
    let Some(bed) = Bed::shared() else { return Ok(()) };
    let story = Story::on(&bed.plane, "volumes").await?;
    let stack = |size: &str| {
        format!(
            "apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {{name: s}}\nspec:\n  tinykv: {{storage: {size}}}\n  \
             vectorforge: {{storage: {size}}}\n  tinyinfer: {{model: m, embedding: {{model: e}}}}\n  modelhub: {{storage: {size}}}\n---\n\
             apiVersion: platform.dev/v1\nkind: VectorCollection\nmetadata: {{name: own}}\nspec: {{dimension: 8, storage: {size}}}\n"
        )
    };
    let names = ["data-tinykv-0", "data-vectorforge-0", "data-modelhub-0", "data-vectorforge-own-0"];
    story.apply(&stack("1Gi")).await?;
    until_claims_have(&story, &names, "1Gi").await?;
    // A store of one voter is made anew by nothing; the others may still come up.
    let pods = ["tinykv-0", "vectorforge-0", "modelhub-0", "vectorforge-own-0"];
    for pod in pods {
        story.until::<Pod>(pod, "it is there", |_| true).await?;
    }
    let before = uids(&story).await?;
    story.apply(&stack("2Gi")).await?;
    until_claims_have(&story, &names, "2Gi").await?;
    let writes = story.operator.until_settled().await?;
    let after = uids(&story).await?;
    for name in pods.map(|pod| format!("pod {pod}")) {
        assert_eq!(after.get(&name), before.get(&name), "{name}");
    }
    for (name, uid) in before.iter().filter(|(name, _)| name.starts_with("set ")) {
        assert_eq!(after.get(name), Some(uid), "{name}");
    }
    let is_degraded = |conditions: &[Condition]| says(conditions, "Degraded", "ApplyFailed");
    let stack = story.api::<AIStack>().get("s").await?.status.context("a status")?;
    assert!(!is_degraded(&stack.conditions), "{:?}", stack.conditions);
    let own = story.api::<VectorCollection>().get("own").await?.status.context("a status")?;
    assert!(!is_degraded(&own.conditions), "{:?}", own.conditions);

    // At rest nothing more is written, although the templates of the StatefulSets are smaller for ever.
    story.operator.until_reconciled(story.operator.reconciled() + 3).await?;
    assert_eq!(story.operator.writes(), writes);
    story.operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_typing_error_in_a_backup_does_not_stop_day_two() -> Result<()> {
    let Some((_, story)) = founded("mistaken", 1).await? else { return Ok(()) };
    // A range that ends before it begins: the schema takes it, and a CronJob does not.
    let backup = json!({"schedule": "0 3 * * fri-1", "destination": "s3://bucket/path"});
    story.edit::<KVCluster>("kv", &json!({"spec": {"replicas": 3, "backup": backup}})).await?;
    let grown = |kv: &KVCluster| {
        let Some(status) = &kv.status else { return false };
        let is_ready = status.conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
        is_ready && status.members.iter().filter(|member| member.ready).count() == 3
    };
    let kv = story.until::<KVCluster>("kv", "it has grown to three voters", grown).await?;
    let conditions = kv.status.context("a status")?.conditions;
    let degraded = conditions.iter().find(|it| it.type_ == "Degraded").context("a condition")?;
    assert_eq!(degraded.reason, "ApplyFailed");
    assert!(degraded.message.contains("CronJob kv-backup was refused"), "{}", degraded.message);
    let right = json!({"spec": {"backup": {"schedule": "0 3 1-9 * *"}}});
    story.edit::<KVCluster>("kv", &right).await?;
    super::monitor::until_at_rest(&story, "kv", 3).await?;
    story.operator.stop().await
}
