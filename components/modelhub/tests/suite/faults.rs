//! A component goes in the middle of an ask: the error says so in the protocol's form, and the ask succeeds when it is back.

use aistack_api::modelhub::{EngineTask, VectorConfig, VectorKind};
use futures::StreamExt;
use modelhub::sse;
use serde_json::{Value, json};

use crate::engine::{Engine, Manner};
use crate::hub::{Hub, engine, eventually};
use crate::pdf::Quick;
use crate::processes;
use crate::stack::unique;

const ANSWER: [&str; 2] = [
    "data: {\"choices\":[{\"delta\":{\"content\":\"Requests are made ten working days before.\"}}]}\n\n",
    "data: [DONE]\n\n",
];
const LEAVE: &str = "# Leave\n\nRequests are made ten working days before the first day.\n";
const QUESTION: &str = "How many days before leave are requests made?";

fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn an_engine_that_breaks_off_is_told_once_the_answer_began() {
    let quick = Quick::start(processes::kv().await, processes::vectors().await).await;
    assert_eq!(quick.put("leave.md", LEAVE).await.0, 200);
    quick.chat.set(Manner::Break);
    let before = quick.chat.requests();
    let (status, reply) = quick.query(QUESTION).await;
    assert_eq!((status, code(&reply)), (503, "answer_broke_off"), "{reply}");
    assert!(reply["error"]["message"].as_str().is_some_and(|m| m.contains("c broke off")), "{reply}");
    let events = ask_streaming(&quick.hub, &quick.rag).await;
    let (name, data) = events.last().expect("an event");
    assert_eq!(name, "error", "{events:?}");
    assert!(data.contains("engine_broke_off"), "{data}");
    assert!(events.iter().any(|(name, _)| name == "passages"), "what was found is shown all the same");
    assert_eq!(quick.chat.requests() - before, 2, "a reply that began is never asked for again");
    quick.chat.set(Manner::Pieces(ANSWER.to_vec()));
    let (status, answer) = quick.query(QUESTION).await;
    assert_eq!((status, answer["answered"].as_bool()), (200, Some(true)), "{answer}");
}

async fn ask_streaming(hub: &Hub, rag: &str) -> Vec<(String, String)> {
    let body = json!({"question": QUESTION, "stream": true});
    let response = hub.client.post(format!("{}/api/v1/rag/{rag}/query", hub.url)).json(&body).send().await;
    let text = response.expect("a reply").text().await.expect("whole");
    sse::Reader::default().push(text.as_bytes()).into_iter().map(|e| (e.name, e.data)).collect()
}

#[tokio::test]
async fn an_embedding_engine_that_is_down_is_passed_over() {
    let quick = Quick::start(processes::kv().await, processes::vectors().await).await;
    assert_eq!(quick.put("leave.md", LEAVE).await.0, 200);
    quick.embed.set(Manner::Fail(503));
    let (status, reply) = quick.query(QUESTION).await;
    assert_eq!(status, 503, "{reply}");
    assert!(reply["error"]["message"].as_str().is_some_and(|m| m.contains("not now")), "{reply}");
    quick.embed.set(Manner::Embed);
    quick.chat.set(Manner::Pieces(ANSWER.to_vec()));
    assert_eq!(quick.query(QUESTION).await.0, 200);

    let (bad, good) = (Engine::start("e", Manner::Fail(503)).await, Engine::start("e", Manner::Embed).await);
    let hub = Hub::start(|config| {
        crate::stack::on(config, &quick.kv);
        let endpoint = quick.vectors.url.clone();
        config.vector =
            Some(VectorConfig { kind: VectorKind::Qdrant, endpoint, api_key_file: None, tls: None });
        config.engines =
            vec![engine("bad", &bad.url, EngineTask::Embed), engine("good", &good.url, EngineTask::Embed)];
        config.rag.min_score = -1.0;
    })
    .await;
    for _ in 0..4 {
        let body = json!({"question": QUESTION});
        assert_eq!(hub.post(&format!("/api/v1/rag/{}/search", quick.rag), &body).await.0, 200);
    }
    assert_eq!((bad.requests(), good.requests()), (2, 4), "retried on the other one");
}

#[tokio::test]
async fn a_kv_store_that_dies_is_an_error_and_comes_back() {
    let kv = processes::own_kv(None, &[]).await;
    let mut quick = Quick::start(kv, processes::vectors().await).await;
    assert_eq!(quick.put("leave.md", LEAVE).await.0, 200);
    assert_eq!(quick.hub.post("/api/v1/models", &json!({"name": "kept"})).await.0, 201);
    quick.chat.set(Manner::Pieces(ANSWER.to_vec()));
    assert_eq!(quick.query(QUESTION).await.0, 200);
    quick.kv.process.as_mut().expect("ours").kill();
    for (status, reply) in [
        quick.query(QUESTION).await,
        quick.put("other.md", LEAVE).await,
        quick.hub.post("/api/v1/models", &json!({"name": "lost"})).await,
        quick.hub.get("/api/v1/models/kept").await,
    ] {
        assert_eq!((status, code(&reply)), (503, "kv_store_unavailable"), "{reply}");
        assert!(reply["error"]["message"].as_str().is_some_and(|m| m.contains("is it running?")), "{reply}");
    }
    quick.chat.set(Manner::Reply("Hello"));
    let chat = json!({"model": "c", "messages": []});
    assert_eq!(quick.hub.post("/v1/chat/completions", &chat).await.0, 200, "the gateway needs no store");
    quick.chat.set(Manner::Pieces(ANSWER.to_vec()));
    quick.kv.process.as_mut().expect("ours").restart().await;
    eventually("the ask succeeds again", || async { quick.query(QUESTION).await.0 == 200 }).await;
    assert_eq!(quick.show().await, (1, 1));
    assert_eq!(quick.hub.get("/api/v1/models/kept").await.0, 200, "nothing acknowledged is lost");
    assert_eq!(quick.hub.get("/api/v1/models/lost").await.0, 404, "nothing refused is there");
}

#[tokio::test]
async fn a_vector_store_that_dies_in_the_middle_of_an_ingest_leaves_nothing_half_in() {
    let vectors = processes::own_vectors(None, &[]).await;
    let mut quick = Quick::start(processes::kv().await, vectors).await;
    assert_eq!(quick.put("leave.md", LEAVE).await.0, 200);
    quick.vectors.process.as_mut().expect("ours").kill();
    let (status, reply) = quick.put("other.md", "Another file.").await;
    assert_eq!((status, code(&reply)), (503, "vector_store_unavailable"), "{reply}");
    assert_eq!(quick.show().await, (1, 1), "what was refused is not listed");
    quick.vectors.process.as_mut().expect("ours").restart().await;
    eventually("it is taken again", || async { quick.put("other.md", "Another file.").await.0 == 200 }).await;
    assert_eq!((quick.show().await, quick.search("another file").await.passages.len()), ((2, 2), 2));
}

#[tokio::test]
async fn a_real_engine_killed_in_the_middle_of_its_answer() {
    let (kv, vectors, mut chat) =
        (processes::kv().await, processes::vectors().await, processes::chat().await);
    let Some(process) = &mut chat.process else {
        println!("not run: an engine that is not ours is left alone");
        return;
    };
    let embed = Engine::start("e", Manner::Embed).await;
    let hub = Hub::start(|config| {
        crate::stack::on(config, &kv);
        let endpoint = vectors.url.clone();
        config.vector =
            Some(VectorConfig { kind: VectorKind::Qdrant, endpoint, api_key_file: None, tls: None });
        config.engines =
            vec![engine("chat", &chat.url, EngineTask::Chat), engine("embed", &embed.url, EngineTask::Embed)];
        config.rag.min_score = -1.0;
        config.rag.focus_sentences = 0;
    })
    .await;
    let rag = unique("r");
    assert_eq!(hub.post("/api/v1/rag", &json!({"name": rag})).await.0, 200);
    let base = format!("/api/v1/rag/{rag}");
    assert_eq!(hub.put(&format!("{base}/files/leave.md"), LEAVE.repeat(30)).await.0, 200);
    let body = json!({"question": QUESTION, "stream": true, "max_tokens": 400});
    let response =
        hub.client.post(format!("{}{base}/query", hub.url)).json(&body).send().await.expect("a reply");
    let mut stream = response.bytes_stream();
    let mut reader = sse::Reader::default();
    let mut names = Vec::new();
    while let Some(piece) = stream.next().await {
        for event in reader.push(&piece.expect("our side holds")) {
            // The passages are shown before the engine is asked: it dies while it reads or writes.
            if event.name == "passages" {
                process.kill();
            }
            names.push(event.name);
        }
    }
    assert_eq!(names.last().map(String::as_str), Some("error"), "{names:?}");
    process.restart().await;
    let again = json!({"question": QUESTION, "max_tokens": 24});
    eventually("the ask succeeds again", || async {
        hub.post(&format!("{base}/query"), &again).await.0 == 200
    })
    .await;
}
