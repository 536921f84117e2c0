//! Restore drills of a KVCluster: pods of tinykv that try the newest backup.

use aistack_crds::KVCluster;
use anyhow::{Context as _, Result};
use e2e::{Story, wait};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{ListParams, LogParams};
use serde_json::json;

use super::day_two::{founded, is_done, now, shelf, within};

/// Waits until a pod of a Job has ended so; what it printed.
async fn said(story: &Story, job: &str, phase: &str) -> Result<String> {
    let pods = story.api::<Pod>();
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let ended = wait::until(&format!("a pod of {job} has {phase}"), || async {
        let found = pods.list(&of_job).await?.items;
        Ok(found.into_iter().find(|pod| {
            pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|it| it == phase)
        }))
    })
    .await?;
    Ok(pods.logs(&ended.name_any(), &LogParams::default()).await?)
}

/// Waits until the object says so of its last drill.
async fn until_restorable(story: &Story, word: &str, reason: &str) -> Result<()> {
    let says = |kv: &KVCluster| {
        let conditions = kv.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|it| it.type_ == "Restorable" && it.status == word && it.reason == reason)
    };
    story.until::<KVCluster>("kv", &format!("Restorable is {word}, {reason}"), says).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_restores_the_newest_backup_and_tells_when_it_cannot() -> Result<()> {
    let Some((bed, story)) = founded("drill", 1).await? else { return Ok(()) };
    let shelf = shelf(bed, &story).await?;
    let backup =
        json!({"schedule": "0 3 * * *", "destination": "pvc://shelf/kv", "drill": {"schedule": "0 5 * * 0"}});
    story.edit::<KVCluster>("kv", &json!({"spec": {"backup": backup}})).await?;
    let drill = story.until::<CronJob>("kv-drill", "its schedule", |_| true).await?;
    assert_eq!(drill.spec.schedule, "0 5 * * 0");
    until_restorable(&story, "Unknown", "NotYet").await?;

    let none = said(&story, &now(&story, "drill").await?, "Failed").await?;
    let nowhere = format!("file:///var/lib/aistack-backups/{}: there is no backup", within(&story));
    assert!(none.contains(&nowhere), "{none}");

    let job = now(&story, "backup").await?;
    story.until(&job, "the backup is taken", is_done).await?;
    let file = std::fs::read_dir(&shelf)?.next().context("a backup")??;
    let name = file.file_name().to_string_lossy().into_owned();
    let job = now(&story, "drill").await?;
    story.until::<Job>(&job, "the drill passes", is_done).await?;
    let sound = said(&story, &job, "Succeeded").await?;
    assert!(sound.contains(&name) && sound.contains("restored and sound. revision "), "{sound}");
    assert_eq!(std::fs::read_dir(&shelf)?.count(), 1, "nothing is written beside it");
    // One that was begun by hand counts, and goes with its schedule.
    until_restorable(&story, "True", "DrillPassed").await?;
    let owners = story.api::<Job>().get(&job).await?.metadata.owner_references.unwrap_or_default();
    assert!(
        owners.iter().any(|owner| owner.name == "kv-drill" && owner.controller == Some(true)),
        "{owners:?}"
    );

    let mut bytes = std::fs::read(file.path())?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file.path(), &bytes)?;
    let damaged = said(&story, &now(&story, "drill").await?, "Failed").await?;
    let words = "no cluster could begin with the newest backup";
    assert!(
        damaged.contains(words) && damaged.contains(&name) && damaged.contains("is damaged"),
        "{damaged}"
    );

    // By its schedule, as the object tells.
    let every_minute = json!({"spec": {"backup": {"drill": {"schedule": "* * * * *"}}}});
    story.edit::<KVCluster>("kv", &every_minute).await?;
    until_restorable(&story, "False", "DrillFailed").await?;
    bytes[middle] ^= 1;
    std::fs::write(file.path(), &bytes)?;
    until_restorable(&story, "True", "DrillPassed").await?;
    story.operator.stop().await
}
