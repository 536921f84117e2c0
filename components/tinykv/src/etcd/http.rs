//! What etcd answers over plain HTTP on its client port.

use super::ETCD_VERSION;
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
use std::sync::Arc;
use tonic::Status;

#[derive(Clone)]
struct Site {
    node: Arc<Node>,
    metrics: Metrics,
}

/// `/version`, `/health`, `/livez`, `/readyz`, `/metrics`, `/debug/vars`, and a sentence for everything else.
pub fn routes(node: Arc<Node>, metrics: Metrics) -> Router {
    watched()
        .route("/version", get(version))
        .route("/debug/vars", get(variables))
        .fallback(nothing)
        .with_state(Site { node, metrics })
}

/// What those ask for who watch over the member, alone.
pub fn for_watchers(node: Arc<Node>, metrics: Metrics) -> Router {
    watched().with_state(Site { node, metrics })
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
    Metrics::answer(&headers, site.metrics.encode())
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
