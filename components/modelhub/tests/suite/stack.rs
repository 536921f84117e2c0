//! ModelHub on real stores and engines.

use aistack_api::modelhub::{EngineTask, KeysConfig, ModelhubConfig, VectorConfig, VectorKind};
use aistack_api::rag::{Answer, Passages};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::hub::{Hub, engine, eventually};
use crate::processes::{self, Service};

/// A name that no other test, and no other run against the same store, uses.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

pub fn on(config: &mut ModelhubConfig, kv: &Service) {
    config.kv.endpoints = vec![kv.url.clone()];
}

#[tokio::test]
async fn a_model_is_pushed_found_and_deleted() {
    let kv = processes::kv().await;
    let hub = Hub::start(|config| on(config, &kv)).await;
    let (model, other) = (unique("m"), unique("m"));
    assert_eq!(hub.post("/api/v1/models", &json!({"name": model, "labels": {"team": "a"}})).await.0, 201);
    let (status, reply) = hub.post("/api/v1/models", &json!({"name": model})).await;
    assert_eq!((status, reply["error"]["code"].as_str()), (409, Some("model_exists")));
    assert_eq!(hub.post("/api/v1/models", &json!({"name": other})).await.0, 201);

    let weights = vec![42_u8; 3_000_000];
    let sha256 = hex::encode(Sha256::digest(&weights));
    for name in [&model, &other] {
        let versions = format!("/api/v1/models/{name}/versions");
        let (status, version) =
            hub.post(&versions, &json!({"lineage": {"dataset": "d"}, "schema": {"in": "text"}})).await;
        assert_eq!((status, version["version"].as_u64()), (201, Some(1)), "{version}");
        let (status, file) = hub.put(&format!("{versions}/1/files/a/weights.bin"), weights.clone()).await;
        assert_eq!((status, file["sha256"].as_str()), (200, Some(sha256.as_str())), "{file}");
    }
    let versions = format!("/api/v1/models/{model}/versions");
    let again = hub.put(&format!("{versions}/1/files/a/weights.bin"), weights.clone()).await;
    assert_eq!(again.0, 200, "the same again changes nothing");
    let (status, reply) = hub.put(&format!("{versions}/1/files/a/weights.bin"), vec![1, 2]).await;
    assert_eq!((status, reply["error"]["code"].as_str()), (409, Some("file_exists")));
    let request = hub
        .client
        .put(format!("{}{versions}/1/files/b", hub.url))
        .header("x-checksum-sha256", "0".repeat(64));
    assert_eq!(hub.send(request.body("x")).await.0, 422);

    let got = hub
        .client
        .get(format!("{}{versions}/latest/files/a/weights.bin", hub.url))
        .send()
        .await
        .expect("a reply");
    assert_eq!(got.headers()["etag"], format!("\"{sha256}\""));
    assert_eq!(got.bytes().await.expect("whole"), weights);

    let label = json!({"labels": {"stage": "prod", "team": null}});
    let changed = hub.client.patch(format!("{}/api/v1/models/{model}", hub.url)).json(&label);
    assert_eq!(hub.send(changed).await.1["labels"], json!({"stage": "prod"}));
    let (_, found) = hub.get("/api/v1/models?label=stage%3Dprod").await;
    assert!(
        found["models"].as_array().is_some_and(|m| m.iter().any(|m| m["name"] == model.as_str())),
        "{found}"
    );

    let (_, gone) = hub.delete(&format!("/api/v1/models/{model}")).await;
    assert_eq!(gone["freed_bytes"], 0, "the other model's version shares the artefact");
    let (_, gone) = hub.delete(&format!("/api/v1/models/{other}")).await;
    assert_eq!(gone["freed_bytes"], 3_000_000);
    assert_eq!(hub.get(&format!("/api/v1/models/{model}")).await.0, 404);
}

#[tokio::test]
async fn concurrent_writers_lose_nothing() {
    let kv = processes::kv().await;
    let hub = Hub::start(|config| on(config, &kv)).await;
    let model = unique("m");
    hub.post("/api/v1/models", &json!({"name": model})).await;
    let path = format!("/api/v1/models/{model}/versions");
    let empty = json!({});
    let mut numbers: Vec<u64> = futures::future::join_all((0..8).map(|_| hub.post(&path, &empty)))
        .await
        .into_iter()
        .map(|(status, version)| {
            assert_eq!(status, 201, "{version}");
            version["version"].as_u64().expect("a number")
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    let paths: Vec<String> = (0..8).map(|i| format!("{path}/1/files/{i}")).collect();
    let files = paths.iter().enumerate().map(|(i, path)| hub.put(path, format!("content {}", i % 2)));
    let files: Vec<String> =
        futures::future::join_all(files).await.into_iter().map(|f| f.0.to_string()).collect();
    assert_eq!(files, vec!["200"; 8]);
    let (_, version) = hub.get(&format!("{path}/1")).await;
    assert_eq!(version["files"].as_array().map(Vec::len), Some(8));
    assert_eq!(hub.delete(&format!("/api/v1/models/{model}")).await.0, 200);
}

#[tokio::test]
async fn a_registry_larger_than_a_page_and_a_message_is_listed_whole() {
    let kv = processes::kv().await;
    let hub = Hub::start(|config| on(config, &kv)).await;
    let model = unique("m");
    let names: Vec<String> = (0..210).map(|i| format!("{model}-{i:03}")).collect();
    let description = "x".repeat(30_000);
    let bodies: Vec<_> = names.iter().map(|n| json!({"name": n, "description": description})).collect();
    for made in futures::future::join_all(bodies.iter().map(|body| hub.post("/api/v1/models", body))).await {
        assert_eq!(made.0, 201, "{}", made.1);
    }
    let (_, listed) = hub.get("/api/v1/models").await;
    let listed = listed["models"].as_array().expect("a list").iter();
    let mine: Vec<&str> =
        listed.filter_map(|m| m["name"].as_str()).filter(|n| n.starts_with(&format!("{model}-"))).collect();
    assert_eq!(mine, names);
    for name in &names {
        assert_eq!(hub.delete(&format!("/api/v1/models/{name}")).await.0, 200);
    }
}

#[tokio::test]
async fn keys_open_the_door_and_count() {
    let kv = processes::kv().await;
    let engine_double = crate::engine::Engine::start("m", crate::engine::Manner::Reply("Hello")).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (admin, file) = ("a".repeat(40), folder.path().join("admin"));
    std::fs::write(&file, &admin).expect("a file");
    let hub = Hub::start(|config| {
        on(config, &kv);
        config.engines = vec![engine("e", &engine_double.url, EngineTask::Chat)];
        config.keys = KeysConfig { required: true, admin_key_file: Some(file) };
    })
    .await;
    let chat = json!({"model": "m", "messages": []});
    let call = |key: String| {
        hub.send(hub.client.post(format!("{}/v1/chat/completions", hub.url)).bearer_auth(key).json(&chat))
    };
    assert_eq!(hub.post("/v1/chat/completions", &chat).await.0, 401);
    assert_eq!(call("mh-wrong".into()).await.0, 401);
    let made = |name: &str, limits: serde_json::Value| {
        let body = json!({"name": name, "limits": limits});
        hub.send(hub.client.post(format!("{}/api/v1/keys", hub.url)).bearer_auth(&admin).json(&body))
    };
    let (status, key) = made("ci", json!({"requests_per_minute": 2})).await;
    assert_eq!(status, 201, "{key}");
    let secret = key["key"].as_str().expect("a key").to_owned();
    // Half a minute pays for a further request, which a slow machine may need for these.
    let mut admitted = 0_u64;
    let refused = loop {
        match call(secret.clone()).await.0 {
            200 => admitted += 1,
            other => break other,
        }
    };
    assert!(refused == 429 && admitted >= 2, "{refused} after {admitted}");
    let (status, reply) =
        hub.send(hub.client.get(format!("{}/api/v1/keys", hub.url)).bearer_auth(&secret)).await;
    assert_eq!((status, reply["error"]["code"].as_str()), (403, Some("admin_key_required")));
    let list = || hub.send(hub.client.get(format!("{}/api/v1/keys", hub.url)).bearer_auth(&admin));
    eventually("usage is counted", || async {
        let (_, keys) = list().await;
        let mine = keys["keys"].as_array().and_then(|k| k.iter().find(|k| k["id"] == key["id"]).cloned());
        mine.is_some_and(|k| {
            k["requests"] == admitted
                && k["prompt_tokens"] == 7 * admitted
                && k["completion_tokens"] == 3 * admitted
        })
    })
    .await;
    let id = key["id"].as_str().expect("an id");
    let (status, _) =
        hub.send(hub.client.delete(format!("{}/api/v1/keys/{id}", hub.url)).bearer_auth(&admin)).await;
    assert_eq!((status, call(secret).await.0), (200, 401));
}

/// A hub with everything behind it.
struct Stack {
    hub: Hub,
    vectors: Service,
    rag: String,
    _others: [Service; 3],
}

async fn stack() -> Stack {
    let kv = processes::kv().await;
    let vectors = processes::vectors().await;
    let (chat, embed) = (processes::chat().await, processes::embed().await);
    let hub = Hub::start(|config| {
        on(config, &kv);
        let endpoint = vectors.url.clone();
        config.vector =
            Some(VectorConfig { kind: VectorKind::Qdrant, endpoint, api_key_file: None, tls: None });
        config.engines =
            vec![engine("chat", &chat.url, EngineTask::Chat), engine("embed", &embed.url, EngineTask::Embed)];
    })
    .await;
    let rag = unique("handbook");
    let (status, made) = hub.post("/api/v1/rag", &json!({"name": rag})).await;
    assert_eq!(status, 200, "{made}");
    Stack { hub, vectors, rag, _others: [kv, chat, embed] }
}

const LEAVE: &str = "# Annual leave\n\nEveryone has 27 days of paid leave a year.\n\n## Asking\n\nRequests are made at least ten \
                     working days before the first day of leave.\n";
const KITCHEN: &str = "<h1>Kitchen</h1><p>The dishwasher runs at <b>six</b> in the evening &amp; is emptied by the early shift.</p>";

#[tokio::test]
async fn files_become_cited_answers() {
    let Stack { hub, rag, .. } = &stack().await;
    let base = format!("/api/v1/rag/{rag}");
    for (path, text) in [("people/leave.md", LEAVE), ("office/kitchen.html", KITCHEN)] {
        let (status, reply) = hub.put(&format!("{base}/files/{path}"), text).await;
        assert_eq!((status, reply["unchanged"].as_bool()), (200, Some(false)), "{reply}");
        assert_eq!(hub.put(&format!("{base}/files/{path}"), text).await.1["unchanged"], true);
    }
    let digest = hex::encode(Sha256::digest(LEAVE));
    let source = json!({"files": [{"path": "people/leave.md", "sha256": digest}, {"path": "new.md", "sha256": "x"}], "prune": true});
    let (_, plan) = hub.post(&format!("{base}/sync"), &source).await;
    assert_eq!(plan, json!({"needed": ["new.md"], "unchanged": 1, "deleted": ["office/kitchen.html"]}));
    hub.put(&format!("{base}/files/office/kitchen.html"), KITCHEN).await;

    let (_, found) =
        hub.post(&format!("{base}/search"), &json!({"question": "When does the dishwasher run?"})).await;
    let found: Passages = serde_json::from_value(found).expect("passages");
    let best = &found.passages[0];
    assert_eq!(best.file, "office/kitchen.html");
    assert!(
        KITCHEN[best.start_byte as usize..best.end_byte as usize]
            .starts_with("The dishwasher runs at <b>six")
    );

    let question = json!({"question": "How many days before leave are requests made?"});
    let (status, answer) = hub.post(&format!("{base}/query"), &question).await;
    assert_eq!(status, 200, "{answer}");
    let answer: Answer = serde_json::from_value(answer).expect("an answer");
    assert!(
        answer.answered && !answer.sentences.is_empty() && answer.timings.answer_tokens > 0,
        "{answer:?}"
    );
    for citation in &answer.citations {
        let file = if citation.file.ends_with("md") { LEAVE } else { KITCHEN };
        let span = &file[citation.start_byte as usize..citation.end_byte as usize];
        assert!(
            citation.file.ends_with("html") || span == citation.quote,
            "{span:?} is not {:?}",
            citation.quote
        );
    }
    let nothing = json!({"question": "What is the boiling point of tungsten?", "min_score": 0.6});
    let (_, answer) = hub.post(&format!("{base}/query"), &nothing).await;
    assert_eq!((answer["answered"].as_bool(), answer["model"].as_str()), (Some(false), Some("")));
    assert_eq!(hub.delete(&base).await.0, 200);
}

#[tokio::test]
async fn a_changed_file_replaces_its_passages() {
    let Stack { hub, rag, .. } = &stack().await;
    let base = format!("/api/v1/rag/{rag}");
    hub.put(&format!("{base}/files/a.md"), LEAVE).await;
    hub.put(&format!("{base}/files/a.md"), "# Leave\n\nRequests are made by pigeon.\n").await;
    let (_, found) = hub
        .post(&format!("{base}/search"), &json!({"question": "How are requests made?", "min_score": -1.0}))
        .await;
    let found: Passages = serde_json::from_value(found).expect("passages");
    assert_eq!(found.passages.len(), 1, "{found:?}");
    assert_eq!(found.passages[0].text, "Requests are made by pigeon.");
    let response = hub.client.post(format!("{}{base}/rebuild", hub.url)).send().await.expect("a reply");
    let events = response.text().await.expect("events");
    assert!(
        events.lines().last().is_some_and(|l| l.contains("\"done\"") && l.contains("\"ready\"")),
        "{events}"
    );
    let (_, again) =
        hub.post(&format!("{base}/search"), &json!({"question": "How are requests made?"})).await;
    assert_eq!(again["passages"][0]["text"], "Requests are made by pigeon.");
    let (status, reply) = hub.put(&format!("{base}/files/a.docx"), "x").await;
    assert_eq!((status, reply["error"]["code"].as_str()), (422, Some("unreadable_file")));
    assert_eq!(hub.delete(&base).await.0, 200);
}

#[tokio::test]
async fn a_vector_store_that_dies_is_an_error_and_comes_back() {
    let Stack { hub, rag, vectors, .. } = &mut stack().await;
    let base = format!("/api/v1/rag/{rag}");
    let question = json!({"question": "How many days before leave are requests made?"});
    hub.put(&format!("{base}/files/a.md"), LEAVE).await;
    assert_eq!(hub.post(&format!("{base}/search"), &question).await.0, 200);
    let Some(process) = &mut vectors.process else {
        // A store that is not ours is left alone, and clean.
        assert_eq!(hub.delete(&base).await.0, 200);
        return;
    };
    process.kill();
    let (status, reply) = hub.post(&format!("{base}/query"), &question).await;
    assert_eq!((status, reply["error"]["code"].as_str()), (503, Some("vector_store_unavailable")), "{reply}");
    process.restart().await;
    eventually("the ask succeeds again", || async {
        hub.post(&format!("{base}/search"), &question).await.0 == 200
    })
    .await;
    let (_, found) = hub.post(&format!("{base}/search"), &question).await;
    assert_eq!(found["passages"][0]["file"], "a.md", "nothing acknowledged is lost");
}
