//! Artefacts in an S3 bucket: a double that keeps objects in memory and takes multipart uploads, as S3's REST API describes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::process::Command;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::hub::free_port;
use crate::processes::{self, Process};
use crate::stack::unique;

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Bytes>,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    refused: usize,
}

type Shared = Arc<Mutex<Bucket>>;

fn xml(text: String) -> Response {
    ([("content-type", "application/xml")], text).into_response()
}

fn with_etag(status: StatusCode, body: impl IntoResponse) -> Response {
    (status, [("etag", "\"e\"")], body).into_response()
}

async fn object(
    State(bucket): State<Shared>,
    method: Method,
    Path(key): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut bucket = bucket.lock();
    let signed = headers
        .get("authorization")
        .is_some_and(|v| v.as_bytes().starts_with(b"AWS4-HMAC-SHA256 Credential=me/"));
    if !signed {
        bucket.refused += 1;
        return StatusCode::FORBIDDEN.into_response();
    }
    let upload = query.get("uploadId").cloned();
    match (method, upload) {
        (Method::POST, None) if query.contains_key("uploads") => {
            let id = bucket.uploads.len().to_string();
            bucket.uploads.insert(id.clone(), BTreeMap::new());
            xml(format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ))
        }
        (Method::PUT, Some(id)) => {
            let part = query["partNumber"].parse().expect("a number");
            bucket.uploads.get_mut(&id).expect("begun").insert(part, body);
            with_etag(StatusCode::OK, "")
        }
        (Method::POST, Some(id)) => {
            let parts = bucket.uploads.remove(&id).expect("begun");
            let whole: Vec<u8> = parts.into_values().flatten().collect();
            bucket.objects.insert(key, whole.into());
            xml("<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>".to_owned())
        }
        (Method::DELETE, Some(id)) => {
            bucket.uploads.remove(&id);
            StatusCode::NO_CONTENT.into_response()
        }
        (Method::PUT, None) => {
            let source = headers.get("x-amz-copy-source").and_then(|v| v.to_str().ok());
            if let Some(source) = source {
                let from = source.trim_start_matches('/').split_once('/').expect("bucket and key").1;
                let copied = bucket.objects[from].clone();
                bucket.objects.insert(key, copied);
                return xml("<CopyObjectResult><ETag>e</ETag></CopyObjectResult>".to_owned());
            }
            bucket.objects.insert(key, body);
            with_etag(StatusCode::OK, "")
        }
        (Method::DELETE, None) => {
            bucket.objects.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        (_, _) => match bucket.objects.get(&key) {
            Some(object) => {
                let modified = ("last-modified", "Sat, 21 Nov 2026 12:00:00 GMT");
                (StatusCode::OK, [("etag", "\"e\""), modified], object.clone()).into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

/// `POST /bucket?delete`: several objects at a time.
async fn delete(State(bucket): State<Shared>, body: String) -> Response {
    let keys = body.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
    let mut answer = "<DeleteResult>".to_owned();
    for (key, _) in keys {
        bucket.lock().objects.remove(key);
        write!(answer, "<Deleted><Key>{key}</Key></Deleted>").expect("memory");
    }
    xml(answer + "</DeleteResult>")
}

#[tokio::test]
async fn a_model_is_kept_in_a_bucket() {
    let bucket = Shared::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let app = axum::Router::new()
        .route("/models", axum::routing::post(delete))
        .route("/models/{*key}", axum::routing::any(object))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(bucket.clone());
    tokio::spawn(async move { axum::serve(listener, app).await.expect("runs") });
    let kv = processes::kv().await;
    let (http, admin) = (free_port(), free_port());
    let settings = vec![
        ("AWS_ENDPOINT", endpoint),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "eu-central-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "me".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("MODELHUB_LISTEN", format!("127.0.0.1:{http}")),
        ("MODELHUB_SERVER__ADMIN_LISTEN", format!("127.0.0.1:{admin}")),
        ("MODELHUB_ARTEFACTS", "s3://models/prod".to_owned()),
        ("MODELHUB_KV__ENDPOINTS", json!([kv.url]).to_string()),
    ];
    let command = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelhub"));
        command.arg("serve").envs(settings.iter().cloned());
        command
    };
    let _hub = Process::run(command, tempfile::tempdir().expect("a folder"), admin).await;
    let client = reqwest::Client::new();
    let (model, base) = (unique("m"), format!("http://127.0.0.1:{http}/api/v1/models"));
    let send = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap_or_default())
    };
    assert_eq!(send(client.post(&base).json(&json!({"name": model}))).await.0, 201);
    assert_eq!(send(client.post(format!("{base}/{model}/versions")).json(&json!({}))).await.0, 201);
    // Three parts of 8 MB, and a small one; with and without an announced digest.
    let weights: Vec<u8> = (0..20_u32 << 20).map(|i| (i % 251) as u8).collect();
    let digest = hex::encode(Sha256::digest(&weights));
    let at = |file: &str| format!("{base}/{model}/versions/1/files/{file}");
    let announced = client.put(at("weights")).header("x-checksum-sha256", &digest).body(weights.clone());
    let (status, file) = send(announced).await;
    assert_eq!((status, file["sha256"].as_str()), (200, Some(digest.as_str())), "{file}");
    let (status, file) = send(client.put(at("card.md")).body("A model.")).await;
    assert_eq!((status, file["bytes"].as_u64()), (200, Some(8)), "{file}");
    {
        let bucket = bucket.lock();
        assert!(
            bucket.objects.keys().all(|key| key.starts_with("prod/sha256/")),
            "{:?}",
            bucket.objects.keys()
        );
        assert_eq!((bucket.objects.len(), bucket.uploads.len(), bucket.refused), (2, 0, 0));
    }
    let got = client.get(at("weights")).send().await.expect("a reply").bytes().await.expect("whole");
    assert!(got == weights, "{} bytes", got.len());
    let (status, gone) = send(client.delete(format!("{base}/{model}"))).await;
    assert_eq!((status, gone["freed_bytes"].as_u64()), (200, Some(weights.len() as u64 + 8)), "{gone}");
    assert!(bucket.lock().objects.is_empty());
}
