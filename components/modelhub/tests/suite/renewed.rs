//! Keys that are renewed while the server runs, as a Secret's are.

use aistack_api::modelhub::{EngineTask, KeysConfig};
use serde_json::json;

use crate::engine::{Engine, Manner};
use crate::hub::{Hub, engine, eventually};
use crate::processes;

#[tokio::test]
async fn keys_are_read_again_when_their_files_change() {
    let (kv, one) = (processes::kv().await, Engine::start("m", Manner::Reply("Hello")).await);
    let folder = tempfile::tempdir().expect("a folder");
    let (admin, engines) = (folder.path().join("admin"), folder.path().join("engine"));
    let [before, after] = ["a", "b"].map(|letter| letter.repeat(40));
    let write = |key: &str| {
        for file in [&admin, &engines] {
            std::fs::write(file, key).expect("a file");
        }
    };
    write(&before);
    let hub = Hub::start(|config| {
        crate::stack::on(config, &kv);
        let mut one = engine("e", &one.url, EngineTask::Chat);
        one.api_key_file = Some(engines.clone());
        config.engines = vec![one];
        config.keys = KeysConfig { required: false, admin_key_file: Some(admin.clone()) };
    })
    .await;
    let lists = async |key: &str| {
        let request = hub.client.get(format!("{}/api/v1/keys", hub.url)).bearer_auth(key);
        hub.send(request).await.0
    };
    let shown = async || {
        assert_eq!(hub.post("/v1/chat/completions", &json!({"model": "m", "messages": []})).await.0, 200);
        let (headers, _) = one.seen.lock().last().cloned().expect("a request");
        headers["authorization"].to_str().expect("text").to_owned()
    };
    assert_eq!((lists(&before).await, lists(&after).await), (200, 403));
    assert_eq!(shown().await, format!("Bearer {before}"));
    // Too short: the one of before stays in use.
    std::fs::write(&admin, "short").expect("a file");
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!((lists(&before).await, lists(&after).await), (200, 403));
    write(&after);
    eventually("the administrator's is another", || async { lists(&after).await == 200 }).await;
    assert_eq!(lists(&before).await, 403);
    eventually("the engine's is another", || async { shown().await == format!("Bearer {after}") }).await;
}
