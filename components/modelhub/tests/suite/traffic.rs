//! Routes that are set at run time, in front of real HTTP upstreams and a real store.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aistack_api::traffic::{CanaryState, TrafficState};
use modelhub::kv::ROOT;
use serde_json::{Value, json};

use crate::engine::{Engine, Manner};
use crate::hub::{Hub, PATIENCE, engine, eventually, free_port};
use crate::processes::{self, Service};
use crate::stack::{on, unique};

/// For waits that no test means to see the end of.
const LONG_MS: u64 = 600_000;

pub fn leaked(name: &str) -> &'static str {
    Box::leak(unique(name).into_boxed_str())
}

pub fn target(name: &str, endpoint: &str, weight: u32) -> Value {
    json!({"name": name, "endpoint": endpoint, "weight": weight})
}

pub struct Reply {
    pub status: u16,
    pub text: String,
    retry_after: Option<String>,
    code: String,
}

pub async fn ask(hub: &Hub, model: &str, session: &str) -> Reply {
    ask_with(hub, model, &[("x-session-id", session)]).await
}

async fn ask_with(hub: &Hub, model: &str, headers: &[(&'static str, &str)]) -> Reply {
    let body = json!({"model": model, "messages": []});
    let mut request = hub.client.post(format!("{}/v1/chat/completions", hub.url)).json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("the gateway answers");
    let retry_after = response.headers().get("retry-after").map(|v| v.to_str().expect("text").to_owned());
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(&response.bytes().await.expect("a body")).unwrap_or_default();
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Reply { status, text: text("/choices/0/message/content"), retry_after, code: text("/error/code") }
}

pub async fn put(hub: &Hub, model: &str, route: &Value) -> TrafficState {
    let request = hub.client.put(format!("{}/api/v1/traffic/{model}", hub.url)).json(route);
    let (status, reply) = hub.send(request).await;
    assert_eq!(status, 200, "{reply}");
    serde_json::from_value(reply).expect("a state")
}

async fn state(hub: &Hub, model: &str) -> TrafficState {
    let (status, reply) = hub.get(&format!("/api/v1/traffic/{model}")).await;
    assert_eq!(status, 200, "{reply}");
    serde_json::from_value(reply).expect("a state")
}

pub async fn until_phase(hub: &Hub, model: &str, phase: &str) {
    eventually(&format!("the canary is {phase}"), || async {
        let (_, reply) = hub.get(&format!("/api/v1/traffic/{model}")).await;
        reply["canary"]["phase"] == phase
    })
    .await;
}

pub async fn hub_on(kv: &Service) -> Hub {
    Hub::start(|config| on(config, kv)).await
}

#[tokio::test]
async fn sessions_stay_where_they_are_over_gateways_and_restarts() {
    let (kv, model) = (processes::kv().await, leaked("m"));
    let (one, two) =
        (Engine::start(model, Manner::Reply("1")).await, Engine::start(model, Manner::Reply("2")).await);
    let hub = hub_on(&kv).await;
    put(&hub, model, &json!({"targets": [target("1", &one.url, 75), target("2", &two.url, 25)]})).await;
    let mut places = BTreeMap::new();
    for session in 0..200 {
        let session = format!("session-{session}");
        let reply = ask(&hub, model, &session).await;
        assert_eq!(reply.status, 200);
        places.insert(session, reply.text);
    }
    let second = places.values().filter(|place| *place == "2").count();
    assert!((25..=75).contains(&second), "{second} of 200 are with a quarter's share");
    drop(hub);
    // Another process's gateway, which knows nothing but the store.
    let other = hub_on(&kv).await;
    eventually("it has read the route", || async { ask(&other, model, "x").await.status == 200 }).await;
    for (session, place) in &places {
        assert_eq!(&ask(&other, model, session).await.text, place, "{session}");
    }
    // What the body says names a session too, and a header chooses a version whatever the weights say.
    let body = |user: &str| json!({"model": model, "messages": [], "user": user});
    for (session, place) in places.iter().take(20) {
        let (_, reply) = other.post("/v1/chat/completions", &body(session)).await;
        assert_eq!(reply["choices"][0]["message"]["content"], json!(place), "{session}");
    }
    let mut beta = target("2", &two.url, 0);
    beta["headers"] = json!({"x-beta": "yes"});
    put(&other, model, &json!({"targets": [target("1", &one.url, 1), beta]})).await;
    for session in places.keys().take(20) {
        assert_eq!(ask(&other, model, session).await.text, "1");
        assert_eq!(ask_with(&other, model, &[("x-session-id", session), ("x-beta", "yes")]).await.text, "2");
    }
    // A version that is away hands its sessions on, and nobody is told no.
    put(&other, model, &json!({"targets": [target("1", &one.url, 50), target("2", &format!("http://127.0.0.1:{}", free_port()), 50)]})).await;
    for session in places.keys().take(40) {
        let reply = ask(&other, model, session).await;
        assert_eq!((reply.status, reply.text.as_str()), (200, "1"));
    }
    assert_eq!(other.delete(&format!("/api/v1/traffic/{model}")).await.0, 200);
    assert_eq!(ask(&other, model, "s").await.code, "model_not_found");
}

#[tokio::test]
async fn a_route_is_changed_only_by_who_has_read_it() {
    let (kv, model) = (processes::kv().await, leaked("org/m"));
    let one = Engine::start(model, Manner::Reply("1")).await;
    let hub = hub_on(&kv).await;
    let url = format!("{}/api/v1/traffic/{model}", hub.url);
    let route = json!({"targets": [target("1", &one.url, 100)]});
    let other = json!({"targets": [target("1", &one.url, 50)]});
    let first = hub.send(hub.client.put(&url).header("if-none-match", "*").json(&route)).await;
    assert_eq!(first.0, 200, "{}", first.1);
    let revision = first.1["revision"].as_i64().expect("a revision");
    assert_eq!(hub.send(hub.client.put(&url).header("if-none-match", "*").json(&route)).await.0, 412);
    assert_eq!(put(&hub, model, &route).await.revision, revision, "the same again changes nothing");
    let tag = |revision: i64| format!("\"{revision}\"");
    let stale = hub.send(hub.client.put(&url).header("if-match", tag(revision - 1)).json(&other)).await;
    assert_eq!((stale.0, stale.1["error"]["code"].as_str()), (412, Some("route_changed")));
    let (status, changed) =
        hub.send(hub.client.put(&url).header("if-match", tag(revision)).json(&other)).await;
    assert_eq!(status, 200);
    assert!(changed["revision"].as_i64() > Some(revision));
    assert_eq!(hub.send(hub.client.delete(&url).header("if-match", tag(revision))).await.0, 412);
    // Of many that change it at a time, exactly one wins a revision.
    let now = changed["revision"].as_i64().expect("a revision");
    let tries = (0..8).map(|weight| {
        let route = json!({"targets": [target("1", &one.url, 60 + weight)]});
        hub.send(hub.client.put(&url).header("if-match", tag(now)).json(&route))
    });
    let won = futures::future::join_all(tries).await.into_iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(won, 1);
    let (_, list) = hub.get("/api/v1/traffic").await;
    assert!(
        list["routes"].as_array().is_some_and(|routes| routes.iter().any(|route| route["model"] == model))
    );
    assert_eq!(hub.delete(&format!("/api/v1/traffic/{model}")).await.0, 200);
    assert_eq!(hub.delete(&format!("/api/v1/traffic/{model}")).await.0, 404);
}

#[tokio::test]
async fn bad_routes_are_refused_by_field_and_garbage_by_reason() {
    let (kv, model) = (processes::kv().await, leaked("m"));
    let hub = hub_on(&kv).await;
    let url = format!("{}/api/v1/traffic/{model}", hub.url);
    let ok = target("1", "http://127.0.0.1:9", 1);
    let table = [
        (json!({"targets": []}), "targets"),
        (json!({"targets": [ok, ok]}), "targets[1].name"),
        (json!({"targets": [target("1", "http://[", 1)]}), "endpoint"),
        (json!({"targets": [target("1", "unix:/x", 1)]}), "targets[1].endpoint"),
        (
            json!({"targets": [ok], "canary": {"target": "2", "steps": [100], "step_seconds": 1, "min_samples": 1, "max_error_permille": 1}}),
            "canary.target",
        ),
        (json!({"targets": [ok], "hold": {"deadline_ms": 1, "max_requests": 0}}), "hold"),
        (json!({"targets": [ok], "wheights": 1}), "wheights"),
    ];
    for (route, field) in table {
        let (status, reply) = hub.send(hub.client.put(&url).json(&route)).await;
        let message = reply["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(field), "{route}: {status} {message}");
    }
    let text = json!({"targets": [ok], "hold": {"deadline_ms": 1, "max_requests": 1}}).to_string();
    let mut seed = 1_u64;
    for _ in 0..300 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] = (seed >> 20) as u8;
        }
        let (status, _) = hub.send(hub.client.put(&url).body(bytes)).await;
        assert!(status == 200 || status == 400, "{status}");
    }
    for header in [("if-match", "seventeen"), ("if-none-match", "\"17\"")] {
        let request = hub.client.put(&url).header(header.0, header.1).body(text.clone());
        assert_eq!(hub.send(request).await.0, 400, "{header:?}");
    }
    assert_eq!(hub.put("/api/v1/traffic/a%20b", text).await.0, 400, "a name that no model has");
    hub.delete(&format!("/api/v1/traffic/{model}")).await;
}

#[tokio::test]
async fn requests_wait_while_a_model_rests_and_are_served_when_it_wakes() {
    let (kv, model, port) = (processes::kv().await, leaked("m"), free_port());
    let hub = hub_on(&kv).await;
    let route = |deadline_ms: u64, most: u32| {
        json!({"targets": [target("1", &format!("http://127.0.0.1:{port}"), 1)],
            "hold": {"deadline_ms": deadline_ms, "max_requests": most}})
    };
    // Nobody wakes it: the deadline comes.
    let before = put(&hub, model, &route(200, 50)).await;
    assert_eq!((before.held, before.idle_ms), (0, None));
    let late = ask(&hub, model, "s").await;
    assert_eq!(
        (late.status, late.code.as_str(), late.retry_after.as_deref()),
        (503, "hold_deadline", Some("1"))
    );
    // More come than there is room for.
    put(&hub, model, &route(LONG_MS, 50)).await;
    let crowd: Vec<_> = (0..80)
        .map(|i| {
            let (client, url) = (hub.client.clone(), hub.url.clone());
            tokio::spawn(async move {
                let body = json!({"model": model, "messages": [], "user": format!("{i}")});
                let reply = client.post(format!("{url}/v1/chat/completions")).json(&body).send().await;
                let reply = reply.expect("the gateway answers");
                let again = reply.headers().contains_key("retry-after");
                (reply.status().as_u16(), again)
            })
        })
        .collect();
    let overflow = format!("modelhub_holds_total{{model=\"{model}\",outcome=\"overflow\"}}");
    eventually("30 are told to come again", || async { hub.metric(&overflow) == 30 }).await;
    eventually("50 wait, and the state says so", || async { state(&hub, model).await.held == 50 }).await;
    // Who starts models asks another gateway, perhaps.
    let other = hub_on(&kv).await;
    eventually("another gateway knows", || async { state(&other, model).await.held == 50 }).await;
    assert!(state(&other, model).await.idle_ms.is_some());
    // A client that leaves makes room.
    let leaving = hub.client.post(format!("{}/v1/chat/completions", hub.url));
    let leaving = leaving.json(&json!({"model": model, "messages": []})).timeout(Duration::from_millis(50));
    assert!(leaving.send().await.is_err() || hub.metric(&overflow) == 31);
    let _engine = Engine::start_at(model, Manner::Reply("awake"), port).await;
    let mut counts = BTreeMap::new();
    for reply in crowd {
        *counts.entry(reply.await.expect("no panic")).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([((200, false), 50), ((503, true), 30)]));
    eventually("nobody waits", || async { state(&other, model).await.held == 0 }).await;
    assert_eq!(ask(&hub, model, "s").await.text, "awake");
    hub.delete(&format!("/api/v1/traffic/{model}")).await;
}

/// Asks and says how the stream begins; reading on, or dropping it, is the caller's.
async fn stream(hub: &Hub, model: &str) -> reqwest::Response {
    let body = json!({"model": model, "messages": [], "stream": true});
    let request = hub.client.post(format!("{}/v1/chat/completions", hub.url)).json(&body);
    let mut reply = request.send().await.expect("the gateway answers");
    assert!(reply.chunk().await.expect("a piece").is_some());
    reply
}

#[tokio::test]
async fn a_model_is_not_idle_while_a_reply_streams_however_it_ends() {
    let (kv, model) = (processes::kv().await, leaked("m"));
    let engine = Engine::start(model, Manner::Hang).await;
    let (hub, other) = (hub_on(&kv).await, hub_on(&kv).await);
    put(&hub, model, &json!({"targets": [target("1", &engine.url, 1)], "hold": {"deadline_ms": LONG_MS, "max_requests": 1}}))
        .await;
    let idle = |hub| async move { state(hub, model).await.idle_ms };
    let (one, two) = (stream(&hub, model).await, stream(&hub, model).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(idle(&hub).await, Some(0), "two replies stream");
    eventually("the other gateway knows", || async { idle(&other).await == Some(0) }).await;
    drop(one);
    eventually("a client that goes away ends it", || async { engine.open.load(Ordering::SeqCst) == 1 }).await;
    // Longer than a gateway's word is kept back, and than it would be believed if it were not said again.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(17) {
        assert_eq!((idle(&hub).await, idle(&other).await), (Some(0), Some(0)), "one reply streams still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(two);
    eventually("nothing is in flight", || async { idle(&hub).await > Some(0) }).await;
    assert!(idle(&hub).await < Some(15_000), "it counts from the end");
    eventually("the other gateway knows", || async { idle(&other).await > Some(0) }).await;

    // An upstream that breaks off ends it as well.
    engine.set(Manner::Die);
    let mut broken = stream(&hub, model).await;
    while let Ok(Some(_)) = broken.chunk().await {}
    eventually("nothing is in flight", || async { idle(&hub).await > Some(0) }).await;
    // And one that is told no.
    engine.set(Manner::Fail(400));
    assert_eq!(ask(&hub, model, "s").await.status, 400);
    eventually("nothing is in flight", || async { idle(&hub).await > Some(0) }).await;
    hub.delete(&format!("/api/v1/traffic/{model}")).await;
}

pub fn canary(steps: &[u32], step_seconds: u64, slow_ms: Option<u64>) -> Value {
    json!({"target": "2", "steps": steps, "step_seconds": step_seconds, "min_samples": 5,
        "max_error_permille": 50, "max_first_byte_ms": slow_ms})
}

#[tokio::test]
async fn a_canary_that_fails_goes_back_by_itself_and_stays_there() {
    let (kv, model) = (processes::kv().await, leaked("m"));
    let (one, two) =
        (Engine::start(model, Manner::Reply("1")).await, Engine::start(model, Manner::Reply("2")).await);
    let hub = hub_on(&kv).await;
    let route = json!({"targets": [target("1", &one.url, 100), target("2", &two.url, 0)],
        "canary": canary(&[50, 100], 86_400, None)});
    let begun = put(&hub, model, &route).await;
    assert_eq!(begun.targets.iter().map(|t| t.percent).collect::<Vec<_>>(), [50.0, 50.0]);
    for session in 0..40 {
        assert_eq!(ask(&hub, model, &format!("{session}")).await.status, 200);
    }
    assert!(two.requests() > 5, "it has its share");
    two.set(Manner::Fail(500));
    let (mut failed, began) = (0, Instant::now());
    for session in 0.. {
        let reply = ask(&hub, model, &format!("{session}")).await;
        failed += u32::from(reply.status == 500);
        let (_, state) = hub.get(&format!("/api/v1/traffic/{model}")).await;
        if state["canary"]["phase"] == "rolled_back" {
            assert!(state["canary"]["reason"].as_str().is_some_and(|why| why.contains("failed")), "{state}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{state}");
    }
    assert!((1..=12).contains(&failed), "{failed} clients saw it fail");
    two.set(Manner::Reply("2"));
    let other = hub_on(&kv).await;
    until_phase(&other, model, "rolled_back").await;
    for hub in [&hub, &other] {
        for session in 0..40 {
            assert_eq!(ask(hub, model, &format!("{session}")).await.text, "1", "it has nothing any more");
        }
    }
    put(&other, model, &route).await;
    until_phase(&other, model, "rolled_back").await;
    eventually("it is counted", || async {
        let decided = format!(
            "modelhub_canary_decisions_total{{model=\"{model}\",target=\"2\",outcome=\"rolled_back\"}}"
        );
        hub.metric(&decided) == 1
    })
    .await;
    // By hand it begins anew, for the gateway that saw it fail too, and has everything at once.
    for (action, phase) in [("restart", "running"), ("promote", "succeeded"), ("rollback", "rolled_back")] {
        let (status, reply) =
            other.post(&format!("/api/v1/traffic/{model}"), &json!({"canary": action})).await;
        assert_eq!((status, reply["canary"]["phase"].as_str()), (200, Some(phase)), "{reply}");
        let said = serde_json::from_value::<TrafficState>(reply).expect("a state").canary;
        stays(&[&hub, &other], model, &said.expect("a canary")).await;
    }
    other.delete(&format!("/api/v1/traffic/{model}")).await;
}

/// A canary stands where it is said to stand, for all gateways, while each of them judges it a few times.
async fn stays(hubs: &[&Hub], model: &str, said: &CanaryState) {
    let place = |canary: &CanaryState| (canary.phase, canary.step, canary.since_ms, canary.begun_ms);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        for hub in hubs {
            let canary = state(hub, model).await.canary.expect("a canary");
            assert_eq!(place(&canary), place(said), "{}", canary.reason);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_canary_of_before_is_read_and_begins_anew() {
    let (kv, model) = (processes::kv().await, leaked("m"));
    let (one, two) =
        (Engine::start(model, Manner::Reply("1")).await, Engine::start(model, Manner::Reply("2")).await);
    let hub = hub_on(&kv).await;
    let route = json!({"targets": [target("1", &one.url, 100), target("2", &two.url, 0)],
        "canary": canary(&[50, 100], 86_400, None)});
    // As a ModelHub wrote it that did not tell runs apart.
    let state = json!({"phase": "rolled_back", "step": 1, "since_ms": 7, "reason": "it failed"});
    let record = json!({"route": route, "canary": state}).to_string();
    let mut store = etcd_client::Client::connect([&kv.url], None).await.expect("a store");
    store.put(format!("{ROOT}traffic/{model}"), record, None).await.expect("written");
    until_phase(&hub, model, "rolled_back").await;
    let (_, found) = hub.get(&format!("/api/v1/traffic/{model}")).await;
    assert_eq!((&found["canary"]["step"], &found["canary"]["since_ms"]), (&json!(1), &json!(7)), "{found}");
    let (_, reply) = hub.post(&format!("/api/v1/traffic/{model}"), &json!({"canary": "restart"})).await;
    assert_eq!(reply["canary"]["phase"], "running", "{reply}");
    assert!(reply["canary"]["begun_ms"].as_u64() > Some(7), "{reply}");
    hub.delete(&format!("/api/v1/traffic/{model}")).await;
}

#[tokio::test]
async fn a_canary_that_is_well_takes_over_and_one_that_is_late_does_not() {
    let kv = processes::kv().await;
    let hub = hub_on(&kv).await;
    for (manner, phase, winner) in
        [(Manner::Reply("2"), "succeeded", "2"), (Manner::Slow(400), "rolled_back", "1")]
    {
        let model = leaked("m");
        let (one, two) = (Engine::start(model, Manner::Reply("1")).await, Engine::start(model, manner).await);
        // A machine that stalls must not make the good one late.
        let slow = if phase == "succeeded" { LONG_MS } else { 200 };
        put(
            &hub,
            model,
            &json!({"targets": [target("1", &one.url, 1), target("2", &two.url, 0)],
            "canary": canary(&[30, 60, 100], 0, Some(slow))}),
        )
        .await;
        let began = Instant::now();
        for session in 0.. {
            assert_eq!(ask(&hub, model, &format!("{session}")).await.status, 200);
            let (_, state) = hub.get(&format!("/api/v1/traffic/{model}")).await;
            if state["canary"]["phase"] == phase {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{state}");
        }
        for session in 0..30 {
            let text = ask(&hub, model, &format!("{session}")).await.text;
            assert_eq!(text, winner);
        }
        hub.delete(&format!("/api/v1/traffic/{model}")).await;
    }
}

#[tokio::test]
async fn a_bad_canary_gets_nothing_though_the_store_is_away() {
    let model = leaked("m");
    let folder = tempfile::tempdir().expect("a folder");
    let mut kv = processes::own_kv(Some(folder.path()), &[]).await;
    let (one, two) =
        (Engine::start(model, Manner::Reply("1")).await, Engine::start(model, Manner::Fail(502)).await);
    let hub = Hub::start(|config| {
        on(config, &kv);
        config.limits.max_tries = 1;
        config.kv.timeout_ms = 1_000;
    })
    .await;
    put(
        &hub,
        model,
        &json!({"targets": [target("1", &one.url, 1), target("2", &two.url, 0)],
        "canary": canary(&[50, 100], 86_400, None)}),
    )
    .await;
    let process = kv.process.as_mut().expect("a process of ours");
    process.kill();
    eventually("its sessions go to the other one", || async {
        let mut is_well = true;
        for session in 0..20 {
            is_well &= ask(&hub, model, &format!("{session}")).await.text == "1";
        }
        is_well
    })
    .await;
    process.restart().await;
    until_phase(&hub, model, "rolled_back").await;
}

#[tokio::test]
async fn a_shadow_sees_copies_and_nobody_sees_its_answers() {
    let (kv, model) = (processes::kv().await, leaked("m"));
    let (one, two) =
        (Engine::start(model, Manner::Reply("1")).await, Engine::start(model, Manner::Fail(500)).await);
    let hub = Hub::start(|config| {
        on(config, &kv);
        // What is configured for a model counts again when its route goes.
        config.engines = vec![engine("configured", &one.url, aistack_api::modelhub::EngineTask::Chat)];
    })
    .await;
    let mut shadow = target("2", &two.url, 100);
    shadow["shadow"] = json!(true);
    put(&hub, model, &json!({"targets": [target("1", &one.url, 1), shadow]})).await;
    for session in 0..20 {
        assert_eq!(ask(&hub, model, &format!("{session}")).await.text, "1");
    }
    eventually("the copies arrive", || async { two.requests() == 20 }).await;
    assert_eq!(one.requests(), 20);
    assert_eq!(one.seen.lock()[0].1, two.seen.lock()[0].1, "byte by byte");
    hub.delete(&format!("/api/v1/traffic/{model}")).await;
    assert_eq!(ask(&hub, model, "s").await.text, "1");
    assert_eq!(two.requests(), 20);
}
