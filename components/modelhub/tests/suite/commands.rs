//! The command line against a server: what it refuses to send, and what a broken-off push leaves.

use std::process::{Command, Output};

use serde_json::json;

use crate::hub::Hub;
use crate::processes;
use crate::stack::{on, unique};

fn modelhub(hub: &Hub, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelhub"));
    command.args(["--url", &hub.url]).args(arguments).output().expect("it runs")
}

/// What a command that must fail says.
fn refused(hub: &Hub, arguments: &[&str]) -> String {
    let output = modelhub(hub, arguments);
    assert!(!output.status.success(), "{arguments:?} is accepted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_reaches_no_other_noun() {
    let kv = processes::kv().await;
    let hub = Hub::start(|config| on(config, &kv)).await;
    let victim = unique("victim");
    assert_eq!(hub.post("/api/v1/models", &json!({"name": victim})).await.0, 201);
    let (_, key) = hub.post("/api/v1/keys", &json!({"name": "k"})).await;
    let at_model = format!("../models/{victim}");
    let at_key = format!("../keys/{}", key["id"].as_str().expect("an id"));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.md"), "text").expect("written");
    let docs = folder.path().display().to_string();
    for target in [at_model.as_str(), at_key.as_str(), "..", "."] {
        for words in
            [["rag", "delete"], ["rag", "show"], ["models", "delete"], ["models", "show"], ["keys", "revoke"]]
        {
            let said = refused(&hub, &[words[0], words[1], target]);
            assert!(said.contains("cannot be a name"), "{words:?} {target}: {said}");
        }
    }
    for words in
        [["rag", "ingest", "../x", &docs], ["rag", "ingest", "", &docs], ["models", "push", "", &docs]]
    {
        let said = refused(&hub, &words);
        assert!(said.contains("cannot be a name"), "{words:?}: {said}");
    }
    assert!(refused(&hub, &["models", "delete", &format!("{victim}:..")]).contains("is no version"));
    assert_eq!(hub.get(&format!("/api/v1/models/{victim}")).await.0, 200, "the model is there");
    let (_, keys) = hub.get("/api/v1/keys").await;
    assert!(keys["keys"].as_array().is_some_and(|k| k.iter().any(|k| k["id"] == key["id"])), "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_the_last_version_whose_files_are_all_here() {
    let kv = processes::kv().await;
    let hub = Hub::start(|config| on(config, &kv)).await;
    let model = unique("m");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.bin");
    std::fs::write(&file, "weights").expect("written");
    let output = modelhub(&hub, &["models", "push", &model, &file.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains(&format!("pushed {model}:1, 1 file, ")), "{output:?}");

    let at = format!("/api/v1/models/{model}");
    let versions = format!("{at}/versions");
    let (status, version) = hub.post(&versions, &json!({"files": ["a.bin", "b.bin"]})).await;
    assert_eq!((status, version["version"].as_u64()), (201, Some(2)));
    let latest = || async { hub.get(&format!("{versions}/latest")).await.1["version"].as_u64() };
    assert_eq!(latest().await, Some(1), "nothing came yet");
    assert_eq!(hub.put(&format!("{versions}/2/files/a.bin"), "one").await.0, 200);
    assert_eq!(latest().await, Some(1), "half came");
    assert_eq!(hub.get(&format!("{versions}/2")).await.1["awaiting"], json!(["b.bin"]));
    let target = folder.path().join("here").display().to_string();
    let said = refused(&hub, &["models", "pull", &format!("{model}:2"), &target]);
    assert!(
        said.contains("is unfinished") && said.contains("b.bin") && said.contains("push it again"),
        "{said}"
    );
    let shown = modelhub(&hub, &["models", "show", &model]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("2 (unfinished)"), "{shown:?}");
    assert_eq!(hub.put(&format!("{versions}/2/files/b.bin"), "two").await.0, 200);
    assert_eq!(latest().await, Some(2), "all came");
    assert_eq!(hub.get(&at).await.1["latest_version"], 2);

    let (_, version) = hub.post(&versions, &json!({})).await;
    assert_eq!(
        (version["version"].as_u64(), latest().await),
        (Some(3), Some(2)),
        "an empty one is not latest"
    );
    assert_eq!(hub.delete(&format!("{versions}/2")).await.0, 200);
    assert_eq!(latest().await, Some(1), "the one before is again");
    let (_, version) = hub.post(&versions, &json!({})).await;
    assert_eq!(version["version"], 4, "numbers are not given again");

    let empty = unique("m");
    assert_eq!(hub.post("/api/v1/models", &json!({"name": empty})).await.0, 201);
    assert_eq!(hub.post(&format!("/api/v1/models/{empty}/versions"), &json!({})).await.0, 201);
    let said = refused(&hub, &["models", "pull", &empty, &target]);
    assert!(said.contains("no complete version") && said.contains("push again"), "{said}");
    assert!(!std::path::Path::new(&target).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_means_nothing_is_refused() {
    let kv = processes::kv().await;
    let hub = Hub::start(|config| on(config, &kv)).await;
    let model = unique("m");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.bin");
    std::fs::write(&file, "weights").expect("written");
    let file = file.display().to_string();
    let cases: [(&[&str], &str); 5] = [
        (&["models", "push", &model, &file, "--parent", "nope:1"], "--parent nope:1: model nope is not in"),
        (&["models", "push", &model, &file, "--label", "=x"], "write NAME=VALUE"),
        (&["models", "push", &model, &file, "--schema", &file], "a.bin: this file must be JSON"),
        (&["keys", "create", ""], "a key needs a name"),
        (&["keys", "create", "k", "--requests-per-minute", "0"], "would let nothing through"),
    ];
    for (words, want) in cases {
        let said = refused(&hub, words);
        assert!(said.contains(want), "{words:?}: {said}");
    }
    assert_eq!(hub.get(&format!("/api/v1/models/{model}")).await.0, 404, "nothing was made");
    assert_eq!(hub.post("/api/v1/models", &json!({"name": model, "labels": {"": "x"}})).await.0, 400);
    assert_eq!(hub.post("/api/v1/models", &json!({"name": model})).await.0, 201);
    let version = json!({"lineage": {"parent": "nope:1"}});
    let (status, reply) = hub.post(&format!("/api/v1/models/{model}/versions"), &version).await;
    assert_eq!((status, reply["error"]["code"].as_str()), (400, Some("invalid_parent")), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_ours_that_is_unknown_is_refused_however_it_is_sent() {
    let kv = processes::kv().await;
    let hub = Hub::start(|config| on(config, &kv)).await;
    let (_, key) = hub.post("/api/v1/keys", &json!({"name": "k"})).await;
    let known = key["key"].as_str().expect("a key").to_owned();
    let status = async |path: &str, value: String| {
        let request = hub.client.get(format!("{}{path}", hub.url)).header("authorization", value);
        hub.send(request).await.0
    };
    for path in ["/v1/models", "/api/v1/models", "/api/v1/keys"] {
        for scheme in ["Bearer ", "bearer ", "BEARER ", ""] {
            assert_eq!(status(path, format!("{scheme}{known}")).await, 200, "{path} {scheme}");
            assert_eq!(status(path, format!("{scheme}{known}x")).await, 401, "{path} {scheme}");
        }
        assert_eq!(
            status(path, "Bearer sk-placeholder".to_owned()).await,
            200,
            "of OpenAI's clients: {path}"
        );
    }
}
