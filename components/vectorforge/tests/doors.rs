//! Both doors of a node in this process, on free ports: what is written through one is read through the other, and is
//! there after a restart. The Python client's suite in `e2e/peers/qdrant` goes through every call.

use std::net::SocketAddr;
use std::path::Path;

use aistack_api::server::ServerConfig;
use aistack_api::vectorforge::VectorforgeConfig;
use aistack_chassis::{Component, Ctx, Health, Metrics, Shutdown};
use qdrant_client::Qdrant;
use qdrant_client::qdrant::{
    Condition, CreateCollectionBuilder, Distance, Filter, PointStruct, QueryPointsBuilder,
    UpsertPointsBuilder, VectorParamsBuilder,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use vectorforge::{Server, ServerError};
use wire::platform::v1 as platform;
use wire::platform::v1::vector_service_client::VectorServiceClient;

const COMPONENT: Component = Component { name: "vectorforge", env_prefix: "VECTORFORGE_", version: "0.1.0" };

struct Node {
    http: SocketAddr,
    grpc: SocketAddr,
    ctx: Ctx,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Node {
    async fn start(data_dir: &Path) -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut server = ServerConfig::with_admin(local(0));
        // No time-out that a machine that stalls could meet.
        server.limits.header_timeout_ms = 3_600_000;
        server.limits.drain_timeout_ms = 3_600_000;
        let ctx = Ctx {
            component: COMPONENT,
            shutdown: Shutdown::default(),
            health: Health::default(),
            metrics: Metrics::new(COMPONENT),
            server: server.clone(),
        };
        let config = VectorforgeConfig {
            server,
            listen_http: local(0),
            listen_grpc: local(0),
            data_dir: data_dir.to_owned(),
            ..VectorforgeConfig::default()
        };
        let node = Server::bind(config, ctx.clone()).await.expect("free ports and an empty directory");
        let (http, grpc) = node.addresses().expect("bound listeners have addresses");
        Self { http, grpc, ctx, task: tokio::spawn(node.run()) }
    }

    async fn stop(self) {
        self.ctx.shutdown.trigger();
        self.task.await.expect("the server's task does not panic").expect("a clean end");
    }

    /// One request on a connection of its own.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.http,
            body.len()
        );
        let mut stream = TcpStream::connect(self.http).await.expect("the server listens");
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the server answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head[9..12].parse().expect("a status");
        (status, serde_json::from_str(body).expect("every answer is JSON"))
    }

    /// The `result` of a call that must succeed.
    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, mut answer) = self.call(method, path, body).await;
        assert_eq!((status, &answer["status"]), (200, &json!("ok")), "{method} {path}: {answer}");
        answer["result"].take()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_door_writes_the_others_read_and_a_restart_keeps() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path()).await;
    let qdrant = Qdrant::from_url(&format!("http://{}", node.grpc))
        .skip_compatibility_check()
        .build()
        .expect("a client");
    qdrant
        .create_collection(
            CreateCollectionBuilder::new("docs").vectors_config(VectorParamsBuilder::new(2, Distance::Dot)),
        )
        .await
        .expect("created over gRPC");
    let payload: qdrant_client::Payload = json!({"lang": "en", "n": 1}).try_into().expect("an object");
    let points = vec![PointStruct::new(1, vec![1.0, 0.0], payload)];
    qdrant
        .upsert_points(UpsertPointsBuilder::new("docs", points).wait(true))
        .await
        .expect("written over gRPC");

    let second = json!({"points": [{"id": "936da01f-9abd-4d9d-80c7-02af85c822a8", "vector": [0.0, 2.0]}]});
    let update = node.ok("PUT", "/collections/docs/points?wait=true", second).await;
    assert_eq!(update["status"], "completed");

    let mut own = VectorServiceClient::connect(format!("http://{}", node.grpc)).await.expect("the same port");
    let third = platform::Point {
        id: Some(platform::PointId { id: Some(platform::point_id::Id::Number(3)) }),
        vector: vec![3.0, 3.0],
        payload: None,
    };
    let request = platform::UpsertRequest { collection: "docs".to_owned(), points: vec![third] };
    assert_eq!(own.upsert(request).await.expect("written over platform.v1").into_inner().upserted, 1);

    let hits = node.ok("POST", "/collections/docs/points/query", json!({"query": [1.0, 1.0]})).await;
    let ids: Vec<&Value> = hits["points"].as_array().expect("a list").iter().map(|hit| &hit["id"]).collect();
    assert_eq!(ids, [&json!(3), &json!("936da01f-9abd-4d9d-80c7-02af85c822a8"), &json!(1)]);

    let english = Filter::must([Condition::matches("lang", "en".to_owned())]);
    let query = QueryPointsBuilder::new("docs").query(vec![1.0, 1.0]).filter(english).with_payload(true);
    let hits = qdrant.query(query).await.expect("a filtered query").result;
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].payload["n"].as_integer(), Some(1));

    let request = platform::SearchRequest {
        collection: "docs".to_owned(),
        vector: vec![1.0, 0.0],
        limit: 1,
        ..platform::SearchRequest::default()
    };
    let best = own.search(request).await.expect("a search over platform.v1").into_inner().points;
    assert!((best[0].score - 3.0).abs() < 1e-6, "{best:?}");
    drop((own, qdrant));
    node.stop().await;

    let node = Node::start(dir.path()).await;
    assert_eq!(node.ok("POST", "/collections/docs/points/count", json!({})).await["count"], 3);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_come_in_the_envelope_and_name_the_field() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path()).await;
    node.ok("PUT", "/collections/c", json!({"vectors": {"size": 2, "distance": "Cosine"}})).await;
    let table = [
        (
            "PUT",
            "/collections/c",
            json!({"vectors": {"size": 2, "distance": "Cosine"}}),
            409,
            "already exists",
        ),
        ("PUT", "/collections/d", json!({"vectors": {"size": 2, "distance": "Cosine"}, "x": 1}), 400, "`x`"),
        (
            "PUT",
            "/collections/c/points",
            json!({"points": [{"id": 1, "vector": [1]}]}),
            400,
            "expected dim: 2",
        ),
        ("PUT", "/collections/c/points", json!({"points": [{"id": 1, "vec": [1]}]}), 400, "points[0].vec"),
        ("POST", "/collections/c/points/query", json!({"query": {"fusion": "rrf"}}), 501, "fusion"),
        ("POST", "/collections/none/points/count", json!({}), 404, "none"),
        ("POST", "/collections/c/points/count", json!({"filter": {"mst": []}}), 400, "`mst`"),
    ];
    for (method, path, body, status, text) in table {
        let (got, answer) = node.call(method, path, body).await;
        let error = answer["status"]["error"].as_str().unwrap_or_default();
        assert!(got == status && error.contains(text), "{method} {path}: {got} {answer}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path()).await;
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = VectorforgeConfig {
        listen_http: local,
        listen_grpc: local,
        data_dir: dir.path().to_owned(),
        ..VectorforgeConfig::default()
    };
    let error = Server::bind(config, node.ctx.clone()).await.expect_err("the directory is locked");
    assert!(error.to_string().contains("in use"), "{error}");
    node.stop().await;
}
