//! What etcd answers over plain HTTP on its client port.

use super::ETCD_VERSION;
use super::rpcs::Rpcs;
use crate::metrics::gauges;
use crate::mvcc::{Alarm, Keyspace, Origin, Query, Span};
use crate::node::Node;
use aistack_chassis::Metrics;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Arc;
use tonic::Status;

#[derive(Clone)]
struct Site {
    node: Arc<Node>,
    metrics: Metrics,
    rpcs: Arc<Rpcs>,
}

/// `/version`, `/health`, `/livez`, `/readyz`, `/metrics`, `/debug/vars`, and a sentence for everything else.
pub fn routes(node: Arc<Node>, metrics: Metrics, rpcs: Arc<Rpcs>) -> Router {
    watched()
        .route("/version", get(version))
        .route("/debug/vars", get(variables))
        .fallback(nothing)
        .with_state(Site { node, metrics, rpcs })
}

/// What those ask for who watch over the member, alone.
pub fn for_watchers(node: Arc<Node>, metrics: Metrics, rpcs: Arc<Rpcs>) -> Router {
    watched().with_state(Site { node, metrics, rpcs })
}

fn watched() -> Router<Site> {
    Router::new()
        .route("/health", get(health))
        .route("/livez", get(live))
        .route("/livez/{check}", get(single))
        .route("/readyz", get(ready))
        .route("/readyz/{check}", get(single))
        .route("/metrics", get(figures))
}

async fn version(State(site): State<Site>) -> Response {
    let cluster = site.node.shared.with(Keyspace::release).whole();
    Json(json!({ "etcdserver": ETCD_VERSION, "etcdcluster": cluster, "storage": cluster })).into_response()
}

/// What may be asked of the health paths.
#[derive(Debug, Default)]
struct Asked {
    excluded: Vec<String>,
    serializable: bool,
    verbose: bool,
}

impl Asked {
    fn of(uri: &Uri) -> Self {
        let mut asked = Self::default();
        for pair in uri.query().unwrap_or("").split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("exclude", name) if !name.is_empty() => asked.excluded.push(name.to_owned()),
                ("serializable", value) => asked.serializable = value == "true",
                ("verbose", _) => asked.verbose = true,
                _ => {}
            }
        }
        asked
    }

    fn wants(&self, name: &str) -> bool {
        !self.excluded.iter().any(|excluded| excluded == name)
    }
}

fn alarms(node: &Node) -> Vec<&'static str> {
    node.shared.with(|keyspace| {
        let name = |(_, alarm): &(u64, Alarm)| match alarm {
            Alarm::NoSpace => "NOSPACE",
            Alarm::Corrupt => "CORRUPT",
        };
        keyspace.alarms().iter().map(name).collect()
    })
}

/// Reads one key, as whoever may read all of them.
async fn reads(node: &Node, serializable: bool) -> Result<(), String> {
    let query = Query { limit: 1, keys_only: true, ..Query::of(Span::Key(Bytes::from_static(&[0]))) };
    let read = node.query(&Origin::Member, &query, serializable).await;
    read.map(drop).map_err(|error| Status::from(error).message().to_owned())
}

/// What is wrong, if anything is.
async fn trouble(node: &Node, asked: &Asked) -> Option<String> {
    if let Some(alarm) = alarms(node).into_iter().find(|alarm| asked.wants(alarm)) {
        return Some(format!("ALARM {alarm}"));
    }
    if !asked.serializable && !node.has_leader() {
        return Some("RAFT NO LEADER".to_owned());
    }
    reads(node, asked.serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
}

async fn health(State(site): State<Site>, uri: Uri) -> Response {
    let trouble = trouble(&site.node, &Asked::of(&uri)).await;
    let (healthy, unhealthy) = &site.node.shared.figures.health;
    if trouble.is_none() {
        healthy.inc()
    } else {
        unhealthy.inc()
    };
    match trouble {
        // As text: etcd leaves the type to be guessed.
        None => json!({ "health": "true", "reason": "" }).to_string().into_response(),
        Some(reason) => {
            let text = json!({ "health": "false", "reason": reason }).to_string();
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

const LIVENESS: &[&str] = &["serializable_read"];
const READINESS: &[&str] = &["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

async fn check(node: &Node, name: &str) -> Result<(), String> {
    match name {
        "data_corruption" if alarms(node).contains(&"CORRUPT") => Err("alarm activated: CORRUPT".to_owned()),
        "serializable_read" => reads(node, true).await,
        "linearizable_read" => reads(node, false).await,
        "non_learner" => {
            let group = node.status();
            let learns = group.members.get(&group.node).is_some_and(|member| !member.voter);
            if learns { Err("not supported for learner".to_owned()) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

async fn checks(node: &Node, asked: &Asked, names: &[&str]) -> Response {
    let (mut lines, mut failed) = (Vec::new(), false);
    for name in names.iter().filter(|name| asked.wants(name)) {
        lines.push(match check(node, name).await {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(error) => {
                failed = true;
                format!("[-]{name} failed: {error}\n")
            }
        });
    }
    let mut report = lines.concat();
    if failed {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{report}\n")).into_response();
    }
    if !asked.verbose {
        report.clear();
    }
    (StatusCode::OK, format!("{report}ok\n")).into_response()
}

async fn live(State(site): State<Site>, uri: Uri) -> Response {
    checks(&site.node, &Asked::of(&uri), LIVENESS).await
}

async fn ready(State(site): State<Site>, uri: Uri) -> Response {
    checks(&site.node, &Asked::of(&uri), READINESS).await
}

/// One check of `/livez` or `/readyz`.
async fn single(State(site): State<Site>, uri: Uri) -> Response {
    let mut parts = uri.path().trim_start_matches('/').split('/');
    let (kind, name) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let known = if kind == "livez" { LIVENESS } else { READINESS };
    match known.iter().find(|known| **known == name) {
        Some(known) => checks(&site.node, &Asked::of(&uri), &[known]).await,
        None => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}

async fn figures(State(site): State<Site>, headers: HeaderMap) -> Response {
    let text = site.metrics.encode();
    let body = text.trim_end().trim_end_matches("# EOF");
    let node = &site.node;
    let group = node.status();
    let (auth_revision, keys, bytes, revision, compacted, leases) = node.shared.with(|keyspace| {
        (
            keyspace.auth().revision(),
            keyspace.keys(),
            keyspace.bytes(),
            keyspace.revision(),
            keyspace.compacted(),
            keyspace.leases().count(),
        )
    });
    let learner = group.members.get(&group.node).is_some_and(|member| !member.voter);
    let values = [
        ("etcd_server_is_learner", f64::from(u8::from(learner))),
        ("etcd_server_has_leader", f64::from(u8::from(node.has_leader()))),
        ("etcd_server_is_leader", f64::from(u8::from(group.leader == Some(group.node)))),
        ("etcd_server_proposals_committed_total", group.applied_index as f64),
        ("etcd_server_quota_backend_bytes", node.config.quota_bytes as f64),
        ("etcd_mvcc_db_total_size_in_bytes", node.shared.db().size().max(bytes) as f64),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", bytes as f64),
        ("etcd_debugging_mvcc_keys_total", keys as f64),
        ("etcd_debugging_mvcc_current_revision", revision as f64),
        ("etcd_debugging_mvcc_compact_revision", compacted as f64),
        ("etcd_debugging_lease_total", leases as f64),
        ("etcd_debugging_auth_revision", auth_revision as f64),
    ];
    let gauges = gauges(&node.shared.figures, &values);
    let cluster = node.shared.with(Keyspace::release);
    let mut calls = site.rpcs.text();
    if node.config.extensive_metrics {
        calls.push_str(&site.rpcs.durations());
    }
    let (received, sent) = site.metrics.bytes();
    for (direction, bytes) in [("received", received), ("sent", sent)] {
        let name = format!("etcd_network_client_grpc_{direction}_bytes");
        // Writing to a string cannot fail.
        let _ = writeln!(calls, "# TYPE {name} counter\n{name}_total {bytes}");
    }
    let text = format!(
        "{body}{gauges}{calls}# TYPE etcd_server_version gauge\n\
         etcd_server_version{{server_version=\"{ETCD_VERSION}\"}} 1\n\
         # TYPE etcd_cluster_version gauge\netcd_cluster_version{{cluster_version=\"{cluster}\"}} 1\n\
         # TYPE etcd_server_id gauge\netcd_server_id{{server_id=\"{:x}\"}} 1\n# EOF\n",
        node.identity.member_id
    );
    Metrics::answer(&headers, text)
}

/// What Go programs tell of themselves, as far as a program that is not one can.
async fn variables(State(site): State<Site>) -> Response {
    let group = site.node.status();
    let status = json!({
        "id": format!("{:x}", group.node),
        "lead": group.leader.map(|leader| format!("{leader:x}")),
        "term": group.term,
        "applied": group.applied_index,
        "raftState": if group.leader == Some(group.node) { "StateLeader" } else { "StateFollower" },
    });
    Json(json!({ "cmdline": std::env::args().collect::<Vec<_>>(), "raft.status": status })).into_response()
}

async fn nothing(uri: Uri, headers: HeaderMap) -> Response {
    let grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return super::absent(uri.path().trim_start_matches('/')).into_http();
    }
    let sentence = format!(
        "{} is no path of tinykv; it serves /v3, /version, /health, /livez, /readyz, /metrics, and gRPC\n",
        uri.path()
    );
    (StatusCode::NOT_FOUND, sentence).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Release;

    #[test]
    fn the_version_is_one_of_the_release() {
        assert_eq!(Release::parse(ETCD_VERSION), Some(Release::OWN));
    }

    #[test]
    fn an_empty_store_has_revision_one() {
        let keyspace = Keyspace::new(0, 2);
        assert_eq!((keyspace.revision(), keyspace.compacted(), keyspace.keys()), (1, -1, 0));
    }
}
