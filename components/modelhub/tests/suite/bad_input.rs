//! What no server should have to read: too large, empty, not text, sent twice or all at once.

use aistack_api::modelhub::EngineTask;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::engine::{Engine, Manner};
use crate::hub::{Hub, engine};
use crate::pdf::Quick;
use crate::processes;

const HUNDRED_MB: usize = 100 << 20;

/// Sends a request of 100 MB as fast as the server takes it; gives the status and the body of the reply, which may come
/// before everything is sent.
async fn send_hundred_mb(hub: &Hub, method: &str, path: &str, chunked: bool) -> (u16, String) {
    let address = hub.url.trim_start_matches("http://");
    let stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let (mut read, mut write) = stream.into_split();
    let length = if chunked {
        "transfer-encoding: chunked".to_owned()
    } else {
        format!("content-length: {HUNDRED_MB}")
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nconnection: close\r\n{length}\r\n\r\n"
    );
    let sending = tokio::spawn(async move {
        let piece = vec![b'x'; 1 << 20];
        let mut sent = write.write_all(head.as_bytes()).await;
        for _ in 0..100 {
            if sent.is_err() {
                return;
            }
            sent = if chunked {
                let framed = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
                write.write_all(&framed).await
            } else {
                write.write_all(&piece).await
            };
        }
    });
    let mut reply = Vec::new();
    // What came before the server hung up on the rest is the answer.
    let _ = read.read_to_end(&mut reply).await;
    sending.abort();
    let text = String::from_utf8_lossy(&reply).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_are_refused_before_they_are_read() {
    let quick = Quick::start(processes::kv().await, processes::vectors().await).await;
    let file = format!("/api/v1/rag/{}/files/a.txt", quick.rag);
    let query = format!("/api/v1/rag/{}/query", quick.rag);
    let cases = [
        ("POST", "/v1/chat/completions", "request_too_large"),
        ("POST", "/v1/embeddings", "request_too_large"),
        ("PUT", &file, "file_too_large"),
        ("POST", &query, "body_too_large"),
        ("POST", "/api/v1/models", "body_too_large"),
    ];
    for (method, path, code) in cases {
        for chunked in [false, true] {
            let (status, reply) = send_hundred_mb(&quick.hub, method, path, chunked).await;
            assert_eq!(status, 413, "{method} {path} chunked {chunked}: {reply}");
            assert!(reply.contains(code), "{method} {path} chunked {chunked}: {reply}");
        }
    }
    assert_eq!(quick.show().await, (0, 0), "nothing came in");
    assert_eq!(quick.put("a.txt", "Ask early.").await.0, 200, "the server goes on");
}

#[tokio::test]
async fn what_is_not_text_is_refused_with_the_place() {
    let quick = Quick::start(processes::kv().await, processes::vectors().await).await;
    let error = |reply: &Value| {
        let error = &reply["error"];
        format!(
            "{} {}",
            error["code"].as_str().unwrap_or_default(),
            error["message"].as_str().unwrap_or_default()
        )
    };
    let files: [(&str, &[u8], &str); 4] = [
        ("a.txt", b"ok \xff\xfe", "unreadable_file a.txt: byte 3 is not UTF-8"),
        ("a.md", b"\xc3\x28", "unreadable_file a.md: byte 0 is not UTF-8"),
        ("a.pdf", b"%PDF-1.4 and then nothing", "unreadable_file a.pdf: not a readable PDF"),
        ("a.docx", b"PK", "unreadable_file a.docx: only .txt"),
    ];
    for (path, content, want) in files {
        let (status, reply) = quick.put(path, content).await;
        assert!(status == 422 && error(&reply).starts_with(want), "{path}: {status} {reply}");
    }
    for path in ["%2E%2E%2Fa.md", "a//b.md", "a%00.md"] {
        let (status, reply) = quick.put(path, "x").await;
        assert!(status == 400 && error(&reply).starts_with("invalid_path"), "{path}: {status} {reply}");
    }
    assert_eq!(quick.show().await, (0, 0), "nothing is half in");

    let bodies: [(&str, &[u8], u16, &str); 5] = [
        ("/v1/chat/completions", b"", 400, "invalid_json"),
        ("/v1/chat/completions", b"{\"model\": \"\xff\"}", 400, "model_missing"),
        ("/v1/chat/completions", b"\xff\xfe{}", 400, "invalid_json"),
        ("/api/v1/models", b"", 400, "invalid_json"),
        ("/api/v1/models", b"{\"name\": \"\xff\"}", 400, "invalid_json"),
    ];
    for (path, body, want, code) in bodies {
        let request = quick.hub.client.post(format!("{}{path}", quick.hub.url)).body(body.to_vec());
        let (status, reply) = quick.hub.send(request).await;
        assert!(status == want && error(&reply).starts_with(code), "{path}: {status} {reply}");
    }
    for question in
        [json!({"question": ""}), json!({"question": "x".repeat(9_000)}), json!({}), json!({"quesion": "x"})]
    {
        let (status, reply) = quick.hub.post(&format!("/api/v1/rag/{}/query", quick.rag), &question).await;
        assert_eq!(status, 400, "{reply}");
    }
}

#[tokio::test]
async fn an_empty_file_is_held_and_found_nowhere() {
    let quick = Quick::start(processes::kv().await, processes::vectors().await).await;
    for path in ["empty.txt", "empty.md", "empty.html"] {
        let (status, reply) = quick.put(path, "").await;
        assert_eq!((status, reply["passages"].as_u64()), (200, Some(0)), "{reply}");
    }
    assert_eq!(quick.show().await, (3, 0));
    assert!(quick.search("anything").await.passages.is_empty());
    let (status, answer) = quick.query("anything").await;
    assert_eq!((status, answer["answered"].as_bool()), (200, Some(false)), "{answer}");
}

#[tokio::test]
async fn a_huge_header_is_refused() {
    let one = Engine::start("m", Manner::Reply("Hello")).await;
    let hub = Hub::start(|config| config.engines = vec![engine("e", &one.url, EngineTask::Chat)]).await;
    let body = json!({"model": "m", "messages": []});
    let request = |size: usize| {
        let request = hub.client.post(format!("{}/v1/chat/completions", hub.url)).json(&body);
        request.header("x-large", "x".repeat(size)).send()
    };
    assert_eq!(request(8_000).await.expect("a reply").status(), 200);
    assert_eq!(request(300_000).await.expect("a reply").status(), 431);
    assert_eq!(one.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_sent_many_times_at_once_is_held_once() {
    let quick = Quick::start(processes::kv().await, processes::vectors().await).await;
    let replies =
        futures::future::join_all((0..12).map(|_| quick.put("a.md", "Ask early. Then wait."))).await;
    let unchanged = replies.iter().filter(|(_, reply)| reply["unchanged"] == true).count();
    assert!(replies.iter().all(|(status, _)| *status == 200), "{replies:?}");
    assert_eq!(unchanged, 11, "one did the work");
    assert_eq!((quick.show().await, quick.search("early").await.passages.len()), ((1, 1), 1));

    let files: Vec<String> = (0..20).map(|i| format!("f{i}.md")).collect();
    let sends = files.iter().map(|file| quick.put(file, format!("The file {file} is about topic {file}.")));
    assert!(futures::future::join_all(sends).await.iter().all(|(status, _)| *status == 200));
    assert_eq!(quick.show().await, (21, 21));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_a_file_that_race_leave_exactly_one_whole() {
    let quick = Quick::start(processes::kv().await, processes::vectors().await).await;
    let versions = ["The first version. It has two sentences.", "The second version."];
    for _ in 0..6 {
        let sends = (0..6).map(|i| quick.put("a.md", versions[i % 2]));
        assert!(futures::future::join_all(sends).await.iter().all(|(status, _)| *status == 200));
        let passages = quick.search("version").await.passages;
        assert_eq!(passages.len(), 1, "{passages:?}");
        let held = passages[0].text.as_str();
        let (status, reply) = quick.put("a.md", held.to_owned()).await;
        assert_eq!(
            (status, reply["unchanged"].as_bool()),
            (200, Some(true)),
            "the record is of what is found: {reply}"
        );
    }
}
