//! For tests: an API server that answers every call alike.

use std::sync::Arc;

use aistack_chassis::{Component, Metrics};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;

use super::child::ChildKey;
use super::cluster::{Cluster, Scope};
use super::metrics::{QueueMetrics, ReconcileMetrics};
use super::watch::ChildMeta;

/// Methods of the calls that it got.
pub(crate) type Calls = Arc<Mutex<Vec<http::Method>>>;

/// From now on a watch has told of that child.
pub(crate) fn tell_of(cluster: &Cluster, child: ChildKey) {
    cluster.children.insert(child, ChildMeta::of(&ObjectMeta::default()));
}

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
