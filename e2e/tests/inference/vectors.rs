//! A VectorCollection on a real VectorForge: made, changed in place, and left alone where it cannot be changed.

use std::path::Path;

use aistack_crds::VectorCollection;
use anyhow::{Context as _, Result};
use e2e::plane::free_port;
use e2e::process::Process;
use e2e::story::says;
use e2e::wait;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{DeleteParams, Patch, PatchParams};
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

/// Starts a VectorForge that keeps its data in a folder.
async fn vectorforge(http: &reqwest::Client, folder: &Path) -> Result<(String, Process)> {
    let (rest, admin) = (free_port()?, free_port()?);
    let local = |port: u16| format!("127.0.0.1:{port}");
    let settings = set(&[
        ("listen_http", local(rest)),
        ("listen_grpc", local(free_port()?)),
        ("server.admin_listen", local(admin)),
        ("data_dir", folder.join("data").display().to_string()),
    ]);
    let mut process = Process::start(folder, "vectorforge", &binary("vectorforge")?, &settings)?;
    until_ready(http, admin, &mut process).await?;
    Ok((format!("http://{}", local(rest)), process))
}

/// What Kubernetes would say once the only pod of a StatefulSet is ready.
async fn come_up(bed: &Bed, name: &str) -> Result<()> {
    let set = bed.until(name, "its server", |_: &StatefulSet| true).await?;
    let status = json!({"status": {"observedGeneration": set.metadata.generation, "replicas": 1, "updatedReplicas": 1,
        "readyReplicas": 1, "availableReplicas": 1}});
    let sets = bed.api::<StatefulSet>();
    sets.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

#[tokio::test]
async fn only_a_collection_that_was_made_for_an_object_goes_with_it() -> Result<()> {
    if e2e::Plane::shared().await.is_none() {
        return Ok(());
    }
    let (http, folder) = (reqwest::Client::builder().build()?, tempfile::tempdir()?);
    let (server, process) = vectorforge(&http, folder.path()).await?;
    let servers = vec![("vectorforge", server.clone(), process)];
    let Some(bed) = Bed::begin_with("vectors-shared", servers).await? else { return Ok(()) };
    let is_there = async |name: &str| {
        let answer = http.get(format!("{server}/collections/{name}")).send().await?;
        Ok::<bool, anyhow::Error>(answer.status().is_success())
    };
    let made = |size: u32| json!({"vectors": {"size": size, "distance": "Cosine"}});
    for (name, size) in [("theirs", 4), ("another", 8)] {
        let put = http.put(format!("{server}/collections/{name}")).json(&made(size));
        put.send().await?.error_for_status()?;
    }
    come_up(&bed, "vectorforge").await?;
    for name in ["theirs", "another", "ours"] {
        bed.apply(&format!(
            "apiVersion: platform.dev/v1\nkind: VectorCollection\nmetadata: {{name: {name}}}\nspec: {{dimension: 4, stackRef: {{name: s}}}}\n"
        ))
        .await?;
    }
    let says_ready = |it: &VectorCollection| {
        it.status.as_ref().is_some_and(|status| says(&status.conditions, "Ready", "Ready"))
    };
    for name in ["theirs", "ours"] {
        bed.until(name, "it is there", says_ready).await?;
    }
    for name in ["theirs", "another", "ours"] {
        bed.api::<VectorCollection>().delete(name, &DeleteParams::default()).await?;
        bed.story.until_gone::<VectorCollection>(name).await?;
        assert_eq!(is_there(name).await?, name != "ours", "{name}");
    }
    for name in ["theirs", "another"] {
        wait::until("an Event tells that it stays", || async {
            let told = wait::events(&bed.story.client, &bed.story.namespace, name).await;
            Ok(told.contains("CollectionLeft").then_some(()))
        })
        .await?;
    }
    bed.story.operator.stop().await
}

#[tokio::test]
async fn settings_are_changed_in_place_and_what_cannot_change_is_said() -> Result<()> {
    if e2e::Plane::shared().await.is_none() {
        return Ok(());
    }
    let (http, folder) = (reqwest::Client::builder().build()?, tempfile::tempdir()?);
    let (server, process) = vectorforge(&http, folder.path()).await?;
    let servers = vec![("vectorforge-own", server.clone(), process)];
    let Some(bed) = Bed::begin_with("vectors-own", servers).await? else { return Ok(()) };
    let info = || async {
        let answer = http.get(format!("{server}/collections/own")).send().await?;
        Ok::<Value, anyhow::Error>(answer.json::<Value>().await?["result"].clone())
    };

    bed.apply(&collection("hnsw: {m: 16}, payloadIndexes: [{field: file, type: keyword}]")).await?;
    come_up(&bed, "vectorforge-own").await?;
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
