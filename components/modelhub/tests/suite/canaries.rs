//! What is made of canaries whose engines refuse what others answer, and what figures tell of engines that nobody asks.

use serde_json::json;

use crate::engine::{Engine, Manner};
use crate::hub::{eventually, free_port};
use crate::processes;
use crate::traffic::{ask, canary, hub_on, leaked, put, target, until_phase};

#[tokio::test]
async fn a_canary_that_refuses_what_the_other_version_answers_goes_back() {
    let (kv, model) = (processes::kv().await, leaked("m"));
    let (one, two) =
        (Engine::start(model, Manner::Reply("1")).await, Engine::start(model, Manner::Fail(404)).await);
    let hub = hub_on(&kv).await;
    let decided =
        format!("modelhub_canary_decisions_total{{model=\"{model}\",target=\"2\",outcome=\"rolled_back\"}}");
    assert_eq!(hub.series(&decided), None);
    let route = json!({"targets": [target("1", &one.url, 100), target("2", &two.url, 0)],
        "canary": canary(&[20, 100], 86_400, None)});
    put(&hub, model, &route).await;
    assert_eq!(hub.series(&decided), Some(0), "a rate sees the first one only of a series that is there");
    let mut refused = 0;
    for session in 0..2_000 {
        refused += u32::from(ask(&hub, model, &format!("{session}")).await.status == 404);
        let (_, state) = hub.get(&format!("/api/v1/traffic/{model}")).await;
        if state["canary"]["phase"] == "rolled_back" {
            break;
        }
    }
    until_phase(&hub, model, "rolled_back").await;
    assert!((1..=60).contains(&refused), "{refused} clients were refused");
    let (_, state) = hub.get(&format!("/api/v1/traffic/{model}")).await;
    assert!(state["canary"]["reason"].as_str().is_some_and(|why| why.contains("4xx")), "{state}");
    assert_eq!(state["targets"][1]["refused"], refused, "{state}");
    eventually("it is counted", || async { hub.series(&decided) == Some(1) }).await;
    hub.delete(&format!("/api/v1/traffic/{model}")).await;
}

#[tokio::test]
async fn what_every_version_refuses_takes_no_canary_back() {
    let (kv, model) = (processes::kv().await, leaked("m"));
    let (one, two) =
        (Engine::start(model, Manner::Fail(400)).await, Engine::start(model, Manner::Fail(400)).await);
    let hub = hub_on(&kv).await;
    let route = json!({"targets": [target("1", &one.url, 100), target("2", &two.url, 0)],
        "canary": canary(&[20, 100], 86_400, None)});
    put(&hub, model, &route).await;
    for session in 0..400 {
        assert_eq!(ask(&hub, model, &format!("{session}")).await.status, 400);
    }
    until_phase(&hub, model, "running").await;
    hub.delete(&format!("/api/v1/traffic/{model}")).await;
}

#[tokio::test]
async fn an_engine_that_is_gone_or_asleep_has_no_state() {
    let (kv, model, port) = (processes::kv().await, leaked("m"), free_port());
    let one = Engine::start(model, Manner::Reply("1")).await;
    let hub = hub_on(&kv).await;
    let state =
        |version: &str| hub.series(&format!("modelhub_engine_healthy{{engine=\"{model}@{version}\"}}"));
    let nowhere = format!("http://127.0.0.1:{port}");
    put(&hub, model, &json!({"targets": [target("1", &one.url, 1), target("2", &nowhere, 1)]})).await;
    assert_eq!((state("1"), state("2")), (Some(1), Some(0)));
    put(&hub, model, &json!({"targets": [target("1", &one.url, 1)]})).await;
    assert_eq!((state("1"), state("2")), (Some(1), None), "nobody is led there any more");
    // One that may sleep is down only while somebody waits for it.
    let asleep =
        json!({"targets": [target("3", &nowhere, 1)], "hold": {"deadline_ms": 600_000, "max_requests": 5}});
    put(&hub, model, &asleep).await;
    assert_eq!((state("1"), state("3")), (None, None));
    let waits = tokio::spawn({
        let (client, url) = (hub.client.clone(), hub.url.clone());
        let body = json!({"model": model, "messages": []});
        async move { client.post(format!("{url}/v1/chat/completions")).json(&body).send().await }
    });
    eventually("it is down", || async { state("3") == Some(0) }).await;
    waits.abort();
    eventually("nobody waits any more", || async { state("3").is_none() }).await;
    hub.delete(&format!("/api/v1/traffic/{model}")).await;
    assert_eq!(state("3"), None);
}
