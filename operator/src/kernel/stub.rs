//! For tests: an API server that answers every call alike.

use std::sync::Arc;

use aistack_chassis::{Component, Metrics};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;

use super::cluster::{Cluster, Scope};
use super::metrics::{QueueMetrics, ReconcileMetrics};

/// Methods of the calls that it got.
pub(crate) type Calls = Arc<Mutex<Vec<http::Method>>>;

/// A cluster whose API server answers with that status and object, whatever it is asked.
pub(crate) fn cluster(code: u16, object: &Value) -> (Cluster, Calls) {
    let calls = Calls::default();
    let (noted, text) = (calls.clone(), object.to_string());
    let answer = move |request: http::Request<Body>| {
        noted.lock().push(request.method().clone());
        let body = Body::from(text.clone().into_bytes());
        let answer = http::Response::builder().status(code).body(body).expect("an answer");
        async { Ok::<_, std::convert::Infallible>(answer) }
    };
    let client = Client::new(tower::service_fn(answer), "n");
    let component = Component { name: "test", env_prefix: "TEST_", version: "0" };
    let metrics = ReconcileMetrics::register(&Metrics::new(component));
    (Cluster::new(client, Scope::Cluster, QueueMetrics::default(), metrics), calls)
}
