//! Embeddings through real HTTP and gRPC with all-MiniLM-L6-v2.

mod server;

use aistack_api::engine::EngineTask;
use aistack_api::tinyinfer::TinyinferConfig;
use base64::Engine as _;
use serde_json::{Value, json};
use server::{CHAT, EMBED, Server, ask};
use tinyinfer::served::Served;
use wire::platform::v1::EmbedRequest;
use wire::platform::v1::inference_service_client::InferenceServiceClient;

fn vectors(reply: &Value) -> Vec<Vec<f32>> {
    let data = reply["data"].as_array().expect("a list");
    data.iter().map(|item| serde_json::from_value(item["embedding"].clone()).expect("a vector")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_the_same_alone_together_packed_and_over_grpc() {
    let server = Server::start(EMBED, |_| {}).await;
    let texts: Vec<String> =
        (0..40).map(|at| format!("Text number {at} {}", "and more ".repeat(at))).collect();
    let reply = server.ok("/v1/embeddings", &json!({"input": texts})).await;
    let together = vectors(&reply);
    assert_eq!((together.len(), together[0].len()), (40, 384));
    for (at, vector) in together.iter().enumerate() {
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-4, "vector {at} has length {length}");
    }
    for at in [0, 17, 39] {
        let alone = vectors(&server.ok("/v1/embeddings", &json!({"input": texts[at]})).await);
        assert_eq!(alone[0], together[at]);
    }
    let packed = server.ok("/v1/embeddings", &json!({"input": texts[3], "encoding_format": "base64"})).await;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(packed["data"][0]["embedding"].as_str().expect("packed"))
        .expect("base64");
    let floats: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    assert_eq!(floats, together[3]);

    let mut client =
        InferenceServiceClient::connect(format!("http://{}", server.grpc)).await.expect("connected");
    let request = EmbedRequest { model: EMBED.into(), inputs: texts[..3].to_vec() };
    let answer = client.embed(request).await.expect("an answer").into_inner();
    let by_grpc: Vec<Vec<f32>> = answer.embeddings.into_iter().map(|embedding| embedding.values).collect();
    assert_eq!(by_grpc, together[..3]);

    let parallel = (0..60).map(|at| {
        let request = json!({"input": texts[at % 40]});
        let server = &server;
        async move { vectors(&server.ok("/v1/embeddings", &request).await).remove(0) }
    });
    for (at, vector) in futures::future::join_all(parallel).await.into_iter().enumerate() {
        assert_eq!(vector, together[at % 40]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_and_long_texts_cut_on_demand() {
    let server = Server::start(EMBED, |config| config.max_inputs = 8).await;
    let table = [
        (json!({}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [""]}), "input[0]"),
        (json!({"input": [[1, -2]]}), "input[0][1]"),
        (json!({"input": [[1, 99_999_999]]}), "input[0]"),
        (json!({"input": vec!["a"; 9]}), "input"),
        (json!({"input": "x", "dimensions": 100}), "dimensions"),
        (json!({"input": "x", "encoding_format": "int8"}), "encoding_format"),
        (json!({"input": "word ".repeat(1000)}), "input"),
    ];
    for (body, param) in table {
        let (status, reply) = server.post("/v1/embeddings", &body).await;
        assert_eq!((status, reply["error"]["param"].as_str()), (400, Some(param)), "{reply}");
    }
    let cut = json!({"input": "word ".repeat(1000), "truncate_prompt_tokens": 20});
    assert_eq!(server.ok("/v1/embeddings", &cut).await["usage"]["prompt_tokens"], 20);
    assert_eq!(
        server.ok("/v1/embeddings", &json!({"input": "x", "dimensions": 384})).await["data"][0]["index"],
        0
    );
    let (status, reply) = server.post("/v1/chat/completions", &ask("x")).await;
    assert!(
        status == 400 && reply["error"]["message"].as_str().is_some_and(|m| m.contains("embedding model")),
        "{reply}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reranking_puts_the_meant_document_first() {
    let server = Server::start(EMBED, |_| {}).await;
    let request = json!({
        "query": "Where do cats sleep?",
        "documents": ["Interest rates rose.", {"text": "Cats nap on sofas."}, "Dogs bark at night."],
        "top_n": 2,
        "return_documents": true,
    });
    for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
        let reply = server.ok(path, &request).await;
        let results = reply["results"].as_array().expect("a list");
        assert_eq!((results.len(), &results[0]["index"]), (2, &json!(1)), "{reply}");
        assert_eq!(results[0]["document"]["text"], "Cats nap on sofas.");
        assert!(results[0]["relevance_score"].as_f64() > results[1]["relevance_score"].as_f64());
    }
    for (body, param) in [
        (json!({"query": "x"}), "documents"),
        (json!({"documents": ["x"]}), "query"),
        (json!({"query": "x", "documents": [1]}), "documents[0]"),
    ] {
        let (status, reply) = server.post("/rerank", &body).await;
        assert_eq!((status, reply["error"]["param"].as_str()), (400, Some(param)), "{reply}");
    }
}

#[test]
fn a_model_is_refused_for_a_task_that_it_cannot_do() {
    for (model, task, says) in [
        (
            EMBED,
            EngineTask::Chat,
            "all-minilm-l6-v2 is an embedding model, and this engine is started for the task chat",
        ),
        (CHAT, EngineTask::Embed, "smollm2-135m-instruct is a model that writes text"),
    ] {
        let config = TinyinferConfig {
            model: model.to_owned(),
            task: Some(task),
            threads: 1,
            ..TinyinferConfig::default()
        };
        let error = Served::start(&config, || {}).err().expect("refused").to_string();
        assert!(error.starts_with(says), "{error}");
    }
}
