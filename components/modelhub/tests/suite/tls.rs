//! Engines and stores behind TLS: the right CA opens, a wrong one is told, a client certificate is shown when asked for.

use aistack_api::modelhub::{ClientTlsConfig, EngineTask, VectorConfig, VectorKind};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::certificates::{Authority, variables};
use crate::engine::{Engine, Manner};
use crate::hub::{Hub, engine};
use crate::processes::{self, Service};
use crate::stack::unique;

/// Asks a hub with one engine; gives the status and what was said.
async fn ask(url: &str, tls: Option<ClientTlsConfig>) -> (u16, String) {
    let hub = Hub::start(|config| {
        let mut engine = engine("e", url, EngineTask::Chat);
        engine.models = vec!["m".into()];
        engine.tls = tls;
        config.engines = vec![engine];
    })
    .await;
    let (status, reply) =
        hub.post("/v1/chat/completions", &json!({"model": "m", "messages": [], "stream": false})).await;
    (status, reply.to_string())
}

#[tokio::test]
async fn an_engine_is_trusted_by_its_ca_only() {
    let (ca, other) = (Authority::new(), Authority::new());
    let plain = Engine::start_tls("m", Manner::Reply("Hello"), ca.server("127.0.0.1", None)).await;
    let strict = Engine::start_tls("m", Manner::Reply("Hello"), ca.server("127.0.0.1", Some(&ca))).await;
    let named = Engine::start_tls("m", Manner::Reply("Hello"), ca.server("engine.internal", None)).await;
    let open = Engine::start("m", Manner::Reply("Hello")).await;
    let misled = open.url.replace("http:", "https:");
    let other_name = ClientTlsConfig { server_name: Some("engine.internal".into()), ..ca.client() };
    let stranger = ClientTlsConfig { ca_file: Some(ca.ca_file.clone()), ..other.client_with_certificate() };
    let cases = [
        ("right CA", &plain.url, ca.client(), 200, "Hello"),
        ("wrong CA", &plain.url, other.client(), 503, "UnknownIssuer; set tls.ca_file"),
        ("no certificate", &strict.url, ca.client(), 503, "set tls.cert_file and tls.key_file"),
        ("certificate", &strict.url, ca.client_with_certificate(), 200, "Hello"),
        ("a stranger's certificate", &strict.url, stranger, 503, "does not trust the client certificate"),
        ("wrong name", &named.url, ca.client(), 503, "or set tls.server_name"),
        ("another name", &named.url, other_name, 200, "Hello"),
        ("no TLS there", &misled, ca.client(), 503, "it does not speak TLS there: try http://"),
    ];
    for (name, url, tls, want, part) in cases {
        let (status, said) = ask(url, Some(tls)).await;
        assert!(status == want && said.contains(part), "{name}: {status} {said}");
    }
    let (status, said) = ask(&plain.url, None).await;
    assert!(status == 503 && said.contains("UnknownIssuer"), "the system's CAs: {status} {said}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_stops_the_start() {
    let config = aistack_api::modelhub::ModelhubConfig {
        engines: vec![aistack_api::modelhub::EngineConfig {
            tls: Some(ClientTlsConfig {
                ca_file: Some("/nowhere/ca.pem".into()),
                ..ClientTlsConfig::default()
            }),
            ..engine("e", "https://127.0.0.1:1", EngineTask::Chat)
        }],
        ..Default::default()
    };
    let ctx = crate::hub::context(config.server.clone());
    let error = modelhub::server::serve(config, ctx).await.expect_err("no such file").to_string();
    assert!(error.contains("engines[e].tls.ca_file /nowhere/ca.pem"), "{error}");
}

/// A store that asks for client certificates: TinyKV, or the etcd binary that `HUB_TEST_ETCD_BIN` names.
async fn strict_store(ca: &Authority) -> Service {
    let tls = ca.server("127.0.0.1", Some(ca));
    let binary = std::env::var("HUB_TEST_ETCD_BIN").unwrap_or_default();
    if !binary.is_empty() {
        return processes::etcd_over_tls(&binary, &tls).await;
    }
    let settings = variables("TINYKV_", &tls);
    let settings: Vec<(&str, String)> = settings.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let mut store = processes::own_kv(None, &settings).await;
    store.url = store.url.replace("http:", "https:");
    store
}

#[tokio::test]
async fn the_registry_is_kept_over_tls() {
    let (ca, other) = (Authority::new(), Authority::new());
    let store = strict_store(&ca).await;
    let cases = [
        ("certificate", ca.client_with_certificate(), 201, ""),
        ("wrong CA", other.client_with_certificate(), 503, "UnknownIssuer; set tls.ca_file"),
        ("no certificate", ca.client(), 503, "set tls.cert_file and tls.key_file"),
    ];
    for (name, tls, want, part) in cases {
        let hub = Hub::start(|config| {
            config.kv.endpoints = vec![store.url.clone()];
            config.kv.tls = Some(tls);
        })
        .await;
        let (status, reply) = hub.post("/api/v1/models", &json!({"name": unique("m")})).await;
        assert!(status == want && reply.to_string().contains(part), "{name}: {status} {reply}");
    }
}

#[tokio::test]
async fn another_authority_takes_over_under_a_hub() {
    let (ca, next) = (Authority::new(), Authority::new());
    let (server, client) = (ca.server("127.0.0.1", Some(&ca)), ca.client_with_certificate());
    let settings = variables("TINYKV_", &server);
    let settings: Vec<(&str, String)> = settings.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let mut store = processes::own_kv(None, &settings).await;
    let llm = Engine::start_tls("m", Manner::Reply("Hello"), server.clone()).await;
    let hub = Hub::start(|config| {
        config.kv.endpoints = vec![store.url.replace("http:", "https:")];
        config.kv.tls = Some(client.clone());
        let mut engine = engine("e", &llm.url, EngineTask::Chat);
        engine.tls = Some(client.clone());
        config.engines = vec![engine];
    })
    .await;
    let registers = async || hub.post("/api/v1/models", &json!({"name": unique("m")})).await;
    assert_eq!(registers().await.0, 201);
    // Both sides get what the kubelet would bring them.
    let (renewed, shown) = (next.server("127.0.0.1", Some(&next)), next.client_with_certificate());
    let files = [
        (&renewed.cert_file, &server.cert_file),
        (&renewed.key_file, &server.key_file),
        (&next.ca_file, &ca.ca_file),
        (shown.cert_file.as_ref().expect("made"), client.cert_file.as_ref().expect("made")),
        (shown.key_file.as_ref().expect("made"), client.key_file.as_ref().expect("made")),
    ];
    for (from, to) in files {
        std::fs::copy(from, to).expect("copied");
    }
    store.process.as_mut().expect("ours").restart().await;
    let began = std::time::Instant::now();
    let chat = json!({"model": "m", "messages": [], "stream": false});
    loop {
        let (kept, (status, said)) = (registers().await, hub.post("/v1/chat/completions", &chat).await);
        if kept.0 == 201 && status == 200 {
            break;
        }
        assert!(began.elapsed().as_secs() < 60, "{kept:?}; {status} {said}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn passages_are_kept_over_tls_with_an_api_key() {
    let (ca, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let keys = file("keys", &format!("sha256:{}  hub\n", hex::encode(Sha256::digest("secret"))));
    let mut settings = variables("VECTORFORGE_", &ca.server("127.0.0.1", None));
    settings.push(("VECTORFORGE_SERVER__AUTH__KEYS_FILE".into(), keys.display().to_string()));
    let settings: Vec<(&str, String)> = settings.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let store = processes::own_vectors(None, &settings).await;
    let endpoint = store.url.replace("http:", "https:");
    let (kv, embed) = (processes::kv().await, Engine::start("e", Manner::Embed).await);
    let (right, wrong) = (file("right", "secret\n"), file("wrong", "guess\n"));
    let cases = [
        ("right key", ca.client(), &right, 200, "\"passages\":1"),
        ("wrong key", ca.client(), &wrong, 502, "API key"),
        ("wrong CA", other.client(), &right, 503, "UnknownIssuer; set tls.ca_file"),
    ];
    for (name, tls, key, want, part) in cases {
        let hub = Hub::start(|config| {
            config.kv.endpoints = vec![kv.url.clone()];
            config.engines = vec![engine("embed", &embed.url, EngineTask::Embed)];
            config.vector = Some(VectorConfig {
                kind: VectorKind::Qdrant,
                endpoint: endpoint.clone(),
                api_key_file: Some(key.clone()),
                tls: Some(tls),
            });
        })
        .await;
        let rag = unique("r");
        assert_eq!(hub.post("/api/v1/rag", &json!({"name": rag})).await.0, 200);
        let (status, reply) = hub.put(&format!("/api/v1/rag/{rag}/files/a.md"), "Ask early.").await;
        assert!(status == want && reply.to_string().contains(part), "{name}: {status} {reply}");
    }
}
