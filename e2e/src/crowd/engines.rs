//! Something that answers for vector servers: it has the collections that it was told to have, and no points.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

type Collections = Arc<Mutex<HashMap<(String, String), Value>>>;

/// Vector servers, one a namespace, until they are dropped.
pub struct Engines {
    base: String,
    task: JoinHandle<()>,
}

impl Engines {
    /// Begins to answer.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let router = Router::new()
            .route("/{namespace}/collections/{name}", get(told).put(made).patch(changed).delete(removed))
            .route("/{namespace}/collections/{name}/index", put(indexed))
            .with_state(Collections::default());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("engines: {error}");
            }
        });
        Ok(Self { base, task })
    }

    /// Base URL of the server of a namespace.
    pub fn url(&self, namespace: &str) -> String {
        format!("{}/{namespace}", self.base)
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn done() -> (StatusCode, Json<Value>) {
    (StatusCode::OK, Json(json!({"result": true, "status": "ok"})))
}

fn absent() -> (StatusCode, Json<Value>) {
    (StatusCode::NOT_FOUND, Json(json!({"status": {"error": "there is no such collection"}})))
}

async fn told(
    State(all): State<Collections>,
    Path(key): Path<(String, String)>,
) -> (StatusCode, Json<Value>) {
    match all.lock().get(&key) {
        Some(there) => (StatusCode::OK, Json(json!({"result": there, "status": "ok"}))),
        None => absent(),
    }
}

async fn made(
    State(all): State<Collections>,
    Path(key): Path<(String, String)>,
    Json(create): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let config = json!({"params": {"vectors": create["vectors"]}, "hnsw_config": create["hnsw_config"]});
    let there = json!({"status": "green", "points_count": 0, "config": config, "payload_schema": {}});
    all.lock().insert(key, there);
    done()
}

async fn changed(
    State(all): State<Collections>,
    Path(key): Path<(String, String)>,
    Json(change): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let mut all = all.lock();
    let Some(there) = all.get_mut(&key) else { return absent() };
    for (setting, value) in change["hnsw_config"].as_object().into_iter().flatten() {
        there["config"]["hnsw_config"][setting.as_str()] = value.clone();
    }
    done()
}

async fn indexed(
    State(all): State<Collections>,
    Path(key): Path<(String, String)>,
    Json(index): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let mut all = all.lock();
    let Some(there) = all.get_mut(&key) else { return absent() };
    let field = index["field_name"].as_str().unwrap_or_default();
    there["payload_schema"][field] = json!({"data_type": index["field_schema"], "points": 0});
    done()
}

async fn removed(
    State(all): State<Collections>,
    Path(key): Path<(String, String)>,
) -> (StatusCode, Json<Value>) {
    all.lock().remove(&key);
    done()
}
