//! The controller of VectorCollections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aistack_crds::{AIStack, Kind, VectorCollection};
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource as _, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::engine::{self, Collection, Server};
use super::{COMPONENT, Home, REST_PORT, ValidatedVectorCollection, build, validate};
use crate::kernel::apply::{self, Applied};
use crate::kernel::child::{ChildKey, ChildKind, Pods, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Extra, Report, Scaled};
use crate::kernel::controller::StepError;
use crate::kernel::references::Reference;
use crate::kernel::watch::Objects;
use crate::kernel::{Controller, ObjectName};
use crate::manifest::Manifests;
use crate::problem::Problem;
use crate::report;

/// Name of the finalizer of a collection on a stack's servers.
const FINALIZER: &str = "platform.dev/vectorcollection";
/// Annotation of an object whose collection the operator made, with that object's uid: one that was copied from it made none.
const MADE: &str = "platform.dev/made-by";
/// While a server is waited for.
const SOON: Duration = Duration::from_secs(5);
/// After a collection was created.
const AT_ONCE: Duration = Duration::from_millis(20);
/// No watch tells of what is on a server.
const OUTSIDE: Duration = Duration::from_mins(2);

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct VectorController {
    stacks: Arc<Objects<AIStack>>,
    /// Objects, by uid, whose collection was made and whose annotation does not say so yet.
    unmarked: Arc<Mutex<BTreeSet<String>>>,
}

/// The server of a collection, and the collection on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pods: Option<Pods>,
    collection: Collection,
}

impl VectorController {
    /// With the stacks that collections may live on.
    pub fn new(stacks: Arc<Objects<AIStack>>) -> Self {
        Self { stacks, unmarked: Arc::default() }
    }

    /// Remembers that the collection was made for the object. Made first and remembered then: what is not remembered is never deleted.
    async fn mark(&self, cluster: &Cluster, object: &VectorCollection) -> Result<(), StepError> {
        let api: Api<VectorCollection> = Api::namespaced(cluster.client.clone(), &report::namespace(object));
        let uid = uid(object);
        let patch = json!({"metadata": {"uid": uid, "annotations": {MADE: uid}}});
        let patched = api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.map_err(|error| StepError {
            reason: "AnnotateFailed",
            message: format!(
                "that the collection was made for it could not be noted: {}",
                apply::said(&error)
            ),
        })?;
        self.unmarked.lock().remove(&uid);
        Ok(())
    }

    /// Whether the collection was made for the object.
    fn made(&self, object: &VectorCollection) -> bool {
        let uid = uid(object);
        object.annotations().get(MADE) == Some(&uid) || self.unmarked.lock().contains(&uid)
    }

    fn server(object: &VectorCollection) -> ChildKey {
        let name = match &object.spec.stack_ref {
            Some(_) => COMPONENT.to_owned(),
            None => format!("{COMPONENT}-{}", object.metadata.name.clone().unwrap_or_default()),
        };
        ChildKey { kind: ChildKind::StatefulSet, object: ObjectName::new(report::namespace(object), name) }
    }
}

fn at<'a>(cluster: &'a Cluster, server: &ChildKey) -> Server<'a> {
    Server { outside: &cluster.outside, url: cluster.service_url(&server.object, REST_PORT) }
}

impl Controller for VectorController {
    type Object = VectorCollection;
    type Found = Found;
    type Validated = ValidatedVectorCollection;

    const KIND: Kind = Kind::VectorCollection;

    fn references(&self, object: &VectorCollection) -> Vec<Reference> {
        let stack = object.spec.stack_ref.iter();
        let name = |name: &str| ObjectName::new(report::namespace(object), name);
        stack.map(|stack| Reference::Object(Kind::AIStack, name(&stack.name))).collect()
    }

    async fn dereference(&self, cluster: &Cluster, object: &VectorCollection) -> Result<Found, StepError> {
        let server = Self::server(object);
        let progress = match &object.spec.stack_ref {
            Some(stack) => apply::look_at_anothers(cluster, (Kind::AIStack, &stack.name), &server).await?,
            None => apply::look(cluster, object, &server).await?,
        };
        let pods = match progress {
            Some(Progress::Pods(pods)) => Some(pods),
            _ => None,
        };
        let collection = match &pods {
            Some(pods) if pods.ready > 0 => {
                at(cluster, &server).look(&object.metadata.name.clone().unwrap_or_default()).await
            }
            _ => Collection::NoServer,
        };
        Ok(Found { pods, collection })
    }

    fn validate(
        &self,
        object: &VectorCollection,
        _: &Found,
    ) -> Result<ValidatedVectorCollection, Vec<Problem>> {
        let validated = validate(object, "")?;
        if let Home::Stack(name) = validated.home() {
            let stack = self.stacks.get(&ObjectName::new(report::namespace(object), name.as_str()));
            let what = match stack {
                None => format!("there is no AIStack {name} in this namespace"),
                Some(stack) if stack.spec.vectorforge.is_none() => {
                    format!("AIStack {name} has no vectorforge")
                }
                Some(_) => return Ok(validated),
            };
            let fix = "create it, or remove stackRef for a server of the collection's own";
            return Err(vec![Problem::new("spec.stackRef.name", what, fix).awaited()]);
        }
        Ok(validated)
    }

    fn build(&self, collection: &ValidatedVectorCollection, _: &Found) -> Option<Manifests> {
        Some(build(collection))
    }

    async fn act(
        &self,
        cluster: &Cluster,
        object: &VectorCollection,
        collection: &ValidatedVectorCollection,
        found: &Found,
        _: &Applied,
    ) -> Result<(), StepError> {
        if matches!(&found.collection, Collection::Present(there) if other(collection, there).is_some()) {
            return Ok(());
        }
        let server = at(cluster, &Self::server(object));
        let request = super::build::request(collection);
        if found.collection == Collection::Absent {
            server.create(&request.name, &request.create).await?;
            if object.spec.stack_ref.is_some() {
                self.unmarked.lock().insert(uid(object));
            }
            if was_there(object) {
                let note = "the collection was gone from its server, with all that was in it; it was created anew, empty";
                cluster.tell(&object.object_ref(&()), true, "CollectionLost", note.to_owned()).await;
            }
        }
        // Where that failed, in the next turn.
        let is_unmarked = self.unmarked.lock().contains(&uid(object));
        if is_unmarked {
            self.mark(cluster, object).await?;
        }
        server.settle(&request.name, &request.create, &request.indexes, &found.collection).await
    }

    fn report(&self, collection: &ValidatedVectorCollection, found: &Found, applied: &Applied) -> Report {
        let own = format!("{COMPONENT}-{}", collection.name);
        let pods = match applied.progress(ChildKind::StatefulSet, &own) {
            Some(Progress::Pods(pods)) => pods.clone(),
            _ => found.pods.clone().unwrap_or_default(),
        };
        let mut report = match &found.collection {
            Collection::NoServer => {
                let said = format!("{} of {} servers are ready", pods.ready, pods.wanted);
                let waits = || Report::progressing(shape(collection), Because::new("WaitingForPods", said));
                let trouble = pods.trouble.clone();
                trouble.map_or_else(waits, |because| Report::degraded(shape(collection), because))
            }
            Collection::Unknown(why) => Report::degraded(
                shape(collection),
                Because::new(
                    "ServerFailed",
                    format!("the server does not say whether it has the collection: {why}"),
                ),
            ),
            Collection::Absent => Report::progressing(
                shape(collection),
                Because::new("Creating", "the collection is being created"),
            ),
            Collection::Present(there) => of_collection(collection, there),
        };
        match found.collection {
            Collection::Present(_) => report.look_again = report.look_again.or(Some(OUTSIDE)),
            Collection::Absent => (report.look_again, report.is_passing) = (Some(AT_ONCE), true),
            Collection::NoServer | Collection::Unknown(_) => report.look_again = Some(SOON),
        }
        if let (Home::Own(_), Some(failure)) = (collection.home(), &pods.failure) {
            report.degraded = Some(Because::new("PodsRefused", failure.clone()));
        }
        if let Home::Own(server) = collection.home() {
            report.scaled = Scaled {
                replicas: pods.replicas,
                ready_replicas: pods.ready,
                selector: Some(report::selector(&collection.owner)),
                version: (pods.is_complete() && pods.ready > 0).then(|| report::tag(&server.image)),
                endpoint: Some(format!("http://{own}.{}.svc:{REST_PORT}", collection.owner.namespace)),
                ..Scaled::default()
            };
        }
        report::with_gaps(report, collection.gaps())
    }

    fn finalizer(&self, object: &VectorCollection) -> Option<&'static str> {
        object.spec.stack_ref.is_some().then_some(FINALIZER)
    }

    async fn clean_up(&self, cluster: &Cluster, object: &VectorCollection) -> Result<(), StepError> {
        let Some(stack) = &object.spec.stack_ref else { return Ok(()) };
        let stack = self.stacks.get(&ObjectName::new(report::namespace(object), stack.name.as_str()));
        let server = Self::server(object);
        let is_leaving = stack.is_none_or(|stack| stack.metadata.deletion_timestamp.is_some());
        // With its server the collection goes too.
        if is_leaving || cluster.children.meta(&server).is_none() {
            return Ok(());
        }
        let (server, name) = (at(cluster, &server), object.name_any());
        let there = match server.look(&name).await {
            Collection::Absent => return Ok(()),
            Collection::Present(there) => there,
            // What may be somebody else's is never deleted.
            Collection::NoServer => return Err(unsaid(&name, "it is not ready")),
            Collection::Unknown(why) => return Err(unsaid(&name, &why)),
        };
        let is_other = validate(object, "").is_ok_and(|collection| other(&collection, &there).is_some());
        if self.made(object) && !is_other {
            server.remove(&name).await?;
            self.unmarked.lock().remove(&uid(object));
            return Ok(());
        }
        let note = format!(
            "the collection {name} was not made for this object, and stays on its server with what is in it; to delete it there: DELETE /collections/{name}"
        );
        cluster.tell(&object.object_ref(&()), false, "CollectionLeft", note).await;
        Ok(())
    }
}

fn unsaid(name: &str, why: &str) -> StepError {
    let message =
        format!("the server does not say whose collection {name} is, so it is not deleted there yet: {why}");
    StepError { reason: "CleanUpFailed", message }
}

fn uid(object: &VectorCollection) -> String {
    object.metadata.uid.clone().expect("what a watch told of has a uid")
}

/// Whether the collection was seen on its server before.
fn was_there(object: &VectorCollection) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == "SettingsApplied")
}

fn shape(collection: &ValidatedVectorCollection) -> String {
    format!("{} d, {:?}", collection.dimension, collection.distance)
}

/// What a collection of this name has that the spec's cannot become: then it is another one, and nothing of it is touched.
fn other(collection: &ValidatedVectorCollection, there: &Value) -> Option<String> {
    let vectors = there.pointer("/config/params/vectors").unwrap_or(&Value::Null);
    let (Some(size), Some(distance)) = (vectors["size"].as_u64(), vectors["distance"].as_str()) else {
        let names: Vec<&str> =
            vectors.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        return Some(match names.as_slice() {
            [] => "no dense vectors".to_owned(),
            names => format!("named vectors ({})", names.join(", ")),
        });
    };
    if size != u64::from(collection.dimension) {
        return Some(format!("{size} numbers a vector"));
    }
    (distance != format!("{:?}", collection.distance)).then(|| format!("the distance {distance}"))
}

/// Whether the collection is as the spec has it, where that can be changed in place.
fn settings(collection: &ValidatedVectorCollection, there: &Value) -> Vec<Extra> {
    let request = super::build::request(collection);
    let mut extra = Vec::new();
    let (is_so, because) = match engine::change(&request.create, there) {
        None => (true, Because::new("Applied", "the graph's settings are those of the spec")),
        Some(_) => (false, Because::new("Changing", "the graph's settings are being changed in place")),
    };
    extra.push(Extra { kind: "SettingsApplied", is_so: Some(is_so), because });
    let unasked = engine::unasked(&request.indexes, there);
    if !unasked.is_empty() {
        // Who made them is not known, and queries may need them.
        let said = format!(
            "the server has payload indexes that the spec does not name: {}; name them, or delete them there (DELETE /collections/{}/index/FIELD)",
            unasked.join(", "),
            request.name
        );
        extra.push(Extra {
            kind: "IndexesMatch",
            is_so: Some(false),
            because: Because::new("MoreThanAsked", said),
        });
    }
    extra
}

/// What a server says of a collection.
fn of_collection(collection: &ValidatedVectorCollection, there: &Value) -> Report {
    let status = there["status"].as_str().unwrap_or("unknown");
    // Counts of points change all the time, and a status that tells them would be written all the time.
    let summary = format!("{}, {status}", shape(collection));
    if let Some(what) = other(collection, there) {
        let said = format!(
            "the server has a collection of this name with {what}, which is left alone; delete it there, or choose another name"
        );
        return Report::stalled(summary, Because::new("OtherCollection", said));
    }
    let mut report = match status {
        "red" => {
            Report::degraded(summary, Because::new("EngineFailed", "the server calls the collection red"))
        }
        _ => Report::ready(summary, Because::new("Ready", "the collection is there")),
    };
    report.extra = settings(collection, there);
    if report.extra.iter().any(|extra| extra.because.reason == "Changing") {
        report.look_again = Some(SOON);
    }
    report
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::kernel::conditions::Because;
    use crate::kernel::stub;

    fn collection(spec: &Value) -> (VectorCollection, ValidatedVectorCollection) {
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "VectorCollection",
            "metadata": {"name": "c", "namespace": "n", "uid": "1"}, "spec": spec});
        let object: VectorCollection = serde_json::from_value(object).expect("a VectorCollection");
        let validated = validate(&object, "").expect("valid");
        (object, validated)
    }

    /// A server that says yes to everything but to questions, to which it says that; and what it was asked.
    async fn server(answer: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let calls = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap_or_default();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let method = request.split(' ').next().unwrap_or_default().to_owned();
                let said = if method == "GET" { answer } else { "200 OK" };
                calls.lock().push(method);
                let answer = format!("HTTP/1.1 {said}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        (format!("http://{at}"), asked)
    }

    #[tokio::test]
    async fn what_is_not_known_to_be_its_own_is_not_deleted() {
        let (mut object, _) = collection(&json!({"dimension": 3, "stackRef": {"name": "s"}}));
        object.metadata.annotations = Some([(MADE.to_owned(), "1".to_owned())].into());
        let stack = json!({"apiVersion": "platform.dev/v1", "kind": "AIStack", "metadata": {"name": "s", "namespace": "n"}, "spec": {}});
        let stacks = Arc::new(Objects::default());
        stacks.insert(serde_json::from_value::<AIStack>(stack).expect("an AIStack"));
        let controller = VectorController::new(stacks);
        for (answer, expected) in
            [("503 Service Unavailable", Err("CleanUpFailed")), ("404 Not Found", Ok(())), ("200 OK", Ok(()))]
        {
            let (at, asked) = server(answer).await;
            let (cluster, _) = stub::cluster(200, &json!({}));
            let cluster =
                cluster.with_addresses([("vectorforge.n".to_owned(), at)].into()).with_local_endpoints(true);
            stub::tell_of(&cluster, VectorController::server(&object));
            let cleaned = controller.clean_up(&cluster, &object).await;
            assert_eq!(cleaned.map_err(|error| error.reason), expected, "{answer}");
            assert!(!asked.lock().iter().any(|method| method == "DELETE"), "{answer}");
        }
    }

    #[test]
    fn a_collection_of_another_form_is_another() {
        let (_, validated) = collection(&json!({"dimension": 3, "distance": "Cosine"}));
        let table = [
            (json!({"size": 3, "distance": "Cosine"}), None),
            (json!({"size": 4, "distance": "Cosine"}), Some("4 numbers a vector")),
            (json!({"size": 3, "distance": "Dot"}), Some("the distance Dot")),
            (json!({"title": {"size": 3, "distance": "Cosine"}}), Some("named vectors (title)")),
            (json!({}), Some("no dense vectors")),
        ];
        for (vectors, expected) in table {
            let there = json!({"config": {"params": {"vectors": vectors}}});
            assert_eq!(other(&validated, &there).as_deref(), expected, "{there}");
        }
    }

    #[tokio::test]
    async fn what_was_made_is_noted_until_the_note_is_taken() {
        let (object, validated) = collection(&json!({"dimension": 3, "stackRef": {"name": "s"}}));
        let controller = VectorController::default();
        let (at, _) = server("200 OK").await;
        let there = || {
            Collection::Present(json!({"config": {"params": {"vectors": {"size": 3, "distance": "Cosine"}}}}))
        };
        let refused = json!({"kind": "Status", "status": "Failure", "code": 500, "message": "no", "reason": "InternalError"});
        let taken = serde_json::to_value(&object).expect("plain data");
        let table = [
            (Collection::Absent, 500, &refused, Err("AnnotateFailed"), 1),
            (there(), 200, &taken, Ok(()), 1),
            (there(), 200, &taken, Ok(()), 0),
        ];
        for (collection, code, answer, expected, notes) in table {
            let (cluster, calls) = stub::cluster(code, answer);
            let addresses = [("vectorforge.n".to_owned(), at.clone())].into();
            let cluster = cluster.with_addresses(addresses).with_local_endpoints(true);
            let found = Found { pods: None, collection };
            let acted = controller.act(&cluster, &object, &validated, &found, &Applied::default()).await;
            assert_eq!(acted.map_err(|error| error.reason), expected);
            assert_eq!(calls.lock().iter().filter(|method| **method == http::Method::PATCH).count(), notes);
        }
    }

    #[test]
    fn what_keeps_a_server_of_its_own_away_is_told() {
        let (_, validated) = collection(&json!({"dimension": 3}));
        let why = Because::new("ImageMissing", "vectorforge-c-0: the image x cannot be pulled");
        for (trouble, reason) in [(None, "WaitingForPods"), (Some(why), "ImageMissing")] {
            let pods = Pods { wanted: 1, trouble, ..Pods::default() };
            let found = Found { pods: Some(pods), collection: Collection::NoServer };
            let report = VectorController::default().report(&validated, &found, &Applied::default());
            assert_eq!((report.ready.0, report.ready.1.reason), (false, reason));
        }
    }
}
