//! The gRPC door: the same engines, keys and limits as the OpenAI door.

use std::sync::atomic::Ordering;

use aistack_api::modelhub::{EngineTask, KeysConfig};
use futures::StreamExt;
use serde_json::json;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use wire::platform::v1::infer_request::Input;
use wire::platform::v1::inference_service_client::InferenceServiceClient;
use wire::platform::v1::{
    Conversation, EmbedRequest, GenerateChunk, InferRequest, Message, SamplingParameters, Usage,
};

use crate::engine::{DIMENSION, Engine, Manner};
use crate::hub::{Hub, engine, eventually, free_port};
use crate::processes;

const SSE: [&str; 5] = [
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"He\"}}]}\n\ndata: {\"choi",
    "ces\":[{\"delta\":{\"content\":\"llo\"},\"finish_reason\":null}]}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n",
];

type Client = InferenceServiceClient<Channel>;

async fn client(hub: &Hub) -> Client {
    InferenceServiceClient::connect(hub.grpc.clone()).await.expect("the door is open")
}

async fn hub(engines: &[(&str, &Engine)]) -> Hub {
    let engines = engines.iter().map(|(name, e)| engine(name, &e.url, EngineTask::Chat)).collect();
    Hub::start(|config| config.engines = engines).await
}

fn prompt(model: &str) -> InferRequest {
    InferRequest { model: model.into(), input: Some(Input::Prompt("Hi".into())), sampling: None }
}

fn chat(model: &str) -> InferRequest {
    let messages = vec![Message { role: "user".into(), content: "Hi".into() }];
    InferRequest {
        model: model.into(),
        input: Some(Input::Conversation(Conversation { messages })),
        sampling: None,
    }
}

fn error_code(status: &Status) -> &str {
    status.metadata().get("error-code").and_then(|v| v.to_str().ok()).unwrap_or_default()
}

async fn words(client: &mut Client, request: InferRequest) -> Result<Vec<GenerateChunk>, Status> {
    client.generate(request).await?.into_inner().collect::<Vec<_>>().await.into_iter().collect()
}

#[tokio::test]
async fn a_message_reaches_the_engine_of_its_model_as_an_openai_call() {
    let one = Engine::start("one", Manner::Reply("Hello")).await;
    let two = Engine::start("two", Manner::Embed).await;
    let hub = hub(&[("one", &one), ("two", &two)]).await;
    let mut client = client(&hub).await;
    let sampling =
        SamplingParameters { max_tokens: 5, temperature: Some(0.7), ..SamplingParameters::default() };
    let mut request = Request::new(InferRequest { sampling: Some(sampling), ..chat("one") });
    request.metadata_mut().insert("x-request-id", MetadataValue::from_static("r-1"));
    request.metadata_mut().insert("authorization", MetadataValue::from_static("Bearer sk-of-the-client"));
    let reply = client.infer(request).await.expect("a reply").into_inner();
    assert_eq!((reply.text.as_str(), reply.finish_reason.as_str()), ("Hello", "stop"));
    assert_eq!(reply.usage, Some(Usage { prompt_tokens: 7, completion_tokens: 3, cached_tokens: 0 }));
    let (headers, body) = one.seen.lock()[0].clone();
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    let want = json!({"model": "one", "messages": [{"role": "user", "content": "Hi"}], "stream": false,
                      "max_tokens": 5, "temperature": 0.7});
    assert_eq!(body, want);
    assert_eq!(
        (headers["content-type"].as_bytes(), headers["x-request-id"].as_bytes()),
        (&b"application/json"[..], &b"r-1"[..])
    );
    assert!(!headers.contains_key("authorization"), "the client's key stays here");

    assert_eq!(client.infer(prompt("one")).await.expect("a reply").get_ref().text, "Hello");
    let inputs = vec!["a b".to_owned(), "c".to_owned()];
    let vectors =
        client.embed(EmbedRequest { model: "two".into(), inputs }).await.expect("vectors").into_inner();
    assert_eq!(vectors.embeddings.iter().map(|e| e.values.len()).collect::<Vec<_>>(), [DIMENSION; 2]);
    assert_ne!(vectors.embeddings[0], vectors.embeddings[1]);
    assert_eq!((one.requests(), two.requests()), (2, 1), "routed by name");
    eventually("tokens are counted", || async {
        hub.metric("modelhub_tokens_total{model=\"one\",direction=\"completion\"}") == 6
    })
    .await;
}

#[tokio::test]
async fn one_trace_goes_through_to_the_engine() {
    let one = Engine::start("m", Manner::Pieces(SSE.to_vec())).await;
    let (kv, data) = (processes::kv().await, tempfile::tempdir().expect("a folder"));
    let (http, grpc, admin) = (free_port(), free_port(), free_port());
    let settings = [
        ("MODELHUB_LISTEN", format!("127.0.0.1:{http}")),
        ("MODELHUB_LISTEN_GRPC", format!("127.0.0.1:{grpc}")),
        ("MODELHUB_SERVER__ADMIN_LISTEN", format!("127.0.0.1:{admin}")),
        ("MODELHUB_SERVER__TELEMETRY__OTLP_FILE", data.path().join("trace.jsonl").display().to_string()),
        ("MODELHUB_ARTEFACTS", data.path().join("artefacts").display().to_string()),
        ("MODELHUB_KV__ENDPOINTS", json!([kv.url]).to_string()),
        ("MODELHUB_ENGINES", json!([{"name": "one", "endpoint": one.url}]).to_string()),
    ];
    let command = move || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_modelhub"));
        command.arg("serve").envs(settings.iter().cloned());
        command
    };
    let _hub = processes::Process::run(command, data, admin).await;
    let mut client = InferenceServiceClient::connect(format!("http://127.0.0.1:{grpc}")).await.expect("open");
    let mut request = Request::new(chat("m"));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.metadata_mut().insert("traceparent", MetadataValue::from_static(parent));
    let chunks = client.generate(request).await.expect("a stream").into_inner().collect::<Vec<_>>().await;
    assert!(chunks.iter().all(Result::is_ok), "{chunks:?}");
    let seen = one.seen.lock()[0].0["traceparent"].to_str().expect("text").to_owned();
    assert!(
        seen.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && !seen.contains("00f067aa0ba902b7"),
        "{seen}"
    );
}

#[tokio::test]
async fn a_stream_comes_in_chunks_with_its_reason_and_usage_last() {
    let one = Engine::start("m", Manner::Pieces(SSE.to_vec())).await;
    let hub = hub(&[("one", &one)]).await;
    let chunks = words(&mut client(&hub).await, chat("m")).await.expect("a whole answer");
    let text: Vec<&str> = chunks.iter().map(|c| c.text.as_str()).collect();
    assert_eq!(text, ["He", "llo", ""]);
    let last = chunks.last().expect("one");
    assert_eq!(last.finish_reason, "length");
    assert_eq!(last.usage, Some(Usage { prompt_tokens: 11, completion_tokens: 2, cached_tokens: 0 }));
    assert!(chunks[..2].iter().all(|c| c.finish_reason.is_empty() && c.usage.is_none()));
    let body: serde_json::Value = serde_json::from_slice(&one.seen.lock()[0].1).expect("JSON");
    assert_eq!((&body["stream"], &body["stream_options"]["include_usage"]), (&json!(true), &json!(true)));
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_engine() {
    let one = Engine::start("m", Manner::Hang).await;
    let hub = hub(&[("one", &one)]).await;
    let mut client = client(&hub).await;
    let mut stream = client.generate(chat("m")).await.expect("a stream").into_inner();
    assert_eq!(stream.message().await.expect("a chunk").expect("one").text, "a");
    assert_eq!(one.open.load(Ordering::SeqCst), 1);
    drop(stream);
    eventually("a stream that is dropped", || async { one.open.load(Ordering::SeqCst) == 0 }).await;
    let waiting = tokio::spawn(async move { client.infer(chat("m")).await });
    eventually("the engine works", || async { one.open.load(Ordering::SeqCst) == 1 }).await;
    waiting.abort();
    eventually("a call that is cancelled", || async { one.open.load(Ordering::SeqCst) == 0 }).await;
    eventually("both are counted", || async {
        hub.metric("modelhub_requests_total{model=\"m\",outcome=\"aborted\"}") == 2
    })
    .await;
}

#[tokio::test]
async fn retries_happen_before_the_first_byte_only() {
    let bad = Engine::start("m", Manner::Fail(503)).await;
    let good = Engine::start("m", Manner::Reply("Hello")).await;
    let hub = hub(&[("bad", &bad), ("good", &good)]).await;
    let mut client = client(&hub).await;
    for _ in 0..4 {
        client.infer(prompt("m")).await.expect("the good one answers");
    }
    assert_eq!((bad.requests(), good.requests(), hub.metric("modelhub_retries_total")), (2, 4, 2));
    bad.set(Manner::Break);
    let before = good.requests();
    let mut broken = 0;
    for _ in 0..2 {
        good.set(Manner::Pieces(SSE.to_vec()));
        if let Err(status) = words(&mut client, chat("m")).await {
            assert_eq!(
                (status.code(), error_code(&status)),
                (Code::Unavailable, "engine_broke_off"),
                "{status}"
            );
            broken += 1;
        }
    }
    assert_eq!((broken, good.requests() - before), (1, 1), "a reply that began is never sent again");
}

#[tokio::test]
async fn refusals_are_statuses_with_the_sentence_of_the_http_door() {
    let one = Engine::start("SmolLM2-135M-Instruct", Manner::Reply("Hello")).await;
    let dead = format!("http://127.0.0.1:{}", free_port());
    let kv = processes::kv().await;
    let hub = Hub::start(|config| {
        crate::stack::on(config, &kv);
        let mut gone = engine("gone", &dead, EngineTask::Chat);
        gone.models = vec!["gone".into()];
        config.engines = vec![engine("one", &one.url, EngineTask::Chat), gone];
        config.limits.max_request_bytes = 10_000;
    })
    .await;
    eventually("its routes are read", || async { hub.health.is_ready() }).await;
    let mut client = client(&hub).await;
    let known = "SmolLM2-135M-Instruct";
    let hot = SamplingParameters { temperature: Some(f32::NAN), ..SamplingParameters::default() };
    let cases = [
        (chat("smollm2"), Code::NotFound, "model_not_found", "did you mean SmolLM2-135M-Instruct?"),
        (chat(""), Code::InvalidArgument, "model_missing", "GET /v1/models"),
        (
            InferRequest { input: None, ..chat(known) },
            Code::InvalidArgument,
            "invalid_message",
            "give a prompt",
        ),
        (
            InferRequest { sampling: Some(hot), ..chat(known) },
            Code::InvalidArgument,
            "invalid_message",
            "NaN",
        ),
        (chat("gone"), Code::Unavailable, "engine_unavailable", "connection refused"),
        (
            InferRequest { input: Some(Input::Prompt("x".repeat(20_000))), ..chat(known) },
            Code::OutOfRange,
            "",
            "limit is: 10000 bytes",
        ),
    ];
    for (request, code, name, sentence) in cases {
        let status = words(&mut client, request.clone()).await.expect_err(sentence);
        assert_eq!((status.code(), error_code(&status)), (code, name), "{status}");
        assert!(status.message().contains(sentence), "{status}");
        assert_eq!(client.infer(request).await.expect_err("the same").code(), code);
    }
    let none = EmbedRequest { model: known.into(), inputs: vec![] };
    assert_eq!(client.embed(none).await.expect_err("nothing").code(), Code::InvalidArgument);
    assert_eq!(one.requests(), 0);
    for (manner, code) in [
        (Manner::Fail(400), Code::InvalidArgument),
        (Manner::Fail(429), Code::ResourceExhausted),
        (Manner::Fail(500), Code::Internal),
        (Manner::Pieces(vec!["<html>"]), Code::Unavailable),
    ] {
        one.set(manner.clone());
        let status = client.infer(prompt(known)).await.expect_err("refused");
        assert_eq!(status.code(), code, "{manner:?}: {status}");
    }
}

#[tokio::test]
async fn keys_and_their_limits_hold_here_too() {
    let (kv, one) = (processes::kv().await, Engine::start("m", Manner::Reply("Hello")).await);
    let folder = tempfile::tempdir().expect("a folder");
    let (admin, file) = ("a".repeat(40), folder.path().join("admin"));
    std::fs::write(&file, &admin).expect("a file");
    let hub = Hub::start(|config| {
        crate::stack::on(config, &kv);
        config.engines = vec![engine("e", &one.url, EngineTask::Chat)];
        config.keys = KeysConfig { required: true, admin_key_file: Some(file) };
    })
    .await;
    let body = json!({"name": "ci", "limits": {"requests_per_minute": 2}});
    let made = hub.client.post(format!("{}/api/v1/keys", hub.url)).bearer_auth(&admin).json(&body);
    let (status, key) = hub.send(made).await;
    assert_eq!(status, 201, "{key}");
    let mut client = client(&hub).await;
    let mut call = async |key: &str| {
        let mut request = Request::new(chat("m"));
        if !key.is_empty() {
            let value = format!("Bearer {key}").parse().expect("printable");
            request.metadata_mut().insert("authorization", value);
        }
        client.infer(request).await
    };
    for (key, name) in [("", "missing_api_key"), ("mh-wrong", "invalid_api_key")] {
        let status = call(key).await.expect_err("refused");
        assert_eq!((status.code(), error_code(&status)), (Code::Unauthenticated, name));
    }
    let secret = key["key"].as_str().expect("a key");
    // Half a minute pays for a further request, which a slow machine may need for these.
    let mut admitted = 0_u64;
    let status = loop {
        match call(secret).await {
            Ok(_) => admitted += 1,
            Err(status) => break status,
        }
    };
    assert!(admitted >= 2, "{status}");
    assert_eq!((status.code(), error_code(&status)), (Code::ResourceExhausted, "rate_limit_exceeded"));
    assert!(status.metadata().get("retry-after").is_some(), "{status:?}");
    eventually("usage is counted", || async {
        let list = hub.client.get(format!("{}/api/v1/keys", hub.url)).bearer_auth(&admin);
        let (_, keys) = hub.send(list).await;
        let mine = keys["keys"].as_array().and_then(|k| k.iter().find(|k| k["id"] == key["id"]).cloned());
        mine.is_some_and(|k| {
            k["requests"] == admitted
                && k["prompt_tokens"] == 7 * admitted
                && k["completion_tokens"] == 3 * admitted
        })
    })
    .await;
}

#[tokio::test]
async fn garbage_is_refused_and_the_door_stays_open() {
    let one = Engine::start("m", Manner::Reply("Hello")).await;
    let hub = hub(&[("one", &one)]).await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let path = "/platform.v1.InferenceService/Infer";
    // The five bytes before a message, then what is none; a length that lies; a method that is none.
    let cases: [(&str, &[u8], &str); 4] = [
        (path, b"\x00\x00\x00\x00\x03\xff\xff\xff", "13"),
        (path, b"\x00\xff\xff\xff\xff\x00", "11"),
        (path, b"\x07\x00\x00\x00\x00", "13"),
        ("/platform.v1.InferenceService/Nothing", b"", "12"),
    ];
    for (path, body, want) in cases {
        let request = http2.post(format!("{}{path}", hub.grpc)).header("content-type", "application/grpc");
        let reply = request.body(body.to_vec()).send().await.expect("a reply");
        let status = reply.headers().get("grpc-status").cloned();
        assert_eq!(
            status.as_ref().map(http::HeaderValue::as_bytes),
            Some(want.as_bytes()),
            "{path} {body:?}"
        );
    }
    assert_eq!(one.requests(), 0);
    assert_eq!(client(&hub).await.infer(prompt("m")).await.expect("still open").get_ref().text, "Hello");
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let hub = hub(&[]).await;
    let channel = Channel::from_shared(hub.grpc.clone()).expect("a URL").connect().await.expect("open");
    let service = "platform.v1.InferenceService".to_owned();
    let health =
        HealthClient::new(channel.clone()).check(HealthCheckRequest { service: service.clone() }).await;
    assert_eq!(health.expect("known").get_ref().status(), ServingStatus::Serving);
    let mut reflection = ServerReflectionClient::new(channel);
    let mut asked = async |question: MessageRequest| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let replies =
            reflection.server_reflection_info(futures::stream::iter([request])).await.expect("served");
        let reply: ServerReflectionResponse =
            replies.into_inner().message().await.expect("one").expect("one");
        reply.message_response.expect("an answer")
    };
    let MessageResponse::ListServicesResponse(list) =
        asked(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list");
    };
    let mut names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["grpc.health.v1.Health", &service]);
    let question = MessageRequest::FileContainingSymbol(service);
    let MessageResponse::FileDescriptorResponse(files) = asked(question).await else { panic!("no file") };
    assert!(!files.file_descriptor_proto.is_empty());
}
