//! `kubectl aistack`, as a person runs it.

use std::process::Output;

use aistack_crds::{AIStack, InferenceService};
use anyhow::{Context as _, Result};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::bed::{Bed, binary};
use crate::service;

async fn aistack(bed: &Bed, namespace: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("aistack")?);
    command.env("KUBECONFIG", &bed.kubeconfig).env("NO_COLOR", "1").arg("-k");
    command.args(["-n", namespace]).args(args).output().await.context("run aistack")
}

/// What it prints, and its exit code.
async fn said(bed: &Bed, args: &[&str]) -> Result<(String, i32)> {
    said_in(bed, &bed.namespace, args).await
}

async fn said_in(bed: &Bed, namespace: &str, args: &[&str]) -> Result<(String, i32)> {
    let output = aistack(bed, namespace, args).await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((String::from_utf8(text)?, output.status.code().unwrap_or(-1)))
}

#[tokio::test]
async fn a_person_looks_promotes_pauses_and_asks_what_is_wrong() -> Result<()> {
    let Some(bed) = Bed::begin("isvc-plugin").await? else { return Ok(()) };
    let canary = "  model: {name: m, version: '1'}\n  canary: {version: '2', steps: [50, 100]}\n";
    bed.apply(&service("talk", canary)).await?;
    bed.until_says("talk", "Ready", "WaitingForPods").await?;
    let is_looked_at = |stack: &AIStack| stack.status.as_ref().is_some_and(|status| status.summary.is_some());
    bed.until("s", "its parts are there, and told of", is_looked_at).await?;
    let (tree, code) = said(&bed, &["status"]).await?;
    assert_eq!(code, 4, "not all is Ready: {tree}");
    for line in ["AIStack s ", "─ KVCluster tinykv ", "InferenceService talk "] {
        assert!(tree.contains(line), "{line} is not in\n{tree}");
    }
    let (json, _) = said(&bed, &["status", "isvc/talk", "-o", "json"]).await?;
    let json: Value = serde_json::from_str(&json).with_context(|| json.clone())?;
    assert_eq!(
        (&json[0]["kind"], &json[0]["ready"]),
        (&Value::from("InferenceService"), &Value::from(false))
    );

    let (text, code) = said(&bed, &["pause", "talk"]).await?;
    assert_eq!(code, 0, "{text}");
    bed.until("talk", "it is paused", |s: &InferenceService| {
        s.annotations().get("platform.dev/paused").is_some_and(|paused| paused == "true")
    })
    .await?;
    assert!(said(&bed, &["status", "talk"]).await?.0.contains("paused; "));
    let (text, code) = said(&bed, &["promote", "talk"]).await?;
    assert!(code == 2 && text.contains("first: kubectl aistack resume isvc/talk"), "{text}");
    let (text, _) = said(&bed, &["doctor"]).await?;
    assert!(text.contains("isvc/talk: paused: nothing is done to it"), "{text}");
    assert_eq!(said(&bed, &["resume", "isvc/talk"]).await?.1, 0);

    let (text, code) = said(&bed, &["promote", "talk"]).await?;
    assert_eq!(
        (text.as_str(), code),
        ("isvc/talk: version 2 gets every request once its pods are ready\n", 0)
    );
    let promoted = bed.api::<InferenceService>().get("talk").await?;
    assert_eq!((promoted.spec.model.version.as_deref(), promoted.spec.canary), (Some("2"), None));
    let (text, code) = said(&bed, &["rollback", "talk"]).await?;
    assert!(code == 2 && text.contains("InferenceService talk has no canary"), "{text}");

    let (text, code) = said(&bed, &["doctor"]).await?;
    assert_eq!(code, 1, "{text}");
    for line in
        ["ok     kinds: all seven, of this version", "wrong  operator: none leads", "wrong  isvc/talk: "]
    {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    for (args, words, wanted) in [
        (["logs", "talk"].as_slice(), "has no pods now", 1),
        (&["logs", "nobody"], "nobody is not in namespace isvc-plugin; there are ", 2),
        (&["backup", "tinykv"], "does not say where its backups go", 2),
        (&["drill", "tinykv"], "has no restore drill", 2),
        (&["restore", "tinykv", "--from", "s3://b/x.db"], "is there and has data of its own", 2),
        (&["pause", "pod/x"], "pod is no kind of ours", 2),
        (&["pause", "talk", "-o", "json"], "unexpected argument '-o'", 2),
    ] {
        let (text, code) = said(&bed, args).await?;
        assert!(code == wanted && text.contains(words), "{args:?}: {code} {text}");
    }
    let (text, code) = said_in(&bed, "isvc-plugim", &["status"]).await?;
    assert!(code == 1 && text.contains("there is no namespace isvc-plugim"), "{text}");

    // Somebody else's finalizer holds it.
    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    let api = bed.api::<InferenceService>();
    api.patch("talk", &PatchParams::default(), &Patch::Merge(&held)).await?;
    api.delete("talk", &DeleteParams::default()).await?;
    for (args, wanted) in [(["status", "isvc/talk"].as_slice(), 4), (&["doctor"], 1)] {
        let (text, code) = said(&bed, args).await?;
        assert!(code == wanted && text.contains("is being deleted since "), "{args:?}: {code} {text}");
        assert!(!text.contains("no operator has looked"), "{text}");
    }
    let free = json!({"metadata": {"finalizers": null}});
    api.patch("talk", &PatchParams::default(), &Patch::Merge(&free)).await?;
    bed.story.operator.stop().await
}
