//! Day two of a KVCluster on processes of TinyKV, while clients write.

use std::path::PathBuf;
use std::time::Instant;

use aistack_crds::KVCluster;
use anyhow::{Context as _, Result, ensure};
use e2e::story::{message, says};
use e2e::{Bed, Story, wait};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, PostParams};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::clients::Writers;
use super::hub::binary;
use super::monitor::{Monitor, told, until_at_rest};

/// Begins a story with a cluster that rests; `None` where nothing can run.
pub async fn founded(name: &str, voters: usize) -> Result<Option<(&'static Bed, Story)>> {
    let Some(bed) = Bed::of_processes() else { return Ok(None) };
    let story = Story::on(&bed.plane, name).await?;
    let text = format!(
        "apiVersion: platform.dev/v1\nkind: KVCluster\nmetadata: {{name: kv}}\nspec: {{replicas: {voters}, storage: 1Gi}}\n"
    );
    story.apply(&text).await?;
    until_at_rest(&story, "kv", voters).await?;
    Ok(Some((bed, story)))
}

async fn edit(story: &Story, spec: Value) -> Result<()> {
    story.edit::<KVCluster>("kv", &json!({"spec": spec})).await
}

async fn annotate(story: &Story, annotations: Value) -> Result<()> {
    story.edit::<KVCluster>("kv", &json!({"metadata": {"annotations": annotations}})).await
}

pub async fn told_of(story: &Story) -> String {
    let mut told = wait::events(&story.client, &story.namespace, "kv").await;
    for pod in 0..5 {
        told += &wait::events(&story.client, &story.namespace, &format!("kv-{pod}")).await;
    }
    told
}

/// The uids of the pods, by name.
pub async fn pods(story: &Story) -> Result<Vec<(String, String)>> {
    let list = story.api::<Pod>().list(&ListParams::default()).await?.items;
    let mut pods: Vec<_> = list.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect();
    pods.sort();
    Ok(pods)
}

/// Waits until five claims have two GiB each: the StatefulSet makes smaller ones.
async fn until_grown(story: &Story) -> Result<()> {
    wait::until("every claim has grown", || async {
        let claims = story.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?.items;
        let has = |claim: &PersistentVolumeClaim| {
            let value = serde_json::to_value(claim).unwrap_or_default();
            value.pointer("/status/capacity/storage") == Some(&json!("2Gi"))
        };
        Ok((claims.len() == 5 && claims.iter().all(has)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_grows_and_rolls_and_shrinks_while_clients_write() -> Result<()> {
    let Some((bed, story)) = founded("day-two", 3).await? else { return Ok(()) };
    let writers = Writers::begin(bed, "day-two", 50);
    let monitor = Monitor::over(bed, &story, "kv");
    let began = Instant::now();
    let lap = |what: &str| {
        println!("{:5.1} s  {what}, {} operations", began.elapsed().as_secs_f64(), writers.done());
    };

    let before = pods(&story).await?;
    edit(&story, json!({"replicas": 5})).await?;
    until_at_rest(&story, "kv", 5).await?;
    lap("grown to five");
    assert_eq!(pods(&story).await?[..3], before[..], "those that were there stay as they are");
    assert_eq!(told(&story, "kv", "LeaderMoved").await?, 0, "growth needs no election");

    edit(&story, json!({"pod": {"annotations": {"rolled": "once"}}})).await?;
    let after = before.clone();
    wait::until("every pod is made anew", || async {
        let now = pods(&story).await?;
        Ok((now.len() == 5 && now.iter().all(|pod| !after.contains(pod))).then_some(()))
    })
    .await?;
    until_at_rest(&story, "kv", 5).await?;
    lap("rolled");
    let elections = told(&story, "kv", "LeaderMoved").await?;
    assert!(elections <= 1, "{elections} planned elections to roll five pods");

    let rolled = pods(&story).await?;
    edit(&story, json!({"storage": "2Gi"})).await?;
    until_grown(&story).await?;
    until_at_rest(&story, "kv", 5).await?;
    lap("volumes grown");
    let now = pods(&story).await?;
    ensure!(
        now == rolled,
        "no pod is touched for it, but {rolled:?} are {now:?} after:\n{}",
        told_of(&story).await
    );

    edit(&story, json!({"replicas": 3})).await?;
    until_at_rest(&story, "kv", 3).await?;
    lap("shrunk to three");
    let shrunk = told(&story, "kv", "LeaderMoved").await? - elections;
    assert!(shrunk <= 2, "{shrunk} planned elections to remove two members");

    let stayed = pods(&story).await?;
    edit(&story, json!({"replicas": 5})).await?;
    until_at_rest(&story, "kv", 5).await?;
    until_grown(&story).await?;
    lap("grown to five again, with larger volumes");
    assert_eq!(pods(&story).await?[..3], stayed[..3], "those that were there stay as they are");

    let taken = monitor.end()?;
    assert_eq!(taken, 5, "pods of voters that were made anew are those of the roll");
    let seen = writers.end(bed, "day-two").await?;
    println!(
        "{} operations, {} of them at the second try and none at a third, the longest {:.1} s; {taken} pods made anew",
        seen.done,
        seen.retried,
        seen.longest.as_secs_f64()
    );
    story.operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_volumes_are_given_up_by_name_and_a_lost_majority_only_when_confirmed() -> Result<()> {
    let Some((bed, story)) = founded("lost", 3).await? else { return Ok(()) };
    let writers = Writers::begin_beside_faults(bed, "lost", 5);
    let lost = lose(bed, &story, "kv-1").await?;
    let advised = |reason: &'static str, advice: &'static str| {
        move |kv: &KVCluster| {
            let conditions = kv.status.as_ref().map_or(&[][..], |status| status.conditions.as_slice());
            says(conditions, "Degraded", reason) && message(conditions, "Degraded").contains(advice)
        }
    };
    let away = advised("VoterAway", "platform.dev/replace-member=kv-1");
    story.until::<KVCluster>("kv", "it says what to do", away).await?;
    annotate(&story, json!({"platform.dev/replace-member": "kv-1"})).await?;
    wait::until("its claim is another", || async {
        let claim = story.api::<PersistentVolumeClaim>().get_opt("data-kv-1").await?;
        Ok(claim.filter(|claim| claim.uid().as_deref() != Some(lost.as_str())))
    })
    .await?;
    let kv = until_at_rest(&story, "kv", 3).await?;
    assert!(!kv.annotations().contains_key("platform.dev/replace-member"), "it is done once");
    let seen = writers.end(bed, "lost").await?;
    println!(
        "a member was replaced under {} operations, {} of them waited for an election",
        seen.done, seen.forgiven
    );

    // Two of three: nobody can tell what they acknowledged.
    lose(bed, &story, "kv-0").await?;
    lose(bed, &story, "kv-2").await?;
    let told_so = |reason: &'static str| {
        move |kv: &KVCluster| {
            let conditions = kv.status.iter().flat_map(|status| &status.conditions);
            conditions.filter(|it| it.reason == reason).count() > 0
        }
    };
    story.until::<KVCluster>("kv", "most are away", told_so("TooFewAnswer")).await?;
    let way_out = advised("NoQuorum", "platform.dev/recover-from=kv-1");
    story.until::<KVCluster>("kv", "it says who could go on alone", way_out).await?;
    annotate(&story, json!({"platform.dev/recover-from": "kv-1"})).await?;
    story.until::<KVCluster>("kv", "it asks to be sure", told_so("NotHeeded")).await?;
    annotate(&story, json!({"platform.dev/accept-data-loss": "kv"})).await?;
    wait::until("it goes on from one", || async {
        Ok((told(&story, "kv", "Recovered").await? > 0).then_some(()))
    })
    .await?;
    until_at_rest(&story, "kv", 3).await?;
    let writers = Writers::begin_beside_faults(bed, "lost", 5);
    wait::until("it takes writes", || async { Ok((writers.done() > 50).then_some(())) }).await?;
    writers.end(bed, "lost").await?;
    story.operator.stop().await
}

/// A volume is gone, and its machine with it: the pod comes back to an empty one. Says which claim that was.
pub async fn lose(bed: &Bed, story: &Story, pod: &str) -> Result<String> {
    let claims = story.api::<PersistentVolumeClaim>();
    let name = format!("data-{pod}");
    let old = claims.get(&name).await?.uid().context("a uid")?;
    claims.delete(&name, &DeleteParams::default()).await?;
    if let Some(live) = bed.hollow.live(&story.namespace).into_iter().find(|live| live.name == pod) {
        live.signal(Signal::SIGKILL);
    }
    story.api::<Pod>().delete(pod, &DeleteParams::default().grace_period(0)).await?;
    let fresh = wait::until("Kubernetes made another claim", || async {
        let claim = claims.get_opt(&name).await?;
        Ok(claim.and_then(|claim| claim.uid()).filter(|uid| *uid != old))
    })
    .await?;
    Ok(fresh)
}

/// What `kubectl aistack` prints when it does what it is told.
async fn aistack(story: &Story, args: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new(binary("aistack")?);
    command.env("KUBECONFIG", story.plane.kubeconfig()).env("NO_COLOR", "1");
    let done = command.args(["-k", "-n", &story.namespace]).args(args).output().await?;
    ensure!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

/// Has a Job of a KVCluster's begin; its name.
pub async fn now(story: &Story, act: &str) -> Result<String> {
    let said = aistack(story, &[act, "kv"]).await?;
    let job = said.strip_prefix("kv/kv: job ").and_then(|said| said.split(' ').next());
    job.map(str::to_owned).with_context(|| format!("no Job is named in {said}"))
}

pub fn is_done(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| status.succeeded == Some(1))
}

/// Where they lie in that volume.
pub fn within(story: &Story) -> String {
    format!("kv/{}/kv", story.namespace)
}

/// A volume for backups: the folder in it where those of `kv` lie, kept in `pvc://shelf/kv`.
pub async fn shelf(bed: &Bed, story: &Story) -> Result<PathBuf> {
    let claims = story.api::<PersistentVolumeClaim>();
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "shelf"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}});
    let claim = claims.create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
    Ok(bed.hollow.folder().join("volumes").join(claim.uid().context("a uid")?).join(within(story)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_takes_a_backup_and_begins_another_cluster_with_it() -> Result<()> {
    let Some((bed, story)) = founded("backups", 1).await? else { return Ok(()) };
    let shelf = shelf(bed, &story).await?;
    let writers = Writers::begin(bed, "backups", 3);
    wait::until("there is something", || async { Ok((writers.done() > 20).then_some(())) }).await?;
    writers.end(bed, "backups").await?;
    edit(&story, json!({"backup": {"schedule": "0 3 * * *", "destination": "pvc://shelf/kv", "keep": 2}}))
        .await?;
    story.until::<CronJob>("kv-backup", "its schedule", |_| true).await?;
    let job = now(&story, "backup").await?;
    story.until(&job, "the backup is taken", is_done).await?;
    let taken = std::fs::read_dir(shelf)?.next().context("a backup")??.file_name();
    let source = format!("pvc://shelf/{}/{}", within(&story), taken.display());
    let said = aistack(&story, &["restore", "copy", "--from", &source]).await?;
    assert!(said.starts_with(&format!("kv/copy: begins with {source}\n")), "{said}");
    until_at_rest(&story, "copy", 3).await?;
    let live =
        bed.hollow.live("backups").into_iter().find(|live| live.name == "copy-2").context("a member")?;
    let mut client = etcd_client::Client::connect([format!("http://{}:2379", live.address)], None).await?;
    let prefix = etcd_client::GetOptions::new().with_prefix();
    let found = client.get("writer-", Some(prefix)).await?;
    assert_eq!(found.kvs().len(), 3, "what was there is there");
    // One that starts again has data, and leaves it.
    live.signal(Signal::SIGKILL);
    story.api::<Pod>().delete("copy-2", &DeleteParams::default()).await?;
    wait::until("it is another pod", || async {
        let now = bed.hollow.live("backups");
        Ok(now.iter().any(|now| now.name == "copy-2" && now.uid != live.uid && now.is_ready).then_some(()))
    })
    .await?;
    until_at_rest(&story, "copy", 3).await?;
    story.operator.stop().await
}
