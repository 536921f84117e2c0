//! Watches and what is kept of them: our own kinds in full, everything else as metadata.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aistack_crds::Kind;
use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::api::{Api, PartialObjectMeta};
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt as _};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;

use super::absent;
use super::child::{ChildKey, ChildKind, Holder, Observed};
use super::cluster::Cluster;
use super::key::{Key, ObjectName};
use super::queue::Priority;
use super::references::Reference;
use crate::meta::MANAGER;

/// Label that the operator's children carry.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Objects that are listed at a time: more take their memory all at once.
const PAGE: u32 = 100;
/// How long a step's reading will do for the next one.
const FRESH: Duration = Duration::from_secs(1);

/// Whether all watches have listed what there is.
#[derive(Debug, Default)]
pub struct Synced {
    pending: RwLock<BTreeSet<&'static str>>,
    changed: Notify,
}

impl Synced {
    fn expect(&self, watch: &'static str) {
        self.pending.write().insert(watch);
    }

    fn listed(&self, watch: &'static str) {
        self.pending.write().remove(watch);
        self.changed.notify_waiters();
    }

    /// Watches that have not listed yet.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.read().iter().copied().collect()
    }

    /// Completes when there are none.
    pub async fn wait(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.pending.read().is_empty() {
                return;
            }
            changed.await;
        }
    }
}

/// Objects of one of our kinds, without their managed fields.
#[derive(Debug)]
pub struct Objects<K> {
    by_name: RwLock<HashMap<ObjectName, Arc<K>>>,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self { by_name: RwLock::default() }
    }
}

impl<K: Resource + Clone> Objects<K> {
    /// One of them.
    pub fn get(&self, name: &ObjectName) -> Option<Arc<K>> {
        self.by_name.read().get(name).cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All names.
    pub fn names(&self) -> Vec<ObjectName> {
        self.by_name.read().keys().cloned().collect()
    }

    /// Takes what a write of ours to the version `base` answered, unless a watch told of something else meanwhile.
    pub(super) fn wrote(&self, base: &str, object: K) {
        self.take(base, object, |_, _| true);
    }

    /// The same for a status, which is written whatever the version is: an edit that came just before comes back with the answer, and is
    /// left to the watch, which begins a turn for it.
    pub(super) fn said(&self, base: &str, object: K) {
        self.take(base, object, |known, answer| !is_edited(known.meta(), answer.meta()));
    }

    fn take(&self, base: &str, mut object: K, is_fit: impl Fn(&K, &K) -> bool) {
        object.meta_mut().managed_fields = None;
        let name = ObjectName::of(&object);
        let mut by_name = self.by_name.write();
        let known = by_name.get(&name).filter(|known| known.resource_version().as_deref() == Some(base));
        if known.is_some_and(|known| is_fit(known, &object)) {
            by_name.insert(name, Arc::new(object));
        }
    }

    pub(crate) fn insert(&self, object: K) -> Option<Arc<K>> {
        self.by_name.write().insert(ObjectName::of(&object), Arc::new(object))
    }
}

/// What metadata says of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildMeta {
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// Whom it belongs to.
    pub holder: Option<Holder>,
    /// Whether it carries the label of what we make. A user's Secret that is kept for references does not.
    pub is_ours: bool,
    /// Whether it is being deleted.
    pub is_leaving: bool,
}

impl ChildMeta {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            holder: holder(meta),
            is_ours: is_managed(meta),
            is_leaving: meta.deletion_timestamp.is_some(),
        }
    }
}

/// Whom an object belongs to.
pub fn holder(meta: &ObjectMeta) -> Option<Holder> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(Holder::from)
}

/// Whether an object carries the label of what we make.
fn is_managed(meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
}

/// Who may take over an object that belongs to nobody, as `Kind/name`: a person says so by this annotation.
pub const ADOPT: &str = "platform.dev/adopt";

/// Whom an object that belongs to nobody may belong to.
pub fn adopter(meta: &ObjectMeta) -> Option<(&str, &str)> {
    let said = meta.annotations.as_ref()?.get(ADOPT)?;
    if holder(meta).is_some() { None } else { said.split_once('/') }
}

#[derive(Debug, Default)]
struct ChildrenInner {
    known: HashMap<ChildKey, ChildMeta>,
    of: HashMap<String, HashSet<ChildKey>>,
    observed: HashMap<ChildKey, Observed>,
    /// What a turn that runs has read of a child, and when.
    read: HashMap<ChildKey, (Instant, Value)>,
}

/// All children of all objects, as metadata, and what was observed of those that were looked at.
#[derive(Debug, Default)]
pub struct Children {
    inner: RwLock<ChildrenInner>,
}

impl Children {
    /// What a watch says of a child.
    pub fn meta(&self, key: &ChildKey) -> Option<ChildMeta> {
        self.inner.read().known.get(key).cloned()
    }

    /// Children of the object with this uid: what points at it from its own namespace, and that we made. Anybody may write an
    /// owner reference.
    pub fn of(&self, namespace: &str, uid: &str) -> Vec<(ChildKey, ChildMeta)> {
        let inner = self.inner.read();
        let keys = inner.of.get(uid).into_iter().flatten().filter(|key| key.object.namespace == namespace);
        let known = keys.filter_map(|key| Some((key.clone(), inner.known.get(key)?.clone())));
        known.filter(|(_, meta)| meta.is_ours).collect()
    }

    /// What was observed, if the child has not changed since.
    pub(crate) fn observed(&self, key: &ChildKey) -> Option<Observed> {
        let inner = self.inner.read();
        let observed = inner.observed.get(key)?;
        let meta = inner.known.get(key)?;
        (meta.uid == observed.uid && meta.resource_version == observed.resource_version)
            .then(|| observed.clone())
    }

    /// The newest version that a watch or an answer told of a child.
    pub(super) fn newest(&self, key: &ChildKey) -> Option<String> {
        let inner = self.inner.read();
        let told = inner.known.get(key).map(|meta| &meta.resource_version);
        let answered = inner.observed.get(key).map(|observed| &observed.resource_version);
        // Versions of a kind are numbers that grow (Kubernetes 1.35 says so).
        let number = |version: &&String| version.parse::<u64>().ok();
        told.into_iter()
            .chain(answered)
            .filter(|version| number(version).is_some())
            .max_by_key(number)
            .cloned()
    }

    /// Keeps what was read of a child for a later step of the same turn.
    pub(super) fn keep_read(&self, key: &ChildKey, live: Value) {
        self.inner.write().read.insert(key.clone(), (Instant::now(), live));
    }

    /// What an earlier step of this turn read, once.
    pub(super) fn take_read(&self, key: &ChildKey) -> Option<Value> {
        let (read, live) = self.inner.write().read.remove(key)?;
        (read.elapsed() < FRESH).then_some(live)
    }

    pub(super) fn observe(&self, key: &ChildKey, observed: Observed) {
        self.inner.write().observed.insert(key.clone(), observed);
    }

    pub(super) fn insert(&self, key: ChildKey, meta: ChildMeta) -> Option<ChildMeta> {
        let mut inner = self.inner.write();
        let before = inner.known.get(&key).cloned();
        if let Some(before) = before.as_ref().and_then(|before| before.holder.as_ref())
            && let Some(keys) = inner.of.get_mut(&before.uid)
        {
            keys.remove(&key);
        }
        if let Some(holder) = &meta.holder {
            inner.of.entry(holder.uid.clone()).or_default().insert(key.clone());
        }
        inner.known.insert(key, meta);
        before
    }

    fn remove(&self, key: &ChildKey) -> Option<ChildMeta> {
        let mut inner = self.inner.write();
        inner.observed.remove(key);
        inner.read.remove(key);
        let meta = inner.known.remove(key)?;
        if let Some(holder) = &meta.holder
            && let Some(keys) = inner.of.get_mut(&holder.uid)
        {
            keys.remove(key);
            if keys.is_empty() {
                inner.of.remove(&holder.uid);
            }
        }
        Some(meta)
    }

    fn names(&self, kind: ChildKind) -> HashSet<ObjectName> {
        let inner = self.inner.read();
        inner.known.keys().filter(|key| key.kind == kind).map(|key| key.object.clone()).collect()
    }
}

/// Follows our own kind `K` for as long as it is polled.
pub async fn objects<K>(kind: Kind, cluster: Arc<Cluster>, objects: Arc<Objects<K>>)
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let mut sink = ObjectSink { kind, cluster: cluster.clone(), objects, gone: HashSet::new() };
    let api = cluster.api::<K>();
    follow(kind.name(), None, &cluster, api, watcher::Config::default(), move |event| {
        sink.take(event);
    })
    .await;
}

struct ObjectSink<K> {
    kind: Kind,
    cluster: Arc<Cluster>,
    objects: Arc<Objects<K>>,
    /// Known before a list, and not seen in it yet.
    gone: HashSet<ObjectName>,
}

impl<K: Resource<DynamicType = ()> + Clone> ObjectSink<K> {
    fn take(&mut self, event: Event<K>) {
        match event {
            Event::Init => self.gone = self.objects.names().into_iter().collect(),
            Event::InitApply(object) => {
                self.gone.remove(&ObjectName::of(&object));
                self.applied(object, Priority::Resync);
            }
            Event::InitDone => {
                for name in std::mem::take(&mut self.gone) {
                    self.deleted(&name);
                }
            }
            Event::Apply(object) => self.applied(object, Priority::Edit),
            Event::Delete(object) => self.deleted(&ObjectName::of(&object)),
        }
    }

    fn applied(&self, mut object: K, priority: Priority) {
        let is_meddled = is_meddled(object.meta());
        object.meta_mut().managed_fields = None;
        let name = ObjectName::of(&object);
        self.as_child(&name, Some(object.meta()));
        let meta = object.meta().clone();
        let before = self.objects.insert(object);
        // A status that we wrote ourselves is no news to us, one that somebody else wrote is; whoever refers to the object may think
        // otherwise.
        match &before {
            None => self.cluster.queue.add(Key::new(self.kind, name.clone()), priority.min(Priority::New)),
            Some(before) if is_edited(before.meta(), &meta) => {
                self.cluster.queue.add(Key::new(self.kind, name.clone()), priority);
            }
            Some(before) if is_meddled && before.meta().resource_version != meta.resource_version => {
                self.cluster.queue.add(Key::new(self.kind, name.clone()), Priority::Child);
            }
            Some(_) => {}
        }
        self.wake_referrers(&name);
    }

    fn deleted(&self, name: &ObjectName) {
        self.objects.by_name.write().remove(name);
        self.as_child(name, None);
        let key = Key::new(self.kind, name.clone());
        self.cluster.refers_no_more(&key);
        self.cluster.queue.add(key, Priority::Edit);
        self.wake_referrers(name);
    }

    fn wake_referrers(&self, name: &ObjectName) {
        for key in self.cluster.references.to(&Reference::Object(self.kind, name.clone())) {
            self.cluster.queue.add(key, Priority::Child);
        }
    }

    /// An object of ours may be a child of a stack.
    fn as_child(&self, name: &ObjectName, meta: Option<&ObjectMeta>) {
        let Some(kind) = ChildKind::from_ours(self.kind) else { return };
        let key = ChildKey { kind, object: name.clone() };
        match meta.filter(|meta| is_managed(meta)) {
            Some(meta) => child_applied(&self.cluster, &key, meta),
            None => child_deleted(&self.cluster, &key),
        }
    }
}

/// Whether something changed that is not the status.
fn is_edited(before: &ObjectMeta, after: &ObjectMeta) -> bool {
    before.uid != after.uid
        || before.generation != after.generation
        || before.annotations != after.annotations
        || before.labels != after.labels
        || before.finalizers != after.finalizers
        || before.deletion_timestamp != after.deletion_timestamp
}

fn child_applied(cluster: &Cluster, key: &ChildKey, meta: &ObjectMeta) {
    let now = ChildMeta::of(meta);
    let namespace = key.object.namespace.clone();
    let before = cluster.children.insert(key.clone(), now.clone());
    // The turn that wrote it, or read it as it is now, needs no other.
    if before.as_ref() == Some(&now) || cluster.children.observed(key).is_some() {
        return;
    }
    let holders = [before.and_then(|before| before.holder), now.holder];
    let holders = holders.into_iter().flatten().filter_map(|holder| holder.key(&namespace));
    let adopter = adopter(meta).and_then(|(kind, name)| {
        Some(Key::new(Kind::from_name(kind)?, ObjectName::new(namespace.as_str(), name)))
    });
    for key in holders.chain(adopter) {
        cluster.queue.add(key, Priority::Child);
    }
}

fn child_deleted(cluster: &Cluster, key: &ChildKey) {
    let Some(holder) = cluster.children.remove(key).and_then(|meta| meta.holder) else { return };
    if let Some(key) = holder.key(&key.object.namespace) {
        cluster.queue.add(key, Priority::Child);
    }
}

/// Follows a kind of children, as metadata. Of Secrets all are followed, since users' own are referred to.
pub async fn children(kind: ChildKind, cluster: Arc<Cluster>) {
    let resource = kind.resource();
    let api: Api<PartialObjectMeta<DynamicObject>> = cluster.api_with(&resource);
    let config = match kind {
        ChildKind::Secret => watcher::Config::default(),
        _ => watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}")),
    };
    let mut gone: HashSet<ObjectName> = HashSet::new();
    let sink = cluster.clone();
    follow(kind.name(), Some(kind), &cluster, api, config, move |event| {
        let key =
            |object: &PartialObjectMeta<DynamicObject>| ChildKey { kind, object: ObjectName::of(object) };
        match event {
            Event::Init => gone = sink.children.names(kind),
            Event::InitApply(object) | Event::Apply(object) => {
                let key = key(&object);
                gone.remove(&key.object);
                let is_news = sink.children.meta(&key).is_none_or(|known| {
                    Some(known.resource_version.as_str()) != object.metadata.resource_version.as_deref()
                });
                if is_news && kind == ChildKind::Secret {
                    wake_secret(&sink, &key.object);
                }
                child_applied(&sink, &key, &object.metadata);
            }
            Event::Delete(object) => forget(&sink, &key(&object)),
            Event::InitDone => {
                for object in std::mem::take(&mut gone) {
                    forget(&sink, &ChildKey { kind, object });
                }
            }
        }
    })
    .await;
}

pub(super) fn forget(cluster: &Cluster, key: &ChildKey) {
    child_deleted(cluster, key);
    if key.kind == ChildKind::Secret {
        cluster.forget_secret(&key.object);
        wake_secret(cluster, &key.object);
    }
}

fn wake_secret(cluster: &Cluster, name: &ObjectName) {
    for key in cluster.references.to(&Reference::Secret(name.clone())) {
        cluster.queue.add(key, Priority::Child);
    }
}

/// Says before the watches begin which there will be.
pub fn expect(cluster: &Cluster, watches: impl Iterator<Item = &'static str>) {
    for watch in watches {
        cluster.synced.expect(watch);
    }
}

async fn follow<K>(
    name: &'static str,
    optional: Option<ChildKind>,
    cluster: &Cluster,
    api: Api<K>,
    config: watcher::Config,
    mut sink: impl FnMut(Event<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let stream = watcher(api, config.any_semantic().page_size(PAGE)).default_backoff();
    tokio::pin!(stream);
    let is_broken = AtomicBool::new(false);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                is_broken.store(false, Ordering::Relaxed);
                let is_listed = matches!(event, Event::InitDone);
                sink(event);
                if is_listed {
                    cluster.synced.listed(name);
                }
            }
            // What only some objects become, a cluster may lack: those say so when they are applied.
            Err(error) if let Some(kind) = optional.filter(|_| is_unknown(&error)) => {
                tracing::debug!(kind = name, "there is no such kind");
                // What there was of it is gone with it.
                sink(Event::Init);
                sink(Event::InitDone);
                cluster.synced.listed(name);
                cluster.absent.until_it_may_have_come(kind).await;
            }
            Err(error) => {
                if is_unknown(&error) {
                    cluster.synced.listed(name);
                }
                cluster.metrics.watch_broke(name);
                // Watches end all the time; that one cannot begin is said once.
                if !is_broken.swap(true, Ordering::Relaxed) {
                    tracing::warn!(kind = name, %error, "a watch broke; it is begun again");
                }
            }
        }
    }
}

/// Whether the API server knows no such kind.
fn is_unknown(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if absent::is_unknown(status))
}

/// Whether somebody else wrote the status.
fn is_meddled(meta: &ObjectMeta) -> bool {
    let is_others = |entry: &ManagedFieldsEntry| {
        entry.subresource.as_deref() == Some("status") && entry.manager.as_deref() != Some(MANAGER)
    };
    meta.managed_fields.iter().flatten().any(is_others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_somebody_elses_is_told_from_ours() {
        let table = [
            (serde_json::json!([]), false),
            (serde_json::json!([{"manager": MANAGER, "operation": "Apply", "subresource": "status"}]), false),
            (serde_json::json!([{"manager": "kubectl-edit", "operation": "Update"}]), false),
            (
                serde_json::json!([{"manager": "kubectl-patch", "operation": "Update", "subresource": "status"}]),
                true,
            ),
        ];
        for (entries, expected) in table {
            let meta = serde_json::json!({"managedFields": entries});
            let meta: ObjectMeta = serde_json::from_value(meta).expect("metadata");
            assert_eq!(is_meddled(&meta), expected, "{entries}");
        }
    }

    fn meta(uid: &str, version: &str, owner: Option<&str>) -> ChildMeta {
        ChildMeta {
            uid: uid.to_owned(),
            resource_version: version.to_owned(),
            holder: owner.map(|owner| Holder {
                group: "platform.dev".to_owned(),
                kind: "KVCluster".to_owned(),
                name: owner.to_owned(),
                uid: owner.to_owned(),
            }),
            is_ours: true,
            is_leaving: false,
        }
    }

    #[test]
    fn an_edit_that_comes_back_with_the_answer_to_a_status_is_not_overlooked() {
        let object = |version: &str, generation: i64| {
            let mut object = aistack_crds::KVCluster::new("a", aistack_crds::KVClusterSpec::default());
            object.metadata.resource_version = Some(version.to_owned());
            object.metadata.generation = Some(generation);
            object
        };
        let objects: Objects<aistack_crds::KVCluster> = Objects::default();
        let name = ObjectName::of(&object("1", 1));
        let known = || objects.get(&name).and_then(|object| object.resource_version()).unwrap_or_default();
        objects.insert(object("1", 1));
        objects.said("1", object("3", 2));
        assert_eq!(known(), "1", "the watch has yet to tell of the edit");
        objects.said("1", object("2", 1));
        assert_eq!(known(), "2");
        objects.said("1", object("4", 1));
        assert_eq!(known(), "2", "it was about another version");
    }

    #[test]
    fn what_was_observed_holds_until_the_version_changes() {
        let children = Children::default();
        let key = ChildKey { kind: ChildKind::ConfigMap, object: ObjectName::new("n", "c") };
        let observed =
            Observed { uid: "u".to_owned(), resource_version: "1".to_owned(), ..Observed::default() };
        children.observe(&key, observed.clone());
        assert_eq!(children.observed(&key), None, "no watch has told of it yet");
        children.insert(key.clone(), meta("u", "1", Some("a")));
        assert_eq!(children.observed(&key), Some(observed));
        children.insert(key.clone(), meta("u", "2", Some("a")));
        assert_eq!(children.observed(&key), None);
    }

    #[test]
    fn children_are_found_by_whom_they_belong_to() {
        let children = Children::default();
        let key = ChildKey { kind: ChildKind::ConfigMap, object: ObjectName::new("n", "c") };
        children.insert(key.clone(), meta("u", "1", Some("a")));
        assert_eq!(children.of("n", "a").len(), 1);
        children.insert(key.clone(), meta("u", "2", Some("b")));
        assert_eq!((children.of("n", "a").len(), children.of("n", "b").len()), (0, 1));
        children.remove(&key);
        assert!(children.of("n", "b").is_empty());
    }

    #[test]
    fn what_only_says_that_it_belongs_to_an_object_is_no_child_of_it() {
        let children = Children::default();
        let key = |namespace: &str, name: &str| ChildKey {
            kind: ChildKind::Secret,
            object: ObjectName::new(namespace, name),
        };
        children.insert(key("n", "made"), meta("u", "1", Some("a")));
        children.insert(key("n", "unlabelled"), ChildMeta { is_ours: false, ..meta("v", "1", Some("a")) });
        children.insert(key("elsewhere", "made"), meta("w", "1", Some("a")));
        let found: Vec<_> = children.of("n", "a").into_iter().map(|(key, _)| key).collect();
        assert_eq!(found, [key("n", "made")]);
    }

    #[test]
    fn an_owner_of_another_group_is_nobody_of_ours() {
        let meta = |api_version: &str| {
            let owner = serde_json::json!({"apiVersion": api_version, "kind": "KVCluster", "name": "kv", "uid": "u", "controller": true});
            serde_json::from_value(serde_json::json!({"ownerReferences": [owner]})).expect("metadata")
        };
        let key = |api_version: &str| holder(&meta(api_version)).and_then(|holder| holder.key("n"));
        assert!(key("platform.dev/v1").is_some());
        assert_eq!((key("example.com/v1"), key("v1")), (None, None));
    }
}
