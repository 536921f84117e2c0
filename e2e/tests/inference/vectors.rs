//! A VectorCollection on a real VectorForge: made, changed in place, and left alone where it cannot be changed.

use aistack_crds::VectorCollection;
use anyhow::{Context as _, Result};
use e2e::plane::free_port;
use e2e::process::Process;
use e2e::story::says;
use e2e::wait;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::bed::{Bed, binary, set, until_ready};

fn collection(spec: &str) -> String {
    format!(
        "apiVersion: platform.dev/v1\nkind: VectorCollection\nmetadata: {{name: own}}\nspec: {{dimension: 8, {spec}}}\n"
    )
}

async fn until_says(bed: &Bed, kind: &str, reason: &str) -> Result<VectorCollection> {
    let told = |object: &VectorCollection| {
        object.status.as_ref().is_some_and(|status| {
            status.observed_generation == object.metadata.generation && says(&status.conditions, kind, reason)
        })
    };
    bed.until("own", &format!("{kind}: {reason}"), told).await
}

#[tokio::test]
async fn settings_are_changed_in_place_and_what_cannot_change_is_said() -> Result<()> {
    if e2e::Plane::shared().await.is_none() {
        return Ok(());
    }
    let (http, folder) = (reqwest::Client::builder().build()?, tempfile::tempdir()?);
    let (rest, admin) = (free_port()?, free_port()?);
    let local = |port: u16| format!("127.0.0.1:{port}");
    let settings = set(&[
        ("listen_http", local(rest)),
        ("listen_grpc", local(free_port()?)),
        ("server.admin_listen", local(admin)),
        ("data_dir", folder.path().join("data").display().to_string()),
    ]);
    let mut process = Process::start(folder.path(), "vectorforge", &binary("vectorforge")?, &settings)?;
    until_ready(&http, admin, &mut process).await?;
    let server = format!("http://{}", local(rest));
    let servers = vec![("vectorforge-own", server.clone(), process)];
    let Some(bed) = Bed::begin_with("vectors-own", servers).await? else { return Ok(()) };
    let info = || async {
        let answer = http.get(format!("{server}/collections/own")).send().await?;
        Ok::<Value, anyhow::Error>(answer.json::<Value>().await?["result"].clone())
    };

    bed.apply(&collection("hnsw: {m: 16}, payloadIndexes: [{field: file, type: keyword}]")).await?;
    let set = bed.until("vectorforge-own", "its server", |_: &StatefulSet| true).await?;
    let status = json!({"status": {"observedGeneration": set.metadata.generation, "replicas": 1, "updatedReplicas": 1,
        "readyReplicas": 1, "availableReplicas": 1}});
    let sets = bed.api::<StatefulSet>();
    sets.patch_status("vectorforge-own", &PatchParams::default(), &Patch::Merge(&status)).await?;
    until_says(&bed, "SettingsApplied", "Applied").await?;
    assert_eq!(info().await?.pointer("/config/hnsw_config/m"), Some(&json!(16)));
    let points: Vec<Value> =
        (0..20).map(|id| json!({"id": id, "vector": [id, 1, 2, 3, 4, 5, 6, 7]})).collect();
    let wrote =
        http.put(format!("{server}/collections/own/points?wait=true")).json(&json!({"points": points}));
    wrote.send().await?.error_for_status()?;

    bed.apply(&collection("hnsw: {m: 32, efConstruct: 200}, payloadIndexes: [{field: file, type: keyword}, {field: lines, type: integer}]"))
        .await?;
    wait::until("the graph's settings are changed", || async {
        let info = info().await?;
        let is_so = info.pointer("/config/hnsw_config/m") == Some(&json!(32))
            && info.pointer("/config/hnsw_config/ef_construct") == Some(&json!(200))
            && info.pointer("/payload_schema/lines/data_type") == Some(&json!("integer"));
        Ok(is_so.then_some(()))
    })
    .await?;
    until_says(&bed, "SettingsApplied", "Applied").await?;
    assert_eq!(info().await?["points_count"], 20, "the points are there");

    // An index that is not named any more is somebody's, perhaps.
    bed.apply(&collection("hnsw: {m: 32, efConstruct: 200}, payloadIndexes: [{field: file, type: keyword}]"))
        .await?;
    let told = until_says(&bed, "IndexesMatch", "MoreThanAsked").await?;
    let conditions = told.status.context("a status")?.conditions;
    assert!(
        conditions.iter().any(|c| c.type_ == "IndexesMatch" && c.message.contains("lines")),
        "{conditions:?}"
    );

    // What cannot change is refused at once; another collection of the name is left alone.
    let api = bed.api::<VectorCollection>();
    let changed =
        api.patch("own", &PatchParams::default(), &Patch::Merge(&json!({"spec": {"distance": "Dot"}}))).await;
    assert!(changed.is_err_and(|error| error.to_string().contains("cannot change")));
    http.delete(format!("{server}/collections/own")).send().await?.error_for_status()?;
    let other = json!({"vectors": {"size": 8, "distance": "Dot"}});
    http.put(format!("{server}/collections/own")).json(&other).send().await?.error_for_status()?;
    let label = json!({"metadata": {"labels": {"look": "again"}}});
    api.patch("own", &PatchParams::default(), &Patch::Merge(&label)).await?;
    until_says(&bed, "Degraded", "OtherCollection").await?;
    assert_eq!(info().await?.pointer("/config/params/vectors/distance"), Some(&json!("Dot")));
    bed.story.operator.stop().await
}
