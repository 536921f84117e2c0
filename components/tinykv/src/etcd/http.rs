//! What etcd answers over plain HTTP on its client port.

use super::ETCD_VERSION;
use crate::metrics::gauges;
use crate::node::Node;
use aistack_chassis::Metrics;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use std::sync::Arc;

#[derive(Clone)]
struct Site {
    node: Arc<Node>,
    metrics: Metrics,
}

/// `/version`, `/health`, `/livez`, `/readyz`, `/metrics`, and a sentence for everything else.
pub fn routes(node: Arc<Node>, metrics: Metrics) -> Router {
    let cluster = format!("{}.0", ETCD_VERSION.rsplit_once('.').map_or(ETCD_VERSION, |(minor, _)| minor));
    let version = json!({ "etcdserver": ETCD_VERSION, "etcdcluster": cluster, "storage": cluster });
    Router::new()
        .route("/version", get(move || std::future::ready(Json(version.clone()))))
        .route("/health", get(health))
        .route("/livez", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures))
        .fallback(nothing)
        .with_state(Site { node, metrics })
}

/// What is wrong, if anything is.
fn trouble(node: &Node) -> Option<String> {
    if node.status().leader.is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    let alarm = node.shared.with(|keyspace| keyspace.alarms().iter().next().copied());
    alarm.map(|(_, alarm)| match alarm {
        crate::mvcc::Alarm::NoSpace => "ALARM NOSPACE".to_owned(),
        crate::mvcc::Alarm::Corrupt => "ALARM CORRUPT".to_owned(),
    })
}

async fn health(State(site): State<Site>) -> Response {
    match trouble(&site.node) {
        None => Json(json!({ "health": "true", "reason": "" })).into_response(),
        Some(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "health": "false", "reason": reason })))
                .into_response()
        }
    }
}

async fn ready(State(site): State<Site>) -> Response {
    match trouble(&site.node) {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn figures(State(site): State<Site>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = site.metrics.encode();
    let body = text.trim_end().trim_end_matches("# EOF");
    let node = &site.node;
    let group = node.status();
    let (keys, bytes, revision, compacted, leases) = node.shared.with(|keyspace| {
        (
            keyspace.keys(),
            keyspace.bytes(),
            keyspace.revision(),
            keyspace.compacted(),
            keyspace.leases().count(),
        )
    });
    let values = [
        ("etcd_server_has_leader", f64::from(u8::from(group.leader.is_some()))),
        ("etcd_server_is_leader", f64::from(u8::from(group.leader == Some(group.node)))),
        ("etcd_server_proposals_committed_total", group.applied_index as f64),
        ("etcd_server_quota_backend_bytes", node.config.quota_bytes as f64),
        ("etcd_mvcc_db_total_size_in_bytes", node.shared.db().size().max(bytes) as f64),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", bytes as f64),
        ("etcd_debugging_mvcc_keys_total", keys as f64),
        ("etcd_debugging_mvcc_current_revision", revision as f64),
        ("etcd_debugging_mvcc_compact_revision", compacted as f64),
        ("etcd_debugging_lease_total", leases as f64),
    ];
    let text = format!("{body}{}# EOF\n", gauges(&node.shared.figures, &values));
    ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}

async fn nothing(uri: Uri, headers: HeaderMap) -> Response {
    let grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return super::absent(uri.path().trim_start_matches('/')).into_http();
    }
    let sentence = format!(
        "{} is no path of tinykv; it serves /version, /health, /livez, /readyz, /metrics, and gRPC\n",
        uri.path()
    );
    (StatusCode::NOT_FOUND, sentence).into_response()
}

/// Keeps the engine's gauge of keys honest about its name.
#[cfg(test)]
mod tests {
    use crate::mvcc::Keyspace;

    #[test]
    fn an_empty_store_has_revision_one() {
        let keyspace = Keyspace::new(0, 2);
        assert_eq!((keyspace.revision(), keyspace.compacted(), keyspace.keys()), (1, -1, 0));
    }
}
