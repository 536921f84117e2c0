//! What is asked of every request before it is looked into: whether this member may serve it, and
//! whether a client that wants a leader (metadata `hasleader`) has one.

use super::oversize::in_words_of_go;
use super::rpcs::Rpcs;
use crate::node::Node;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tonic::Status;

/// The services that a member answers for.
const SERVICES: &str = "/etcdserverpb.";
/// What a learner serves; of ranges only those that ask for no more than its own state.
const OF_LEARNERS: [&str; 3] =
    ["/etcdserverpb.KV/Range", "/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot"];

fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

/// What the gate knows.
#[derive(Clone)]
pub struct Gate {
    pub node: Arc<Node>,
    pub rpcs: Arc<Rpcs>,
}

/// Counts a request, and lets it pass or refuses it.
pub async fn gate(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.rpcs.begin(request.uri().path()) {
        Some(call) => call.answered(in_words_of_go(admit(gate.node, request, next).await)),
        None => next.run(request).await,
    }
}

/// Lets a request pass, or refuses it. The answer to one that wants a leader ends when there has
/// been none for a while.
async fn admit(node: Arc<Node>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with(SERVICES) {
        return next.run(request).await;
    }
    if !OF_LEARNERS.contains(&path) && node.is_learner() {
        return Status::failed_precondition("etcdserver: rpc not supported for learner").into_http();
    }
    let wants = request.headers().get("hasleader").is_some_and(|value| value == "true");
    if !wants {
        return next.run(request).await;
    }
    if !node.has_leader() {
        return no_leader().into_http();
    }
    let response = next.run(request).await;
    if response.body().is_end_stream() {
        // An error: headers alone. A body, however empty, would stand for trailers that never come.
        return response;
    }
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, while_led(&node, body))
}

/// The body, cut short with an error when the leader stays away.
fn while_led(node: &Node, body: Body) -> Body {
    let mut deserted = node.deserted.subscribe();
    let cut = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&cut);
    let end = async move {
        if deserted.wait_for(|deserted| *deserted).await.is_err() {
            // The member is going; its streams end by themselves.
            std::future::pending::<()>().await;
        }
        told.store(true, Ordering::SeqCst);
    };
    let trailers = async move {
        let mut trailers = HeaderMap::new();
        if !cut.load(Ordering::SeqCst) || no_leader().add_header(&mut trailers).is_err() {
            return None;
        }
        Some(Ok::<HeaderMap<HeaderValue>, axum::Error>(trailers))
    };
    Body::new(StreamBody::new(BodyStream::new(body).take_until(Box::pin(end))).with_trailers(trailers))
}
