//! Generation through real HTTP and gRPC with SmolLM2-135M-Instruct.

#![allow(clippy::float_cmp)] // counters and gauges of whole numbers

mod server;

use serde_json::{Value, json};
use server::{CHAT, PATIENCE, Server, ask, chunks, text, with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wire::platform::v1::infer_request::Input;
use wire::platform::v1::inference_service_client::InferenceServiceClient;
use wire::platform::v1::{Conversation, EmbedRequest, InferRequest, Message, SamplingParameters};

fn streamed_text(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_answers_whole_and_streamed_with_the_same_words() {
    let server = Server::start(CHAT, |_| {}).await;
    let request = with(&ask("What is the capital of France?"), &json!({"temperature": 0, "max_tokens": 24}));
    let whole = server.ok("/v1/chat/completions", &request).await;
    assert!(text(&whole).contains("Paris"), "{whole}");
    let usage = &whole["usage"];
    let count = |name: &str| usage[name].as_u64().expect("a count");
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    for time in ["queue_ms", "prefill_ms", "decode_ms"] {
        assert!(whole["timings"][time].as_f64().is_some_and(|ms| ms >= 0.0), "{whole}");
    }

    let streaming = with(&request, &json!({"stream": true, "stream_options": {"include_usage": true}}));
    let chunks = server.stream("/v1/chat/completions", &streaming).await;
    assert_eq!(streamed_text(&chunks), text(&whole));
    let last = chunks.last().expect("chunks");
    assert_eq!(last["usage"]["completion_tokens"], usage["completion_tokens"]);
    assert!(last["timings"]["prefill_ms"].is_number() && last["choices"] == json!([]));
    assert!(
        last["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(0),
        "the prompt was cached"
    );

    let counted = server.ok("/tokenize", &ask("What is the capital of France?")).await;
    assert_eq!(counted["count"], usage["prompt_tokens"]);
    assert_eq!(server.metric("vllm:request_success_total").await, 2.0);
    assert_eq!(server.metric("vllm:time_to_first_token_seconds_count").await, 2.0);
    // A reply ends with its last token; the step that frees its blocks may come a moment later.
    server
        .until("its blocks are free", async || server.metric("vllm:kv_cache_usage_perc").await == 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_the_same_alone_and_in_a_batch_of_sixteen() {
    let server = Server::start(CHAT, |_| {}).await;
    // Few blocks and a small step: prompts are cut into chunks and sequences preempted.
    let tight = Server::start(CHAT, |config| {
        config.kv_memory_bytes = 32 << 20;
        config.step_tokens = 64;
        config.prefill_chunk = 24;
        config.block_size = 32;
    })
    .await;
    let request = |at: u64| {
        let question = format!("Describe the number {at} {}", "in a few words, ".repeat(at as usize));
        with(&ask(&question), &json!({"seed": at, "temperature": 0.9, "top_p": 0.95, "max_tokens": 16}))
    };
    let mut alone = Vec::new();
    for at in 0..16 {
        alone.push(text(&server.ok("/v1/chat/completions", &request(at)).await).to_owned());
    }
    for server in [&server, &tight] {
        let requests: Vec<Value> = (0..16).map(request).collect();
        let replies = requests.iter().map(|request| server.ok("/v1/chat/completions", request));
        let together: Vec<String> =
            futures::future::join_all(replies).await.iter().map(|reply| text(reply).to_owned()).collect();
        assert_eq!(together, alone);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_frees_its_blocks_at_once() {
    let server = Server::start(CHAT, |_| {}).await;
    for stream in [true, false] {
        let endless = json!({"stream": stream, "max_tokens": 4000, "ignore_eos": true, "n": 2});
        let body = with(&ask("Tell me a very long story."), &endless).to_string();
        let mut socket = tokio::net::TcpStream::connect(server.http).await.expect("connected");
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
        server.until("it runs", async || server.metric("vllm:num_requests_running").await == 2.0).await;
        if stream {
            let mut some = [0; 64];
            socket.read_exact(&mut some).await.expect("it streams");
        }
        drop(socket);
        server
            .until("its blocks are free", async || server.metric("vllm:kv_cache_usage_perc").await == 0.0)
            .await;
        assert_eq!(server.metric("vllm:num_requests_running").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_lets_running_requests_finish() {
    let server = Server::start(CHAT, |_| {}).await;
    let request = with(
        &ask("Count to ten."),
        &json!({"max_tokens": 100, "ignore_eos": true, "temperature": 0, "stream": true}),
    );
    let expected = streamed_text(&server.stream("/v1/chat/completions", &request).await);
    let url = server.url("/v1/chat/completions");
    let sent = reqwest::Client::new().post(url).body(request.to_string()).send().await.expect("an answer");
    // The headers come with the first token, or before it; the other tokens come while the server stops.
    server.shutdown.trigger();
    let text = sent.text().await.expect("the whole stream");
    assert_eq!(streamed_text(&chunks(&text)), expected);
    let http = server.http;
    let ended = tokio::time::timeout(PATIENCE, server.task).await.expect("it ends");
    ended.expect("no panic").expect("no error");
    assert!(tokio::net::TcpStream::connect(http).await.is_err(), "and nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_queues_and_late_requests_are_told_apart() {
    let endless = with(&ask("Go on and on."), &json!({"max_tokens": 4000, "ignore_eos": true}));
    let hurried = Server::start(CHAT, |config| {
        config.max_running = 1;
        config.max_waiting = 1;
        config.request_timeout_ms = 1500;
    })
    .await;
    let one = |_| hurried.post("/v1/chat/completions", &endless);
    for (status, body) in futures::future::join_all((0..2).map(one)).await {
        assert_eq!((status, &body["error"]["code"]), (504, &json!("timeout")), "{body}");
    }
    for (path, body) in [
        ("/v1/chat/completions", with(&endless, &json!({"n": 3}))),
        ("/v1/completions", json!({"prompt": ["a", "b", "c"]})),
    ] {
        let (status, body) = hurried.post(path, &body).await;
        assert_eq!(status, 400, "more than ever fits is no matter of waiting: {body}");
    }

    let patient = Server::start(CHAT, |config| {
        config.max_running = 1;
        config.max_waiting = 1;
        config.request_timeout_ms = 600_000;
    })
    .await;
    let held = patient.post("/v1/chat/completions", &endless);
    let also = patient.post("/v1/chat/completions", &endless);
    let third = async {
        let one_waits = async || patient.metric("vllm:num_requests_waiting").await == 1.0;
        patient.until("one runs, one waits", one_waits).await;
        let url = patient.url("/v1/chat/completions");
        reqwest::Client::new().post(url).body(endless.to_string()).send().await.expect("an answer")
    };
    let refused = tokio::select! {
        refused = third => refused,
        answer = held => panic!("the first request ended too soon: {answer:?}"),
        answer = also => panic!("the second request ended too soon: {answer:?}"),
    };
    assert_eq!(refused.status(), 429);
    let after = refused.headers()["retry-after"].to_str().expect("text").parse::<u64>().expect("seconds");
    assert!((1..=60).contains(&after));
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "rate_limit_exceeded", "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_name_and_harm_nobody() {
    let server = Server::start(CHAT, |config| config.server.limits.max_body_bytes = 1 << 20).await;
    let chat = ask("x");
    let completion = json!({"prompt": "x", "max_tokens": 1});
    let table: &[(&str, &Value, Value, u16, &str)] = &[
        ("chat/completions", &chat, json!({"temperature": 2.1}), 400, "temperature"),
        ("chat/completions", &chat, json!({"temperature": []}), 400, "temperature"),
        ("chat/completions", &chat, json!({"top_p": 2}), 400, "top_p"),
        ("chat/completions", &chat, json!({"min_p": -1}), 400, "min_p"),
        ("chat/completions", &chat, json!({"top_k": -2}), 400, "top_k"),
        ("chat/completions", &chat, json!({"n": 1e12}), 400, "n"),
        ("chat/completions", &chat, json!({"n": -1}), 400, "n"),
        ("chat/completions", &chat, json!({"max_tokens": -1}), 400, "max_tokens"),
        ("chat/completions", &chat, json!({"max_tokens": 0}), 400, "max_tokens"),
        ("chat/completions", &chat, json!({"max_tokens": "9"}), 400, "max_tokens"),
        ("chat/completions", &chat, json!({"repetition_penalty": 0}), 400, "repetition_penalty"),
        ("chat/completions", &chat, json!({"frequency_penalty": 3}), 400, "frequency_penalty"),
        ("chat/completions", &chat, json!({"logit_bias": {"99999999": 1}}), 400, "logit_bias.99999999"),
        ("chat/completions", &chat, json!({"logit_bias": {"5": 101}}), 400, "logit_bias.5"),
        ("chat/completions", &chat, json!({"logprobs": 3}), 400, "logprobs"),
        ("chat/completions", &chat, json!({"logprobs": true, "top_logprobs": 21}), 400, "top_logprobs"),
        ("chat/completions", &chat, json!({"stop": ["a", ""]}), 400, "stop"),
        ("chat/completions", &chat, json!({"stop": vec!["a"; 17]}), 400, "stop"),
        ("chat/completions", &chat, json!({"stream": "yes"}), 400, "stream"),
        ("chat/completions", &chat, json!({"stream": true, "stream_options": 1}), 400, "stream_options"),
        ("chat/completions", &chat, json!({"messages": null}), 400, "messages"),
        ("chat/completions", &chat, json!({"messages": []}), 400, "messages"),
        ("chat/completions", &chat, json!({"messages": [1]}), 400, "messages[0]"),
        ("chat/completions", &chat, json!({"messages": [{}]}), 400, "messages[0].role"),
        (
            "chat/completions",
            &chat,
            json!({"messages": [{"role": "user", "content": 1}]}),
            400,
            "messages[0].content",
        ),
        ("chat/completions", &chat, json!({"tools": [{}]}), 400, "tools"),
        ("chat/completions", &chat, json!({"guided_json": {}}), 400, "guided_json"),
        (
            "chat/completions",
            &chat,
            json!({"response_format": {"type": "json_schema"}}),
            400,
            "response_format",
        ),
        ("chat/completions", &chat, json!({"model": "smollm3"}), 404, "model"),
        ("chat/completions", &chat, json!({"model": 3}), 400, "model"),
        ("chat/completions", &chat, json!({"max_tokens": 9000}), 400, "messages"),
        (
            "chat/completions",
            &chat,
            json!({"messages": [{"role": "user", "content": "a b ".repeat(9000)}]}),
            400,
            "messages",
        ),
        ("completions", &completion, json!({"prompt": null}), 400, "prompt"),
        ("completions", &completion, json!({"prompt": []}), 400, "prompt"),
        ("completions", &completion, json!({"prompt": ""}), 400, "prompt"),
        ("completions", &completion, json!({"prompt": {}}), 400, "prompt"),
        ("completions", &completion, json!({"prompt": [1, "a"]}), 400, "prompt[1]"),
        ("completions", &completion, json!({"prompt": [-1]}), 400, "prompt[0]"),
        ("completions", &completion, json!({"prompt": [999_999]}), 400, "prompt"),
        ("completions", &completion, json!({"prompt": ["a", ["b"]]}), 400, "prompt[1][0]"),
        ("completions", &completion, json!({"logprobs": 99}), 400, "logprobs"),
        ("completions", &completion, json!({"best_of": 4}), 400, "best_of"),
        ("completions", &completion, json!({"suffix": "x"}), 400, "suffix"),
        ("embeddings", &completion, json!({"input": "x"}), 400, "model"),
        ("rerank", &completion, json!({"query": "x", "documents": ["y"]}), 400, "model"),
    ];
    for (path, base, change, status, param) in table {
        let (got, body) = server.post(&format!("/v1/{path}"), &with(base, change)).await;
        assert_eq!((got, body["error"]["param"].as_str()), (*status, Some(*param)), "{change}: {body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{body}");
    }
    let client = reqwest::Client::new();
    let raw: &[(&[u8], u16)] = &[(b"", 400), (b"{", 400), (b"[1]", 400), (b"\"\xff\"", 400), (b"nul", 400)];
    for (body, status) in raw {
        let response =
            client.post(server.url("/v1/completions")).body(body.to_vec()).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), *status);
    }
    let nested = "[".repeat(200_000);
    let (status, _) = server.post("/v1/completions", &json!({"prompt": nested})).await;
    assert_eq!(status, 400);
    let large = vec![b' '; 2 << 20];
    let response = client.post(server.url("/v1/completions")).body(large).send().await.expect("an answer");
    assert_eq!(response.status(), 413);
    let body: Value = serde_json::from_str(&response.text().await.expect("a body")).expect("JSON");
    assert_eq!(body["error"]["code"], "request_too_large");
    for (path, status) in
        [("/v1/nothing", 404), ("/v1/chat/completions", 405), ("/v1/models/other", 404), ("/health", 200)]
    {
        assert_eq!(server.get(path).await.0, status, "{path}");
    }
    let unknown = with(&chat, &json!({"max_tokens": 1, "no_such_option": {"deep": [1]}, "user": "u"}));
    server.ok("/v1/chat/completions", &unknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scored_prompts_are_the_same_in_one_go_and_in_chunks() {
    let server = Server::start(CHAT, |_| {}).await;
    let chunked = Server::start(CHAT, |config| config.prefill_chunk = 7).await;
    let prompt = "The quick brown fox jumps over the lazy dog — naïvely. ".repeat(4);
    let request = json!({"prompt": prompt, "max_tokens": 2, "echo": true, "logprobs": 2, "temperature": 0});
    let (one, other) =
        (server.ok("/v1/completions", &request).await, chunked.ok("/v1/completions", &request).await);
    assert_eq!(one["choices"], other["choices"]);
    let logprobs = &one["choices"][0]["logprobs"];
    let count = |name: &str| logprobs[name].as_array().expect("a list").len() as u64;
    let total = one["usage"]["total_tokens"].as_u64().expect("a count");
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(count(name), total, "{name}");
    }
    let tokens: String =
        logprobs["tokens"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(tokens.starts_with("The quick brown fox"), "{tokens}");
    let streaming = with(&request, &json!({"stream": true}));
    let chunks = server.stream("/v1/completions", &streaming).await;
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, one["choices"][0]["text"].as_str().expect("text"));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_says_what_http_says() {
    let server = Server::start(CHAT, |_| {}).await;
    let mut client =
        InferenceServiceClient::connect(format!("http://{}", server.grpc)).await.expect("connected");
    let message = Message { role: "user".into(), content: "What is the capital of France?".into() };
    let request = InferRequest {
        model: CHAT.into(),
        sampling: Some(SamplingParameters {
            max_tokens: 16,
            temperature: Some(0.0),
            ..SamplingParameters::default()
        }),
        input: Some(Input::Conversation(Conversation { messages: vec![message] })),
    };
    let whole = client.infer(request.clone()).await.expect("an answer").into_inner();
    let http = with(&ask("What is the capital of France?"), &json!({"temperature": 0, "max_tokens": 16}));
    assert_eq!(whole.text, text(&server.ok("/v1/chat/completions", &http).await));
    let mut stream = client.generate(request.clone()).await.expect("a stream").into_inner();
    let (mut streamed, mut last) = (String::new(), None);
    while let Some(chunk) = stream.message().await.expect("a chunk") {
        streamed.push_str(&chunk.text);
        last = Some(chunk);
    }
    assert_eq!(streamed, whole.text);
    let last = last.expect("chunks");
    assert_eq!(
        (last.finish_reason, last.usage.map(|u| u.completion_tokens)),
        (whole.finish_reason, whole.usage.map(|u| u.completion_tokens))
    );

    let code = async |request: InferRequest| client.clone().infer(request).await.expect_err("refused").code();
    let sampling = |sampling| InferRequest { sampling: Some(sampling), ..request.clone() };
    assert_eq!(code(InferRequest { model: "x".into(), ..request.clone() }).await, tonic::Code::NotFound);
    assert_eq!(code(InferRequest { input: None, ..request.clone() }).await, tonic::Code::InvalidArgument);
    let hot = SamplingParameters { temperature: Some(f32::NAN), ..SamplingParameters::default() };
    assert_eq!(code(sampling(hot)).await, tonic::Code::InvalidArgument);
    let long = SamplingParameters { max_tokens: u32::MAX, ..SamplingParameters::default() };
    assert_eq!(code(sampling(long)).await, tonic::Code::InvalidArgument);
    let embed = client.embed(EmbedRequest { model: CHAT.into(), inputs: vec!["x".into()] }).await;
    assert_eq!(embed.expect_err("no embedder").code(), tonic::Code::FailedPrecondition);
}
