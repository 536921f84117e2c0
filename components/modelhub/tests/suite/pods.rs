//! Several pods behind one address, as a Service has them: one that goes takes nobody's answers with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aistack_api::modelhub::EngineTask;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::engine::{Engine, Manner};
use crate::hub::{Hub, PATIENCE, engine, eventually};
use crate::processes;
use crate::stack::unique;
use crate::traffic::{ask, hub_on, put, target};

/// So seldom that no check comes by itself while a test runs.
const SELDOM_MS: u64 = 80_000;

/// An address behind which every `deadly`th request ends the pod that has it: its connection breaks without a reply. And how many
/// requests came.
async fn pods(model: &str, deadly: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let seen = Arc::<AtomicUsize>::default();
    let (noted, model) = (seen.clone(), model.to_owned());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(stream, noted.clone(), deadly, model.clone()));
        }
    });
    (url, seen)
}

async fn serve(mut stream: TcpStream, seen: Arc<AtomicUsize>, deadly: usize, model: String) {
    let mut text = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut text).await {
        let Some(head) = text.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let lines = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
        let length = lines.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if text.len() < head + 4 + length.parse::<usize>().expect("a number") {
            continue;
        }
        let body = if lines.starts_with("get ") {
            json!({"data": [{"id": model}]})
        } else {
            let number = seen.fetch_add(1, Ordering::SeqCst) + 1;
            if number.is_multiple_of(deadly) {
                return;
            }
            json!({"choices": [{"message": {"content": "here"}}]})
        };
        let body = body.to_string();
        let reply = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        text.clear();
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": []})
}

#[tokio::test]
async fn a_pod_that_dies_of_a_request_takes_no_other_answers_with_it() {
    let (url, seen) = pods("m", 6).await;
    let hub = Hub::start(|config| {
        config.engines = vec![engine("e", &url, EngineTask::Chat)];
        config.limits.health_interval_ms = SELDOM_MS;
    })
    .await;
    for _ in 0..6 {
        let body = chat("m");
        let asked = join_all((0..8).map(|_| hub.post("/v1/chat/completions", &body))).await;
        let failed: Vec<&(u16, Value)> = asked.iter().filter(|(status, _)| *status != 200).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
    let died = seen.load(Ordering::SeqCst) - 48;
    assert!((8..=10).contains(&died), "each that met its end was sent once more: {died}");
}

#[tokio::test]
async fn a_deadly_request_ends_no_more_pods_than_there_are_tries() {
    let (kv, model) = (processes::kv().await, unique("m"));
    let (url, seen) = pods(&model, 1).await;
    let hub = hub_on(&kv).await;
    let hold = json!({"deadline_ms": 600_000, "max_requests": 5});
    put(&hub, &model, &json!({"targets": [target("1", &url, 1)], "hold": hold})).await;
    let reply = ask(&hub, &model, "s").await;
    assert_eq!((reply.status, seen.load(Ordering::SeqCst)), (503, 3), "limits.max_tries");
    hub.delete(&format!("/api/v1/traffic/{model}")).await;
}

#[tokio::test]
async fn an_address_that_takes_over_a_targets_name_is_asked_at_once() {
    let (kv, model) = (processes::kv().await, unique("m"));
    let name: &'static str = Box::leak(model.clone().into_boxed_str());
    let (old, new) =
        (Engine::start(name, Manner::Reply("old")).await, Engine::start(name, Manner::Reply("new")).await);
    let hub = Hub::start(|config| {
        crate::stack::on(config, &kv);
        config.limits.health_interval_ms = SELDOM_MS;
    })
    .await;
    put(&hub, &model, &json!({"targets": [target("current", &old.url, 1)]})).await;
    let both = json!({"targets": [target("current", &old.url, 1), target("next", &new.url, 0)]});
    let both = put(&hub, &model, &both).await;
    assert!(both.targets.iter().all(|target| target.ready), "{both:?}");
    // From now on it answers nobody who only asks what it serves.
    new.deafen();
    let asked = async {
        let (mut answers, began) = (Vec::new(), Instant::now());
        while answers.last().is_none_or(|(_, text)| text != "new") {
            let reply = ask(&hub, &model, "s").await;
            answers.push((reply.status, reply.text));
            assert!(began.elapsed() < PATIENCE, "it never takes over");
        }
        answers
    };
    let moved = async {
        let request = hub.client.put(format!("{}/api/v1/traffic/{model}", hub.url));
        let route = json!({"targets": [target("current", &new.url, 1)]});
        // It waits for the check, which never ends.
        drop(tokio::time::timeout(Duration::from_secs(2), request.json(&route).send()).await);
    };
    let (answers, ()) = tokio::join!(asked, moved);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
}

#[tokio::test]
async fn a_gateway_is_not_ready_before_it_knows_whom_to_let_in_and_where_to_lead() {
    let mut kv = processes::own_kv(None, &[]).await;
    kv.process.as_mut().expect("ours").kill();
    let one = Engine::start("m", Manner::Reply("Hello")).await;
    let hub = Hub::start(|config| {
        crate::stack::on(config, &kv);
        config.kv.timeout_ms = 500;
        config.engines = vec![engine("e", &one.url, EngineTask::Chat)];
    })
    .await;
    assert!(!hub.health.is_ready(), "{}", hub.health.report());
    assert_eq!(hub.post("/v1/chat/completions", &chat("m")).await.0, 200, "what needs no store");
    let (status, reply) = hub.post("/v1/chat/completions", &chat("other")).await;
    assert_eq!((status, reply["error"]["code"].as_str()), (503, Some("kv_store_unavailable")), "{reply}");
    let request = hub.client.post(format!("{}/v1/chat/completions", hub.url)).bearer_auth("mh-somebodys");
    let (status, reply) = hub.send(request.json(&chat("m"))).await;
    assert_eq!((status, reply["error"]["code"].as_str()), (503, Some("kv_store_unavailable")), "{reply}");
    kv.process.as_mut().expect("ours").restart().await;
    eventually("it is ready", || async { hub.health.is_ready() }).await;
    let (status, reply) = hub.post("/v1/chat/completions", &chat("other")).await;
    assert_eq!((status, reply["error"]["code"].as_str()), (404, Some("model_not_found")), "{reply}");
    // It goes on with what it knows.
    kv.process.as_mut().expect("ours").kill();
    assert_eq!(hub.post("/v1/chat/completions", &chat("other")).await.0, 404);
    assert!(hub.health.is_ready());
}
