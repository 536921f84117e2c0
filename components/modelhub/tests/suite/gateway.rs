//! The gateway in front of engines that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aistack_api::modelhub::EngineTask;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::engine::{Engine, Manner};
use crate::hub::{Hub, engine, eventually, free_port};
use crate::processes;

const SSE: [&str; 4] = [
    "data: {\"choices\":[{\"delta\":{\"content\":\"He\"}}]}\n\ndata: {\"choi",
    "ces\":[{\"delta\":{\"content\":\"llo\"}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n",
];

async fn hub(engines: &[(&str, &str)]) -> Hub {
    let engines = engines.iter().map(|(name, url)| engine(name, url, EngineTask::Chat)).collect();
    Hub::start(|config| config.engines = engines).await
}

fn chat(model: &str) -> serde_json::Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hi"}], "x_unknown": {"kept": [1, 2.50]}})
}

#[tokio::test]
async fn a_request_reaches_its_engine_untouched_and_its_tokens_are_counted() {
    let one = Engine::start("m", Manner::Reply("Hello")).await;
    let hub = hub(&[("one", &one.url)]).await;
    let body = "{ \"model\" : \"m\",\n \"messages\":[], \"seed\": 1.50 }";
    let request = hub
        .client
        .post(format!("{}/v1/chat/completions", hub.url))
        .header("content-type", "application/json");
    let (status, reply) =
        hub.send(request.header("authorization", "Bearer sk-of-the-client").body(body)).await;
    assert_eq!((status, &reply["choices"][0]["message"]["content"]), (200, &json!("Hello")));
    let (headers, seen) = one.seen.lock()[0].clone();
    assert_eq!(seen, body, "byte by byte");
    assert!(!headers.contains_key("authorization"), "the client's key stays here");
    assert_eq!(headers["host"].to_str().expect("text"), one.url.trim_start_matches("http://"));
    eventually("tokens", || async {
        hub.metric("modelhub_tokens_total{model=\"m\",direction=\"prompt\"}") == 7
    })
    .await;
    assert_eq!(hub.metric("modelhub_tokens_total{model=\"m\",direction=\"completion\"}"), 3);
}

#[tokio::test]
async fn a_stream_passes_byte_by_byte() {
    let one = Engine::start("m", Manner::Pieces(SSE.to_vec())).await;
    let hub = hub(&[("one", &one.url)]).await;
    let mut body = chat("m");
    body["stream"] = json!(true);
    let response = hub
        .client
        .post(format!("{}/v1/chat/completions", hub.url))
        .json(&body)
        .send()
        .await
        .expect("a reply");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.text().await.expect("whole"), SSE.concat());
    eventually("tokens", || async {
        hub.metric("modelhub_tokens_total{model=\"m\",direction=\"completion\"}") == 2
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_work() {
    let one = Engine::start("m", Manner::Hang).await;
    let hub = hub(&[("one", &one.url)]).await;
    let response = hub
        .client
        .post(format!("{}/v1/chat/completions", hub.url))
        .json(&chat("m"))
        .send()
        .await
        .expect("a reply");
    let mut stream = response.bytes_stream();
    assert!(stream.next().await.is_some(), "the first event");
    assert_eq!(one.open.load(std::sync::atomic::Ordering::SeqCst), 1);
    drop(stream);
    eventually("the engine's work ends", || async {
        one.open.load(std::sync::atomic::Ordering::SeqCst) == 0
    })
    .await;
    eventually("it is counted", || async {
        hub.metric("modelhub_requests_total{model=\"m\",outcome=\"aborted\"}") == 1
    })
    .await;
}

#[tokio::test]
async fn a_request_is_retried_elsewhere_before_the_first_byte_only() {
    let bad = Engine::start("m", Manner::Fail(503)).await;
    let good = Engine::start("m", Manner::Reply("Hello")).await;
    let hub = hub(&[("bad", &bad.url), ("good", &good.url)]).await;
    for _ in 0..4 {
        assert_eq!(hub.post("/v1/chat/completions", &chat("m")).await.0, 200);
    }
    assert_eq!((bad.requests(), good.requests()), (2, 4), "turns go round, failures go on");
    assert_eq!(hub.metric("modelhub_retries_total"), 2);
    bad.set(Manner::Break);
    let before = good.requests();
    for _ in 0..2 {
        let reply = hub.client.post(format!("{}/v1/chat/completions", hub.url)).json(&chat("m")).send().await;
        // A reply that began is never sent again: the client sees it break.
        let _ = reply.expect("headers").bytes().await;
    }
    assert_eq!(good.requests(), before + 1);
}

#[tokio::test]
async fn a_stream_whose_engine_dies_ends_with_an_error_event() {
    let engine = Engine::start("m", Manner::Die).await;
    let hub = hub(&[("one", &engine.url)]).await;
    let ask = async || {
        let reply = hub.client.post(format!("{}/v1/chat/completions", hub.url)).json(&chat("m")).send().await;
        reply.expect("headers").text().await
    };
    let text = ask().await.expect("a stream that ends");
    // The engine's event may be lost with its connection, but never in part.
    let (whole, error) = text.trim_end().rsplit_once("data: ").expect("an event");
    assert!(["", "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"].contains(&whole), "{text}");
    let error: Value = serde_json::from_str(error).expect("JSON");
    assert_eq!(error["error"]["code"], "engine_broke_off", "{text}");
    assert!(error["error"]["message"].as_str().is_some_and(|m| m.starts_with("m broke off: ")), "{text}");
    engine.set(Manner::Break);
    if let Ok(text) = ask().await {
        assert!(text.starts_with("data: {\"error\""), "half an event cannot be ended well: {text}");
    }
}

#[tokio::test]
async fn an_engines_own_refusal_is_passed_on() {
    let one = Engine::start("m", Manner::Fail(429)).await;
    let hub = hub(&[("one", &one.url)]).await;
    let (status, reply) = hub.post("/v1/chat/completions", &chat("m")).await;
    assert_eq!((status, reply["error"]["message"].as_str()), (429, Some("not now")));
    assert_eq!(one.requests(), 1, "not retried");
}

#[tokio::test]
async fn a_dead_engine_is_an_error_that_says_so_until_it_is_back() {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let hub = Hub::start(|config| {
        let mut dead = engine("chat", &url, EngineTask::Chat);
        dead.models = vec!["m".into()];
        config.engines = vec![dead];
    })
    .await;
    let request = hub.client.post(format!("{}/v1/chat/completions", hub.url)).json(&chat("m"));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    let message = response.json::<serde_json::Value>().await.expect("JSON")["error"]["message"].to_string();
    assert!(message.contains("engine chat at http://127.0.0.1:") && message.contains("refused"), "{message}");

    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port");
    let app = axum::Router::new()
        .route("/v1/models", axum::routing::get(|| async { r#"{"data":[]}"# }))
        .route("/v1/chat/completions", axum::routing::post(|| async { r#"{"ok":true}"# }));
    tokio::spawn(async move { axum::serve(listener, app).await.expect("runs") });
    eventually("it is back", || async { hub.post("/v1/chat/completions", &chat("m")).await.0 == 200 }).await;
}

#[tokio::test]
async fn wrong_requests_are_refused_with_a_sentence() {
    let one = Engine::start("SmolLM2-135M-Instruct", Manner::Reply("Hello")).await;
    let kv = processes::kv().await;
    let hub = Hub::start(|config| {
        crate::stack::on(config, &kv);
        config.engines = vec![engine("one", &one.url, EngineTask::Chat)];
        config.limits.max_request_bytes = 10_000;
    })
    .await;
    eventually("its routes are read", || async { hub.health.is_ready() }).await;
    let large = format!(r#"{{"model":"m","x":"{}"}}"#, "x".repeat(20_000));
    let cases: &[(&str, u16, &str)] = &[
        ("{", 400, "not a JSON object"),
        (r#"{"messages":[]}"#, 400, "model is missing"),
        (r#"{"model":"smollm2"}"#, 404, "did you mean SmolLM2-135M-Instruct?"),
        (r#"{"model":"gpt-5"}"#, 404, "served here: SmolLM2-135M-Instruct"),
        (&large, 413, "larger than 10000 bytes"),
    ];
    for (body, want, sentence) in cases {
        let request = hub.client.post(format!("{}/v1/chat/completions", hub.url)).body((*body).to_owned());
        let (status, reply) = hub.send(request).await;
        let message = reply["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(status, *want, "{message}");
        assert!(message.contains(sentence), "{message}");
    }
    let (status, reply) = hub.get("/v1/chats").await;
    assert_eq!(status, 404);
    assert!(
        reply["error"]["message"].as_str().is_some_and(|m| m.contains("/v1/chats is not served here")),
        "{reply}"
    );
    assert_eq!(one.requests(), 0);
}

#[tokio::test]
async fn an_engine_out_of_rotation_is_looked_at_more_often() {
    let well = Engine::start("m", Manner::Reply("a")).await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(connection);
        }
    });
    let _hub = Hub::start(|config| {
        config.limits.health_interval_ms = 2_000;
        config.engines =
            vec![engine("well", &well.url, EngineTask::Chat), engine("broken", &url, EngineTask::Chat)];
    })
    .await;
    // Both are looked at before the hub serves, when the watch begins, and every two seconds; the broken one in between, too.
    eventually("the broken engine was looked at", || async { looks.load(Ordering::SeqCst) >= 9 }).await;
    let checks = well.checks.load(Ordering::SeqCst);
    assert!(checks < looks.load(Ordering::SeqCst), "{checks} checks of the one that is well");
}

#[tokio::test]
async fn an_engine_that_gives_nothing_is_out_of_rotation_until_it_answers_a_check() {
    let one = Engine::start("m", Manner::Reply("1")).await;
    // No check of it comes to an end while it gives nothing: only those who ask can tell.
    let hub = Hub::start(|config| {
        config.limits.first_byte_timeout_ms = 1_000;
        config.limits.idle_timeout_ms = 1_000;
        config.engines = vec![engine("one", &one.url, EngineTask::Chat)];
    })
    .await;
    let plain = chat("m");
    let ask = || hub.post("/v1/chat/completions", &plain);
    one.set(Manner::Mute);
    let (status, reply) = ask().await;
    assert_eq!((status, reply["error"]["code"].as_str()), (504, Some("engine_timeout")), "{reply}");
    let (status, reply) = ask().await;
    assert_eq!((status, reply["error"]["code"].as_str()), (503, Some("engine_unavailable")), "{reply}");
    assert!(reply["error"]["message"].as_str().is_some_and(|m| m.contains("no reply within 1 s")), "{reply}");
    one.set(Manner::Reply("1"));
    eventually("it is back", || async { ask().await.0 == 200 }).await;

    // Again until no check is answered while the stream is silent.
    let mut body = plain.clone();
    body["stream"] = json!(true);
    eventually("a stream that goes silent tells, too", || async {
        one.set(Manner::Hang);
        let request = hub.client.post(format!("{}/v1/chat/completions", hub.url)).json(&body);
        let mut stream = request.send().await.expect("the gateway answers");
        if !stream.status().is_success() {
            return false;
        }
        assert!(stream.chunk().await.expect("a piece").is_some());
        one.set(Manner::Mute);
        while let Ok(Some(_)) = stream.chunk().await {}
        let (_, reply) = ask().await;
        reply["error"]["message"].as_str().is_some_and(|m| m.contains("silent for 1 s"))
    })
    .await;
    one.set(Manner::Reply("1"));
    eventually("it is back", || async { ask().await.0 == 200 }).await;
}
