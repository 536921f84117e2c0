//! Members that contradict one another: told, and left alone until a person has mended it.

use std::path::Path;
use std::time::Duration;

use aistack_crds::KVCluster;
use anyhow::{Context as _, Result, ensure};
use e2e::{Bed, Story, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::DeleteParams;
use serde_json::json;

use super::day_two::{founded, pods};
use super::hub::binary;
use super::monitor::{told, until_at_rest};

async fn tinykv(args: &[&str]) -> Result<()> {
    let done = tokio::process::Command::new(binary("tinykv")?).args(args).output().await?;
    ensure!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Puts a member of another cluster on a volume, of the same names: what a person does who restores one of three alone.
async fn restore_alone(bed: &Bed, backup: &Path, volume: &Path) -> Result<()> {
    let members: Vec<String> = (0..3).map(|it| format!("kv-{it}=http://kv-{it}.kv-members:2380")).collect();
    let fresh = bed.hollow.folder().join("foreign");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (file, data) = (text(backup), text(&fresh));
    let members = members.join(",");
    tinykv(&["restore", &file, "--data-dir", &data, "--name", "kv-2", "--initial-cluster", &members]).await?;
    std::fs::remove_dir_all(volume)?;
    let moved = tokio::process::Command::new("cp").arg("-a").arg(&fresh).arg(volume).status().await?;
    ensure!(moved.success(), "{} is not on the volume", fresh.display());
    Ok(())
}

fn is_broken(kv: &KVCluster) -> bool {
    kv.status.iter().flat_map(|status| &status.conditions).any(|it| {
        it.type_ == "Degraded"
            && it.status == "True"
            && it.reason == "InvariantBroken"
            && it.message.contains("kv-0 and kv-1 of cluster ")
            && it.observed_generation == kv.metadata.generation
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_another_cluster_is_told_of_and_nothing_is_done_until_it_is_gone() -> Result<()> {
    let Some((bed, story)) = founded("foreign", 3).await? else { return Ok(()) };
    let live = bed.hollow.live("foreign").into_iter().find(|it| it.name == "kv-0").context("a member")?;
    let backup = bed.hollow.folder().join("foreign.db");
    let endpoint = format!("http://{}:2379", live.address);
    tinykv(&["backup", "--endpoints", &endpoint, &backup.to_string_lossy()]).await?;
    story.api::<KVCluster>().delete("kv", &DeleteParams::default()).await?;
    story.until_gone::<StatefulSet>("kv").await?;
    wait::until("its pods are gone", || async { Ok(pods(&story).await?.is_empty().then_some(())) }).await?;
    let claims = story.api::<PersistentVolumeClaim>();
    let uid = claims.get("data-kv-2").await?.metadata.uid.context("a uid")?;
    restore_alone(bed, &backup, &bed.hollow.folder().join("volumes").join(uid)).await?;

    story.apply(&kv(3)).await?;
    story.until::<KVCluster>("kv", "the third is of another cluster", is_broken).await?;
    assert!(told(&story, "kv", "InvariantBroken").await? > 0, "an Event tells of it");
    // More is asked for: no member is added, and no pod is touched.
    let before = pods(&story).await?;
    story.edit::<KVCluster>("kv", &json!({"spec": {"replicas": 5, "quota": "512Mi"}})).await?;
    story.until::<KVCluster>("kv", "it was looked at since", is_broken).await?;
    // As long as several looks take: that nothing happens cannot be waited for.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(pods(&story).await?, before, "{}", super::day_two::told_of(&story).await);
    assert_eq!(told(&story, "kv", "MemberAdded").await?, 0);

    mend(&story).await?;
    until_at_rest(&story, "kv", 5).await?;
    story.operator.stop().await
}

fn kv(replicas: usize) -> String {
    format!(
        "apiVersion: platform.dev/v1\nkind: KVCluster\nmetadata: {{name: kv}}\nspec: {{replicas: {replicas}, storage: 1Gi}}\n"
    )
}

/// As the condition says.
async fn mend(story: &Story) -> Result<()> {
    story.api::<PersistentVolumeClaim>().delete("data-kv-2", &DeleteParams::default()).await?;
    story.api::<Pod>().delete("kv-2", &DeleteParams::default()).await?;
    let replace = json!({"metadata": {"annotations": {"platform.dev/replace-member": "kv-2"}}});
    story.edit::<KVCluster>("kv", &replace).await
}
